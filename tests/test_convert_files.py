"""Our own files: what is saved is what is loaded, and a bad file is one clear error."""

import json
import math
import os
import pathlib
import pickle
import resource
import struct
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert, wrappers
from networks import network, over_cells, some_of
from test_wrappers import ALL

pytest.importorskip("safetensors")
GOLDEN = pathlib.Path(__file__).parent / "goldens" / "version_1.safetensors"


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def golden():
    """The network of the golden file, of numbers that float16 and bfloat16 hold exactly."""
    lstm = jaxlstm.cells.lstm_variant(peephole=True, gate=("hard_sigmoid", 0.25, 0.5), clip=3.0)
    params = jaxlstm.Stack(
        (
            jaxlstm.init(jax.random.key(0), lstm, 3, 4, bidirectional=True, dtype=jnp.bfloat16),
            jaxlstm.init(jax.random.key(0), jaxlstm.gru, 8, 2, dtype=jnp.bfloat16),
            jaxlstm.init(jax.random.key(0), jaxlstm.rnn, 2, 2, bias=False, dtype=jnp.bfloat16),
        ),
        jaxlstm.Static(0.25),
    )
    leaves, tree = jax.tree.flatten(params)
    count = lambda n, a: (np.arange(a.size).reshape(a.shape) % 17 - 8 + n).astype(a.dtype) / 16
    return jax.tree.unflatten(tree, [jnp.asarray(count(n, a)) for n, a in enumerate(leaves)])


def test_the_file_of_version_1_loads():
    equal(convert.load(GOLDEN), golden())


