"""`jax.lax.scan` over the cell: the meaning of every other way to run a layer."""

from collections.abc import Callable
from typing import Any

import jax

from .._cell import State
from .._control import Controls, controlled


def output(s: State) -> Any:
    return s[0]


def scan(
    node: Any,
    xs: Any,
    state: State,
    controls: Controls,
    reverse: bool,
    emit: Callable[[State], Any] = output,
) -> tuple[Any, State]:
    """Steps through time; returns `emit(state)` of every step, and the last state."""
    initial = node.zeros(xs.shape[1:-1])

    def body(s: State, at: tuple[Any, Controls]) -> tuple[State, Any]:
        s = controlled(node, s, *at, initial)
        return s, emit(s)

    steps = (node.project(xs), controls)
    if xs.shape[0] == 1:  # one step needs no loop
        last, out = body(state, jax.tree.map(lambda a: a[0], steps))
        return jax.tree.map(lambda a: a[None], out), last
    last, outs = jax.lax.scan(body, state, steps, reverse=reverse)
    return outs, last
