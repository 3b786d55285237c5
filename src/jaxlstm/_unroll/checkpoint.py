"""Recompute instead of store: any way to run a node, in segments of time."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._layer import for_a_loop
from .._node import Problem, State


def in_segments(run: Callable[[Problem], Any], problem: Problem) -> tuple[Array, State]:
    """`run`, storing one state a segment for the backward pass; "sqrt" takes the square root.

    The backward pass runs each segment once more: one forward pass more in time, and memory
    for the states between segments and the inside of one.  Chen et al. 2016, "Training deep
    nets with sublinear memory cost".
    """
    reverse, time = problem.plan.reverse, problem.xs.shape[0]
    length = problem.plan.checkpoint
    size = near_the_root(time) if length == "sqrt" else length
    assert size

    @jax.checkpoint
    def segment(node: Any, initial: State, s: State, part: Any) -> tuple[Array, State]:
        xs, controls = part
        return run(problem._replace(node=node, initial=initial, state=s, xs=xs, controls=controls))

    weights, back = for_a_loop(problem.node)

    def body(s: State, part: Any) -> tuple[State, Array]:
        ys, s = segment(back(weights), problem.initial, s, part)
        return s, ys

    whole = time // size * size
    rest = time - whole  # runs last, so it stands first where time runs from the end
    cut = slice(rest, None) if reverse else slice(whole)
    along = (problem.xs, problem.controls)
    state, outs = problem.state, []
    if whole:
        split = lambda a: a[cut].reshape(whole // size, size, *a.shape[1:])
        state, ys = jax.lax.scan(body, state, jax.tree.map(split, along), reverse=reverse)
        outs.append(ys.reshape(whole, *ys.shape[2:]))
    if rest or not outs:
        cut = slice(rest) if reverse else slice(whole, None)
        state, ys = body(state, jax.tree.map(lambda a: a[cut], along))
        outs.append(ys)
    return jnp.concatenate(outs[::-1] if reverse else outs), state


def near_the_root(time: int) -> int:
    """A length of segments that leaves no rest, if there is one within half and twice the root.

    With a rest all inputs are copied on the way in, and all their cotangents on the way back.
    """
    root = math.isqrt(max(time - 1, 0)) + 1
    near = sorted(range(-(-root // 2), 2 * root + 1), key=lambda size: abs(size - root))
    return next((size for size in near if time % size == 0), root)
