"""What `save` does to a folder: one file, whole, of the mode that it had, and nothing beside it."""

import dataclasses
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert, wrappers
from jaxlstm.convert._files import file
from networks import network
from test_convert_files import equal, mine

pytest.importorskip("safetensors")
posix = pytest.mark.skipif(os.name != "posix", reason="modes, fifos and links of POSIX")
PARAMS = network(jaxlstm.rnn)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@posix
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o664, 0o400])
def test_the_mode_of_what_is_replaced_is_kept(kept, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(kept)
    convert.save(path, PARAMS)
    assert mode(path) == kept
    equal(convert.load(path), PARAMS)


@posix
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            convert.save(tmp_path / "a", PARAMS)
            (tmp_path / "b").write_bytes(b"")
        finally:
            os.umask(before)
        assert mode(tmp_path / "a") == mode(tmp_path / "b") == 0o666 & ~mask
        (tmp_path / "a").unlink()
        (tmp_path / "b").unlink()


@posix
def test_what_is_secret_is_so_while_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o600)
    seen = []
    at = lambda *_: seen.extend(mode(p) for p in tmp_path.glob("*.tmp"))
    monkeypatch.setattr(file, "_like", at)
    convert.save(tmp_path / "a", PARAMS)
    assert seen == [0o600]


@posix
def test_the_owner_is_kept_where_that_is_allowed(tmp_path):
    if os.geteuid():
        pytest.skip("only root gives files away")
    (tmp_path / "a").write_bytes(b"old")
    os.chown(tmp_path / "a", 1234, 2345)
    convert.save(tmp_path / "a", PARAMS)
    found = (tmp_path / "a").stat()
    assert (found.st_uid, found.st_gid) == (1234, 2345)


KILLED = """
import os, signal, sys
from jaxlstm.convert._files import file
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
file.replace(sys.argv[1], b"half")
"""


@posix
def test_what_a_kill_leaves_the_next_save_removes(tmp_path):
    convert.save(tmp_path / "a", PARAMS)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    assert done.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name != "a"]
    assert len(left) == 1
    assert re.fullmatch(r"a\.[0-9a-f]{16}\.tmp", left[0])
    equal(convert.load(tmp_path / "a"), PARAMS)
    others = [f"ab.{'0' * 16}.tmp", "a.tmp", "a.old.tmp", f"a.{'0' * 16}.tmp.kept"]
    for name in others:
        (tmp_path / name).write_bytes(b"another's")
    (tmp_path / f"a.{'1' * 16}.tmp").mkdir()  # no file, so none that `save` wrote
    convert.save(tmp_path / "a", PARAMS)
    assert names(tmp_path) == sorted(["a", f"a.{'1' * 16}.tmp", *others])


@posix
def test_a_writer_that_lives_keeps_its_file(tmp_path):
    pytest.importorskip("fcntl")
    f = file._temporary(str(tmp_path / "a"), 0o600)
    convert.save(tmp_path / "a", PARAMS)
    assert names(tmp_path) == ["a", pathlib.Path(f.name).name]
    f.close()
    convert.save(tmp_path / "a", PARAMS)
    assert names(tmp_path) == ["a"]


def test_many_writers_of_one_path(tmp_path):
    path, failed = tmp_path / "a", []
    contents = [bytes([k]) * 4096 for k in range(4)]

    def write(content):
        try:
            for _ in range(25):
                file.replace(path, content)
        except BaseException as e:  # of a thread, which would be lost
            failed.append(e)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["a" * 250, "ö" * 125, "日本" * 41, "a b.c..d ", "-", "[x]*"])
def test_any_name_that_the_system_takes(name, tmp_path):
    for _ in range(2):
        convert.save(tmp_path / name, PARAMS)
        equal(convert.load(tmp_path / name), PARAMS)
        assert names(tmp_path) == [name]


