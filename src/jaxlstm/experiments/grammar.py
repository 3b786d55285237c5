"""Reber's grammar, embedded: its strings, and which symbols may come next.

A string is `B T <inner> T E` or `B P <inner> P E` with an inner string of the same automaton:
the second symbol must be remembered to the last but one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

SYMBOLS = "BTPSXVE"
# The inner automaton: from each state two edges, a symbol and the next state.
INNER = (
    (("B", 1), ("B", 1)),
    (("T", 2), ("P", 3)),
    (("S", 2), ("X", 4)),
    (("T", 3), ("V", 5)),
    (("X", 3), ("S", 6)),
    (("P", 4), ("V", 6)),
    (("E", 7), ("E", 7)),
)


def _automaton() -> tuple[np.ndarray, np.ndarray]:
    """Of the embedded grammar: which symbol each edge emits, and the state that it leads to.

    States: 0 the start, 1 after `B`, eight within a branch `T` from 2 and `P` from 10, 18 before
    the last `E`, which leads to the start.
    """
    edges = [(("B", 1), ("B", 1)), (("T", 2), ("P", 10))]
    for branch, base in (("T", 2), ("P", 10)):
        edges += [tuple((symbol, base + to) for symbol, to in pair) for pair in INNER]
        edges += [((branch, 18), (branch, 18))]
    edges += [(("E", 0), ("E", 0))]
    emitted = np.array([[SYMBOLS.index(symbol) for symbol, _ in pair] for pair in edges])
    leads = np.array([[to for _, to in pair] for pair in edges])
    return emitted, leads


EMITTED, LEADS = _automaton()
LEGAL = np.zeros((len(EMITTED), len(SYMBOLS)), bool)
np.put_along_axis(LEGAL, EMITTED, True, axis=1)


class Next(NamedTuple):
    """What comes next, and what could."""

    symbol: Int[Array, "time batch"]
    legal: Any


def walk(key: Any, state: Array, steps: int) -> tuple[Array, Array, Array]:
    """The symbols of so many steps, the state after each, and the last: strings without end."""
    turns = jax.random.bernoulli(key, shape=(steps, *state.shape)).astype(int)

    def step(state: Array, turn: Array) -> tuple[Array, tuple[Array, Array]]:
        to = jnp.asarray(LEADS)[state, turn]
        return to, (jnp.asarray(EMITTED)[state, turn], to)

    last, (symbols, states) = jax.lax.scan(step, state, turns)
    return symbols, states, last


def one_hot(symbols: Array) -> Array:
    return jax.nn.one_hot(symbols, len(SYMBOLS), dtype=jnp.float32)


def loss(outputs: Array, targets: Next) -> Array:
    """Of the symbol that came."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets.symbol)


def right(outputs: Array, targets: Next) -> Array:
    """Whether what could come is more active than all that could not."""
    low = jnp.where(targets.legal, outputs, jnp.inf).min(-1)
    return low > jnp.where(targets.legal, -jnp.inf, outputs).max(-1)
