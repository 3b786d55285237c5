"""`jax.lax.scan` over the steps: the meaning of every other way to run a node."""

import jax
from jaxtyping import Array, PyTree

from .._control import Controls, controlled, over_time
from .._layer import for_a_loop, for_rows
from .._node import Problem, State


def refusal(problem: Problem) -> None:
    return None


def run(problem: Problem) -> tuple[Array, State]:
    node, initial, dtype = problem.node, problem.initial, problem.xs.dtype
    weights, back = for_a_loop(node)
    weights = for_rows(weights, problem.xs, node.spatial_axes)

    def body(s: State, at: tuple[PyTree, Controls]) -> tuple[State, Array]:
        s = controlled(back(weights), s, *at, initial)
        return s, s[0].astype(dtype)

    steps = (node.project(problem.xs), problem.controls)
    if problem.xs.shape[0] == 1:  # one step needs no loop
        last, y = body(problem.state, jax.tree.map(lambda a: a[0], steps))
        return y[None], last
    last, ys = over_time(body, problem.state, steps, problem.plan.reverse)
    return ys, last
