"""Simple recurrent networks, with and without a gate."""

import numpy as np


def sigma(a):
    return 1 / (1 + np.exp(-a))


sigma.__module__ = "numpy"  # no cell


def rnn(p, x, h):
    return (np.tanh(x @ p.w["h"] + h @ p.r["h"] + p.b["h"]),)


def rnn_relu(p, x, h):
    return (np.maximum(0, x @ p.w["h"] + h @ p.r["h"] + p.b["h"]),)


def rnn_variant(p, x, h):
    a = x @ p.w["h"] + h @ p.r["h"] + p.b["h"]
    if p.clip is not None:
        a = np.minimum(np.maximum(a, -p.clip), p.clip)
    return ({"tanh": np.tanh, "softsign": lambda a: a / (1 + abs(a))}[p.activation](a),)


def ugrnn(p, x, h):
    g = sigma(h @ p.r["g"] + x @ p.w["g"] + p.b["g"])
    c = np.tanh(h @ p.r["n"] + x @ p.w["n"] + p.b["n"])
    return (g * h + (1 - g) * c,)


def ran(p, x, h, c):
    content = x @ p.w["n"] + p.b["n"]
    i = sigma(h @ p.r["i"] + x @ p.w["i"] + p.b["i"])
    f = sigma(h @ p.r["f"] + x @ p.w["f"] + p.b["f"])
    c = i * content + f * c
    return {"tanh": np.tanh, "linear": lambda a: a}[p.activation](c), c


def minimal_rnn(p, x, h):
    z = np.tanh(x @ p.w["n"] + p.b["n"])
    u = sigma(h @ p.r["z"] + z @ p.m + p.d["z"])
    return (u * h + (1 - u) * z,)


def cfn(p, x, h):
    theta = sigma(h @ p.r["f"] + x @ p.w["f"] + p.b["f"])
    eta = sigma(h @ p.r["i"] + x @ p.w["i"] + p.b["i"])
    return (theta * np.tanh(h) + eta * np.tanh(x @ p.w["n"] + p.b["n"]),)


def fastrnn(p, x, h):
    alpha, beta = sigma(p.a[0]), sigma(p.k[0])
    return (alpha * np.tanh(x @ p.w["n"] + h @ p.r["n"] + p.b["n"]) + beta * h,)


def fastgrnn(p, x, h):
    shared = x @ p.w["n"] + h @ p.r["n"]
    z = sigma(shared + p.b_z)
    candidate = np.tanh(shared + p.b_n)
    return ((sigma(p.zeta[0]) * (1 - z) + sigma(p.nu[0])) * candidate + z * h,)


def star(p, x, h):
    z = np.tanh(x @ p.w["n"] + p.b["n"])
    k = sigma(x @ p.w["k"] + h @ p.r["k"] + p.b["k"])
    return (np.tanh((1 - k) * h + k * z),)


def brc(p, x, h):
    a = 1 + np.tanh(x @ p.w["a"] + p.r_a * h + p.b["a"])
    c = sigma(x @ p.w["c"] + p.r_c * h + p.b["c"])
    return (c * h + (1 - c) * np.tanh(x @ p.w["n"] + a * h + p.b["n"]),)


def nbrc(p, x, h):
    a = 1 + np.tanh(x @ p.w["a"] + h @ p.r["a"] + p.b["a"])
    c = sigma(x @ p.w["c"] + h @ p.r["c"] + p.b["c"])
    return (c * h + (1 - c) * np.tanh(x @ p.w["n"] + a * h + p.b["n"]),)


def rhn(p, x, s):
    for layer in range(p.depth):
        first = 1 if layer == 0 else 0
        h = np.tanh(first * (x @ p.w["n"]) + s @ p.m[layer, 0] + p.b_n[layer])
        t = sigma(first * (x @ p.w["t"]) + s @ p.m[layer, 1] + p.b_t[layer])
        s = h * t + s * (1 - t)
    return (s,)
