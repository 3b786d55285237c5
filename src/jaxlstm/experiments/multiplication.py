"""The multiplication problem: the adding problem's sequences, whose target is the product.

The numbers lie between 0 and 1.  A network that always answers 1/4 has a squared error of 7/144,
0.049.
"""

from . import adding
from .adding import RULE as RULE, verdict as verdict
from .shared import Run

PAPER = 'Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 5'
CLAIM = "LSTM multiplies as well as it adds: its memory is not for sums alone"
PUBLISHED = (
    "LSTM (93 weights), T = 100: 139 of 2,560 wrong after 482,000 sequences, 14 after 1,273,000"
)
TRIED = (
    "Right within 0.04 is more to ask of a product than of a sum, and the loss was still falling "
    "when the steps, a sixth of the paper's sequences, were done. Tried since: at a learning rate "
    "of 0.01 the LSTM with chrono initialisation is right on 84 to 99 % (the mean of five seeds "
    "is 90 %) after only 800 of 4,000 steps, at which that run was stopped; so more can be had of "
    "it than this table shows."
)


def runs(short: bool) -> dict[str, Run]:
    length = 30 if short else 100
    task = adding.sequences(length, product=True)
    if short:
        return adding.networks(task, length, 900, ("rnn", "lstm chrono"), tests=256, solved=0.9)
    names = "rnn", "lstm chrono", "lstm 1997"
    return adding.networks(task, length, 2500, names, tests=2560, solved=0.98)
