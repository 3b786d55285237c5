"""Reset, mask and key: the one meaning of a controlled step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key


class Controls(NamedTuple):
    """What may happen at a time step besides the step itself."""

    mask: Bool[Array, "time *batch"] | None = None  # where False, keep the state
    reset: Bool[Array, "time *batch"] | None = None  # first become the initial state
    keys: Key[Array, " time"] | None = None  # noise, one key a step


def where(m: Bool[Array, "*batch"] | None, a: Any, b: Any) -> Any:
    """`a` where `m` holds (or is not given), else `b`, row by row, over a tree."""
    if m is None:
        return a

    def pick(x: Array, y: Array) -> Array:
        rows = m.reshape(m.shape + (1,) * (x.ndim - m.ndim))
        return jnp.where(jnp.broadcast_to(rows, x.shape), x, y)

    return jax.tree.map(pick, a, b)


def controlled(node: Any, s: Any, u: Any, at: Controls, initial: Any) -> Any:
    """One step under control: reset first, then the step, then the mask."""
    s = s if at.reset is None else where(at.reset, initial, s)
    new = node.step(s, u) if at.keys is None else node.step(s, u, at.keys)
    return where(at.mask, new, s)
