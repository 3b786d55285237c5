"""The copying task: ten symbols are shown, and T steps later wanted in the same order.

Ten symbols of eight kinds are followed by T blanks, the last of them a sign to begin, and by ten
more blanks, during which the ten symbols are wanted; until then blanks are.  A network that
remembers nothing has a loss of `10 ln 8 / (T + 20)`, a mean over all steps.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

import jaxlstm

from .shared import (
    Batch,
    Results,
    Run,
    Task,
    Verdict,
    chrono,
    cross_entropy,
    decided,
    learning,
    mean,
    most_likely,
)

PAPER = (
    'Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", arXiv:1804.11188; the '
    'task as in Arjovsky, Shah and Bengio 2016, "Unitary evolution recurrent neural networks", '
    "arXiv:1511.06464"
)
CLAIM = "LSTM with chrono initialisation copies over long lags, where the usual one stays at chance"
PUBLISHED = (
    "a figure, T = 500 and 2000, LSTM of 128 units: with chrono biases the loss falls toward 0, "
    "with a forget bias of 1 it stays at or near that of no memory"
)
TRIED = (
    "Only a lag of 50 with 32 units and 1,500 steps could be afforded where this page was made, a "
    "small part of the paper's budget: within it neither network leaves the loss of no memory, "
    "and nothing is said about the claim either way."
)


def copying(lag: int) -> Task:
    def draw(key: Any, batch: int) -> Batch:
        symbols = jax.random.randint(key, (10, batch), 1, 9)
        blanks = lambda n: jnp.zeros((n, batch), int)
        seen = [symbols, blanks(lag - 1), jnp.full((1, batch), 9), blanks(10)]
        xs = jax.nn.one_hot(jnp.concatenate(seen), 10, dtype=jnp.float32)
        wanted = jnp.concatenate([blanks(lag + 10), symbols])
        return Batch(xs, wanted, jnp.ones(wanted.shape, bool))

    return Task(10, 9, draw, cross_entropy, most_likely)


def runs(short: bool) -> dict[str, Run]:
    steps, t = (1500, 20) if short else (1500, 50)
    kinds = {
        "lstm": (jaxlstm.lstm, None, ""),
        "lstm chrono": (
            jaxlstm.lstm,
            chrono(3 * t // 2),
            f"chrono initialisation for {3 * t // 2} steps",
        ),
    }
    return {
        f"{name}, T = {t}": learning(
            copying(t), cell, 32, steps=steps, rate=3e-3, every=100, change=change, note=note,
            tests=256, solved=0.99,
        )
        for name, (cell, change, note) in kinds.items()
    }  # fmt: skip


RULE = (
    "It holds if the loss with chrono initialisation falls below half of that of a network that "
    "remembers nothing, and below half of that of the usual start; it does not hold if the usual "
    "start comes off that of no memory and is no worse. It is undecided otherwise, as where "
    "neither comes off it."
)


def verdict(results: Results) -> Verdict:
    t = int(next(iter(results)).partition("T = ")[2])
    nothing = 10 * math.log(8) / (t + 20)
    part = {name: mean(results, name, "loss") / nothing for name in results}
    ours = ", ".join(f"{100 * x:.0f} % with {name.partition(', ')[0]}" for name, x in part.items())
    usual, chrono = (part[f"{name}, T = {t}"] for name in ("lstm", "lstm chrono"))
    holds, fails = chrono < min(0.5, usual / 2), usual < min(0.9, chrono + 1e-9)
    return Verdict(decided(holds, fails), f"T = {t}, loss in parts of that of no memory: {ours}")


def plot(figure: Any, results: Results) -> None:
    """The loss, and that of no memory."""
    from ..plot import COLOURS

    ax = figure.subplots()
    for (name, seeds), colour in zip(results.items(), COLOURS):
        for i, seed in enumerate(seeds.values()):
            seen, losses, _ = zip(*seed["curve"])
            ax.semilogy(seen, losses, color=colour, lw=1, alpha=0.7, label=None if i else name)
    t = int(next(iter(results)).partition("T = ")[2])
    ax.axhline(10 * math.log(8) / (t + 20), color="0.4", lw=0.8, ls=":", label="no memory")
    ax.set(xlabel="sequences seen", ylabel="cross-entropy, nats")
    ax.legend(frameon=False)
