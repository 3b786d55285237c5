"""Models of ONNX that are broken, and such as want to take long."""

import itertools
import time

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert
from onnx_models import INT, H, N, function, model, node, one, onnx, opset, weights

W = weights("LSTM", N, H)["W"]


def constant(*, attributes=True):
    made = node("Constant", [], ["W"], value_ints=[1])
    if not attributes:
        del made.attribute[:]
    return made


def external(name="W"):
    made = one([])
    tensor = next(t for t in made.graph.initializer if t.name == name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return made


def shaped_wrongly():
    made = one([])
    made.graph.initializer[0].dims[1] = 1 << 40
    return made


def doubled(**options):
    made = one(
        [node("Identity", ["w"], ["W"]), node("Identity", ["w"], ["V"])], {"w": W}, **options
    )
    made.graph.node[1].output[0] = "W"
    return made


def quantized():
    nodes = [
        node("DynamicQuantizeLSTM", ["X", "W", "R", "B"], ["Y"], name="q", domain="com.microsoft")
    ]
    return model(nodes, weights("LSTM", N, H), imports=[opset("com.microsoft", 1)])


BROKEN = {
    "no bytes of a model": (lambda: b"\x08\xff", ValueError, "are no model of ONNX"),
    "another text": (lambda: b"a model", ValueError, "are no model of ONNX"),
    "no bytes": (lambda: b"", ValueError, "no node RNN, GRU or LSTM"),
    "no source": (lambda: None, TypeError, "must be a path, bytes or a model"),
    "a graph": (lambda: one([]).graph, TypeError, "must be a path, bytes or a model"),
    "no X": (lambda: one([], inputs=["", "W", "R"]), ValueError, "input `X` of LSTM is missing"),
    "no W": (lambda: one([], inputs=["X"]), ValueError, "the input `W` of LSTM is missing"),
    "no R": (lambda: one([], inputs=["X", "W", ""]), ValueError, "input `R` of LSTM is missing"),
    "nobody's": (lambda: one([], inputs=["X", "V", "R"]), ValueError, "`V` is read, and nothing"),
    "too many": (lambda: one([], {"P": W}, kind="GRU", inputs=["X", "W", "R", *[""] * 4, "P"]),
                 ValueError, "`rnn` has 8 inputs; a GRU has"),
    "no value": (lambda: one([constant(attributes=False)]), ValueError, "`W`.* has no value"),
    "whole numbers": (lambda: one([constant()]), TypeError, "`W` must be of a floating dtype"),
    "external": (external, ValueError, "the data of `W` stand in another file, 'weights.bin'"),
    "broken data": (shaped_wrongly, ValueError, "the data of the tensor `W` are broken"),
    "made twice": (doubled, ValueError, r"makes \['W'\] more than once"),
    "quantised": (quantized, ValueError, "`q` is a node `DynamicQuantizeLSTM`.*Convert the model"),
    "float16 and float64": (lambda: one([], {"R": np.ones((1, 4 * H, H), "f2")}), TypeError,
                            "of one dtype"),
    "rank": (lambda: one([], {"W": W[0]}), ValueError, "`W` must have 3 axes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_raise_one_of_two_errors(name):
    make, kind, message = BROKEN[name]
    with pytest.raises(kind, match=message):
        convert.from_onnx(make())


def test_data_in_another_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save_model(one([]), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    jax.tree.map(np.testing.assert_array_equal, convert.from_onnx(path), convert.from_onnx(one([])))
    with pytest.raises(ValueError, match=r"`W` stand in another file, 'w\.bin'"):
        convert.from_onnx(path.read_bytes())
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ValueError, match=r"`W` stand in the file 'w\.bin' beside the model"):
        convert.from_onnx(path)
    outside = external()
    outside.graph.initializer[0].external_data[0].value = "../w.bin"
    (tmp_path / "inside").mkdir()
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "inside" / "model.onnx").write_bytes(outside.SerializeToString())
    with pytest.raises(ValueError, match="which cannot be read"):
        convert.from_onnx(tmp_path / "inside" / "model.onnx")
    with pytest.raises(OSError, match="nowhere"):
        convert.from_onnx(tmp_path / "nowhere")


def chain_of(count, kind, first, last, **options):
    names = [first, *(f"{kind}.{k}" for k in range(count - 1)), last]
    twice = 2 if kind == "Concat" else 1
    return [node(kind, [a] * twice, [b], **options) for a, b in itertools.pairwise(names)]


def calls(count):
    """Functions each of which calls the next one twice."""

    def body(k):
        return [
            node(f"f{k + 1}", ["x"], ["a"], domain="m"),
            node(f"f{k + 1}", ["a"], ["y"], domain="m"),
        ]

    made = [function("m", f"f{k}", ["x"], ["y"], body(k), [opset("m", 1)]) for k in range(count)]
    last = [node("Identity", ["x"], ["y"])]
    made.append(function("m", f"f{count}", ["x"], ["y"], last, [opset("", 14)]))
    return {"functions": made, "imports": [opset("m", 1)]}


MUCH = "take more than [67]. MiB, in a model of"
FAR = {"w": np.ones((1, 1, 1)), "s": INT([1 << 20] * 3)}
CALL = [node("f0", ["w"], ["W"], domain="m")]
LOOP = [function("m", "f0", ["x"], ["y"], [node("f0", ["x"], ["y"], domain="m")], [opset("m", 1)])]
SELF = [function("m", "f0", ["x"], ["x"], [], [opset("m", 1)])]
MINE = {"imports": [opset("m", 1)]}
HOSTILE = {
    "a cycle of one": ([node("Squeeze", ["W"], ["W"])], {}, {}, "a cycle"),
    "a cycle": ([node("Squeeze", ["V"], ["W"]), node("Identity", ["W"], ["V"])], {}, {}, "a cycle"),
    "doubled in vain": (chain_of(22, "Concat", "w", "V", axis=0), {"w": np.ones(1024)}, {}, None),
    "doubled": (chain_of(22, "Concat", "w", "W", axis=1), {"w": W}, {}, MUCH),
    "Expand": ([node("Expand", ["w", "s"], ["W"])], FAR, {}, MUCH),
    "Tile": ([node("Tile", ["w", "s"], ["W"])], FAR, {}, MUCH),
    "ConstantOfShape": ([node("ConstantOfShape", ["s"], ["W"])], FAR, {}, MUCH),
    "Range": ([node("Range", ["a", "b", "c"], ["W"])],
              {"a": np.asarray(0.0), "b": np.asarray(1e18), "c": np.asarray(1.0)}, {}, MUCH),
    "MatMul": ([node("MatMul", ["a", "b"], ["W"])],
               {"a": np.ones((1 << 14, 1)), "b": np.ones((1, 1 << 14))}, {}, MUCH),
    "broadcasting": ([node("Add", ["a", "b"], ["W"])],
                     {"a": np.ones((1 << 14, 1)), "b": np.ones((1, 1 << 14))}, {}, MUCH),
    "deep": (chain_of(3000, "Identity", "w", "W"), {"w": W}, {}, None),
    "calls": (CALL, {"w": W}, {**calls(60)}, "too many times"),
    "a call of itself": (CALL, {"w": W}, {"functions": LOOP, **MINE}, "more than 100 deep"),
    "what it is given": ([node("f0", ["W"], ["W"], domain="m")], {},
                         {"functions": SELF, **MINE}, "a cycle"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_work_is_bounded(name):
    nodes, arrays, options, message = HOSTILE[name]
    made = one(nodes, arrays, **options)
    before = time.process_time()
    if message is None:
        assert isinstance(convert.from_onnx(made), jaxlstm.Layer)
    else:
        with pytest.raises(ValueError, match=message):
            convert.from_onnx(made)
    assert time.process_time() - before < 5


def test_two_nodes_in_a_cycle():
    arrays = {**weights("LSTM", H, H), **weights("LSTM", H, H, suffix="2")}
    nodes = [
        node("LSTM", ["z", "W", "R"], ["a"], name="a"),
        node("Squeeze", ["q"], ["q"]),
        node("LSTM", ["q", "W2", "R2"], ["Y"], name="b"),
        node("Squeeze", ["Y"], ["z"]),
    ]
    for k in (1, 3):
        with pytest.raises(ValueError, match="a cycle"):
            convert.from_onnx(model(nodes, arrays))
        nodes[1] = node("Squeeze", ["a"], ["q"])
        assert k
