"""Operators of ONNX on constants, beside onnx's own reference of them."""

import random

import numpy as np
import pytest

from jaxlstm.convert._onnx.arithmetic import RULES
from jaxlstm.convert._onnx.graph import Model
from jaxlstm.convert._onnx.values import Values
from onnx_models import graph, model, node, onnx, reference

A = np.random.default_rng(0).normal(size=(2, 3, 4))
V = np.asarray([0.5, -1.0, 2.0, 3.0])
I = lambda *n: np.asarray(n, np.int64)
WHOLE = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
F = A.astype("f")
SCALES = np.asarray([0.5, 0.25, 2.0], "f")
CASES = [
    ("Cast", [A], {"to": 1}),
    ("Cast", [A * 10], {"to": 6}),
    ("Cast", [WHOLE], {"to": 10}),
    ("CastLike", [A, F]),
    ("Concat", [A, A * 2], {"axis": 1}),
    ("Concat", [A, A * 2, A], {"axis": -1}),
    ("ConstantOfShape", [I(2, 3)]),
    ("Expand", [A[:, :1], I(3, 1)]),
    ("Expand", [V, I(2, 3, 4)]),
    ("Flatten", [A], {"axis": 2}),
    ("Flatten", [A], {"axis": -1}),
    ("Flatten", [A], {"axis": 0}),
    ("Gather", [A, I(2, 0, -1)], {"axis": 1}),
    ("Gather", [A, np.asarray(1)], {"axis": 0}),
    ("Gather", [A, np.asarray([[0, 1], [1, 0]])], {"axis": 2}),
    ("Identity", [A]),
    ("Reshape", [A, I(4, -1)]),
    ("Reshape", [A, I(0, 0, 2, 2)]),
    ("Reshape", [A[:0], I(0, 5)], {"allowzero": 1}),
    ("Slice", [A, I(1), I(3), I(1)]),
    ("Slice", [A, I(-1, 3), I(-9, -6), I(1, 2), I(-1, -2)]),
    ("Slice", [A, I(0, 1), I(2**62, -1)]),
    ("Slice", [A, I(5), I(-(2**63)), I(2), I(-1)]),
    ("Split", [A, I(1, 2)], {"axis": 1}),
    ("Squeeze", [A[:, None], I(1)]),
    ("Squeeze", [A[:1, None], I(-4, 1)]),
    ("Squeeze", [A[:1, None]]),
    ("Tile", [A, I(1, 2, 3)]),
    ("Transpose", [A]),
    ("Transpose", [A], {"perm": [1, 2, 0]}),
    ("Unsqueeze", [A, I(0, -1, 2)]),
    ("Add", [A, V]),
    ("Sub", [A[:, :1], A]),
    ("Mul", [F, F[0, 0, 0]]),
    ("Div", [A, V]),
    ("Div", [I(7, -7, 7, -7), I(2, 2, -2, -2)]),
    ("Equal", [I(1, 2, 3), I(1, 0, 3)]),
    ("Where", [A > 0, A, V]),
    ("Pow", [np.abs(F), np.asarray(2.0)]),
    ("Max", [A, V, V - 1]),
    ("Min", [A, V]),
    ("Sum", [A, V, V]),
    ("Abs", [A]),
    ("Exp", [A]),
    ("Log", [np.abs(A)]),
    ("Neg", [A]),
    ("Not", [A > 0]),
    ("Reciprocal", [A]),
    ("Relu", [A]),
    ("Sigmoid", [A]),
    ("Sqrt", [np.abs(A)]),
    ("Tanh", [A]),
    ("MatMul", [A, A.swapaxes(1, 2)]),
    ("MatMul", [A, V]),
    ("Gemm", [A[0], A[1], np.ones(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("ReduceL1", [A, I(1)]),
    ("ReduceL2", [A, I(-1)], {"keepdims": 0}),
    ("ReduceMax", [A]),
    ("ReduceMean", [A, I(0, 2)]),
    ("ReduceMin", [A], {"keepdims": 0}),
    ("ReduceProd", [A, I(2)]),
    ("ReduceSum", [A], {"noop_with_empty_axes": 1}),
    ("ReduceSumSquare", [A, I(2)]),
    ("Range", [np.asarray(1), np.asarray(9), np.asarray(3)]),
    ("Range", [np.asarray(1.0), np.asarray(-1.0), np.asarray(-0.25)]),
    ("Shape", [A]),
    ("Shape", [A], {"start": 1, "end": -1}),
    ("Size", [A]),
    ("DequantizeLinear", [WHOLE, np.asarray(0.25, "f")]),
    ("DequantizeLinear", [WHOLE, SCALES, np.asarray([1, -2, 3], "i1")], {"axis": 1}),
    ("DequantizeLinear", [WHOLE, np.ones((2, 3, 2), "f") * 0.5], {"axis": 2, "block_size": 2}),
    ("QuantizeLinear", [F * 300, np.asarray(0.5, "f")]),
    ("QuantizeLinear", [F, SCALES, np.asarray([1, -2, 3], "i1")], {"axis": 1}),
]


def both(nodes, arrays, name="Y", version=21):
    """Our value, and that of the reference."""
    made = model(nodes, arrays, inputs=(), outputs=[name], version=version)
    made.ir_version = 10
    values = Values(Model(onnx, made))
    ref = values.model.main.resolve(name)
    assert values.ask("cause", ref) is None
    return values.ask("value", ref).array, reference(made)[0]


def agree(ours, theirs):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if ours.dtype.kind == "f":
        np.testing.assert_allclose(ours, theirs, rtol=8 * np.finfo(ours.dtype).eps, atol=0)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_operator_that_is_folded(case):
    kind, arrays, *attributes = case
    names = [f"a{k}" for k in range(len(arrays))]
    outputs = ["Y", "Z"] if kind == "Split" else ["Y"]
    made = node(kind, names, outputs, **(attributes[0] if attributes else {}))
    held = {k: np.asarray(a) for k, a in zip(names, arrays)}
    agree(*both([made], held))


def test_that_every_operator_has_a_case():
    elsewhere = {"Constant", "Dropout"}
    assert {case[0] for case in CASES} | elsewhere == RULES.keys() | {"Shape", "Size"}


def test_attributes_of_older_operators():
    """Before opset 7, the axes of the second operand begin where `axis` says."""
    b = np.asarray([1.0, 2.0, 3.0])
    made = model(
        [node("Mul", ["a", "b"], ["Y"], broadcast=1, axis=1)],
        {"a": A, "b": b},
        inputs=(),
        version=6,
    )
    values = Values(Model(onnx, made))
    found = values.ask("value", values.model.main.resolve("Y"))
    np.testing.assert_array_equal(found.array, A * b[:, None])


MOVES = [
    lambda r, a: ("Transpose", [], {"perm": r.sample(range(a.ndim), a.ndim)}),
    lambda r, a: ("Reshape", [I(*r.choice([(-1,), (-1, 1), a.shape[::-1], (*a.shape, 1)]))], {}),
    lambda r, a: ("Unsqueeze", [I(r.randrange(a.ndim + 1))], {}),
    lambda r, a: ("Slice", [*map(I, (r.randint(-4, 4), r.randint(-5, 5), r.randrange(a.ndim),
                                     r.choice([-2, -1, 1, 2])))], {}),
    lambda r, a: ("Gather", [I(*(r.randrange(-len(a), len(a)) for _ in "abc" if len(a)))], {}),
    lambda r, a: ("Concat", [a], {"axis": r.randrange(a.ndim)}),
    lambda r, a: ("Tile", [I(*(r.choice((1, 1, 2)) for _ in a.shape))], {}),
    lambda r, a: ("Expand", [I(2, *a.shape)], {}),
    lambda r, a: (r.choice(["Add", "Mul", "Sub"]), [np.asarray(r.uniform(-2, 2))], {}),
    lambda r, a: (r.choice(["Tanh", "Neg", "Abs", "Sigmoid"]), [], {}),
    lambda r, a: ("ReduceSum", [I(r.randrange(a.ndim))], {"keepdims": r.randrange(2)}),
]  # fmt: skip
SEEDS = [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 40))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_chains_of_operators(seed):
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(15):
        a, name, nodes, arrays = A, "a", [], {"a": A}
        for k in range(rng.randint(2, 7)):
            if not 0 < a.size <= 2000 or a.ndim == 0:
                break
            kind, more, attributes = rng.choice(MOVES)(rng, a)
            inputs = [f"{k}.{i}" for i in range(len(more))]
            step = node(kind, [name, *inputs], [f"y{k}"], **attributes)
            held = dict(zip(inputs, more))
            alone = graph([step], {name: a, **held}, outputs=[f"y{k}"])
            made = onnx.helper.make_model(alone, opset_imports=[onnx.helper.make_opsetid("", 18)])
            (a,) = reference(made)
            nodes, name, arrays = [*nodes, step], f"y{k}", {**arrays, **held}
        ours, theirs = both([*nodes, node("Identity", [name], ["Y"])], arrays, version=18)
        agree(ours, theirs)
