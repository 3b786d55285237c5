"""Models of ONNX for the tests, node by node, and what onnx's own reference computes with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")
helper = onnx.helper

T, B, N, H = 5, 2, 3, 4
XS = np.random.default_rng(7).normal(size=(T, B, N))
INT = np.int64
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
node, function, opset = helper.make_node, helper.make_function, helper.make_opsetid
DTYPE = onnx.TensorProto.DOUBLE


def value(name, shape=None, dtype=DTYPE):
    return helper.make_tensor_value_info(name, dtype, shape)


def graph(nodes, arrays=None, inputs=(), outputs=("Y",), name="g", **options):
    """A graph; an input is a name and a shape, or what `value` makes."""
    given = [value(*one) if isinstance(one, tuple) else one for one in inputs]
    held = [onnx.numpy_helper.from_array(a, k) for k, a in (arrays or {}).items()]
    made = [value(one) if isinstance(one, str) else one for one in outputs]
    return helper.make_graph(nodes, name, given, made, held, **options)


def model(nodes, arrays=None, inputs=(("X", ["t", "b", 3]),), outputs=("Y",), **options):
    imports = [opset("", options.pop("version", 14)), *options.pop("imports", ())]
    functions = options.pop("functions", ())
    made = graph(nodes, arrays, inputs, outputs, **options)
    return helper.make_model(made, opset_imports=imports, ir_version=8, functions=functions)


def weights(kind, inputs, hidden, *, sides=1, seed=0, suffix="", dtype=float):
    """`W`, `R` and `B` of a node."""
    rng, rows = np.random.default_rng(seed), GATES[kind] * hidden
    shapes = {"W": (sides, rows, inputs), "R": (sides, rows, hidden), "B": (sides, 2 * rows)}
    return {k + suffix: rng.normal(size=s).astype(dtype) for k, s in shapes.items()}


def reference(made, **given):
    return onnx.reference.ReferenceEvaluator(made).run(None, given)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def one(nodes, arrays=None, *, kind="LSTM", inputs=("X", "W", "R", "B"), **options):
    """A model of one recurrent node behind other nodes."""
    attributes = options.pop("attributes", {})
    held = {**weights(kind, N, H, sides=options.pop("sides", 1)), **(arrays or {})}
    made = {out for n in nodes for out in n.output}
    held = {k: a for k, a in held.items() if k not in made and a is not None}
    last = node(kind, list(inputs), ["Y"], name="rnn", **attributes)
    return model([*nodes, last], held, **options)


def same(made, state=None, xs=XS):
    """The network of a model gives what the model gives."""
    params = convert.from_onnx(made) if state is None else state[0]
    rows = None if state is None else jax.tree.map(_rows, state[1])
    ys, _ = jaxlstm.apply(params, xs, rows)
    (y,) = reference(made, X=xs)
    if y.ndim == 4:
        y = np.moveaxis(y, 1, 2).reshape(T, B, -1)
    close(ys, y)


def _rows(a):
    return jnp.broadcast_to(a, (B, a.shape[-1]))


ROW = np.random.default_rng(3).normal(size=(1, 1, H))
INDEX = {"first": INT([1]), "ones": INT([1]), "units": INT([H]), "minus": INT([-1])}
NUMBERS = {**INDEX, "row": ROW, "rank": INT([3]), "three": INT([3]), "two": INT([2])}
NUMBERS |= {"zero": INT([0]), "last": INT(1), "eight": INT([8])}
