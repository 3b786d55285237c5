"""Noise inside the recurrence."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _arguments
from .._cell import Layer
from .._containers import Static
from .._control import alike, differentiable
from .._dtypes import wide
from .._layer import CellNode
from .._node import Recur, State, StepNode
from .._tags import Label, placeholder, replace_tagged
from .._types import Key
from ._step import StepWrapper, each_layer, has_products, innermost, keep, times


class _Zoneout(NamedTuple):
    node: PyTree
    rates: Static[tuple[float, float]]  # of the output, and of the rest of the state


class Zoneout(_Zoneout, StepWrapper):
    """A node some of whose units keep their previous state; see `zoneout`."""

    __slots__ = ()

    def rate(self, i: int, field: PyTree) -> float:
        """Of a field of the state; whole numbers, such as a counter, have no expectation."""
        return self.rates.value[min(i, 1)] if differentiable(field) else 0.0

    def noise(self, key: Key, batch: Sequence[int]) -> PyTree:
        key, inner = jax.random.split(key)
        state = jax.eval_shape(lambda: self.initial_state(batch))

        def stays(i: int, a: jax.ShapeDtypeStruct) -> Array | None:
            rate = self.rate(i, a)
            return jax.random.bernoulli(jax.random.fold_in(key, i), rate, a.shape) if rate else None

        return [stays(i, a) for i, a in enumerate(state)], self.node.noise(inner, batch)

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> State:
        stays, inner = ([None] * len(s), None) if noise is None else noise
        new = self.node.step(s, u, recur, inner)

        def mix(i: int, old: Array, new: Array) -> Array:
            rate = self.rate(i, new)
            if not rate:
                return new
            if (stay := stays[i]) is None:
                return rate * old + (1 - rate) * new
            return jnp.where(*alike(stay, old, new))

        return new._make([mix(i, *pair) for i, pair in enumerate(zip(s, new, strict=True))])


def zoneout(params: PyTree, hidden: float, memory: float | None = None) -> PyTree:
    """Zoneout: at each step each unit keeps its state with some probability.

        s' = d * s + (1 - d) * cell(s, x),   d = 1 with probability `rate`, else 0

    Without a key, `d` is its expectation, `rate`.  `hidden` is the rate for the output, `memory`
    that for the rest of the state, by default the same; a field of whole numbers is always
    updated.  Wraps every layer.  Krueger et al. 2016, "Zoneout: regularizing RNNs by randomly
    preserving hidden activations", arXiv:1606.01305.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.zoneout(params, hidden=0.05, memory=0.5)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)), key=jax.random.key(1))
    ```
    """
    rates = (
        _arguments.probability("hidden", hidden),
        _arguments.probability("memory", hidden if memory is None else memory),
    )
    return each_layer(lambda layer: Zoneout(layer, Static(rates)), params)


class _RecurrentDropout(NamedTuple):
    node: PyTree
    gate: Static[str]
    rate: Static[float]


class RecurrentDropout(_RecurrentDropout, StepWrapper):
    """A node whose candidate is dropped; see `recurrent_dropout`."""

    __slots__ = ()

    def noise(self, key: Key, batch: Sequence[int]) -> PyTree:
        key, inner = jax.random.split(key)
        layer = innermost(self)
        shape, dtype = (*batch, layer.w.shape[-1]), wide(layer.w.dtype)
        return keep(key, self.rate.value, shape, dtype), self.node.noise(inner, batch)

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> State:
        if noise is None:
            return self.node.step(s, u, recur, None)
        drop, inner = noise
        replacements: dict[Label, Callable[[PyTree], Array]] = {
            ("gates", self.gate.value): lambda g: g * drop
        }

        def product(h: Array, gates: str) -> Array:
            # The step is traced before it is run: `recur` is called when it is run.
            label = ("product", str(len(replacements)))
            replacements[label] = lambda h: recur(h, gates)
            return placeholder(h, lambda h: self.node.recur(h, gates), label)

        return replace_tagged(lambda s, u: self.node.step(s, u, product, inner), replacements, s, u)

    def sample(self, key: Key | None, batch: Sequence[int]) -> StepNode:
        node = self.node.sample(key, batch)
        return node if key is None else self._replace(node=node)


def recurrent_dropout(params: PyTree, rate: float, gate: str | None = None) -> PyTree:
    """Recurrent dropout without memory loss: the candidate is dropped, never the state.

        c' = f * c + i * d(g),   d(g) = g / (1 - rate) with probability 1 - rate, else 0

    sampled anew at every step, and likewise for the candidate of any other cell.  `gate` is its
    letter: `n`, `g` or `h`, by default whichever the cell has.  Wraps every layer.  Semeniuta,
    Severyn and Barth 2016, "Recurrent dropout without memory loss", arXiv:1603.05118.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.recurrent_dropout(params, 0.25)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)), key=jax.random.key(1))
    ```
    """
    rate = _arguments.probability("rate", rate)

    def wrap(layer: StepNode) -> RecurrentDropout:
        inner = innermost(layer)
        if not isinstance(inner, CellNode):
            raise TypeError(
                "`recurrent_dropout` needs layers with a cell, whose candidate is dropped; got "
                f"{type(inner).__name__}. Let a node of your own sample its noise: "
                "`jaxlstm.StepNode.noise`."
            )
        cell = inner.cell
        # Where a cell has `n`, its `g` is a gate, as in the UGRNN.
        found = [letter for letter in "ngh" if letter in cell.gates] if gate is None else [gate]
        if not found or found[0] not in list(cell.gates):
            raise ValueError(
                f"`gate` must be the letter of a gate of {cell}, one of {list(cell.gates)}; got "
                f"{gate!r}."
            )
        return RecurrentDropout(layer, Static(found[0]), Static(rate))

    return each_layer(wrap, params)


class _StateDropout(NamedTuple):
    node: PyTree
    rate: Static[float]
    mask: Array | None = None  # sampled once for a sequence


class StateDropout(_StateDropout, StepWrapper):
    """A node whose recurrent products never see some of its units; see `variational_dropout`."""

    __slots__ = ()

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> State:
        dropped = lambda h, gates: recur(h * self.mask, gates)
        return self.node.step(s, u, dropped, noise)

    def sample(self, key: Key | None, batch: Sequence[int]) -> StepNode:
        if key is None:
            return self.node.sample(None, batch)
        own, inner = jax.random.split(key)
        node = self.node.sample(inner, batch)
        h = jax.eval_shape(lambda: self.initial_state(batch))[0]
        return self._replace(node=node, mask=keep(own, self.rate.value, h.shape, h.dtype))


class _WeightDrop(NamedTuple):
    node: PyTree
    rate: Static[float]


class WeightDrop(_WeightDrop, StepWrapper):
    """A layer whose recurrent weights are dropped; see `weight_drop`."""

    __slots__ = ()

    def sample(self, key: Key | None, batch: Sequence[int]) -> StepNode:
        if key is None:
            return self.node.sample(None, batch)
        own, inner = jax.random.split(key)
        node = self.node.sample(inner, batch)
        assert isinstance(node, Layer)
        assert node.r is not None
        mask = keep(own, self.rate.value, node.r.shape, wide(node.r.dtype))
        return node._replace(r=times(node.r, mask))


def weight_drop(params: PyTree, rate: float) -> PyTree:
    """DropConnect on the recurrent weights: one sample for all steps and for the whole batch.

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
    rate = _arguments.probability("rate", rate)

    def wrap(layer: StepNode) -> WeightDrop:
        has_products("weight_drop", layer)
        if layer is not innermost(layer):
            raise TypeError(
                f"`weight_drop` needs the layer itself; got {type(layer).__name__}. Other wrappers "
                "go around it."
            )
        return WeightDrop(layer, Static(rate))

    return each_layer(wrap, params)


