"""Recompute instead of store: any way to run a node, in segments of time."""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._control import shared
from .._layer import for_a_loop
from .._node import Problem, State, StepNode
from .._types import Tree

Run: TypeAlias = Callable[[Problem], tuple[Array, State]]
UNKNOWN = 64  # steps in a segment where the length of a sequence is known when it runs alone


def in_segments(run: Run, problem: Problem) -> tuple[Array, State]:
    """`run`, storing one state a segment for the backward pass; "sqrt" takes the square root.

    The backward pass runs each segment once more: one forward pass more in time, and memory
    for the states between segments and the inside of one.  Chen et al. 2016, "Training deep
    nets with sublinear memory cost".
    """
    reverse, time = problem.plan.reverse, problem.xs.shape[0]
    length = problem.plan.checkpoint
    if not isinstance(time, int):
        size = UNKNOWN if length == "sqrt" else length
        assert size
        return _of_whole_segments(run, problem, size)
    size = near_the_root(time) if length == "sqrt" else length
    assert size

    whole = time // size * size
    rest = time - whole  # runs last, so it stands first where time runs from the end
    cut = slice(rest, None) if reverse else slice(whole)
    along = (problem.xs, problem.controls)
    state, outs = problem.state, []
    if whole:
        parts, shaped = segments(jax.tree.map(lambda a: a[cut], along), size)
        body = _segment(run, problem, shaped)
        state, ys = jax.lax.scan(body, state, parts, reverse=reverse)
        outs.append(ys.reshape(whole, *ys.shape[2:]))
    if rest or not outs:
        cut = slice(rest) if reverse else slice(whole, None)
        state, ys = _segment(run, problem)(state, jax.tree.map(lambda a: a[cut], along))
        outs.append(ys)
    return jnp.concatenate(outs[::-1] if reverse else outs), state


def near_the_root(time: int) -> int:
    """A length of segments that leaves no rest, if there is one within half and twice the root.

    With a rest all inputs are copied on the way in, and all their cotangents on the way back.
    """
    root = math.isqrt(max(time - 1, 0)) + 1
    near = sorted(range(-(-root // 2), 2 * root + 1), key=lambda size: abs(size - root))
    return next((size for size in near if time % size == 0), root)


def segments(tree: Tree, size: int) -> tuple[PyTree, Callable[[PyTree], Tree]]:
    """Arrays cut in time, and the function that gives one part of them its shape again.

    Axes of size 1 are left out: for a batch of one, XLA would copy whole arrays to swap the order
    of axes in a layout that is the same in memory.
    """
    one = lambda n, axis: isinstance(n, int) and n == 1 and axis is None
    rest = lambda a: [n for n, axis in zip(a.shape[1:], shared(a)[1:]) if not one(n, axis)]
    cut = lambda a: a.reshape(a.shape[0] // size, size, *rest(a))
    shaped = lambda part: jax.tree.map(lambda a, b: a.reshape(size, *b.shape[1:]), part, tree)
    return jax.tree.map(cut, tree), shaped


def _segment(
    run: Run, problem: Problem, shaped: Callable[[PyTree], PyTree] = lambda part: part
) -> Callable[[State, PyTree], tuple[State, Array]]:
    """The body of a loop over segments."""

    @jax.checkpoint
    def segment(node: StepNode, initial: State, s: State, part: PyTree) -> tuple[Array, State]:
        xs, controls = shaped(part)
        return run(problem._replace(node=node, initial=initial, state=s, xs=xs, controls=controls))

    weights, back = for_a_loop(problem.node)

    def body(s: State, part: PyTree) -> tuple[State, Array]:
        ys, s = segment(back(weights), problem.initial, s, part)
        return s, ys

    return body


def _of_whole_segments(run: Run, problem: Problem, size: int) -> tuple[Array, State]:
    """`in_segments` of so many steps, for a symbolic time: steps after it are masked."""
    time, batch = problem.xs.shape[0], problem.xs.shape[1 : -1 - problem.node.spatial_axes]
    count = (time + size - 1) // size
    at = jnp.arange(count * size).reshape(count, size)
    xs, controls = jax.tree.map(
        lambda a: a[jnp.minimum(at, time - 1)], (problem.xs, problem.controls)
    )
    valid = jnp.broadcast_to((at < time).reshape(at.shape + (1,) * len(batch)), (*at.shape, *batch))
    mask = valid if controls.mask is None else controls.mask & valid
    reset = None if controls.reset is None else controls.reset & valid
    parts = xs, controls._replace(mask=mask, reset=reset)
    reverse = problem.plan.reverse
    state, ys = jax.lax.scan(_segment(run, problem), problem.state, parts, reverse=reverse)
    return ys[jnp.arange(time) // size, jnp.arange(time) % size], state
