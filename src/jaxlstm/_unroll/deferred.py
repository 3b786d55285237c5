"""Gradients of the weights in one product, after the loop: for every gated cell.

Autodiff through `scan` adds to the gradient of `r` at every step: a thin product and a pass
over the whole matrix, as often as there are steps.  But a tangent of `r` enters a step only
as `h dr`, with the `h` before it known for all steps once the loop is done.  So the rule
below lets the tangents of the weights in for all time at once,

    dv_t  = h_{t-1} dr                                         one product, no loop
    ds_t  = J_t (ds_{t-1}, du_t, dv_t + dh_{t-1} r)            a loop, linear

with `J_t` the derivative of the cell's equations at step t.  JAX transposes it: a loop
backwards in time that gives the cotangents of the gates, and one product for the gradient of
`r`.  The rule is plain JAX, so forward mode, second derivatives and `vmap` work on.

Kept for the backward pass: the states, and `u` and `v`, which is one sum for the gates that
the equations take by their sum alone: all of an LSTM's, two of a GRU's.  What the equations
make of them is computed again.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad
from jaxtyping import Array

from .._cell import Gated, State, recurrent
from .._control import Controls, where
from .._layer import Layer, biased, product, take, widened
from ._parts import Parts, add, groups, of_u, of_v, whole


def deferred(
    node: Any, xs: Any, state: State, controls: Controls, reverse: bool
) -> tuple[Any, State]:
    cell = getattr(node, "cell", None)
    if not (isinstance(node, Layer) and isinstance(cell, Gated) and node.r is not None):
        raise NotImplementedError(
            "`deferred` needs a layer of a gated cell, whose one product with the state is "
            f"`v = h r`; this is {cell or type(node).__name__}."
        )
    batch, cpu = xs.shape[1:-1], jax.default_backend() == "cpu"
    rows = math.prod(batch)
    # One row and weights that stay in the cache: a step is so little that calls count.
    light = cpu and rows == 1 and max(node.w.size, node.r.size) < 2**16
    if light and batch:
        cut = lambda tree, at: _reshape(tree, lambda n: n[:at] + n[at + len(batch) :])
        paste = lambda tree, at: _reshape(tree, lambda n: n[:at] + batch + n[at:])
        ys, last = deferred(node, cut(xs, 1), cut(state, 0), cut(controls, 1), reverse)
        return paste(ys, 1), paste(last, 0)
    # The loop sums the gradients of a cell's further weights: in float32 at least.
    node = node._replace(weights=jax.tree.map(widened, node.weights))
    gates = groups(node)
    if light and gates.u:
        gates = Parts("", cell.gates, cell.recurrent)  # two arrays in place of three
    initial = node.zeros(batch)
    ways = Controls(controls.mask, controls.reset)  # a layer draws no noise
    if not (light or (cpu and rows >= 16)):
        # One large product before the loop.  On CPU those in the loop are as fast or faster
        # from some rows on, and take no memory and no pass over it (benchmarks/NOTES.md).
        # The bias is added in the loop: it is worth no pass over `u` of its own.
        xs = _inputs(gates, node._replace(b=None), xs)
        node = node._replace(w=None)
    last, ys = recurrence(PLAIN, reverse, gates, Job(node, initial, state, xs, ways))
    return ys, last


def _reshape(tree: Any, new: Callable[[Any], Any]) -> Any:
    return jax.tree.map(lambda a: a.reshape(new(a.shape)), tree)


class Job(NamedTuple):
    """What a loop runs on; also its tangents."""

    p: Any
    initial: State
    state: State
    xs: Any
    ways: Controls


def _inputs(gates: Parts, p: Any, xs: Any) -> Parts:
    """`u`, of one step or of all, by a product for each group.

    For all steps two products are as fast as one, and their cotangents come in parts too, not
    copied to be joined.  Where `w` is gone, `xs` is the parts of `x w` already.
    """

    def one(group: str, x: Any) -> Array | None:
        if not group:
            return None
        w, b = (take(a, p.cell.gates, group) for a in (p.w, p.b))
        if w is not None:
            return p._replace(w=w, b=b).project(x)
        return biased(x, b)

    x = Parts(xs, xs, None) if p.w is not None else xs
    return Parts(one(gates.sums, x.sums), one(gates.u, x.u), None)


def _products(gates: Parts, p: Any, h: Array) -> Parts:
    """`v`, of one step or of all, by a product for each group."""
    one = lambda group: recurrent(p, h, group) if group else None
    return Parts(one(gates.sums), None, one(gates.v))


class Changes(NamedTuple):
    """Tangents, in which the results' are linear."""

    p: Any
    initial: Any
    state: Any
    xs: Any


class Kept(NamedTuple):
    """What the way back needs of every step."""

    job: Job
    before: State
    parts: Parts


