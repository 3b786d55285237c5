"""Gated recurrent units."""

from jax.nn import sigmoid
from jax.numpy import tanh

from .._cell import HiddenState, gated_cell, general_cell, tag


@gated_cell("rzn", HiddenState, recurrent_bias=True)
def gru(s, u, v):
    """Gated recurrent unit, reset after the product, as in cuDNN, PyTorch and Keras.

        r  = sigmoid(W_r x + b_r + R_r h + d_r)         reset gate
        z  = sigmoid(W_z x + b_z + R_z h + d_z)         update gate
        n  = tanh(W_n x + b_n + r * (R_n h + d_n))      candidate
        h' = (1 - z) * n + z * h

    with `d` the recurrent bias.  Gates: `r z n`.  State: `h`.  Cho et al. 2014, "Learning
    phrase representations using RNN encoder-decoder for statistical machine translation",
    arXiv:1406.1078 version 1; in version 3 the reset comes before (`gru_reset_before`).
    """
    r, z = sigmoid(u[:2] + v[:2])
    n = tanh(u[2] + r * v[2])
    r, z, n = tag(r=r, z=z, n=n)
    return ((1 - z) * n + z * s.h,)


@general_cell("rzn", HiddenState)
def gru_reset_before(s, u, recur):
    """Gated recurrent unit, reset before the product.

        r  = sigmoid(W_r x + R_r h + b_r)         reset gate
        z  = sigmoid(W_z x + R_z h + b_z)         update gate
        n  = tanh(W_n x + R_n (r * h) + b_n)      candidate
        h' = (1 - z) * n + z * h

    Gates: `r z n`.  State: `h`.  Cho et al. 2014, "Learning phrase representations using
    RNN encoder-decoder for statistical machine translation", arXiv:1406.1078 version 3.
    """
    r, z = sigmoid(u[:2] + recur(s.h, "rz"))
    (n,) = tanh(u[2:] + recur(r * s.h, "n"))
    r, z, n = tag(r=r, z=z, n=n)
    return ((1 - z) * n + z * s.h,)
