"""The header of a safetensors file, believed in nothing until it is checked."""

import json
import math
import reprlib
import stat
from typing import BinaryIO, NamedTuple, NoReturn, TypeAlias

import ml_dtypes
import numpy as np
from jaxtyping import PyTree

LIMIT = 100_000_000  # bytes of a header, as safetensors has it
AXES = 64  # as NumPy has it

# what other files start with, so that an error can say what was given
STARTS = {
    **{bytes([0x80, n]): "a pickle, which is never loaded" for n in (2, 3, 4, 5)},
    b"PK\x03\x04": "a zip archive, as `.npz` and `.pt` are",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an array of NumPy, `.npy`",
    b"version ": "a pointer of Git LFS, in place of the file",
}
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a fifo",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{n}": np.dtype(f"float{n}") for n in (16, 32, 64)},
    **{f"I{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)},
    **{f"U{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
}


Json: TypeAlias = PyTree  # dicts, lists, strings and numbers


class FileError(ValueError):
    """A file that cannot be loaded: which file, which tensor, what was expected and found."""

    def __init__(self, file: str, tensor: str | None, expected: str, found: str) -> None:
        self.file, self.tensor, self.expected, self.found = file, tensor, expected, found
        where = f"`{short(file, 5000)}`"
        where += "" if tensor is None else f", tensor `{short(tensor)}`"
        expected, found = short(expected, 1000), short(found, 1000)
        super().__init__(f"{where}: expected {expected}; found {found}.")

    def __reduce__(self) -> tuple[type["FileError"], tuple[str | None, ...]]:
        return FileError, (self.file, self.tensor, self.expected, self.found)


class Tensor(NamedTuple):
    """What a header says of one tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 12


def short(value: object, length: int = 100) -> str:
    """A value as an error shows it, which is bounded whatever the value, and can be printed."""
    try:
        text = value if isinstance(value, str) else _REPR.repr(value)
    except Exception:  # such as that of a number of 5000 digits
        text = f"a {type(value).__name__}"
    text = text if len(text) <= length else text[: length - 3] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


def kind(mode: int) -> str:
    """What stands at a path that is no regular file, from its mode."""
    return KINDS.get(stat.S_IFMT(mode), "something else")


def parsed(file: str, what: str, text: str | bytes) -> Json:
    """JSON without duplicate names, NaN, or more depth than Python has."""

    def once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for name, value in pairs:
            if name in found:
                raise FileError(file, name, f"one entry of this name in {what}", "several")
            found[name] = value
        return found

    def no_number(value: str) -> NoReturn:
        raise FileError(file, None, f"finite numbers in {what}", value)

    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except FileError:
        raise
    except (ValueError, RecursionError) as e:
        raise FileError(file, None, f"{what} in JSON", short(str(e) or type(e).__name__)) from None


def read(file: str, f: BinaryIO, size: int) -> tuple[dict[str, str], dict[str, Tensor], bytes]:
    """The metadata, the tensors, and the bytes of the header of a file of so many bytes."""
    head = _head(file, f, size)
    header = parsed(file, "the header", head[8:])
    metadata, tensors = _checked(file, header, size - len(head))
    return metadata, tensors, head


def _head(file: str, f: BinaryIO, size: int) -> bytes:
    """The length of the header and the header."""
    start = f.read(8)
    length, most = int.from_bytes(start, "little"), min(size - 8, LIMIT)
    text = f.read(length) if len(start) == 8 and length <= most else b""
    if not text.startswith(b"{"):
        # Only now, since any eight bytes are a length, including those that start a pickle.
        for beginning, kind in STARTS.items():
            if start.startswith(beginning):
                raise FileError(file, None, "a safetensors file", kind)
        if len(start) < 8:
            raise FileError(file, None, "at least 8 bytes", f"{len(start)}")
        if length > most:
            limit = f"a header of at most {most} bytes (the file has {size})"
            raise FileError(file, None, limit, f"one that claims {length}")
    return start + text


def _checked(file: str, header: Json, size: int) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not isinstance(header, dict):
        raise FileError(file, None, "a header that maps names to tensors", short(header))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileError(file, None, "metadata that maps names to strings", short(metadata))
    tensors = {name: _tensor(file, name, entry) for name, entry in header.items()}
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            expected = f"bytes from {at}, where the tensor before it ends"
            raise FileError(file, name, expected, f"bytes from {tensor.start}")
        at = tensor.end
    if at != size:
        raise FileError(file, None, f"{at} bytes of tensors", f"{size}")
    return metadata, tensors


def _tensor(file: str, name: str, entry: Json) -> Tensor:
    keys = ["data_offsets", "dtype", "shape"]
    if not isinstance(entry, dict) or sorted(entry) != keys:
        raise FileError(file, name, f"an entry of {keys}", short(entry))
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise FileError(file, name, f"a dtype of {sorted(DTYPES)}", short(entry["dtype"]))
    shape = _sizes(file, name, "shape", entry["shape"])
    offsets = _sizes(file, name, "data_offsets", entry["data_offsets"])
    if len(shape) > AXES or len(offsets) != 2:
        expected = f"at most {AXES} axes and two offsets"
        raise FileError(file, name, expected, f"{len(shape)} and {len(offsets)}")
    start, end = offsets
    expected = math.prod(shape) * dtype.itemsize
    if end - start != expected:
        expected_bytes = f"{expected} bytes for {dtype}{list(shape)}"
        raise FileError(file, name, expected_bytes, f"the bytes {start} to {end}")
    return Tensor(dtype, shape, start, end)


def _sizes(file: str, name: str, what: str, value: Json) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**63 for n in value):
        raise FileError(file, name, f"a list of sizes as its {what}", short(value))
    return tuple(value)
