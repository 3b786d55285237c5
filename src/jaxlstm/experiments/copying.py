"""The copying task: ten symbols are shown, and T steps later wanted in their order.

Ten symbols of eight kinds, then T blanks, the last of them a sign to begin, then ten more blanks,
while the ten are wanted; before that, blanks are.  Who remembers nothing has a loss of
`10 ln 8 / (T + 20)`, a mean over all steps.
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
    chrono,
    cross_entropy,
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
    "T = 500 and 2000, LSTM of 128 units: with chrono biases the loss falls toward 0, with a "
    "forget bias of 1 it stays at or near that of no memory (a figure; no numbers given)"
)
TRIED = (
    "Only a lag of 50 with 32 units and 1,500 steps could be afforded where this page was made, a "
    "small part of the paper's budget: within it neither network leaves the loss of no memory, and "
    "nothing is said about the claim either way."
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
        "lstm chrono": (jaxlstm.lstm, chrono(3 * t // 2), f"chrono {3 * t // 2}"),
    }
    return {
        f"{name}, T = {t}": learning(
            copying(t), cell, 32, steps=steps, rate=3e-3, every=100, change=change, note=note,
            tests=256, solved=0.99,
        )
        for name, (cell, change, note) in kinds.items()
    }  # fmt: skip


def verdict(results: Results) -> tuple[bool, str]:
    t = int(next(iter(results)).partition("T = ")[2])
    nothing = 10 * math.log(8) / (t + 20)
    part = {name: mean(results, name, "loss") / nothing for name in results}
    says = ", ".join(f"{name} {100 * x:.0f} %" for name, x in part.items())
    holds = part[f"lstm chrono, T = {t}"] < 0.5 * part[f"lstm, T = {t}"]
    return holds, f"loss as a part of that of no memory, {nothing:.3f}: {says}"


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
