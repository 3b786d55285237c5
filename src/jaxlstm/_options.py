"""Checks of single values, and how errors describe what was passed.  Nothing here computes."""

import operator
from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from ._types import DType, Key, T


def setting(name: str) -> object:
    """An option of `jax.config`, of which type checkers know no attribute."""
    return getattr(jax.config, name)


def count(name: str, n: object, least: int = 1) -> int:
    """A size, which must be an integer."""
    number = whole(n)
    if number is None or number < least:
        raise ValueError(f"`{name}` must be a whole number, {least} or more; got {short_repr(n)}.")
    return number


def plain(value: PyTree) -> PyTree:
    """A scalar of NumPy or JAX as a Python number; anything else as it is."""
    single = isinstance(value, np.ndarray | np.generic | jax.Array) and not np.shape(value)
    return value.item() if single and not isinstance(value, jax.core.Tracer) else value


def real(value: object) -> float | None:
    """`value` as a Python float, if it is a real number of Python, NumPy or JAX."""
    number = plain(value)
    try:
        is_real = isinstance(number, int | float) and not isinstance(number, bool)
        return float(number) if is_real else None
    except OverflowError:
        return None


def whole(n: object) -> int | None:
    """`n` as a Python int, if it is an integer of Python, NumPy or JAX."""
    try:
        return None if isinstance(n, bool | np.bool_) else operator.index(n)  # type: ignore
    except TypeError:
        return None


def flag(name: str, value: object) -> bool:
    """A flag, which must be a bool: strings such as "no" would be true."""
    found = plain(value)
    if not isinstance(found, bool):
        raise TypeError(f"`{name}` must be True or False; got {short_repr(value)}.")
    return found


def at_least(size: object, least: int) -> bool:
    """`size >= least`; a size that is known when a program runs is taken for a large one."""
    return not isinstance(size, int) or size >= least


def hashable(name: str, value: object) -> None:
    """Static values are part of the key of a compiled program, so they must compare by value."""
    try:
        hash(value)
        same = bool(value == value)  # NaN is not
    except (TypeError, ValueError):
        same = False
    if not same:
        raise TypeError(
            f"{name} must be hashable and equal to itself: a number, a string, a function or a "
            f"tuple of them; got {short_repr(value)}. Arrays are weights: leaves of a tree, or "
            "declared by `jaxlstm.Weight`."
        )


def probability(name: str, rate: object) -> float:
    number = real(rate)
    if number is None or not 0 <= number < 1:
        raise ValueError(f"`{name}` must be a probability below 1; got {short_repr(rate)}.")
    return number


def number(name: str, value: object) -> Array:
    """What a loss gives, if it is one real number."""
    try:
        a = jnp.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be one real number; got {describe(value)}.") from None
    if a.shape or not jnp.issubdtype(a.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be one real number; got an array of shape {a.shape} and dtype {a.dtype}."
        )
    return a


def floating(dtype: DTypeLike | None) -> DType:
    """The dtype of weights; `float` is the widest that is enabled."""
    try:
        canonical = jax.dtypes.canonicalize_dtype(dtype)
        requested = canonical if dtype is float or dtype is None else np.dtype(dtype)
    except TypeError:
        raise TypeError(f"`dtype` must be a floating dtype; got {short_repr(dtype)}.") from None
    if not jnp.issubdtype(canonical, jnp.floating):
        raise TypeError(f"`dtype` must be a floating dtype; got {canonical}.")
    if canonical != requested:
        raise TypeError(
            f"`dtype` is {requested}, which JAX supports only after "
            "`jax.config.update('jax_enable_x64', True)`; otherwise use float32."
        )
    return canonical


