"""The equations of every cell once more, from the papers, in NumPy float64, one row at a time.

Each function takes `(p, x, *state)` and returns the new state as a tuple.  `p.w["i"]`, `p.r["i"]`,
`p.b["i"]` and `p.d["i"]` are the matrices and biases of the gate `i`; other weights are attributes.
"""

import numpy as np

from . import dynamical, gru, linear, lstm, rnn

ORACLES = {
    name: f
    for module in (dynamical, gru, linear, lstm, rnn)
    for name, f in vars(module).items()
    if callable(f) and getattr(f, "__module__", "") == module.__name__
}


class Weights:
    """The weights of a layer by letter, and the options of its cell as attributes."""

    def __init__(self, layer):
        cell = layer.cell
        self.__dict__.update(cell.defaults(), **dict(cell.options))
        self.hidden = layer.w.shape[-1]
        self.w = {g: np.asarray(layer.w)[:, k] for k, g in enumerate(cell.gates)}
        self.r, self.b, self.d = {}, {}, {}
        for k, g in enumerate(cell.recurrent):
            self.r[g] = dense(np.asarray(layer.r)[:, k], getattr(self, "heads", 1))
            self.d[g] = np.asarray(layer.recurrent_bias)[k] if cell.recurrent_bias else None
        if layer.b is not None:
            self.b = {g: np.asarray(layer.b)[k] for k, g in enumerate(cell.gates)}
        self.__dict__.update({k: np.asarray(a) for k, a in (layer.weights or {}).items()})


def dense(r, heads):
    """The full matrix of one that is block diagonal, with a block for each head."""
    n, h = r.shape
    full, size = np.zeros((n * heads, h)), h // heads
    for k in range(heads):
        columns = slice(k * size, (k + 1) * size)
        full[k * n : (k + 1) * n, columns] = r[:, columns]
    return full


def run(layer, xs, state):
    """`(ys, state)` of inputs `(time, features)`, from a state that is a tuple of arrays."""
    p, step = Weights(layer), ORACLES[layer.cell.name]
    outputs = []
    for x in np.asarray(xs):
        state = step(p, x, *state)
        outputs.append(state[0])
    return np.stack(outputs), state
