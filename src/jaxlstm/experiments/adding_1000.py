"""The adding problem over 1000 steps; see `adding`."""

from . import adding
from .adding import CLAIM as CLAIM, PAPER as PAPER, PUBLISHED as PUBLISHED, verdict as verdict
from .shared import Run


def runs(short: bool) -> dict[str, Run]:
    return adding.runs(short, 1000, 800)
