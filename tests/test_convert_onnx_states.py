"""Initial states and sequence lengths in a graph of ONNX: read, left to the call, or refused."""

import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert
from onnx_models import (
    INT,
    NUMBERS,
    ROW,
    XS,
    B,
    H,
    N,
    T,
    close,
    graph,
    model,
    node,
    one,
    onnx,
    reference,
    same,
    value,
    weights,
)

SHAPE = [node("Shape", ["X"], ["shape"]), node("Gather", ["shape", "first"], ["batch"])]
STATE = ("X", "W", "R", "B", "", "h", "c")
LIKE_TORCH = [
    *SHAPE,
    node("Concat", ["minus", "batch", "minus"], ["asked"], axis=0),
    node("ConstantOfShape", ["rank"], ["all"], value=onnx.helper.make_tensor("v", 7, [1], [1])),
    node("Mul", ["all", "minus"], ["no"]),
    node("Equal", ["asked", "no"], ["is"]),
    node("Where", ["is", "all", "asked"], ["size"]),
    node("Expand", ["row", "size"], ["h"]),
]
SIZED = [*SHAPE, node("Concat", ["ones", "batch", "units"], ["size"], axis=0)]
LEARNED = {
    "constant": ([node("Identity", ["row"], ["h"])], 1),
    "expand": ([*SIZED, node("Expand", ["row", "size"], ["h"])], 1),
    "expand as PyTorch writes it": (LIKE_TORCH, 1),
    "tile": ([*SHAPE, node("Concat", ["ones", "batch", "ones"], ["n"], axis=0),
              node("Tile", ["row", "n"], ["h"])], 1),
    "all rows": ([node("Concat", ["row", "row"], ["h"], axis=1)], 2),
    "computed": ([*SIZED, node("Tanh", ["row"], ["t"]), node("Expand", ["t", "size"], ["e"]),
                  node("Add", ["e", "row"], ["h"])], 1),
    "ones": ([*SIZED, node("ConstantOfShape", ["size"], ["h"],
                           value=onnx.helper.make_tensor("v", 11, [1], [0.5]))], 1),
    "a slice of all layers'": ([
        *SHAPE, node("Concat", ["row", "row", "row"], ["rows"], axis=0),
        node("Concat", ["three", "batch", "units"], ["size"], axis=0),
        node("Expand", ["rows", "size"], ["all"]),
        node("Slice", ["all", "ones", "two", "zero"], ["h"]),
    ], 1),
    "reshaped": ([
        *SHAPE, node("Concat", ["row", "row"], ["rows"], axis=0),
        node("Concat", ["two", "batch", "units"], ["size"], axis=0),
        node("Expand", ["rows", "size"], ["e"]),
        node("Concat", ["two", "ones", "batch", "minus"], ["four"], axis=0),
        node("Reshape", ["e", "four"], ["apart"]),
        node("Gather", ["apart", "last"], ["h"], axis=0),
    ], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_state_of_any_number_of_rows(name):
    nodes, rows = LEARNED[name]
    made = one(nodes, NUMBERS, inputs=STATE[:6])
    with pytest.raises(ValueError, match="starts from constants that are not zero"):
        convert.from_onnx(made)
    params, state = convert.from_onnx(made, state=True)
    assert state.h.shape == (rows, H)
    same(made, (params, state))


def test_zeros_of_as_many_rows_as_the_data_have_are_no_state():
    made = one([*SIZED, node("ConstantOfShape", ["size"], ["h"], value=onnx.helper.make_tensor(
        "v", 11, [1], [0.0]))], NUMBERS, inputs=STATE[:6])  # fmt: skip
    same(made)
    assert convert.from_onnx(made, state=True)[1] is None


def test_a_state_of_one_layer_of_a_stack():
    arrays = {**weights("LSTM", N, H), **weights("GRU", H, H, suffix="2")} | NUMBERS
    nodes = [
        node("LSTM", ["X", "W", "R", "B"], ["a"], name="a"),
        node("Squeeze", ["a", "ones"], ["s"]),
        node("GRU", ["s", "W2", "R2", "B2", "", "row2"], ["Y"], name="b", linear_before_reset=1),
    ]
    made = model(nodes, {**arrays, "row2": np.repeat(ROW, B, 1)})
    params, state = convert.from_onnx(made, state=True)
    ys, _ = jaxlstm.apply(params, XS, state)
    close(ys, reference(made, X=XS)[0][:, 0])


REFUSED = {
    "the data": ([node("Gather", ["X", "zero"], ["h"], axis=0)], "`h`, .*depends on `X`"),
    "a part of the data": ([node("Slice", ["X", "zero", "ones", "zero"], ["h"])], "depends on `X`"),
    "a product": ([node("Mul", ["S", "row"], ["h"])], "depends on `S`"),
    "both": ([node("Max", ["S", "S"], ["h"])], "depends on `S`"),
    "a sum of an index": ([*SIZED, node("Cast", ["batch"], ["f"], to=11),
                           node("Mul", ["row", "f"], ["h"])], "depends on|cannot be computed"),
    "time": ([*SHAPE, node("Gather", ["shape", "zero"], ["t"]), node("Cast", ["t"], ["f"], to=11),
              node("Expand", ["f", "one3"], ["h"])], "cannot be computed"),
    "a condition": ([*SIZED, node("Equal", ["batch", "eight"], ["is"]),
                     node("Where", ["is", "row", "zeros"], ["h"])], "cannot be computed"),
    "units of the data": ([*SHAPE, node("Concat", ["ones", "units", "batch"], ["size"], axis=0),
                           node("Expand", ["eye", "size"], ["h"])], "sizes that only the data say"),
}  # fmt: skip


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_depends_on_data_is_refused(name, state):
    nodes, message = REFUSED[name]
    more = {"zeros": np.zeros((1, 1, H)), "one3": INT([1, 1, H]), "eye": np.ones((1, 1, 1))}
    inputs = [("X", ["t", "b", N]), ("S", [1, "b", H])]
    made = one(nodes, {**NUMBERS, **more}, inputs=STATE[:6])
    made.graph.input.append(value(*inputs[1]))
    with pytest.raises(ValueError, match=message):
        convert.from_onnx(made, state=state)


def test_the_last_state_of_one_node_is_not_the_first_of_the_next_in_silence():
    arrays = {**weights("GRU", N, H), **weights("GRU", H, H, suffix="2")}
    nodes = [
        node("GRU", ["X", "W", "R", "B"], ["a", "end"], name="a"),
        node("Squeeze", ["a", "ones"], ["s"]),
        node("GRU", ["s", "W2", "R2", "B2", "", "end"], ["Y"], name="b"),
    ]
    made = model(nodes, {**arrays, **NUMBERS})
    for chosen in (None, "b", ["a", "b"]):
        with pytest.raises(ValueError, match="`end`, the input `initial_h` of `b`, depends on"):
            convert.from_onnx(made, node=chosen)
    assert isinstance(convert.from_onnx(made, node="a"), jaxlstm.Layer)


GIVEN = {
    "the input": ([node("Identity", ["S"], ["h"])], [1, "b", H]),
    "a slice": ([node("Slice", ["S", "ones", "two", "zero"], ["h"])], [2, "b", H]),
    "a row": ([node("Gather", ["S", "last"], ["g"]), node("Unsqueeze", ["g", "zero"], ["h"])],
              [2, "b", H]),
    "other axes": ([node("Transpose", ["S"], ["h"], perm=[1, 0, 2])], ["b", 1, H]),
    "a part": ([node("Split", ["S"], ["", "h"], axis=0)], [2, "b", H]),
    "given or zero": ([
        *SIZED, node("ConstantOfShape", ["size"], ["z"], value=onnx.helper.make_tensor(
            "v", 11, [1], [0.0])),
        node("If", ["flag"], ["h"],
             then_branch=graph([node("Identity", ["S"], ["p"])], outputs=["p"]),
             else_branch=graph([node("Identity", ["z"], ["q"])], outputs=["q"])),
    ], [1, "b", H]),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_a_state_that_is_an_input_of_the_model_belongs_to_the_call(name):
    nodes, shape = GIVEN[name]
    made = one(nodes, {**NUMBERS, "flag": np.asarray(True)}, inputs=STATE[:6])
    made.graph.input.append(value("S", shape))
    assert isinstance(convert.from_onnx(made), jaxlstm.Layer)
    assert convert.from_onnx(made, state=True)[1] is None


def test_a_state_that_is_half_given_and_half_constant():
    made = one([node("Identity", ["S"], ["h"])], {**NUMBERS, "c": ROW}, inputs=STATE)
    made.graph.input.append(value("S", [1, "b", H]))
    with pytest.raises(ValueError, match="starts from an input of the model and from constants"):
        convert.from_onnx(made, state=True)
    other = graph([node("Identity", ["row"], ["q"])], outputs=["q"])
    branch = graph([node("Identity", ["S"], ["p"])], outputs=["p"])
    choice = node("If", ["flag"], ["h"], then_branch=branch, else_branch=other)
    made = one([choice], {**NUMBERS, "flag": np.asarray(True)}, inputs=STATE[:6])
    made.graph.input.append(value("S", [1, "b", H]))
    with pytest.raises(ValueError, match="which a node `If` makes"):
        convert.from_onnx(made)


@pytest.mark.parametrize("layout", [0, 1])
def test_a_state_of_both_directions_in_both_layouts(layout):
    h = np.random.default_rng(5).normal(size=(2, B, H))
    attributes = {"direction": "bidirectional", "layout": layout}
    arrays = {"h": h.swapaxes(0, layout), "c": 2 * h.swapaxes(0, layout)}
    made = one([], arrays, inputs=STATE, sides=2, attributes=attributes)
    params, state = convert.from_onnx(made, state=True)
    xs = XS.swapaxes(0, layout)
    ys, _ = jaxlstm.apply(params, xs, state, axis=layout)
    (y,) = reference(made, X=xs)
    close(ys, (y if layout else np.moveaxis(y, 1, 2)).reshape(*xs.shape[:2], -1))


@pytest.mark.parametrize("shape", [(1, B, H + 1), (2, B, H), (B, H)])
def test_a_state_of_another_shape(shape):
    made = one([], {"h": np.ones(shape)}, inputs=STATE[:6])
    with pytest.raises(ValueError, match="`h`, the input `initial_h` of `rnn`, must be a float64"):
        convert.from_onnx(made, state=True)


# Lengths

LENGTHS = ("X", "W", "R", "B", "lens")
FULL = {
    "constant": ([], {"lens": np.full(B, T, "i")}, [T, B, N], None),
    "of the data": ([
        node("Shape", ["X"], ["s"]), node("Slice", ["s", "zero", "ones"], ["t"]),
        node("Slice", ["s", "ones", "two"], ["b"]), node("Expand", ["t", "b"], ["e"]),
        node("Cast", ["e"], ["lens"], to=6),
    ], {}, ["t", "b", N], None),
    "shorter": ([], {"lens": np.asarray([T, T - 1], "i")}, [T, B, N], "where the sequence has"),
    "of no known sequence": ([], {"lens": np.full(B, T, "i")}, ["t", B, N], "length unknown"),
    "the batch": ([node("Shape", ["X"], ["s"]), node("Gather", ["s", "ones"], ["b"]),
                   node("Cast", ["b"], ["lens"], to=6)], {}, ["t", "b", N], "sequence lengths as"),
    "counted": ([node("ReduceSum", ["X", "two"], ["sum"], keepdims=0),
                 node("Cast", ["sum"], ["lens"], to=6)], {}, ["t", "b", N], "depends on `X`"),
}  # fmt: skip


@pytest.mark.parametrize("name", FULL)
def test_constant_lengths(name):
    nodes, arrays, shape, message = FULL[name]
    made = one(nodes, {**NUMBERS, **arrays}, inputs=LENGTHS)
    made.graph.input[0].CopyFrom(value("X", shape))
    if message is None:
        assert isinstance(convert.from_onnx(made), jaxlstm.Layer)
    else:
        with pytest.raises(ValueError, match=message):
            convert.from_onnx(made)
