"""Models of ONNX that are changed at random: a network, or one of two kinds of error."""

import contextlib
import random
import resource
import signal
import time
import traceback

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import cells, convert
from networks import network
from onnx_models import GATES, H, N, function, graph, model, node, onnx, opset, value, weights

INT = np.int64
SECONDS, MEMORY = 5, 2**29  # for each file, of the processor and of addresses beside what there is
NAMES = ["X", "W", "R", "B", "Y", "a", "z", "h", "s", "row", "size", "", "nobody"]
KINDS = [*GATES, "Squeeze", "Transpose", "Reshape", "Concat", "Expand", "Identity", "Shape", "Tile"]
KINDS += [
    "Gather",
    "Slice",
    "Split",
    "Constant",
    "ConstantOfShape",
    "If",
    "Layer",
    "Mul",
    "Dropout",
]
NUMBERS = [-1, 0, 1, 2, 3, 7, 2**31, 2**62, -(2**63)]
TEXTS = [b"reverse", b"bidirectional", b"Relu", b"", b"\xff", b"HardSigmoid"]


def models():
    """Every way in which a model may hold weights, states and joins is in one of them."""
    lstm = convert.to_onnx(network(cells.peephole_lstm, "bidirectional"), lengths=True, state=True)
    stack = convert.to_onnx(network(jaxlstm.gru, "stack"))
    numbers = {"one": INT([1]), "two": INT([2]), "units": INT([H]), "row": np.ones((1, 1, H))}
    first = {**weights("LSTM", N, H), **numbers}
    state = [
        node("Shape", ["X"], ["shape"]),
        node("Slice", ["shape", "one", "two"], ["batch"]),
        node("Concat", ["one", "batch", "units"], ["size"], axis=0),
        node("Expand", ["row", "size"], ["h"]),
        node("LSTM", ["X", "W", "R", "B", "", "h"], ["a"], name="a"),
        node("Squeeze", ["a", "one"], ["z"]),
        node("GRU", ["z", "W2", "R2", "B2"], ["Y"], name="b", linear_before_reset=1),
    ]
    body = [
        node("Constant", [], ["perm"], value_ints=[0, -1, H]),
        node("Transpose", ["w"], ["W"], perm=[0, 2, 1]),
        node("RNN", ["x", "W", "R"], ["a"], name="inner", activations=["Elu"], clip=2.0),
        node("Reshape", ["a", "perm"], ["y"]),
    ]
    layer = function("mine", "Layer", ["x", "w", "R"], ["y"], body, [opset("", 14)], [])
    two = [
        node("Layer", ["X", "w", "R"], ["a"], domain="mine"),
        node("Layer", ["a", "v", "R"], ["Y"], domain="mine"),
    ]
    held = {"w": np.ones((1, N, H)), "v": np.ones((1, H, H)), "R": np.ones((1, H, H))}
    small = [
        node("DequantizeLinear", ["q", "scale"], ["f"]),
        node("Cast", ["f"], ["W"], to=11),
        node("Split", ["both"], ["R", "rest"], axis=0, split=[1, 1]),
        node("LSTM", ["X", "W", "R"], ["Y"]),
    ]
    whole = {"q": np.ones((1, 4 * H, N), "i1"), "scale": np.asarray(0.5, "f")}
    whole["both"] = np.ones((2, 4 * H, H))
    given = graph([node("Identity", ["S"], ["p"])], outputs=["p"])
    zeros = graph([node("Mul", ["row", "row"], ["q"])], outputs=["q"])
    branch = [
        node("If", ["flag"], ["h"], then_branch=given, else_branch=zeros),
        node("LSTM", ["X", "W", "R", "B", "", "h"], ["Y"]),
    ]
    chosen = {**first, "flag": np.asarray(True), "row": np.zeros((1, 1, H))}
    return [
        lstm,
        stack,
        model(state, {**first, **weights("GRU", H, H, suffix="2")}),
        model(two, held, functions=[layer], imports=[opset("mine", 1)]),
        model(small, whole, version=11),
        model(branch, chosen, inputs=[("X", ["t", "b", N]), value("S", [1, "b", H])]),
    ]


def bytewise(rng, raw):
    """Some bytes changed, dropped or doubled."""
    raw = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, to, n = rng.randrange(len(raw) or 1), rng.randrange(len(raw) or 1), rng.randrange(1, 9)
        match rng.randrange(4):
            case 0 if raw:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + n]
            case 2:
                raw[at:at] = raw[to : to + n]
            case 3 if rng.random() < 0.2:
                del raw[at:]
    return bytes(raw)


