"""Cells that descend from the LSTM."""

from jax.nn import relu, sigmoid
from jax.numpy import tanh

from .._cell import LSTMState, Weight, gated_cell, general_cell, tag
from ..initializers import by_gate, hidden_uniform, ones, orthogonal_stack, zeros
from .activations import normalized


@gated_cell("igo", LSTMState)
def lstm_1997(s, u, v):
    """The LSTM of 1997, which has no forget gate: its memory cell only accumulates.

        i  = sigmoid(W_i x + R_i h + b_i)          input gate
        g  = 2 tanh((W_g x + R_g h + b_g) / 2)     what goes into the cell, between -2 and 2
        o  = sigmoid(W_o x + R_o h + b_o)          output gate
        c' = c + i * g                             memory cell, the constant error carousel
        h' = o * tanh(c' / 2)                      hidden state, the output

    The paper writes `2 tanh(a / 2)` as `4 sigmoid(a) - 2`, and `tanh(a / 2)` as
    `2 sigmoid(a) - 1`.  It starts the gates closed, with negative biases, and truncates all
    gradients that leave a memory cell except along the cell itself; here nothing is truncated.
    Gates: `i g o`.  State: `h c`.  Hochreiter and Schmidhuber 1997, "Long short-term memory".
    """
    i, g, o = u + v
    i, g, o = tag(i=sigmoid(i), g=2 * tanh(g / 2), o=sigmoid(o))
    c = s.c + i * g
    return o * tanh(c / 2), c


@gated_cell(
    "ifgos",
    LSTMState,
    recurrent="ifgo",
    bias={"f": 1.0},
    weights={
        **{name: Weight("... hidden", hidden_uniform) for name in ("pi", "pf", "po")},
        "q": Weight("hidden hidden", orthogonal_stack),
    },
)
def residual_lstm(s, u, v, *, pi, pf, po, q):
    """Residual LSTM: the input bypasses the memory cell to the output gate.

        i  = sigmoid(W_i x + R_i h + p_i * c + b_i)
        f  = sigmoid(W_f x + R_f h + p_f * c + b_f)
        g  = tanh(W_g x + R_g h + b_g)
        c' = f * c + i * g
        o  = sigmoid(W_o x + R_o h + p_o * c' + b_o)
        h' = o * (tanh(c') Q + W_s x + b_s)

    The paper's shortcut has no bias, and where sizes are equal it is `x` itself.  Gates:
    `i f g o s`.  State: `h c`.  Kim, El-Khamy and Lee 2017, "Residual LSTM: design of a deep
    recurrent architecture for distant speech recognition", arXiv:1701.03360.
    """
    i, f, g, o = u[:4] + v
    i, f, g, shortcut = tag(i=sigmoid(i + pi * s.c), f=sigmoid(f + pf * s.c), g=tanh(g), s=u[4])
    c = f * s.c + i * g
    o = tag(o=sigmoid(o + po * c))
    return o * (tanh(c) @ q + shortcut), c


@gated_cell("fn", LSTMState, bias={"f": 1.0})
def janet(s, u, v, *, beta=1.0):
    """Just another network: an LSTM with only a forget gate.

        f  = W_f x + R_f h + b_f
        n  = tanh(W_n x + R_n h + b_n)
        c' = sigmoid(f) * c + (1 - sigmoid(f - beta)) * n
        h' = c'

    Options: `beta`; at 0 the gates are coupled.  Gates: `f n`.  State: `h c`.  Van der
    Westhuizen and Lasenby 2018, "The unreasonable effectiveness of the forget gate",
    arXiv:1804.04849.
    """
    f, n = u + v
    i = 1 - sigmoid(f - beta)
    f, n = tag(f=sigmoid(f), n=tanh(n))
    c = f * s.c + i * n
    return c, c