@over_cells
def test_every_cell_comes_back(cell, tmp_path):
    params = jaxlstm.init(jax.random.key(0), cell, 4, 4, layers=2)
    convert.save(tmp_path / "a.safetensors", params)
    equal(convert.load(tmp_path / "a.safetensors"), params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_comes_back(dtype, tmp_path):
    params = network(jaxlstm.lstm, "bidirectional", dtype=dtype)
    convert.save(tmp_path / "a", params)
    equal(convert.load(tmp_path / "a"), params)


def test_other_readers_read_it(tmp_path):
    import safetensors.numpy

    params = network(jaxlstm.lstm, "stack")
    convert.save(tmp_path / "a", params)
    arrays = safetensors.numpy.load_file(tmp_path / "a")
    np.testing.assert_array_equal(arrays["layers.1.r"], params.layers[1].r)
    assert arrays.keys() == convert.to_dict(params).keys()


def test_a_loaded_network_runs_as_the_saved_one(tmp_path):
    params = network(jaxlstm.gru, "bidirectional")
    convert.save(tmp_path / "a", params)
    xs = jnp.ones((3, 2, 5))[..., : params.input_size]
    np.testing.assert_array_equal(
        jaxlstm.apply(params, xs)[0], jaxlstm.apply(convert.load(tmp_path / "a"), xs)[0]
    )


@pytest.mark.parametrize("name", ALL)
def test_every_wrapper_comes_back(name, tmp_path):
    params = ALL[name](network(jaxlstm.lstm, "bidirectional"))
    convert.save(tmp_path / "a", params)
    equal(convert.load(tmp_path / "a"), params)


class Pair(NamedTuple):
    """A class of one's own around a network."""

    rnn: Any
    head: Any


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    params = network(jaxlstm.lstm)
    deep = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 4, 4)
    for _ in range(40):
        deep = wrappers.residual(deep)
    for tree, message in (
        (deep, "at most 32 levels"),
        (Pair(params, jnp.ones(3)), r"`Pair` is nothing .* `architecture=False`"),
        (jax.tree.map(lambda a: a.astype(int), params), "weights of a dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.save(tmp_path / "a", tree)
        assert not list(tmp_path.iterdir())
        convert.save(tmp_path / "a", tree, architecture=False)
        equal(convert.load(tmp_path / "a", like=tree), tree)
        (tmp_path / "a").unlink()


def test_a_likeness_that_differs_names_the_tensor(tmp_path):
    convert.save(tmp_path / "a", network(jaxlstm.lstm))
    with pytest.raises(convert.FileError, match=r"tensor `r`: .*\[5, 3, 5\]; found.*\[5, 4, 5\]"):
        convert.load(tmp_path / "a", like=network(jaxlstm.gru)._replace(b=jnp.ones((4, 5))))


def test_a_convolution_comes_back(tmp_path):
    params = jaxlstm.init_conv(jax.random.key(0), jaxlstm.lstm, 2, 3, (3, 3))
    convert.save(tmp_path / "a", params)
    equal(convert.load(tmp_path / "a"), params)


def test_an_ensemble_comes_back(tmp_path):
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.vmap(lambda k: jaxlstm.init(k, jaxlstm.lstm, 3, 5))(keys)
    convert.save(tmp_path / "a", params)
    equal(convert.load(tmp_path / "a"), params)


@jaxlstm.gated_cell("h", jaxlstm.HiddenState)
def mine(s, u, v):
    (z,) = u + v
    return (jnp.sin(z),)


def test_a_cell_of_ones_own_needs_a_name_or_a_likeness(tmp_path):
    params = network(mine)
    with pytest.raises(ValueError, match=r"none of jaxlstm's own.*cells=.*architecture=False"):
        convert.save(tmp_path / "a", params)
    convert.save(tmp_path / "a", params, cells={"mine": mine})
    with pytest.raises(convert.FileError, match=r"expected a cell of jaxlstm.*found mine"):
        convert.load(tmp_path / "a")
    equal(convert.load(tmp_path / "a", cells={"mine": mine}), params)
    equal(convert.load(tmp_path / "a", like=params), params)
    convert.save(tmp_path / "b", params, architecture=False)
    equal(convert.load(tmp_path / "b", like=params), params)
    with pytest.raises(convert.FileError, match="expected an architecture, or `like="):
        convert.load(tmp_path / "b")
    with pytest.raises(ValueError, match="a name of the library's own"):
        convert.save(tmp_path / "c", params, cells={"lstm": mine})


def test_to_dict_and_from_dict():
    params = network(jaxlstm.lstm, "bidirectional")
    arrays = convert.to_dict(params)
    assert "layers.0.forward.w" in arrays
    equal(convert.from_dict(arrays, like=params), params)
    abstract = jax.eval_shape(lambda: params)
    equal(convert.from_dict(arrays, like=abstract), params)
    wrong = {"other" if k == "layers.0.forward.w" else k: a for k, a in arrays.items()}
    with pytest.raises(ValueError, match=r"missing \['layers.0.forward.w'\], too many \['other'\]"):
        convert.from_dict(wrong, like=params)
    with pytest.raises(ValueError, match=r"must be float64\[.* as in `like`; got float64\[3\]"):
        convert.from_dict({**arrays, "layers.0.forward.w": np.zeros(3)}, like=params)


def test_nothing_is_truncated(tmp_path):
    convert.save(tmp_path / "a", network(jaxlstm.lstm))
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(TypeError, match="float64, which JAX would truncate"):
        convert.load(tmp_path / "a")


def test_arrays_of_64_bits_around_networks_are_kept(tmp_path):
    """What NumPy makes by default, while JAX has no such arrays."""
    jax.config.update("jax_enable_x64", False)
    params = network(jaxlstm.lstm, dtype=jnp.float32)
    arrays = {"ids": np.arange(3) + 2**40, "mean": np.arange(3.0) / 3, "scale": np.float64(1 / 3)}
    tree = {"rnn": params, "b": np.ones(2, "float32"), **arrays}
    convert.save(tmp_path / "a", tree)
    convert.save(tmp_path / "b", tree, architecture=False)
    from_file = convert.load(tmp_path / "a"), convert.load(tmp_path / "b", like=tree)
    for again in (*from_file, convert.from_dict(convert.to_dict(tree), like=tree)):
        equal(again["rnn"], params)
        assert isinstance(again["b"], jax.Array)
        for name, a in arrays.items():
            assert isinstance(again[name], np.ndarray)
            assert again[name].dtype == a.dtype
            assert (again[name] == a).all()
            again[name][...] = 0  # it is the caller's own
    double = jax.tree.map(lambda a: np.asarray(a, "float64"), params)
    with pytest.raises(TypeError, match="float64, which JAX would truncate"):
        convert.from_dict(convert.to_dict(double), like=double)


@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_old_file(at, tmp_path, monkeypatch):
    old, new = network(jaxlstm.lstm), network(jaxlstm.lstm, seed=5)
    convert.save(tmp_path / "a", old)

    def fails(*_):
        raise OSError("no space left")

    if at == "write":
        monkeypatch.setattr("builtins.open", fails)
    else:
        monkeypatch.setattr(os, at, fails)
    with pytest.raises(OSError, match="no space left"):
        convert.save(tmp_path / "a", new)
    monkeypatch.undo()
    equal(convert.load(tmp_path / "a"), old)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def rewritten(path, change, data=lambda raw: raw):
    """The file with its header changed by `change(header, architecture)`."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    architecture = json.loads(header["__metadata__"]["architecture"])
    declared = change(header, architecture)
    if declared is not None:
        header = declared
    elif "__metadata__" in header and "architecture" in header["__metadata__"]:
        header["__metadata__"]["architecture"] = json.dumps(architecture)
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + data(raw[8 + length :]))


def entry(name, key, value):
    return lambda header, _: header[name].update({key: value})


def field(path, value):
    def change(_, architecture):
        *inner, last = path
        for key in inner:
            architecture = architecture[key]
        architecture[last] = value

    return change


def stack(layers, dropout=0.0):
    return {"layers": {"tuple": layers}, "dropout": {"static": dropout}}


def dropped(gate, layer):
    rate = {"static": 0.5}
    return {"node": layer.copy(), "gate": {"static": gate}, "rate": rate}


SCALAR = {"array": "float64", "shape": []}

# what is done to the header of a file of one `lstm`, and what the error says
BAD = {
    "overlap": (entry("r", "data_offsets", [0, 800]), "tensor `r`: expected bytes from"),
    "gap": (lambda h, _: h["r"].update(data_offsets=[x + 8 for x in h["r"]["data_offsets"]]),
            "bytes from"),
    "past the end": (entry("w", "data_offsets", [0, 2**62]), "the bytes 0 to"),
    "negative": (entry("w", "data_offsets", [-8, 0]), "a list of sizes as its data_offsets"),
    "huge shape": (entry("w", "shape", [2**62, 2**62]), "bytes for float64"),
    "shape of floats": (entry("w", "shape", [5.0, 4, 5]), "a list of sizes as its shape"),
    "dtype": (entry("w", "dtype", "F63"), "a dtype of .*found F63"),
    "no dtype": (lambda h, _: h["w"].pop("dtype") and None, "an entry of"),
    "missing": (lambda h, a: a["fields"].update(b=None), "tensor `b`: expected no tensor"),
    "extra": (field(["fields", "recurrent_bias"], {"array": "float64", "shape": [4, 5]}),
              "tensor `recurrent_bias`: expected float64.*found none"),
    "misshapen": (field(["fields", "w", "shape"], [4, 5, 5]), "tensor `w`: expected the shape"),
    "other dtype": (field(["fields", "w", "array"], "float32"), "expected float32.*found float64"),
    "unknown cell": (field(["fields", "cell", "cell"], "os.system"), "a cell of jaxlstm"),
    "unknown option": (field(["fields", "cell", "options"], [["clip", 3.0]]), "options of lstm"),
    "other cell": (field(["fields", "cell", "cell"], "gru"), "gru with the gates 'rzn'"),
    "unknown node": (field(["node"], "Popen"), "a node of .*found Popen"),
    "no node": (lambda h, a: a.clear(), "a part of an architecture"),
    "option": (field(["fields", "cell"], {"cell": "lstm_variant", "options": [["clip", "x"]]}),
               "a network that can run"),
    "empty stack": (lambda h, a: a.update(node="Stack", fields=stack([])), "that can run"),
    "a gate": (lambda h, a: a.update(node="RecurrentDropout", fields=dropped("z", a)), "one gate"),
    "a bias": (field(["fields", "cell"], {"cell": "indrnn", "options": []}), "the weights ..r"),
    "a node as an option": (field(["fields", "cell"], {"cell": "rnn_variant", "options": [
        ["clip", {"cell": "rnn", "options": []}]]}), "an option: a number"),
    "an odd float": (field(["fields", "cell"], {"cell": "rnn_variant", "options": [
        ["clip", {"float": "1.0"}]]}), "an option: a number"),
    "deep options": (field(["fields", "cell"], {"cell": "rnn_variant", "options": [
        ["clip", json.loads("[" * 100 + "]" * 100)]]}), "an option: a number"),
    "no heads": (field(["fields", "cell"], {"cell": "slstm", "options": [["heads", 0]]}), "built"),
    "clashing": (lambda h, a: a.update(node="InitialState", fields={"node": a.copy(), "state": {
        "dict": {"a": {"dict": {"b": SCALAR}}, "a.b": SCALAR}}}), "can be built"),
    "1e999": (lambda h, _: json.dumps(h).replace("[0, ", "[1e999, ").encode(),
              "a list of sizes as its data_offsets"),
    "many digits": (lambda h, _: json.dumps(h).replace("[0, ", f"[{'9' * 5000}, ").encode(),
                    "the header in JSON"),
    "deep metadata": (lambda h, _: h.update(__metadata__=json.loads("[" * 400 + "]" * 400)),
                      "metadata that maps"),
    "a name that cannot be printed": (lambda h, _: h.update({"\ud800": 3}), "tensor `.ud800`"),
    "rate": (lambda h, a: a.update(node="Stack", fields=stack([a.copy()], 1.5)), "as `dropout`"),
    "no rate": (lambda h, a: a.update(node="Zoneout", fields={"node": a.copy(), "rates": None}),
                "expected two probabilities below 1 as `rates`; found None"),
    "integers": (field(["fields", "w", "array"], "int64"), "tensor `w`: expected weights of a dt"),
    "many": (lambda h, a: a.update(node="Stack", fields=stack([a.copy()] * 5000)), "4096 nodes"),
    "surrogate": (lambda h, _: h["__metadata__"].update(n="\ud800"), "what safetensors reads"),
    "minus zero": (lambda h, _: json.dumps(h).replace("[0, ", "[-0, ").encode(), "what safetens"),
    "deep": (field(["fields", "w"], json.loads('{"tuple":[' * 200 + "]}" * 200)), "at most 32"),
    "version": (lambda h, _: h["__metadata__"].update(version="3"), "1 or 2; found version 3"),
    "no version": (lambda h, _: h["__metadata__"].pop("version") and None, "version none"),
    "format": (lambda h, _: h["__metadata__"].update(format="pt"), "save.*found format pt"),
    "metadata": (lambda h, _: h["__metadata__"].update(n=3), "names to strings"),
    "no metadata": (lambda h, _: h.pop("__metadata__") and None, "found format None"),
    "not json": (lambda h, _: b'{"w"', "the header in JSON"),
    "not utf-8": (lambda h, _: b'{"\xff": 3}', "the header in JSON"),
    "a list": (lambda h, _: b"[]", "a header that maps names"),
    "duplicate": (lambda h, _: b'{"w": 1, "w": 2}', "tensor `w`: expected one entry"),
    "nan": (lambda h, _: b'{"w": NaN}', "finite numbers"),
    "depth of json": (lambda h, _: b"[" * 100_000, "the header in JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", some_of(BAD, BAD.keys() - {"many"}))
def test_bad_headers(name, tmp_path):
    convert.save(path := tmp_path / "bad.safetensors", network(jaxlstm.lstm))
    change, message = BAD[name]
    rewritten(path, change)
    with pytest.raises(convert.FileError, match=message) as error:
        convert.load(path)
    assert error.value.file == str(path)
    assert "bad.safetensors" in str(error.value)


def test_bad_bytes(tmp_path):
    path = tmp_path / "bad"
    convert.save(path, network(jaxlstm.rnn))
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(convert.FileError):
            convert.load(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(convert.FileError, match="bytes of tensors"):
        convert.load(path)
    path.write_bytes(struct.pack("<Q", 2**63) + good[8:])
    with pytest.raises(convert.FileError, match="that claims 9223372036854775808"):
        convert.load(path)
    with pytest.raises(FileNotFoundError):
        convert.load(tmp_path / "none")
    with pytest.raises(convert.FileError, match="a regular file"):
        convert.load(tmp_path)


def another(tmp_path, kind):
    """A file that is none of ours."""
    path = tmp_path / kind
    match kind:
        case "pickle" | "old pickle" | "short pickle":
            protocol = {"pickle": pickle.HIGHEST_PROTOCOL, "old pickle": 2, "short pickle": 4}[kind]
            data = () if kind == "short pickle" else {"w": np.ones((3, 5))}
            path.write_bytes(pickle.dumps(data, protocol))
        case "zip":
            with open(path, "wb") as f:
                np.savez(f, w=np.ones(3))
        case "npy":
            with open(path, "wb") as f:
                np.save(f, np.ones(3))
        case "HDF5":
            path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        case "LFS":
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_bytes(b'{"w": "some text that is JSON"}')
        case "zeros":
            path.write_bytes(bytes(100))
    return path


OTHERS = {
    "pickle": "a safetensors file; found a pickle",
    "old pickle": "a safetensors file; found a pickle",
    "short pickle": "a safetensors file; found a pickle",
    "zip": "a safetensors file; found a zip archive",
    "npy": "a safetensors file; found an array of NumPy",
    "HDF5": "a safetensors file; found an HDF5 file",
    "LFS": "a safetensors file; found a pointer of Git LFS",
    "empty": "at least 8 bytes; found 0",
    "text": "a header of at most 23 bytes",
    "zeros": "the header in JSON",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_others_are_called_what_they_are(kind, tmp_path):
    with pytest.raises(convert.FileError, match=OTHERS[kind]):
        convert.load(another(tmp_path, kind))


def padded(raw, length):
    """The file with a header of this length; spaces at its end say nothing."""
    (old,) = struct.unpack("<Q", raw[:8])
    text = raw[8 : 8 + old].rstrip()
    assert len(text) <= length
    return struct.pack("<Q", length) + text.ljust(length) + raw[8 + old :]


# Lengths that other files begin with: of a pickle 0x0280 to 0x0580, of a zip archive 0x04034b50.
LENGTHS = [range(400, 1700), [2**16 + n for n in range(0, 1700, 40)]]
MORE = [range(1700, 2**15, 3), [0x04034B50, 2**24 - 1, 2**24, 2**24 + 1]]


@pytest.mark.parametrize(
    "lengths", [*LENGTHS, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE)]
)
def test_headers_of_every_length(lengths, tmp_path):
    path, tree = tmp_path / "a", {"a": np.arange(3.0)}
    convert.save(path, tree, architecture=False)
    raw = path.read_bytes()
    for length in lengths:
        path.write_bytes(padded(raw, length))
        equal(convert.load(path, like=tree), tree)


def test_what_is_saved_has_headers_of_every_length(tmp_path):
    path, seen = tmp_path / "a", set()
    for n in range(0, 1408, 4):
        tree = {"a" * (n + 1): np.arange(3.0)}
        convert.save(path, tree, architecture=False)
        seen.add(struct.unpack("<Q", path.read_bytes()[:8])[0])
        equal(convert.load(path, like=tree), tree)
    assert seen >= {640, 896, 1152, 1408}


@pytest.mark.parametrize(
    ("cell", "layers"), [(jaxlstm.cells.projected_lstm, 1), (jaxlstm.cells.rg_lru, 2)]
)
def test_networks_whose_files_began_as_pickles_do(cell, layers, tmp_path):
    params = jaxlstm.init(jax.random.key(0), cell, 4, 4, layers=layers, dtype="float32")
    convert.save(tmp_path / "a", params)
    raw = (tmp_path / "a").read_bytes()
    (own,) = struct.unpack("<Q", raw[:8])
    starts = [k for k in (640, 896, 1152, 1408) if k >= own]
    assert starts
    for length in [own, *starts]:
        (tmp_path / "a").write_bytes(padded(raw, length))
        equal(convert.load(tmp_path / "a"), params)


@pytest.mark.slow
def test_a_header_of_many_megabytes(tmp_path):
    tree = {f"{k:01000}": np.ones(1, "int8") for k in range(20_000)}
    convert.save(tmp_path / "a", tree, architecture=False)
    assert struct.unpack("<Q", (tmp_path / "a").read_bytes()[:8])[0] > 2**24
    equal(convert.load(tmp_path / "a", like=tree), tree)


def test_what_is_no_bool(tmp_path):
    tree = {"a": np.array([True, False])}
    convert.save(path := tmp_path / "a", tree, architecture=False)
    path.write_bytes(path.read_bytes()[:-1] + b"\2")
    with pytest.raises(convert.FileError, match="tensor `a`: expected bytes of 0 and 1"):
        convert.load(path, like=tree)


def written(path, architecture, tensors):
    """A file of this architecture and of zeros: `tensors` has their shapes, of float32."""
    metadata = {"format": "jaxlstm", "version": "1", "architecture": json.dumps(architecture)}
    header, at = {"__metadata__": metadata}, 0
    for name, shape in tensors.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def array(*shape):
    return {"array": "float32", "shape": list(shape)}


def layer(cell, w, r=None, b=None, node="Layer", weights=None, **options):
    declared = {"cell": cell, "options": [[k, v] for k, v in options.items()]}
    arrays = {"w": w, "r": r, "b": b, "recurrent_bias": None}
    held = None if weights is None else {"dict": weights}
    return {"node": node, "fields": {"cell": declared, **arrays, "weights": held}}


def highway(depth, hidden, declared=None, node="Layer", w=()):
    weights = {
        "m": array(depth, 2, hidden, hidden),
        "b_n": array(depth, hidden),
        "b_t": array(depth, hidden),
    }
    w = array(*w, 3, 2, hidden)
    return layer(
        "rhn", w, weights=weights, node=node, depth=depth if declared is None else declared
    )


def shapes(data, at=()):
    """The shapes of the arrays in an architecture, by the names that their tensors have."""
    if isinstance(data, dict) and "array" in data:
        return {".".join(at): data["shape"]}
    if isinstance(data, dict) and data.keys() & {"node", "dict", "tuple", "list"}:
        inner = (
            data.get("fields") or data.get("dict") or data.get("tuple") or data.get("list") or {}
        )
        items = inner.items() if isinstance(inner, dict) else enumerate(inner)
        return {k: v for key, one in items for k, v in shapes(one, (*at, str(key))).items()}
    return {}


def stacked(*nodes):
    return {"node": "Stack", "fields": stack(list(nodes))}


HUGE = 10**9
DELAY = {"node": "Delay", "fields": {"of": array(0, HUGE, 3)}}
RNN = layer("rnn", array(3, 1, 5), array(5, 1, 5), array(1, 5))
MATRICES = layer("mlstm", array(3, 6, 5), b=array(6, 5), heads=HUGE)
ORDERS = {name: array(5, HUGE) for name in ("alpha", "delta", "beta", "eta")}

# architectures that would take for ever, and the tensors that the file has
HOSTILE = {
    "depth": (highway(HUGE, 4), shapes(highway(3, 4)), r"`weights.b_n`: .* found float32.3, 4."),
    "another depth": (highway(3, 4, HUGE), None, "expected the shape"),
    "depth of no units": (highway(HUGE, 0), None, "sizes that a file of .* bytes can bear out"),
    "depth of an ensemble": (
        {"node": "Reverse", "fields": {"node": highway(3, 4, HUGE, w=(2,))}}, None, "the shape"
    ),
    "depth of a convolution": (highway(3, 4, HUGE, "ConvLayer", (3,)), None, "the shape"),
    "a window": (stacked(DELAY, RNN), None, "sizes that a file of"),
    "a window alone": (DELAY, None, "sizes that a file of"),
    "inputs": (layer("rnn", array(HUGE, 1, 0), array(0, 1, 0)), None, "sizes that a file of"),
    "an ensemble": (layer("rnn", array(HUGE, 3, 1, 0), array(HUGE, 0, 1, 0)), None, "a file of"),
    "heads": (MATRICES, None, "a network that can run"),
    "blocks": (layer("slstm", array(3, 4, 5), array(0, 4, 5), heads=HUGE), None, "that can run"),
    "projection": (
        layer("projected_lstm", array(3, 4, 5), array(HUGE, 4, 5), array(4, 5), projection=HUGE,
              weights={"q": array(5, HUGE)}), {}, "found none"
    ),
    "orders": (layer("damped_average", array(3, 1, 5), weights=ORDERS, order=HUGE), {}, "expected"),
    "units": (layer("rnn", array(3, 1, 2**62), array(2**62, 1, 2**62)), {}, "found none"),
    "axes": (layer("rnn", array(*[1] * 5000), array(5, 1, 5)), {}, "expected the shape"),
    "tuples": ({"tuple": [None] * 10**5}, {}, "a network.*found tuple"),
    "nothing": (stacked(*[stacked()] * 1000), {}, "that can run"),
    "reversals": (
        stacked(*[{"node": "Reverse", "fields": {"node": RNN}}] * 3000), {}, "4096 nodes"
    ),
    "times": (layer("mine", array(3, 1, 5), array(5, 1, 5), times=-HUGE), None, None),
    "times in a list": (layer("mine", array(3, 1, 5), array(5, 1, 5), times=[[HUGE]]), None, None),
    "depth that is there": (highway(20_000, 1), None, None),
    "large numbers": (
        layer("rnn_variant", array(3, 1, 5), array(5, 1, 5), clip=10**400), None, None
    ),
}  # fmt: skip


@jaxlstm.gated_cell("h", jaxlstm.HiddenState)
def repeated(s, u, v, *, times=1):
    (z,) = u + v
    for _ in range(abs(times if isinstance(times, int) else times[0][0])):
        z = jnp.tanh(z)
    return (z,)


@pytest.mark.parametrize("name", HOSTILE)
def test_work_is_bounded_by_the_file(name, tmp_path):
    architecture, tensors, message = HOSTILE[name]
    written(tmp_path / "a", architecture, shapes(architecture) if tensors is None else tensors)
    load = lambda: convert.load(tmp_path / "a", cells={"mine": repeated})
    most, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if message is None:
        load()  # its arrays are right; what its cells do is not run here
    else:
        with pytest.raises(convert.FileError, match=message):
            load()
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 2**18  # KiB


def test_a_file_of_holes(tmp_path):
    """Tensors are compared before their bytes are read: a terabyte of holes takes no memory."""
    size = 2**40
    header = {"__metadata__": {"format": "jaxlstm", "version": "1", "architecture": "null"}}
    header["w"] = {"dtype": "I8", "shape": [size], "data_offsets": [0, size]}
    text = json.dumps(header).encode()
    with open(tmp_path / "a", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        try:
            f.truncate(8 + len(text) + size)
        except OSError:
            pytest.skip("no files of holes here")
    with pytest.raises(convert.FileError, match="a network"):
        convert.load(tmp_path / "a")
    with pytest.raises(convert.FileError, match="tensor `w`: expected int8"):
        convert.load(tmp_path / "a", like={"w": np.ones(3, "int8")})