class Path:
    """A path as another library has it."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.mark.parametrize("kind", [str, os.fsencode, Path, pathlib.Path, lambda p: Path(p.encode())])
def test_any_kind_of_path(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "a"), "a"):
        convert.save(kind(path), PARAMS)
        equal(convert.load(kind(path)), PARAMS)
        assert names(tmp_path) == ["a"]
        (tmp_path / "a").write_bytes(b"{}")
        with pytest.raises(convert.FileError, match="at least 8 bytes") as error:
            convert.load(kind(path))
        assert error.value.file == path


@posix
def test_a_name_that_is_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff"
    try:
        open(path, "wb").close()
    except OSError:
        pytest.skip("names are text here")
    convert.save(path, PARAMS)
    equal(convert.load(path), PARAMS)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff"]


@posix
def test_links_stay(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for target in ("there", "not there"):
        if target == "there":
            (folder / target).write_bytes(b"old")
            (folder / target).chmod(0o640)
        (tmp_path / "link").symlink_to(folder / target)
        (tmp_path / "link to a link").symlink_to("link")
        convert.save(tmp_path / "link to a link", PARAMS)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "link to a link").is_symlink()
        equal(convert.load(folder / target), PARAMS)
        equal(convert.load(tmp_path / "link"), PARAMS)
        (tmp_path / "link").unlink()
        (tmp_path / "link to a link").unlink()
    assert mode(folder / "there") == 0o640
    assert names(folder) == ["not there", "there"]


@posix
def test_a_ring_of_links_is_no_path(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        convert.save(tmp_path / "a", PARAMS)
    with pytest.raises(OSError, match="symbolic links"):
        convert.load(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


@posix
def test_what_is_no_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to fifo").symlink_to("fifo")
    (tmp_path / "to folder").symlink_to("folder")
    cases = {"fifo": "a fifo", "folder": "a directory", "to fifo": "a fifo"}
    cases |= {"to folder": "a directory", ".": "a directory", "/dev/null": "a device"}
    with socket.socket(socket.AF_UNIX) as s:
        if len(str(tmp_path)) < 90:  # a limit of the system
            s.bind(str(tmp_path / "socket"))
            cases["socket"] = "a socket"
        before = names(tmp_path)
        for name, message in cases.items():
            with pytest.raises(convert.FileError, match=f"to replace; found {message}"):
                convert.save(tmp_path / name, PARAMS)
            with pytest.raises(convert.FileError, match=f"a regular file; found {message}"):
                convert.load(tmp_path / name)
            assert names(tmp_path) == before
    with pytest.raises(convert.FileError, match="the path of a file; found that of a directory"):
        convert.save(f"{tmp_path}/new/", PARAMS)
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert.save(tmp_path / "no folder" / "a", PARAMS)
    with pytest.raises(NotADirectoryError):
        convert.save(tmp_path / "fifo" / "a", PARAMS)
    for path in (3, None, ["a"]):
        for call in (lambda path: convert.save(path, PARAMS), convert.load):
            with pytest.raises(TypeError):
                call(path)
    assert names(tmp_path) == before


@posix
def test_onnx_files_are_written_so_too(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o640)
    params = network(jaxlstm.lstm, dtype="float32")
    convert.to_onnx(params, tmp_path / "a")
    assert mode(tmp_path / "a") == 0o640
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(convert.FileError, match="found a fifo"):
        convert.to_onnx(params, tmp_path / "fifo")


# what comes back must be equal, and of the same types: a list is no tuple, and 1.0 no 1
OPTIONS = [
    ["hard_sigmoid", 0.25, 0.5],
    ("hard_sigmoid", 0.25, 0.5),
    ("a", ["b", ("c", [], ())]),
    [],
    (),
    1,
    1.0,
    -0.0,
    True,
    2**1023,
    -(2**63) - 1,
    5e-324,
    float("inf"),
    float("-inf"),
    None,
    "\ud800\0ö",
]


def alike(a, b):
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@jaxlstm.gated_cell("h", jaxlstm.HiddenState)
def optional(s, u, v, *, option="none"):
    return (jnp.tanh(u + v)[0],)


@pytest.mark.parametrize("option", OPTIONS, ids=repr)
def test_an_option_comes_back_as_it_was(option, tmp_path):
    params = network(jaxlstm.rnn)._replace(cell=optional(option=option))
    cells = {"optional": optional}
    convert.save(tmp_path / "a", params, cells=cells)
    found = convert.load(tmp_path / "a", cells=cells)
    equal(found, params)
    assert alike(found.cell.options, params.cell.options)
    # A name may be that of a cell with options: they are no part of what it stands for.
    based = {"optional": optional(option=7)}
    convert.save(tmp_path / "a", params, cells=based)
    equal(convert.load(tmp_path / "a", cells=based), params)
    equal(convert.load(tmp_path / "a", cells=cells), params)


@pytest.mark.parametrize("option", [2**1024, 1j, [10**5000], [[[]] * 2, 1j]], ids=type)
def test_an_option_that_a_file_cannot_hold(option, tmp_path):
    params = network(jaxlstm.rnn)._replace(cell=optional(option=option))
    with pytest.raises(ValueError, match="an option must be a number"):
        convert.save(tmp_path / "a", params, cells={"optional": optional})
    assert names(tmp_path) == []


def test_a_list_of_layers_stays_a_list(tmp_path):
    first, second = (jaxlstm.init(jax.random.key(k), jaxlstm.gru, 4, 4) for k in (0, 1))
    for layers in ([first, second], (first, second)):
        params = jaxlstm.Stack(layers)
        convert.save(tmp_path / "a", params)
        found = convert.load(tmp_path / "a")
        assert type(found.layers) is type(layers)
        equal(found, params)


def test_a_limit_that_is_none(tmp_path):
    params = wrappers.clip_gradient(PARAMS, float("inf"))
    convert.save(tmp_path / "a", params)
    equal(convert.load(tmp_path / "a"), params)


def test_a_cell_whose_declaration_was_changed_is_another_cell(tmp_path):
    changed = dataclasses.replace(jaxlstm.lstm, recurrent_bias=True)
    params = jaxlstm.init(jax.random.key(0), changed, 3, 5)
    with pytest.raises(ValueError, match="none of jaxlstm's own"):
        convert.save(tmp_path / "a", params)
    convert.save(tmp_path / "a", params, cells={"changed": changed})
    equal(convert.load(tmp_path / "a", cells={"changed": changed}), params)


class Pair(NamedTuple):
    """A state of one's own."""

    h: jax.Array
    memory: jax.Array