@gated_cell(
    "ifgo",
    LSTMState,
    bias=False,
    weights={
        "a_u": Weight("gates ... hidden", ones),
        "a_v": Weight("gates ... hidden", ones),
        "a_c": Weight("... hidden", ones),
        "b_c": Weight("... hidden", zeros),
        "b_z": Weight("gates ... hidden", by_gate(0.0, 1.0, 0.0, 0.0)),
    },
)
def layer_norm_lstm(s, u, v, *, a_u, a_v, a_c, b_c, b_z, epsilon=1e-5):
    """LSTM with layer normalization, of Ba, Kiros and Hinton, as in Haste.

        i, f, g, o  =  LN(R h) * a_v + LN(W x) * a_u + b_z
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c') * a_c + b_c)

    where `LN` takes all four gates together to mean 0 and variance 1 (`epsilon` added).  The
    shifts of the paper's first two norms are one with `b_z`, which starts at 1 for `f`.  Of a
    single input feature the norm keeps only the sign.  Options: `epsilon`.  Gates: `i f g o`.
    State: `h c`.  Ba, Kiros and Hinton 2016, "Layer normalization", arXiv:1607.06450,
    supplement, equations 20 to 22.  That of TFLite is `gate_norm_lstm`.
    """
    u, v = (normalized(z, (0, -1), epsilon) for z in (u, v))
    i, f, g, o = v * a_v + u * a_u + b_z
    i, f, g, o = tag(i=sigmoid(i), f=sigmoid(f), g=tanh(g), o=sigmoid(o))
    c = f * s.c + i * g
    return o * tanh(normalized(c, -1, epsilon) * a_c + b_c), c


@general_cell("mifgo", LSTMState, bias={"f": 1.0})
def multiplicative_lstm(s, u, recur):
    """Multiplicative LSTM: the input selects the recurrent matrix, in factors.

        m  = (W_m x + b_m) * (R_m h)           stands for h in the LSTM:
        i, f, g, o  =  W x + R m + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Gates: `m i f g o`.  State: `h c`.  Krause et al. 2016, "Multiplicative LSTM for sequence
    modelling", arXiv:1609.07959.  In some implementations the output gate stands within the
    last `tanh`.
    """
    m = tag(m=u[0] * recur(s.h, "m")[0])
    i, f, g, o = u[1:] + recur(m, "ifgo")
    i, f, g, o = tag(i=sigmoid(i), f=sigmoid(f), g=tanh(g), o=sigmoid(o))
    c = f * s.c + i * g
    return o * tanh(c), c


@gated_cell("abcdefjk", LSTMState, bias=False, recurrent_bias=True)
def nas(s, u, v):
    """The cell that neural architecture search found.

        a, b  =  sigmoid(u_a + v_a), relu(u_b + v_b)
        c, d  =  sigmoid(u_c + v_c), relu(u_d * v_d)
        e, f  =  tanh(u_e + v_e), sigmoid(u_f + v_f)
        j, k  =  tanh(u_j + v_j), sigmoid(u_k + v_k)
        C' = tanh(tanh(a * b) + C) * tanh(c + d)       memory cell
        h' = tanh(C' * tanh(tanh(e * f) + sigmoid(j + k)))

    with `u = W x`, `v = R h` and the recurrent bias.  Gates: `a b c d e f j k`.  State: `h c`.
    Zoph and Le 2016, "Neural architecture search with reinforcement learning",
    arXiv:1611.01578, as in TensorFlow's `NASCell`.
    """
    z = u + v
    a, b, c, d = tag(a=sigmoid(z[0]), b=relu(z[1]), c=sigmoid(z[2]), d=relu(u[3] * v[3]))
    e, f, j, k = tag(e=tanh(z[4]), f=sigmoid(z[5]), j=tanh(z[6]), k=sigmoid(z[7]))
    memory = tanh(tanh(a * b) + s.c) * tanh(c + d)
    return tanh(memory * tanh(tanh(e * f) + sigmoid(j + k))), memory
