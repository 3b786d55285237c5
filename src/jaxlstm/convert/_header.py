"""The header of a safetensors file, believed in nothing until it is checked."""

import json
import math
import os
import stat
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

LIMIT = 16 * 2**20  # bytes of a header; a network of a thousand layers has less than one MiB

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{n}": np.dtype(f"float{n}") for n in (16, 32, 64)},
    **{f"I{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)},
    **{f"U{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
}


class FileError(ValueError):
    """A file that cannot be loaded: which file, which tensor, what was expected, what came."""

    def __init__(self, file: str, tensor: str | None, expected: str, found: str) -> None:
        self.file, self.tensor, self.expected, self.found = file, tensor, expected, found
        where = f"`{file}`" if tensor is None else f"`{file}`, tensor `{tensor}`"
        super().__init__(f"{where}: expected {expected}; found {found}.")

    def __reduce__(self) -> Any:
        return FileError, (self.file, self.tensor, self.expected, self.found)


class Tensor(NamedTuple):
    """What a header says of one tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def short(value: Any) -> str:
    """A value as an error shows it."""
    said = repr(value) if not isinstance(value, str) else value
    return said if len(said) <= 100 else said[:97] + "..."


def parsed(file: str, what: str, text: str | bytes) -> Any:
    """JSON without duplicate names, NaN, or more depth than Python has."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise FileError(file, name, f"one entry of this name in {what}", "several")
            found[name] = value
        return found

    def no_number(value: str) -> Any:
        raise FileError(file, None, f"finite numbers in {what}", value)

    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except FileError:
        raise
    except (ValueError, RecursionError) as e:
        raise FileError(file, None, f"{what} in JSON", short(str(e) or type(e).__name__)) from None


def read(path: str) -> tuple[dict[str, str], dict[str, Tensor], bytes]:
    """The metadata, the tensors and the whole content of a file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileError(path, None, "a regular file", "something else")
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        head = _head(path, f, size)
        header = parsed(path, "the header", head[8:])
        metadata, tensors = _checked(path, header, size - len(head))
        content = head + f.read(size - len(head))
    if len(content) != size:
        raise FileError(
            path, None, f"{size} bytes", f"{len(content)}: it changed while it was read"
        )
    return metadata, tensors, content


def _head(file: str, f: BinaryIO, size: int) -> bytes:
    """The length of the header and the header."""
    start = f.read(8)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise FileError(file, None, "a safetensors file", "a pickle, which is never loaded")
    if start[:4] == b"PK\x03\x04":
        raise FileError(file, None, "a safetensors file", "a zip archive, as `.npz` and `.pt` are")
    if len(start) < 8:
        raise FileError(file, None, "at least 8 bytes", f"{len(start)}")
    length = int.from_bytes(start, "little")
    if length > min(size - 8, LIMIT):
        most = f"a header of at most {min(size - 8, LIMIT)} bytes (the file has {size})"
        raise FileError(file, None, most, f"one that claims {length}")
    return start + f.read(length)


def _checked(file: str, header: Any, size: int) -> tuple[dict[str, str], dict[str, Tensor]]:
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


def _tensor(file: str, name: str, entry: Any) -> Tensor:
    keys = ["data_offsets", "dtype", "shape"]
    if not isinstance(entry, dict) or sorted(entry) != keys:
        raise FileError(file, name, f"an entry of {keys}", short(entry))
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise FileError(file, name, f"a dtype of {sorted(DTYPES)}", short(entry["dtype"]))
    shape = _sizes(file, name, "shape", entry["shape"])
    offsets = _sizes(file, name, "data_offsets", entry["data_offsets"])
    if len(shape) > 32 or len(offsets) != 2:
        expected = "at most 32 axes and two offsets"
        raise FileError(file, name, expected, f"{len(shape)} and {len(offsets)}")
    start, end = offsets
    expected = math.prod(shape) * dtype.itemsize
    if end - start != expected:
        said = f"{expected} bytes for {dtype}{list(shape)}"
        raise FileError(file, name, said, f"the bytes {start} to {end}")
    return Tensor(dtype, shape, start, end)


def _sizes(file: str, name: str, what: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**63 for n in value):
        raise FileError(file, name, f"a list of sizes as its {what}", short(value))
    return tuple(value)
