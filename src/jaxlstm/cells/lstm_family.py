"""Cells that descend from the LSTM."""

from jax.lax import rsqrt
from jax.nn import relu, sigmoid
from jax.numpy import tanh

from .._cell import HiddenCell, Weight, gated, general
from ..initializers import ones, zeros


@gated("fn", HiddenCell, bias={"f": 1.0})
def janet(s, u, v, *, beta=1.0):
    """Just another network: an LSTM that has only its forget gate.

        f  = W_f x + R_f h + b_f
        n  = tanh(W_n x + R_n h + b_n)
        c' = sigmoid(f) * c + (1 - sigmoid(f - beta)) * n
        h' = c'

    Options: `beta`; at 0 the gates are coupled.  Gates: `f n`.  State: `h c`.  Van der
    Westhuizen and Lasenby 2018, "The unreasonable effectiveness of the forget gate",
    arXiv:1804.04849.
    """
    f, n = u + v
    c = sigmoid(f) * s.c + (1 - sigmoid(f - beta)) * tanh(n)
    return c, c


def _norm(x, axes, epsilon):
    x = x - x.mean(axes, keepdims=True)
    return x * rsqrt((x * x).mean(axes, keepdims=True) + epsilon)


@gated(
    "ifgo",
    HiddenCell,
    bias=False,
    weights={
        "a_u": Weight("gates ... hidden", ones),
        "a_v": Weight("gates ... hidden", ones),
        "a_c": Weight("... hidden", ones),
        "b_c": Weight("... hidden", zeros),
        "b_z": Weight("gates ... hidden", zeros),
    },
    pointwise=False,
)
def layer_norm_lstm(s, u, v, *, a_u, a_v, a_c, b_c, b_z, epsilon=1e-5):
    """LSTM with layer normalisation, of Ba, Kiros and Hinton, as in Haste.

        i, f, g, o  =  LN(R h) * a_v + LN(W x) * a_u + b_z
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c') * a_c + b_c)

    where `LN` takes all four gates together to mean 0 and variance 1 (`epsilon` added).  The
    shifts of the paper's first two norms are one with `b_z`.  Options: `epsilon`.  Gates:
    `i f g o`.  State: `h c`.  Ba, Kiros and Hinton 2016, "Layer normalization",
    arXiv:1607.06450, supplement, equations 20 to 22.
    """
    i, f, g, o = _norm(v, (0, -1), epsilon) * a_v + _norm(u, (0, -1), epsilon) * a_u + b_z
    c = sigmoid(f) * s.c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(_norm(c, -1, epsilon) * a_c + b_c), c


@general("mifgo", HiddenCell, bias={"f": 1.0})
def multiplicative_lstm(s, u, recur):
    """Multiplicative LSTM: the input chooses the recurrent matrix, in factors.

        m  = (W_m x + b_m) * (R_m h)           stands for h in the LSTM:
        i, f, g, o  =  W x + R m + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Gates: `m i f g o`.  State: `h c`.  Krause et al. 2016, "Multiplicative LSTM for sequence
    modelling", arXiv:1609.07959.
    """
    m = u[0] * recur(s.h, "m")[0]
    i, f, g, o = u[1:] + recur(m, "ifgo")
    c = sigmoid(f) * s.c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


@gated("abcdefgk", HiddenCell, bias=False, recurrent_bias=True)
def nas(s, u, v):
    """The cell that neural architecture search found.

        a  = tanh(sigmoid(u_a + v_a) * relu(u_b + v_b))
        b  = tanh(sigmoid(u_c + v_c) + relu(u_d * v_d))
        e  = tanh(tanh(u_e + v_e) * sigmoid(u_f + v_f))
        g  = sigmoid(tanh(u_g + v_g) + sigmoid(u_k + v_k))
        c' = tanh(a + c) * b
        h' = tanh(c' * tanh(e + g))

    with `u = W x` and `v = R h + d`.  Gates: `a b c d e f g k`.  State: `h c`.  Zoph and Le
    2016, "Neural architecture search with reinforcement learning", arXiv:1611.01578, as in
    TensorFlow's `NASCell`.
    """
    z = u + v
    a = tanh(sigmoid(z[0]) * relu(z[1]))
    b = tanh(sigmoid(z[2]) + relu(u[3] * v[3]))
    e = tanh(tanh(z[4]) * sigmoid(z[5]))
    g = sigmoid(tanh(z[6]) + sigmoid(z[7]))
    c = tanh(a + s.c) * b
    return tanh(c * tanh(e + g)), c
