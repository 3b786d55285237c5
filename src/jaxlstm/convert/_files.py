"""Our own files: safetensors with the architecture as data, written whole or not at all."""

import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._cell import Cell
from ._architecture import Reader, described, known_cells
from ._extra import extra
from ._header import DTYPES, FileError, Tensor, parsed, read, short
from ._paths import from_dict, named_leaves, to_dict

FORMAT, VERSION = "jaxlstm", 1


def save(
    path: str | os.PathLike[str],
    params: Any,
    *,
    cells: Mapping[str, Cell] | None = None,
    architecture: bool = True,
) -> None:
    """Writes a network into one safetensors file, with its architecture as data.

    The file is written beside its place and then moved there, so that a kill at any instant
    leaves the old file or the new one.  Weights are named by key path, as in `to_dict`, and
    any reader of safetensors can read them.

    Args:
        path: of the file; what stands there is replaced.
        params: what `init` returns, built of the library's own nodes.
        cells: names for cells of your own, which `load` must be given again.
        architecture: False writes the arrays of any tree at all, for `load(path, like=...)`.

    Raises:
        ValueError, TypeError: a cell or a node that a file cannot describe, a network that
            `load` would refuse, or a leaf that is no array of numbers.
        ImportError: safetensors is missing: `pip install 'jaxlstm[safetensors]'`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5, layers=2)
    convert.save("network.safetensors", params)
    again = convert.load("network.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(params)
    ```
    """
    numpy = extra("safetensors.numpy", "safetensors")
    metadata = {"format": FORMAT, "version": str(VERSION)}
    if architecture:
        data = described(params, known_cells(cells))
        metadata["architecture"] = json.dumps(data, separators=(",", ":"), allow_nan=False)
        _network(os.fspath(path), metadata, cells)  # what cannot be loaded is not written
    arrays = {}
    for name, a in to_dict(params).items():
        if a.dtype not in DTYPES.values():
            raise TypeError(f"`{name}` must be of a dtype of {sorted(DTYPES)}; got {a.dtype}.")
        arrays[name] = a if a.flags.c_contiguous else a.copy()
    replace(os.path.realpath(path), numpy.save(arrays, metadata))


def replace(path: str, content: bytes) -> None:
    """Writes a file of the same folder to the disk, then moves it to its place in one step."""
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if os.name == "posix":  # the move itself, which is an entry of the folder
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(
    path: str | os.PathLike[str], *, like: Any = None, cells: Mapping[str, Cell] | None = None
) -> Any:
    """Reads what `save` wrote.

    Nothing in the file is run: it names cells of this library, or of `cells`, and its options
    are plain data.  It is read once, and the memory that it takes is bounded by its size.

    Args:
        path: of the file.
        like: a tree of the same key paths, shapes and dtypes, which the arrays are put into.
            The architecture in the file is not looked at then, so that the cells and nodes
            may be of your own.
        cells: names to cells of your own, as they were given to `save`.

    Returns:
        The network.

    Raises:
        FileError: the file is not what `save` writes: which file, which tensor, what was
            expected and what came.
        TypeError: the dtype is one that JAX would truncate.
        ImportError: safetensors is missing: `pip install 'jaxlstm[safetensors]'`.
    """
    deserialize = extra("safetensors", "safetensors").deserialize
    file = os.fspath(path)
    metadata, tensors, content = read(file)
    _check_version(file, metadata)
    network = _network(file, metadata, cells) if like is None else like
    _check_names(file, tensors, named_leaves(network))
    try:
        raw = {name: entry["data"] for name, entry in deserialize(content)}
    except Exception as e:  # JSON that Python takes and safetensors does not, such as -0
        raise FileError(file, None, "what safetensors reads", short(str(e))) from None
    arrays = {k: np.frombuffer(raw[k], t.dtype).reshape(t.shape) for k, t in tensors.items()}
    return from_dict(arrays, network)


def _check_version(file: str, metadata: Mapping[str, str]) -> None:
    found, version = metadata.get("format"), metadata.get("version", "none")
    if found != FORMAT:
        raise FileError(file, None, "a file that `jaxlstm.convert.save` wrote", f"format {found}")
    if version != str(VERSION):
        raise FileError(file, None, f"version {VERSION}", f"version {short(version)}")


def _network(file: str, metadata: Mapping[str, str], cells: Mapping[str, Cell] | None) -> Any:
    if "architecture" not in metadata:
        raise FileError(file, None, "an architecture, or `like=` in its place", "weights alone")
    known = known_cells(cells)
    data = parsed(file, "the architecture", metadata["architecture"])
    reader = Reader(file, known)
    try:
        network = reader.build(data)
    except FileError:
        raise
    except Exception as e:  # options are another's data, and a cell may refuse them in any way
        said = short(f"{type(e).__name__}: {e}")
        raise FileError(file, None, "an architecture that can be built", said) from None
    if not reader.runs(network):
        said = "a network (of another tree, the weights alone: `architecture=False`, `like=`)"
        raise FileError(file, None, said, type(network).__name__)
    reader.check_run(network)
    return network


def _check_names(file: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Any]) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        a, t = expected.get(name), tensors.get(name)
        wanted = "no tensor of this name" if a is None else f"{a.dtype}{list(a.shape)}"
        found = "none" if t is None else f"{t.dtype}{list(t.shape)}"
        if wanted != found:
            raise FileError(file, name, wanted, found)
