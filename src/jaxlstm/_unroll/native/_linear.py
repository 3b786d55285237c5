"""A linear function that says itself what its transpose is."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


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
        jax.tree.structure(out), _linear.bind(*leaves, f=flat, back=back, known=known)
    )


_linear = Primitive("jaxlstm_linear")
_linear.multiple_results = True


@_linear.def_impl
def _run(*args: Any, f: Any, **_: Any) -> Any:
    return f(*args)


@_linear.def_abstract_eval
def _shapes(*args: Any, f: Any, **_: Any) -> Any:
    return jax.make_jaxpr(f)(*args).out_avals


def _jvp(primals: Any, tangents: Any, *, f: Any, **_: Any) -> Any:
    return jax.jvp(f, primals, [ad.instantiate_zeros(t) for t in tangents])


def _transpose(cotangents: Any, *args: Any, back: Any, known: int, **_: Any) -> Any:
    given = [ad.instantiate_zeros(c) for c in cotangents]
    return [None] * known + back(args[:known], given)


def _batch(args: Any, axes: Any, *, f: Any, **_: Any) -> Any:
    outs = jax.vmap(f, in_axes=axes)(*args)
    return outs, [0] * len(outs)


ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
mlir.register_lowering(_linear, mlir.lower_fun(_run, multiple_results=True))
