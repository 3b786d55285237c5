"""Parallel in time: `c' = a c + b` composes, so all its steps can be made in any order.

Two steps after another are one step of the same form, `(a2 a1, a2 b1 + b2)`, an associative
operation; `jax.lax.associative_scan` makes all prefixes in `2 log2(time)` rounds.  Blelloch
1990, "Prefix sums and their applications"; Martin and Cundy 2018, "Parallelizing linear
recurrent neural nets over sequence length".

Mask and reset are steps of that form too: a masked step has `a = 1, b = 0`, one that is
reset has what it makes of the initial state in `b`, and a flag in place of `a = 0`: what was
before it may be NaN or inf, which times zero is NaN.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._cell import Linear, gates_first
from .._control import Controls, of_rows, where
from .._layer import Layer
from .._node import Problem, State

UNKNOWN_TIME = "needs a number of steps that is known when it is traced."


def refusal(problem: Problem) -> str | None:
    node = problem.node
    if isinstance(node, Layer) and isinstance(node.cell, Linear):
        known = isinstance(problem.xs.shape[0], int)
        return None if known else UNKNOWN_TIME
    return (
        "needs a layer of a linear cell, `c' = a c + b` with `a` and `b` read from the input "
        f"alone; this is {node.cell if isinstance(node, Layer) else type(node).__name__}."
    )


def run(problem: Problem) -> tuple[Array, State]:
    node, initial, state, xs, controls = (
        problem.node, problem.initial, problem.state, problem.xs, problem.controls
    )  # fmt: skip
    assert isinstance(node, Layer)
    assert isinstance(node.cell, Linear)
    cell, reverse = node.cell, problem.plan.reverse
    if xs.shape[0] == 0:
        return jnp.zeros((0, *state[0].shape), xs.dtype), state
    mask = controls.mask
    factors, terms, read = cell.coefficients(node, gates_first(node.project(xs)))
    memories = tuple(
        _memories(controls, reverse, *each)
        for each in zip(factors, terms, cell.memory(state), cell.memory(initial), strict=True)
    )
    end = 0 if reverse else -1
    like = jax.tree.map(lambda s: s[None], state)
    if read is None or mask is None:
        states = cell.remember(like, memories, read)
        return states[0].astype(xs.dtype), jax.tree.map(lambda s: s[end], states)
    # What is read from the memory is kept under the mask, as the memory itself is; nothing is
    # read from a memory that a step only keeps, which may be NaN.
    fresh = tuple(jnp.broadcast_to(m, c.shape) for m, c in zip(cell.memory(initial), memories))
    ys = cell.remember(like, where(mask, memories, fresh), read)[0]
    ended = tuple(c[end] for c in memories)
    output = _last_output(ys, state[0], initial[0], controls, reverse)
    last = cell.remember(state, ended, lambda *_: output)
    return ys.astype(xs.dtype), last


def _memories(
    controls: Controls, reverse: bool, a: Array, b: Array, start: Array, initial: Array
) -> Array:
    """One memory after every step, from `a` and `b` of all steps."""
    mask, reset = controls.mask, controls.reset
    # They may have one number for all units.
    shape = (a.shape[0], *start.shape)
    a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
    a, b = where(mask, a, jnp.ones_like(a)), where(mask, b, jnp.zeros_like(b))
    first = -1 if reverse else 0
    if reset is None:
        b = b.at[first].add(a[first] * start)
        return jax.lax.associative_scan(_after, (a, b), reverse=reverse)[1]
    b = where(reset, a * jnp.broadcast_to(initial, b.shape) + b, b)
    begun = where(reset[first], jnp.zeros_like(start), start)
    b = b.at[first].add(a[first] * begun)
    flags = of_rows(reset, b)
    return jax.lax.associative_scan(_after_in_episode, (a, b, flags), reverse=reverse)[1]


Episodic: TypeAlias = tuple[Array, Array, Array]  # `a`, `b`, whether an episode starts in it


def _after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps as one."""
    (a1, b1), (a2, b2) = first, second
    return a2 * a1, a2 * b1 + b2


def _after_in_episode(first: Episodic, second: Episodic) -> Episodic:
    """Two steps as one; an episode that starts in the second knows nothing of the first."""
    (a1, b1, anew1), (a2, b2, anew2) = first, second
    of = lambda x: jnp.where(anew2, jnp.zeros_like(x), x)
    return a2 * of(a1), a2 * of(b1) + b2, anew1 | anew2


def _last_output(
    ys: Array, before: Array, initial: Array, controls: Controls, reverse: bool
) -> Array:
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
