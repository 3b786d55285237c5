"""States and equations are at least float32, whatever the dtype of the weights."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array


def wide(dtype: DTypeLike) -> np.dtype:
    """The dtype of states and equations for weights of a dtype: float32 at least."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def widened(a: Array) -> Array:
    """A weight as the equations take it: narrow floats become float32, the rest is unchanged."""
    return a.astype(wide(a.dtype)) if jnp.issubdtype(a.dtype, jnp.floating) else a
