"""Reset, mask and noise: the definition of a controlled step."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxtyping import Array, ArrayLike, Bool, PyTree

from ._options import setting
from ._types import Recur, State, T, Tree

if TYPE_CHECKING:
    from ._node import Node, StepNode

Carry = TypeVar("Carry")
Axis: TypeAlias = str | tuple[str, ...] | None  # of a mesh, along which an axis is shared out


class Controls(NamedTuple):
    """The controls of each time step."""

    mask: Bool[Array, "time *batch"] | None = None  # where False, the state is unchanged
    reset: Bool[Array, "time *batch"] | None = (
        None  # where True, the step starts from the initial state; see `resets`
    )
    noise: PyTree = None  # sampled by the node for each step


def over_rows(a: Array, like: Array) -> Array:
    """A weight without batch axes, reshaped to broadcast over the rows of an array.

    It is not broadcast to the shape of the array: if its rows are sharded, every device would
    hold copies of the weight, and gather their gradients.
    """
    return a.reshape((1,) * (like.ndim - a.ndim) + a.shape)


def of_rows(a: Array, like: Array) -> Array:
    """An array of one number per row, reshaped to broadcast over the other axes of `like`."""
    return a.reshape(a.shape + (1,) * (like.ndim - a.ndim))


def shared(a: Array) -> tuple[Axis, ...]:
    """The sharding of an array by its type: a mesh axis, or None, for each axis."""
    spec = tuple(getattr(getattr(jax.typeof(a), "sharding", None), "spec", ()))
    return spec + (None,) * (jnp.ndim(a) - len(spec))


def where(m: Bool[Array, "*batch"] | None, a: Tree, b: Tree) -> Tree:
    """`a` where `m` is True (or None), else `b`, row by row, for a tree."""
    if m is None:
        return a

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(*alike(jnp.broadcast_to(of_rows(m, x), x.shape), x, y))

    return jax.tree.map(pick, a, b)


def resets(starts: Bool[Array, "time *batch"] | None, reverse: bool) -> Array | None:
    """The steps before which the state is reset, from those that start an episode.

    Forward they are the same.  Run backwards, an episode begins at its last step, which precedes
    the start of the next one; the last episode begins with the state passed by the caller.
    """
    if starts is None or not reverse:
        return starts
    return jnp.concatenate([starts[1:], starts[:1] & False])


def controlled(
    node: "StepNode", s: State, u: PyTree, at: Controls, initial: State, recur: Recur | None = None
) -> State:
    """One step with its controls: reset first, then the step, then the mask.

    `recur` is the recurrent product of the node, or what takes its place.
    """
    s = s if at.reset is None else where(at.reset, initial, s)
    before = stepped_from(at.mask, s, initial)
    return where(at.mask, node.step(before, u, recur or node.recur, at.noise), s)


def differentiable(a: PyTree) -> bool:
    """Whether an array may have tangents: not one of whole numbers, of flags, or of keys."""
    return bool(jnp.issubdtype(a.dtype, jnp.inexact))


def partition(tree: Tree) -> tuple[Tree, Tree]:
    """What may have tangents, and the rest: None in each for what is in the other."""
    pick = lambda which: jax.tree.map(lambda a: a if differentiable(a) is which else None, tree)
    return pick(True), pick(False)


def combine(varying: Tree, fixed: Tree) -> Tree:
    """The tree of both."""
    missing = lambda a: a is None
    return jax.tree.map(lambda a, b: b if a is None else a, varying, fixed, is_leaf=missing)


def vector(s: State) -> tuple[Array, Callable[[Array, State], State]]:
    """The fields of a state that may have tangents, as one real vector, and the inverse of that.

    The inverse also takes the other fields.  A complex number is two real ones, since real
    functions of it need not have complex derivatives.
    """
    varying, _ = partition(s)
    halves = lambda a: (a.real, a.imag) if jnp.iscomplexobj(a) else a
    whole = lambda _, part: jax.lax.complex(*part) if isinstance(part, tuple) else part
    flat, unravel = ravel_pytree(jax.tree.map(halves, varying))
    return flat, lambda flat, fixed: combine(jax.tree.map(whole, varying, unravel(flat)), fixed)


def over_time(
    body: Callable[[Carry, PyTree], tuple[Carry, PyTree]], s: Carry, steps: PyTree, reverse: bool
) -> tuple[Carry, PyTree]:
    """`jax.lax.scan`, which under `jax.disable_jit` accepts a time of 0 too."""
    if setting("jax_disable_jit") and not jax.tree.leaves(steps)[0].shape[0]:
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), steps)
        _, outs = jax.eval_shape(body, s, one)
        return s, jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), outs)
    return jax.lax.scan(body, s, steps, reverse=reverse)


def stepped_from(mask: Bool[Array, "*batch"] | None, s: State, initial: State) -> State:
    """The state that a step is computed from: the initial one where it is masked.

    The unchanged state there may be NaN, and be reset later: the derivative of a step from it
    would be NaN, and NaN times a cotangent of zero is NaN.
    """
    return where(mask, s, initial)


def varying(a: ArrayLike) -> frozenset[str]:
    """The axes of a mesh that an array varies over inside `shard_map`, by its type."""
    of = jax.typeof(a)  # JAX 0.10 renamed the attribute
    axes = getattr(of, "vma", None) or getattr(
        getattr(of, "manual_axis_type", None), "varying", None
    )
    return frozenset(axes or ())


def vary_alike(tree: Tree, others: PyTree) -> Tree:
    """Inside `shard_map`, makes a tree vary over all mesh axes that `others` vary over.

    The carry of a loop must have one type throughout, and zeros made inside vary over no axis.
    """
    axes = frozenset().union(*map(varying, jax.tree.leaves(others)))

    def vary(a: ArrayLike) -> ArrayLike:
        new = axes - varying(a)
        return jax.lax.pcast(a, tuple(sorted(new)), to="varying") if new else a

    return jax.tree.map(vary, tree) if axes else tree


def sharding(like: Array, *axes: Axis) -> NamedSharding:
    """Over the mesh of another array, these axes of it."""
    return NamedSharding(jax.typeof(like).sharding.mesh, P(*axes))


def share(tree: Tree, like: Array, *axes: Axis) -> Tree:
    """Shards the first axes of arrays over the mesh of another array, and no others."""

    def place(a: Array) -> Array:
        to = sharding(like, *(axes + (None,) * jnp.ndim(a))[: jnp.ndim(a)])
        return a if jax.typeof(a).sharding == to else jax.reshard(a, to)

    leaves, structure = jax.tree.flatten(tree)
    placed = list(map(place, leaves))
    # If nothing changed, return the same node: `record` identifies nodes by `id`.
    same = all(a is b for a, b in zip(leaves, placed, strict=True))
    return tree if same else jax.tree.unflatten(structure, placed)


def on_mesh(a: Array) -> bool:
    """Whether the type of an array says how it is sharded or replicated."""
    mesh = getattr(getattr(jax.typeof(a), "sharding", None), "mesh", None)
    return mesh is not None and AxisType.Explicit in mesh.axis_types


def alike(*arrays: Array) -> Sequence[Array]:
    """Shards arrays of one shape like the first that is sharded, as `jnp.where` requires."""
    like = max(arrays, key=lambda a: (any(shared(a)), on_mesh(a)))
    return share(arrays, like, *shared(like)) if on_mesh(like) else arrays


def share_alike(
    params: "Node", xs: Array, state: State, mask: Array | None, reset: Array | None
) -> "tuple[Node, Array, State, Array | None, Array | None]":
    """If types say how arrays are sharded, shards the batch axes and nothing else.

    Every device has the same rows of all arrays, and all that each step needs besides: the
    weights, all of time, all features.
    """
    leaves = jax.tree.leaves((params, xs, state, mask, reset))
    like = next(filter(on_mesh, leaves), None)
    if like is None:
        return params, xs, state, mask, reset
    batch = xs.ndim - 2 - params.spatial_axes
    specs = [shared(a)[1 : 1 + batch] for a in jax.tree.leaves((xs, mask, reset))]
    specs += [shared(a)[:batch] for a in jax.tree.leaves(state)]
    rows = next(filter(any, specs), ())
    xs, mask, reset = share((xs, mask, reset), like, None, *rows)
    return share(params, like), xs, share(state, like, *rows), mask, reset


def on_each_device(
    f: Callable[..., T], like: Array, in_specs: Sequence[P], out_specs: PyTree
) -> Callable[..., T]:
    """Runs `f` on each device's shard, for arrays sharded as `like` is.

    For operations that treat rows independently, but that JAX cannot shard.
    """
    mesh = jax.typeof(like).sharding.mesh
    names = frozenset(
        name for axis in shared(like) if axis for name in (axis if type(axis) is tuple else [axis])
    )
    run = jax.shard_map(
        f, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs, axis_names=names
    )
    return lambda *args: run(
        *(share(a, like, *spec) for a, spec in zip(args, in_specs, strict=True))
    )
