"""The recurrence as one kernel for the CPU, compiled for each cell.

XLA multiplies a thin matrix anew in every step: it packs the weights each time, and calls a few
kernels of a microsecond each.  Here the weights are packed once, and all of time is one call.
The kernel is C++ (`loop.cc`), around a cell's own equations, which `_source.py` writes out from
what JAX traces; so nearly any cell runs, a user's too.  The machine's compiler makes it, once.

The default takes it where a program is lowered for one CPU device (`_operation.py`): what is
traced is the same everywhere, and becomes the loops of `deferred` on other devices, where a batch
is shared out, in what is exported, and where no kernel can be had.  By name it computes what it
is named for, or fails and says why.

Every transformation works: what JAX derives further (tangents, second derivatives) comes from
`deferred`, whose loops these are.
"""

import functools
import logging
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from ..._cell import Cell
from ..._control import Controls, on_each_device, shared, vary_alike
from ..._dtypes import wide, widened
from ..._layer import Layer, for_loops, for_rows
from ..._node import Problem, State
from ..._options import setting
from .._groups import NO_BRANCHES, Groups, Preactivations, groups_of, u_of, v_of
from ..deferred import (
    Engine,
    Job,
    Loop,
    Outs,
    Residuals,
    Tangents,
    hoists,
    instantiated,
    nonzero,
    recurrence,
    residuals,
    tangents,
    values,
)
from ._compiler import Unavailable, reason as reason_for, register
from ._operation import NO_ROWS, Kernel, computed, linear
from ._source import per_unit, source

SWITCH = "JAXLSTM_KERNEL"
_logged: list[str] = []  # one line per process


def run(problem: Problem) -> tuple[Array, State]:
    node, xs = problem.node, problem.xs
    controls = problem.controls._replace(noise=None)  # a layer has none
    groups = groups_of(problem)
    assert groups is not None
    assert isinstance(node, Layer)
    named = problem.plan.implementation is not None
    if named:
        _target("values", True, *_cell_of(node, groups))  # now: another may run in its place
    hoist = hoists(math.prod(xs.shape[1:-1]))
    loop = Loop(groups, problem.plan.reverse, hoist)
    f = functools.partial(_run, _engine(named), loop)
    if any(axes := shared(xs)[1:-1]):  # then each device runs its own rows
        each, once = P(None, *axes), P(*axes)
        f = on_each_device(f, xs, (P(), once, each, once, each), (each, once))
    return f(node, problem.initial, xs, problem.state, controls)


def _run(
    engine: Engine,
    loop: Loop,
    node: Layer,
    initial: State,
    xs: Array,
    state: State,
    controls: Controls,
) -> tuple[Array, State]:
    batch, rows = xs.shape[1:-1], math.prod(xs.shape[1:-1])
    flat = lambda tree, at: jax.tree.map(
        lambda a: a.reshape(*a.shape[:at], rows, *a.shape[at + len(batch) :]), tree
    )
    given = lambda a, *shape: jnp.zeros(shape, xs.dtype) if a is None else a
    hidden, gates = node.w.shape[-1], len(node.cell.recurrent)
    p = node._replace(
        b=given(node.b, *node.w.shape[1:]),
        r=given(node.r, hidden, gates, hidden),
        recurrent_bias=given(node.recurrent_bias, gates, hidden),
    )
    job = Job(p, flat(initial, 0), flat(state, 0), flat(xs, 1), flat(controls, 1))
    job = vary_alike(job, job)  # so that all that is derived of it does
    last, ys = recurrence(engine, loop, job)
    unflat = lambda a, at: a.reshape(*a.shape[:at], *batch, a.shape[-1])
    return unflat(ys, 1), jax.tree.map(lambda a: unflat(a, 0), last)


def refusal(problem: Problem) -> str | None:
    """Compiles nothing: a compiler that fails is a reason only once it has failed."""
    if reason := _of_its_kind(problem):
        return reason
    if jax.default_backend() != "cpu":
        return f"runs on the CPU; JAX runs on {jax.default_backend()!r} here."
    return _of_this_machine(problem)