@jaxlstm.gated_cell("h", Pair)
def pair(s, u, v):
    h = jnp.tanh(u + v)[0]
    return h, s.memory + h


def test_the_state_of_a_cell_of_ones_own(tmp_path):
    params = wrappers.learn_initial_state(network(pair))
    convert.save(tmp_path / "a", params, cells={"pair": pair})
    found = convert.load(tmp_path / "a", cells={"pair": pair})
    equal(found, params)
    assert type(found.state) is Pair


@pytest.mark.parametrize("cells", [[mine], {3: mine}, {"mine": "lstm"}, 3])
def test_what_names_cells_must_map_names_to_cells(cells, tmp_path):
    for call in (
        lambda: convert.save(tmp_path / "a", PARAMS, cells=cells),
        lambda: convert.load(tmp_path / "a", cells=cells),
    ):
        with pytest.raises(TypeError, match="`cells` must map names to cells"):
            call()


TREES = {
    "one array": jnp.ones(3),
    "no axes": {"a": jnp.ones(())},
    "no elements": {"a": np.ones((0, 10**6)), "b": np.ones((3, 0)), "c": np.ones(2)},
    "a number of NumPy": {"a": np.float32(3)},
    "another byte order": {"a": np.arange(3, dtype=">f4"), "b": np.arange(3, dtype=">i8")},
    "another order": {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
    "strided": {"a": np.arange(12, dtype=jnp.bfloat16).reshape(3, 4)[::-1, ::2]},
    "many axes": {"a": np.ones((1,) * 40)},
    "bool": {"a": np.array([True, False])},
    "integers": {f"{k}{n}": np.array([0, 100], f"{k}{n}") for k in "iu" for n in (1, 2, 4, 8)},
    "odd names": {"": np.ones(1), "ö\0\n\"": np.ones(2), "a b": np.ones(3)},
    "nan": {"a": np.array([np.nan, -np.nan, np.inf, -0.0])},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_any_tree_of_arrays(name, tmp_path):
    tree = TREES[name]
    convert.save(tmp_path / "a", tree, architecture=False)
    found = convert.load(tmp_path / "a", like=tree)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(np.asarray(x), y)
        assert x.dtype == np.dtype(y.dtype).newbyteorder("=")


NO_TREES = {
    "a complex number": ({"a": 3j}, TypeError, "`a` must be an array, .*; got 3j, a complex"),
    "bytes": ({"a": b"b"}, TypeError, "`a` must be an array, .*; got b'b', a bytes"),
    "an object": ({"a": Path("b")}, TypeError, "`a` must be an array, a number or a string; got"),
    "a mask": ({"a": np.ma.array([1.0], mask=[1])}, TypeError, "`a` is a masked array"),
    "digits": ({"a": 2**1024}, ValueError, "`a` must be a whole number of at most 1024 bits"),
    "complex": ({"a": np.ones(3, complex)}, TypeError, "`a` must be of a dtype of .*complex128"),
    "float8": ({"a": jnp.ones(3, "float8_e4m3fn")}, TypeError, "of a dtype of .*float8_e4m3fn"),
    "objects": ({"a": np.array([None])}, TypeError, "`a` must be of a dtype of .*object"),
    "no values": (jax.eval_shape(lambda: {"a": jnp.ones(3)}), TypeError, "`a` must be"),
    "its own name": ({"__metadata__": np.ones(3)}, ValueError, "keeps it for its own"),
    "no text": ({"\ud800": np.ones(3)}, ValueError, "must be text"),
    "one path": ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, ValueError, "the one key path"),
}


@pytest.mark.parametrize("name", NO_TREES)
def test_what_is_no_tree_of_arrays(name, tmp_path):
    tree, kind, message = NO_TREES[name]
    with pytest.raises(kind, match=message) as error:
        convert.save(tmp_path / "a", tree, architecture=False)
    assert type(error.value) is kind
    assert names(tmp_path) == []


def test_a_likeness_must_hold_arrays(tmp_path):
    convert.save(tmp_path / "a", {"a": np.ones(3)}, architecture=False)
    with pytest.raises(TypeError, match="`like` must hold arrays; `a` is a bytes"):
        convert.load(tmp_path / "a", like={"a": b""})
    with pytest.raises(convert.FileError, match="`a`: expected float; found none of this name"):
        convert.load(tmp_path / "a", like={"a": 3.0})
    with pytest.raises(TypeError, match="`like` must hold arrays; `a` is a float"):
        convert.from_dict({"a": np.ones(3)}, like={"a": 3.0})
    with pytest.raises(TypeError, match="`arrays` must map key paths to arrays; got a list"):
        convert.from_dict([np.ones(3)], like={"a": np.ones(3)})


def test_a_network_in_another_byte_order(tmp_path):
    swapped = jax.tree.map(lambda a: np.asarray(a).astype(">f8"), PARAMS)
    convert.save(tmp_path / "a", swapped)
    equal(convert.load(tmp_path / "a"), PARAMS)


@pytest.mark.parametrize("keys", [(True, False), (1.5,), ((1, 2),), (None,)], ids=str)
def test_a_dict_whose_keys_a_file_cannot_hold(keys, tmp_path):
    with pytest.raises(ValueError, match="must all be strings, or all whole numbers; got"):
        convert.save(tmp_path / "a", {"in": dict.fromkeys(keys, 1)})
    assert names(tmp_path) == []


def test_architecture_is_a_flag(tmp_path):
    with pytest.raises(TypeError):
        convert.save(tmp_path / "a", network(jaxlstm.gru), architecture="no")
    assert names(tmp_path) == []
