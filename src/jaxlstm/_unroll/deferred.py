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

Kept for the backward pass: the states, and `v` (their sum with `u` where the cell sees only
that).  What the equations make of them is computed again.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._cell import Gated, State, front, recurrent
from .._control import Controls, where
from .._layer import Layer, product


def deferred(
    node: Any, xs: Any, state: State, controls: Controls, reverse: bool
) -> tuple[Any, State]:
    cell = getattr(node, "cell", None)
    if not (isinstance(node, Layer) and isinstance(cell, Gated) and node.r is not None):
        raise NotImplementedError(
            "`deferred` needs a layer of a gated cell, whose one product with the state is "
            f"`v = h r`; this is {cell or type(node).__name__}."
        )
    initial = node.zeros(xs.shape[1:-1])
    ways = Controls(controls.mask, controls.reset)  # a layer draws no noise
    if _early(math.prod(xs.shape[1:-1])):
        # The bias is added in the loop: it is worth no pass over `u` of its own.
        xs = node._replace(b=None).project(xs)
        node = node._replace(w=None)
    last, ys = _recurrence(reverse, node, initial, state, xs, ways)
    return ys, last


def _early(rows: int) -> bool:
    """Whether `x w` is one product before the loop, or one in every step.

    Before the loop it is a large product; in the loop it takes no memory and no pass over
    it.  On CPU the loop is as fast or faster from some rows on, since its products are of a
    fair size then (benchmarks/NOTES.md).
    """
    return rows < 16 or jax.default_backend() != "cpu"


def _project(p: Any, x: Array) -> Array:
    """`u`, of one step or of all: where `w` is gone, `x` is `x w` already."""
    if p.w is not None:
        return p.project(x)
    return x if p.b is None else x + jnp.broadcast_to(p.b, x.shape)


class Step(NamedTuple):
    """What the rule keeps of a step."""

    before: State  # the state that the step starts from
    u: Array
    v: Array | None  # None where `u` is already `u + v`


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _recurrence(
    reverse: bool, p: Any, initial: State, state: State, xs: Array, ways: Controls
) -> tuple[State, Array]:
    """`(last state, outputs)`."""
    return _loop(reverse, p, initial, state, xs, ways, lambda s, step: s[0])


def _loop(
    reverse: bool, p: Any, initial: State, state: State, xs: Array, ways: Controls, emit: Any
) -> tuple[State, Any]:
    only_sum = _sees_only_the_sum(p, state)

    def body(s: State, at: tuple[Array, Controls]) -> tuple[State, Any]:
        x, now = at
        s = s if now.reset is None else where(now.reset, initial, s)
        u = _project(p, x)
        v = recurrent(p, s[0], p.cell.recurrent)
        step = Step(s, u + v, None) if only_sum else Step(s, u, v)
        s = where(now.mask, _point(p, *step), s)
        return s, emit(s, step)

    return jax.lax.scan(body, state, (xs, ways), reverse=reverse)


def _point(p: Any, s: State, u: Array, v: Array | None) -> State:
    v = jnp.zeros_like(u) if v is None else v
    return p.cell.point(p, s, front(u), front(v))


def _sees_only_the_sum(p: Any, s: State) -> bool:
    """Whether the equations take `u` and `v` by `u + v` alone, which is then kept in one."""
    if p.cell.recurrent != p.cell.gates:
        return False
    v = jax.eval_shape(lambda p, s: front(recurrent(p, s[0], p.cell.recurrent)), p, s)
    jaxpr = jax.make_jaxpr(lambda u, v: p.cell.point(p, s, u, v))(v, v).jaxpr
    taken = {id(x) for x in jaxpr.invars}
    uses = [e for e in jaxpr.eqns if taken & {id(x) for x in e.invars}]
    only = len(uses) == 1 and uses[0].primitive.name == "add"
    return only and taken == {id(x) for x in uses[0].invars}


@_recurrence.defjvp
def _rule(reverse: bool, primals: Any, tangents: Any) -> Any:
    p, initial, state, xs, ways = primals
    dp, dinitial, dstate, dxs, _ = tangents
    last, (ys, steps) = _loop(reverse, p, initial, state, xs, ways, lambda s, step: (s[0], step))

    # The tangents of the inputs and of the weights, for all time at once.
    dus = jax.jvp(_project, (p, xs), (dp, dxs))[1]
    into_v = lambda q: recurrent(q, steps.before[0], p.cell.recurrent)
    dvs = jax.jvp(into_v, (p,), (dp,))[1]
    dsteps = (dus + dvs, None) if steps.v is None else (dus, dvs)
    through = _through(p, ys.shape[-1])

    def body(ds: State, at: Any) -> tuple[State, Array]:
        step, (du, dv), now = at
        ds = ds if now.reset is None else where(now.reset, dinitial, ds)
        dv_of_h = through(ds[0])
        du, dv = (du + dv_of_h, None) if dv is None else (du, dv + dv_of_h)
        dnew = jax.jvp(_point, (p, *step), (dp, ds, du, dv))[1]
        ds = where(now.mask, dnew, ds)
        return ds, ds[0]

    body = jax.checkpoint(body, prevent_cse=False)
    dlast, dys = jax.lax.scan(body, dstate, (steps, dsteps, ways), reverse=reverse)
    return (last, ys), (dlast, dys)


def _through(p: Any, width: int) -> Any:
    """`dh -> dh r`, with `r` laid out for the way back.

    JAX makes `dz r^T` of it, in every step of the backward pass; with `r^T` in memory that
    product runs 1.4 times as fast on CPU at width 256 (benchmarks/NOTES.md).
    """
    n, gates, hidden = p.r.shape
    if n != width:  # block by block, for cells of several heads
        return lambda dh: product(dh, p.r, None)
    across = p.r.reshape(n, -1).T

    def through(dh: Array) -> Array:
        along = (((dh.ndim - 1,), (1,)), ((), ()))
        return jax.lax.dot_general(dh, across, along).reshape(*dh.shape[:-1], gates, hidden)

    return through
