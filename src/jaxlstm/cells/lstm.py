"""Long short-term memory."""

from jax.nn import sigmoid
from jax.numpy import tanh

from .._cell import LSTMState, gated_cell, tag


@gated_cell("ifgo", LSTMState, bias={"f": 1.0})
def lstm(s, u, v):
    """Long short-term memory with a forget gate.

        i  = sigmoid(W_i x + R_i h + b_i)        input gate
        f  = sigmoid(W_f x + R_f h + b_f)        forget gate
        g  = tanh(W_g x + R_g h + b_g)           candidate
        o  = sigmoid(W_o x + R_o h + b_o)        output gate
        c' = f * c + i * g                       memory cell
        h' = o * tanh(c')                        hidden state, the output

    Gates: `i f g o`.  State: `h c`.  Hochreiter and Schmidhuber 1997, "Long short-term
    memory"; the forget gate: Gers, Schmidhuber and Cummins 2000, "Learning to forget"; its
    bias starts at 1: Jozefowicz, Zaremba and Sutskever 2015, "An empirical exploration of
    recurrent network architectures".
    """
    i, f, g, o = u + v
    i, f, g, o = tag(i=sigmoid(i), f=sigmoid(f), g=tanh(g), o=sigmoid(o))
    c = f * s.c + i * g
    return o * tanh(c), c
