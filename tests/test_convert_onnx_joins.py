"""What stands between two recurrent nodes of ONNX: nothing that changes anything."""

import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert
from onnx_models import INT, NUMBERS, XS, B, H, N, T, close, graph, model, node, reference, weights


def stack(between, *, sides=1, layouts=(0, 0), arrays=None, version=14, width=None, batch="b"):
    """Two nodes, and what stands between the output `a` of one and the input `z` of the other."""
    chosen = [{"layout": n} if n else {} for n in layouts]
    direction = {"direction": "bidirectional"} if sides == 2 else {}
    held = {**weights("LSTM", N, H, sides=sides), **NUMBERS, **(arrays or {})}
    held |= weights("LSTM", width or sides * H, H, sides=sides, suffix="2", seed=1)
    nodes = [
        node("LSTM", ["X", "W", "R", "B"], ["a", "end"], name="a", **chosen[0], **direction),
        *between,
        node("LSTM", ["z", "W2", "R2", "B2"], ["Y"], name="b", **chosen[1], **direction),
    ]
    x = ("X", [batch, "t", N] if layouts[0] else ["t", batch, N])
    return model(nodes, held, [x], version=version)


def swap(perm):
    return node("Transpose", ["a"], ["p"], perm=perm)


def shape_of(name, *parts):
    """`Reshape` by the shape of a value, as PyTorch's exporter writes it."""
    nodes = [node("Shape", [name], ["s"])]
    for k in range(4):
        nodes.append(node("Slice", ["s", f"i{k}", f"i{k + 1}"], [f"d{k}"]))
    nodes.append(node("Mul", ["d2", "d3"], ["width"]))
    return [*nodes, node("Concat", list(parts), ["target"], axis=0),
            node("Reshape", [name, "target"], ["z"])]  # fmt: skip


