"""Parallel in time, for steps that are not linear: Newton's method on all states at once.

The states of a sequence solve `s_t = f_t(s_{t-1})` for all `t`.  From a guess of them,

    A_t = df_t/ds                           the Jacobian of every step
    r_t = f_t(s_{t-1}) - s_t                what is wrong with the guess: the residual
    d_t = A_t d_{t-1} + r_t                 a linear recurrence, by `jax.lax.associative_scan`
    s_t <- s_t + d_t

until the residual is rounding.  Lim et al. 2024, "Parallelizing non-linear sequential models over
the sequence length" (DEER), arXiv:2309.12252.  Of wide states the Jacobian is too large: its
blocks of one unit take its place, which changes the way to the solution, not the solution.
Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs" (quasi-DEER,
and ELK, which damps), arXiv:2407.19115; Danieli et al. 2025, "ParaRNN", arXiv:2510.21450.

Where residuals grow, `A_t` is damped by a factor.  With 0, as in the first round, every step is
taken from the guess before it, and one more step is right each round, whatever the network.

It pays where errors shrink from step to step (Gonzalez et al. 2025, "Predictability enables
parallelization of nonlinear state space models", arXiv:2509.21716).  Where they grow, other states
than those of `scan` have residuals of rounding too.  So errors of rounding are sent through the
same linear recurrence: if they come out more than a thousand times as large, or there is no
solution after a bounded number of rounds, the layer is run by `scan`, inside the same program.

Derivatives are those of the solution, with the true Jacobian: one linear recurrence, in parallel
too for Jacobians that were not cut down to blocks.  Its rule is plain JAX.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jaxtyping import Array, PyTree

from .._cell import Linear
from .._control import (
    combine,
    controlled,
    of_rows,
    over_time,
    partition,
    vary_alike,
    where,
)
from .._jaxpr import avals, follow, primitives
from .._layer import Layer, for_a_loop, for_loops, for_rows
from .._node import Controls, Problem, Recur, State, StepNode
from .._types import Tree
from . import scan
from ._groups import NO_BRANCHES, abstract_step, branches
from .associative import UNKNOWN_TIME

Carry = TypeVar("Carry")

ROUNDS = 64  # of Newton's method, at most
RESIDUAL = 16  # units of rounding of the state that a residual may be
AMPLIFIED = 1024  # how many times larger errors of rounding may become
FULL = 32  # numbers in a state, up to which its whole Jacobian is taken
BYTES = 2**26  # of the Jacobians of a block of time


class NewtonReport(NamedTuple):
    """How a layer was run by `implementation="newton"`; see `jaxlstm.newton_report`."""

    rounds: Array  # of Newton's method, in the block of time that took the most; 64 at most
    residual: Array  # the largest |s_t - f(s_{t-1}, x_t)| of the states that it found
    amplification: Array  # how many times larger errors of rounding became along the sequence
    fell_back: Array  # whether the layer was run by `scan` instead


Carried: TypeAlias = tuple[State, Array, Array, NewtonReport]  # state, errors, going, report


class Method(NamedTuple):
    """How a problem is solved, known when it is traced."""

    unitwise: bool  # blocks of the Jacobian, one for each unit; else one block
    exact: bool  # whether the blocks are all of the Jacobian
    steps: int  # in a block of time


class Job(NamedTuple):
    """What is solved, time running forward; also its tangents."""

    node: StepNode
    initial: State
    state: State
    xs: Array
    controls: Controls


def refusal(problem: Problem) -> str | None:
    node = problem.node
    if isinstance(node, Layer) and isinstance(node.cell, Linear):
        return f"is for cells that are not linear in their state; `associative` runs {node.cell}."
    if not isinstance(problem.xs.shape[0], int):
        return UNKNOWN_TIME
    if problem.plan.checkpoint:
        return (
            "stores nothing but states, and recomputes the rest in blocks of time of its own: "
            "leave `checkpoint` out."
        )
    single, s, u, noise = abstract_step(problem)
    first, *others = (a.dtype for a in jax.tree.leaves(s))
    if not jnp.issubdtype(first, jnp.floating) or {*others} - {first}:
        return f"needs a state of one floating dtype; got {[str(d) for d in (first, *others)]}."

    def tangent(node: StepNode, s: State, u: PyTree, noise: PyTree) -> tuple[State, State]:
        return jax.jvp(lambda s: node.step(s, u, node.recur, noise), (s,), (s,))

    try:
        program = jax.make_jaxpr(tangent)(single, s, u, noise)
    except TypeError:
        return "needs a step with derivatives in forward mode."
    if "jaxlstm_clip_cotangent" in primitives(program):
        return "needs gradients that are linear, which `clip_gradient` does not leave them."
    if branches(program):
        return NO_BRANCHES
    if program.effects:
        return "computes each step many times: the step has effects, such as `jax.debug.print`."
    return None


def run(problem: Problem) -> tuple[Array, State]:
    ys, last, _ = reported(problem)
    return ys, last


def reported(problem: Problem) -> tuple[Array, State, NewtonReport]:
    """`run`, and how it went."""
    node, xs, reverse = problem.node, problem.xs, problem.plan.reverse
    if 0 in xs.shape[: -1 - node.spatial_axes]:  # no steps, or no rows: there is nothing to solve
        zero = jnp.zeros((), problem.state[0].dtype)
        return *scan.run(problem), _read(NewtonReport(zero, zero, zero, zero))
    node = for_rows(for_loops(node), xs, node.spatial_axes)
    ahead = lambda tree: jax.tree.map(lambda a: jnp.flip(a, 0) if reverse else a, tree)
    job = Job(node, problem.initial, problem.state, *ahead((xs, problem.controls)))
    states, report = solution(_method(problem), job)
    last = jax.tree.map(lambda a: a[-1], states)
    return ahead(states[0].astype(xs.dtype)), last, _read(report)


def _read(report: NewtonReport) -> NewtonReport:
    """With whole rounds, and a flag: of these types there are no derivatives."""
    rounds, fell_back = report.rounds.astype(jnp.int32), report.fell_back > 0
    return jax.lax.stop_gradient(report)._replace(rounds=rounds, fell_back=fell_back)


def _method(problem: Problem) -> Method:
    xs, fields = problem.xs, jax.tree.leaves(problem.state)
    batch = xs.shape[1 : -1 - problem.node.spatial_axes]
    sizes = [math.prod(a.shape[len(batch) :]) for a in fields]
    alike = len(set(sizes)) == 1
    exact = alike and _independent(problem)
    unitwise = exact or sum(sizes) > FULL
    exact = exact or not unitwise
    side = sum(sizes) if not unitwise else len(sizes) if alike else 1
    rows = math.prod(n for n in batch if isinstance(n, int))
    each = max(rows, 1) * sum(sizes) * side * fields[0].dtype.itemsize
    blocks = -(-xs.shape[0] * each // BYTES)
    return Method(unitwise, exact, -(-xs.shape[0] // blocks))


# What computes number by number.
_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp
    convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not
    one_minus_square or pow rem round rsqrt select_n sign sin sinh sqrt square sub
    tan tanh xor
"""
_POINTWISE = frozenset(_NAMES.split())


