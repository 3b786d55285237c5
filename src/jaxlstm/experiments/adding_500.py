"""The adding problem over 500 steps; see `adding`."""

from . import adding
from .adding import CLAIM as CLAIM, PAPER as PAPER, PUBLISHED as PUBLISHED, verdict as verdict
from .shared import Run


def runs(short: bool) -> dict[str, Run]:
    return adding.runs(short, 500, 1000)
