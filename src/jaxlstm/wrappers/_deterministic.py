"""Wrappers without noise: clipped gradients and a learned initial state."""

import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from .. import _arguments
from .._containers import Static
from .._control import combine, partition
from .._dtypes import widened
from .._node import Recur, State, StepNode
from .._types import Key, T
from ._step import StepWrapper, dtype_of, each_layer

_clip = Primitive("jaxlstm_clip_cotangent")  # the identity of tangents, but for its transpose


def _reverse_mode_alone() -> NoReturn:
    raise TypeError(
        "`clip_gradient` is for reverse mode alone (`jax.grad`, `jax.vjp`): a bound is not linear."
    )


@_clip.def_impl
def _of_numbers(d: Array, **_: object) -> Array:
    """Reverse mode computes with tangents too, but only with those that are known to be zero."""
    return _reverse_mode_alone() if jnp.any(d != 0) else d


def _lower(ctx: "mlir.LoweringRuleContext", d: T, **_: object) -> list[T]:
    aval: PyTree = ctx.avals_in[0]
    return _reverse_mode_alone() if aval.size else [d]


_clip.def_abstract_eval(lambda a, **_: a)


def _clipped(ct: PyTree, _: PyTree, limit: float) -> list[Array]:
    """The clipped cotangent; the real and imaginary parts of a complex one are clipped apart."""
    clip = lambda a: jnp.clip(a, -limit, limit)
    return [jax.lax.complex(clip(ct.real), clip(ct.imag)) if jnp.iscomplexobj(ct) else clip(ct)]


ad.deflinear2(_clip, _clipped)
batching.primitive_batchers[_clip] = lambda args, axes, **params: (
    _clip.bind(*args, **params),
    axes[0],
)
mlir.register_lowering(_clip, _lower)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _bounded(s: State, limit: float) -> State:
    """The state, the cotangent of which is bounded."""
    return s


@_bounded.defjvp
def _rule(limit: float, primals: tuple[State], tangents: tuple[State]) -> tuple[State, State]:
    real, rest = partition(tangents[0])
    bounded = jax.tree.map(lambda d: _clip.bind(d, limit=limit), real)
    return primals[0], combine(bounded, rest)


class _ClipGradient(NamedTuple):
    node: PyTree
    limit: Static[float]


class ClipGradient(_ClipGradient, StepWrapper):
    """A node whose gradient is bounded at each step; see `clip_gradient`."""

    __slots__ = ()

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> State:
        return self.node.step(_bounded(s, self.limit.value), u, recur, noise)


def clip_gradient(params: PyTree, limit: float | int) -> PyTree:
    """Bounds the gradient of every unit of the state, at each step back in time.

    A bound is not linear, so this works in reverse mode only: `jax.jvp` raises `TypeError`.
    Wraps every layer.  Graves 2013, "Generating sequences with recurrent neural networks",
    arXiv:1308.0850.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.clip_gradient(params, 1.0)
    grads = jax.grad(lambda p: jaxlstm.apply(p, jnp.ones((7, 3)))[0].sum())(params)
    ```
    """
    bound = _arguments.real(limit)
    if bound is None or not bound > 0:
        raise ValueError(f"`limit` must be a positive number; got {_arguments.short_repr(limit)}.")
    return each_layer(lambda layer: ClipGradient(layer, Static(bound)), params)


class _InitialState(NamedTuple):
    node: PyTree
    state: State


class InitialState(_InitialState, StepWrapper):
    """A node whose initial state is a weight; see `learn_initial_state`."""

    __slots__ = ()
    roles: ClassVar = {"state": "initial_state"}

    def initial_state(self, batch: Sequence[int]) -> State:
        rows = lambda a: jnp.broadcast_to(widened(a), (*batch, *a.shape))
        _, fixed = partition(self.node.initial_state(batch))
        return combine(jax.tree.map(rows, self.state), fixed)

    def sample(self, key: Key | None, batch: Sequence[int]) -> StepNode:
        return self.node.sample(key, batch)  # a step is that of the node


def learn_initial_state(params: PyTree) -> PyTree:
    """Makes the initial state of every layer a weight, zero at first.

    It is the state at the start of a sequence, if `apply` is not given one, and after a reset.
    A field of whole numbers has no gradient, and starts as without the wrapper.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.learn_initial_state(params)
    assert params.state.h.shape == (5,)
    ```
    """

    def wrap(layer: StepNode) -> InitialState:
        dtype = dtype_of(layer)
        learned, _ = partition(layer.initial_state(()))
        narrow = lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
        return InitialState(layer, jax.tree.map(narrow, learned))

    return each_layer(wrap, params)
