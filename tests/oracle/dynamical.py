"""Recurrent networks read off a differential equation, and others without gates."""

import numpy as np


def indrnn(p, x, h):
    return (np.maximum(0, x @ p.w["h"] + p.r * h + p.b["h"]),)


def antisymmetric_rnn(p, x, h):
    matrix = p.m - p.m.T - p.damping * np.eye(p.hidden)
    return (h + p.step * np.tanh(h @ matrix + x @ p.w["h"] + p.b["h"]),)


def gated_antisymmetric_rnn(p, x, h):
    matrix = p.m - p.m.T - p.damping * np.eye(p.hidden)
    z = 1 / (1 + np.exp(-(h @ matrix + x @ p.w["z"] + p.b["z"])))
    return (h + p.step * z * np.tanh(h @ matrix + x @ p.w["h"] + p.b["h"]),)


def cornn(p, x, y, z):
    pull = np.tanh(y @ p.r["y"] + z @ p.r["z"] + x @ p.w["n"] + p.b["n"])
    z = z + p.step * pull - p.step * p.frequency * y - p.step * p.damping * z
    return y + p.step * z, z


def lem(p, x, y, z):
    dt = p.step / (1 + np.exp(-(y @ p.r["a"] + x @ p.w["a"] + p.b["a"])))
    dt_bar = p.step / (1 + np.exp(-(y @ p.r["b"] + x @ p.w["b"] + p.b["b"])))
    z = (1 - dt) * z + dt * np.tanh(y @ p.r["z"] + x @ p.w["z"] + p.b["z"])
    y = (1 - dt_bar) * y + dt_bar * np.tanh(z @ p.r["y"] + x @ p.w["y"] + p.b["y"])
    return y, z


def scrn(p, x, y, h, s):
    s = (1 - p.alpha) * (x @ p.w["c"]) + p.alpha * s
    h = 1 / (1 + np.exp(-(s @ p.p + x @ p.w["h"] + h @ p.r["h"])))
    return h @ p.q_h + s @ p.q_c, h, s


def multiplicative_rnn(p, x, h):
    f = (x @ p.w["m"] + p.b["m"]) * (h @ p.r["m"])
    return (np.tanh(f @ p.r["h"] + x @ p.w["h"] + p.b["h"]),)


def ctrnn(p, x, h):
    z = x @ p.w["h"] + h @ p.r["h"] + p.b["h"]
    rate = {"softplus": lambda a: np.log1p(np.exp(a)), "tanh": np.tanh}[p.activation](z)
    return ((1 - p.alpha) * h + p.alpha * rate,)
