"""The recurrence as one kernel for the CPU, compiled for each cell, and only when it is named.

XLA multiplies a thin matrix anew in every step: it packs the weights each time, and calls a few
kernels of a microsecond each.  Here the weights are packed once, and all of time is one call.
The kernel is C++ (`loop.cc`), around a cell's own equations, which `_source.py` writes out from
what JAX traces; so any gated cell runs, a user's too.  The machine's compiler makes it, once.

Every transformation works: what JAX derives further (tangents, second derivatives) comes from
`deferred`, whose loops these are.
"""

import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from ..._cell import Cell, Gated, State
from ..._control import Controls, on_each_device, vary_alike
from ..._layer import Layer, shared
from .._parts import Parts, groups
from ..deferred import (
    Changes,
    Engine,
    Job,
    Kept,
    changing,
    filled,
    kept,
    recurrence,
    tangents,
    values,
)
from ._compiler import register
from ._linear import computed, linear
from ._source import source


def native(
    node: Any, xs: Any, state: State, controls: Controls, reverse: bool
) -> tuple[Any, State]:
    reason = _refusal(node, xs)
    if reason:
        raise NotImplementedError(f"`native` {reason}")
    run = functools.partial(_run, reverse)
    ways = Controls(controls.mask, controls.reset)  # a layer draws no noise
    if any(axes := shared(xs)[1:-1]):  # then each device runs its own rows
        each, once = P(None, *axes), P(*axes)
        run = on_each_device(run, xs, (P(), each, once, each), (each, once))
    return run(node, xs, state, ways)


def _run(reverse: bool, node: Any, xs: Any, state: State, ways: Controls) -> tuple[Any, State]:
    batch, rows = xs.shape[1:-1], math.prod(xs.shape[1:-1])
    flat = lambda tree, at: jax.tree.map(
        lambda a: a.reshape(*a.shape[:at], rows, *a.shape[at + len(batch) :]), tree
    )
    b = jnp.zeros(node.w.shape[1:], xs.dtype) if node.b is None else node.b
    other = node.recurrent_bias
    other = jnp.zeros(node.r.shape[1:], xs.dtype) if other is None else other
    p = node._replace(b=b, recurrent_bias=other)
    job = Job(p, flat(node.zeros(batch), 0), flat(state, 0), flat(xs, 1), flat(ways, 1))
    job = vary_alike(job, job)  # so that all that is derived of it does
    last, ys = recurrence(ENGINE, reverse, groups(node), job)
    unflat = lambda a, at: a.reshape(*a.shape[:at], *batch, a.shape[-1])
    return unflat(ys, 1), jax.tree.map(lambda a: unflat(a, 0), last)


def _refusal(node: Any, xs: Any) -> str | None:
    cell = getattr(node, "cell", None)
    if not (type(node) is Layer and isinstance(cell, Gated) and node.r is not None):
        return f"needs a layer of a gated cell; this is {cell or type(node).__name__}."
    if not (cell.pointwise and not cell.sizes and not node.weights):
        return (
            "needs a cell whose units see each other in `v = h r` alone, whose states are as "
            f"wide as its gates and which has no further weights; {cell} is none."
        )
    if node.r.shape[0] != node.r.shape[-1]:
        return f"has no block-diagonal weights; those of {cell} are."
    if xs.dtype != jnp.float32:
        return f"runs in float32 alone; this is {xs.dtype}."
    if jax.default_backend() != "cpu":
        return f"runs on the CPU; JAX runs on {jax.default_backend()!r} here."
    if os.name != "posix":
        return f"runs on Linux and macOS; this is {os.name!r}."
    try:
        _target("values", cell, groups(node))
    except NotImplementedError as reason:
        return str(reason)
    return None


def _target(name: str, cell: Cell, gates: Parts) -> str:
    return f"{register(source(cell, gates))}_{name}"


def _call(name: str, gates: Parts, p: Layer, results: Any, *args: Any) -> Any:
    call = jax.ffi.ffi_call(
        _target(name, p.cell, gates),
        jax.tree.leaves(results),
        vmap_method="sequential",
    )
    # JAX takes the results for such as vary over no mesh axis.
    made = vary_alike(list(call(*vary_alike(jax.tree.leaves(args), args))), args)
    return jax.tree.unflatten(jax.tree.structure(results), made)


