"""Gradients vanish or explode with the largest singular value; clipped, the networks learn.

The recurrent matrix starts as an orthogonal one times s, so that all its singular values are s.
What is left of the gradient is its norm at the first of 100 steps relative to that at the last, of
the last output with respect to the state (`jaxlstm.gradient_flow`).  The networks then learn to
tell the order of two symbols (`temporal_order`) over 20 steps by plain gradient descent, with the
norm of the gradient clipped to 1 ("clipped") or not ("free").
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxlstm

from .shared import Model, Results, Run, Verdict, decided, learning, mean, scores, solved
from .temporal_order import order

PAPER = (
    'Bengio, Simard and Frasconi 1994, "Learning long-term dependencies with gradient descent is '
    'difficult"; Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural '
    'networks", arXiv:1211.5063'
)
CLAIM = (
    "Gradients vanish where the largest singular value is below 1, may explode where it is above, "
    "and clipping their norm makes such networks trainable"
)
PUBLISHED = (
    "a theorem: for tanh, below 1 suffices to vanish and above 1 is needed to explode; a figure: "
    "gradient descent fails on temporal order beyond 20 steps, and with clipping learns longer "
    "ones"
)
TRIED = (
    "A rectifier stops the gradient of half of its units, so that it vanishes at 1.3 too: a value "
    "above 1 is needed to explode, and does not suffice. Clipping also helps the tanh network "
    "that starts at 0.8; the rectifier that starts there learns neither way. On the adding "
    "problem over 30 steps the same gradient descent did no better than chance, with clipping or "
    "without."
)
TIME = 100
RATE = 0.1
CELLS = {"tanh": jaxlstm.rnn, "relu": jaxlstm.rnn_relu}


def scaled(scale: float) -> Any:
    return lambda key, layer: layer._replace(
        r=scale * jaxlstm.initializers.orthogonal(key, layer.r.shape, layer.r.dtype)
    )


def flow(cell: jaxlstm.Cell, scale: float) -> Any:
    """The norm over time, of a network that has learned nothing: its inputs are small noise."""

    def measure(model: Model) -> dict[str, Array]:
        one, two = jax.random.split(jax.random.key(7))
        fresh = jaxlstm.init(one, cell, 2, 32, dtype=jnp.float32)
        fresh = scaled(scale)(one, fresh)
        xs = 0.01 * jax.random.normal(two, (TIME, 2), jnp.float32)
        norms = jaxlstm.gradient_flow(fresh, xs, lambda ys: ys[-1].sum()).h
        return {"flow": norms / norms[-1]}

    return measure


def runs(short: bool) -> dict[str, Run]:
    steps = 1000 if short else 3000
    made = {}
    for kind, cell in CELLS.items():
        for scale in (0.8, 1.3, 2.0):
            for clip in (None, 1.0):
                if short and (kind, scale) not in (("relu", 2.0), ("tanh", 0.8)):
                    continue
                descent = optax.sgd(RATE)
                if clip:
                    descent = optax.chain(optax.clip_by_global_norm(clip), descent)
                name = f"{kind} {scale}, {'clipped' if clip else 'free'}"
                run = learning(
                    order(20), cell, 32, steps=steps, rate=RATE, every=steps // 10,
                    tests=512, solved=0.99, change=scaled(scale), optimizer=descent,
                    note=f"plain gradient descent, {name}",
                )  # fmt: skip
                made[name] = run._replace(extra=flow(cell, scale))
    return made


RULE = (
    "It holds if less than a millionth of the gradient is left over 100 steps at singular values "
    "of 0.8, and it grows a thousandfold for some network above 1; and if above 1 every network "
    "learns the order with clipping in more seeds than without. It does not hold if a gradient "
    "below 1 does not vanish, or clipping helps nowhere, and is undecided otherwise."
)


def verdict(results: Results) -> Verdict:
    at = {
        name.removesuffix(", free"): next(iter(seeds.values()))["flow"][0]
        for name, seeds in results.items()
        if name.endswith(", free")
    }
    low, high = ([n for n in at if (float(n.split()[1]) > 1) == above] for above in (False, True))
    more = [solved(results, f"{n}, clipped") - solved(results, f"{n}, free") for n in high]
    vanish, explode = all(at[n] < 1e-6 for n in low), any(at[n] > 1e3 for n in high)
    holds, fails = vanish and explode and min(more) > 0, not vanish or max(more) <= 0
    of_kind = lambda kind: [(x, n.split()[1]) for n, x in at.items() if n.startswith(kind)]
    flows = "; ".join(
        f"{kind} " + ", ".join(f"{x:.0e} at {s}" if x else f"0 at {s}" for x, s in of_kind(kind))
        for kind in CELLS
    )
    of = {kind: sum(solved(results, f"{n}, {kind}") for n in high) for kind in ("clipped", "free")}
    seeds = sum(len(results[f"{n}, free"]) for n in high)
    ours = (
        f"left of the gradient over 100 steps: {flows}; above 1, {of['clipped']} of {seeds} seeds "
        f"learn with clipping, {of['free']} without"
    )
    return Verdict(decided(holds, fails), ours)


def plot(figure: Any, results: Results) -> None:
    """What is left of the gradient at each step back, and how many orders each network tells."""
    from ..plot import COLOURS, STROKES

    left, rest = figure.subplots(1, 2)
    for i, name in enumerate(name for name in results if name.endswith("free")):
        norms = np.asarray(next(iter(results[name].values()))["flow"])
        stroke = STROKES[0 if "tanh" in name else 1]
        left.semilogy(norms, ls=stroke, color=COLOURS[i % 3], lw=1.2, label=name[:-6])
    left.set(xlabel="step", ylabel="norm of gradient, relative to last step", ylim=(1e-12, 1e12))
    left.legend(frameon=False, ncols=2)
    names = list(results)[::-1]
    rest.barh(range(len(names)), [mean(results, name) for name in names], color="#56B4E9")
    for row, name in enumerate(names):
        rest.plot(scores(results, name), [row] * len(results[name]), "k.", ms=3)
    rest.axvline(0.25, color="0.4", lw=0.8, ls=":")
    rest.set_yticks(range(len(names)), names)
    rest.set(xlabel="orders right, of those tested (chance 0.25)", xlim=(0, 1.03))