class Engine(NamedTuple):
    """What runs the loops: here by `jax.lax.scan`; a kernel may take their place."""

    values: Callable[..., Any]  # (reverse, gates, job) -> (last, ys)
    kept: Callable[..., Any]  # (reverse, gates, job) -> (last, ys), kept
    tangents: Callable[..., Any]  # (reverse, gates, kept, changes) -> those of (last, ys)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def recurrence(engine: Engine, reverse: bool, gates: Parts, job: Job) -> tuple[State, Array]:
    """`(last state, outputs)`."""
    return engine.values(reverse, gates, job)


def _rule(
    engine: Engine, reverse: bool, gates: Parts, primals: tuple[Job], tangents: tuple[Job]
) -> Any:
    (job,), (d,) = primals, tangents
    outs, kept = engine.kept(reverse, gates, job)
    changes = Changes(d.p, d.initial, d.state, d.xs)
    return outs, engine.tangents(reverse, gates, kept, changes)


recurrence.defjvp(_rule, symbolic_zeros=True)


def _zero(a: Any) -> bool:
    return isinstance(a, SymbolicZero)


def changing(d: Any) -> bool:
    """Whether there is a tangent at all."""
    return not all(map(_zero, jax.tree.leaves(d, is_leaf=_zero)))


def filled(d: Any) -> Any:
    """With arrays of zeros where there is no tangent."""
    fill = lambda a: ad.instantiate_zeros(ad.Zero(a.aval)) if _zero(a) else a
    return jax.tree.map(fill, d, is_leaf=_zero)


def _loop(reverse: bool, gates: Parts, job: Job, emit: Callable[..., Any]) -> tuple[State, Any]:
    p, cell = job.p, job.p.cell

    def body(s: State, at: tuple[Any, Controls]) -> tuple[State, Any]:
        x, now = at
        s = s if now.reset is None else where(now.reset, job.initial, s)
        # In a step one product is faster than one for each group.
        u = _inputs(gates, p, x) if p.w is None else of_u(gates, cell, p.project(x))
        parts = add(u, of_v(gates, cell, recurrent(p, s[0], cell.recurrent)))
        new = where(now.mask, _point(gates, p, s, parts), s)
        return new, emit(s, parts, new)

    return jax.lax.scan(body, job.state, (job.xs, job.ways), reverse=reverse)


def _point(gates: Parts, p: Any, s: State, parts: Parts) -> State:
    return p.cell.point(p, s, *whole(gates, p.cell, parts))


def _output(p: Any, s: State) -> Array:
    """The output has the dtype of the weights, so that layers stack."""
    return s[0].astype(p.r.dtype)


def values(reverse: bool, gates: Parts, job: Job) -> tuple[State, Array]:
    return _loop(reverse, gates, job, lambda before, parts, after: _output(job.p, after))


def kept(reverse: bool, gates: Parts, job: Job) -> tuple[Any, Kept]:
    keep = lambda before, parts, after: (_output(job.p, after), before, parts)
    last, (ys, before, parts) = _loop(reverse, gates, job, keep)
    return (last, ys), Kept(job, before, parts)


def tangents(reverse: bool, gates: Parts, kept: Kept, d: Changes) -> tuple[State, Array]:
    d = filled(d)
    p, xs = kept.job.p, kept.job.xs
    through = _through(p, kept.before[0].shape[-1])
    point = functools.partial(_point, gates)

    # Those of the inputs and of the weights, for all time at once.
    into_u = functools.partial(_inputs, gates)
    into_v = lambda p: _products(gates, p, kept.before[0])
    du = jax.jvp(into_u, (p, xs), (d.p, d.xs))[1]
    dv = jax.jvp(into_v, (p,), (d.p,))[1]

    def body(ds: State, at: Any) -> tuple[State, Array]:
        before, parts, dparts, now = at
        ds = ds if now.reset is None else where(now.reset, d.initial, ds)
        dparts = add(dparts, of_v(gates, p.cell, through(ds[0])))
        dnew = jax.jvp(point, (p, before, parts), (d.p, ds, dparts))[1]
        ds = where(now.mask, dnew, ds)
        return ds, _output(p, ds)

    body = jax.checkpoint(body, prevent_cse=False)
    along = (kept.before, kept.parts, add(du, dv), kept.job.ways)
    return jax.lax.scan(body, d.state, along, reverse=reverse)


PLAIN = Engine(values, kept, tangents)


def _through(p: Any, width: int) -> Any:
    """`dh -> dh r`, with `r` laid out for the way back.

    JAX makes `dz r^T` of it, in every step of the backward pass; with `r^T` in memory that
    product runs 1.4 times as fast on CPU at width 256 (benchmarks/NOTES.md).
    """
    n, gates, hidden = p.r.shape
    r = widened(p.r)  # once, before the loop
    if n != width:  # block by block, for cells of several heads
        return lambda dh: product(dh, r, None)
    across = r.reshape(n, -1).T

    def through(dh: Array) -> Array:
        along = (((dh.ndim - 1,), (1,)), ((), ()))
        return jax.lax.dot_general(dh, across, along).reshape(*dh.shape[:-1], gates, hidden)

    return through
