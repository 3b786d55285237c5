"""a^n b^n and a^n b^n c^n: which networks count, and how far past the lengths of their training?

After a start symbol come n `a`, n `b` (and n `c`), and after each symbol the network names those
that may come next, the end among them.  It is trained with n up to 30: the score is the part of
such strings that are right from start to end.  It is then tested to 256 (100 with `c`), and "right
to n" is the largest n up to which every string is right.  The picture shows what `jaxlstm.record`
sees of the memory cell, or of the hidden state where there is none.
"""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxlstm

from .shared import Batch, Model, Results, Run, Task, Verdict, decided, learning, read, scores

PAPER = (
    'Weiss, Goldberg and Yahav 2018, "On the practical computational power of finite precision '
    'RNNs for language recognition", arXiv:1805.04908; Gers and Schmidhuber 2001, "LSTM recurrent '
    'networks learn simple context-free and context-sensitive languages"'
)
CLAIM = (
    "LSTM counts in a memory cell, and goes past the lengths that it was trained on; GRU does not"
)
PUBLISHED = (
    "trained to n = 100 (50 with c), networks of the authors' notebook, "
    "github.com/tech-srl/counting_dimensions: LSTM right at n = 1000 (60), GRU wrong there; the "
    "paper, from memory: LSTM right to 256 (100), GRU wrong from 39 (9)"
)
TRIED = (
    "With two letters the LSTM is right to nearly three times the longest n of its training, with "
    "three to half as much again; the GRU stops where its training stopped. The picture shows the "
    "best network of each along a string twice as long as any that it was trained on: cells of "
    "the LSTM rise and fall by one step for each letter, while units of the GRU saturate."
)
CELLS = {"rnn": jaxlstm.rnn, "gru": jaxlstm.gru, "lstm": jaxlstm.lstm}


def strings(n: Array, longest: int, letters: int) -> Batch:
    """The strings of these n; what may come next is one of the letters, or the end."""
    at = jnp.arange(letters * longest + 1)[:, None]
    # 0 is the start, 1 the letter a, and so on.
    symbol = jnp.where(at == 0, 0, 1 + (at - 1) // n)
    loss_mask = at <= letters * n
    xs = jax.nn.one_hot(symbol, letters + 1, dtype=jnp.float32)
    follows = 1 + at // n  # the letter of the next step, or the end
    legal = jax.nn.one_hot(follows - 1, letters + 1, dtype=jnp.float32)
    # Within the letters `a` one more may come, or the first `b`.
    free = (symbol == 1)[..., None]
    legal = jnp.where(free, jnp.arange(letters + 1) < 2, legal)
    return Batch(xs, legal.astype(jnp.float32), loss_mask)


def loss(outputs: Array, legal: Array) -> Array:
    return optax.sigmoid_binary_cross_entropy(outputs, legal).mean(-1)


def exact(outputs: Array, legal: Array) -> Array:
    return jnp.all((outputs > 0) == (legal > 0.5), axis=-1)


def language(letters: int, longest: int) -> Task:
    def sample(key: Any, batch: int) -> Batch:
        n = jax.random.randint(key, (batch,), 1, longest + 1)
        return strings(n, longest, letters)

    return Task(letters + 1, letters + 1, sample, loss, exact)


def reach(model: Model, letters: int, furthest: int) -> Array:
    """The largest n up to which every string is right."""
    data = strings(jnp.arange(1, furthest + 1), furthest, letters)
    good = jnp.all(exact(read(model, data.xs)[0], data.targets) | ~data.loss_mask, axis=0)
    return jnp.cumprod(good).sum()


def counter(model: Model, letters: int, n: int) -> Array:
    """The two units that move most along one string: of the memory cell where there is one."""
    xs = strings(jnp.array([n]), n, letters).xs[:, 0]
    _, _, seen = jaxlstm.record(model.network, xs)
    states = seen.states[-1]
    return states[:, jnp.argsort(-jnp.ptp(states, axis=0))[:2]]


def runs(short: bool) -> dict[str, Run]:
    longest, steps = (8, 1500) if short else (30, 6000)
    made = {}
    for letters, furthest in ((2, 256), (3, 100)):
        name = "a^n b^n c^n"[: 4 * letters - 1]
        task = language(letters, longest)

        def extra(model: Model, letters: int = letters, furthest: int = furthest) -> dict[str, Any]:
            far = 32 if short else furthest
            return {
                "reach": reach(model, letters, far),
                "states": counter(model, letters, 2 * longest),
            }

        for cell in CELLS:
            if short and (cell == "rnn" or letters == 3):
                continue
            run = learning(
                task, CELLS[cell], 10, steps=steps, rate=1e-2, every=steps // 10, batch=16,
                tests=256, solved=1.0, note=f"n to {longest}",
            )  # fmt: skip
            made[f"{cell}, {name}"] = run._replace(extra=extra, stops=False)
    return made


RULE = (
    "It holds if, for each language, every seed of the LSTM is right to a larger n than any seed "
    "of the GRU, and past the lengths of the training; it does not hold if for one of them the "
    "GRU comes as far as the LSTM in the median. It is undecided otherwise."
)


def verdict(results: Results) -> Verdict:
    reached = {name: sorted(scores(results, name, "reach")) for name in results}
    languages = dict.fromkeys(name.partition(", ")[2] for name in results)
    pairs = [(reached[f"lstm, {each}"], reached[f"gru, {each}"]) for each in languages]
    longest = int(next(iter(results["lstm, a^n b^n"].values()))["recipe"].rpartition(" ")[2])
    holds = all(lstm[0] > max(gru[-1], longest) for lstm, gru in pairs)
    fails = any(statistics.median(gru) >= statistics.median(lstm) for lstm, gru in pairs)
    ours = "; ".join(
        f"{language} right to n = "
        + ", ".join(
            f"{statistics.median(each):.0f} ({each[0]:.0f} to {each[-1]:.0f}) {cell}"
            for cell in CELLS
            if (each := reached.get(f"{cell}, {language}"))
        )
        for language in languages
    )
    return Verdict(decided(holds, fails), ours)


def plot(figure: Any, results: Results) -> None:
    """Two units along a string of twice the longest length that was trained."""
    from ..plot import COLOURS

    names = [name for name in results if not name.startswith("rnn")]
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for ax, name in zip(axes, names):
        best = max(results[name].values(), key=lambda seed: seed["reach"])
        states = np.asarray(best["states"])
        for unit, colour in zip(states.T, COLOURS):
            ax.plot(unit, color=colour, lw=1.2)
        letters = name.count("^")
        for k in range(1, letters):
            ax.axvline(k * (len(states) - 1) / letters, color="0.7", lw=0.8)
        cell, _, language = name.partition(", ")
        title = f"{cell}\n${language}$\nright to n = {best['reach']:.0f}"
        ax.set(title=title, xlabel="step")
    axes[0].set_ylabel("memory cell, or hidden state")
