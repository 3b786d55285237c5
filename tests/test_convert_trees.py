"""Whole models in one file: networks among other arrays, numbers, strings and keys."""

import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlstm
from jaxlstm import convert, wrappers
from networks import network, some_state

pytest.importorskip("safetensors")


def model(rnn=None):
    return {
        "embed": np.arange(12.0).reshape(3, 4),
        "rnn": network(jaxlstm.lstm, "bidirectional") if rnn is None else rnn,
        "readout": [{"w": jnp.ones((10, 2), "bfloat16"), "b": np.zeros(2, "int8")}, None, ()],
        "names": ("a", "\ud800ö\0", ""),
        "step": 17,
        "best": (1.5, math.inf, -0.0, 5e-324, 2**1000, True, False),
        "key": jax.random.key(3),
        "keys": [jax.random.split(jax.random.key(4, impl="rbg"), (2, 3))],
        "counts": {0: np.arange(3), -7: {}},
        "flags": np.array([True, False]),
    }


GOLDEN = pathlib.Path(__file__).parent / "goldens" / "version_2.safetensors"


def golden():
    """The tree of the golden file, of numbers that any machine has."""
    rnn = jax.tree.map(lambda a: np.arange(a.size).reshape(a.shape) / 8.0, network(jaxlstm.gru))
    keys = jax.random.wrap_key_data(jnp.arange(8, dtype="uint32").reshape(1, 2, 4), impl="rbg")
    return model(rnn) | {"key": jax.random.key(7), "keys": [keys]}


def same(a, b):
    """Equal in structure, types, dtypes and every bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if not hasattr(y, "dtype"):
            assert type(x) is type(y)
            assert repr(x) == repr(y)
            continue
        assert x.dtype == y.dtype
        if jnp.issubdtype(y.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.shape(x) == np.shape(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def shapes(tree):
    """The arrays and keys of a tree, their shapes and dtypes alone."""
    alone = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "dtype") else a
    return jax.tree.map(alone, tree)


def test_the_file_of_version_2_loads():
    same(convert.load(GOLDEN), golden())


WRAPPED = [
    wrappers.layer_norm,
    wrappers.learn_initial_state,
    lambda p: wrappers.zoneout(p, 0.25),
    lambda p: jaxlstm.Stack((wrappers.residual(p), p)),
]


def test_a_whole_model_comes_back(tmp_path):
    convert.save(tmp_path / "a", model())
    same(convert.load(tmp_path / "a"), model())
    same(convert.load(tmp_path / "a", like=shapes(model())), model())


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrapped_networks_in_it(wrap, tmp_path):
    tree = [wrap(jaxlstm.init(jax.random.key(0), jaxlstm.gru, 4, 4)), ({"b": 3},)]
    convert.save(tmp_path / "a", tree)
    same(convert.load(tmp_path / "a"), tree)


def test_a_state_goes_along(tmp_path):
    params = network(jaxlstm.lstm, "stack")
    tree = {"params": params, "state": some_state(params)}
    convert.save(tmp_path / "a", tree)
    found = convert.load(tmp_path / "a")
    same(found, tree)
    assert type(found["state"][0]) is jaxlstm.LSTMState


@pytest.mark.parametrize("tree", [{}, [], (), None, 3, "a", np.ones(3), jax.random.key(0), [[]]])
def test_the_smallest_trees(tree, tmp_path):
    convert.save(tmp_path / "a", tree)
    same(convert.load(tmp_path / "a"), tree)


def test_a_network_alone_is_a_file_of_version_1(tmp_path):
    for tree, version in ((network(jaxlstm.gru), "1"), ([network(jaxlstm.gru)], "2")):
        convert.save(tmp_path / "a", tree)
        assert header(tmp_path / "a")["__metadata__"]["version"] == version


class Train(NamedTuple):
    """A class of one's own."""

    model: Any
    optimizer: Any
    step: int
    key: Any


