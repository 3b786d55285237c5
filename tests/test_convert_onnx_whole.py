"""Whole models in one file of ONNX: embedding, network, pooling and readout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert

onnx = pytest.importorskip("onnx")
TOKENS, WIDTH, HIDDEN, OUT = 20, 4, 5, 3
WEIGHTS = np.random.default_rng(0)
FEATURES = {"tokens": (7, 3), "lengths": (3,)}


def model(cell=jaxlstm.lstm, dtype="float32", **options):
    """A tree as a user trains it."""
    options = {"layers": 2, "bidirectional": True, **options}
    keys = jax.random.split(jax.random.key(0), 4)
    rnn = jaxlstm.init(keys[0], cell, WIDTH, HIDDEN, dtype=dtype, **options)
    rows = HIDDEN * (1 + options["bidirectional"])
    return {
        "embed": jax.random.normal(keys[1], (TOKENS, WIDTH), dtype),
        "rnn": rnn,
        "w": jax.random.normal(keys[2], (rows, OUT), dtype),
        "b": jax.random.normal(keys[3], (OUT,), dtype),
    }


def computed(tree, pooling, tokens, lengths=None):
    """What the model computes in JAX."""
    mask = None if lengths is None else jaxlstm.lengths_to_mask(lengths, tokens.shape[0])
    ys, state = jaxlstm.apply(tree["rnn"], tree["embed"][tokens], mask=mask)
    if pooling == "mean":
        count = tokens.shape[0] if lengths is None else np.maximum(lengths, 1)[:, None]
        ys = ys.sum(0) / jnp.broadcast_to(jnp.asarray(count, ys.dtype), ys.sum(0).shape)
    elif pooling == "last":
        last = state[-1] if isinstance(tree["rnn"], jaxlstm.Stack) else state
        both = last if isinstance(last, jaxlstm.BidirectionalState) else (last,)
        ys = jnp.concatenate([s.h for s in both], -1)
    logits = ys @ tree["w"]
    return logits + jnp.broadcast_to(tree["b"], logits.shape)


def written(tree, pooling=None, **options):
    options = {"embedding": tree["embed"], "readout": (tree["w"], tree["b"]), **options}
    return convert.to_onnx(tree["rnn"], pooling=pooling, **options)


def names(values):
    return [value.name for value in values]


@pytest.mark.parametrize("pooling", [None, "mean", "last"])
def test_inputs_and_outputs_by_name(pooling, tmp_path):
    tree = model()
    made = written(tree, pooling, lengths=True, path=tmp_path / "model.onnx")
    assert names(made.graph.input) == ["tokens", "lengths"]
    assert names(made.graph.output)[:2] == ["logits", "ys"]
    sizes = [d.dim_param or d.dim_value for d in made.graph.output[0].type.tensor_type.shape.dim]
    assert sizes == (["batch", OUT] if pooling else ["time", "batch", OUT])
    again = convert.from_onnx(tmp_path / "model.onnx")
    jax.tree.map(np.testing.assert_array_equal, again, tree["rnn"])


def test_each_part_by_itself():
    tree = model()
    assert names(convert.to_onnx(tree["rnn"], pooling="mean").graph.output)[0] == "logits"
    assert names(convert.to_onnx(tree["rnn"], readout=tree["w"]).graph.input) == ["xs"]
    only = convert.to_onnx(tree["rnn"], embedding=tree["embed"])
    assert names(only.graph.output)[0] == "ys"


BAD = {
    "pooling": ({"pooling": "max"}, "`pooling` must be 'mean', 'last' or None; got 'max'"),
    "width": ({"embedding": np.ones((20, 3), "f4")}, r"`embedding` must be.*\(tokens, 4\).*20, 3"),
    "axes": ({"embedding": np.ones(4, "f4")}, r"`embedding` must be.*of shape \(4,\)"),
    "dtype": ({"readout": np.ones((10, 2), "f8")}, r"`readout.w` must be float32.*float64"),
    "rows": ({"readout": np.ones((5, 2), "f4")}, r"`readout.w` must be.*\(10, logits\)"),
    "bias": ({"readout": (np.ones((10, 2), "f4"), np.ones(3, "f4"))}, r"`readout.b`.*\(2\)"),
    "three": ({"readout": (1, 2, 3)}, r"must be `\(w, b\)` or `w`; got 3 values"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(case):
    given, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        convert.to_onnx(model()["rnn"], **given)
    with pytest.raises(TypeError, match="must be of a floating dtype"):
        convert.to_onnx(model()["rnn"], embedding=np.ones((20, 4), int))


@pytest.mark.peers
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("pooling", [None, "mean", "last"])
@pytest.mark.parametrize(
    "options",
    [{}, {"cell": jaxlstm.gru, "layers": 1, "bidirectional": False}, {"cell": jaxlstm.rnn}],
    ids=["lstm", "one gru", "rnn"],
)
def test_onnx_runtime_computes_the_same(options, pooling, lengths):
    runtime = pytest.importorskip("onnxruntime")
    tree = model(**options)
    session = runtime.InferenceSession(written(tree, pooling, lengths=lengths).SerializeToString())
    rng = np.random.default_rng(1)
    for time, batch in ((7, 3), (2, 5)):
        feed = {"tokens": rng.integers(0, TOKENS, (time, batch))}
        if lengths:
            feed["lengths"] = rng.integers(1, time + 1, batch).astype(np.int32)
        found = session.run(["logits"], feed)[0]
        expected = computed(tree, pooling, feed["tokens"], feed.get("lengths"))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.peers
def test_other_graphs_around_it():
    """A model of any exporter, joined by `onnx.compose`."""
    runtime = pytest.importorskip("onnxruntime")
    helper = onnx.helper
    tree = model()
    core = written(tree, "mean")
    kind = onnx.TensorProto.FLOAT
    head = helper.make_model(
        helper.make_graph(
            [helper.make_node("Softmax", ["scores"], ["p"], axis=-1)],
            "head",
            [helper.make_tensor_value_info("scores", kind, ["batch", OUT])],
            [helper.make_tensor_value_info("p", kind, ["batch", OUT])],
        ),
        opset_imports=core.opset_import,
        ir_version=core.ir_version,
    )
    both = onnx.compose.merge_models(core, head, io_map=[("logits", "scores")])
    session = runtime.InferenceSession(both.SerializeToString())
    tokens = np.random.default_rng(1).integers(0, TOKENS, (7, 3))
    expected = jax.nn.softmax(computed(tree, "mean", tokens))
    np.testing.assert_allclose(
        session.run(["p"], {"tokens": tokens})[0], expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.peers
def test_beside_other_layers_of_pytorch():
    """One state dict of a whole module, both ways."""
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(TOKENS, WIDTH)
            self.rnn = torch.nn.LSTM(WIDTH, HIDDEN, num_layers=2, bidirectional=True)
            self.readout = torch.nn.Linear(2 * HIDDEN, OUT)

        def forward(self, tokens):
            return self.readout(self.rnn(self.embed(tokens))[0].mean(0))

    tree, module = model(), Module()
    weights = {
        "embed.weight": tree["embed"],
        **convert.to_torch(tree["rnn"], prefix="rnn"),
        "readout.weight": tree["w"].T,
        "readout.bias": tree["b"],
    }
    tensors = {name: torch.tensor(np.asarray(a)) for name, a in weights.items()}
    module.load_state_dict(tensors)
    tokens = np.random.default_rng(1).integers(0, TOKENS, (7, 3))
    found = module(torch.from_numpy(tokens)).detach().numpy()
    np.testing.assert_allclose(found, computed(tree, "mean", tokens), rtol=1e-5, atol=1e-6)
    state = module.state_dict()
    again = convert.from_torch(state, prefix="rnn")
    np.testing.assert_array_equal(
        jaxlstm.apply(again, tree["embed"][tokens])[0],
        jaxlstm.apply(convert.from_torch(convert.to_torch(tree["rnn"])), tree["embed"][tokens])[0],
    )
