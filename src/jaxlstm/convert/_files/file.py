"""Our own files: safetensors with the architecture as data, written whole or not at all."""

import contextlib
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from typing import BinaryIO

import jax
import numpy as np
from jaxtyping import PyTree

try:
    import fcntl
except ImportError:  # where an open file cannot be removed, and needs no lock
    fcntl = None

from ... import __version__, _flax
from ..._cell import Cell
from ..._node import Node
from ..._options import flag
from .._arrays import loaded
from .._extra import extra
from .architecture import Reader, described, known_cells
from .header import DTYPES, FileError, Tensor, kind, parsed, read, short
from .leaves import (
    check,
    is_key,
    is_value,
    metadata_of,
    read_implementations,
    read_values,
    stored,
    wrapped,
)
from .paths import likeness, named_leaves, native, weights

# The first version holds a network, or arrays alone; the second any tree around networks.
FORMAT, VERSIONS = "jaxlstm", ("1", "2")


def save(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    params: PyTree,
    *,
    cells: Mapping[str, Cell] | None = None,
    architecture: bool = True,
) -> None:
    """Writes a network, or a tree around networks, into one safetensors file.

    The architecture is stored as data.  The tree around networks may contain dicts, lists and
    tuples of arrays, keys of `jax.random`, numbers, strings and None: an embedding and a readout,
    or the current training step.  64-bit arrays of NumPy are kept as they are.

    The file is written under a temporary name and then renamed, so that if the process is killed,
    either the old file or the new one is there.  The next `save` to this path removes temporary
    files, `*.tmp`, that were left behind.  Weights are named by key path, as in `to_dict`, and any
    reader of safetensors can read them.

    Args:
        path: the file; an existing file is replaced, and the new one has its mode.  If the path
            is a link, the link stays.
        params: what `init` returns, built from nodes of this library; or a tree that contains
            such networks.
        cells: names for cells of your own, which must be passed to `load` again.
        architecture: False stores only the leaves, of any tree, for `load(path, like=...)`: a
            tree with the state of an optimizer, or with classes of your own.

    Raises:
        ValueError: a file cannot describe a cell or a node, or `load` would refuse the network;
            as a `FileError`, there is something other than a file at the path.
        TypeError: a leaf is not an array, key, number or string.
        OSError: the file cannot be written.
        ImportError: safetensors is missing: `pip install 'jaxlstm[safetensors]'`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5, layers=2)
    convert.save("network.safetensors", params)
    again = convert.load("network.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(params)

    model = {"embed": jnp.zeros((90, 3)), "rnn": params, "step": 100, "key": jax.random.key(1)}
    convert.save("model.safetensors", model)
    again = convert.load("model.safetensors")
    assert again["step"] == 100
    ```
    """
    numpy = extra("safetensors.numpy", "safetensors")
    file, known = os.fsdecode(path), known_cells(cells)
    architecture = flag("architecture", architecture)
    leaves = named_leaves(params)
    arrays = {name: _array(name, a) for name, a in leaves.items() if not is_value(a)}
    more = metadata_of(leaves)
    plain = not more and (isinstance(params, Node) or not architecture)
    metadata = {"format": FORMAT, "version": VERSIONS[0] if plain else VERSIONS[1], **more}
    metadata["jaxlstm"] = __version__
    if architecture:
        shown = [a if is_key(a) else arrays.get(name, a) for name, a in leaves.items()]
        data = described(jax.tree.unflatten(jax.tree.structure(params), shown), known)
        metadata["architecture"] = json.dumps(data, separators=(",", ":"), allow_nan=False)
    content = numpy.save(arrays, metadata)
    # What cannot be loaded is not written.
    metadata, tensors, _ = read(file, io.BytesIO(content), len(content))
    if architecture:
        _tree(file, metadata, tensors, len(content), known)
    replace(file, content)


def _place(file: str) -> tuple[str, os.stat_result | None]:
    """The path that is written to, behind all links, and what is known of the file there."""
    place = os.path.realpath(file)
    if not os.path.basename(file):
        raise FileError(file, None, "the path of a file", "that of a directory")
    try:
        old = os.stat(file)
    except FileNotFoundError:
        os.stat(os.path.join(os.path.dirname(place), "."))  # the error names what is missing
        return place, None
    if not stat.S_ISREG(old.st_mode):
        raise FileError(file, None, "a regular file, or nothing, to replace", kind(old.st_mode))
    return place, old


