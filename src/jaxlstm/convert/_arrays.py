"""Arrays of anyone as NumPy's: of a floating dtype, none of them truncated."""

from collections.abc import Mapping

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._types import T


def array(name: str, a: PyTree) -> np.ndarray:
    """A NumPy array of a floating dtype that nothing will truncate."""
    a = concrete(name, a)
    if getattr(a, "is_quantized", False):
        raise TypeError(f"`{name}` is a quantised tensor: give its values, `tensor.dequantize()`.")
    try:
        if hasattr(a, "detach"):  # PyTorch, with gradients or not, of any device
            a = a.detach().cpu()
        if str(getattr(a, "dtype", "")) == "torch.bfloat16":
            a = jnp.from_dlpack(a.contiguous())
        found = np.asarray(a)
    except (TypeError, ValueError, RuntimeError, AttributeError) as e:
        raise TypeError(f"`{name}` must be an array; got a {type(a).__name__}: {e}") from None
    found = native(floating(name, found))
    _check_width(name, found)
    return found


def floating(name: str, a: PyTree) -> PyTree:
    """An array of floats, which weights are."""
    if not jnp.issubdtype(a.dtype, jnp.floating):
        what = a.dtype if a.dtype != object or not a.size else f"a `{type(a.flat[0]).__name__}`"
        raise TypeError(f"`{name}` must be of a floating dtype; got {what}.")
    return a


def native(a: np.ndarray) -> np.ndarray:
    """The same numbers in this machine's order of bytes; files are of any."""
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _check_width(name: str, a: np.ndarray) -> None:
    if a.dtype.itemsize > 8:
        raise TypeError(
            f"`{name}` is {a.dtype}, which JAX does not have. Cast it to float64 first."
        )
    if jax.dtypes.canonicalize_dtype(a.dtype) != a.dtype:
        raise TypeError(
            f"`{name}` is {a.dtype}, which JAX would truncate. Cast it to "
            f"{jax.dtypes.canonicalize_dtype(a.dtype)} first, or allow it: "
            "`jax.config.update('jax_enable_x64', True)`."
        )


def device(name: str, a: np.ndarray) -> jax.Array:
    """The array as JAX holds it, or an error in place of a truncation."""
    _check_width(name, a)
    return jnp.asarray(a)


def loaded(name: str, a: np.ndarray, weight: bool) -> jax.Array | np.ndarray:
    """As JAX holds it, or as NumPy does where JAX would truncate it, which no weight may be."""
    if not weight and jax.dtypes.canonicalize_dtype(a.dtype) != a.dtype:
        return a.copy()
    return device(name, a)


def one_dtype(arrays: Mapping[str, PyTree]) -> None:
    """What makes one network is of one dtype: a mixture would be promoted when it runs."""
    dtypes: dict[str, list[str]] = {}
    for name, a in arrays.items():
        dtypes.setdefault(str(a.dtype), []).append(name)
    if len(dtypes) > 1:
        some = {dtype: names[:4] for dtype, names in dtypes.items()}
        raise TypeError(f"the weights of a network must be of one dtype; got {some}.")


def concrete(name: str, a: T) -> T:
    """A leaf that has values, and no others: neither a shape alone, nor traced, nor masked."""
    if isinstance(a, jax.ShapeDtypeStruct):
        raise TypeError(f"`{name}` must be an array; got its shape and dtype alone, {a}.")
    if isinstance(a, jax.core.Tracer):
        raise TypeError(
            f"`{name}` must be an array; got a {type(a).__name__}. Weights are converted outside "
            "of `jit` and other transformations."
        )
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(
            f"`{name}` is a masked array, and weights have no masks: pass `.filled(0)`."
        )
    return a
