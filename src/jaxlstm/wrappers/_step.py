"""The base class of step wrappers, and what they share."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from .. import _arguments
from .._dtypes import widened
from .._node import Recur, State, StepNode, takes_steps
from .._types import DType, Key, Shape
from ._window import Delay


class StepWrapper(StepNode, abstract=True):
    """A wrapper of a step node that forwards everything to it by default."""

    __slots__ = ()
    node: PyTree

    if TYPE_CHECKING:  # of a NamedTuple

        def _replace(self, **fields: PyTree) -> Self: ...

    @property
    def gates(self) -> str:
        return self.node.gates

    @property
    def input_size(self) -> int:
        return self.node.input_size

    @property
    def spatial_axes(self) -> int:
        return self.node.spatial_axes

    def initial_state(self, batch: Sequence[int]) -> State:
        return self.node.initial_state(batch)

    def project(self, xs: Array, gates: str | None = None) -> PyTree:
        return self.node.project(xs, gates)

    def recur(self, h: Array, gates: str) -> Array:
        return self.node.recur(h, gates)

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> State:
        return self.node.step(s, u, recur, noise)

    def noise(self, key: Key, batch: Sequence[int]) -> PyTree:
        return self.node.noise(key, batch)

    def sample(self, key: Key | None, batch: Sequence[int]) -> StepNode:
        return self._replace(node=self.node.sample(key, batch))


def dtype_of(params: PyTree) -> DType:
    """The dtype of a network's weights."""
    dtypes = [a.dtype for a in jax.tree.leaves(params)]
    return next(dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))


def innermost(node: PyTree) -> PyTree:
    """The step node inside all wrappers."""
    return innermost(node.node) if isinstance(node, StepWrapper) else node


def each_layer(wrap: Callable[[PyTree], StepNode], params: PyTree) -> PyTree:
    """The network with every layer wrapped.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5, layers=2)
    params = jaxlstm.wrappers.each_layer(jaxlstm.wrappers.learn_initial_state, params)
    ```
    """
    found: list[StepNode] = []

    def place(node: PyTree) -> PyTree:
        if not takes_steps(node) or isinstance(node, Delay):
            return node
        found.append(node)
        return wrap(node)

    wrapped = jax.tree.map(place, params, is_leaf=takes_steps)
    if not found:
        raise _arguments.no_network(params)
    return wrapped


def has_products(name: str, layer: StepNode) -> None:
    """An error if no weight of the layer is multiplied with its state."""
    inner = innermost(layer)
    if getattr(inner, "r", None) is None:
        raise TypeError(
            f"`{name}` needs layers with recurrent weights `r`; got {type(inner).__name__} of "
            f"{getattr(inner, 'cell', 'no cell')}."
        )


def keep(key: Key, rate: float, shape: Shape, dtype: DTypeLike) -> Array:
    """Zero with probability `rate`, else `1 / (1 - rate)`: one on average."""
    mask = jax.random.bernoulli(key, 1 - rate, shape)
    return mask.astype(dtype) / jnp.asarray(1 - rate, dtype)


def times(a: Array, mask: Array) -> Array:
    """`a * mask`, in the dtype of `a`; the mask is wide, so that it is one on average."""
    return (widened(a) * mask).astype(a.dtype)
