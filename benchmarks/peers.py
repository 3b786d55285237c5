"""The same job in every library: a forward pass, and one with all gradients.

A peer is made for a case and data and gives its results in one form, whatever its own is:
`ys`, the last state, and the gradients of every `w` and `r` and of `xs`.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, Data, apply

import jaxlstm
from jaxlstm import convert


class Result(NamedTuple):
    ys: np.ndarray
    last: tuple[np.ndarray, ...]
    dw: tuple[np.ndarray, ...] | None = None  # of every layer
    dr: tuple[np.ndarray, ...] | None = None
    dxs: np.ndarray | None = None


class Job(NamedTuple):
    """One thing to time: `run` does it and waits; `result` is what the last run gave."""

    run: Callable[[], Any]
    result: Callable[[], Result]
    compile_seconds: float | None = None
    temporary_bytes: int | None = None


def weights_of(network: Any) -> tuple[Any, Any]:
    """Every `w`, and every `r` if there is one, layer by layer."""
    is_layer = lambda node: isinstance(node, jaxlstm.Layer)
    layers = jax.tree.leaves(network, is_leaf=is_layer)
    arrays = lambda role: tuple(
        np.asarray(a) for layer in layers if (a := getattr(layer, role)) is not None
    )
    return arrays("w"), arrays("r") or None


def only(case: Case, cells: Any, *allowed: str) -> None:
    """A reason to be left out of lines of other cells, or that have more than it takes."""
    if case.cell not in cells:
        raise NotImplementedError(f"has no {case.cell}")
    extras = {
        "masks": case.masked, "resets": case.reset, "two layers": case.bidirectional,
        "a population": case.population, "16 bits": case.dtype != "float32",
    }  # fmt: skip
    if missing := [name for name, value in extras.items() if value and name not in allowed]:
        raise NotImplementedError(f"is not measured with {', '.join(missing)}")


def _jobs(f: Any, back: Any, weights: Any, data: Data) -> dict[str, Job]:
    """Of a JAX library: `f(weights, xs) -> (ys, last)`; `back(gradients)` gives a layer."""
    import time

    xs = jnp.asarray(data.xs)
    cotangents = (jnp.asarray(data.dys), tuple(map(jnp.asarray, data.dlast)))
    # A last state may be of another dtype than the weights: ours is never narrower than float32.
    like = jax.eval_shape(f, weights, xs)
    cotangents = jax.tree.map(lambda c, a: c.astype(a.dtype), cotangents, (like[0], tuple(like[1])))

    def both(weights: Any, xs: Any, cotangents: Any) -> Any:
        out, pull = jax.vjp(f, weights, xs)
        return out, pull(cotangents)

    jobs = {}
    for name, function, args in (
        ("forward", f, (weights, xs)),
        ("forward+backward", both, (weights, xs, cotangents)),
    ):
        lowered = jax.jit(function).lower(*args)
        start = time.perf_counter()
        program = lowered.compile()
        seconds = time.perf_counter() - start
        box: dict[str, Any] = {}

        def run(program: Any = program, args: Any = args, box: Any = box) -> None:
            box["out"] = jax.block_until_ready(program(*args))

        def result(name: str = name, box: Any = box) -> Result:
            out = jax.tree.map(np.asarray, box["out"])
            if name == "forward":
                return Result(out[0], tuple(out[1]))
            (ys, last), (dweights, dxs) = out
            return Result(ys, tuple(last), *weights_of(back(dweights)), dxs)

        memory = program.memory_analysis().temp_size_in_bytes
        jobs[name] = Job(run, result, seconds, memory)
    return jobs


def ours(case: Case, data: Data, implementation: Any = None) -> dict[str, Job]:
    mask = None if data.lengths is None else jaxlstm.lengths_to_mask(data.lengths, case.time)

    def f(params: Any, xs: Any) -> Any:
        options = {"mask": mask, "reset": data.reset, "implementation": implementation}
        return apply(case, params, xs, **options)

    return _jobs(f, lambda params: params, data.params, data)


def scan(case: Case, data: Data) -> dict[str, Job]:
    return ours(case, data, "scan")


def deferred(case: Case, data: Data) -> dict[str, Job]:
    return ours(case, data, "deferred")


def native(case: Case, data: Data) -> dict[str, Job]:
    return ours(case, data, "native")


def flax(case: Case, data: Data) -> dict[str, Job]:
    import flax.linen as nn

    kinds = {"rnn": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}
    only(case, kinds, "masks", "16 bits")
    dtype, kind = data.xs.dtype, kinds[case.cell]
    network = nn.RNN(kind(case.hidden, param_dtype=dtype))
    lengths = None if data.lengths is None else jnp.asarray(data.lengths)
    # Flax draws orthogonal weights in float32 and float64 alone.
    like = nn.RNN(kind(case.hidden)).init(jax.random.key(0), jnp.zeros(data.xs.shape))
    weights = convert.to_flax(data.params, like=like)
    weights = jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)

    def f(weights: Any, xs: Any) -> Any:
        last, ys = network.apply(
            weights, xs, time_major=True, return_carry=True, seq_lengths=lengths
        )
        last = last[::-1] if case.cell == "lstm" else (last,)  # Flax keeps (c, h)
        if lengths is not None:  # Flax leaves what is past the length as it came
            mask = jaxlstm.lengths_to_mask(lengths, case.time)
            ys = jnp.where(mask[..., None], ys, 0.0)
        return ys, last

    return _jobs(f, lambda d: convert.from_flax(d), weights, data)


def equinox(case: Case, data: Data) -> dict[str, Job]:
    import equinox as eqx

    kinds = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}
    only(case, kinds, "16 bits")
    kind = kinds[case.cell]
    cell = kind(case.input, case.hidden, key=jax.random.key(0))
    weights = {k: jnp.asarray(v) for k, v in convert.to_equinox(data.params).items()}
    zeros = jnp.zeros((case.batch, case.hidden), data.xs.dtype)

    def f(weights: Any, xs: Any) -> Any:
        new = eqx.tree_at(lambda c: [getattr(c, k) for k in weights], cell, [*weights.values()])

        def step(s: Any, x: Any) -> Any:
            s = jax.vmap(new)(x, s)
            return s, s[0] if case.cell == "lstm" else s

        last, ys = jax.lax.scan(step, (zeros, zeros) if case.cell == "lstm" else zeros, xs)
        return ys, last if case.cell == "lstm" else (last,)

    return _jobs(f, lambda d: convert.from_equinox(d), weights, data)


def keras(case: Case, data: Data) -> dict[str, Job]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    kinds = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
    kinds["gru_reset_before"] = functools.partial(keras.layers.GRU, reset_after=False)
    only(case, kinds, "masks")
    layer = kinds[case.cell](case.hidden, return_sequences=True, return_state=True)
    layer.build((case.batch, case.time, case.input))
    weights = [jnp.asarray(a) for a in convert.to_keras(data.params)]
    mask = None
    if data.lengths is not None:
        mask = jaxlstm.lengths_to_mask(data.lengths, case.time, axis=1)
    others = [v.value for v in layer.non_trainable_variables]

    def f(weights: Any, xs: Any) -> Any:
        out, _ = layer.stateless_call(weights, others, jnp.swapaxes(xs, 0, 1), mask=mask)
        ys = jnp.swapaxes(out[0], 0, 1)
        if mask is not None:  # Keras repeats the last output where the mask is False
            ys = jnp.where(mask.T[..., None], ys, 0.0)
        return ys, tuple(out[1:])

    return _jobs(f, lambda d: convert.from_keras([np.asarray(a) for a in d]), weights, data)


def torch(case: Case, data: Data, device: str = "cpu") -> dict[str, Job]:
    import torch

    dtype = getattr(torch, data.xs.dtype.name)
    tensor = lambda a: torch.tensor(np.asarray(a, np.float32)).to(device, dtype)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    kinds = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    kinds["projected_lstm"] = functools.partial(torch.nn.LSTM, proj_size=case.hidden // 2)
    only(case, kinds, "masks", "two layers", "16 bits")
    options = {"num_layers": 2, "bidirectional": True} if case.bidirectional else {}
    module = kinds[case.cell](case.input, case.hidden, **options).to(device, dtype)
    module.load_state_dict({k: tensor(v) for k, v in convert.to_torch(data.params).items()})
    module.flatten_parameters()  # cuDNN takes its weights in one piece
    lengths = None if data.lengths is None else torch.tensor(data.lengths)  # PyTorch's on the host
    xs, dys = tensor(data.xs), tensor(data.dys)
    fields = 2 if "lstm" in case.cell else 1
    # The fields of the state, each of all layers and directions.
    dlast = [torch.stack([*map(tensor, data.dlast[i::fields])]) for i in range(fields)]
    box: dict[str, Any] = {}

    def call(xs: Any) -> Any:
        given = xs
        if lengths is not None:
            given = torch.nn.utils.rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
        ys, last = module(given)
        if lengths is not None:
            ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=case.time)
        return ys, last if isinstance(last, tuple) else (last,)

    def forward() -> None:
        with torch.no_grad():
            box["forward"] = call(xs)
        wait()

    def both() -> None:
        inputs = xs.clone().requires_grad_()
        module.zero_grad(set_to_none=True)
        ys, last = call(inputs)
        torch.autograd.backward([ys, *last], [dys, *dlast])
        box["both"] = ys, last, inputs.grad
        wait()

    def array(a: Any) -> np.ndarray:
        return a.detach().cpu().float().numpy().astype(data.xs.dtype)

    def by_layer(last: Any) -> tuple[np.ndarray, ...]:
        return tuple(array(a) for of_layer in zip(*last, strict=True) for a in of_layer)

    def result_forward() -> Result:
        ys, last = box["forward"]
        return Result(array(ys), by_layer(last))

    def result_both() -> Result:
        ys, last, dxs = box["both"]
        grads = {k: array(p.grad) for k, p in module.named_parameters()}
        return Result(array(ys), by_layer(last), *weights_of(convert.from_torch(grads)), array(dxs))

    def temporary(run: Callable[[], Any]) -> int | None:
        if device != "cuda":
            return None
        run()
        box.clear()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()

    runs = {"forward": (forward, result_forward), "forward+backward": (both, result_both)}
    return {name: Job(*run, temporary_bytes=temporary(run[0])) for name, run in runs.items()}


def onnxruntime(case: Case, data: Data) -> dict[str, Job]:
    import onnxruntime as ort

    cells = ("rnn", "lstm", "gru", "gru_reset_before", "peephole_lstm")
    only(case, cells, "masks", "two layers")
    model = convert.to_onnx(data.params, lengths=data.lengths is not None)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"xs": data.xs}
    if data.lengths is not None:
        feeds["lengths"] = data.lengths
    box: dict[str, Any] = {}

    def forward() -> None:
        box["out"] = session.run(None, feeds)

    def result() -> Result:
        ys, *last = box["out"]
        fields = 2 if "lstm" in case.cell else 1
        layers = [last[i : i + fields] for i in range(0, len(last), fields)]
        return Result(ys, tuple(a for layer in layers for part in zip(*layer) for a in part))

    return {"forward": Job(forward, result)}


PEERS = {
    "jaxlstm": ours,
    "scan": scan,
    "deferred": deferred,
    "native": native,
    "torch": torch,
    "flax": flax,
    "equinox": equinox,
    "keras": keras,
    "onnxruntime": onnxruntime,
}
OURS = ("jaxlstm", "scan", "deferred", "native")  # the default first
