"""Noise inside the recurrence."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _door
from .._cell import Cell, State
from .._control import alike
from .._layer import wide
from .._named import changed
from .._nodes import Static
from ._leaf import drawn, each_layer, forwarding, has_products, innermost, keep, split, step, times


@forwarding
class Zoneout(NamedTuple):
    """A node some of whose units keep their state; see `zoneout`."""

    node: Any
    rates: Static  # of the output, and of the rest of the state

    def step(self, s: State, u: Any, key: Any = None) -> State:
        key, inner = split(key)
        new = step(self.node, s, u, inner)

        def mix(i: int, old: Array, new: Array) -> Array:
            rate = self.rates.value[min(i, 1)]
            if not rate:
                return new
            if key is None:
                return rate * old + (1 - rate) * new
            stays = jax.random.bernoulli(jax.random.fold_in(key, i), rate, new.shape)
            return jnp.where(*alike(stays, old, new))

        return new._make([mix(i, *pair) for i, pair in enumerate(zip(s, new, strict=True))])


def zoneout(params: Any, hidden: float, memory: float | None = None) -> Any:
    """Zoneout: at each step each unit keeps its state with some probability.

        s' = d * s + (1 - d) * cell(s, x),   d = 1 with probability `rate`, else 0

    Without a key, `d` is its rate.  `hidden` is the rate of the output, `memory` that of the
    rest of the state, the same unless told.  Wraps every layer.  Krueger et al. 2016,
    "Zoneout: regularizing RNNs by randomly preserving hidden activations", arXiv:1606.01305.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.zoneout(params, hidden=0.05, memory=0.5)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)), key=jax.random.key(1))
    ```
    """
    rates = (
        _door.probability("hidden", hidden),
        _door.probability("memory", hidden if memory is None else memory),
    )
    return each_layer(lambda layer: Zoneout(layer, Static(rates)), params)


@forwarding
class RecurrentDropout(NamedTuple):
    """A node whose candidate is dropped; see `recurrent_dropout`."""

    node: Any
    gate: Static
    rate: Static

    def step(self, s: State, u: Any, key: Any = None) -> State:
        if key is None:
            return step(self.node, s, u, None)
        key, inner = jax.random.split(key)
        drop = lambda g: g * keep(key, self.rate.value, g.shape, g.dtype)
        run = lambda s, u: step(self.node, s, u, inner)
        return changed(run, {("gates", self.gate.value): drop}, s, u)

    def draw(self, key: Any, batch: Sequence[int]) -> Any:
        node = drawn(self.node, key, batch)
        return node if key is None else self._replace(node=node)


def recurrent_dropout(params: Any, rate: float, gate: str | None = None) -> Any:
    """Recurrent dropout without memory loss: the candidate is dropped, never the state.

        c' = f * c + i * d(g),   d(g) = g / (1 - rate) with probability 1 - rate, else 0

    anew at every step; the same for the candidate of any cell.  `gate` is its letter: `n`,
    `g` or `h`, whichever the cell has, unless told.  Wraps every layer.  Semeniuta, Severyn
    and Barth 2016, "Recurrent dropout without memory loss", arXiv:1603.05118.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.recurrent_dropout(params, 0.25)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)), key=jax.random.key(1))
    ```
    """
    rate = _door.probability("rate", rate)

    def wrap(layer: Any) -> Any:
        cell: Cell = innermost(layer).cell
        # Where a cell has `n`, its `g` is a gate, as in the UGRNN.
        found = [letter for letter in "ngh" if letter in cell.gates] if gate is None else [gate]
        if not found or found[0] not in list(cell.gates):
            raise ValueError(
                f"`gate` must be the letter of a gate of {cell}, one of {list(cell.gates)}; got "
                f"{gate!r}."
            )
        return RecurrentDropout(layer, Static(found[0]), Static(rate))

    return each_layer(wrap, params)


@forwarding
class StateDropout(NamedTuple):
    """A node whose recurrent products see some units of the state never; see
    `variational_dropout`."""

    node: Any
    rate: Static
    mask: Array | None = None  # drawn once for a sequence

    def step(self, s: State, u: Any, key: Any = None) -> State:
        assert self.mask is not None
        drop = lambda h: h * self.mask.astype(h.dtype)  # pyright: ignore
        run = lambda s, u: step(self.node, s, u, key)
        return changed(run, {("operand", "recurrent product"): drop}, s, u)

    def draw(self, key: Any, batch: Sequence[int]) -> Any:
        own, inner = split(key)
        node = drawn(self.node, inner, batch)
        if key is None:
            return node
        h = jax.eval_shape(lambda: node.zeros(batch))[0]
        return self._replace(node=node, mask=keep(own, self.rate.value, h.shape, h.dtype))


@forwarding
class WeightDrop(NamedTuple):
    """A layer whose recurrent weights are dropped; see `weight_drop`."""

    node: Any
    rate: Static

    def step(self, s: State, u: Any, key: Any = None) -> State:
        return step(self.node, s, u, key)

    def draw(self, key: Any, batch: Sequence[int]) -> Any:
        own, inner = split(key)
        node = drawn(self.node, inner, batch)
        if key is None:
            return node
        mask = keep(own, self.rate.value, node.r.shape, wide(node.r.dtype))
        return node._replace(r=times(node.r, mask))


def weight_drop(params: Any, rate: float) -> Any:
    """DropConnect on the recurrent weights: one draw for all time and for the whole batch.

        R~ = R * m / (1 - rate),   m = 1 with probability 1 - rate, else 0

    Wraps every layer.  Merity, Keskar and Socher 2017, "Regularizing and optimizing LSTM
    language models", arXiv:1708.02182; Wan et al. 2013, "Regularization of neural networks
    using DropConnect".

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.weight_drop(params, 0.5)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)), key=jax.random.key(1))
    ```
    """
    rate = _door.probability("rate", rate)

    def wrap(layer: Any) -> Any:
        has_products("weight_drop", layer)
        if layer is not innermost(layer):
            raise TypeError(
                f"`weight_drop` needs the layer itself; got {type(layer).__name__}. Other wrappers "
                "go around it."
            )
        return WeightDrop(layer, Static(rate))

    return each_layer(wrap, params)