EACH = {f"i{k}": INT([k]) for k in range(5)}
KEEP, ALL = {"s": INT([0, 0, -1])}, {"s": INT([0, B, -1])}
BOTH = [swap([0, 2, 1, 3]), node("Reshape", ["p", "s"], ["z"])]
PLAIN = {
    "squeeze": ([node("Squeeze", ["a", "ones"], ["z"])], {}),
    "squeeze of all": ([node("Squeeze", ["a"], ["z"])], {}),
    "squeeze by an attribute": ([node("Squeeze", ["a"], ["z"], axes=[1])], {"version": 11}),
    "a dropout of opset 6": ([node("Squeeze", ["a"], ["s"], axes=[1]),
                             node("Dropout", ["s"], ["z"], is_test=1)], {"version": 6}),
    "squeeze from behind": ([node("Squeeze", ["a", "back"], ["z"])],
                            {"arrays": {"back": INT([-3])}}),
    "reshape": ([node("Reshape", ["a", "s"], ["z"])], {"arrays": {"s": INT([0, -1, H])}}),
    "transpose": (BOTH, {"arrays": KEEP}),
    "both directions": (BOTH, {"arrays": KEEP, "sides": 2}),
    "a known batch": (BOTH, {"arrays": {"s": INT([-1, B, 2 * H])}, "sides": 2, "batch": B}),
    "an unknown batch": (BOTH, {"arrays": {"s": INT([0, B, 2 * H])}, "sides": 2}),
    "its own shape": ([swap([0, 2, 1, 3]), *shape_of("p", "d0", "d1", "width")],
                      {"arrays": EACH, "sides": 2}),
    "there and back": ([node("Squeeze", ["a", "ones"], ["s"]),
                        node("Transpose", ["s"], ["q"], perm=[1, 0, 2]),
                        node("Identity", ["q"], ["i"]),
                        node("Dropout", ["i", "half"], ["d"]),
                        node("Transpose", ["d"], ["z"], perm=[1, 0, 2])],
                       {"arrays": {"half": np.asarray(0.5)}}),
    "apart and together": ([node("Squeeze", ["a", "ones"], ["s"]),
                            node("Reshape", ["s", "four"], ["q"]),
                            node("Reshape", ["q", "three"], ["z"])],
                           {"arrays": {"four": INT([0, 0, 1, 4]), "three": INT([0, 0, -1])}}),
    "unsqueeze": ([node("Squeeze", ["a", "ones"], ["s"]), node("Unsqueeze", ["s", "zero"], ["u"]),
                   node("Squeeze", ["u", "zero"], ["z"])], {}),
    "batch first": ([node("Squeeze", ["a", "two"], ["z"])], {"layouts": (1, 1)}),
    "batch first, then time": ([node("Squeeze", ["a", "two"], ["s"]),
                                node("Transpose", ["s"], ["z"], perm=[1, 0, 2])],
                               {"layouts": (1, 0)}),
    "batch first, both": ([node("Reshape", ["a", "s"], ["z"])],
                          {"layouts": (1, 1), "sides": 2, "arrays": KEEP}),
}  # fmt: skip
OTHER = {
    "time and batch": ([node("Squeeze", ["a", "ones"], ["s"]),
                        node("Transpose", ["s"], ["z"], perm=[1, 0, 2])], {}, "batch.*time"),
    "time and batch by a reshape": ([node("Reshape", ["a", "s"], ["z"])],
                                    {"arrays": {"s": INT([B, -1, H])}}, "`Reshape`"),
    "directions before the batch": ([node("Reshape", ["a", "s"], ["z"])],
                                    {"arrays": ALL, "sides": 2}, "'direction'"),
    "units before directions": ([swap([0, 2, 3, 1]), node("Reshape", ["p", "s"], ["z"])],
                                {"arrays": KEEP, "sides": 2}, "'unit', 'direction'"),
    "layouts": ([node("Squeeze", ["a", "ones"], ["z"])], {"layouts": (0, 1)}, "time.*batch"),
    "the last state": ([node("Identity", ["end"], ["z"])], {}, "comes from `end`"),
    "the input": ([node("Identity", ["X"], ["z"])], {"width": N}, "0 gives 4|comes from `X`"),
    "a relu": ([node("Squeeze", ["a", "ones"], ["s"]), node("Relu", ["s"], ["z"])], {}, "`Relu`"),
    "a sum": ([node("Squeeze", ["a", "ones"], ["s"]), node("Add", ["s", "s"], ["z"])], {}, "`Add`"),
    "half of it": ([node("Squeeze", ["a", "ones"], ["s"]), node("Split", ["s"], ["z", ""], axis=0)],
                   {}, "`Split`"),
    "backwards": ([node("Squeeze", ["a", "ones"], ["s"]),
                   node("Slice", ["s", "minus", "far", "zero", "minus"], ["z"])],
                  {"arrays": {"far": INT([-(2**31)])}}, "`Slice`"),
    "a dropout that drops": ([node("Squeeze", ["a", "ones"], ["s"]),
                              node("Dropout", ["s", "half", "yes"], ["z"])],
                             {"arrays": {"half": np.asarray(0.5), "yes": np.asarray(True)}},
                             "`Dropout`"),
    "an older dropout that drops": ([node("Squeeze", ["a"], ["s"], axes=[1]),
                                     node("Dropout", ["s"], ["z"])], {"version": 6}, "`Dropout`"),
    "the mask of a dropout": ([node("Squeeze", ["a", "ones"], ["s"]),
                               node("Dropout", ["s"], ["d", "m"]),
                               node("Cast", ["m"], ["z"], to=11)], {}, "`Cast`"),
    "one direction of two": ([node("Gather", ["a", "last"], ["z"], axis=1)],
                             {"sides": 2, "width": H}, "0 gives 8 outputs"),
    "a direction each": ([node("Reshape", ["a", "s"], ["z"])],
                         {"arrays": {"s": INT([-1, B, H])}, "sides": 2, "width": H}, "0 gives 8"),
    "a shape of the data": ([node("Shape", ["a"], ["q"]), node("ReduceSum", ["q"], ["n"]),
                             node("Concat", ["n", "minus", "units"], ["s"], axis=0),
                             node("Reshape", ["a", "s"], ["z"])], {}, "not just the output"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_joins_that_change_nothing(name):
    between, chosen = PLAIN[name]
    made = stack(between, **chosen)
    params = convert.from_onnx(made)
    assert isinstance(params, jaxlstm.Stack)
    first, last = chosen.get("layouts", (0, 0))
    xs = XS.swapaxes(0, first)
    ys, _ = jaxlstm.apply(params, XS)
    if chosen.get("version", 14) < 7:
        made.graph.node[2].CopyFrom(node("Identity", ["s"], ["z"]))
        made.opset_import[0].version = 11  # the reference knows no older ones
    (y,) = reference(made, X=xs)
    y = y.swapaxes(0, 1) if last else np.moveaxis(y, 1, 2)
    close(ys, y.reshape(T, B, -1))


@pytest.mark.parametrize("chosen", [None, ["a", "b"]])
@pytest.mark.parametrize("name", OTHER)
def test_joins_that_change_something_are_refused(name, chosen):
    between, options, message = OTHER[name]
    with pytest.raises(ValueError, match=message):
        convert.from_onnx(stack(between, **options), node=chosen)


def test_a_branch_is_no_layer_of_a_stack():
    inner = [
        node("Squeeze", ["a", "ones"], ["z"]),
        node("LSTM", ["z", "W2", "R2"], ["p"], name="b"),
    ]
    other = graph([node("Identity", ["a"], ["q"])], outputs=["q"])
    choice = node("If", ["flag"], ["Y"], then_branch=graph(inner, outputs=["p"]), else_branch=other)
    arrays = {**weights("LSTM", N, H), **weights("LSTM", H, H, suffix="2"), **NUMBERS}
    nodes = [node("LSTM", ["X", "W", "R", "B"], ["a"], name="a"), choice]
    made = model(nodes, {**arrays, "flag": np.asarray(True)})
    with pytest.raises(ValueError, match="a graph inside the graph of the other"):
        convert.from_onnx(made)
    assert isinstance(convert.from_onnx(made, node="b"), jaxlstm.Layer)
