"""The continual embedded Reber grammar: one string after another, and no sign of where one ends.

The state is never reset: it is carried from call to call, in training too, where gradients reach
back 50 symbols.  The memory of the cell of 1997 grows without bound; a forget gate empties it.
Networks are tested on streams of 2,000 symbols (10,000 at the end), after 100 that do not count,
since a stream without a start has no zero state.  The score is the part of a stream before its
first error: 1 is a stream without one.  What the table counts as sequences are symbols here.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import jaxlstm

from . import grammar
from .shared import Model, Results, Run, Verdict, adam, decided, init, mean, read

PAPER = 'Gers, Schmidhuber and Cummins 2000, "Learning to forget: continual prediction with LSTM"'
CLAIM = "Without resets the LSTM of 1997 fails as its memory grows; a forget gate repairs it"
PUBLISHED = (
    "of 100 networks, those without an error in 10^6 symbols: LSTM of 1997 none, with forget "
    "gates 18 %, and with a decaying learning rate 62 %"
)
TRIED = (
    "The paper did not try the simple network and the GRU without resets. Their memory cannot "
    "grow, and with gradients through 50 symbols they solve the task too."
)
CHUNK, STREAMS, WARM = 50, 4, 100
CELLS = {
    "rnn": (jaxlstm.rnn, 18),
    "gru": (jaxlstm.gru, 9),
    "lstm 1997": (jaxlstm.cells.lstm_1997, 9),
    "lstm": (jaxlstm.lstm, 8),
}


def errors(model: Model, key: Any, streams: int, time: int) -> tuple[Array, Array, Any]:
    """`(losses, right)` of fresh streams, `(time, streams)`, and the last state."""
    symbols, states, _ = grammar.walk(key, jnp.zeros(streams, int), WARM + time + 1)
    outputs, state = read(model, grammar.one_hot(symbols[:-1]))
    targets = grammar.Next(symbols[1:], jnp.asarray(grammar.LEGAL)[states[:-1]])
    losses, right = grammar.loss(outputs, targets), grammar.right(outputs, targets)
    return losses[WARM:], right[WARM:], state


def before_error(right: Array) -> Array:
    """The part of each stream before its first error."""
    return jnp.mean(jnp.cumprod(right.astype(jnp.float32), axis=0))


def streaming(cell: jaxlstm.Cell, hidden: int, steps: int, every: int) -> Run:
    def start(key: Any) -> tuple[Model, Any]:
        model = init(key, cell, 7, hidden, 7)
        first, to = (jnp.asarray(a)[0, 0] for a in (grammar.EMITTED, grammar.LEADS))
        at = jnp.full(STREAMS, first), jnp.full(STREAMS, to)
        return model, (*at, model.network.initial_state((STREAMS,)))

    def loss(model: Model, carried: Any, key: Any) -> tuple[Array, Any]:
        symbol, place, state = carried
        symbols, _, last = grammar.walk(key, place, CHUNK)
        seen = jnp.concatenate([symbol[None], symbols[:-1]])
        outputs, state = read(model, grammar.one_hot(seen), state)
        losses = grammar.loss(outputs, grammar.Next(symbols, None))
        return losses.mean(), (symbols[-1], last, state)

    def test(model: Model) -> tuple[Array, Array]:
        losses, right, _ = errors(model, jax.random.key(1234), 10, 2000)
        return losses.mean(), before_error(right)

    def extra(model: Model) -> dict[str, Array]:
        _, right, state = errors(model, jax.random.key(4321), 10, 10_000)
        memory = state[-1]  # the memory cell, or the hidden state of a cell that has none
        return {
            "symbols": 10_000 * before_error(right),
            "errors": 1000 * jnp.mean(~right),
            "memory": jnp.abs(memory).max(-1).mean(),
        }

    recipe = (
        f"{cell}, {hidden} units, {STREAMS} streams in chunks of {CHUNK} symbols, {steps:,} steps, "
        f"learning rate 0.01, tested every {every} steps, solved at a score of 1"
    )
    return Run(
        start, loss, test, adam(steps, 1e-2), steps, every, STREAMS * CHUNK, 1.0, recipe,
        extra, stops=False,
    )  # fmt: skip


def runs(short: bool) -> dict[str, Run]:
    return {
        name: streaming(cell, hidden, 2000 if short else 8000, 500)
        for name, (cell, hidden) in CELLS.items()
        if not short or name.startswith("lstm")
    }


RULE = (
    "It holds if the LSTM with a forget gate makes less than half of the errors of that of 1997 "
    "and its memory stays below a tenth; it does not hold if it makes as many errors. It is "
    "undecided otherwise."
)


def verdict(results: Results) -> Verdict:
    of = {what: {n: mean(results, n, what) for n in results} for what in ("errors", "memory")}
    ours = "; ".join(
        f"{name}: {of['errors'][name]:.1f} errors in 1,000 symbols, largest memory "
        f"{of['memory'][name]:,.1f}"
        for name in ("lstm 1997", "lstm")
    )
    (old, new), (large, small) = ([each["lstm 1997"], each["lstm"]] for each in of.values())
    return Verdict(decided(new < old / 2 and small < large / 10, new >= old), ours)


def plot(figure: Any, results: Results) -> None:
    """The loss over the symbols seen, and how large the memory is at the end of 10,000."""
    from ..plot import COLOURS

    left, rest = figure.subplots(1, 2, width_ratios=(2, 1))
    for (name, seeds), colour in zip(results.items(), COLOURS):
        for i, seed in enumerate(seeds.values()):
            seen, losses, _ = zip(*seed["curve"])
            left.semilogy(seen, losses, color=colour, lw=1, alpha=0.7, label=None if i else name)
    left.set(xlabel="symbols seen", ylabel="cross-entropy, nats")
    left.legend(frameon=False)
    rest.bar(list(results), [mean(results, n, "memory") for n in results], color=COLOURS)
    rest.set(yscale="log", ylabel="largest memory after 10,000 symbols")
