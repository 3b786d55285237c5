"""Gradients of the weights in one product, after the loop: for every node with recurrent weights.

Autodiff through `scan` adds to the gradient of `r` at every step: a thin product and a pass
over the whole matrix, as often as there are steps.  But a tangent of `r` enters a step only
as `h dr`, with the `h` before it known for all steps once the loop is done.  So the rule
below lets the tangents of the weights in for all time at once,

    dv_t  = h_t dr                                             one product, no loop
    ds_t  = J_t (ds_{t-1}, du_t, dv_t + dh_t r)                a loop, linear

with `h_t` what a step multiplies with `r` (in most cells the hidden state before it; a step may
have several products), and `J_t` the derivative of the step's equations.  JAX transposes it: a
loop backwards in time that gives the cotangents of the gates, and one product for the gradient
of `r`.  The rule is plain JAX, so forward mode, second derivatives and `vmap` work on.

Residuals: the states, and `u` and `v`, which is one sum for the gates that the equations take by
their sum alone: all of an LSTM's, two of a GRU's.  What the equations make of them is computed
again.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad
from jaxtyping import Array, PyTree

from .._control import (
    combine,
    differentiable,
    over_time,
    partition,
    stepped_from,
    vary_alike,
    where,
)
from .._dtypes import widened
from .._jaxpr import without_prints
from .._layer import Layer, are_of_rows, for_a_loop, for_loops, for_rows
from .._node import Controls, Problem, State, StepNode
from .._options import at_least
from .._types import Tree
from ._groups import Groups, Preactivations, groups_of, plus, rows, split, u_of, v_of, without_sums


def refusal(problem: Problem) -> str | None:
    groups = groups_of(problem)
    if groups is None or not (groups.calls or groups.own):
        return (
            "needs a node with recurrent weights, or another matrix, that its step multiplies with "
            "outside of loops of its own, `jit`, `grad` and other transformations, and a step "
            f"without `jax.lax.cond` and `switch`; this is {problem.node!r}."
        )
    return None


def run(problem: Problem) -> tuple[Array, State]:
    node, xs = problem.node, problem.xs
    batch, cpu = xs.shape[1:-1], jax.default_backend() == "cpu"
    rows = math.prod(batch)
    # With one row, and weights that stay in the cache, a step is so short that calls matter.
    small = isinstance(node, Layer) and all(a is None or a.size < 2**16 for a in (node.w, node.r))
    light = cpu and rows == 1 and small
    if light and batch:
        return _without_batch(problem, len(batch))
    groups = groups_of(problem)
    assert groups is not None
    if light and groups.u:
        groups = without_sums(groups)  # two arrays in place of three
    hoist = hoists(rows) and not light
    node = for_rows(for_loops(node), xs, node.spatial_axes)
    job = Job(node, problem.initial, problem.state, xs, problem.controls)
    last, ys = recurrence(PLAIN, Loop(groups, problem.plan.reverse, hoist), job)
    return ys, last


def hoists(rows: int) -> bool:
    """Whether all inputs are multiplied with their weights at once, before the loop.

    On CPU products in the loop are as fast or faster from some rows on, and take no memory and no
    pass over it (benchmarks/NOTES.md).
    """
    return not (jax.default_backend() == "cpu" and at_least(rows, 16))


def _without_batch(problem: Problem, axes: int) -> tuple[Array, State]:
    """With batch axes of length 1 left out, and put back into the results."""
    cut = lambda tree, at: jax.tree.map(
        lambda a: a.reshape(a.shape[:at] + a.shape[at + axes :]), tree
    )
    paste = lambda tree, at: jax.tree.map(
        lambda a: a.reshape(a.shape[:at] + (1,) * axes + a.shape[at:]), tree
    )
    ys, last = run(
        problem._replace(
            initial=cut(problem.initial, 0), state=cut(problem.state, 0),
            xs=cut(problem.xs, 1), controls=cut(problem.controls, 1),
        )
    )  # fmt: skip
    return paste(ys, 1), paste(last, 0)


class Loop(NamedTuple):
    """What a loop is, all of it known when it is traced."""

    groups: Groups
    reverse: bool
    hoist: bool = False  # multiply all inputs with their weights before the loop


class Job(NamedTuple):
    """What a loop runs on; also its tangents."""

    node: StepNode
    initial: State
    state: State
    xs: Array
    controls: Controls


class Residuals(NamedTuple):
    """What the tangents need of every step."""

    job: Job
    before: State
    preactivations: Preactivations
    hs: tuple[Array | None, ...]  # what each product is made of; None: the state's first field


class Tangents(NamedTuple):
    """Tangents of a job, in which those of the results are linear."""

    node: PyTree
    initial: State
    state: State
    xs: PyTree
    noise: PyTree


Outs: TypeAlias = tuple[State, Array]  # the last state, and the outputs


class Engine(NamedTuple):
    """What runs the loops: here by `jax.lax.scan`; a kernel may take their place."""

    values: Callable[[Loop, Job], Outs]
    residuals: Callable[[Loop, Job], tuple[Outs, Residuals]]
    tangents: Callable[[Loop, Residuals, Tangents], Outs]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def recurrence(engine: Engine, loop: Loop, job: Job) -> Outs:
    return engine.values(loop, job)


def _rule(
    engine: Engine, loop: Loop, primals: tuple[Job], tangents: tuple[Job]
) -> tuple[Outs, Outs]:
    (job,), (d,) = primals, tangents
    outs, residuals = engine.residuals(loop, job)
    given = Tangents(d.node, d.initial, d.state, d.xs, d.controls.noise)
    return outs, engine.tangents(loop, residuals, given)


recurrence.defjvp(_rule, symbolic_zeros=True)


def _zero(a: object) -> bool:
    return isinstance(a, SymbolicZero)


def nonzero(d: PyTree) -> bool:
    """Whether there is a tangent at all."""
    return not all(map(_zero, jax.tree.leaves(d, is_leaf=_zero)))


def instantiated(d: Tree) -> Tree:
    """With arrays of zeros where there is no tangent."""
    fill = lambda a: ad.instantiate_zeros(ad.Zero(a.aval)) if _zero(a) else a
    return jax.tree.map(fill, d, is_leaf=_zero)


def _added(a: Array, b: Array) -> Array:
    return a + b if differentiable(a) else a


def _inputs(groups: Groups, node: StepNode, xs: Array) -> Preactivations:
    """`u`, of one step or of all, by a product for each group.

    For all steps two products are as fast as one, and their cotangents come in parts too, not
    copied to be joined.
    """
    if not node.gates:
        return Preactivations(None, node.project(xs), ())
    one = lambda gates: node.project(xs, gates) if gates else None
    return Preactivations(one(groups.sums), one(groups.u), ())


def _products(groups: Groups, node: StepNode, hs: tuple[Array, ...]) -> Preactivations:
    """`v`, of all steps, by a product for each group."""
    one = lambda h, gates: node.recur(h, gates) if gates else None
    sums = map(one, hs, groups.summed)
    v = tuple(map(one, hs, groups.v))
    summed = rows(groups.sums, zip(groups.summed, sums)) if groups.sums else None
    return Preactivations(summed, None, v)


def _loop(loop: Loop, job: Job, emit: Callable[..., PyTree]) -> tuple[State, PyTree]:
    node = job.node

    def body(s: State, at: tuple[PyTree, Controls]) -> tuple[State, PyTree]:
        x, now = at
        s = s if now.reset is None else where(now.reset, job.initial, s)
        before = stepped_from(now.mask, s, job.initial)
        # In a step one product is faster than one for each group.
        u = u_of(loop.groups, x) if loop.hoist else node.project(x)
        hs: list[Array] = []
        vs: list[Array] = []

        def recur(h: Array, gates: str) -> Array:
            hs.append(h)
            vs.append(node.recur(h, gates))
            return vs[-1]

        new = where(now.mask, node.step(before, u, recur, now.noise), s)
        return new, emit(before, u, hs, vs, new)

    xs = _inputs(loop.groups, node, job.xs) if loop.hoist else job.xs
    return over_time(body, job.state, (xs, job.controls), loop.reverse)


def _output(job: Job, s: State) -> Array:
    """The output of a step, in the dtype of the weights, so that layers stack."""
    return s[0].astype(job.xs.dtype)


def values(loop: Loop, job: Job) -> Outs:
    return _loop(loop, job, lambda s, u, hs, vs, new: _output(job, new))


def residuals(loop: Loop, job: Job) -> tuple[Outs, Residuals]:
    def emit(s: State, u: PyTree, hs: list[Array], vs: list[Array], new: State) -> PyTree:
        operands = tuple(None if h is s[0] else h for h in hs)
        return _output(job, new), s, split(loop.groups, u, vs), operands

    last, (ys, *rest) = _loop(loop, job, emit)
    return (last, ys), Residuals(job, *rest)


def tangents(loop: Loop, res: Residuals, d: Tangents) -> Outs:
    groups, d = loop.groups, instantiated(d)
    node, xs, controls = res.job.node, res.job.xs, res.job.controls
    hs = tuple(res.before[0] if h is None else h for h in res.hs)

    # Those of the inputs and of the weights, for all time at once.
    into_u = functools.partial(_inputs, groups)
    du = jax.jvp(into_u, (node, xs), (d.node, d.xs))[1]
    dv = jax.jvp(lambda node: _products(groups, node, hs), (node,), (d.node,))[1]
    along = [_along(node, h, gates) for h, gates in zip(hs, groups.calls, strict=True)]
    varying, fixed = partition(controls.noise)
    rows, put = _rows(node)
    drows, _ = _rows(d.node)

    def point(
        fixed: PyTree,
        node: StepNode,
        s: State,
        pre: Preactivations,
        varying: PyTree,
        zero: Array | None = None,
    ) -> State:
        call = iter(range(len(along)))

        def recur(h: Array, gates: str) -> Array:
            i = next(call)

            @jax.custom_jvp
            def recalled(h: Array, v: Array) -> Array:
                return v

            recalled.defjvp(lambda primals, d: (primals[1], along[i](d[0]) + d[1]))
            if zero is not None:
                h = h + vary_alike(zero.astype(h.dtype), h)
            # Inside `shard_map` a value must vary over what its tangent varies over.
            return recalled(h, vary_alike(v_of(groups, pre, i), (node, pre, h)))

        return node.step(s, u_of(groups, pre), recur, combine(varying, fixed))

    if groups.prints:  # which the loop before has done
        point = without_prints(point)

    def body(ds: State, at: PyTree) -> tuple[State, Array]:
        before, pre, dpre, now, varying, fixed, dnoise, dstep = at
        ds = ds if now.reset is None else where(now.reset, d.initial, ds)
        f = lambda rows, *given: point(fixed, put(rows), *given)
        dnew = jax.jvp(f, (rows, before, pre, varying), (drows, ds, dpre, dnoise))[1]
        dnew = dnew if dstep is None else jax.tree.map(_added, dnew, dstep)
        ds = where(now.mask, dnew, ds)
        return ds, _output(res.job, ds)

    dsteps = _of_own(point, d.node, res, varying, fixed) if groups.own else None
    body = jax.checkpoint(body, prevent_cse=False)
    steps = (res.before, res.preactivations, plus(du, dv), controls._replace(noise=None))
    steps = (*steps, varying, fixed, partition(d.noise)[0], dsteps)
    return over_time(body, d.state, steps, loop.reverse)


def _rows(node: Tree) -> tuple[list[Array], Callable[[list[Array]], Tree]]:
    """The weights that a step takes row by row, and what puts others in their place."""
    leaves, tree = jax.tree.flatten(node)
    marks = are_of_rows(node)

    def put(rows: list[Array]) -> Tree:
        new = iter(rows)
        return tree.unflatten([next(new) if m else a for a, m in zip(leaves, marks, strict=True)])

    return [a for a, m in zip(leaves, marks, strict=True) if m], put


def _of_own(
    point: Callable[..., State], dnode: PyTree, res: Residuals, varying: PyTree, fixed: PyTree
) -> State:
    """What the tangents of weights that a step has beside those of rows add to each state.

    For all time at once, as those of its products: the gradient of a matrix is one product.
    """
    rows, put = _rows(dnode)
    weights, back = for_a_loop(put([*map(jnp.zeros_like, rows)]))
    wides, tree = jax.tree.flatten(weights)
    time, node = res.job.xs.shape[0], res.job.node
    # Where the step makes them narrow, each step has its own, to be summed wide.
    pairs = enumerate(zip(wides, jax.tree.leaves(dnode), strict=True))
    each = {i: jnp.broadcast_to(a, (time, *a.shape)) for i, (a, b) in pairs if a.dtype != b.dtype}

    def one(at: PyTree, own: dict[int, Array]) -> State:
        before, pre, varying, fixed = at
        given = back(tree.unflatten([own.get(i, a) for i, a in enumerate(wides)]))
        # The operand of a product must have a tangent, be it zero: else its rule is left to be
        # found by the next derivative.
        f = lambda node, zero: point(fixed, node, before, pre, varying, zero)
        zero = jnp.zeros((), res.job.xs.dtype)
        return jax.jvp(f, (node, zero), (given, zero))[1]

    return jax.checkpoint(jax.vmap(one))((res.before, res.preactivations, varying, fixed), each)


PLAIN = Engine(values, residuals, tangents)


def _along(node: StepNode, h: Array, gates: str) -> Callable[[Array], Array]:
    """`dh -> dh r`, with `r` laid out for the way back.

    JAX makes `dz r^T` of it, in every step of the backward pass; with `r^T` in memory that
    product runs 1.4 times as fast on CPU at width 256 (benchmarks/NOTES.md).
    """
    r = node.r if isinstance(node, Layer) and gates == node.cell.recurrent else None
    if r is None or r.shape[0] != h.shape[-1]:
        # `recur` is affine: any point will do, if it varies as its tangent does.
        at = lambda dh: vary_alike(jnp.zeros_like(dh), dh)
        return lambda dh: jax.jvp(lambda h: node.recur(h, gates), (at(dh),), (dh,))[1]
    n, _, hidden = r.shape
    across = widened(r).reshape(n, -1).T  # once, before the loop

    def through(dh: Array) -> Array:
        along = (((dh.ndim - 1,), (1,)), ((), ()))
        return jax.lax.dot_general(dh, across, along).reshape(*dh.shape[:-1], len(gates), hidden)

    return through
