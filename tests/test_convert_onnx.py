"""Models of ONNX: chains become stacks, and what is no part of a network is not lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import cells, convert
from networks import H, N, network

onnx = pytest.importorskip("onnx")


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def one(kind="LSTM", gates=4, inputs=("X", "W", "R"), **options):
    """A model of one node; `more` are constants beside the weights."""
    attributes, more = options.get("attributes", {}), options.get("more", {})
    sides = 2 if attributes.get("direction") == "bidirectional" else 1
    rng = np.random.default_rng(0)
    arrays = {
        "W": rng.normal(size=(sides, gates * H, N)),
        "R": rng.normal(size=(sides, gates * H, H)),
    }
    arrays |= more
    make = onnx.helper
    node = make.make_node(kind, list(inputs), ["Y"], name="node", **attributes)
    double = onnx.TensorProto.DOUBLE
    graph = make.make_graph(
        [node],
        "one",
        [make.make_tensor_value_info("X", double, ["t", "b", N])],
        [make.make_tensor_value_info("Y", double, None)],
        [onnx.numpy_helper.from_array(a, k) for k, a in arrays.items() if k in inputs],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 14)], ir_version=8)


@pytest.mark.parametrize("arrangement", ["layer", "stack", "bidirectional"])
@pytest.mark.parametrize(
    "cell",
    [cells.lstm, cells.gru, cells.gru_reset_before, cells.rnn_relu, cells.peephole_lstm,
     cells.coupled_input_lstm(peephole=True, clip=2.0),
     cells.rnn_variant(activation=("scaled_tanh", 0.5, 2.0))],
    ids=lambda cell: cell.name,
)  # fmt: skip
def test_there_and_back(cell, arrangement, tmp_path):
    params = network(cell, arrangement)
    model = convert.to_onnx(params, tmp_path / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"RNN", "GRU", "LSTM", "Transpose", "Reshape"}
    equal(convert.from_onnx(tmp_path / "model.onnx"), params)
    equal(convert.from_onnx(model.SerializeToString()), params)


def test_a_node_by_name_and_several_by_names():
    params = network(jaxlstm.lstm, "stack")
    model = convert.to_onnx(params)
    equal(convert.from_onnx(model, node="layers.1"), params.layers[1])
    equal(convert.from_onnx(model, node=["layers.0", "layers.1"]), params)
    with pytest.raises(ValueError, match=r"must name nodes among \['layers.0', 'layers.1'\]"):
        convert.from_onnx(model, node="lstm")


def test_a_reverse_node():
    params = jaxlstm.Reverse(network(jaxlstm.gru))
    again = convert.from_onnx(convert.to_onnx(params))
    equal(again, params)
    xs = jnp.ones((3, 2, N))
    ys, _ = jaxlstm.apply(params.node, xs, reverse=True)
    np.testing.assert_array_equal(jaxlstm.apply(again, xs)[0], ys)


def test_two_biases_are_summed_or_kept():
    b = np.random.default_rng(1).normal(size=(1, 8 * H))
    model = one(inputs=("X", "W", "R", "B"), more={"B": b})
    summed, kept = convert.from_onnx(model), convert.from_onnx(model, sum_biases=False)
    np.testing.assert_array_equal(summed.b, kept.b + kept.recurrent_bias)


def test_a_constant_initial_state_is_not_lost():
    h = np.full((1, 2, H), 0.5)
    model = one(inputs=("X", "W", "R", "", "", "h"), more={"h": h})
    with pytest.raises(ValueError, match="starts from constants that are not zero"):
        convert.from_onnx(model)
    params, state = convert.from_onnx(model, state=True)
    np.testing.assert_array_equal(state.h, h[0])
    ys, _ = jaxlstm.apply(params, jnp.ones((3, 2, N)), state)
    assert ys.shape == (3, 2, H)


ELU = {"activations": ["Sigmoid", "Elu", "Tanh"], "activation_alpha": [0.5]}
LENGTHS = {"lengths": np.asarray([1, 2], np.int32)}
CASES = {
    "attribute": (one(attributes={"layout": 2}), "a layout of 0 or 1"),
    "direction": (one(attributes={"direction": "sideways"}), "a direction of"),
    "size": (one(attributes={"hidden_size": 3}), "`hidden_size` is 3"),
    "shape": (one(gates=3), "`W` must have shape"),
    "activation": (one(attributes={"activations": ["Sin"] * 3}), "must be one of.*'Sin'"),
    "count": (one(attributes={"activations": ["Tanh"]}), "must be 3 for each of 1 directions"),
    "alpha": (one(attributes={"activation_alpha": [0.5]}), "takes the `activation_alpha`"),
    "input": (one(inputs=("X", "X", "R")), "input `W` of `node` must be a constant"),
    "lengths": (one(inputs=("X", "W", "R", "", "lengths"), more=LENGTHS), "sequence lengths as"),
    "nothing": (one("Gemm"), "has no node RNN, GRU or LSTM"),
    "source": (3, "must be a path, bytes or a model"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused(name):
    model, message = CASES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        convert.from_onnx(model)


def test_peepholes_of_one_direction_are_kept():
    plain, seeing = network(cells.lstm), network(cells.peephole_lstm)
    xs = jnp.linspace(-1, 1, 5 * N).reshape(5, 1, N)
    for params in (jaxlstm.Bidirectional(plain, seeing), jaxlstm.Bidirectional(seeing, plain)):
        again = convert.from_onnx(convert.to_onnx(params))
        ys = [jaxlstm.apply(p, xs)[0] for p in (params, again)]
        np.testing.assert_allclose(*ys, rtol=1e-13)


def test_what_is_no_network_of_onnx():
    params, other = network(jaxlstm.lstm), jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H + 1)
    with pytest.raises(ValueError, match="with one clip, one size and one dtype"):
        convert.to_onnx(jaxlstm.Bidirectional(params, other))
    with pytest.raises(TypeError, match="no bfloat16"):
        convert.to_onnx(jax.tree.map(lambda a: a.astype(jnp.bfloat16), params))
    model = convert.to_onnx(network(jaxlstm.lstm, "stack"))
    with pytest.raises(ValueError, match="each once; got"):
        convert.from_onnx(model, node=["layers.0", "layers.0"])
    with pytest.raises(ValueError, match="layer 0 gives 5 outputs and layer 1 takes 4 inputs"):
        convert.from_onnx(model, node=["layers.1", "layers.0"])


def test_alpha_goes_to_the_activation_that_takes_one():
    params = convert.from_onnx(one(attributes=ELU))
    assert params.cell == cells.lstm_variant(candidate=("elu", 0.5))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (cells.coupled_forget_lstm, "no operator that computes `coupled_forget_lstm`"),
        (cells.lstm_variant(cell_clip=1.0), "no operator that computes"),
        (cells.lstm_variant(gate="gelu"), "they have no activation"),
        (cells.minlstm, "no operator that computes `minlstm`"),
    ],
)
def test_what_onnx_has_not(cell, message):
    with pytest.raises(ValueError, match=message):
        convert.to_onnx(network(cell))


def test_what_is_no_network_is_not_exported():
    layer, second = network(cells.lstm), jaxlstm.init(jax.random.key(1), cells.gru, H, H)
    float32 = jax.tree.map(lambda a: a.astype("float32"), second)
    third = cells.lstm_variant(clip=1 / 3)
    cases = [
        (jaxlstm.Stack(()), ValueError, "of no layers"),
        (jaxlstm.Stack((layer, layer)), ValueError, "gives 5 outputs and layer 1 takes"),
        (jaxlstm.Stack((layer, float32)), TypeError, "of one dtype"),
        (layer._replace(r=layer.r.astype("float32")), TypeError, "of one dtype"),
        (layer._replace(r=layer.r[:1]), ValueError, "must have the shapes"),
        (layer._replace(b=layer.b[:, :2]), ValueError, "must have the shapes"),
        (layer._replace(weights={"more": layer.b}), ValueError, "must have the shapes"),
        (jax.eval_shape(lambda: layer), TypeError, "`w` of .* must be an array"),
        (jax.tree.map(lambda a: a.astype(jnp.float8_e4m3fn), layer), TypeError, "cast the network"),
        (network(cells.rnn_variant(clip=0.0)), ValueError, "ONNX has no `clip` of 0"),
        (network(third), ValueError, "as float32, which would change a network of float64"),
        (jaxlstm.Reverse(jaxlstm.Reverse(layer)), TypeError, "at this place"),
        (jaxlstm.wrappers.learn_initial_state(layer), TypeError, "at this place"),
    ]
    for params, kind, message in cases:
        with pytest.raises(kind, match=message):
            convert.to_onnx(params)
    with pytest.raises(TypeError, match="outside of `jit`"):
        jax.jit(convert.to_onnx)(layer)
    again = convert.from_onnx(convert.to_onnx(network(third, dtype="float32")))
    assert dict(again.cell.options)["clip"] == pytest.approx(1 / 3, rel=1e-7)
    assert isinstance(convert.to_onnx(jax.tree.map(np.asarray, layer)), onnx.ModelProto)