class _RecurrentNoise(NamedTuple):
    node: PyTree
    std: Static[float]


class RecurrentNoise(_RecurrentNoise, StepWrapper):
    """A node with noise added to the inputs of its gates; see `recurrent_noise`."""

    __slots__ = ()

    def noise(self, key: Key, batch: Sequence[int]) -> PyTree:
        own, inner = jax.random.split(key)
        w = innermost(self).w
        shape = (*batch, *w.shape[-2:])
        sampled = self.std.value * jax.random.normal(own, shape, wide(w.dtype))
        return sampled, self.node.noise(inner, batch)

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> State:
        if noise is None:
            return self.node.step(s, u, recur, None)
        sampled, inner = noise
        return self.node.step(s, u + sampled, recur, inner)


def recurrent_noise(params: PyTree, std: float | int) -> PyTree:
    """Gaussian noise in the input of every gate, sampled at each step: private noise.

        u~ = W x + b + std * N(0, 1)

    for each gate.  With `ctrnn`, `std = sqrt(2 / alpha) sigma`.  Wraps every layer.  Song, Yang
    and Wang 2016, "Training excitatory-inhibitory recurrent neural networks for cognitive
    tasks: a simple and flexible framework", PLOS Computational Biology 12(2).

    ```python
    cell = jaxlstm.cells.ctrnn(alpha=0.2)
    params = jaxlstm.init(jax.random.key(0), cell, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.recurrent_noise(params, std=(2 / 0.2) ** 0.5 * 0.05)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)), key=jax.random.key(1))
    ```
    """
    deviation = _arguments.real(std)
    if deviation is None or not 0 <= deviation < math.inf:
        raise ValueError(f"`std` must be a number, 0 or more; got {_arguments.short_repr(std)}.")

    def wrap(layer: StepNode) -> RecurrentNoise:
        inner = innermost(layer)
        if getattr(inner, "w", None) is None:
            raise TypeError(
                "`recurrent_noise` needs layers with input weights `w`; got "
                f"{type(inner).__name__}. Let a node of your own sample its noise: "
                "`jaxlstm.StepNode.noise`."
            )
        return RecurrentNoise(layer, Static(deviation))

    return each_layer(wrap, params)
