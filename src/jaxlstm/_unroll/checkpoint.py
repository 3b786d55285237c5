"""Recompute instead of store: any way to run a layer, in segments of time."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import State
from .._control import Controls
from .._layer import for_a_loop


def segments(run: Any, length: int | bool) -> Any:
    """`run`, keeping one state a segment for the backward pass; `True` takes the square root.

    The backward pass runs each segment once more: one forward pass more in time, and memory
    for the states between segments and the inside of one.  Chen et al. 2016, "Training deep
    nets with sublinear memory cost".
    """

    def segmented(
        node: Any, xs: Any, state: State, controls: Controls, reverse: bool
    ) -> tuple[Any, State]:
        @jax.checkpoint
        def segment(node: Any, s: State, part: tuple[Any, Controls]) -> tuple[Any, State]:
            return run(node, part[0], s, part[1], reverse)

        weights, back = for_a_loop(node)

        def body(s: State, part: tuple[Any, Controls]) -> tuple[State, Any]:
            ys, s = segment(back(weights), s, part)
            return s, ys

        time = xs.shape[0]
        size = math.isqrt(max(time - 1, 0)) + 1 if length is True else length
        whole = time // size * size
        rest = time - whole  # runs last, so it stands first where time runs from the end
        cut = slice(rest, None) if reverse else slice(whole)
        part = (xs, controls)
        outs = []
        if whole:
            main = jax.tree.map(lambda a: a[cut].reshape(whole // size, size, *a.shape[1:]), part)
            state, ys = jax.lax.scan(body, state, main, reverse=reverse)
            outs.append(jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys))
        if rest or not outs:
            cut = slice(rest) if reverse else slice(whole, None)
            ys, state = segment(node, state, jax.tree.map(lambda a: a[cut], part))
            outs.append(ys)
        outs = outs[::-1] if reverse else outs
        return jax.tree.map(lambda *a: jnp.concatenate(a), *outs), state

    return segmented