def _independent(problem: Problem) -> bool:
    """Whether the next state of each unit is made of the state of that unit alone.

    Read from one step of one row, as JAX traces it.  Entries are followed as numbers: 0 for what
    knows nothing of the state, 1 for what is of the first unit and so on, -1 for what is of
    several.
    """
    node, s, u, noise = abstract_step(problem)
    step = lambda s, u, node, noise: node.step(s, u, node.recur, noise)
    program = jax.make_jaxpr(step)(s, u, node, noise)
    numbered = lambda a: 1 + np.arange(a.size).reshape(a.shape)

    def merged(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(a == 0, b, np.where((b == 0) | (a == b), a, -1))

    def compute(eqn: JaxprEqn, values: list[np.ndarray]) -> Sequence[np.ndarray]:
        pointwise = eqn.primitive.name in _POINTWISE
        made = functools.reduce(merged, values) if pointwise else -1
        return [np.broadcast_to(made, aval.shape) for aval in avals(eqn.outvars)]

    fields = [*map(numbered, jax.tree.leaves(s))]
    outs = follow(program, fields, compute)
    return all(((a == 0) | (a == b)).all() for a, b in zip(outs, fields, strict=True))


class Layout(NamedTuple):
    """States as one array `(time, *batch, blocks, side)`, a block for what the Jacobian couples.

    That is a whole state, or each unit with its number in every field; or, where fields have
    different numbers of units, each number by itself.
    """

    unitwise: bool
    state: State  # without time, for its shapes
    rows: int  # how many batch axes it has

    @property
    def sizes(self) -> list[int]:
        """How many numbers each field has in a row."""
        return [math.prod(a.shape[self.rows :]) for a in jax.tree.leaves(self.state)]

    @property
    def stacked(self) -> bool:
        """Whether a block has a number of every field."""
        return self.unitwise and len(set(self.sizes)) == 1

    def pack(self, s: State, lead: int = 1) -> Array:
        """`lead` axes stand before those of the batch."""
        lead += self.rows
        flat = [a.reshape(*a.shape[:lead], n) for a, n in zip(jax.tree.leaves(s), self.sizes)]
        if self.stacked:
            return jnp.concatenate([a[..., None] for a in flat], -1)
        joined = jnp.concatenate(flat, -1)
        return joined[..., None] if self.unitwise else joined[..., None, :]

    def unpack(self, x: Array) -> State:
        fields, tree = jax.tree.flatten(self.state)
        if self.stacked:
            parts = [x[..., i] for i in range(len(fields))]
        else:
            joined = x[..., 0] if self.unitwise else x[..., 0, :]
            parts = jnp.split(joined, np.cumsum(self.sizes)[:-1], -1)
        return tree.unflatten(
            part.reshape(*part.shape[:-1], *a.shape[self.rows :])
            for part, a in zip(parts, fields, strict=True)
        )


def _layout(method: Method, job: Job) -> Layout:
    return Layout(method.unitwise, job.state, job.xs.ndim - 2 - job.node.spatial_axes)


def _steps(job: Job, before: State, recur: Recur | None = None) -> State:
    """Every step at once, each from a state of its own."""
    one = lambda s, u, now: controlled(job.node, s, u, now, job.initial, recur)
    return jax.vmap(one)(before, job.node.project(job.xs), job.controls)


def _shifted(first: Tree, after: Tree) -> Tree:
    """The states before each step, from that before the first and those after each."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), first, after)


def _jacobians(layout: Layout, along: Callable[[Array], Array], like: Array) -> Array:
    """The blocks `(time, *batch, blocks, side, side)` of a linear function of states, step by step.

    Rows are independent, and so are blocks: one tangent for each place in a block is enough, or
    for each field, of which only what it does to the field itself is read.
    """
    alone = layout.unitwise and not layout.stacked
    if alone:
        places = np.repeat(np.eye(len(layout.sizes)), layout.sizes, axis=1)[..., None]
    else:
        places = np.eye(like.shape[-1])[:, None]
    basis = jnp.asarray(places, like.dtype)
    basis = basis.reshape(len(basis), *[1] * (like.ndim - 2), *basis.shape[1:])
    columns = jax.vmap(lambda e: along(jnp.zeros_like(like) + e) * (e if alone else 1))(basis)
    return jnp.sum(columns, 0)[..., None] if alone else jnp.moveaxis(columns, 0, -1)


def _recurrence(a: Array, b: Array) -> Array:
    """`d_t = a_t d_{t-1} + b_t` for all `t`, from zero."""
    times = lambda a, b: a * b if a.shape[-1] == 1 else jnp.matmul(a, b)

    def after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        (a1, b1), (a2, b2) = first, second
        return times(a2, a1), times(a2, b1) + b2

    return jax.lax.associative_scan(after, (a, b))[1]


def _of_units_alone(node: StepNode) -> Callable[[Array, str], Array]:
    """The recurrent product, with the derivatives of each unit by itself alone."""

    def recur(h: Array, gates: str) -> Array:
        v = jax.lax.stop_gradient(node.recur(h, gates))
        n = h.shape[-1]
        if node.spatial_axes or v.shape[-1] != n:
            return v
        eye = jnp.eye(n, dtype=h.dtype)
        columns = node.recur(eye, gates) - node.recur(jnp.zeros_like(eye), gates)
        own = jnp.diagonal(columns, axis1=0, axis2=2).reshape(*[1] * (v.ndim - 2), len(gates), n)
        return v + own * (h - jax.lax.stop_gradient(h))[..., None, :]

    return recur


class Guess(NamedTuple):
    """What Newton's method has come to in a block of time."""

    states: Array
    errors: Array  # what errors of rounding have become in them
    damping: Array  # of each row
    wrong: Array  # how wrong each row was, the round before
    rounds: Array
    residual: Array
    amplification: Array
    settled: Array  # whether residuals are rounding, and the errors known, or known to be large


def _newton(method: Method, job: Job, start_errors: Array, going: Array) -> Guess:
    """The states of a block of time, given the errors in the state before it."""
    layout = _layout(method, job)
    start = layout.pack(job.state, 0)
    dtype, shape = start.dtype, (job.xs.shape[0], *start.shape)
    noise = jax.random.rademacher(
        jax.random.key(0), (shape[0], *[1] * layout.rows, *shape[-2:]), dtype
    )
    unmasked = job.controls.mask

    def units(values: State) -> Array:
        """The unit of rounding of each number: that of the largest of its field in its row."""
        axes = lambda a: (0, *range(1 + layout.rows, a.ndim))
        largest = lambda a: jnp.zeros_like(a) + jnp.max(jnp.abs(a), axes(a), keepdims=True)
        return jnp.finfo(dtype).eps * layout.pack(jax.tree.map(largest, values))

    def again(now: Guess) -> Guess:
        before = layout.unpack(_shifted(start, now.states))
        values, tangent = jax.linearize(lambda s: _steps(job, s), before)
        along = own = lambda d: layout.pack(tangent(layout.unpack(d)))
        unit = units(values)
        in_units = lambda a: jnp.abs(a) / jnp.where(a == 0, 1, unit)  # a unit may be 0 too
        r = layout.pack(values) - now.states
        amplification = jnp.max(in_units(now.errors), initial=0)
        # Those of a bad guess may be of any size, and then nothing is right after their rounding.
        errors = jnp.where(amplification <= AMPLIFIED, now.errors, 0)
        fresh = noise * unit
        fresh = fresh if unmasked is None else where(unmasked, fresh, jnp.zeros_like(fresh))
        rest = lambda errors: fresh + along(_shifted(start_errors, errors)) - errors
        unknown = jnp.max(in_units(rest(now.errors)), initial=0)
        large = (amplification > AMPLIFIED) & (unknown <= 1e-3 * amplification)
        known = (unknown <= 0.5) | large
        settled = jnp.all(in_units(r) <= RESIDUAL) & known

        if not method.exact:
            product = _of_units_alone(job.node)
            _, tangent_of_units = jax.linearize(lambda s: _steps(job, s, product), before)
            own = lambda d: layout.pack(tangent_of_units(layout.unpack(d)))
        # The largest residual may stay large until the last step is right; in the mean of their
        # logarithms those that became small count too.
        wrong = jnp.mean(jnp.log1p(in_units(r)), (0, -2, -1))
        damping = jnp.where(wrong < now.wrong, jnp.minimum(2 * now.damping, 1), now.damping / 2)
        damping = jnp.where(now.rounds == 0, 0, jnp.where(now.rounds == 1, 1, damping))
        a = _jacobians(layout, own, r)
        a = a * of_rows(damping[None], a)
        d = _recurrence(a, jnp.stack([r, rest(errors)], -1))
        new = now.states + jnp.where(jnp.isfinite(d[..., 0]), d[..., 0], r)
        return Guess(
            jnp.where(settled, now.states, new),  # what is returned is what was tested
            errors + jnp.where(jnp.isfinite(d[..., 1]), d[..., 1], 0),
            damping,
            jnp.where(jnp.isnan(wrong), jnp.inf, wrong),
            now.rounds + 1,
            jnp.max(jnp.abs(r), initial=0),
            amplification,
            settled,
        )

    more = lambda now: going & ~now.settled & (now.rounds < ROUNDS)
    zero = jnp.zeros((), dtype)
    rows = jnp.ones_like(start[..., 0, 0])
    guess = jnp.zeros(shape, dtype) + layout.pack(job.initial, 0)[None]
    first = Guess(
        guess, jnp.zeros_like(guess), rows, jnp.full_like(rows, jnp.inf),
        zero, zero, zero, jnp.zeros((), bool),
    )  # fmt: skip
    return jax.lax.while_loop(more, again, vary_alike(first, (job, start_errors, going)))


def _in_blocks(method: Method, job: Job, *others: PyTree) -> tuple[PyTree, ...]:
    """Inputs, controls and others, cut into blocks of time; masked steps fill the last."""
    xs, controls, time = job.xs, job.controls, job.xs.shape[0]
    count = -(-time // method.steps)
    rest = count * method.steps - time
    if rest and controls.mask is None:
        rows = xs.shape[: xs.ndim - 1 - job.node.spatial_axes]
        controls = controls._replace(mask=vary_alike(jnp.ones(rows, bool), xs))

    def cut(a: Array) -> Array:
        a = jnp.concatenate([a, jnp.zeros_like(a[:rest])]) if rest else a
        return a.reshape(count, method.steps, *a.shape[1:])

    return jax.tree.map(cut, (xs, controls, *others))


def _over_blocks(
    body: Callable[[Carry, PyTree], tuple[Carry, PyTree]], carry: Carry, parts: PyTree
) -> tuple[Carry, PyTree]:
    """A loop over blocks; one block needs none."""
    if jax.tree.leaves(parts)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, parts)
    carry, out = body(carry, jax.tree.map(lambda a: a[0], parts))
    return carry, jax.tree.map(lambda a: a[None], out)


def _joined(blocks: Tree, time: int) -> Tree:
    return jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])[:time], blocks)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solution(method: Method, job: Job) -> tuple[State, NewtonReport]:
    """The state after every step, and a report of floats."""
    layout = _layout(method, job)

    def body(carry: Carried, part: PyTree) -> tuple[Carried, State]:
        state, errors, going, report = carry
        here = job._replace(state=state, xs=part[0], controls=part[1])
        found = _newton(method, here, errors, going)
        going = going & found.settled & (found.amplification <= AMPLIFIED)
        report = NewtonReport(
            jnp.maximum(report.rounds, found.rounds),
            _largest(report.residual, found.residual),
            _largest(report.amplification, found.amplification),
            1 - going.astype(errors.dtype),
        )
        states = layout.unpack(found.states)
        last = jax.tree.map(lambda a: a[-1], states)
        return (last, found.errors[-1], going, report), states

    errors = jnp.zeros_like(layout.pack(job.state, 0))
    zero = jnp.zeros((), errors.dtype)
    carry = (job.state, errors, jnp.ones((), bool), NewtonReport(zero, zero, zero, zero))
    carry, blocks = _over_blocks(body, vary_alike(carry, job), _in_blocks(method, job))
    _, _, solved, report = carry
    states = _joined(blocks, job.xs.shape[0])
    mixed = lambda: jax.tree.map(functools.partial(jnp.where, solved), states, _by_scan(job))
    return jax.lax.cond(_by_all(solved), lambda: states, mixed), report


