"""What the wrappers of one step have in common."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._cell import State
from .._layer import widened


def takes_steps(node: Any) -> bool:
    """Whether a node is stepped through time, and not one that runs those it holds."""
    is_node = all(hasattr(node, name) for name in ("zeros", "project", "step"))
    return is_node and not hasattr(node, "run")


def is_layer(node: Any) -> bool:
    """Whether a node is a layer, wrapped or not, and not only a delay of the inputs."""
    return takes_steps(node) and not getattr(node, "only_delays", False)


def each_layer(wrap: Callable[[Any], Any], params: Any) -> Any:
    """The network with every layer wrapped.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5, layers=2)
    params = jaxlstm.wrappers.each_layer(jaxlstm.wrappers.learn_initial_state, params)
    ```
    """
    found = []
    place = lambda node: (found.append(node), wrap(node))[1] if is_layer(node) else node
    wrapped = jax.tree.map(place, params, is_leaf=takes_steps)
    if not found:
        raise TypeError(
            "a wrapper takes a network, such as `jaxlstm.init` returns, with a layer in it; got a "
            f"{type(params).__name__}."
        )
    return wrapped


def dtype_of(params: Any) -> Any:
    """The dtype of a network's weights."""
    dtypes = [a.dtype for a in jax.tree.leaves(params)]
    return next(dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))


def innermost(node: Any) -> Any:
    return innermost(node.node) if hasattr(node, "node") else node


def has_products(name: str, layer: Any) -> None:
    """An error if no weight of the layer is multiplied with its state."""
    inner = innermost(layer)
    if getattr(inner, "r", None) is None:
        raise TypeError(
            f"`{name}` needs layers with recurrent weights `r`; got {type(inner).__name__} of "
            f"{getattr(inner, 'cell', 'no cell')}."
        )


def forwarding(cls: Any) -> Any:
    """Gives a wrapper of one step what it leaves as it is: the methods of the node it holds."""

    def zeros(self: Any, batch: Sequence[int]) -> State:
        return self.node.zeros(batch)

    def project(self: Any, xs: Array) -> Any:
        return self.node.project(xs)

    def draw(self: Any, key: Any, batch: Sequence[int]) -> Any:
        return self._replace(node=drawn(self.node, key, batch))

    for method in (zeros, project, draw):
        if method.__name__ not in vars(cls):
            setattr(cls, method.__name__, method)
    cls.input_size = property(lambda self: self.node.input_size)
    cls.space = property(lambda self: getattr(self.node, "space", 0))
    return cls


def drawn(node: Any, key: Any, batch: Sequence[int]) -> Any:
    """The node with the noise that it keeps for a whole sequence; none if `key` is None."""
    return node.draw(key, batch) if hasattr(node, "draw") else node


def step(node: Any, s: State, u: Any, key: Any) -> State:
    return node.step(s, u) if key is None else node.step(s, u, key)


def split(key: Any) -> tuple[Any, Any]:
    """Two keys, or none."""
    return (None, None) if key is None else tuple(jax.random.split(key))


def keep(key: Any, rate: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """Zero with probability `rate`, else `1 / (1 - rate)`: one on average."""
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return kept.astype(dtype) / jnp.asarray(1 - rate, dtype)


def times(a: Array, mask: Array) -> Array:
    """`a * mask`, in the dtype of `a`; the mask is wide, so that it is one on average."""
    return (widened(a) * mask).astype(a.dtype)
