"""The adding problem: remember two marked numbers of a long sequence, and add them.

Each step has a number between -1 and 1 and a mark: 1 at the two numbers to be added, one among
the first ten steps and one before the middle, -1 at the first and the last step, else 0.  A
sequence has between T and 1.1 T steps.  At its end `0.5 + (X1 + X2) / 4` is wanted; an answer is
right within 0.04.  Who always answers 0.5 has a squared error of 1/24, 0.042.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

import jaxlstm

from .shared import (
    Batch,
    Results,
    Run,
    Task,
    biased,
    chrono,
    learning,
    mean,
    right,
    solved,
    squared,
    within,
)

PAPER = (
    'Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 4; the IRNN: Le, Jaitly '
    'and Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units"'
)
CLAIM = "LSTM learns to add two numbers over 100 to 1000 steps, a simple network does not"
PUBLISHED = (
    "LSTM (93 weights): T = 100 after 74,000 sequences, 1 of 2560 wrong; 500 after 209,000, none; "
    "1000 after 853,000, 1 of 2560"
)
TRIED = (
    "Of the LSTMs, those solve it that start with long memories: the cell of 1997, which cannot "
    "forget, and today's with chrono initialisation (Tallec and Ollivier 2018). With the usual "
    "forget bias of 1 a memory cell keeps 0.73 of itself a step, nothing over 50: LSTM and GRU "
    "do not leave the answer of who remembers nothing within these budgets."
)
CELLS = {
    "rnn": (jaxlstm.rnn, 1e-3, {}),
    "irnn": (jaxlstm.rnn_relu, 1e-3, {"scheme": "irnn"}),
    "gru": (jaxlstm.gru, 3e-3, {}),
    "lstm": (jaxlstm.lstm, 3e-3, {}),
    "lstm chrono": (jaxlstm.lstm, 3e-3, {}),
    "lstm 1997": (jaxlstm.cells.lstm_1997, 3e-3, {}),
}


def sequences(length: int, product: bool = False) -> Task:
    """Also the multiplication problem, whose numbers lie between 0 and 1."""
    longest = length + length // 10

    def draw(key: Any, batch: int) -> Batch:
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
            wanted = jnp.prod(jnp.where(marked, value, 1), 0)
        else:
            wanted = 0.5 + jnp.sum(jnp.where(marked, value, 0), 0) / 4
        xs = jnp.stack([value, mark], -1).astype(jnp.float32)
        return Batch(xs, jnp.broadcast_to(wanted, at.shape[:1] + wanted.shape), at == end)

    return Task(2, 1, draw, squared, within)


def networks(task: Task, length: int, steps: int, names: Iterable[str], **how: Any) -> Any:
    """How these learn the task; the input gates of the cell of 1997 start closed, as there."""
    change = {
        "lstm chrono": (chrono(length), f"chrono {length}"),
        "lstm 1997": (biased("i", -3.0), "input gates' biases -3"),
    }
    made = {}
    for name in names:
        cell, rate, options = CELLS[name]
        to, note = change.get(name, (None, ""))
        given: dict[str, Any] = {"rate": rate, "steps": steps, "every": 100, **how, **options}
        made[f"{name}, T = {length}"] = learning(task, cell, 32, change=to, note=note, **given)
    return made


LONG_MEMORY = {"lstm": {}, "gru": {"keep": "z", "write": ""}}  # what chrono is told of the gates
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
                note, rate = f"chrono {length}", 1e-2
            made[f"{name}, T = {length}"] = learning(
                sequences(length), getattr(jaxlstm, name), UNITS[name], steps=steps, rate=rate,
                every=math.gcd(steps, 25), tests=512, solved=0.98, change=change, note=note,
            )  # fmt: skip
    return made


def runs(short: bool, length: int = 100, steps: int = 2500) -> dict[str, Run]:
    if short:
        task = sequences(30)
        return networks(task, 30, 900, ("rnn", "lstm"), tests=256, solved=0.9)
    names = CELLS if length == 100 else ("rnn", "lstm chrono", "lstm 1997")
    tests = 2560 if length == 100 else 512
    return networks(sequences(length), length, steps, names, tests=tests)


def verdict(results: Results) -> tuple[bool, str]:
    """The best LSTM is right on more sequences than the simple networks, which solve nothing."""
    lstms = [name for name in results if name.startswith("lstm")]
    simple = [name for name in results if name.startswith("rnn")]
    best = max(mean(results, name) for name in lstms)
    holds = all(best > mean(results, name) + 0.2 and not solved(results, name) for name in simple)
    return holds, right(results)
