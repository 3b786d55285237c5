"""Reset, mask and key: the one meaning of a controlled step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from ._layer import of_rows


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
        return jnp.where(jnp.broadcast_to(of_rows(m, x), x.shape), x, y)

    return jax.tree.map(pick, a, b)


def controlled(node: Any, s: Any, u: Any, at: Controls, initial: Any) -> Any:
    """One step under control: reset first, then the step, then the mask."""
    s = s if at.reset is None else where(at.reset, initial, s)
    new = node.step(s, u) if at.keys is None else node.step(s, u, at.keys)
    return where(at.mask, new, s)


def vary_alike(state: Any, others: Any) -> Any:
    """Inside `shard_map`, makes a state vary over the mesh axes that the inputs vary over.

    A loop's carry must have one type all the way, and zeros made inside vary over nothing.
    The sum of no elements is a zero that varies as the array does, whatever stands in it.
    """

    def varying(a: Array) -> Any:
        of = jax.typeof(a)  # JAX 0.10 renamed the attribute
        return getattr(of, "vma", None) or getattr(
            getattr(of, "manual_axis_type", None), "varying", None
        )

    ties = [a.ravel()[:0].sum() for a in jax.tree.leaves(others) if varying(a)]
    for tie in ties:
        state = jax.tree.map(
            lambda s, t=tie: s + jnp.broadcast_to(t.astype(s.dtype), s.shape), state
        )
    return state


def share_alike(state: Any, xs: Array) -> Any:
    """Where types say how an array is shared out over devices, shares the state's rows as `xs`'s.

    For the same reason, and by the same zero, one for each row.
    """
    spec = getattr(getattr(jax.typeof(xs), "sharding", None), "spec", ())
    if not any(axis is not None for axis in spec[1:-1]):
        return state
    tie = xs[..., :0].sum((0, -1))
    return jax.tree.map(lambda s: s + of_rows(tie, s).astype(s.dtype), state)
