"""Pictures: who learns over which distance; how the three learned text, and gates along it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxlstm

from .distance import Learned
from .text import Text
from .train import Run

# Okabe and Ito's colours, told apart by everyone, and strokes that print in grey.
STYLES = {"rnn": ("#E69F00", ":"), "gru": ("#0072B2", "--"), "lstm": ("#D55E00", "-")}
UNITS = 24
# Narrow, so that words are as large as those around them, on a phone too.
STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium",
    "figure.dpi": 130, "savefig.dpi": "figure", "font.size": 9,
}  # fmt: skip


def draw(
    path: Path, runs: Mapping[str, Run], text: Text, entropies: tuple[float, float], per_step: int
) -> None:
    """Writes the picture; the gates are left out where no LSTM was trained."""
    lstm = runs.get("lstm")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 6.6) if lstm else (4.4, 2.8), layout="constrained")
        FigureCanvasAgg(figure)
        parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.3)) if lstm else [figure]
        _curves(parts[0].subplots(), runs, entropies, per_step)
        if lstm:
            _gates(parts[1], lstm, text)
        figure.savefig(path)


def draw_distances(path: Path, found: Sequence[Learned]) -> None:
    """Writes the picture of who learns over which distance."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.8, 2.7), layout="constrained")
        FigureCanvasAgg(figure)
        _distances(figure.subplots(), found)
        figure.savefig(path)


def _distances(ax: Any, found: Sequence[Learned]) -> None:
    distances = sorted({each.distance for each in found})
    cells = dict.fromkeys(each.cell for each in found)
    for shift, cell in zip((-1, 0, 1), cells):  # so that no point hides another
        colour, stroke = STYLES[cell]
        own = sorted((each for each in found if each.cell == cell), key=lambda e: e.distance)
        at = [each.distance * 1.025**shift for each in own]
        means = [np.mean(each.errors) for each in own]
        ax.plot(at, means, stroke, color=colour, linewidth=2, label=cell)
        for x, each in zip(at, own):
            ax.plot([x] * len(each.errors), each.errors, "o", color=colour, ms=4, alpha=0.5)
    ax.axhline(1, color="0.4", linewidth=1, linestyle=(0, (1, 1)))
    ax.annotate("remembers nothing", (0, 1), (4, 4), textcoords="offset points", color="0.3",
                xycoords=("axes fraction", "data"))  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(distances, [str(distance) for distance in distances])
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    ax.set(
        xlabel="steps in the sequence", ylabel="error of the answer", ylim=(-0.05, None),
        title="Adding two marked numbers",
    )  # fmt: skip
    ax.legend(frameon=False, loc="center right")


def _curves(
    ax: Any, runs: Mapping[str, Run], entropies: tuple[float, float], per_step: int
) -> None:
    for name, run in runs.items():
        colour, stroke = STYLES.get(name, ("#000000", "-"))
        bits = np.asarray(run.train_bits)
        width = max(1, len(bits) // 60)
        smooth = np.convolve(bits, np.ones(width) / width, "valid") if len(bits) else bits
        read = (np.arange(len(smooth)) + width) * per_step
        ax.plot(read, smooth, color=colour, linewidth=0.7, alpha=0.5)
        if run.held_out:
            steps, held = np.asarray(run.held_out).T
            label = f"{name}, held out: {held[-1]:.2f}"
            ax.plot(
                steps * per_step, held, stroke, color=colour, marker="o", markersize=3, label=label
            )
    for value, label in zip(entropies, ("unigram", "bigram")):
        ax.axhline(value, color="0.4", linewidth=0.8, linestyle=(0, (1, 1)))
        ax.annotate(
            f"{label} entropy {value:.2f}", (1, value), (0, 3), ha="right", color="0.3",
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
    ax.set(
        xlabel="characters read in training", ylabel="bits per character",
        title="Learning curves at equal parameter count\n(thin: training, smoothed)",
    )  # fmt: skip
    ax.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter())
    ax.legend(frameon=False, loc="upper right", borderaxespad=0)


def sentence(text: Text, length: int = 44) -> np.ndarray:
    """The first `length` characters after a full stop in the held-out text."""
    whole = text.decode(text.held_out)
    found = whole.find(". ", 0, max(0, len(whole) - length - 2))
    start = found + 2 if found >= 0 else 0
    return text.held_out[start : start + length]


def activations(run: Run, symbols: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The gates i, f, o and the memory cell c of the last layer, `(time, hidden)` each."""
    _, _, seen = jaxlstm.record(run.model.network, run.model.embedding[symbols])
    top = seen.layers[-1] if hasattr(seen, "layers") else seen
    return {k: np.asarray(top.gates[k]) for k in "ifo"}, np.asarray(top.states.c)


def _glyph(character: str) -> str:
    """What stands for a character in the picture; fonts lack many scripts, and all controls."""
    if character == "\n":
        return "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
    font = font_manager.get_font(font_manager.findfont("monospace"))
    known = font.get_char_index(ord(character))
    return character if known else "\N{WHITE SQUARE}"


def _gates(part: Any, run: Run, text: Text) -> None:
    symbols = sentence(text)
    gates, memory = activations(run, symbols)
    units = np.argsort(-memory.std(axis=0))[:UNITS]
    rows = {
        "input gate i": gates["i"], "forget gate f": gates["f"],
        "output gate o": gates["o"], "memory cell c": memory,
    }  # fmt: skip
    axes = part.subplots(4, 1, sharex=True)
    bound = max(1.0, float(np.abs(memory[:, units]).max()))
    for ax, (name, values) in zip(axes, rows.items(), strict=True):
        signed = name.endswith(" c")
        image = ax.imshow(
            values[:, units].T, aspect="auto", interpolation="nearest",
            cmap="PuOr" if signed else "cividis",
            vmin=-bound if signed else 0, vmax=bound if signed else 1,
        )  # fmt: skip
        ax.set(yticks=[], ylabel=name.replace(" ", "\n", 1))
        ax.tick_params(axis="x", length=0)
        part.colorbar(image, ax=ax, pad=0.01)
    shown = [_glyph(c) for c in text.decode(symbols)]
    axes[-1].set_xticks(range(len(shown)), shown, family="monospace", fontsize=8)
    axes[-1].set_xlabel("the character that is read")
    part.suptitle(
        f"The LSTM along a held-out sentence:\nthe {len(units)} units that vary most", fontsize=9
    )
