"""Reset, mask and key: the one meaning of a controlled step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxtyping import Array, Bool


class Controls(NamedTuple):
    """What may happen at a time step besides the step itself."""

    mask: Bool[Array, "time *batch"] | None = None  # where False, keep the state
    reset: Bool[Array, "time *batch"] | None = None  # first become the initial state; see `resets`
    noise: Any = None  # what the node sampled for each step


def over_rows(a: Array, like: Array) -> Array:
    """A weight of one row, for every row of an array: with axes of length 1.

    Not as large as the array: its rows may be shared out over devices, and then the copies of a
    weight would be on each of them, and their gradients gathered there.
    """
    return a.reshape((1,) * (like.ndim - a.ndim) + a.shape)


def of_rows(a: Array, like: Array) -> Array:
    """A number a row, for all that the rows of an array have: with axes of length 1 at the end."""
    return a.reshape(a.shape + (1,) * (like.ndim - a.ndim))


def shared(a: Any) -> tuple[Any, ...]:
    """How an array is shared out over devices, by its type: a mesh axis, or None, for each axis."""
    spec = tuple(getattr(getattr(jax.typeof(a), "sharding", None), "spec", ()))
    return spec + (None,) * (jnp.ndim(a) - len(spec))


def where(m: Bool[Array, "*batch"] | None, a: Any, b: Any) -> Any:
    """`a` where `m` holds (or is not given), else `b`, row by row, over a tree."""
    if m is None:
        return a

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(*alike(jnp.broadcast_to(of_rows(m, x), x.shape), x, y))

    return jax.tree.map(pick, a, b)


def resets(starts: Bool[Array, "time *batch"] | None, reverse: bool) -> Array | None:
    """The steps before which the state becomes the initial one, from those that start an episode.

    Forward they are the same.  Run backwards an episode begins at its last step, the one that
    precedes the start of the next; the last episode begins with the state that was given.
    """
    if starts is None or not reverse:
        return starts
    return jnp.concatenate([starts[1:], starts[:1] & False])


def controlled(node: Any, s: Any, u: Any, at: Controls, initial: Any) -> Any:
    """One step under control: reset first, then the step, then the mask."""
    s = s if at.reset is None else where(at.reset, initial, s)
    before = stepped_from(at.mask, s, initial)
    return where(at.mask, node.step(before, u, node.recur, at.noise), s)


def over_time(body: Any, s: Any, steps: Any, reverse: bool) -> tuple[Any, Any]:
    """`jax.lax.scan`, which takes no steps of time under `jax.disable_jit` either."""
    config: Any = jax.config
    if config.jax_disable_jit and not jax.tree.leaves(steps)[0].shape[0]:
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), steps)
        _, outs = jax.eval_shape(body, s, one)
        return s, jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), outs)
    return jax.lax.scan(body, s, steps, reverse=reverse)


def stepped_from(mask: Bool[Array, "*batch"] | None, s: Any, initial: Any) -> Any:
    """The state that a step is computed from: the initial one where the step does not count.

    The state that is kept there may be NaN, and be reset later: the derivative of a step from it
    would be NaN, which times a cotangent of zero is NaN still.
    """
    return where(mask, s, initial)


def varying(a: Any) -> frozenset[str]:
    """The axes of a mesh that an array varies over inside `shard_map`, by its type."""
    of = jax.typeof(a)  # JAX 0.10 renamed the attribute
    told = getattr(of, "vma", None) or getattr(
        getattr(of, "manual_axis_type", None), "varying", None
    )
    return frozenset(told or ())


def vary_alike(tree: Any, others: Any) -> Any:
    """Inside `shard_map`, makes a tree vary over all mesh axes that `others` vary over.

    A loop's carry must have one type all the way, and zeros made inside vary over nothing.
    """
    axes = frozenset().union(*map(varying, jax.tree.leaves(others)))

    def vary(a: Any) -> Any:
        new = axes - varying(a)
        return jax.lax.pcast(a, tuple(sorted(new)), to="varying") if new else a

    return jax.tree.map(vary, tree) if axes else tree


def share(tree: Any, like: Any, *axes: Any) -> Any:
    """Shares out the first axes of arrays over the mesh of another array, and no more of them."""
    mesh = jax.typeof(like).sharding.mesh

    def place(a: Any) -> Any:
        to = NamedSharding(mesh, P(*(axes + (None,) * jnp.ndim(a))[: jnp.ndim(a)]))
        return a if jax.typeof(a).sharding == to else jax.reshard(a, to)

    leaves, structure = jax.tree.flatten(tree)
    placed = list(map(place, leaves))
    # The same node, where nothing is new: `record` knows nodes by their identity.
    same = all(a is b for a, b in zip(leaves, placed, strict=True))
    return tree if same else jax.tree.unflatten(structure, placed)


def on_mesh(a: Any) -> bool:
    """Whether an array's type says how it is shared out, be it that each device has all of it."""
    mesh = getattr(getattr(jax.typeof(a), "sharding", None), "mesh", None)
    return mesh is not None and AxisType.Explicit in mesh.axis_types


def alike(*arrays: Array) -> Sequence[Array]:
    """Shares out arrays of one shape as the first of them that is: `jnp.where` asks for it."""
    like = max(arrays, key=lambda a: (any(shared(a)), on_mesh(a)))
    return share(arrays, like, *shared(like)) if on_mesh(like) else arrays


def share_alike(params: Any, xs: Array, state: Any, mask: Any, reset: Any) -> tuple[Any, ...]:
    """Where types say how arrays are shared out over devices, shares out rows, and nothing else.

    Each device has the same rows of all arrays, and what every step needs of the others: the
    weights, all of time, all features.
    """
    leaves = jax.tree.leaves((params, xs, state, mask, reset))
    like = next(filter(on_mesh, leaves), None)
    if like is None:
        return params, xs, state, mask, reset
    batch = xs.ndim - 2 - params.spatial_axes
    found = [shared(a)[1 : 1 + batch] for a in jax.tree.leaves((xs, mask, reset))]
    found += [shared(a)[:batch] for a in jax.tree.leaves(state)]
    rows = next(filter(any, found), ())
    xs, mask, reset = share((xs, mask, reset), like, None, *rows)
    return share(params, like), xs, share(state, like, *rows), mask, reset


def on_each_device(
    f: Callable[..., Any], like: Array, given: Sequence[P], made: Any
) -> Callable[..., Any]:
    """`f` on each device's part of arrays whose types say how they are shared out as `like` is.

    For what treats every row by itself, and JAX cannot share out.
    """
    mesh = jax.typeof(like).sharding.mesh
    names = frozenset(
        name for axis in shared(like) if axis for name in (axis if type(axis) is tuple else [axis])
    )
    run = jax.shard_map(f, mesh=mesh, in_specs=tuple(given), out_specs=made, axis_names=names)
    return lambda *args: run(*(share(a, like, *spec) for a, spec in zip(args, given, strict=True)))
