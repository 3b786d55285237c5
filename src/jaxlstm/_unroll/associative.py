"""Parallel in time: `c' = a c + b` composes, so all its steps can be made in any order.

Two steps after another are one step of the same form, `(a2 a1, a2 b1 + b2)`, an associative
operation; `jax.lax.associative_scan` makes all prefixes in `2 log2(time)` rounds.  Blelloch
1990, "Prefix sums and their applications"; Martin and Cundy 2018, "Parallelizing linear
recurrent neural nets over sequence length".

Mask and reset are steps of that form too: a masked step has `a = 1, b = 0`, one that is
reset has `a = 0` and what it makes of the initial state in `b`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._cell import Linear, State, front
from .._control import Controls, where
from .._layer import Layer


def associative(
    node: Any, xs: Any, state: State, controls: Controls, reverse: bool
) -> tuple[Any, State]:
    cell = getattr(node, "cell", None)
    if not (isinstance(node, Layer) and isinstance(cell, Linear)):
        raise NotImplementedError(
            "`associative` needs a layer of a linear cell, `c' = a c + b` with `a` and `b` read "
            f"from the input alone; this is {cell or type(node).__name__}."
        )
    if xs.shape[0] == 0:
        return jnp.zeros((0, *state[0].shape), xs.dtype), state
    mask, reset = controls.mask, controls.reset
    initial = node.zeros(xs.shape[1:-1])
    factors, terms, read = cell.coefficients(node, front(node.project(xs)))
    starts = zip(cell.memory(state), cell.memory(initial), strict=True)
    memories = []
    for a, b, (start, fresh) in zip(factors, terms, starts, strict=True):
        a, b = where(mask, a, jnp.ones_like(a)), where(mask, b, jnp.zeros_like(b))
        if reset is not None:
            begun = a * jnp.broadcast_to(fresh, b.shape) + b
            a, b = where(reset, jnp.zeros_like(a), a), where(reset, begun, b)
        first = -1 if reverse else 0
        b = b.at[first].add(a[first] * start)
        memories.append(jax.lax.associative_scan(_after, (a, b), reverse=reverse)[1])

    states = cell.remember(jax.tree.map(lambda s: s[None], state), tuple(memories), read)
    last = jax.tree.map(lambda s: s[0 if reverse else -1], states)
    if read is not None and mask is not None:
        # What is read from the memory is kept under the mask, as the memory itself is.
        last = last._replace(
            **{last._fields[0]: _kept(states[0], state[0], initial[0], controls, reverse)}
        )
    return states[0].astype(xs.dtype), last


def _after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps as one."""
    (a1, b1), (a2, b2) = first, second
    return a2 * a1, a2 * b1 + b2


def _kept(ys: Array, before: Array, initial: Array, controls: Controls, reverse: bool) -> Array:
    """The output after the last step: that of the last one that was not masked, or reset."""
    mask = controls.mask
    assert mask is not None
    happens = mask if controls.reset is None else mask | controls.reset
    happens, mask, ys = (jnp.flip(a, 0) if reverse else a for a in (happens, mask, ys))
    time = jnp.arange(happens.shape[0]).reshape(-1, *[1] * (happens.ndim - 1))
    at = jnp.max(jnp.where(happens, jnp.broadcast_to(time, happens.shape), -1), axis=0)
    rows = jnp.maximum(at, 0)[None]
    y = jnp.take_along_axis(ys, rows[..., None], axis=0)[0]
    stepped = jnp.take_along_axis(mask, rows, axis=0)[0]
    return where(at < 0, before, where(stepped, y, initial))
