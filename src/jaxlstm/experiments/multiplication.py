"""The multiplication problem: the adding problem's sequences, with the product wanted.

The numbers lie between 0 and 1.  Who always answers 1/4 has a squared error of 7/144, 0.049.
"""

from . import adding
from .adding import verdict as verdict
from .shared import Run

PAPER = 'Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 5'
CLAIM = "LSTM multiplies as well as it adds: its memory is not for sums alone"
PUBLISHED = (
    "LSTM (93 weights), T = 100: 139 of 2560 wrong after 482,000 sequences, 14 after 1,273,000"
)
TRIED = (
    "Right within 0.04 is more to ask of a product than of a sum, and its loss was still falling "
    "when the steps, a sixth of the paper's sequences, were done."
)


def runs(short: bool) -> dict[str, Run]:
    length = 30 if short else 100
    names = ("rnn", "lstm chrono") if short else ("rnn", "lstm chrono", "lstm 1997")
    how = {"tests": 256, "solved": 0.9} if short else {"solved": 0.98}
    task = adding.sequences(length, product=True)
    return adding.networks(task, length, 900 if short else 2500, names, **how)