def _of_its_kind(problem: Problem) -> str | None:
    """Why no kernel is made for a problem, on any machine."""
    node, xs = problem.node, problem.xs
    if type(node) is not Layer:
        return f"needs a layer of a cell; this is {type(node).__name__}."
    cell = node.cell
    if cell.sizes or not per_unit(cell, node.weights or ()):
        return (
            "needs a cell whose states are as wide as its gates and whose further weights are "
            f"numbers, for each unit or for all; {cell} is none."
        )
    if node.r is not None and node.r.shape[0] != node.r.shape[-1]:
        return f"has no block-diagonal weights; those of {cell} are."
    if wide(xs.dtype) != jnp.float32:
        return f"computes in float32; this is {xs.dtype}."
    if os.name != "posix":
        return f"runs on Linux and macOS; this is {os.name!r}."
    if (groups := groups_of(problem)) is None:
        return NO_BRANCHES
    if not all(groups.operands[:1]):
        return f"needs a cell whose first product is that of the hidden state; {cell} is none."
    try:
        source(*_cell_of(node, groups))
    except NotImplementedError as reason:
        return str(reason)
    return None


def _of_this_machine(problem: Problem) -> str | None:
    """Why there is no kernel here for a problem that one can be made for."""
    node, groups = problem.node, groups_of(problem)
    assert isinstance(node, Layer)
    assert groups is not None
    return reason_for(source(*_cell_of(node, groups)))


def _cell_of(node: Layer, groups: Groups) -> tuple[Cell, Groups, int, tuple[str, ...]]:
    """What the equations of a kernel are made from."""
    return node.cell, groups, node.w.shape[-1], tuple(sorted(node.weights or ()))


def by_default(problem: Problem) -> bool:
    """Whether `implementation=None` is traced as what may become the kernel."""
    if not switched_on() or setting("jax_disable_jit"):
        return False
    if jax.default_backend() != "cpu" or any(shared(problem.xs)) or _of_its_kind(problem):
        return False
    if reason := _of_this_machine(problem):
        _tell(reason)
    return reason is None


def switched_on() -> bool:
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise ValueError(f"the environment variable {SWITCH} must be on or off; got {value!r}.")
    return value == "on"


def _tell(reason: str) -> None:
    if not _logged:
        _logged.append(reason)
        logging.getLogger("jaxlstm").warning(
            "Recurrences on the CPU run as loops of XLA, which are slower: the kernel %s Install a "
            "C++ compiler (g++ or clang++) or compiled kernels (pip install 'jaxlstm[kernels]'), "
            "or set %s=off to have the loops without this line.",
            reason.strip().splitlines()[0],
            SWITCH,
        )


def _target(
    name: str, named: bool, cell: Cell, groups: Groups, hidden: int, weights: tuple[str, ...]
) -> str | None:
    """The name of a cell's kernel, which is compiled unless it was.

    A compiler that has failed is not tried again by default: it may take minutes to fail.
    """
    try:
        equations = source(cell, groups, hidden, weights)
        if not named and (reason := reason_for(equations)):
            raise Unavailable(reason)
        return f"{register(equations)}_{name}"
    except Unavailable as reason:
        if named:
            raise Unavailable(f"`native` {reason}") from None
        return _tell(str(reason))


def _kernel(
    name: str, named: bool, groups: Groups, p: Layer, call: Callable[..., PyTree], *args: PyTree
) -> Kernel:
    """`call(target, *args)`, whose arrays have an axis of members, as it is handed to JAX."""
    tree = jax.tree.structure(args)
    flat = lambda target, *a: jax.tree.leaves(call(target, *jax.tree.unflatten(tree, a)))
    return Kernel(flat, functools.partial(_target, name, named, *_cell_of(p, groups)), named)


def _call(target: str, results: PyTree, *args: PyTree) -> PyTree:
    """Calls the kernel, which computes in float32: 16-bit arrays are converted before and after."""
    leaves, tree = jax.tree.flatten(results)
    call = jax.ffi.ffi_call(target, [_like(*a.shape) for a in leaves])
    given = vary_alike([*map(widened, jax.tree.leaves(args))], args)
    # JAX takes the results for such as vary over no mesh axis.
    made = vary_alike(list(call(*given)), args)
    return tree.unflatten([a.astype(like.dtype) for a, like in zip(made, leaves, strict=True)])


def _members(args: PyTree) -> int:
    """Of arrays whose first axis is that of members, or of length 1 where they have one for all."""
    return max((a.shape[0] for a in jax.tree.leaves(args) if a.shape[0] != 1), default=1)


def _layer(job: Job) -> Layer:
    assert isinstance(job.node, Layer)
    return job.node


