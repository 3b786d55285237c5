"""Makes `torch_*.npz`: what PyTorch gives for small recurrent networks.

    python tests/goldens/make_torch.py    # with PyTorch 2.13.0 and NumPy

Each file holds the `xs` and `lengths` of one kind of layer, and six networks: of 1 to 3 layers,
in one direction or both, `whole` (every row has all steps) or `ragged` (the rows have
`lengths`); any two of the three choices are met together.  Under the name of a network, such
as `2-forward-ragged/`, stand the weights by PyTorch's names, the initial states `h0` and `c0`,
the cotangents `dys`, `dh`, `dc` of the outputs and of the last state, and:

    float64/    the truth: computed in float64
    float32/    what PyTorch gives in float32
    bfloat16/   the truth where all that is given is rounded to bfloat16: computed in float64,
                kept in float32

each with `ys`, the last `h` and `c`, and `grad/` of everything that was given.  What is given
was drawn in float32, so float64 and float32 see the same numbers and differ by rounding alone;
biases have the few digits of a float16, so that the sum of two is exact in float32.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

T, B, N, H = 7, 3, 4, 5
LENGTHS = [7, 4, 1]
KINDS = {
    "rnn_tanh": lambda *size, **two: torch.nn.RNN(*size, nonlinearity="tanh", **two),
    "rnn_relu": lambda *size, **two: torch.nn.RNN(*size, nonlinearity="relu", **two),
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
}


def results(make, layers, bidirectional, lengths, given, cotangents, dtype):
    """Outputs, last state and all gradients, by name."""
    module = make(N, H, layers, bidirectional=bidirectional).to(dtype)
    given = {k: torch.tensor(a).to(dtype) for k, a in given.items()}
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(given[name])
    leaves = {k: given[k].clone().requires_grad_() for k in ("xs", "h0", "c0") if k in given}
    state = (leaves["h0"], leaves["c0"]) if "c0" in leaves else leaves["h0"]
    xs = leaves["xs"]
    if lengths is not None:
        xs = pack_padded_sequence(xs, lengths, enforce_sorted=False)
    ys, last = module(xs, state)
    if lengths is not None:
        ys, _ = pad_packed_sequence(ys, total_length=T)
    out = dict(zip(("ys", "h", "c"), (ys, *last) if "c0" in leaves else (ys, last)))
    leaves |= dict(module.named_parameters())
    torch.autograd.backward(
        list(out.values()), [torch.tensor(cotangents[f"d{k}"]).to(dtype) for k in out]
    )
    out |= {f"grad/{k}": a.grad for k, a in leaves.items()}
    return {k: a.detach().numpy() for k, a in out.items()}


def goldens(kind):
    make = KINDS[kind]
    random = np.random.default_rng(sorted(KINDS).index(kind))
    draw = lambda shape, scale=1.0: (scale * random.standard_normal(shape)).astype(np.float32)
    to_bfloat16 = lambda a: torch.tensor(a).to(torch.bfloat16).float().numpy()
    file = {"xs": draw((T, B, N)), "lengths": np.array(LENGTHS)}
    for layers in (1, 2, 3):
        for ways in (1, 2):
            weights = make(N, H, layers, bidirectional=ways == 2).named_parameters()
            given = {k: draw(tuple(a.shape), 0.5) for k, a in weights}
            short = lambda k, a: a.astype(np.float16).astype(np.float32) if "bias" in k else a
            given = {k: short(k, a) for k, a in given.items()}
            states = ("h", "c") if kind == "lstm" else ("h",)
            given |= {f"{s}0": draw((layers * ways, B, H), 0.5) for s in states}
            cotangents = {"dys": draw((T, B, ways * H))}
            cotangents |= {f"d{s}": draw((layers * ways, B, H)) for s in states}
            ragged = (layers + ways) % 2
            direction = "bidirectional" if ways == 2 else "forward"
            at = f"{layers}-{direction}-{'ragged' if ragged else 'whole'}"
            file |= {f"{at}/{k}": a for k, a in (given | cotangents).items()}
            given["xs"] = file["xs"]
            rounded = [{k: to_bfloat16(a) for k, a in d.items()} for d in (given, cotangents)]
            how = (make, layers, ways == 2, torch.tensor(LENGTHS) if ragged else None)
            found = {
                "float64": results(*how, given, cotangents, torch.float64),
                "float32": results(*how, given, cotangents, torch.float32),
                "bfloat16": results(*how, *rounded, torch.float64),
            }
            for dtype, out in found.items():
                kept = np.float64 if dtype == "float64" else np.float32
                file |= {f"{at}/{dtype}/{k}": a.astype(kept) for k, a in out.items()}
    return file


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in KINDS:
        np.savez_compressed(Path(__file__).parent / f"torch_{kind}.npz", **goldens(kind))
