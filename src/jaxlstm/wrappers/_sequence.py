"""Wrappers of sequences: skip connections, norms, and dropout with one mask for all time."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _arguments
from .._apply import apply
from .._containers import Static
from .._control import over_rows, where
from .._dtypes import wide, widened
from .._layer import biased, bilinear
from .._node import Context, Node, State, StepNode, run
from .._types import Key
from ..cells.activations import normalized
from ._noise import StateDropout
from ._step import dtype_of, each_layer, has_products, keep, times


class SequenceWrapper(Node, abstract=True):
    """A wrapper of a node, with the state and the input size of that node."""

    __slots__ = ()
    node: PyTree

    @property
    def input_size(self) -> int:
        return self.node.input_size

    @property
    def spatial_axes(self) -> int:
        return self.node.spatial_axes

    def initial_state(self, batch: Sequence[int]) -> State:
        return self.node.initial_state(batch)


class _SequenceDropout(NamedTuple):
    node: PyTree
    rates: Static[tuple[float, float]]


class SequenceDropout(_SequenceDropout, SequenceWrapper):
    """A node with one dropout mask for all time, of inputs and of outputs."""

    __slots__ = ()

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        if context.key is None:
            return run(self.node, xs, state, context)
        first, inner, last = jax.random.split(context.key, 3)
        xs = _dropped(first, self.rates.value[0], xs)
        ys, state = run(self.node, xs, state, context._replace(key=inner))
        return _dropped(last, self.rates.value[1], ys), state


def _dropped(key: Key, rate: float, xs: Array) -> Array:
    return times(xs, keep(key, rate, xs.shape[1:], wide(xs.dtype))[None]) if rate else xs


def variational_dropout(
    params: PyTree, inputs: float = 0.0, states: float = 0.0, outputs: float = 0.0
) -> PyTree:
    """Dropout with one mask for all steps: of inputs, of outputs, and of states.

    The mask for states is applied to the operand of recurrent products, not to the stored state.
    Inputs and outputs are those of the network as a whole; states are those of every layer in
    it.  Units are scaled by `1 / (1 - rate)`.  Gal and Ghahramani 2016, "A theoretically
    grounded application of dropout in recurrent neural networks", arXiv:1512.05287.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.variational_dropout(params, inputs=0.2, states=0.2, outputs=0.2)
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)), key=jax.random.key(1))
    ```
    """
    if states := _arguments.probability("states", states):

        def wrap(layer: StepNode) -> StateDropout:
            has_products("states", layer)
            return StateDropout(layer, Static(states))

        params = each_layer(wrap, params)
    rates = _arguments.probability("inputs", inputs), _arguments.probability("outputs", outputs)
    return SequenceDropout(_arguments.network(params), Static(rates)) if any(rates) else params


class _Residual(NamedTuple):
    node: PyTree


class Residual(_Residual, SequenceWrapper):
    """`ys = xs + node(xs)`; see `residual`."""

    __slots__ = ()

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        ys, state = run(self.node, xs, state, context)
        _same("residual", xs, ys)
        return xs + ys, state


def residual(params: PyTree) -> Residual:
    """Adds the inputs to the outputs: `ys = xs + node(xs)`.

    Wu et al. 2016, "Google's neural machine translation system", arXiv:1609.08144; Kim,
    El-Khamy and Lee 2017, "Residual LSTM", arXiv:1701.03360.

    ```python
    layers = [jaxlstm.init(jax.random.key(i), jaxlstm.lstm, 5, 5) for i in range(3)]
    params = jaxlstm.Stack(tuple(jaxlstm.wrappers.residual(layer) for layer in layers))
    ```
    """
    return Residual(_arguments.network(params))


class _Dense(NamedTuple):
    node: PyTree


class Dense(_Dense, SequenceWrapper):
    """`ys = [xs, node(xs)]`; see `dense`."""

    __slots__ = ()

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        ys, state = run(self.node, xs, state, context)
        return jnp.concatenate([xs, ys], -1), state


def dense(params: PyTree) -> Dense:
    """Concatenates the inputs with the outputs, so that the next layer sees both.

    Ding et al. 2018, "Densely connected bidirectional LSTM with applications to sentence
    classification", arXiv:1802.00889.

    ```python
    first = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    second = jaxlstm.init(jax.random.key(1), jaxlstm.lstm, input_size=3 + 5, hidden_size=5)
    params = jaxlstm.Stack((jaxlstm.wrappers.dense(first), second))
    ```
    """
    return Dense(_arguments.network(params))


class _Highway(NamedTuple):
    node: PyTree
    gate: Float[Array, "features features"]
    bias: Float[Array, " features"]


class Highway(_Highway, SequenceWrapper):
    """`ys = t * node(xs) + (1 - t) * xs`; see `highway`."""

    __slots__ = ()
    roles: ClassVar = {"gate": "matrix", "bias": "bias"}

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        ys, state = run(self.node, xs, state, context)
        _same("highway", xs, ys)
        t = jax.nn.sigmoid(biased(bilinear(jnp.matmul, xs, self.gate), self.bias))
        mixed = t * widened(ys) + (1 - t) * widened(xs)
        return mixed.astype(xs.dtype), state


def highway(key: ArrayLike, params: PyTree) -> Highway:
    """A learned gate between the inputs and the outputs.

        t  = sigmoid(W x + b)
        y  = t * node(x) + (1 - t) * x

    `b` starts at -1, so that a deep stack starts near the identity.  Srivastava, Greff and
    Schmidhuber 2015, "Highway networks", arXiv:1505.00387.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=5, hidden_size=5)
    params = jaxlstm.wrappers.highway(jax.random.key(1), params)
    ```
    """
    n, dtype = _arguments.network(params).input_size, dtype_of(params)
    gate = jax.nn.initializers.glorot_uniform()(_arguments.key_of(key), (n, n), wide(dtype))
    return Highway(params, gate.astype(dtype), jnp.full(n, -1, dtype))


def _same(name: str, xs: Array, ys: Array) -> None:
    if xs.shape != ys.shape:
        raise ValueError(
            f"`{name}` needs outputs of the shape of the inputs; got {xs.shape[-1]} features in "
            f"and {ys.shape[-1]} out. `dense` joins them whatever their widths."
        )


class _LayerNorm(NamedTuple):
    node: PyTree
    gain: Float[Array, " features"]
    shift: Float[Array, " features"]
    before: Static[bool]
    epsilon: Static[float] = Static(1e-5)


class LayerNorm(_LayerNorm, SequenceWrapper):
    """A node with a layer norm before or after it; see `layer_norm`."""

    __slots__ = ()
    roles: ClassVar = {"gain": "vector", "shift": "bias"}

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        # No shift under the mask, where a skip connection would pass it on.
        norm = lambda x: where(context.mask, self.norm(x), jnp.zeros_like(x))
        if self.before.value:
            return run(self.node, norm(xs), state, context)
        ys, state = run(self.node, xs, state, context)
        return norm(ys), state

    def norm(self, x: Array) -> Array:
        y = normalized(widened(x), -1, self.epsilon.value)
        return biased(y * over_rows(widened(self.gain), y), self.shift).astype(x.dtype)


def layer_norm(params: PyTree, of: str = "outputs") -> LayerNorm:
    """A layer norm of the inputs or of the outputs of a node, with a learned gain and shift.

    Each step is normalized by itself, to mean 0 and variance 1 over the features.  Ba, Kiros and
    Hinton 2016, "Layer normalization", arXiv:1607.06450.  For a norm inside the cell, see
    `layer_norm_lstm`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    params = jaxlstm.wrappers.layer_norm(params, of="outputs")
    ```
    """
    if of not in ("inputs", "outputs"):
        raise ValueError(f"`of` must be 'inputs' or 'outputs'; got {of!r}.")
    dtype = dtype_of(_arguments.network(params))
    xs = jax.ShapeDtypeStruct((1, params.input_size), dtype)
    width = (xs if of == "inputs" else jax.eval_shape(apply, params, xs)[0]).shape[-1]
    gain, shift = jnp.ones(width, dtype), jnp.zeros(width, dtype)
    return LayerNorm(params, gain, shift, Static(of == "inputs"))
