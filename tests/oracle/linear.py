"""Cells that are linear in their memory, and the SRU that no longer is."""

import numpy as np

from .rnn import sigma


def at(p, x, gate):
    return x @ p.w[gate] + p.b[gate]


at.__module__ = "numpy"  # no cell


def mingru(p, x, h):
    z = sigma(at(p, x, "z"))
    return ((1 - z) * h + z * at(p, x, "n"),)


def minlstm(p, x, h):
    f, i = sigma(at(p, x, "f")), sigma(at(p, x, "i"))
    f, i = f / (f + i), i / (f + i)
    return (f * h + i * at(p, x, "n"),)


def gated_average(p, x, h):
    g = sigma(at(p, x, "a"))
    return (g * h + (1 - g) * np.tanh(at(p, x, "n")),)


def qrnn_f(p, x, h):
    z, f = np.tanh(at(p, x, "n")), sigma(at(p, x, "f"))
    return (f * h + (1 - f) * z,)


def qrnn(p, x, h, c):
    z, f, o = np.tanh(at(p, x, "n")), sigma(at(p, x, "f")), sigma(at(p, x, "o"))
    c = f * c + (1 - f) * z
    return o * c, c


def qrnn_ifo(p, x, h, c):
    z, f, o = np.tanh(at(p, x, "n")), sigma(at(p, x, "f")), sigma(at(p, x, "o"))
    c = f * c + sigma(at(p, x, "i")) * z
    return o * c, c


def sru(p, x, h, c):
    f, r = sigma(at(p, x, "f")), sigma(at(p, x, "r"))
    c = f * c + (1 - f) * at(p, x, "n")
    return r * np.tanh(c) + (1 - r) * at(p, x, "s"), c


def sru_peephole(p, x, h, c):
    f = sigma(at(p, x, "f") + p.p_f * c)
    r = sigma(at(p, x, "r") + p.p_r * c)
    c = f * c + (1 - f) * at(p, x, "n")
    return r * c + (1 - r) * at(p, x, "s"), c


def lru(p, x, h, c):
    nu, theta, gamma = p.ring
    eigenvalues = np.exp(-np.exp(nu) + 1j * np.exp(theta))
    b = p.w["a"] + 1j * p.w["b"]
    memory = eigenvalues * (c[0] + 1j * c[1]) + np.exp(gamma) * (x @ b)
    y = (memory @ (p.c_re + 1j * p.c_im)).real + x @ p.w["d"]
    return y, np.stack([memory.real, memory.imag])


def rg_lru(p, x, h):
    r, i = sigma(at(p, x, "r")), sigma(at(p, x, "i"))
    a = sigma(p.decay) ** (p.c * r)
    return (a * h + np.sqrt(1 - a**2) * (i * at(p, x, "n")),)


def damped_average(p, x, h, c):
    alpha, delta = sigma(p.alpha), sigma(p.delta)
    expanded = p.beta * at(p, x, "n")[:, None]
    c = alpha * expanded + (1 - alpha * delta) * c
    return (p.eta * c).sum(1), c


def mlstm(p, x, h, c, n):
    d = p.hidden // p.heads
    outputs, memories, normalisers = [], [], []
    for k in range(p.heads):
        units = slice(k * d, (k + 1) * d)
        query, key, value = (at(p, x, g)[units] for g in "qkv")
        key = key / np.sqrt(d)
        i = np.exp(p.cap * np.tanh(at(p, x, "i")[units].mean() / p.cap))
        f = sigma(p.cap * np.tanh(at(p, x, "f")[units].mean() / p.cap))
        memories.append(f * c[k] + i * np.outer(value, key))
        normalisers.append(f * n[k] + i * key)
        outputs.append(memories[k] @ query / max(abs(normalisers[k] @ query), 1))
    o = sigma(at(p, x, "o"))
    return o * np.concatenate(outputs), np.stack(memories), np.stack(normalisers)
