"""Functions that say themselves what they are derived by, or what their transpose is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec as P

from ..._control import on_each_device
from ..._layer import shared


def linear(f: Callable[..., Any], transposed: Callable[..., Any], kept: Any, x: Any) -> Any:
    """`f(kept, x)`, linear in `x`; JAX takes `transposed(kept, cotangents)` for its transpose.

    All else that JAX does to it, it does to `f` as it stands: `jax.custom_derivatives` has a
    linear function with a transpose too, which `vmap` and second derivatives do not know.
    """
    leaves, tree = jax.tree.flatten((kept, x))
    out = jax.eval_shape(f, kept, x)
    flat = lambda *a: jax.tree.leaves(f(*jax.tree.unflatten(tree, a)))

    def back(known: Any, cotangents: Any) -> list[Any]:
        held = jax.tree.unflatten(jax.tree.structure(kept), known)
        return jax.tree.leaves(
            transposed(held, jax.tree.unflatten(jax.tree.structure(out), cotangents))
        )

    known = len(jax.tree.leaves(kept))
    return jax.tree.unflatten(
        jax.tree.structure(out), _bound.bind(*leaves, f=flat, plain=flat, back=back, known=known)
    )


def computed(f: Callable[..., Any], plain: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)`, of which JAX derives what it derives of `plain(*args)`, its equal.

    `jax.custom_jvp` does that too, but `jax.checkpoint` forgets its rule.
    """
    leaves, tree = jax.tree.flatten(args)
    out = jax.tree.structure(jax.eval_shape(plain, *args))
    flat = lambda g: lambda *a: jax.tree.leaves(g(*jax.tree.unflatten(tree, a)))
    outs = _bound.bind(*leaves, f=flat(f), plain=flat(plain), back=None, known=len(leaves))
    return jax.tree.unflatten(out, outs)


_bound = Primitive("jaxlstm_native")
_bound.multiple_results = True


@_bound.def_impl
def _run(*args: Any, f: Any, **_: Any) -> Any:
    return f(*args)


@_bound.def_abstract_eval
def _shapes(*args: Any, f: Any, **_: Any) -> Any:
    return jax.make_jaxpr(f)(*args).out_avals


def _jvp(primals: Any, tangents: Any, *, plain: Any, **_: Any) -> Any:
    return jax.jvp(plain, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _transpose(cotangents: Any, *args: Any, back: Any, known: int, **_: Any) -> Any:
    given = [ad.instantiate_zeros(c) for c in cotangents]
    return [None] * known + back(args[:known], given)


def _batch(args: Any, axes: Any, *, f: Any, plain: Any, back: Any, **_: Any) -> Any:
    at = [None if axis is None else 0 for axis in axes]
    args = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(args, axes)]
    run = jax.vmap(f, in_axes=at)
    # Where the type says that each device has some of the members, it runs these.
    like = next((a for a, n in zip(args, at) if n == 0 and shared(a)[0]), None)
    if like is not None:
        name = shared(like)[0]
        specs = [P() if n is None else P(name) for n in at]
        run = on_each_device(lambda *a: list(jax.vmap(f, in_axes=at)(*a)), like, specs, P(name))
    if back is None:
        plain = jax.vmap(plain, in_axes=at)
        outs = _bound.bind(*args, f=run, plain=plain, back=None, known=len(args))
    else:
        outs = run(*args)
    return outs, [0] * len(outs)


ad.primitive_jvps[_bound] = _jvp
ad.primitive_transposes[_bound] = _transpose
batching.primitive_batchers[_bound] = _batch
mlir.register_lowering(_bound, mlir.lower_fun(_run, multiple_results=True))
