"""Weights that a graph of ONNX computes from constants, in functions too."""

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert
from onnx_models import INT, H, N, function, model, node, one, onnx, opset, same, weights


def small(a):
    scale = np.abs(a).max() / 127
    return np.rint(a / scale).astype(np.int8), np.asarray(scale)


W = weights("LSTM", N, H)["W"]
W8, SCALE = small(W)
PLANES = node("Unsqueeze", ["w", "zero"], ["W"])
BEHIND = {
    "Identity": ([node("Identity", ["w"], ["W"])], {"w": W}),
    "Cast": ([node("Cast", ["w"], ["W"], to=onnx.TensorProto.DOUBLE)], {"w": W.astype("f")}),
    "DequantizeLinear": (
        [node("DequantizeLinear", ["w", "s"], ["wf"]), node("Cast", ["wf"], ["W"], to=11)],
        {"w": W8, "s": np.float32(SCALE)},
        19,
    ),
    "DequantizeLinear per row": (
        [
            node("DequantizeLinear", ["w", "s", "z"], ["wf"], axis=1),
            node("Cast", ["wf"], ["W"], to=11),
        ],
        {"w": W8, "s": np.linspace(0.1, 0.2, 4 * H, dtype="f"), "z": np.arange(4 * H).astype("i1")},
        19,
    ),
    "Reshape": ([node("Reshape", ["w", "s"], ["W"])], {"w": W.ravel(), "s": INT([1, -1, N])}),
    "Mul": ([node("Mul", ["w", "s"], ["W"])], {"w": W, "s": np.linspace(1, 2, N)}),
    "Split": (
        [node("Split", ["w", "parts"], ["", "W"], axis=0)],
        {"w": np.concatenate([W[:1] * 2, W]), "parts": INT([1, 1])},
    ),
    "Split by an attribute": (
        [node("Split", ["w"], ["a", "W"], axis=0, split=[2, 1])],
        {"w": np.concatenate([W, W, W * 3])},
        11,
    ),
    "value_floats": (
        [
            node("Constant", [], ["w"], value_floats=W.ravel().tolist()),
            node("Constant", [], ["s"], value_ints=[1, 4 * H, N]),
            node("Cast", ["w"], ["wd"], to=11),
            node("Reshape", ["wd", "s"], ["W"]),
        ],
        {},
    ),
    "opset 11": (
        [
            node("Unsqueeze", ["w"], ["u"], axes=[0, 1]),
            node("Squeeze", ["u"], ["v"], axes=[0]),
            node("Transpose", ["v"], ["W"], perm=[0, 2, 1]),
        ],
        {"w": W[0].T.copy()},
        11,
    ),
    "MatMul": ([node("MatMul", ["a", "b"], ["W"])], {"a": W[..., :2], "b": np.ones((2, N))}),
    "weight norm": (
        [
            node("ReduceL2", ["v"], ["n"], axes=[2]),
            node("Div", ["v", "n"], ["u"]),
            node("Mul", ["u", "g"], ["W"]),
        ],
        {"v": W, "g": np.linspace(1, 2, 4 * H).reshape(1, -1, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEHIND)
def test_weights_that_the_graph_computes(name):
    nodes, arrays, *version = BEHIND[name]
    same(one(nodes, arrays, version=version[0] if version else 14))


PLAIN_LAYER = "mine", "Layer", ["x", "w", "R"], ["flat"]


def test_weights_in_functions():
    short = node("LSTM", ["x", "W", "R"], ["y"], name="inner", hidden_size=H)
    body = [
        node("Constant", [], ["zero"], value_ints=[0]),
        node("Transpose", ["w"], ["wt"]),
        node("Unsqueeze", ["wt", "zero"], ["W"]),
        node("LSTM", ["x", "W", "R", "", "", "h0"], ["y"], name="inner", hidden_size=H),
        node("Constant", [], ["one"], value_ints=[1]),
        node("Squeeze", ["y", "one"], ["flat"]),
    ]
    layer = function("mine", "Layer", ["x", "w", "R", "h0"], ["flat"], body, [opset("", 14)], [])
    half = [node("Mul", ["a", "a"], ["b"])]
    square = function("mine", "Square", ["a"], ["b"], half, [opset("", 14)])
    first, second = weights("LSTM", N, H), weights("LSTM", H, H, seed=1)
    arrays = {"w": first["W"][0].T.copy(), "v": second["W"][0].T.copy(), "r": first["R"]}
    nodes = [
        node("Square", ["r"], ["R"], domain="mine"),
        node("Layer", ["X", "w", "R"], ["a"], domain="mine"),
        node("Layer", ["a", "v", "R"], ["Y"], domain="mine"),
    ]
    options = {"functions": [layer, square], "imports": [opset("mine", 1)]}
    made = model(nodes, arrays, **options)
    params = convert.from_onnx(made)
    assert isinstance(params, jaxlstm.Stack)
    options["functions"] = [
        function(*PLAIN_LAYER, [*body[:3], short, *body[4:]], [opset("", 14)]),
        square,
    ]
    plain = model(nodes, arrays, **options)  # the reference knows no input that is left out
    same(plain)
    jax.tree.map(np.testing.assert_array_equal, params, convert.from_onnx(plain))
    again = convert.from_onnx(made, node="inner#1")
    np.testing.assert_array_equal(again.w, params.layers[1].w)
    with pytest.raises(ValueError, match=r"\['inner#0', 'inner#1'\]"):
        convert.from_onnx(made, node="inner")


def test_attributes_of_a_function():
    body = [node("LSTM", ["x", "W", "R"], ["y"], name="inner")]
    for name, kind in (("hidden_size", "INT"), ("direction", "STRING")):
        a = body[0].attribute.add()
        a.name, a.ref_attr_name, a.type = name, name, getattr(onnx.AttributeProto, kind)
    layer = function(
        "mine", "Layer", ["x", "W", "R"], ["y"], body, [opset("", 14)], ["hidden_size", "direction"]
    )
    call = node("Layer", ["X", "W", "R"], ["Y"], domain="mine", direction="reverse")
    arrays = {k: a for k, a in weights("LSTM", N, H).items() if k != "B"}
    made = model([call], arrays, functions=[layer], imports=[opset("mine", 1)])
    assert isinstance(convert.from_onnx(made), jaxlstm.Reverse)


def test_what_weights_depend_on_is_told():
    made = one([node("Mul", ["w", "X"], ["W"])], {"w": W})
    with pytest.raises(ValueError, match=r"input `W` of `rnn` must be a constant.*it is `W`.*`X`"):
        convert.from_onnx(made)
    made = one([node("Celu", ["w"], ["W"])], {"w": W})
    with pytest.raises(ValueError, match="which a node `Celu` makes"):
        convert.from_onnx(made)
