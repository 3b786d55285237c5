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

from ..._cell import Cell, Gated
from ..._control import Controls, on_each_device, shared, vary_alike
from ..._layer import Layer
from ..._node import Problem, State
from .._groups import Groups, Parts, groups_of
from ..deferred import (
    Engine,
    Job,
    Loop,
    Residuals,
    Tangents,
    instantiated,
    nonzero,
    recurrence,
    residuals,
    tangents,
    values,
)
from ._compiler import register
from ._linear import computed, linear
from ._source import source


def run(problem: Problem) -> tuple[Array, State]:
    node, xs = problem.node, problem.xs
    controls = problem.controls._replace(noise=None)  # a layer has none
    groups = groups_of(problem)
    assert groups is not None
    f = functools.partial(_run, problem.plan.reverse, groups)
    if any(axes := shared(xs)[1:-1]):  # then each device runs its own rows
        each, once = P(None, *axes), P(*axes)
        f = on_each_device(f, xs, (P(), once, each, once, each), (each, once))
    return f(node, problem.initial, xs, problem.state, controls)


def _run(
    reverse: bool,
    groups: Groups,
    node: Any,
    initial: State,
    xs: Any,
    state: State,
    controls: Controls,
) -> tuple[Array, State]:
    batch, rows = xs.shape[1:-1], math.prod(xs.shape[1:-1])
    flat = lambda tree, at: jax.tree.map(
        lambda a: a.reshape(*a.shape[:at], rows, *a.shape[at + len(batch) :]), tree
    )
    b = jnp.zeros(node.w.shape[1:], xs.dtype) if node.b is None else node.b
    other = node.recurrent_bias
    other = jnp.zeros(node.r.shape[1:], xs.dtype) if other is None else other
    p = node._replace(b=b, recurrent_bias=other)
    job = Job(p, flat(initial, 0), flat(state, 0), flat(xs, 1), flat(controls, 1))
    job = vary_alike(job, job)  # so that all that is derived of it does
    last, ys = recurrence(ENGINE, Loop(groups, reverse), job)
    unflat = lambda a, at: a.reshape(*a.shape[:at], *batch, a.shape[-1])
    return unflat(ys, 1), jax.tree.map(lambda a: unflat(a, 0), last)


def refusal(problem: Problem) -> str | None:
    node, xs = problem.node, problem.xs
    if not (type(node) is Layer and isinstance(node.cell, Gated) and node.r is not None):
        what = node.cell if isinstance(node, Layer) else type(node).__name__
        return f"needs a layer of a gated cell; this is {what}."
    cell = node.cell
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
    groups = groups_of(problem)
    assert groups is not None
    try:
        _target("values", cell, groups)
    except NotImplementedError as reason:
        return str(reason)
    return None


def _target(name: str, cell: Cell, groups: Groups) -> str:
    return f"{register(source(cell, groups))}_{name}"


def _call(name: str, groups: Groups, p: Layer, results: Any, *args: Any) -> Any:
    call = jax.ffi.ffi_call(
        _target(name, p.cell, groups),
        jax.tree.leaves(results),
        vmap_method="sequential",
    )
    # JAX takes the results for such as vary over no mesh axis.
    made = vary_alike(list(call(*vary_alike(jax.tree.leaves(args), args))), args)
    return jax.tree.unflatten(jax.tree.structure(results), made)


def _flags(controls: Controls, rows: int) -> list[Array]:
    """None goes as an array of no steps."""
    return [jnp.zeros((0, rows), bool) if a is None else a for a in (controls.mask, controls.reset)]


def _like(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _forward(name: str, loop: Loop, job: Job) -> Any:
    p, (time, rows, _) = job.node, job.xs.shape
    groups = loop.groups
    hidden = p.w.shape[-1]
    of = lambda *shape: p.cell.state(*[_like(*shape, rows, hidden)] * len(job.state))
    results: Any = (_like(time, rows, hidden), of())
    if name == "residuals":
        part = lambda gates: _like(time, rows, len(gates), hidden) if gates else None
        (v,) = groups.v
        results = (*results, of(time), Parts(part(groups.sums), part(groups.u), (part(v),)))
    weights = (p.w, p.b, p.r, p.recurrent_bias)
    flags = _flags(job.controls, rows)
    return _call(
        name, groups, p, results, jnp.int32(loop.reverse),
        job.xs, *weights, job.state, job.initial, flags,
    )  # fmt: skip


def _values(loop: Loop, job: Job) -> tuple[State, Array]:
    def run(job: Job) -> tuple[State, Array]:
        ys, last = _forward("values", loop, job)
        return last, ys

    return computed(run, functools.partial(values, loop), job)


def _residuals(loop: Loop, job: Job) -> Any:
    def run(job: Job) -> Any:
        ys, last, before, parts = _forward("residuals", loop, job)
        return (last, ys), before, parts

    def plain(job: Job) -> Any:
        out, held = residuals(loop, job)
        return out, held.before, held.parts

    out, before, parts = computed(run, plain, job)
    return out, Residuals(job, before, parts, (None,))


def _tangents(loop: Loop, held: Residuals, d: Tangents) -> Any:
    plain = functools.partial(tangents, loop)
    back = functools.partial(_back, loop, (nonzero(d.node), nonzero(d.xs)))
    return linear(plain, back, held, instantiated(d))


def _back(loop: Loop, asked: tuple[bool, bool], held: Residuals, cotangents: Any) -> Tangents:
    """The transpose of the tangents: from those of `(last, ys)` to those of what entered.

    `asked`: whether those of the weights, and of the inputs, are wanted; else they are zero.
    """
    run = functools.partial(_run_back, loop, asked)
    return computed(run, functools.partial(_plainly_back, loop), held, cotangents)


def _run_back(loop: Loop, asked: tuple[bool, bool], held: Residuals, cotangents: Any) -> Tangents:
    of_weights, of_inputs = asked
    dlast, dys = cotangents
    p, xs, controls = held.job.node, held.job.xs, held.job.controls
    weights = (p.w, p.b, p.r, p.recurrent_bias)
    like = lambda a, asked=True: _like(*(a.shape if asked else (0, *a.shape[1:])))
    states = jax.tree.map(like, (dlast, dlast))
    results = (like(xs, of_inputs), [like(a, of_weights) for a in weights], *states)
    args = (xs, p.w, p.r, held.before, held.parts, dys, dlast, _flags(controls, dys.shape[1]))
    out = _call("back", loop.groups, p, results, jnp.int32(loop.reverse), *args)
    dxs, (dw, db, dr, dother), dstate, dinitial = jax.tree.map(
        lambda a, like: a if a.shape == like.shape else jnp.zeros(like.shape, like.dtype),
        out, (xs, list(weights), dlast, dlast),
    )  # fmt: skip
    dnode = p._replace(w=dw, b=db, r=dr, recurrent_bias=dother)
    return Tangents(dnode, dinitial, dstate, dxs, None)


def _plainly_back(loop: Loop, held: Residuals, cotangents: Any) -> Tangents:
    job = held.job
    entering = Tangents(job.node, job.initial, job.state, job.xs, None)
    entering = jax.tree.map(jnp.zeros_like, entering)
    plain = functools.partial(tangents, loop, held)
    return jax.linear_transpose(plain, entering)(cotangents)[0]


ENGINE = Engine(_values, _residuals, _tangents)
