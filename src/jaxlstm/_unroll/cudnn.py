"""cuDNN's LSTM, by `jax.experimental.rnn`: on NVIDIA GPUs, and only when it is named.

It is no part of the default: it has no forward mode, no second derivatives and no `vmap`, and
unless `precision="highest"` says otherwise its products are in TF32 (10 bits of mantissa), so
it agrees with `scan` to about 1e-3 and not to rounding.
"""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental import rnn
from jaxtyping import Array, Bool

from .._layer import Layer
from .._node import Problem, State
from ..cells.lstm import lstm


def refusal(problem: Problem) -> str | None:
    node, xs = problem.node, problem.xs
    if not (isinstance(node, Layer) and node.cell == lstm):
        what = node.cell if isinstance(node, Layer) else type(node).__name__
        return f"runs `jaxlstm.lstm` alone; this is {what}."
    if jax.default_backend() != "gpu":
        return f"needs a GPU; JAX runs on {jax.default_backend()!r} here."
    if xs.dtype != jnp.float32:
        return f"runs in float32 alone; this is {xs.dtype}."
    if problem.controls.reset is not None:
        return "has no resets inside a sequence."
    if 0 in xs.shape:
        return f"needs a step and a row at least; `xs` has shape {xs.shape}."
    return None


def run(problem: Problem) -> tuple[Array, State]:
    node, state, xs, controls = problem.node, problem.state, problem.xs, problem.controls
    assert isinstance(node, Layer)
    time, *batch, size = xs.shape
    rows, hidden = math.prod(batch), node.w.shape[-1]
    xs = xs.reshape(time, rows, size)
    mask = jnp.ones((time, rows), bool) if controls.mask is None else controls.mask
    order, lengths = _steps_first(mask.reshape(time, rows), problem.plan.reverse)
    xs = jnp.take_along_axis(xs, order[..., None], axis=0)
    begun = [a.reshape(1, rows, hidden) for a in state]
    ys, *last = cast(Any, rnn.lstm)(
        jnp.swapaxes(xs, 0, 1),
        *begun,
        _packed(node),
        jnp.maximum(lengths, 1),  # cuDNN knows no empty sequence
        size,
        hidden,
        1,
        0.0,
        False,
        _precision(),
    )
    back = jnp.argsort(order, axis=0)
    ys = jnp.take_along_axis(jnp.swapaxes(ys, 0, 1), back[..., None], axis=0)
    happened = (lengths > 0)[:, None]
    h, c = (jnp.where(happened, a[0], b[0]) for a, b in zip(last, begun, strict=True))
    shape = (*batch, hidden)
    return ys.reshape(time, *shape), type(state)(h.reshape(shape), c.reshape(shape))


def _steps_first(mask: Bool[Array, "time rows"], reverse: bool) -> tuple[Array, Array]:
    """For each row the order of time with the steps that happen first, and how many they are.

    cuDNN knows lengths only; so any pattern is packed to the front, and a run backwards is one
    over the steps in the other order.
    """
    time = jnp.arange(mask.shape[0], dtype=jnp.int32)[:, None]
    at = mask.shape[0] - 1 - time if reverse else time
    rank = jnp.where(mask, at, at + mask.shape[0])
    return jnp.argsort(rank, axis=0), mask.sum(0).astype(jnp.int32)


def _packed(node: Layer) -> Array:
    """cuDNN's one array: `w` and `r` gate by gate, rows for outputs; then two biases."""
    assert node.r is not None
    columns = [a.reshape(a.shape[0], -1).T.ravel() for a in (node.w, node.r)]
    b = jnp.zeros(node.w.shape[1:], node.w.dtype) if node.b is None else node.b
    return jnp.concatenate([*columns, b.ravel(), jnp.zeros_like(b).ravel()])


def _precision() -> Any:
    """What `precision` asks for, told outright: the gradient is traced after it is gone."""
    config: Any = jax.config
    told = config.jax_default_matmul_precision
    return jax.lax.Precision(told) if told in ("high", "highest", "float32") else None
