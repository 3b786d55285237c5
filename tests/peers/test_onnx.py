"""ONNX Runtime beside our own run of the same operators, and of the models that we export."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import cells, convert

T, B, N, H = 6, 3, 4, 5
SIDES = {"forward": 1, "reverse": 1, "bidirectional": 2}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
LENGTHS = np.asarray([6, 2, 4], np.int32)

HARD = {"activation_alpha": [0.3], "activation_beta": [0.6]}
SCALED = {"activation_alpha": [0.1, 0.9], "activation_beta": [1.1]}
RNN = [
    {},
    {"activations": ["Relu"]},
    {"activations": ["ScaledTanh"], "activation_alpha": [0.8], "activation_beta": [1.2]},
    {"activations": ["Affine"], "activation_alpha": [0.3], "activation_beta": [0.1], "clip": 0.5},
    {"activations": ["Elu"], "activation_alpha": [0.7]},
]
GRU = [
    {"linear_before_reset": 0},
    {"linear_before_reset": 1},
    {"linear_before_reset": 1, "clip": 0.4},
    {
        "activations": ["HardSigmoid", "Softsign"],
        "activation_alpha": [0.3],
        "activation_beta": [0.6],
    },
    {"activations": ["Sigmoid", "LeakyRelu"], "activation_alpha": [0.2], "linear_before_reset": 1},
]
LSTM = [
    {},
    {"P": True},
    {"P": True, "clip": 0.5},
    {"input_forget": 1},
    {"input_forget": 1, "P": True},
    {"activations": ["HardSigmoid", "Softsign", "Tanh"]},
    {**SCALED, "activations": ["Sigmoid", "LeakyRelu", "ScaledTanh"]},
]
CASES = [("RNN", a) for a in RNN] + [("GRU", a) for a in GRU] + [("LSTM", a) for a in LSTM]
RUNS = list(itertools.product(CASES, SIDES, ("plain", "all inputs")))


def doubled(attributes, sides):
    lists = {"activations", "activation_alpha", "activation_beta"}
    return {k: a * sides if k in lists else a for k, a in attributes.items()}


def random_model(onnx, kind, attributes, direction, inputs):
    """A model of one node with random weights; the rest are inputs, if they are all there."""
    rng, sides = np.random.default_rng(0), SIDES[direction]
    draw = lambda *shape: (rng.normal(size=shape) * 0.5).astype("float32")
    arrays = {"W": draw(sides, GATES[kind] * H, N), "R": draw(sides, GATES[kind] * H, H)}
    arrays["B"] = draw(sides, 2 * GATES[kind] * H)
    attributes = {**doubled(attributes, sides), "direction": direction, "hidden_size": H}
    if attributes.pop("P", False):
        arrays["P"] = draw(sides, 3 * H)
    given = {"X": draw(T, B, N)}
    names = ["X", "W", "R", "B", "", "", "", "P" if "P" in arrays else ""]
    if inputs == "all inputs":
        given |= {"sequence_lens": LENGTHS, "initial_h": draw(sides, B, H)}
        names[4:6] = ["sequence_lens", "initial_h"]
        if kind == "LSTM":
            given["initial_c"] = draw(sides, B, H)
            names[6] = "initial_c"
    while not names[-1]:
        names.pop()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    make = onnx.helper
    info = [
        make.make_tensor_value_info(k, make.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for k, a in given.items()
    ]
    graph = make.make_graph(
        [make.make_node(kind, names, outputs, **attributes)],
        "one",
        info,
        [make.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in outputs],
        [onnx.numpy_helper.from_array(a, k) for k, a in arrays.items()],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 14)], ir_version=8), given


def run(model, given):
    import onnxruntime

    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given)))


def worst(ours, theirs):
    assert np.shape(ours) == np.shape(theirs)
    scale = max(1.0, float(np.max(np.abs(theirs), initial=0.0)))
    return float(np.max(np.abs(np.asarray(ours) - theirs), initial=0.0)) / scale


@pytest.mark.parametrize(("case", "direction", "inputs"), RUNS)
def test_operators(case, direction, inputs, measured):
    import onnx

    kind, attributes = case
    model, given = random_model(onnx, kind, attributes, direction, inputs)
    theirs = run(model, given)
    params = convert.from_onnx(model)
    state, mask = None, None
    if inputs == "all inputs":
        mask = jaxlstm.lengths_to_mask(LENGTHS.astype(int), T)
        fields = [jnp.asarray(given[k]) for k in ("initial_h", "initial_c") if k in given]
        make = type(
            jax.tree.leaves(params.initial_state((B,)), is_leaf=lambda s: hasattr(s, "h"))[0]
        )
        sides = [make(*[f[k] for f in fields]) for k in range(SIDES[direction])]
        state = jaxlstm.BidirectionalState(*sides) if direction == "bidirectional" else sides[0]
    ys, last = jaxlstm.apply(params, jnp.asarray(given["X"]), state, mask=mask)
    expected = np.moveaxis(theirs["Y"], 1, 2).reshape(T, B, -1)
    found = [worst(ys, expected)]
    sides = last if direction == "bidirectional" else (last,)
    for name, values in zip(("Y_h", "Y_c"), zip(*sides)):
        found.append(worst(jnp.stack(values), theirs[name]))
    cell = jax.tree.leaves(params, is_leaf=lambda a: isinstance(a, jaxlstm.Layer))[0].cell
    measured("ONNX Runtime", cell.name, "float32", max(found))
    assert max(found) < 1e-6


EXPORTED = {
    "rnn": cells.rnn,
    "rnn_relu": cells.rnn_relu,
    "rnn_variant": cells.rnn_variant(activation=("elu", 0.5), clip=2.0),
    "gru": cells.gru,
    "gru_reset_before": cells.gru_reset_before,
    "gru_variant": cells.gru_variant(gate=("hard_sigmoid", 0.3, 0.5), clip=1.0),
    "lstm": cells.lstm,
    "peephole_lstm": cells.peephole_lstm,
    "lstm_variant": cells.lstm_variant(peephole=True, candidate="softsign", clip=0.7),
    "coupled_input_lstm": cells.coupled_input_lstm(peephole=True),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("arrangement", ["layer", "reverse", "bidirectional stack"])
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_models(name, arrangement, bias, measured):
    options = {"layers": 2, "bidirectional": True} if arrangement == "bidirectional stack" else {}
    cell = EXPORTED[name]
    params = jaxlstm.init(jax.random.key(0), cell, N, H, dtype="float32", bias=bias, **options)
    params = jaxlstm.Reverse(params) if arrangement == "reverse" else params
    xs = np.random.default_rng(1).normal(size=(T, B, N)).astype("float32")
    zeros = params.initial_state((B,))
    state = jax.tree.map(lambda a: jnp.full_like(a, 0.3), zeros)
    given = {"xs": xs, "lengths": LENGTHS}
    levels = state if isinstance(params, jaxlstm.Stack) else (state,)
    for k, level in enumerate(levels):
        sides = level if isinstance(level[0], tuple) else (level,)
        for field in sides[0]._fields:
            values = [np.asarray(getattr(side, field)) for side in sides]
            given[f"initial.{k}.{field}"] = np.stack(values)
    model = convert.to_onnx(params, lengths=True, state=True)
    theirs = run(model, given)
    mask = jaxlstm.lengths_to_mask(LENGTHS.astype(int), T)
    ys, last = jaxlstm.apply(params, xs, state, mask=mask)
    found = [worst(ys, theirs["ys"])]
    ends = last if isinstance(params, jaxlstm.Stack) else (last,)
    for k, level in enumerate(ends):
        sides = level if isinstance(level[0], tuple) else (level,)
        for field in sides[0]._fields:
            values = jnp.stack([getattr(side, field) for side in sides])
            found.append(worst(values, theirs[f"state.{k}.{field}"]))
    measured("ONNX Runtime", cell.name, "float32", max(found))
    assert max(found) < 1e-6
    again = convert.from_onnx(model)
    if bias:
        assert jax.tree.structure(again) == jax.tree.structure(params)
        jax.tree.map(np.testing.assert_array_equal, again, params)
