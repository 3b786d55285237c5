"""States and equations are never narrower than float32, whatever the dtype of the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def wide(dtype: Any) -> Any:
    """The dtype of states and equations for weights of a dtype: float32 at least."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def widened(a: Array) -> Array:
    """A weight as the equations take it; what is no narrow float stays as it is."""
    return a.astype(wide(a.dtype)) if jnp.issubdtype(a.dtype, jnp.floating) else a


def for_a_loop(node: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Wide weights to close a loop over, and what makes the node of them inside.

    The gradient of what a loop closes over is summed step by step in its own dtype: in 16 bits
    a sum stops to grow once it is some hundred times as large as what is added.
    """
    dtypes = jax.tree.map(lambda a: a.dtype, node)
    cast = lambda a, dtype: a if a.dtype == dtype else a.astype(dtype)
    return jax.tree.map(widened, node), lambda weights: jax.tree.map(cast, weights, dtypes)
