"""Plots of what `record` and `gradient_flow` return: `pip install 'jaxlstm[plot]'`.

Every function takes values and a matplotlib `Axes` (by default that of a new figure), draws into it
and returns it.  The colours are those of Okabe and Ito 2008 and the colour map `cividis`, which
colour-blind readers can tell apart; lines also differ in their strokes, for print without colour.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.core
import numpy as np
import numpy.typing as npt
from jaxtyping import ArrayLike

from ._node import State
from ._record import Record

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("`jaxlstm.plot` needs matplotlib: pip install 'jaxlstm[plot]'") from error

Row: TypeAlias = int | slice | tuple[int | slice, ...]  # which of a batch
Style: TypeAlias = dict[str, Any]  # keywords of matplotlib

# Okabe and Ito's eight without yellow, which is too pale for a line on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STROKES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
NAMES = {"i": "input", "f": "forget", "g": "candidate", "o": "output", "r": "reset"}
NAMES |= {"z": "update", "n": "candidate", "c": "memory cell", "h": "hidden state"}


def gates(
    record: Record, ax: Axes | None = None, *, row: Row = (), mask: ArrayLike | None = None
) -> Axes:
    """The gates over time: the mean over the units, and a band that holds half of them.

    `row` selects one sequence of a batch, as in `record.gates["f"][:, row]`.  `mask` is the mask
    that `record` was given: the steps that it excludes are not drawn.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    _, _, seen = jaxlstm.record(params, jax.random.normal(jax.random.key(1), (20, 3)))
    ax = jaxlstm.plot.gates(seen)
    ```
    """
    ax = _axes(ax)
    rows = next(iter(_of_one_layer(record).u.values())).shape[:-1]
    low = -0.05
    for style, (letter, values) in zip(_styles(), record.gates.items()):
        units = _units(values if values.ndim == len(rows) + 1 else values.reshape(*rows, -1), row)
        taken = np.full(len(units), True) if mask is None else np.asarray(mask)[:, *_row(row)]
        units = np.where(taken[:, None], units, np.nan)
        time = np.arange(len(units))
        quarter, three = np.quantile(units, [0.25, 0.75], axis=1)
        ax.fill_between(time, quarter, three, color=style["color"], alpha=0.15, linewidth=0)
        _line(ax, time, units.mean(1), _name(letter), style)
        low = units.min(initial=low, where=taken[:, None])
    ax.set(xlabel="time (steps)", ylabel="gate, mean over units", ylim=(low, None))
    _steps(ax.xaxis)
    ax.margins(x=0)
    _legend(ax)
    return ax


def heatmap(
    values: ArrayLike,
    ax: Axes | None = None,
    *,
    row: Row = (),
    label: str = "c",
    limit: float | None = None,
) -> Axes:
    """Every unit over time, such as the memory cell `record.states.c`, with a colour bar.

    Without a `limit` the colours range from the smallest to the largest value.  With one they
    range from `-limit` to `limit` and diverge from zero, so that signs are visible and several
    pictures can share a scale.  If values lie beyond the limit, the colour bar ends in a point.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    _, _, seen = jaxlstm.record(params, jax.random.normal(jax.random.key(1), (20, 3)))
    ax = jaxlstm.plot.heatmap(seen.states.c)
    ```
    """
    ax = _axes(ax)
    units = _units(values, row)
    scale: Style = {"cmap": "cividis"}
    below = above = False
    if limit is not None:
        if not limit > 0:
            raise ValueError(
                f"`limit` must be above zero: colours go from -limit to it; got {limit}."
            )
        scale = {"cmap": "PuOr", "vmin": -limit, "vmax": limit}
        below, above = bool((units < -limit).any()), bool((units > limit).any())
    extend = ("neither", "max", "min", "both")[2 * below + above]
    image = ax.imshow(units.T, aspect="auto", interpolation="nearest", **scale)
    ax.set(xlabel="time (steps)", ylabel="unit")
    _steps(ax.xaxis)
    _steps(ax.yaxis)
    ax.figure.colorbar(image, ax=ax, label=_name(label), extend=extend)
    return ax


def flow(norms: State, ax: Axes | None = None, *, row: Row = (), label: str = "") -> Axes:
    """What `gradient_flow` returns for a layer: the norms of `dL/ds_t`, on a log scale.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    norms = jaxlstm.gradient_flow(params, jnp.ones((20, 3)), lambda ys: ys[-1].sum())
    ax = jaxlstm.plot.flow(norms)
    ```
    """
    ax = _axes(ax)
    if not all(a is None or hasattr(a, "ndim") for a in norms):
        raise TypeError(_WHICH.format("state", type(norms).__name__))
    styles = itertools.islice(_styles(), len(ax.lines), None)
    fields = [field for field in norms._fields if getattr(norms, field) is not None]
    for style, field in zip(styles, fields):
        values = np.asarray(getattr(norms, field))[(slice(None), *_row(row))]
        values = values.reshape(len(values), -1).mean(1)
        name = f"{label} $\\partial L/\\partial {field}_t$".strip()
        _line(ax, np.arange(len(values)), np.where(values > 0, values, np.nan), name, style)
    ax.set(xlabel="time $t$ (steps)", ylabel="norm of the gradient", yscale="log")
    _steps(ax.xaxis)
    ax.margins(x=0)
    _legend(ax)
    return ax


def saturation(
    record: Record, ax: Axes | None = None, *, within: float = 0.1, mask: ArrayLike | None = None
) -> Axes:
    """For each gate, the share of its values that are nearly shut or nearly open.

    "Nearly" means `within` this fraction of the gate's range, which is 0 to 1, or -1 to 1 if any
    of its values are negative.  `mask` is the mask that `record` was given: the steps that it
    excludes are not counted.  Without it, the zeros at these steps would be.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    _, _, seen = jaxlstm.record(params, jax.random.normal(jax.random.key(1), (20, 3)))
    ax = jaxlstm.plot.saturation(seen)
    ```
    """
    ax = _axes(ax)
    low, high = [], []
    for values in _of_one_layer(record).gates.values():
        a = np.asarray(values)
        a = a if mask is None else a[np.asarray(mask)]
        least = -1.0 if (a < 0).any() else 0.0
        band = within * (1 - least)
        low.append((a < least + band).mean())
        high.append((a > 1 - band).mean())
    place = np.arange(len(low))
    marks: Style = {"edgecolor": "black", "linewidth": 0.6, "width": 0.38}
    ax.bar(place - 0.2, low, color=COLOURS[0], label="at its lower end", **marks)
    ax.bar(place + 0.2, high, color=COLOURS[5], hatch="//", label="at its upper end", **marks)
    ax.set_xticks(place, [_name(letter) for letter in record.gates])
    ax.set(ylabel="share of values", ylim=(0, 1))
    _legend(ax)
    return ax


def compare(
    curves: Mapping[str, npt.ArrayLike],
    ax: Axes | None = None,
    *,
    steps: npt.ArrayLike | None = None,
    xlabel: str = "step",
    ylabel: str = "loss",
) -> Axes:
    """The curves of several cells; for runs `(seeds, time)`, their mean and range.

    `steps` are the positions of the values along the axis, by default 0, 1, 2, ...

    ```python
    ax = jaxlstm.plot.compare({"lstm": [[3, 2, 1], [3, 1, 1]], "gru": [[3, 2, 2], [2, 2, 1]]})
    ```
    """
    ax = _axes(ax)
    for style, (name, runs) in zip(_styles(), curves.items()):
        runs = np.atleast_2d(np.asarray(runs))
        at = np.arange(runs.shape[1]) if steps is None else np.asarray(steps)
        if len(runs) > 1:
            ax.fill_between(
                at, runs.min(0), runs.max(0), color=style["color"], alpha=0.15, linewidth=0
            )
        _line(ax, at, runs.mean(0), name, style)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0)
    _legend(ax)
    return ax


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(figsize=(6.4, 3.2), layout="constrained")[1] if ax is None else ax


def _line(ax: Axes, at: np.ndarray, values: np.ndarray, label: str, style: Style) -> None:
    """A curve, and a dot for each value that has no neighbour, since no line shows it."""
    ax.plot(at, values, label=label, **style)
    there = np.concatenate([[False], np.isfinite(values), [False]])
    alone = there[1:-1] & ~there[:-2] & ~there[2:]
    if alone.any():
        ax.scatter(at[alone], values[alone], s=16, color=style["color"])


def _steps(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _styles() -> Iterator[Style]:
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(STROKES))
    return ({"color": colour, "linestyle": stroke, "linewidth": 1.8} for colour, stroke in styles)


def _row(row: Row) -> tuple[int | slice, ...]:
    return row if isinstance(row, tuple) else (row,)


_WHICH = (
    "a picture is of the {} of one layer; got a {}. Pick a layer, such as `.layers[0]` or "
    "`.forward`."
)


def _of_one_layer(record: object) -> Record:
    if not isinstance(record, Record):
        raise TypeError(_WHICH.format("record", type(record).__name__))
    if not record.gates:
        raise ValueError(
            "the cell names no gates: its equations say which values to see by `jaxlstm.tag`."
        )
    return record


def _units(values: ArrayLike, row: Row) -> np.ndarray:
    """`(time, units)` of one row of a batch."""
    if isinstance(values, jax.core.Tracer):
        raise TypeError("a picture needs numbers: draw outside of `jit`, from what it returns.")
    picked = np.asarray(values)[(slice(None), *_row(row))]
    if picked.ndim != 2:
        raise ValueError(
            f"a picture needs `(time, units)`; got {picked.shape}. Pick a row of the batch: "
            "`row=0`, or `row=(0, 1)` of two batch axes."
        )
    if not len(picked):
        raise ValueError("a picture needs one step of time at least; got none.")
    return picked


def _name(letter: str) -> str:
    symbol = f"${letter}$" if len(letter) == 1 else letter
    return f"{NAMES[letter]} {symbol}" if letter in NAMES else symbol


def _legend(ax: Axes) -> None:
    ax.legend(frameon=False, ncols=2, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.25)