def _own(p: Layer, n: int) -> Array:
    """The weights of the equations as `(members, numbers, units)`."""
    hidden = p.w.shape[-1]
    each = [jnp.zeros((n, 0, hidden), jnp.float32)]
    for a in map(widened, (p.weights or {}).values()):
        rows = n, math.prod(a.shape[1:-1]), hidden
        each.append(jnp.broadcast_to(a, (n, *a.shape[1:-1], hidden)).reshape(rows))
    return jnp.concatenate(each, 1)


def _own_back(p: Layer, d: Array) -> dict[str, Array] | None:
    """Cotangents of these weights, each in its shape."""
    if p.weights is None:
        return None
    sizes = [math.prod(a.shape[1:-1]) for a in p.weights.values()]
    parts = jnp.split(d, np.cumsum(sizes)[:-1], 1) if sizes else []

    def shaped(a: Array, part: Array) -> Array:
        if a.shape[-1] == 1:  # one number for all units
            part = part.sum(-1, keepdims=True)
        return part.reshape(part.shape[0], *a.shape[1:]).astype(a.dtype)

    return {name: shaped(a, part) for (name, a), part in zip(p.weights.items(), parts, strict=True)}


def _flags(controls: Controls, rows: int) -> list[Array]:
    """None goes as an array of no steps."""
    none = jnp.zeros((1, 0, rows), bool)
    return [none if a is None else a for a in (controls.mask, controls.reset)]


