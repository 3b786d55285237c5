"""Gradients that vanish or explode with the largest singular value, and a bound that trains.

The recurrent matrix starts as an orthogonal one times s, so that all its singular values are s.
`flow` is the norm of the gradient of the last output with respect to the state, by
`jaxlstm.gradient_flow`, at the first of 100 steps in parts of that at the last.  The networks then
learn to tell the order of two symbols (`temporal_order`) over 20 steps by plain gradient descent,
free or with the norm of the gradient clipped to 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxlstm

from .shared import Model, Results, Run, learning, mean, right, scores
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
    "a theorem: for tanh, below 1 suffices to vanish, above 1 is needed to explode; SGD without "
    "clipping fails on temporal order beyond 20 steps, with clipping it learns further (figure)"
)
TRIED = (
    "A rectifier stops the gradient of half of its units, so that it vanishes at 1.3 too: above 1 "
    "is needed to explode, and does not suffice. On the adding problem of 30 steps the same "
    "descent, free or clipped, did not leave chance; the order of two symbols it learns."
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
                    note=f"SGD, {name}",
                )  # fmt: skip
                made[name] = run._replace(extra=flow(cell, scale))
    return made


def verdict(results: Results) -> tuple[bool, str]:
    at = {name: next(iter(seeds.values()))["flow"][0] for name, seeds in results.items()}
    low, high, clipped = "tanh 0.8, free", "relu 2.0, free", "relu 2.0, clipped"
    holds = at[low] < 1e-6 and at[high] > 1 and mean(results, clipped) > mean(results, high) + 0.3
    flows = ", ".join(f"{name[:-6]} {x:.1e}" for name, x in at.items() if name.endswith("free"))
    return holds, f"gradient over 100 steps: {flows}; {right(results)}"


def plot(figure: Any, results: Results) -> None:
    from ..plot import COLOURS, STROKES

    left, rest = figure.subplots(1, 2)
    for i, name in enumerate(name for name in results if name.endswith("free")):
        norms = np.asarray(next(iter(results[name].values()))["flow"])
        stroke = STROKES[0 if "tanh" in name else 1]
        left.semilogy(norms, ls=stroke, color=COLOURS[i % 3], lw=1.2, label=name[:-6])
    left.set(xlabel="step", ylabel="norm of the gradient, to the last step's", ylim=(1e-12, 1e12))
    left.legend(frameon=False, ncols=2)
    names = list(results)[::-1]
    rest.barh(range(len(names)), [mean(results, name) for name in names], color="#56B4E9")
    for row, name in enumerate(names):
        rest.plot(scores(results, name), [row] * len(results[name]), "k.", ms=3)
    rest.axvline(0.25, color="0.4", lw=0.8, ls=":")
    rest.set_yticks(range(len(names)), names)
    rest.set(xlabel="orders right, of those tested (chance 0.25)", xlim=(0, 1.03))
