"""What changes a layer without noise: its gradients, where it starts, what it looks back on."""

import functools
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _door
from .._cell import Hidden, State
from .._layer import wide, widened
from .._nodes import Stack, Static
from ._leaf import dtype_of, each_layer, forwarding, step


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _bounded(s: State, limit: float) -> State:
    return s


def _forward(s: State, limit: float) -> tuple[State, None]:
    return s, None


def _backward(limit: float, _: None, ds: State) -> tuple[State]:
    return (jax.tree.map(lambda g: jnp.clip(g, -limit, limit), ds),)


_bounded.defvjp(_forward, _backward)


@forwarding
class ClipGradient(NamedTuple):
    """A node whose gradient is bounded at each step; see `clip_gradient`."""

    node: Any
    limit: Static

    def step(self, s: State, u: Any, key: Any = None) -> State:
        return step(self.node, _bounded(s, self.limit.value), u, key)


def clip_gradient(params: Any, limit: float | int) -> Any:
    """Bounds the gradient of every unit of the state, at each step back in time.

    A bound is not linear, so it is for reverse mode alone: `jax.jvp` raises `TypeError`.
    Wraps every layer.  Graves 2013, "Generating sequences with recurrent neural networks",
    arXiv:1308.0850.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.clip_gradient(params, 1.0)
    grads = jax.grad(lambda p: jaxlstm.apply(p, jnp.ones((7, 3)))[0].sum())(params)
    ```
    """
    if not isinstance(limit, numbers.Real) or not limit > 0:
        raise ValueError(f"`limit` must be a positive number; got {limit!r}.")
    return each_layer(lambda layer: ClipGradient(layer, Static(float(limit))), params)


@forwarding
class InitialState(NamedTuple):
    """A node whose initial state is a weight; see `learn_initial_state`."""

    node: Any
    state: State

    def zeros(self, batch: Sequence[int]) -> State:
        rows = lambda a: jnp.broadcast_to(widened(a), (*batch, *a.shape))
        return jax.tree.map(rows, self.state)

    def step(self, s: State, u: Any, key: Any = None) -> State:
        return step(self.node, s, u, key)


def learn_initial_state(params: Any) -> Any:
    """Makes the initial state of every layer a weight, zero at first.

    It is where a sequence starts when `apply` is given no state, and after a reset.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.learn_initial_state(params)
    assert params.state.h.shape == (5,)
    ```
    """

    def wrap(layer: Any) -> InitialState:
        dtype = dtype_of(layer)
        return InitialState(layer, jax.tree.map(lambda a: a.astype(dtype), layer.zeros(())))

    return each_layer(wrap, params)


class Delay(NamedTuple):
    """A node that gives, at each step, the newest inputs side by side; see `window`."""

    of: Array  # without elements: its shape (0, inputs, features) and its dtype say all
    only_delays = True  # no layer: what wraps every layer leaves it alone

    @property
    def input_size(self) -> int:
        return self.of.shape[2]

    def zeros(self, batch: Sequence[int]) -> Hidden:
        width = self.of.shape[1] * self.of.shape[2]
        return Hidden(jnp.zeros((*batch, width), wide(self.of.dtype)))

    def project(self, xs: Array) -> Array:
        return xs

    def step(self, s: State, u: Array, key: Any = None) -> Hidden:
        kept = s.h.shape[-1] - u.shape[-1]
        return Hidden(jnp.concatenate([u.astype(s.h.dtype), s.h[..., :kept]], -1))


def window(params: Any, size: int) -> Stack:
    """The network with the newest `size` inputs at each step, the newest first, then older.

    A causal convolution of width `size` over the inputs, as in the QRNN: the rows of `w` are
    its kernel.  The network must be drawn for `size` times as many features.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.cells.qrnn, 2 * 3, 5)
    params = jaxlstm.wrappers.window(params, 2)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)))
    ```
    """
    _door.count("size", size)
    features, odd = divmod(params.input_size, size)
    if odd or not features:
        raise ValueError(
            f"a window of {size} inputs needs a network whose `input_size` is a multiple of "
            f"{size}; got {params.input_size}."
        )
    return Stack((Delay(jnp.zeros((0, size, features), dtype_of(params))), params))
