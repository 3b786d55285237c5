"""Cells that descend from the GRU."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import relu, sigmoid
from jax.numpy import tanh
from jaxtyping import Array, Float

from .._cell import HiddenState, LSTMState, Weight, gated_cell, general_cell, tag
from ..initializers import hidden_uniform, zeros
from . import activations


@general_cell("fn", HiddenState)
def mgu(s, u, recur):
    """Minimal gated unit: one gate both forgets and updates.

        f  = sigmoid(W_f x + R_f h + b_f)
        n  = tanh(W_n x + R_n (f * h) + b_n)
        h' = (1 - f) * h + f * n

    Gates: `f n`.  State: `h`.  Zhou et al. 2016, "Minimal gated unit for recurrent neural
    networks", arXiv:1603.09420.
    """
    f = tag(f=sigmoid(u[0] + recur(s.h, "f")[0]))
    n = tag(n=tanh(u[1] + recur(f * s.h, "n")[0]))
    return ((1 - f) * s.h + f * n,)


@gated_cell("fn", HiddenState, recurrent_bias=True)
def mgu_reset_after(s, u, v):
    """Minimal gated unit, reset after the product and with the gate's other sense, as in Flax.

        f  = sigmoid(W_f x + b_f + R_f h + d_f)
        n  = tanh(W_n x + b_n + f * (R_n h + d_n))
        h' = (1 - f) * n + f * h

    with `d` the recurrent bias, of which Flax has only `d_n`.  Gates: `f n`.  State: `h`.
    After Zhou et al. 2016, "Minimal gated unit for recurrent neural networks",
    arXiv:1603.09420.
    """
    f = tag(f=sigmoid(u[0] + v[0]))
    n = tag(n=tanh(u[1] + f * v[1]))
    return ((1 - f) * n + f * s.h,)


@general_cell("zrn", HiddenState, recurrent="rn", weights={"b_h": Weight("... hidden", zeros)})
def mut1(s, u, recur, *, b_h):
    """The first mutant of an evolutionary search over GRU and LSTM.

        z  = sigmoid(W_z x + b_z)
        r  = sigmoid(W_r x + R_r h + b_r)
        n  = tanh(R_n (r * h) + tanh(W_n x + b_n) + b_h)
        h' = z * n + (1 - z) * h

    Where the paper has `tanh(x)`, `W_n x + b_n` stands for `x`, since sizes differ.  Gates:
    `z r n`.  State: `h`.  Jozefowicz, Zaremba and Sutskever 2015, "An empirical exploration
    of recurrent network architectures".
    """
    z, r = tag(z=sigmoid(u[0]), r=sigmoid(u[1] + recur(s.h, "r")[0]))
    n = tag(n=tanh(recur(r * s.h, "n")[0] + tanh(u[2]) + b_h))
    return (z * n + (1 - z) * s.h,)


@general_cell("zrn", HiddenState)
def mut2(s, u, recur):
    """The second mutant of an evolutionary search over GRU and LSTM.

        z  = sigmoid(W_z x + R_z h + b_z)
        r  = sigmoid(W_r x + R_r h + b_r)
        n  = tanh(R_n (r * h) + W_n x + b_n)
        h' = z * n + (1 - z) * h

    Where the paper adds `x` to the gate `r`, here `W_r x` stands, since sizes differ; with it
    the mutant is `gru_reset_before` with the other sense of `z`.  Gates: `z r n`.  State:
    `h`.  Jozefowicz, Zaremba and Sutskever 2015, "An empirical exploration of recurrent
    network architectures".
    """
    z, r = sigmoid(u[:2] + recur(s.h, "zr"))
    z, r = tag(z=z, r=r)
    n = tag(n=tanh(recur(r * s.h, "n")[0] + u[2]))
    return (z * n + (1 - z) * s.h,)


@general_cell("zrn", HiddenState)
def mut3(s, u, recur):
    """The third mutant of an evolutionary search over GRU and LSTM.

        z  = sigmoid(W_z x + R_z tanh(h) + b_z)
        r  = sigmoid(W_r x + R_r h + b_r)
        n  = tanh(R_n (r * h) + W_n x + b_n)
        h' = z * n + (1 - z) * h

    Gates: `z r n`.  State: `h`.  Jozefowicz, Zaremba and Sutskever 2015, "An empirical
    exploration of recurrent network architectures".
    """
    r = tag(r=sigmoid(u[1] + recur(s.h, "r")[0]))
    z = tag(z=sigmoid(u[0] + recur(tanh(s.h), "z")[0]))
    n = tag(n=tanh(recur(r * s.h, "n")[0] + u[2]))
    return (z * n + (1 - z) * s.h,)


@gated_cell("zn", HiddenState)
def ligru(s, u, v):
    """Light GRU: no reset gate, and a rectifier.

        z  = sigmoid(W_z x + R_z h + b_z)
        n  = max(0, W_n x + R_n h + b_n)
        h' = z * h + (1 - z) * n

    The paper normalizes `W x` over the batch in place of the bias.  Gates: `z n`.  State:
    `h`.  Ravanelli et al. 2018, "Light gated recurrent units for speech recognition",
    arXiv:1803.10225.
    """
    z, n = u + v
    z, n = tag(z=sigmoid(z), n=relu(n))
    return (z * s.h + (1 - z) * n,)


@gated_cell("nf", HiddenState, recurrent="f")
def light_ru(s, u, v):
    """Light recurrent unit: the candidate sees the input alone.

        n  = tanh(W_n x + b_n)
        f  = sigmoid(W_f x + R_f h + b_f)
        h' = (1 - f) * h + f * n

    Gates: `n f`.  State: `h`.  Ye et al. 2024, "Light recurrent unit: towards an
    interpretable recurrent neural network for modeling long-range dependency", Electronics
    13(16):3204.
    """
    n, f = tag(n=tanh(u[0]), f=sigmoid(u[1] + v[0]))
    return ((1 - f) * s.h + f * n,)


@general_cell(
    "nfrs",
    LSTMState,
    recurrent="",
    weights={
        "p_f": Weight("... hidden", hidden_uniform),
        "p_r": Weight("... hidden", hidden_uniform),
    },
)
def sru_peephole(s, u, recur, *, p_f, p_r, activation="linear"):
    """Simple recurrent unit, of the second version, whose gates see their own memory.

        f  = sigmoid(W_f x + p_f * c + b_f)          forget gate
        r  = sigmoid(W_r x + p_r * c + b_r)          reset gate
        c' = f * c + (1 - f) * (W_n x + b_n)         memory
        h' = r * activation(c') + (1 - r) * (W_s x + b_s)

    The last product stands for the paper's `x` where sizes differ, here always.  Options:
    `activation`, by name.  Gates: `n f r s`.  State: `h c`.  Lei et al. 2018, "Simple
    recurrent units for highly parallelizable recurrence", arXiv:1709.02755 version 5.
    """
    n, f, r, skip = u
    f, r = sigmoid(f + p_f * s.c), sigmoid(r + p_r * s.c)
    n, f, r, skip = tag(n=n, f=f, r=r, s=skip)
    c = f * s.c + (1 - f) * n
    return r * activations.activation(activation)(c) + (1 - r) * skip, c


class Delayed(NamedTuple):
    """State that looks back: the hidden vector, and those before it, the oldest first."""

    h: Float[Array, "*batch hidden"]
    past: Float[Array, "*batch delay hidden"]


@general_cell("unga", Delayed, recurrent="unga", sizes=("hidden", "delay hidden"))
def tau_gru(s, u, recur, *, delay=5, alpha=1.0, beta=1.0):
    """GRU with feedback from the past, weighted by a gate.

        u  = tanh(W_u x + R_u h + b_u)              candidate
        n  = tanh(W_n x + R_n h_past + b_n)         candidate from `delay` steps before
        g  = sigmoid(W_g x + R_g h + b_g)           update gate
        a  = sigmoid(W_a x + R_a h + b_a)           weight of the past
        h' = (1 - g) * h + g * (beta u + alpha a * n)

    where `h_past` is the hidden vector `delay` steps before `h`, zero before the start.  It is
    the discretized solution of a delay differential equation.  Options: `delay`, the paper's
    tau; `alpha`, `beta`.  Gates: `u n g a`.  State: `h past`.  Erichson, Lim and Mahoney 2022,
    "Gated recurrent neural networks with weighted time-delay feedback", arXiv:2212.00228.
    """
    now, g, a = u[jnp.array([0, 2, 3])] + recur(s.h, "uga")
    n = u[1] + recur(s.past[..., 0, :], "n")[0]
    now, n, g, a = tag(u=tanh(now), n=tanh(n), g=sigmoid(g), a=sigmoid(a))
    h = (1 - g) * s.h + g * (beta * now + alpha * a * n)
    return h, jnp.concatenate([s.past[..., 1:, :], s.h[..., None, :]], -2)