def key_of(key: object) -> Key:
    """One typed key; a legacy key of two integers is wrapped."""
    one = key if isinstance(key, jax.Array) else None
    try:
        if one is None or not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one = jax.random.wrap_key_data(array(key))
    except (TypeError, ValueError):
        one = None
    if one is None or one.shape != ():
        several = one is not None or getattr(key, "ndim", 0) > 1
        remedy = (
            " Use `jax.vmap` for a batch of keys."
            if several
            else f" A seed becomes a key by `jax.random.key({key})`."
            if whole(key) is not None
            else ""
        )
        raise TypeError(f"`key` must be one `jax.random.key(seed)`; got {describe(key)}.{remedy}")
    return one


def array(a: object) -> Array:
    """Anything that NumPy or JAX reads as one array, as a JAX array; else a `TypeError`.

    NumPy arrays are copied, as JAX may still run when its caller modifies them.  Masked values
    may be NaN: no operation of JAX reads them here, so that `jax_debug_nans` does not raise.
    """
    found = numbers(a)
    if isinstance(found, jax.Array):
        return found
    own = np.array(found, found.dtype.newbyteorder("="))
    remedy = f"JAX has no arrays of dtype {own.dtype}: pass an array of numbers."
    return _convert(jax.device_put, own, remedy if isinstance(a, np.ndarray) else "")


def numbers(a: object) -> Array | np.ndarray:
    """Like `array`, but other arrays than those of JAX become NumPy arrays."""
    if isinstance(a, jax.Array):
        return a
    if isinstance(a, jax.ShapeDtypeStruct):
        raise TypeError(
            "A shape has no values; `jax.eval_shape` takes it, as in "
            "`jax.eval_shape(jaxlstm.apply, params, xs)`."
        )
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(
            "JAX has no masked arrays: pass `.filled(0)`, and the masked steps as `mask=`."
        )
    if hasattr(a, "__jax_array__"):
        return jnp.asarray(a)
    try:
        return np.asarray(a)
    except Exception:  # a tensor of another framework, a list of traced values, or ragged
        if not hasattr(a, "__dlpack__"):
            return _convert(jnp.asarray, a, "")
        remedy = "Pass a NumPy array, as by `tensor.detach().cpu().numpy()`."
        return np.asarray(_convert(jnp.from_dlpack, a, remedy))


def says_no_dtype(given: object, found: Array | np.ndarray) -> bool:
    """Whether this is of a list without any number, for which NumPy has float64."""
    return isinstance(given, list | tuple) and not found.size


def _convert(read: Callable[[T], Array], a: T, remedy: str) -> Array:
    try:
        return read(a)
    except Exception:
        raise TypeError(remedy) from None


def describe(a: object) -> str:
    """A short description of a value: `float32[2, 5]`, `a dict`, `None`."""
    if a is None:
        return "None"
    if isinstance(a, type):
        return f"the {a.__name__} class"
    kind = type(a).__name__
    kind = f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
    dtype, shape = getattr(a, "dtype", None), getattr(a, "shape", None)
    if dtype is not None and shape is not None:
        plain = isinstance(a, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)
        numbers = f"{dtype}{list(shape)}"
        return numbers if plain and not isinstance(a, np.ma.MaskedArray) else f"{kind} {numbers}"
    return kind


def short_repr(a: object) -> str:
    """The `repr` of a value, or a short description of an array."""
    parts = a if isinstance(a, tuple | list) else (a,)
    traced = [part for part in parts if isinstance(part, jax.core.Tracer)]
    if traced:
        return (
            f"a traced {describe(traced[0])}. Options must be known at trace time: close over "
            "them, or name them in `static_argnames`"
        )
    return describe(a) if getattr(a, "ndim", 0) else repr(a)


def outline(tree: PyTree) -> str:
    """A short description of a state: `LSTMState(h=float32[2, 5], c=float32[2, 5])`."""
    fields = getattr(tree, "_fields", None)
    if fields is not None:
        fields = (f"{k}={outline(v)}" for k, v in zip(fields, tree, strict=True))
        return f"{type(tree).__name__}({', '.join(fields)})"
    if isinstance(tree, (tuple, list)):
        return f"({', '.join(map(outline, tree))})"
    return describe(tree)
