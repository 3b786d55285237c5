"""Graphs of ONNX around recurrent nodes: PyTorch's exports, ONNX Runtime, and what we read."""

import io
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert

T, B, N, H = 6, 3, 4, 5
X = [("X", ["t", "b", N])]


def run(made, given):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given)))


def worst(ours, theirs):
    assert np.shape(ours) == np.shape(theirs)
    return float(np.max(np.abs(np.asarray(ours) - theirs), initial=0.0))


# PyTorch's exporters


def modules():
    import torch
    from torch import nn

    class Plain(nn.Module):
        def __init__(self, kind, **options):
            super().__init__()
            self.rnn = kind(N, H, **options)

        def forward(self, x):
            return self.rnn(x)[0]

    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(N, H, 2, bidirectional=True)
            self.h, self.c = (nn.Parameter(torch.randn(4, 1, H)) for _ in "hc")

        def forward(self, x):
            b = x.size(1)
            return self.rnn(x, (self.h.expand(-1, b, -1).contiguous(), self.c.repeat(1, b, 1)))[0]

    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.LSTM(N, H), nn.LSTM(H, H)

        def forward(self, x):
            return self.b(self.a(x)[0].transpose(0, 1))[0].transpose(0, 1)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.GRU(N, H), nn.GRU(H, H)

        def forward(self, x):
            ys, h = self.a(x)
            return self.b(ys, h)[0]

    class Activated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.GRU(N, H), nn.GRU(H, H)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)[0]))[0]

    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.LSTM(N, H), nn.GRU(H, H)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.b(self.drop(self.a(x)[0]))[0]

    both = {"bidirectional": True}
    return {
        "lstm": (Plain(nn.LSTM), None),
        "lstm stack": (Plain(nn.LSTM, num_layers=3, **both), None),
        "gru stack, batch first": (Plain(nn.GRU, num_layers=2, batch_first=True, **both), None),
        "rnn": (Plain(nn.RNN, num_layers=2, nonlinearity="relu"), None),
        "no bias": (Plain(nn.GRU, num_layers=2, bias=False), None),
        "learned": (Learned(), None),
        "dropout": (Dropped(), None),
        "transposed": (Transposed(), "the axes of the one reach the other"),
        "decoder": (Decoder(), "depends on"),
        "relu": (Activated(), "not just the output"),
    }


def exported(module, xs, dynamo, dynamic):
    import onnx
    import torch

    if dynamo:
        pytest.importorskip("onnxscript")
        torch._dynamo.reset()
        sizes = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},) if dynamic else None
        made = torch.onnx.export(module, (xs,), dynamo=True, dynamic_shapes=sizes, verbose=False)
        return made.model_proto
    content = io.BytesIO()
    axes = {"x": {0: "first", 1: "second"}} if dynamic else None
    torch.onnx.export(module, (xs,), content, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return onnx.load_model_from_string(content.getvalue())


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
@pytest.mark.parametrize("name", [
    "lstm", "lstm stack", "gru stack, batch first", "rnn", "no bias", "learned", "dropout",
    "transposed", "decoder", "relu",
])  # fmt: skip
def test_exports_of_pytorch(name, dynamo, dynamic, measured):
    import torch

    torch.manual_seed(0)
    module, message = modules()[name]
    module = module.eval()
    first = name.endswith("batch first")
    made = exported(module, torch.randn(*((B, T) if first else (T, B)), N), dynamo, dynamic)
    if not any(n.op_type in ("LSTM", "GRU", "RNN") for n in made.graph.node):
        pytest.skip("the exporter wrote out every step")
    if message is not None:
        with pytest.raises(ValueError, match=message):
            convert.from_onnx(made)
        return
    params, state = convert.from_onnx(made, state=True)
    assert (state is not None) == (name == "learned")
    for time, batch in ((T, B), (3, 2)) if dynamic else ((T, B),):
        xs = torch.randn(*((batch, time) if first else (time, batch)), N)
        rows = jax.tree.map(lambda a, n=batch: jnp.broadcast_to(a, (n, a.shape[-1])), state)
        ys, _ = jaxlstm.apply(params, xs.numpy(), rows, axis=int(first))
        difference = worst(ys, module(xs).detach().numpy())
        measured(f"export of {name}", "torch.onnx", "float32", difference)
        assert difference < 2e-6


# Activations, one by one

NUMBERS = {"Affine": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "ScaledTanh": 2, "HardSigmoid": 2}
NUMBERS |= {"Elu": 1, "Relu": 0, "Tanh": 0, "Sigmoid": 0, "Softsign": 0, "Softplus": 0}
PLACES = [("RNN", 0), ("GRU", 0), ("GRU", 1), ("LSTM", 0), ("LSTM", 1), ("LSTM", 2)]
USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("kind", "place"), PLACES)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_activation_in_every_place(name, kind, place, sides):
    from onnx_models import model, node, weights

    functions = list(USUAL[kind])
    functions[place] = name
    options = {"activations": functions * sides}
    rng = np.random.default_rng(0)
    for k, key in enumerate(("activation_alpha", "activation_beta")):
        if NUMBERS[name] > k:
            options[key] = rng.uniform(0.1, 0.9, sides).round(2).tolist()
    if sides == 2:
        options["direction"] = "bidirectional"
    arrays = weights(kind, N, H, sides=sides, dtype="f")
    arrays = {k: 0.3 * a for k, a in arrays.items()}
    one = node(kind, ["X", "W", "R", "B"], ["Y"], hidden_size=H, **options)
    made = float32(model([one], arrays, X))
    xs = rng.normal(size=(T, B, N)).astype("f")
    y = np.moveaxis(run(made, {"X": xs})["Y"], 1, 2).reshape(T, B, -1)
    ys, _ = jaxlstm.apply(convert.from_onnx(made), xs)
    assert worst(ys, y) < 2e-6 * max(1, np.abs(y).max())


