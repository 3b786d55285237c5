"""The language model: characters in, a recurrent network, and a readout."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

import jaxlstm

WIDTH = 64  # of the vector that stands for a character


class Model(NamedTuple):
    """A vector for each character, a network, and what reads the next one's logits from it."""

    embedding: Float[Array, "vocabulary width"]
    network: Any
    w: Float[Array, "hidden vocabulary"]
    b: Float[Array, " vocabulary"]


def init(key: Any, cell: jaxlstm.Cell, vocabulary: int, hidden: int, layers: int) -> Model:
    first, inner, last = jax.random.split(key, 3)
    embedding = jax.random.normal(first, (vocabulary, WIDTH))
    network = jaxlstm.init(inner, cell, WIDTH, hidden, layers=layers)
    w = jax.nn.initializers.lecun_normal()(last, (hidden, vocabulary))
    return Model(embedding, network, w, jnp.zeros(vocabulary))


def parameters(model: Any) -> int:
    return sum(a.size for a in jax.tree.leaves(model))


def hidden_size(cell: jaxlstm.Cell, vocabulary: int, layers: int, budget: int) -> int:
    """The width at which a model of this cell has the number of parameters nearest to `budget`."""

    def count(hidden: int) -> int:
        shapes = functools.partial(init, cell=cell, vocabulary=vocabulary, hidden=hidden)
        return parameters(jax.eval_shape(lambda key: shapes(key, layers=layers), jax.random.key(0)))

    low, high = 1, 2
    while count(high) < budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < budget else (low, middle)
    return min((low, high), key=lambda hidden: abs(count(hidden) - budget))


def loss(
    model: Model, state: Any, symbols: Int[Array, "steps batch"]
) -> tuple[Float[Array, ""], Any]:
    """Mean negative log-likelihood of each next character, in nats; and the last state."""
    ys, state = jaxlstm.apply(model.network, model.embedding[symbols[:-1]], state)
    logits = ys @ model.w + model.b
    each = optax.softmax_cross_entropy_with_integer_labels(logits, symbols[1:])
    return each.mean(), state


@functools.partial(jax.jit, static_argnames="length")
def sample(
    key: Any, model: Model, first: Int[Array, ""], length: int, temperature: float
) -> Int[Array, " length"]:
    """Characters drawn one after another, each from what the network says after the last."""

    def write(carry: Any, key: Any) -> tuple[Any, Array]:
        symbol, state = carry
        y, state = jaxlstm.step(model.network, model.embedding[symbol], state)
        logits = (y @ model.w + model.b) / temperature
        symbol = jax.random.categorical(key, logits).astype(symbol.dtype)
        return (symbol, state), symbol

    start = model.network.initial_state(())
    return jax.lax.scan(write, (first, start), jax.random.split(key, length))[1]