def _like(*shape: int, dtype: DTypeLike = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _at(axis: int, tree: PyTree) -> PyTree:
    """The axis that has the rows, for all arrays of a tree."""
    return jax.tree.map(lambda _: axis, tree)


def _rows_of_job(job: Job) -> Job:
    rows = _at(1, job)
    state = _at(0, job.state)
    return rows._replace(node=_at(NO_ROWS, job.node), initial=state, state=state)


def _rows_of_residuals(res: Residuals) -> Residuals:
    return Residuals(_rows_of_job(res.job), _at(1, res.before), _at(1, res.preactivations), res.hs)


def _forward(keep: bool, loop: Loop, target: str, job: Job) -> PyTree:
    p, (_, time, rows, _) = _layer(job), job.xs.shape
    n, groups, hidden = _members(job), loop.groups, p.w.shape[-1]
    of = lambda *shape: p.cell.state(*[_like(n, *shape, rows, hidden)] * len(job.state))
    ys = _like(n, time, rows, hidden, dtype=job.xs.dtype)
    results: tuple[PyTree, ...] = (ys, of())
    if keep:
        part = lambda gates: _like(n, time, rows, len(gates), hidden) if gates else None
        pre = Preactivations(part(groups.sums), part(groups.u), tuple(map(part, groups.v)))
        results = (*results, of(time), pre)
    ys, last, *stored = _call(
        target, results, jnp.int32([loop.reverse]), job.xs, p.w, p.b, p.r, p.recurrent_bias,
        _own(p, n), job.state, job.initial, _flags(job.controls, rows),
    )  # fmt: skip
    return (last, ys), *stored


def _values(named: bool, loop: Loop, job: Job) -> Outs:
    call = lambda target, job: _forward(False, loop, target, job)[0]
    kernel = _kernel("values", named, loop.groups, _layer(job), call, job)
    made = (_at(0, job.state), 1)
    plain = lambda job: values(loop, _for_loops(job))
    return computed(plain, kernel, (_rows_of_job(job),), made, job)


def _residuals(named: bool, loop: Loop, job: Job) -> tuple[Outs, Residuals]:
    def plain(job: Job) -> tuple[Outs, State, Preactivations]:
        out, saved = residuals(loop, _for_loops(job))
        return out, saved.before, saved.preactivations

    call = functools.partial(_forward, True, loop)
    kernel = _kernel("residuals", named, loop.groups, _layer(job), call, job)
    group = loop.groups
    at = lambda gates: 1 if gates else None
    pre = Preactivations(at(group.sums), at(group.u), tuple(map(at, group.v)))
    made = ((_at(0, job.state), 1), _at(1, job.state), pre)
    out, before, pre = computed(plain, kernel, (_rows_of_job(job),), made, job)
    return out, Residuals(job, before, pre, (None,) * len(group.calls))


def _tangents(named: bool, loop: Loop, res: Residuals, d: Tangents) -> Outs:
    back = functools.partial(_back, named, loop, (nonzero(d.node), nonzero(d.xs)))
    d = instantiated(d)
    state = _at(0, d.state)
    rows = _rows_of_residuals(res), Tangents(_at(NO_ROWS, d.node), state, state, 1, None)
    return linear(functools.partial(_plain_tangents, loop), back, rows, (state, 1), res, d)


def _plain_tangents(loop: Loop, res: Residuals, d: Tangents) -> Outs:
    node = _for_loops(res.job._replace(node=d.node)).node
    res = res._replace(job=_for_loops(res.job), hs=_operands(loop.groups, res))
    return tangents(loop, res, d._replace(node=node))


def _operands(groups: Groups, res: Residuals) -> tuple[Array | None, ...]:
    """What the products of all steps are made of, computed again; None for the hidden state."""
    hs: list[Array] = []

    def recur(h: Array, gates: str) -> Array:
        hs.append(h)
        return v_of(groups, res.preactivations, len(hs) - 1)

    if not all(groups.operands):
        _layer(res.job).step(res.before, u_of(groups, res.preactivations), recur, None)
    found = hs or [None] * len(groups.operands)
    return tuple(None if is_h else h for is_h, h in zip(groups.operands, found, strict=True))


def _for_loops(job: Job) -> Job:
    """As `deferred` runs it: with a copy of the equations' weights for each row."""
    node = _layer(job)
    return job._replace(node=for_rows(for_loops(node), job.xs, 0)) if node.weights else job


def _back(
    named: bool, loop: Loop, needed: tuple[bool, bool], res: Residuals, cotangents: Outs
) -> Tangents:
    """The transpose of the tangents: from those of `(last, ys)` to those of what entered.

    `needed`: whether those of the weights, and of the inputs, are used; else they are zero.
    """
    p, xs, state = _layer(res.job), res.job.xs, _at(0, res.job.state)
    of_weights, of_inputs = needed
    node = _at(NO_ROWS, p) if of_weights else None
    made = Tangents(node, state, state, 1 if of_inputs else None, None)
    rows = _rows_of_residuals(res), (state, 1)
    call = functools.partial(_call_back, loop, needed)
    kernel = _kernel("back", named, loop.groups, p, call, res, cotangents)
    plain = functools.partial(_plainly_back, loop, needed)
    d = computed(plain, kernel, rows, made, res, cotangents)
    zeros = lambda tree: vary_alike(jax.tree.map(jnp.zeros_like, tree), tree)
    return d._replace(node=d.node if of_weights else zeros(p), xs=d.xs if of_inputs else zeros(xs))


def _call_back(
    loop: Loop, needed: tuple[bool, bool], target: str, res: Residuals, cotangents: Outs
) -> Tangents:
    of_weights, of_inputs = needed
    dlast, dys = cotangents
    p, xs, controls = _layer(res.job), res.job.xs, res.job.controls
    n = _members((res, cotangents))
    own = _own(p, n)
    weights = (p.w, p.b, p.r, p.recurrent_bias, own)
    shape = lambda a, needed: a.shape[1:] if needed else (0, *a.shape[2:])
    like = lambda a, needed=True: _like(n, *shape(a, needed), dtype=a.dtype)
    states = jax.tree.map(like, (dlast, dlast))
    results = (like(xs, of_inputs), [like(a, of_weights) for a in weights], *states)
    flags = _flags(controls, dys.shape[2])
    args = (xs, p.w, p.r, own, res.before, res.preactivations, dys, dlast, flags)
    dxs, (dw, db, dr, dother, down), dstate, dinitial = _call(
        target, results, jnp.int32([loop.reverse]), *args
    )
    dnode = None
    if of_weights:
        each = {"w": dw, "b": db, "r": dr, "recurrent_bias": dother}
        dnode = p._replace(**each, weights=_own_back(p, down))
    return Tangents(dnode, dinitial, dstate, dxs if of_inputs else None, None)


def _plainly_back(
    loop: Loop, needed: tuple[bool, bool], res: Residuals, cotangents: Outs
) -> Tangents:
    job = res.job
    entering = Tangents(job.node, job.initial, job.state, job.xs, None)
    entering = jax.tree.map(jnp.zeros_like, entering)
    plain = functools.partial(_plain_tangents, loop, res)
    d = jax.linear_transpose(plain, entering)(cotangents)[0]
    return d._replace(node=d.node if needed[0] else None, xs=d.xs if needed[1] else None)


@functools.cache
def _engine(named: bool) -> Engine:
    """By its name, or by default."""
    of = functools.partial
    return Engine(of(_values, named), of(_residuals, named), of(_tangents, named))