def float32(made):
    """The same model with float32 for float64."""
    import onnx

    for v in (*made.graph.input, *made.graph.output):
        v.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if v in made.graph.output:
            v.type.tensor_type.ClearField("shape")
    return made


# Anything that both can run


def step(rng, shape, t, b, units):
    """An operator, its second input, its attributes, and the shape that it makes."""
    kind = rng.choice(["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"])
    a = np.empty(shape)
    if kind == "Transpose":
        perm = rng.sample(range(a.ndim), a.ndim)
        return kind, None, {"perm": perm}, a.transpose(perm).shape
    if kind == "Reshape":
        to = rng.choice([(0, -1, units), (t, b, -1), (b, t, -1), (0, 0, -1), (-1, b, units),
                         (t, -1, units), (0, b, -1), (t, b, 1, -1)])  # fmt: skip
        return kind, to, {}, a.reshape([shape[i] if n == 0 else n for i, n in enumerate(to)]).shape
    if kind == "Squeeze":
        at = (rng.choice([n for n, length in enumerate(shape) if length == 1]),)
        return kind, at, {}, a.squeeze(at).shape
    if kind == "Unsqueeze":
        at = (rng.randrange(a.ndim + 1),)
        return kind, at, {}, np.expand_dims(a, at).shape
    return kind, None, {}, shape


def shuffled(rng):
    """Two nodes with operators between them that move, join and part axes."""
    from onnx_models import model, node, weights

    sides = rng.choice((1, 1, 2))
    t, b, h = rng.choice([(2, 3, 4), (3, 3, 3), (2, 2, 4), (4, 2, 1), (1, 3, 2), (3, 1, 2)])
    shape, steps = (t, sides, b, h), []
    if rng.random() < 0.4:  # the plain join, which chance alone seldom makes
        to = (rng.choice([t, 0]), rng.choice([b, 0]), -1)
        shape = (t, b, sides * h)
        steps = [("Transpose", None, {"perm": [0, 2, 1, 3]}), ("Reshape", to, {})]
    for _ in range(rng.randint(0, 4)):
        try:
            *one, shape = step(rng, shape, t, b, sides * h)
            steps.append(one)
        except (ValueError, IndexError):  # it does not fit this shape
            continue
    if len(shape) != 3:
        shape = (*rng.choice([(t, b), (b, t)]), sides * h)
        steps.append(("Reshape", shape, {}))
    name, nodes, arrays = "a", [], {}
    for k, (kind, to, options) in enumerate(steps):
        inputs = [name] if to is None else [name, f"n{k}"]
        arrays |= {} if to is None else {f"n{k}": np.asarray(to, np.int64)}
        nodes.append(node(kind, inputs, [f"z{k}"], **options))
        name = f"z{k}"
    options = {"direction": "bidirectional"} if sides == 2 else {}
    arrays |= weights("LSTM", N, h, sides=sides, dtype="f")
    arrays |= weights("GRU", shape[-1], H, suffix="2", seed=1, dtype="f")
    every = [
        node("LSTM", ["X", "W", "R", "B"], ["a"], name="a", hidden_size=h, **options),
        *nodes,
        node("GRU", [name, "W2", "R2", "B2"], ["Y"], name="b", hidden_size=H),
    ]
    x = ("X", rng.choice([[t, b, N], ["t", "b", N]]))
    return float32(model(every, arrays, [x])), (t, b)


@pytest.mark.parametrize("seed", range(4))
def test_joins_at_random(seed):
    print("seed", seed)
    rng, read, refused = random.Random(seed), 0, 0
    for _ in range(60):
        made, (t, b) = shuffled(rng)
        xs = np.random.default_rng(seed).normal(size=(t, b, N)).astype("f")
        theirs = run(made, {"X": xs})["Y"][:, 0]
        try:
            params = convert.from_onnx(made)
        except ValueError:
            refused += 1
            continue
        read += 1
        ys, _ = jaxlstm.apply(params, xs)
        assert worst(ys, theirs) < 2e-6
    print(read, "read,", refused, "refused")
    assert read > 5
    assert refused > 5


def test_a_dynamically_quantised_model(tmp_path):
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    from onnx_models import model, node, weights

    one = node("LSTM", ["X", "W", "R", "B"], ["Y"], name="lstm", hidden_size=H)
    made = float32(model([one], weights("LSTM", N, H, dtype="f"), X))
    onnx.save(made, tmp_path / "float.onnx")
    small = tmp_path / "small.onnx"
    quantize_dynamic(tmp_path / "float.onnx", small, op_types_to_quantize=["LSTM"])
    with pytest.raises(ValueError, match=r"a node `DynamicQuantizeLSTM` of `com\.microsoft`"):
        convert.from_onnx(small)
