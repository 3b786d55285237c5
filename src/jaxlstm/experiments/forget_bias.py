"""The bias of the forget gate: the adding problem with gates that start open, half or closed.

With a bias of 0 a memory cell keeps half of its contents at each step, with 1 about three quarters,
with 3 about 95 %.  The numbers to be added come at least 25 steps before the end.
"""

import jaxlstm

from .adding import sequences
from .shared import Results, Run, Verdict, biased, decided, learning, seeds_of, solved

PAPER = (
    'Jozefowicz, Zaremba and Sutskever 2015, "An empirical exploration of recurrent network '
    'architectures"'
)
CLAIM = "A forget bias of 1 makes the LSTM learn what it does not learn with a bias of 0"
PUBLISHED = (
    "with a bias of 1 the LSTM is the best network or nearly so on arithmetic, XML and text; "
    "scores after a search, none of this task"
)
TRIED = (
    "With a bias of 3 more answers are right in the mean and the loss is lower than with 1, but "
    "no seed has reached the score of 0.98 when the steps are done. Longer lags need higher "
    "biases: see `adding`, where 1 is not enough."
)
BIASES = (-1, 0, 1, 3)


def runs(short: bool) -> dict[str, Run]:
    length, steps = (20, 700) if short else (50, 1500)
    return {
        f"bias {bias}": learning(
            sequences(length), jaxlstm.lstm, 32, steps=steps, rate=3e-3, every=100, tests=1024,
            solved=0.98, change=biased("f", bias), note=f"T = {length}, bias {bias}",
        )
        for bias in BIASES
        if not short or bias in (-1, 3)
    }  # fmt: skip


RULE = (
    "It holds if more than half of the seeds solve the task with a bias of 1 and none with 0; it "
    "does not hold if as many do with 0 as with 1, and some do. It is undecided otherwise."
)


def verdict(results: Results) -> Verdict:
    """In the short form, of the lowest and the highest bias."""
    low, high = ("bias 0", "bias 1") if "bias 1" in results else list(results)
    with_, without = solved(results, high), solved(results, low)
    holds = 2 * with_ > len(results[high]) and not without
    return Verdict(decided(holds, without >= max(with_, 1)), seeds_of(results, results))