def graphs_of(made):
    """The graphs and functions of a model, the inner ones too."""
    todo = [made.graph, *made.functions]
    while todo:
        one = todo.pop()
        yield one
        todo += [a.g for n in one.node for a in n.attribute if a.HasField("g")]


def disturbed(rng, made):
    """A model that can be parsed still, and is another."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        one = rng.choice(list(graphs_of(made)))
        if not one.node:
            continue
        n = rng.choice(one.node)
        everything = [name for other in one.node for name in (*other.input, *other.output)]
        name = rng.choice([*NAMES, *everything])
        match rng.randrange(12):
            case 0 if n.input:
                n.input[rng.randrange(len(n.input))] = name
            case 1 if n.output:
                n.output[rng.randrange(len(n.output))] = name
            case 2:
                n.op_type = rng.choice(KINDS)
            case 3:
                n.input.append(name)
            case 4 if n.input:
                del n.input[rng.randrange(len(n.input))]
            case 5:
                one.node.remove(n)
            case 6:
                one.node.add().CopyFrom(n)
            case 7 if n.attribute:
                changed(rng, rng.choice(n.attribute))
            case 8 if n.attribute:
                n.attribute.remove(rng.choice(n.attribute))
            case 9:
                n.attribute.add().CopyFrom(onnx.helper.make_attribute(
                    rng.choice(["axis", "axes", "perm", "layout", "clip", "direction", "to"]),
                    rng.choice([1, [1], 1.5, [0.5], b"reverse", [b"Relu"]])))  # fmt: skip
            case 10 if made.graph.initializer:
                t = rng.choice(made.graph.initializer)
                if rng.random() < 0.5 and t.dims:
                    t.dims[rng.randrange(len(t.dims))] = rng.choice(NUMBERS)
                else:
                    numbers = np.asarray(rng.choices(NUMBERS, k=rng.randrange(5)), np.int64)
                    t.CopyFrom(onnx.numpy_helper.from_array(numbers, t.name))
            case 11:
                made.opset_import[0].version = rng.choice([1, 5, 9, 11, 13, 14, 18, 22])
    return made


def changed(rng, a):
    kinds = onnx.AttributeProto
    match a.type:
        case kinds.INT:
            a.i = rng.choice(NUMBERS)
        case kinds.INTS:
            a.ints[:] = rng.choices(NUMBERS, k=rng.randrange(4))
        case kinds.FLOAT:
            a.f = rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e30])
        case kinds.STRING:
            a.s = rng.choice(TEXTS)
        case kinds.STRINGS:
            a.strings[:] = rng.choices(TEXTS, k=rng.randrange(4))
        case _:
            a.type = rng.randrange(15)


@contextlib.contextmanager
def bounded():
    """Stops what takes more time or memory than a small file may."""

    def late(*_):
        raise AssertionError(f"it takes more than {SECONDS} s")

    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def tried(rng, raw, kind):
    if kind is bytewise:
        source = bytewise(rng, raw)
    else:
        source = disturbed(rng, onnx.ModelProto.FromString(raw))
    raised, said, params = None, "", None
    with bounded():
        try:
            params = convert.from_onnx(source, state=rng.random() < 0.5)
        except (ValueError, TypeError) as e:
            raised, said = traceback.extract_tb(e.__traceback__)[-1], str(e)
    if raised is not None:  # by a line that says so, and not by what happens to fail
        known = "a cycle." in said or "by a node that is broken" in said
        assert known or (raised.line or "").startswith("raise"), raised
        return 1
    if isinstance(params, tuple) and not isinstance(params, jaxlstm.Node):
        params, _ = params
    assert isinstance(params, jaxlstm.Node)
    assert all(a.size for a in jax.tree.leaves(params) if a.ndim)
    return 0


SLOW = [pytest.param(seed, 490, marks=pytest.mark.slow) for seed in range(1, 7)]


@pytest.mark.parametrize(("seed", "count"), [(0, 90), *SLOW])
def test_changed_models(seed, count):
    print("seed", seed)
    rng = random.Random(seed)
    raws = [made.SerializeToString() for made in models()]
    start, refused, longest = time.process_time(), 0, 0.0
    for k in range(count):
        before = time.process_time()
        kind = (bytewise, disturbed, disturbed)[k % 3]
        refused += tried(random.Random(rng.random()), raws[k % len(raws)], kind)
        longest = max(longest, time.process_time() - before)
    took = time.process_time() - start
    print(f"{count} models, {refused} refused, {took:.0f} s, longest {longest:.2f} s")
    assert 0.3 * count < refused < count
