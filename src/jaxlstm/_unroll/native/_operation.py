"""One operation of JAX: what computes it is chosen where a program is lowered.

A kernel, on the CPU and where it may stand; else, and for everything that JAX derives further,
`plain`, its equal in JAX.  A mapped axis becomes rows, of which an operation may have any number.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from ..._control import on_each_device, shared
from ..._options import setting
from ..._types import T, TreeDef

Arrays: TypeAlias = list[Array]
Given: TypeAlias = Array | np.ndarray  # JAX hands on a constant as an array of NumPy
Axes: TypeAlias = Sequence[int | None]  # that are mapped, of some arrays
Batched: TypeAlias = tuple[Arrays, list[int]]  # results, and the axis of each that is mapped

NO_ROWS = -1  # in place of the axis that rows have


class Kernel(NamedTuple):
    """What computes an operation on the CPU: a call of a library that is made when it is needed.

    Of arrays with an axis of members first: `call(target, *operands)`, and so are its results.
    """

    call: Callable[..., Arrays]
    target: Callable[[], str | None]  # its name; None where there is none and nobody named it
    named: bool  # then it computes the operation, or its lowering fails


class Operation(NamedTuple):
    """All that JAX needs to know of it.  `operands` and `results` say which axis has the rows."""

    plain: Callable[..., Arrays]  # of one member
    operands: tuple[int, ...]
    results: tuple[int, ...]
    kernel: Kernel | None = None
    # The transpose of what is linear in all operands but the first `known` ones.
    back: Callable[..., Arrays] | None = None
    known: int = 0
    # Which operands have an axis of members, first; None where there is but one.
    members: tuple[bool, ...] | None = None

    def by_kernel(self, target: str, *args: Given) -> Arrays:
        assert self.kernel
        own = self.members or (False,) * len(args)
        outs = self.kernel.call(target, *[a if m else a[None] for a, m in zip(args, own)])
        return outs if self.members else [a[0] for a in outs]

    def by_loops(self, *args: Given) -> Arrays:
        return (self.each(self.plain) if self.members else self.plain)(*args)

    def each(self, f: Callable[..., T]) -> Callable[..., T]:
        assert self.members
        return jax.vmap(f, in_axes=[0 if m else None for m in self.members])


def computed(
    plain: Callable[..., T], kernel: Kernel, rows: PyTree, made: PyTree, *args: PyTree
) -> T:
    """`plain(*args)` by a kernel; `rows` and `made` have the axes of rows of `args` and of it.

    `jax.custom_jvp` would do for what is derived, but `jax.checkpoint` forgets its rule.
    """
    leaves, tree = jax.tree.flatten(args)
    results, out = jax.tree.flatten(made)
    axes = (tuple(jax.tree.leaves(rows)), tuple(results))
    operation = Operation(_flat(plain, tree), *axes, kernel)
    return jax.tree.unflatten(out, _bound.bind(*leaves, operation=operation))


def linear(
    plain: Callable[..., T],
    back: Callable[..., PyTree],
    rows: PyTree,
    made: PyTree,
    residuals: PyTree,
    x: PyTree,
) -> T:
    """`plain(residuals, x)`, linear in `x`, whose transpose is `back(residuals, cotangents)`.

    `jax.custom_derivatives` has a linear function with a transpose too, which `vmap` and second
    derivatives do not know.
    """
    leaves, tree = jax.tree.flatten((residuals, x))
    known_tree = jax.tree.structure(residuals)
    results, out = jax.tree.flatten(made)

    def transposed(known: Arrays, cotangents: Arrays) -> Arrays:
        given = jax.tree.unflatten(known_tree, known), jax.tree.unflatten(out, cotangents)
        return jax.tree.leaves(back(*given))

    axes = (tuple(jax.tree.leaves(rows)), tuple(results))
    transposed = _as_here(transposed)
    operation = Operation(_flat(plain, tree), *axes, None, transposed, known_tree.num_leaves)
    return jax.tree.unflatten(out, _bound.bind(*leaves, operation=operation))


def _flat(f: Callable[..., PyTree], tree: TreeDef) -> Callable[..., Arrays]:
    return _as_here(lambda *a: jax.tree.leaves(f(*jax.tree.unflatten(tree, a))))


def _as_here(f: Callable[..., T]) -> Callable[..., T]:
    """With the precision of products that is asked for here, wherever it is traced."""
    precision = setting("jax_default_matmul_precision")

    def with_precision(*args: PyTree) -> T:
        with jax.default_matmul_precision(precision):
            return f(*args)

    return with_precision


_bound = Primitive("jaxlstm_recurrence")
_bound.multiple_results = True


@_bound.def_impl
def _run(*args: Given, operation: Operation) -> Arrays:
    with jax.disable_jit(False):
        return jax.jit(functools.partial(_bound.bind, operation=operation))(*args)


@_bound.def_abstract_eval
def _shapes(*args: object, operation: Operation) -> list[object]:
    by_kernel = functools.partial(operation.by_kernel, "of which only the shapes count")
    f = by_kernel if operation.kernel else operation.by_loops
    return jax.make_jaxpr(f)(*args).out_avals


def _jvp(
    primals: Sequence[Given], tangents: Sequence[Array | ad.Zero], *, operation: Operation
) -> tuple[Arrays, Arrays]:
    given = tuple(map(ad.instantiate_zeros, tangents))
    return jax.jvp(operation.by_loops, tuple(primals), given)


def _transpose(
    cotangents: Sequence[Array | ad.Zero], *args: PyTree, operation: Operation
) -> list[Array | None]:
    known, back, members = operation.known, operation.back, operation.members
    if back is None:
        raise NotImplementedError("only what is linear has a transpose.")
    given = [ad.instantiate_zeros(c) for c in cotangents]
    if members:
        axes = [0 if m else None for m in members[:known]]
        back = jax.vmap(back, in_axes=(axes, [0] * len(given)))
    return [*[None] * known, *back(list(args[:known]), given)]


def _batch(given: Sequence[Given], axes: Axes, *, operation: Operation) -> Batched:
    args = [*map(jnp.asarray, given)]
    mapped = [(a, axis) for a, axis in zip(args, axes, strict=True) if axis is not None]
    if any(shared(a)[axis] for a, axis in mapped):
        return _on_each_device(args, axes, operation)
    size = mapped[0][0].shape[mapped[0][1]]
    rowless = lambda at, axis: at == NO_ROWS and axis is not None
    if NO_ROWS in operation.results or any(map(rowless, operation.operands, axes)):
        return _as_members(args, axes, size, operation)
    own = operation.members or (False,) * len(args)
    after = lambda at, member: NO_ROWS if at == NO_ROWS else at + member
    operands = map(after, operation.operands, own)
    each = list(zip(args, axes, operands, strict=True))
    rows = [_as_rows(a, axis, at, size) for a, axis, at in each]
    outs = _bound.bind(*rows, operation=operation)
    had = next(_rows_of(a, axis, at) for a, axis, at in each if at != NO_ROWS)
    apart = lambda a, at: a.reshape(*a.shape[:at], size, had, *a.shape[at + 1 :])
    results = [at + bool(operation.members) for at in operation.results]
    return list(map(apart, outs, results)), results


def _rows_of(a: Array, axis: int | None, at: int) -> int:
    return a.shape[at if axis is None or at < axis else at + 1]


def _as_rows(a: Array, axis: int | None, at: int, size: int) -> Array:
    """With a mapped axis among the rows."""
    if at == NO_ROWS:
        return a
    if axis is None:
        a = jnp.broadcast_to(jnp.expand_dims(a, at), (*a.shape[:at], size, *a.shape[at:]))
    else:
        a = jnp.moveaxis(a, axis, at)
    return a.reshape(*a.shape[:at], size * a.shape[at + 1], *a.shape[at + 2 :])


def _as_members(args: Sequence[Array], axes: Axes, size: int, operation: Operation) -> Batched:
    """Several of one operation, each with its own weights or with its own gradients of them."""
    args = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(args, axes)]
    new = [axis is not None for axis in axes]
    had = operation.members
    if operation.back:  # what it is linear in is every member's own
        for i in range(operation.known, len(args)):
            if not new[i]:
                args[i], new[i] = jnp.broadcast_to(args[i], (size, *args[i].shape)), True
    if not had:
        outs = _bound.bind(*args, operation=operation._replace(members=tuple(new)))
        return outs, [0] * len(outs)
    # Members of members are members.
    count = next(a.shape[n] for a, n, m in zip(args, new, had) if m)

    def joined(a: Array, new: bool, own: bool) -> Array:
        if not (new or own):
            return a
        a = a if new else a[None]
        a = a if own else a[:, None]
        a = jnp.broadcast_to(a, (size, count, *a.shape[2:]))
        return a.reshape(size * count, *a.shape[2:])

    given = list(map(joined, args, new, had))
    both = tuple(map(bool.__or__, new, had))
    outs = _bound.bind(*given, operation=operation._replace(members=both))
    return [a.reshape(size, count, *a.shape[1:]) for a in outs], [0] * len(outs)


def _on_each_device(args: Sequence[Array], axes: Axes, operation: Operation) -> Batched:
    """Where the type says that each device has some of the members, it computes these."""
    args = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(args, axes)]
    first = [None if axis is None else 0 for axis in axes]
    like = next(a for a, n in zip(args, first) if n == 0 and shared(a)[0])
    name = shared(like)[0]
    specs = [P() if n is None else P(name) for n in first]
    one = functools.partial(_bound.bind, operation=operation)
    each = lambda *a: list(jax.vmap(one, in_axes=first)(*a))
    return on_each_device(each, like, specs, P(name))(*args), [0] * len(operation.results)


def _lower_plain(ctx: "mlir.LoweringRuleContext", *args: T, operation: Operation) -> Sequence[T]:
    if operation.kernel and operation.kernel.named:
        platforms = " and ".join(ctx.module_context.platforms)
        raise NotImplementedError(
            f"`native` runs on the CPU; this program is made for {platforms}. Leave "
            "`implementation` out: then the program has the kernel where it can, and else a loop."
        )
    return mlir.lower_fun(operation.by_loops, multiple_results=True)(ctx, *args)


def _lower_on_cpu(ctx: "mlir.LoweringRuleContext", *args: T, operation: Operation) -> Sequence[T]:
    kernel, f = operation.kernel, operation.by_loops
    if kernel and kernel.named and ctx.module_context.lowering_parameters.for_export:
        raise NotImplementedError(
            "`native` cannot be exported: its kernel is of this machine alone. Leave "
            "`implementation` out: then what is exported has a loop, which runs anywhere."
        )
    if kernel and (kernel.named or _stands_alone(ctx.module_context)) and (name := kernel.target()):
        f = functools.partial(operation.by_kernel, name)
    return mlir.lower_fun(f, multiple_results=True)(ctx, *args)


def _stands_alone(module: "mlir.ModuleContext") -> bool:
    """Whether a program has whole arrays, of one device, and runs in this process.

    XLA does not know how to share a kernel out; in `shard_map` over all axes each device runs it
    on its own part.
    """
    where: PyTree = module.axis_context
    manual = getattr(where, "manual_axes", frozenset())
    alone = getattr(where, "num_devices", None) == 1
    alone = alone or bool(manual and manual == frozenset(where.mesh.axis_names))
    return alone and not module.lowering_parameters.for_export


ad.primitive_jvps[_bound] = _jvp
ad.primitive_transposes[_bound] = _transpose
batching.primitive_batchers[_bound] = _batch
mlir.register_lowering(_bound, _lower_on_cpu, platform="cpu")
mlir.register_lowering(_bound, _lower_plain)
