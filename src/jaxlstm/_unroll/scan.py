"""`jax.lax.scan` over the cell: the meaning of every other way to run a layer."""

from typing import Any

import jax

from .._cell import State
from .._control import Controls, controlled
from .._layer import for_a_loop


def scan(node: Any, xs: Any, state: State, controls: Controls, reverse: bool) -> tuple[Any, State]:
    """Steps through time; returns the output of every step, and the last state."""
    initial = node.zeros(xs.shape[1:-1])
    weights, back = for_a_loop(node)

    def body(s: State, at: tuple[Any, Controls]) -> tuple[State, Any]:
        s = controlled(back(weights), s, *at, initial)
        return s, s[0].astype(xs.dtype)

    steps = (node.project(xs), controls)
    if xs.shape[0] == 1:  # one step needs no loop
        last, out = body(state, jax.tree.map(lambda a: a[0], steps))
        return jax.tree.map(lambda a: a[None], out), last
    last, outs = jax.lax.scan(body, state, steps, reverse=reverse)
    return outs, last
