"""The LSTM and what descends from it."""

import numpy as np

from .gru import gate, limit
from .rnn import sigma


def lstm(p, x, h, c):
    i = sigma(x @ p.w["i"] + h @ p.r["i"] + p.b["i"])
    f = sigma(x @ p.w["f"] + h @ p.r["f"] + p.b["f"])
    g = np.tanh(x @ p.w["g"] + h @ p.r["g"] + p.b["g"])
    o = sigma(x @ p.w["o"] + h @ p.r["o"] + p.b["o"])
    c = f * c + i * g
    return o * np.tanh(c), c


def peephole_lstm(p, x, h, c):
    i = sigma(x @ p.w["i"] + h @ p.r["i"] + p.pi * c + p.b["i"])
    f = sigma(x @ p.w["f"] + h @ p.r["f"] + p.pf * c + p.b["f"])
    g = np.tanh(x @ p.w["g"] + h @ p.r["g"] + p.b["g"])
    c = f * c + i * g
    o = sigma(x @ p.w["o"] + h @ p.r["o"] + p.po * c + p.b["o"])
    return o * np.tanh(c), c


def lstm_variant(p, x, h, c, keep="if"):
    """With the options; `keep` names those of the two coupled gates that are there."""
    peep = lambda name, c: getattr(p, name) * c if p.peephole else 0
    at = lambda g: x @ p.w[g] + h @ p.r[g] + p.b[g]
    i = gate(p, limit(at("i") + peep("pi", c), p.clip)) if "i" in keep else None
    f = gate(p, limit(at("f") + peep("pf", c), p.clip)) if "f" in keep else 1 - i
    i = 1 - f if i is None else i
    squash = {"tanh": np.tanh, "softsign": lambda a: a / (1 + abs(a))}
    g = squash[p.candidate](limit(at("g"), p.clip))
    c = limit(f * c + i * g, p.cell_clip)
    o = gate(p, limit(at("o") + peep("po", c), p.clip))
    return o * squash[p.output](c), c


def coupled_input_lstm(p, x, h, c):
    return lstm_variant(p, x, h, c, keep="i")


def coupled_forget_lstm(p, x, h, c):
    return lstm_variant(p, x, h, c, keep="f")


def projected_lstm(p, x, h, c):
    m, c = lstm_variant(p, x, h, c)
    return limit(m @ p.q, p.projection_clip), c


def lstm_1997(p, x, h, c):
    """In the paper's words: the squashing functions g and h are scaled logistic sigmoids."""
    at = lambda g: x @ p.w[g] + h @ p.r[g] + p.b[g]
    c = c + sigma(at("i")) * (4 * sigma(at("g")) - 2)
    return sigma(at("o")) * (2 * sigma(c) - 1), c


def residual_lstm(p, x, h, c):
    i = sigma(x @ p.w["i"] + h @ p.r["i"] + p.pi * c + p.b["i"])
    f = sigma(x @ p.w["f"] + h @ p.r["f"] + p.pf * c + p.b["f"])
    c = f * c + i * np.tanh(x @ p.w["g"] + h @ p.r["g"] + p.b["g"])
    o = sigma(x @ p.w["o"] + h @ p.r["o"] + p.po * c + p.b["o"])
    m = np.tanh(c) @ p.q
    return o * (m + x @ p.w["s"] + p.b["s"]), c


def janet(p, x, h, c):
    s = x @ p.w["f"] + h @ p.r["f"] + p.b["f"]
    candidate = np.tanh(x @ p.w["n"] + h @ p.r["n"] + p.b["n"])
    c = sigma(s) * c + (1 - sigma(s - p.beta)) * candidate
    return c, c


def normalised(a, epsilon):
    return (a - a.mean()) / np.sqrt(a.var() + epsilon)


normalised.__module__ = "numpy"  # no cell


def layer_norm_lstm(p, x, h, c):
    letters = "ifgo"
    from_x = normalised(np.concatenate([x @ p.w[g] for g in letters]), p.epsilon)
    from_h = normalised(np.concatenate([h @ p.r[g] for g in letters]), p.epsilon)
    rows = from_h * p.a_v.ravel() + from_x * p.a_u.ravel() + p.b_z.ravel()
    i, f, g, o = np.split(rows, 4)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    return sigma(o) * np.tanh(normalised(c, p.epsilon) * p.a_c + p.b_c), c


def gate_norm_lstm(p, x, h, c):
    def at(k, g, peep=0):
        z = x @ p.w[g] + h @ p.r[g] + peep
        return normalised(z, p.epsilon) * p.a[k] + p.b_z[k]

    see = lambda name, c: getattr(p, name) * c if p.peephole else 0
    i, f = sigma(at(0, "i", see("pi", c))), sigma(at(1, "f", see("pf", c)))
    c = limit(f * c + i * np.tanh(at(2, "g")), p.cell_clip)
    m = sigma(at(3, "o", see("po", c))) * np.tanh(c)
    return (m if p.projection is None else limit(m @ p.q, p.projection_clip)), c


def multiplicative_lstm(p, x, h, c):
    m = (x @ p.w["m"] + p.b["m"]) * (h @ p.r["m"])
    return lstm(p, x, m, c)


def nas(p, x, h, c):
    u = [x @ p.w[g] for g in "abcdefjk"]
    v = [h @ p.r[g] + p.d[g] for g in "abcdefjk"]
    first = [
        sigma(u[0] + v[0]),
        np.maximum(0, u[1] + v[1]),
        sigma(u[2] + v[2]),
        np.maximum(0, u[3] * v[3]),
        np.tanh(u[4] + v[4]),
        sigma(u[5] + v[5]),
        np.tanh(u[6] + v[6]),
        sigma(u[7] + v[7]),
    ]
    second = [
        np.tanh(first[0] * first[1]),
        np.tanh(first[2] + first[3]),
        np.tanh(first[4] * first[5]),
        sigma(first[6] + first[7]),
    ]
    c = np.tanh(second[0] + c) * second[1]
    return np.tanh(c * np.tanh(second[2] + second[3])), c


def slstm(p, x, h, c, n, m):
    """Without the stabiliser, which cancels: only the ratio of `c` and `n` is seen."""
    i, f, g, o = (x @ p.w[k] + h @ p.r[k] + p.b[k] for k in "ifgo")
    real_c, real_n = c * np.exp(m), n * np.exp(m)
    real_c = sigma(f) * real_c + np.exp(i) * np.tanh(g)
    real_n = sigma(f) * real_n + np.exp(i)
    m = np.where(n > 0, np.maximum(np.log(sigma(f)) + m, i), i)
    return sigma(o) * real_c / real_n, real_c * np.exp(-m), real_n * np.exp(-m), m
