"""The embedded Reber grammar: after each symbol, which symbols may come next?

The second symbol of a string decides the last but one, at least five steps later.  A network has
solved the grammar when, in 256 new strings, the symbols that may come next are always the most
active outputs.
"""

import math
import statistics
from typing import Any

import jax.numpy as jnp

import jaxlstm
from jaxlstm import wrappers

from . import grammar
from .shared import Batch, Results, Run, Task, Verdict, decided, learning, solved

PAPER = 'Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 1 and its table 1'
CLAIM = "LSTM always solves the embedded Reber grammar and needs the fewest strings"
PUBLISHED = (
    "LSTM (276 weights) solves all trials, after 8,440 strings; recurrent cascade correlation 50 "
    "%, after 182,000; RTRL some, after 25,000; Elman's network none, after 200,000"
)
TRIED = (
    "The simple network fails as reported when its gradient is cut after one step, as Elman's was "
    "(`elman`). With gradients through all of time and Adam it solves the grammar with fewer "
    "strings than the LSTM (`rnn`): at lags this short it was the training that failed. The GRU "
    "of the same size is the slowest here."
)
LONGEST = 32


def sample(key: Any, batch: int) -> Batch:
    start = jnp.zeros(batch, int)
    symbols, states, _ = grammar.walk(key, start, LONGEST + 1)
    over = jnp.cumsum(states == 0, axis=0) > 0
    targets = grammar.Next(symbols[1:], jnp.asarray(grammar.LEGAL)[states[:-1]])
    return Batch(grammar.one_hot(symbols[:-1]), targets, ~over[:-1])


TASK = Task(7, 7, sample, grammar.loss, grammar.right)
CELLS = {
    "rnn": (jaxlstm.rnn, 18),
    "elman": (jaxlstm.rnn, 18),
    "gru": (jaxlstm.gru, 9),
    "lstm": (jaxlstm.lstm, 8),
    "lstm 1997": (jaxlstm.cells.lstm_1997, 9),
}


def truncated(key: Any, network: Any) -> Any:
    return wrappers.clip_gradient(network, 1e-12)


def runs(short: bool) -> dict[str, Run]:
    made = {}
    for name, (cell, hidden) in CELLS.items():
        if short and name not in ("elman", "lstm"):
            continue
        # As Elman trained: no gradient goes back in time.
        change, note = (truncated, "no gradient through time") if name == "elman" else (None, "")
        made[name] = learning(
            TASK, cell, hidden, steps=3000 if short else 7500, rate=1e-2, every=250, batch=4,
            tests=256, solved=1.0, change=change, note=note,
        )  # fmt: skip
    return made


def median(results: Results, name: str) -> float:
    """How many strings the seeds needed; those that did not solve it, infinitely many."""
    each = [seed["sequences"] or float("inf") for seed in results[name].values()]
    return statistics.median(each)


RULE = (
    "It holds if every seed of an LSTM solves the grammar, and no other network needs as few "
    "strings in the median; it does not hold if every seed of another network solves it with "
    "fewer strings than the LSTMs. It is undecided if neither is so."
)


def verdict(results: Results) -> Verdict:
    needs = {name: median(results, name) for name in results}
    best = min(needs[name] for name in results if name.startswith("lstm"))
    lstms = any(needs[n] == best and _every(results, n) for n in results if n.startswith("lstm"))
    others = [name for name in results if not name.startswith("lstm")]
    fails = any(_every(results, name) and needs[name] < best for name in others)
    holds = lstms and all(needs[name] > best for name in others)
    ours = ", ".join(
        f"{name}: {solved(results, name)} of {len(results[name])}"
        + (f" after {n:,.0f} strings" if math.isfinite(n) else "")
        for name, n in needs.items()
    )
    return Verdict(decided(holds, fails), ours)


def _every(results: Results, name: str) -> bool:
    return solved(results, name) == len(results[name])