def trained(steps=2):
    tree = {"rnn": network(jaxlstm.gru), "w": jnp.ones((5, 2))}
    optimizer = optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1e-2, 1e-3, 10))
    state = optimizer.init(tree)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            updates, state = optimizer.update(jax.tree.map(jnp.ones_like, tree), state, tree)
            tree = optax.apply_updates(tree, updates)
    return Train(tree, state, steps, jax.random.key(steps))


def test_the_state_of_training_needs_a_likeness(tmp_path):
    with pytest.raises(ValueError, match=r"`Train` is nothing .*architecture=False"):
        convert.save(tmp_path / "a", trained())
    convert.save(tmp_path / "a", trained(), architecture=False)
    same(convert.load(tmp_path / "a", like=trained(0)), trained())
    same(convert.load(tmp_path / "a", like=shapes(trained(0))), trained())


LIKE = {
    "another type": ({"step": 1.0}, "tensor `step`: expected float; found int"),
    "an array": ({"step": np.ones(())}, "`step`: expected no number, string or keys; found int"),
    "another key": (
        {"key": jax.random.key(0, impl="rbg")},
        "`key`: expected keys of rbg; found keys of threefry",
    ),
    "numbers": ({"key": np.zeros(2, "uint32")}, "`key`: expected no number, string or keys"),
    "many keys": ({"key": jax.random.split(jax.random.key(0))}, r"expected uint32\[2, 2\]"),
    "a name": ({"more": 3}, "tensor `more`: expected int; found none of this name"),
    "a nested key": ({"w": jax.random.key(0)}, "`w`: expected keys of threefry2x32; found none"),
}


@pytest.mark.parametrize("name", LIKE)
def test_a_likeness_that_differs(name, tmp_path):
    tree = {"step": 3, "key": jax.random.key(0), "w": np.ones(3)}
    convert.save(tmp_path / "a", tree)
    like, message = LIKE[name]
    with pytest.raises(convert.FileError, match=message):
        convert.load(tmp_path / "a", like={**tree, **like})


