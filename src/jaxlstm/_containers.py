"""Containers: nodes in sequence, backwards in time, and in both directions."""

import dataclasses
from collections.abc import Sequence
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._control import alike
from ._dtypes import widened
from ._node import Context, Node, State, run
from ._options import hashable
from ._types import T


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static(Generic[T]):
    """A value that belongs to the architecture: part of the tree structure, compared by value."""

    value: T

    def __post_init__(self) -> None:
        hashable("the value of `Static`", self.value)

    def __copy__(self) -> "Static[T]":
        return self

    def __deepcopy__(self, memo: object) -> "Static[T]":
        return self


class _Stack(NamedTuple):
    layers: tuple[PyTree, ...]  # nodes, whose own fields type checkers cannot know
    dropout: Static[float] = Static(0.0)


class Stack(_Stack, Node):
    """Layers in sequence, the first nearest the input, with dropout between them.

    Given a key, each unit of the output of a layer is zeroed with probability `dropout` before
    the next, independently at every time step, and the others are scaled by `1 / (1 - dropout)`.
    Zaremba, Sutskever and Vinyals 2014, "Recurrent neural network regularization".
    """

    __slots__ = ()

    @property
    def input_size(self) -> int:
        return self.layers[0].input_size

    @property
    def spatial_axes(self) -> int:
        return self.layers[0].spatial_axes

    def initial_state(self, batch: Sequence[int]) -> State:
        return tuple(layer.initial_state(batch) for layer in self.layers)

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        ends = []
        for i, (layer, s) in enumerate(zip(self.layers, state, strict=True)):
            key = None if context.key is None else jax.random.fold_in(context.key, i)
            if i and key is not None and self.dropout.value:
                key, noise = jax.random.split(key)
                keep = jax.random.bernoulli(noise, 1 - self.dropout.value, xs.shape)
                scaled = (widened(xs) / (1 - self.dropout.value)).astype(xs.dtype)
                xs = jnp.where(*alike(keep, scaled, jnp.zeros_like(xs)))
            with jax.named_scope(f"layers[{i}]"):
                xs, s = run(layer, xs, s, context._replace(key=key))
            ends.append(s)
        return xs, tuple(ends)


class _Reverse(NamedTuple):
    node: PyTree


class Reverse(_Reverse, Node):
    """A node run backwards in time; `ys[t]` still belongs to `xs[t]`."""

    __slots__ = ()

    @property
    def input_size(self) -> int:
        return self.node.input_size

    @property
    def spatial_axes(self) -> int:
        return self.node.spatial_axes

    def initial_state(self, batch: Sequence[int]) -> State:
        return self.node.initial_state(batch)

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        if context.plan.single_step:
            raise ValueError(
                "a network that runs backwards needs the whole sequence, and `step` has only one "
                "step. Use `apply`."
            )
        back = context.plan._replace(reverse=not context.plan.reverse)
        return run(self.node, xs, state, context._replace(plan=back))


class BidirectionalState(NamedTuple):
    """The states of both directions of a bidirectional network."""

    forward: State
    backward: State


class _Bidirectional(NamedTuple):
    forward: PyTree
    backward: PyTree


class Bidirectional(_Bidirectional, Node):
    """Two nodes, one run backwards in time; their outputs are concatenated, forward first.

    The state holds that of both directions: the forward one after the last step, the backward
    one after the first.  Passed to `apply`, it is where each of them starts: forward at the
    first step, backward at the last.  Schuster and Paliwal 1997, "Bidirectional recurrent
    neural networks".
    """

    __slots__ = ()

    @property
    def input_size(self) -> int:
        return self.forward.input_size

    @property
    def spatial_axes(self) -> int:
        return self.forward.spatial_axes

    def initial_state(self, batch: Sequence[int]) -> State:
        directions = self.forward, self.backward
        return BidirectionalState(*[node.initial_state(batch) for node in directions])

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        if context.plan.single_step:
            raise ValueError(
                "a bidirectional network needs the whole sequence, and `step` has only one step. "
                "Use `apply`, or a network of one direction."
            )
        keys = (None, None) if context.key is None else jax.random.split(context.key)
        back = context.plan._replace(reverse=not context.plan.reverse)
        with jax.named_scope("forward"):
            yf, sf = run(self.forward, xs, state.forward, context._replace(key=keys[0]))
        back = context._replace(key=keys[1], plan=back)
        with jax.named_scope("backward"):
            yb, sb = run(self.backward, xs, state.backward, back)
        return jnp.concatenate([yf, yb], -1), BidirectionalState(sf, sb)
