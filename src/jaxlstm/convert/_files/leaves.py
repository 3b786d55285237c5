"""The leaves of a tree that are no weights: numbers, strings, and keys of `jax.random`."""

import functools
import json
import math
from collections.abc import Mapping
from typing import TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..._types import DType, Key, Shape
from .header import FileError, Json, parsed, short

Value: TypeAlias = bool | int | float | str

VALUES: dict[str, type[Value]] = {t.__name__: t for t in (bool, int, float, str)}
IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")


def is_value(leaf: object) -> bool:
    """Whether a leaf is a number or a string of Python, which metadata hold."""
    return type(leaf) in VALUES.values()


def is_key(leaf: object) -> TypeGuard[Array]:
    """Whether a leaf is an array of keys, or its shape and dtype alone."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


@functools.cache
def _keys() -> dict[str, jax.ShapeDtypeStruct]:
    """One key of each implementation, its shape and dtype alone."""
    one = lambda name: jax.eval_shape(lambda: jax.random.key(0, impl=name))
    return {name: one(name) for name in IMPLEMENTATIONS}


def keys_like(name: str, shape: Shape) -> jax.ShapeDtypeStruct:
    """Keys of an implementation, their shape and dtype alone."""
    return jax.ShapeDtypeStruct(shape, _keys()[name].dtype)


def implementation(path: str, leaf: Array) -> str:
    """The name of the implementation of keys, by which they are wrapped again."""
    for name, one in _keys().items():
        if one.dtype == leaf.dtype:
            return name
    raise TypeError(f"`{path}` must hold keys of one of {IMPLEMENTATIONS}; got {leaf.dtype}.")


def stored(leaf: PyTree) -> jax.ShapeDtypeStruct:
    """The shape and dtype of the tensor that holds a leaf."""
    if not is_key(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return jax.ShapeDtypeStruct((*leaf.shape, *_data(leaf.dtype).shape), _data(leaf.dtype).dtype)


@functools.cache
def _data(dtype: DType) -> jax.ShapeDtypeStruct:
    """The numbers of one key, their shape and dtype alone."""
    return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), dtype))


def written(name: str, value: Value) -> Json:
    """A value as JSON has it."""
    if type(value) is float and not math.isfinite(value):
        return {"float": str(value)}
    if type(value) is int and value.bit_length() > 1024:
        raise ValueError(f"`{name}` must be a whole number of at most 1024 bits; got more.")
    return value


def read_values(file: str, metadata: Mapping[str, str]) -> dict[str, Value]:
    """The values that the metadata hold, by key path."""
    found: dict[str, Value] = {}
    for name, value in _mapping(file, metadata, "values").items():
        match value:
            case {"float": ("inf" | "-inf" | "nan") as number, **rest} if not rest:
                found[name] = float(number)
            case _ if is_value(value) and not (type(value) is float and not math.isfinite(value)):
                found[name] = value
            case _:
                raise FileError(file, name, "a number or a string", short(value))
    return found


def read_implementations(file: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """The implementations of the keys, by key path."""
    found = _mapping(file, metadata, "keys")
    for name, value in found.items():
        if value not in IMPLEMENTATIONS:
            raise FileError(file, name, f"keys of one of {IMPLEMENTATIONS}", short(value))
    return found


def _mapping(file: str, metadata: Mapping[str, str], of: str) -> dict[str, Json]:
    found = parsed(file, f"the {of}", metadata[of]) if of in metadata else {}
    if not isinstance(found, dict):
        raise FileError(file, None, f"{of} that stand under names", short(found))
    return found


def metadata_of(leaves: Mapping[str, PyTree]) -> dict[str, str]:
    """The metadata of the leaves that are no weights."""
    values = {name: written(name, a) for name, a in leaves.items() if is_value(a)}
    keys = {name: implementation(name, a) for name, a in leaves.items() if is_key(a)}
    found = {"values": values, "keys": keys}
    return {name: json.dumps(v, allow_nan=False) for name, v in found.items() if v}


def check(
    file: str,
    leaves: Mapping[str, PyTree],
    values: Mapping[str, Value],
    implementations: Mapping[str, str],
) -> None:
    """The leaves that are no weights are those of the file."""
    kinds: dict[str, str] = {}
    for name, a in leaves.items():
        if is_value(a):
            kinds[name] = type(a).__name__
        elif is_key(a):
            kinds[name] = f"keys of {implementation(name, a)}"
    found = {name: type(v).__name__ for name, v in values.items()}
    for name, implementation_ in implementations.items():
        found[name] = f"keys of {implementation_}"
    for name in sorted(kinds.keys() | found.keys()):
        if kinds.get(name) != found.get(name):
            expected = kinds.get(name, "no number, string or keys")
            raise FileError(file, name, expected, found.get(name, "none of this name"))


def wrapped(name: str, data: np.ndarray) -> Key:
    """Keys of an implementation from their numbers."""
    return jax.random.wrap_key_data(jnp.asarray(data), impl=name)
