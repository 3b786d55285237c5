"""Gated averages: linear in their memory, so parallel in time."""

from jax.nn import log_sigmoid, sigmoid
from jax.numpy import tanh

from .._cell import LSTMState, linear_cell, tag
from . import activations


@linear_cell("zn")
def mingru(u):
    """Minimal GRU whose gate does not wait for the state.

        z  = sigmoid(W_z x + b_z)          update gate
        n  = W_n x + b_n                   candidate
        h' = (1 - z) * h + z * n

    Gates: `z n`.  State: `h`.  Feng et al. 2024, "Were RNNs all we needed?",
    arXiv:2410.01201, in its form without logarithms.
    """
    z, n = tag(z=sigmoid(u[0]), n=u[1])
    return 1 - z, z * n


@linear_cell("ifn")
def minlstm(u):
    """Minimal LSTM whose gates do not wait for the state, and sum to one.

        i  = sigmoid(W_i x + b_i)          input gate
        f  = sigmoid(W_f x + b_f)          forget gate
        n  = W_n x + b_n                   candidate
        h' = f / (f + i) * h + i / (f + i) * n

    Gates: `i f n`; what is named `i` and `f` are their shares `i / (f + i)` and `f / (f + i)`.
    State: `h`.  Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201.
    """
    # The shares from the gates' logarithms, as both gates may be so far closed that they are 0.
    apart = log_sigmoid(u[1]) - log_sigmoid(u[0])
    i, f, n = tag(i=sigmoid(-apart), f=sigmoid(apart), n=u[2])
    return f, i * n


@linear_cell("an")
def gated_average(u, *, activation="tanh"):
    """Exponential average whose rate the input sets: the gated impulse linear recurrent layer.

        a  = sigmoid(W_a x + b_a)               how much is kept
        n  = activation(W_n x + b_n)            candidate
        h' = a * h + (1 - a) * n

    Options: `activation`, by name.  Gates: `a n`.  State: `h`.  Martin and Cundy 2018,
    "Parallelizing linear recurrent neural nets over sequence length", arXiv:1709.04057.
    """
    a, n = tag(a=sigmoid(u[0]), n=activations.activation(activation)(u[1]))
    return a, (1 - a) * n


@linear_cell("nf")
def qrnn_f(u):
    """Quasi-recurrent network with f-pooling.

        n  = tanh(W_n x + b_n)             candidate
        f  = sigmoid(W_f x + b_f)          forget gate
        h' = f * h + (1 - f) * n

    Gates: `n f`.  State: `h`.  For the paper's convolution over a window of
    inputs see `jaxlstm.wrappers.window`, which any cell can have.  Bradbury et al. 2016,
    "Quasi-recurrent neural networks", arXiv:1611.01576.
    """
    n, f = tag(n=tanh(u[0]), f=sigmoid(u[1]))
    return f, (1 - f) * n


@linear_cell("nfo", LSTMState)
def qrnn(u):
    """Quasi-recurrent network with fo-pooling.

        n  = tanh(W_n x + b_n)             candidate
        f  = sigmoid(W_f x + b_f)          forget gate
        o  = sigmoid(W_o x + b_o)          output gate
        c' = f * c + (1 - f) * n           memory
        h' = o * c'

    Gates: `n f o`.  State: `h c`.  For the paper's convolution over a window of
    inputs see `jaxlstm.wrappers.window`, which any cell can have.  Bradbury et al. 2016,
    "Quasi-recurrent neural networks", arXiv:1611.01576.
    """
    n, f, o = tag(n=tanh(u[0]), f=sigmoid(u[1]), o=sigmoid(u[2]))
    return f, (1 - f) * n, lambda c: o * c


@linear_cell("nifo", LSTMState)
def qrnn_ifo(u):
    """Quasi-recurrent network with ifo-pooling.

        n  = tanh(W_n x + b_n)             candidate
        i  = sigmoid(W_i x + b_i)          input gate
        f  = sigmoid(W_f x + b_f)          forget gate
        o  = sigmoid(W_o x + b_o)          output gate
        c' = f * c + i * n                 memory
        h' = o * c'

    Gates: `n i f o`.  State: `h c`.  For the paper's convolution over a window of
    inputs see `jaxlstm.wrappers.window`, which any cell can have.  Bradbury et al. 2016,
    "Quasi-recurrent neural networks", arXiv:1611.01576.
    """
    n, i, f, o = u
    n, i, f, o = tag(n=tanh(n), i=sigmoid(i), f=sigmoid(f), o=sigmoid(o))
    return f, i * n, lambda c: o * c


@linear_cell("nfrs", LSTMState)
def sru(u, *, activation="tanh"):
    """Simple recurrent unit, of the first version, whose gates do not see the memory.

        n  = W_n x + b_n                   candidate
        f  = sigmoid(W_f x + b_f)          forget gate
        r  = sigmoid(W_r x + b_r)          reset gate
        c' = f * c + (1 - f) * n           memory
        h' = r * activation(c') + (1 - r) * (W_s x + b_s)

    The last product stands for the paper's `x` where sizes differ, here always.  Options:
    `activation`, by name.  Gates: `n f r s`.  State: `h c`.  Lei, Zhang and Artzi 2017,
    "Training RNNs as fast as CNNs", arXiv:1709.02755 version 1; in later versions the gates
    see the memory (`sru_peephole`).
    """
    n, f, r, s = u
    n, f, r, s = tag(n=n, f=sigmoid(f), r=sigmoid(r), s=s)
    return f, (1 - f) * n, lambda c: r * activations.activation(activation)(c) + (1 - r) * s
