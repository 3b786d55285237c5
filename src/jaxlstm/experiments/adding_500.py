"""The adding problem over 500 steps; see `adding`."""

from . import adding
from .adding import PAPER as PAPER, RULE as RULE, verdict as verdict
from .shared import Run

CLAIM = adding.CLAIM.replace("100", "500")
PUBLISHED = "LSTM (93 weights): none of 2,560 wrong after 209,000 sequences"


def runs(short: bool) -> dict[str, Run]:
    return adding.runs(short) if short else adding.longer(500, 1000)
