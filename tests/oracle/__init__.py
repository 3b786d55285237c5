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


def run(layer, xs, state, mask=None, reset=None, initial=None, reverse=False):
    """`(ys, state)` of inputs `(time, features)`, from a state that is a tuple of arrays.

    Where `reset`, an episode starts, which no state crosses: forward the state becomes
    `initial` before this step, backwards after it.  Where not `mask`, the step does not happen
    and its output is zero.
    """
    p, step = Weights(layer), ORACLES[layer.cell.name]
    xs = np.asarray(xs)
    outputs = np.zeros((len(xs), len(state[0])))
    order = range(len(xs))
    for t in reversed(order) if reverse else order:
        start = t + 1 if reverse else t  # the line crossed on the way into this step
        if reset is not None and start < len(xs) and reset[start]:
            state = initial
        if mask is None or mask[t]:
            state = step(p, xs[t], *state)
            outputs[t] = state[0]
    return outputs, state


def run_network(node, xs, state, mask, reset, initial, reverse):
    """The same of a tree of layers, with a state for each; `run` is its leaf."""
    go = lambda node, xs, s, s0, reverse: run_network(node, xs, s, mask, reset, s0, reverse)
    match type(node).__name__:
        case "Layer":
            ys, end = run(node, xs, state, mask, reset, initial, reverse)
            return ys, type(state)(*end)
        case "Reverse":
            return go(node.node, xs, state, initial, not reverse)
        case "Bidirectional":
            yf, sf = go(node.forward, xs, state[0], initial[0], reverse)
            yb, sb = go(node.backward, xs, state[1], initial[1], not reverse)
            return np.concatenate([yf, yb], -1), (sf, sb)
        case "Stack":
            ends = []
            for layer, s, s0 in zip(node.layers, state, initial, strict=True):
                xs, end = go(layer, xs, s, s0, reverse)
                ends.append(end)
            return xs, tuple(ends)
