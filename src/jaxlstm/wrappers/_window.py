"""A window over the newest inputs."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _arguments
from .._cell import HiddenState
from .._containers import Stack
from .._dtypes import wide
from .._node import Recur, State, StepNode


class _Delay(NamedTuple):
    of: Array  # empty: only its shape (0, inputs, features) and its dtype matter


class Delay(_Delay, StepNode):
    """A node that outputs, at each step, the newest inputs side by side; see `window`."""

    __slots__ = ()
    roles: ClassVar = {"of": "vector"}

    @property
    def input_size(self) -> int:
        return self.of.shape[2]

    def initial_state(self, batch: Sequence[int]) -> HiddenState:
        width = self.of.shape[1] * self.of.shape[2]
        return HiddenState(jnp.zeros((*batch, width), wide(self.of.dtype)))

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> HiddenState:
        older = s.h.shape[-1] - u.shape[-1]
        return HiddenState(jnp.concatenate([u.astype(s.h.dtype), s.h[..., :older]], -1))


def window(params: PyTree, size: int) -> Stack:
    """Gives the network the newest `size` inputs at each step, starting with the newest.

    A causal convolution of width `size` over the inputs, as in the QRNN: the rows of `w` are
    its kernel.  The network must be initialized with `size` times as many features.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.cells.qrnn, 2 * 3, 5)
    params = jaxlstm.wrappers.window(params, 2)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)))
    ```
    """
    _arguments.count("size", size)
    features, odd = divmod(_arguments.network(params).input_size, size)
    if odd or not features:
        raise ValueError(
            f"a window of {size} inputs needs a network whose `input_size` is a multiple of "
            f"{size}; got {params.input_size}."
        )
    real = (a.dtype for a in jax.tree.leaves(params) if jnp.issubdtype(a.dtype, jnp.floating))
    dtype = next(real)
    return Stack((Delay(jnp.zeros((0, size, features), dtype)), params))
