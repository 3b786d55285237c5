"""The adding problem: remember two marked numbers of a long sequence, and add them.

Each step has a number between -1 and 1 and a mark: 1 at the two numbers to be added, one among
the first ten steps and one before the middle, -1 at the first and the last step, else 0.  A
sequence has between T and 1.1 T steps.  At its end the target is `0.5 + (X1 + X2) / 4`; an answer
is right within 0.04.  A network that always answers 0.5 has a squared error of 1/24, 0.042.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import jaxlstm

from .shared import (
    RULE as RULE,
    Batch,
    Results,
    Run,
    Task,
    Verdict,
    biased,
    chrono,
    learning,
    lstm_alone,
    squared,
    within,
)

PAPER = (
    'Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 4; the IRNN: Le, Jaitly '
    'and Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units"'
)
CLAIM = "LSTM learns to add two numbers of a sequence of 100 steps, a simple network does not"
PUBLISHED = "LSTM (93 weights): 1 of 2,560 wrong after 74,000 sequences"
TRIED = (
    "The LSTMs that solve it are those that start with a long memory: the cell of 1997, which "
    "cannot forget, and today's with chrono initialisation (Tallec and Ollivier 2018). With the "
    "usual forget bias of 1 a memory cell keeps 0.73 of its contents at each step, and next to "
    "nothing over 50: within these budgets LSTM and GRU do no better than a network that "
    "remembers nothing."
)
CELLS = {
    "rnn": (jaxlstm.rnn, 1e-3, {}),
    "irnn": (jaxlstm.rnn_relu, 1e-3, {"scheme": "irnn"}),
    "gru": (jaxlstm.gru, 3e-3, {}),
    "lstm": (jaxlstm.lstm, 3e-3, {}),
    "lstm chrono": (jaxlstm.lstm, 3e-3, {}),
    "lstm 1997": (jaxlstm.cells.lstm_1997, 3e-3, {}),
}
# Learning rates with which the longer problems and the product are solved in fewer steps.
FASTER = {"lstm chrono": 1e-2, "lstm 1997": 1e-2}


def sequences(length: int, product: bool = False) -> Task:
    """Also the multiplication problem, whose numbers lie between 0 and 1."""
    longest = length + length // 10

    def sample(key: Any, batch: int) -> Batch:
        numbers, ends, first, second = jax.random.split(key, 4)
        low = 0.0 if product else -1.0
        value = jax.random.uniform(numbers, (longest, batch), jnp.float32, low, 1)
        end = jax.random.randint(ends, (batch,), length, longest) - 1
        a = jax.random.randint(first, (batch,), 0, 10)
        b = jax.random.randint(second, (batch,), 0, length // 2 - 2)
        b = b + (b >= a)  # another than the first
        at = jnp.arange(longest)[:, None]
        marked = (at == a) | (at == b)
        value = jnp.where(at == 0, 0, value)
        mark = marked - 1.0 * (((at == 0) | (at == end)) & ~marked)
        if product:
            targets = jnp.prod(jnp.where(marked, value, 1), 0)
        else:
            targets = 0.5 + jnp.sum(jnp.where(marked, value, 0), 0) / 4
        xs = jnp.stack([value, mark], -1).astype(jnp.float32)
        return Batch(xs, jnp.broadcast_to(targets, at.shape[:1] + targets.shape), at == end)

    return Task(2, 1, sample, squared, within)


def networks(
    task: Task,
    length: int,
    steps: int,
    names: Iterable[str],
    *,
    rates: Mapping[str, float] = {},
    closed: float = -3.0,
    **how: Any,
) -> dict[str, Run]:
    """How these learn the task, at the learning rates of `CELLS` where `rates` has none.

    The input gates of the cell of 1997 start closed, as there: their biases are `closed`.
    """
    change = {
        "lstm chrono": (chrono(length), f"chrono initialisation for {length} steps"),
        "lstm 1997": (biased("i", closed), f"input gates' biases {closed:g}"),
    }
    made = {}
    for name in names:
        cell, rate, options = CELLS[name]
        to, note = change.get(name, (None, ""))
        given: dict[str, Any] = {"rate": rates.get(name, rate), "steps": steps, "every": 100}
        given |= how | options
        made[f"{name}, T = {length}"] = learning(task, cell, 32, change=to, note=note, **given)
    return made


LONG_MEMORY = {"lstm": {}, "gru": {"keep": "z", "write": ""}}  # the gates, as options of chrono
UNITS = {"rnn": 49, "gru": 28, "lstm": 24}  # for about 2,600 weights each


def by_distance(cells: Iterable[str], lengths: Iterable[int], steps: int) -> dict[str, Run]:
    """How networks of about equal weights learn it over these lengths.

    The gated ones start with chrono initialisation for the length.  The simple network has no gates
    to start so, and gets the smaller learning rate that it needs.
    """
    made = {}
    for length in lengths:
        for name in cells:
            change, note, rate = None, "", 3e-3
            if name in LONG_MEMORY:
                change = chrono(length, **LONG_MEMORY[name])
                note, rate = f"chrono initialisation for {length} steps", 1e-2
            made[f"{name}, T = {length}"] = learning(
                sequences(length), getattr(jaxlstm, name), UNITS[name], steps=steps, rate=rate,
                every=math.gcd(steps, 25), tests=512, solved=0.98, change=change, note=note,
            )  # fmt: skip
    return made


def runs(short: bool) -> dict[str, Run]:
    if short:
        return networks(sequences(30), 30, 900, ("rnn", "lstm"), tests=256, solved=0.9)
    return networks(sequences(100), 100, 2500, CELLS, tests=2560)


def longer(length: int, steps: int) -> dict[str, Run]:
    """Of the networks that have a long memory from the start, and the simple one."""
    names = "rnn", "lstm chrono", "lstm 1997"
    return networks(sequences(length), length, steps, names, tests=512, rates=FASTER, closed=-5.0)


def verdict(results: Results) -> Verdict:
    kinds = "rnn", "lstm", "lstm chrono", "lstm 1997"
    return lstm_alone(results, [n for n in results if n.partition(", ")[0] in kinds])