def _array(name: str, leaf: PyTree) -> np.ndarray:
    """A leaf as safetensors stores it: contiguous, in the byte order of this machine."""
    if name == "__metadata__":
        raise ValueError("`__metadata__` is no name for weights: safetensors keeps it for its own.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the key path {name!a} must be text that UTF-8 can hold.") from None
    if not hasattr(leaf, "dtype"):
        raise TypeError(
            f"`{name}` must be an array, a number or a string; got {short(leaf)}, a "
            f"{type(leaf).__name__}."
        )
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array, and files have no masks: pass `.filled(0)`.")
    try:
        a = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    except (TypeError, ValueError, RuntimeError) as e:
        raise TypeError(f"`{name}` must be an array of numbers; got {leaf.dtype}: {e}") from None
    if native(a.dtype) not in DTYPES.values():
        raise TypeError(f"`{name}` must be of a dtype of {sorted(DTYPES)}; got {a.dtype}.")
    return np.asarray(a, native(a.dtype), order="C")


def replace(file: str | bytes | os.PathLike[str] | os.PathLike[bytes], content: bytes) -> None:
    """Writes a file of the same folder to the disk, then moves it to its place in one step."""
    path, old = _place(os.fsdecode(file))
    folder, name = os.path.split(path)
    # Leaves room for a suffix.  Two long names may then begin alike; locks tell them apart.
    stem = os.path.join(folder, os.fsencode(name)[:100].decode("utf-8", "ignore"))
    _clean(folder, os.path.basename(stem))
    f = _temporary(stem, 0o666 if old is None else 0o600)
    try:
        with f:
            f.write(content)
            if old is not None:
                _like(f.name, old)
            f.flush()
            os.fsync(f.fileno())
            if fcntl is None:
                f.close()  # where an open file cannot be moved
            os.replace(f.name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f.name)
        raise
    if os.name == "posix":  # the move itself, which is an entry of the folder
        with contextlib.suppress(OSError):  # some cannot be opened, or know no such thing
            at = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(at)
            finally:
                os.close(at)


def _temporary(stem: str, mode: int) -> BinaryIO:
    """A new file of this mode, locked for as long as its writer lives."""
    while True:
        path = f"{stem}.{secrets.token_hex(8)}.tmp"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        try:
            f = open(path, "r+b")  # noqa: SIM115
        except FileNotFoundError:  # another writer took it for one that was left
            continue
        except BaseException:
            os.unlink(path)
            raise
        if fcntl is None:
            return f
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(f, fcntl.LOCK_EX)
        if os.fstat(f.fileno()).st_nlink:  # no other writer was there before the lock
            return f
        f.close()


def _clean(folder: str, stem: str) -> None:
    """Removes what killed writers of this path left: files that nobody has locked."""
    left = re.compile(re.escape(stem) + r"\.[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if left.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):  # it is locked, or another's
                    _unlink_if_free(entry.path)


def _unlink_if_free(path: str) -> None:
    if fcntl is None:
        os.unlink(path)
        return
    f = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(f)


def _like(path: str, old: os.stat_result) -> None:
    """Gives a file the owner, where that is allowed, and the mode of another."""
    new = os.stat(path)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):
            os.chown(path, old.st_uid, old.st_gid)
    os.chmod(path, stat.S_IMODE(old.st_mode))


