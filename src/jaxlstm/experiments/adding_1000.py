"""The adding problem over 1000 steps; see `adding`."""

from . import adding
from .adding import PAPER as PAPER, RULE as RULE, verdict as verdict
from .shared import Run

CLAIM = adding.CLAIM.replace("100", "1000")
PUBLISHED = "LSTM (93 weights): 1 of 2,560 wrong after 853,000 sequences"


def runs(short: bool) -> dict[str, Run]:
    return adding.runs(short) if short else adding.longer(1000, 800)