def header(path, change=None):
    """The header of a file, which is changed and written back."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    found = json.loads(raw[8 : 8 + length])
    if change is not None:
        change(found["__metadata__"])
        text = json.dumps(found).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    return found


def architecture(**changes):
    def change(metadata):
        data = json.loads(metadata["architecture"])
        data["dict"].update(changes)
        metadata["architecture"] = json.dumps(data)

    return change


HEADERS = {
    "no values": (lambda m: m.pop("values"), "`step`: expected int; found none"),
    "values": (lambda m: m.update(values="[3]"), "values that stand under names"),
    "a list": (lambda m: m.update(values='{"step": [3]}'), "`step`: expected a number or a string"),
    "null": (lambda m: m.update(values='{"step": null}'), "`step`: expected a number or a string"),
    "a float": (lambda m: m.update(values='{"step": 3.0}'), "`step`: expected int; found float"),
    "digits": (lambda m: m.update(values='{"step": ' + "9" * 5000 + "}"), "the values in JSON"),
    "1e999": (lambda m: m.update(values='{"step": 1e999}'), "a number or a string"),
    "more": (lambda m: m.update(values='{"step": 3, "b": 3}'), "`b`: expected no number, string"),
    "twice": (lambda m: m.update(values='{"step": 3, "step": 3}'), "`step`: expected one entry"),
    "no keys": (lambda m: m.pop("keys"), "`key`: expected keys of threefry2x32; found none"),
    "a key": (lambda m: m.update(keys='{"key": "os.system"}'), "`key`: expected keys of one of"),
    "a key of no name": (lambda m: m.update(keys='{"key": [1]}'), "keys of one of"),
    "unsafe": (lambda m: m.update(keys='{"key": "unsafe_rbg"}'), "found keys of unsafe_rbg"),
    "impl": (architecture(key={"key": "exec", "shape": []}), "`key`: expected keys of one of"),
    "key shape": (architecture(key={"key": "rbg", "shape": [-1]}), "`key`: expected a shape"),
    "a type": (architecture(step={"value": "object"}), "`step`: expected a part of an arch"),
    "unhashable": (architecture(step={"value": []}), "`step`: expected a part of an arch"),
    "a dtype": (architecture(w={"array": "object", "shape": [3]}), "`w`: expected an array of"),
    "numbered": (architecture(step={"numbered": [["0", None]]}), "pairs of a whole number"),
    "numbered pairs": (architecture(step={"numbered": [3]}), "pairs of a whole number"),
    "version 1": (lambda m: m.update(version="1"), "a network, of a file of version 1; found dict"),
    "a number in a network": (
        architecture(rnn={"node": "Reverse", "fields": {"node": {"value": "int"}}}),
        "`rnn.node`: expected a part of an architecture",
    ),
    "keys in a network": (
        architecture(rnn={"node": "Reverse", "fields": {"node": {"key": "rbg", "shape": []}}}),
        "`rnn.node`: expected a part of an architecture",
    ),
    "integers in a network": (
        architecture(rnn={"node": "Reverse", "fields": {"node": {"array": "int8", "shape": []}}}),
        "`rnn.node`: expected weights of a dtype",
    ),
    "a network that cannot run": (
        lambda m: m.update(architecture=m["architecture"].replace('"gru"', '"mgu"')),
        "expected mgu with the gates",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_bad_headers(name, tmp_path):
    tree = {"step": 3, "key": jax.random.key(0), "w": np.ones(3), "rnn": network(jaxlstm.gru)}
    convert.save(tmp_path / "a", tree)
    change, message = HEADERS[name]
    header(tmp_path / "a", change)
    with pytest.raises(convert.FileError, match=message):
        convert.load(tmp_path / "a")


def test_many_keys_and_values_are_read_at_once(tmp_path):
    tree = {"keys": [jax.random.key(i) for i in range(2000)], "values": [*range(20_000)]}
    convert.save(tmp_path / "a", tree)
    start = time.process_time()
    same(convert.load(tmp_path / "a"), tree)
    assert time.process_time() - start < 10


WITHOUT = """
import sys, jax
from jaxlstm import convert
tree = convert.load(sys.argv[1])
assert tree["step"] == 17 and tree["embed"].shape == (3, 4)
print(jax.tree.structure(tree["rnn"]).num_leaves)
"""


def test_it_is_read_without_the_code_of_the_model(tmp_path):
    convert.save(tmp_path / "a", {**model(), "embed": np.ones((3, 4), "float32"), "rnn": network(
        jaxlstm.gru, dtype="float32"), "counts": 0, "best": 0})  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "a")], capture_output=True, check=True
    )
    assert found.stdout.split() == [b"4"]


# One process imports everything; those that are killed are forked from it, and use no device.
KILLS = """
import itertools, json, os, random, signal, sys, time
import jax, numpy as np, safetensors.numpy
import jaxlstm
from jaxlstm import convert

shapes = jax.eval_shape(lambda: jaxlstm.init(jax.random.key(0), jaxlstm.gru, 64, 128))
tree = lambda n: {"rnn": jax.tree.map(lambda a: np.full(a.shape, n, a.dtype), shapes), "n": n}
path, rng, seen = sys.argv[1], random.Random(0), set()
convert.save(path, tree(0))
for kill in range(200):
    pid = os.fork()
    if not pid:
        for n in itertools.count(1000 * kill):
            convert.save(path, tree(n))
    time.sleep(rng.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with safetensors.safe_open(path, "numpy") as f:
        n = json.loads(f.metadata()["values"])["n"]
        arrays = {name: f.get_tensor(name) for name in f.keys()}
    assert arrays.keys() == {"rnn.w", "rnn.r", "rnn.b", "rnn.recurrent_bias"}, arrays.keys()
    assert all((a == n).all() for a in arrays.values()), n
    seen.add(n)
found = convert.load(path)
assert found["n"] == n
convert.save(path, found)
left = os.listdir(os.path.dirname(path))
assert left == [os.path.basename(path)], left
print(len(seen))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_two_hundred_kills_lose_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "a")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # kills came after saves too


@pytest.mark.parametrize("call", [convert.to_dict, lambda tree: convert.save("x", tree)])
def test_keys_that_jax_cannot_sort(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be able to sort the keys of a dict"):
        call({"lstm": {1: np.ones(2), "1": np.ones(2)}})