def _flags(ways: Controls, rows: int) -> list[Array]:
    """None goes as an array of no steps."""
    return [jnp.zeros((0, rows), bool) if a is None else a for a in (ways.mask, ways.reset)]


def _like(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _forward(name: str, reverse: bool, gates: Parts, job: Job) -> Any:
    p, (time, rows, _) = job.p, job.xs.shape
    hidden = p.w.shape[-1]
    of = lambda *shape: p.cell.state(*[_like(*shape, rows, hidden)] * len(job.state))
    results: Any = (_like(time, rows, hidden), of())
    if name == "kept":
        parts = [_like(time, rows, len(g), hidden) if g else None for g in gates]
        results = (*results, of(time), Parts(*parts))
    weights = (p.w, p.b, p.r, p.recurrent_bias)
    flags = _flags(job.ways, rows)
    return _call(
        name, gates, p, results, jnp.int32(reverse), job.xs, *weights, job.state, job.initial, flags
    )


def _values(reverse: bool, gates: Parts, job: Job) -> tuple[State, Array]:
    def run(job: Job) -> tuple[State, Array]:
        ys, last = _forward("values", reverse, gates, job)
        return last, ys

    return computed(run, functools.partial(values, reverse, gates), job)


def _kept(reverse: bool, gates: Parts, job: Job) -> Any:
    def run(job: Job) -> Any:
        ys, last, before, parts = _forward("kept", reverse, gates, job)
        return (last, ys), before, parts

    def plain(job: Job) -> Any:
        out, held = kept(reverse, gates, job)
        return out, held.before, held.parts

    out, before, parts = computed(run, plain, job)
    return out, Kept(job, before, parts)


def _tangents(reverse: bool, gates: Parts, held: Kept, d: Changes) -> Any:
    plain = functools.partial(tangents, reverse, gates)
    back = functools.partial(_back, reverse, gates, (changing(d.p), changing(d.xs)))
    return linear(plain, back, held, filled(d))


def _back(
    reverse: bool, gates: Parts, asked: tuple[bool, bool], held: Kept, cotangents: Any
) -> Changes:
    """The transpose of the tangents: from those of `(last, ys)` to those of what entered.

    `asked`: whether those of the weights, and of the inputs, are wanted; else they are zero.
    """
    run = functools.partial(_run_back, reverse, gates, asked)
    return computed(run, functools.partial(_plainly_back, reverse, gates), held, cotangents)


def _run_back(
    reverse: bool, gates: Parts, asked: tuple[bool, bool], held: Kept, cotangents: Any
) -> Changes:
    of_weights, of_inputs = asked
    dlast, dys = cotangents
    p, xs, ways = held.job.p, held.job.xs, held.job.ways
    weights = (p.w, p.b, p.r, p.recurrent_bias)
    like = lambda a, asked=True: _like(*(a.shape if asked else (0, *a.shape[1:])))
    states = jax.tree.map(like, (dlast, dlast))
    results = (like(xs, of_inputs), [like(a, of_weights) for a in weights], *states)
    args = (xs, p.w, p.r, held.before, held.parts, dys, dlast, _flags(ways, dys.shape[1]))
    out = _call("back", gates, p, results, jnp.int32(reverse), *args)
    dxs, (dw, db, dr, dother), dstate, dinitial = jax.tree.map(
        lambda a, like: a if a.shape == like.shape else jnp.zeros(like.shape, like.dtype),
        out, (xs, list(weights), dlast, dlast),
    )  # fmt: skip
    return Changes(p._replace(w=dw, b=db, r=dr, recurrent_bias=dother), dinitial, dstate, dxs)


def _plainly_back(reverse: bool, gates: Parts, held: Kept, cotangents: Any) -> Changes:
    job = held.job
    entering = jax.tree.map(jnp.zeros_like, Changes(job.p, job.initial, job.state, job.xs))
    plain = functools.partial(tangents, reverse, gates, held)
    return jax.linear_transpose(plain, entering)(cotangents)[0]


ENGINE = Engine(_values, _kept, _tangents)
