"""The GRU and what descends from it."""

import numpy as np

from .rnn import sigma


def gru(p, x, h):
    r = sigma(x @ p.w["r"] + p.b["r"] + h @ p.r["r"] + p.d["r"])
    z = sigma(x @ p.w["z"] + p.b["z"] + h @ p.r["z"] + p.d["z"])
    n = np.tanh(x @ p.w["n"] + p.b["n"] + r * (h @ p.r["n"] + p.d["n"]))
    return ((1 - z) * n + z * h,)


def gru_reset_before(p, x, h):
    r = sigma(x @ p.w["r"] + h @ p.r["r"] + p.b["r"])
    z = sigma(x @ p.w["z"] + h @ p.r["z"] + p.b["z"])
    n = np.tanh(x @ p.w["n"] + (r * h) @ p.r["n"] + p.b["n"])
    return ((1 - z) * n + z * h,)


def limit(a, bound):
    return a if bound is None else np.minimum(np.maximum(a, -bound), bound)


limit.__module__ = "numpy"  # no cell


def gate(p, a):
    """The activation of the gates: the sigmoid, or the hard one with its two numbers."""
    if p.gate == "sigmoid":
        return sigma(a)
    _, alpha, beta = p.gate
    return np.minimum(1, np.maximum(0, alpha * a + beta))


gate.__module__ = "numpy"


def gru_variant(p, x, h):
    r = gate(p, limit(x @ p.w["r"] + p.b["r"] + h @ p.r["r"] + p.d["r"], p.clip))
    z = gate(p, limit(x @ p.w["z"] + p.b["z"] + h @ p.r["z"] + p.d["z"], p.clip))
    n = np.tanh(limit(x @ p.w["n"] + p.b["n"] + r * (h @ p.r["n"] + p.d["n"]), p.clip))
    return ((1 - z) * n + z * h,)


def gru_reset_before_variant(p, x, h):
    r = gate(p, limit(x @ p.w["r"] + h @ p.r["r"] + p.b["r"], p.clip))
    z = gate(p, limit(x @ p.w["z"] + h @ p.r["z"] + p.b["z"], p.clip))
    n = np.tanh(limit(x @ p.w["n"] + (r * h) @ p.r["n"] + p.b["n"], p.clip))
    return ((1 - z) * n + z * h,)


def mgu(p, x, h):
    f = sigma(h @ p.r["f"] + x @ p.w["f"] + p.b["f"])
    candidate = np.tanh((f * h) @ p.r["n"] + x @ p.w["n"] + p.b["n"])
    return ((1 - f) * h + f * candidate,)


def mgu_reset_after(p, x, h):
    f = sigma(x @ p.w["f"] + p.b["f"] + h @ p.r["f"] + p.d["f"])
    n = np.tanh(x @ p.w["n"] + p.b["n"] + f * (h @ p.r["n"] + p.d["n"]))
    return ((1 - f) * n + f * h,)


def mut1(p, x, h):
    z = sigma(x @ p.w["z"] + p.b["z"])
    r = sigma(x @ p.w["r"] + h @ p.r["r"] + p.b["r"])
    n = np.tanh((r * h) @ p.r["n"] + np.tanh(x @ p.w["n"] + p.b["n"]) + p.b_h)
    return (n * z + h * (1 - z),)


def mut2(p, x, h):
    z = sigma(x @ p.w["z"] + h @ p.r["z"] + p.b["z"])
    r = sigma(x @ p.w["r"] + h @ p.r["r"] + p.b["r"])
    n = np.tanh((r * h) @ p.r["n"] + x @ p.w["n"] + p.b["n"])
    return (n * z + h * (1 - z),)


def mut3(p, x, h):
    z = sigma(x @ p.w["z"] + np.tanh(h) @ p.r["z"] + p.b["z"])
    r = sigma(x @ p.w["r"] + h @ p.r["r"] + p.b["r"])
    n = np.tanh((r * h) @ p.r["n"] + x @ p.w["n"] + p.b["n"])
    return (n * z + h * (1 - z),)


def ligru(p, x, h):
    z = sigma(x @ p.w["z"] + h @ p.r["z"] + p.b["z"])
    n = np.maximum(0, x @ p.w["n"] + h @ p.r["n"] + p.b["n"])
    return (z * h + (1 - z) * n,)


def light_ru(p, x, h):
    n = np.tanh(x @ p.w["n"] + p.b["n"])
    f = sigma(x @ p.w["f"] + h @ p.r["f"] + p.b["f"])
    return ((1 - f) * h + f * n,)


def tau_gru(p, x, h, past):
    u = np.tanh(h @ p.r["u"] + x @ p.w["u"] + p.b["u"])
    z = np.tanh(past[0] @ p.r["n"] + x @ p.w["n"] + p.b["n"])
    g = sigma(h @ p.r["g"] + x @ p.w["g"] + p.b["g"])
    a = sigma(h @ p.r["a"] + x @ p.w["a"] + p.b["a"])
    return (1 - g) * h + g * (p.beta * u + p.alpha * a * z), np.stack([*past[1:], h])
