"""Nodes that hold nodes.  A composite node has `zeros` and `run`."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._apply import Way, run
from ._cell import State
from ._control import alike
from ._layer import widened
from ._said import hashable


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """A value that belongs to the architecture: no leaf of the tree, equal if its value is."""

    value: Any

    def __post_init__(self) -> None:
        hashable("the value of `Static`", self.value)

    def __copy__(self) -> "Static":
        return self

    def __deepcopy__(self, memo: Any) -> "Static":
        return self


class Stack(NamedTuple):
    """Layers, the first nearest the input; dropout between them runs when a key is given.

    Dropout zeroes each unit of what one layer hands to the next with probability `dropout`,
    anew at every time step, and scales the others by `1 / (1 - dropout)`.  Zaremba, Sutskever
    and Vinyals 2014, "Recurrent neural network regularization".
    """

    layers: tuple[Any, ...]
    dropout: Static = Static(0.0)

    @property
    def input_size(self) -> int:
        return self.layers[0].input_size

    @property
    def space(self) -> int:
        return getattr(self.layers[0], "space", 0)

    def zeros(self, batch: Sequence[int]) -> State:
        return tuple(layer.zeros(batch) for layer in self.layers)

    def run(self, xs: Array, state: State, way: Way) -> tuple[Array, State]:
        ends = []
        for i, (layer, s) in enumerate(zip(self.layers, state, strict=True)):
            key = None if way.key is None else jax.random.fold_in(way.key, i)
            if i and key is not None and self.dropout.value:
                key, noise = jax.random.split(key)
                keep = jax.random.bernoulli(noise, 1 - self.dropout.value, xs.shape)
                scaled = (widened(xs) / (1 - self.dropout.value)).astype(xs.dtype)
                xs = jnp.where(*alike(keep, scaled, jnp.zeros_like(xs)))
            xs, s = run(layer, xs, s, way._replace(key=key))
            ends.append(s)
        return xs, tuple(ends)


class Reverse(NamedTuple):
    """A node run backwards in time; `ys[t]` still belongs to `xs[t]`."""

    node: Any

    @property
    def input_size(self) -> int:
        return self.node.input_size

    @property
    def space(self) -> int:
        return getattr(self.node, "space", 0)

    def zeros(self, batch: Sequence[int]) -> State:
        return self.node.zeros(batch)

    def run(self, xs: Array, state: State, way: Way) -> tuple[Array, State]:
        if way.plan.single:
            raise ValueError(
                "a network that runs backwards needs the whole sequence, and `step` has one step "
                "of it. Use `apply`."
            )
        back = way.plan._replace(reverse=not way.plan.reverse)
        return run(self.node, xs, state, way._replace(plan=back))


class Bidirectional(NamedTuple):
    """Two nodes, one run backwards in time; their outputs are joined, forward first.

    Its state is that of both: the forward one after the last step, the backward one after
    the first.  Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    """

    forward: Any
    backward: Any

    @property
    def input_size(self) -> int:
        return self.forward.input_size

    @property
    def space(self) -> int:
        return getattr(self.forward, "space", 0)

    def zeros(self, batch: Sequence[int]) -> State:
        return self.forward.zeros(batch), self.backward.zeros(batch)

    def run(self, xs: Array, state: State, way: Way) -> tuple[Array, State]:
        if way.plan.single:
            raise ValueError(
                "a bidirectional network needs the whole sequence, and `step` has one step "
                "of it. Use `apply`, or a network of one direction."
            )
        keys = (None, None) if way.key is None else jax.random.split(way.key)
        back = way.plan._replace(reverse=not way.plan.reverse)
        yf, sf = run(self.forward, xs, state[0], way._replace(key=keys[0]))
        yb, sb = run(self.backward, xs, state[1], way._replace(key=keys[1], plan=back))
        return jnp.concatenate([yf, yb], -1), (sf, sb)
