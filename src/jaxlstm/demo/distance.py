"""The adding problem over growing distances: where each network stops learning."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..experiments import adding
from ..experiments.shared import results_of, unfinished

NOTHING = 1 / 24  # the squared error of a network that remembers nothing, and always answers 0.5


class Learned(NamedTuple):
    """What one cell came to over one distance."""

    cell: str
    distance: int
    weights: int
    steps: int
    errors: list[float]  # squared, of each seed, relative to a network that remembers nothing


def measure(
    cells: Sequence[str],
    distances: Sequence[int],
    steps: int,
    seeds: int,
    kept: Path,
    pressed: Sequence[int],
) -> list[Learned]:
    """What each cell comes to over each distance; what `kept` holds is not trained again."""
    runs = adding.by_distance(cells, distances, steps)
    results = results_of(runs, seeds, kept, pressed=pressed)
    found = []
    for name, each in results.items():
        if unfinished(each):
            continue
        cell, _, length = name.partition(", T = ")
        several = [each[str(seed)] for seed in range(seeds)]
        errors = [round(seed["loss"] / NOTHING, 4) for seed in several]
        done = several[0]["curve"][-1][0] // runs[name].batch
        found.append(Learned(cell, int(length), several[0]["weights"], done, errors))
    return found


def table(found: Sequence[Learned]) -> list[tuple[str, ...]]:
    """A line for each cell: the error over each distance, mean and range of the seeds."""
    distances = sorted({each.distance for each in found})
    rows = [("cell", "weights", *(f"T = {distance}" for distance in distances))]
    for cell in dict.fromkeys(each.cell for each in found):
        own = {each.distance: each for each in found if each.cell == cell}
        errors = (spread(own[distance].errors) if distance in own else "" for distance in distances)
        weights = next(iter(own.values())).weights
        rows.append((cell, f"{weights:,}", *errors))
    return rows


def spread(errors: Sequence[float]) -> str:
    return f"{statistics.fmean(errors):.3f} ({min(errors):.3f} to {max(errors):.3f})"
