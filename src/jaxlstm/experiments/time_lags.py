"""Long time lags: the last of p + 1 symbols is the first one, and p - 1 others stand between.

There are two sequences only, `(y, a_1, ..., a_{p-1}, y)` and `(x, a_1, ..., a_{p-1}, x)`, and the
next symbol is always wanted.  Who has not kept the first symbol is right on one of the two.
"""

import jax
import jax.numpy as jnp

import jaxlstm

from .shared import (
    Batch,
    Results,
    Run,
    Task,
    biased,
    cross_entropy,
    learning,
    most_likely,
    right,
    solved,
)

PAPER = 'Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 2a and its table 2'
CLAIM = "At a lag of 100 simple recurrent networks fail and LSTM does not"
PUBLISHED = (
    "p = 100: LSTM 100 % after 5,040 sequences, chunking 33 % after 32,400, BPTT and RTRL none "
    "after 5,000,000; RTRL at p = 4 78 %, at p = 10 none"
)
CELLS = {
    "rnn": jaxlstm.rnn,
    "gru": jaxlstm.gru,
    "lstm": jaxlstm.lstm,
    "lstm 1997": jaxlstm.cells.lstm_1997,
}


def lags(p: int) -> Task:
    """The symbols a_1 to a_{p-1} are 0 to p - 2; x and y come after them."""
    middle = jnp.broadcast_to(jnp.arange(p - 1)[:, None], (p - 1, 2))
    ends = jnp.array([[p - 1, p]])
    symbols = jnp.concatenate([ends, middle, ends])
    xs = jax.nn.one_hot(symbols[:-1], p + 1, dtype=jnp.float32)
    both = Batch(xs, symbols[1:], jnp.ones(symbols[1:].shape, bool))
    return Task(p + 1, p + 1, lambda key, batch: both, cross_entropy, most_likely)


def runs(short: bool) -> dict[str, Run]:
    made = {}
    for p in (20,) if short else (10, 50, 100):
        for name, cell in CELLS.items():
            if not short or name in ("rnn", "lstm 1997"):
                closed = name == "lstm 1997"
                made[f"{name}, p = {p}"] = learning(
                    lags(p), cell, 8, steps=2500, rate=1e-2, every=50, batch=2,
                    tests=2, solved=1.0, change=biased("i", -1.0) if closed else None,
                    note="input gates' biases -1" if closed else "",
                )  # fmt: skip
    return made


def verdict(results: Results) -> tuple[bool, str]:
    longest = next(reversed(results)).partition(", ")[2]
    simple, lstm = f"rnn, {longest}", f"lstm 1997, {longest}"
    holds = solved(results, lstm) == len(results[lstm]) and not solved(results, simple)
    return holds, right(results)