@jax.custom_batching.custom_vmap
def _by_all(flag: Array) -> Array:
    """Whether it holds for all of a mapped axis.

    With a mapped condition `jax.lax.cond` would compute both of its branches, and apply
    `stop_gradient` to tangents, which has no transpose.
    """
    return flag


@_by_all.def_vmap
def _by_all_of_an_axis(size: int, mapped: list[bool], flags: Array) -> tuple[Array, bool]:
    return _by_all(jnp.all(flags, 0)), False


def _largest(a: Array, b: Array) -> Array:
    return jnp.where(b <= a, a, b)  # NaN is larger


def _by_scan(job: Job) -> State:
    weights, back = for_a_loop(job.node)

    def body(s: State, at: tuple[PyTree, Controls]) -> tuple[State, State]:
        s = controlled(back(weights), s, *at, job.initial)
        return s, s

    return over_time(body, job.state, (job.node.project(job.xs), job.controls), False)[1]


@solution.defjvp
def _rule(
    method: Method, primals: tuple[Job], tangents: tuple[Job]
) -> tuple[tuple[State, NewtonReport], tuple[State, NewtonReport]]:
    """The derivative of the solution: `ds_t = A_t ds_{t-1} + df_t`."""
    (job,), (d,) = primals, tangents
    layout = _layout(method, job)
    states, report = solution(method, job)
    varying, fixed = partition(job.controls.noise)
    dvarying, _ = partition(d.controls.noise)
    before = _shifted(job.state, states)

    def body(ds: State, part: PyTree) -> tuple[State, State]:
        xs, controls, before, varying, fixed, dxs, dvarying = part

        def given(node: StepNode, initial: State, xs: Array, varying: PyTree) -> Job:
            noise = combine(varying, fixed)
            return Job(node, initial, ds, xs, controls._replace(noise=noise))

        direct = lambda *args: _steps(given(*args), before)
        args = (job.node, job.initial, xs, varying)
        df = jax.jvp(direct, args, (d.node, d.initial, dxs, dvarying))[1]
        here = given(*args)

        def parallel(ds: State, df: State) -> State:
            _, tangent = jax.linearize(lambda s: _steps(here, s), before)
            along = lambda d: layout.pack(tangent(layout.unpack(d)))
            b = layout.pack(df)
            a = _jacobians(layout, along, b)
            b = b + along(_shifted(layout.pack(ds, 0), jnp.zeros_like(b)))
            return layout.unpack(_recurrence(a, b[..., None])[..., 0])

        def sequential(ds: State, df: State) -> State:
            @functools.partial(jax.checkpoint, prevent_cse=False)
            def one(ds: State, at: PyTree) -> tuple[State, State]:
                s, df, u, now = at
                f = lambda s: controlled(here.node, s, u, now, here.initial)
                ds = jax.tree.map(jnp.add, jax.jvp(f, (s,), (ds,))[1], df)
                return ds, ds

            steps = (before, df, here.node.project(here.xs), here.controls)
            return over_time(one, ds, steps, False)[1]

        if method.exact:
            out = jax.lax.cond(_by_all(report.fell_back == 0), parallel, sequential, ds, df)
        else:
            out = sequential(ds, df)
        return jax.tree.map(lambda a: a[-1], out), out

    parts = _in_blocks(
        method, job._replace(controls=job.controls._replace(noise=None)),
        before, varying, fixed, d.xs, dvarying,
    )  # fmt: skip
    _, blocks = _over_blocks(jax.checkpoint(body), d.state, parts)
    zeros = jax.tree.map(jnp.zeros_like, report)
    return (states, report), (_joined(blocks, job.xs.shape[0]), zeros)