def load(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    like: PyTree = None,
    cells: Mapping[str, Cell] | None = None,
) -> PyTree:
    """Reads what `save` wrote.

    Nothing in the file is executed: it names cells of this library, or of `cells`, and their
    options are plain data.  It is read once, and time and memory are bounded by its size: its
    header is compared with the tensors before anything is created.

    Args:
        path: the file.
        like: a tree with the same key paths, shapes and dtypes, into which the leaves are put;
            it must have a number or a string where the file has one.  The architecture in the
            file is then ignored, so that cells, nodes and other classes may be your own.
        cells: cells of your own by name, as they were passed to `save`.

    Returns:
        The network, or the tree.  Its arrays are JAX arrays; outside of networks, 64-bit arrays
        are NumPy arrays while `jax_enable_x64` is off, with every bit that was saved.

    Raises:
        FileError: `save` did not write this file; the message says which file, which tensor,
            what was expected and what was found.  It is a `ValueError`.
        TypeError: weights have a dtype that JAX would truncate, or `like` or `cells` is invalid.
        OSError: the file cannot be read, such as `FileNotFoundError`.
        ImportError: safetensors is missing: `pip install 'jaxlstm[safetensors]'`.
    """
    deserialize = extra("safetensors", "safetensors").deserialize
    _flax.register()
    file, known = os.fsdecode(path), known_cells(cells)
    likeness(like, is_value)
    mode = os.stat(file).st_mode
    if not stat.S_ISREG(mode):  # before it is opened, as a fifo waits for a writer then
        raise FileError(file, None, "a regular file", kind(mode))
    with open(file, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        metadata, tensors, head = read(file, f, size)
        _check_version(file, metadata)
        if like is None:
            like = _tree(file, metadata, tensors, size, known)
        else:
            _check_leaves(file, metadata, tensors, named_leaves(like))
        content = head + f.read(size - len(head))
    if len(content) != size:
        actual = f"{len(content)}: it changed while it was read"
        raise FileError(file, None, f"{size} bytes", actual)
    try:
        raw = {name: entry["data"] for name, entry in deserialize(content)}
    except Exception as e:  # JSON that Python takes and safetensors does not, such as -0
        raise FileError(file, None, "what safetensors reads", short(str(e))) from None
    arrays = {k: np.frombuffer(raw[k], t.dtype).reshape(t.shape) for k, t in tensors.items()}
    for name, a in arrays.items():
        if a.dtype == bool and a.size and a.view(np.uint8).max() > 1:
            raise FileError(file, name, "bytes of 0 and 1 for bool", f"{a.view(np.uint8).max()}")
    values, keys = read_values(file, metadata), read_implementations(file, metadata)

    def made(name: str, weight: bool) -> PyTree:
        if name in values:
            return values[name]
        if name in keys:
            return wrapped(keys[name], arrays[name])
        return loaded(name, arrays[name], weight)

    leaves = map(made, named_leaves(like), weights(like))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _check_version(file: str, metadata: Mapping[str, str]) -> None:
    found, version = metadata.get("format"), metadata.get("version", "none")
    if found != FORMAT:
        raise FileError(file, None, "a file that `jaxlstm.convert.save` wrote", f"format {found}")
    if version not in VERSIONS:
        expected = f"version {' or '.join(VERSIONS)}"
        raise FileError(file, None, expected, f"version {short(version)}")


def _tree(
    file: str,
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    size: int,
    known: Mapping[str, Cell],
) -> PyTree:
    """The tree that a header describes, which is that of the tensors, and whose networks run."""
    if "architecture" not in metadata:
        raise FileError(file, None, "an architecture, or `like=` in its place", "weights alone")
    data = parsed(file, "the architecture", metadata["architecture"])
    reader = Reader(file, known, metadata.get("jaxlstm", __version__))
    try:
        tree = reader.build(data)
        leaves = named_leaves(tree)
    except (FileError, MemoryError):
        raise
    except Exception as e:  # options are another's data, and a cell may refuse them in any way
        actual = short(f"{type(e).__name__}: {e}")
        raise FileError(file, None, "an architecture that can be built", actual) from None
    if metadata["version"] == VERSIONS[0] and not reader.runs(tree):
        raise FileError(file, None, "a network, of a file of version 1", type(tree).__name__)
    expected = _check_leaves(file, metadata, tensors, leaves)
    reader.check_empty(expected, size)
    reader.check_run(tree)
    return tree


def _check_leaves(
    file: str,
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    leaves: Mapping[str, PyTree],
) -> dict[str, jax.ShapeDtypeStruct]:
    """The leaves are those of the file; the tensors that they are in."""
    check(file, leaves, read_values(file, metadata), read_implementations(file, metadata))
    expected = {name: stored(a) for name, a in leaves.items() if not is_value(a)}
    _check_names(file, tensors, expected)
    return expected


def _check_names(
    file: str, tensors: Mapping[str, Tensor], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        a, t = expected.get(name), tensors.get(name)
        right = "no tensor of this name" if a is None else f"{native(a.dtype)}{list(a.shape)}"
        found = "none" if t is None else f"{t.dtype}{list(t.shape)}"
        if right != found:
            raise FileError(file, name, right, found)
