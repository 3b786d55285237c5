"""The two cells of the xLSTM, with exponential gates."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid
from jax.numpy import exp, tanh
from jaxtyping import Array, Float

from .._cell import gated_cell, linear_cell, tag


class Scalar(NamedTuple):
    """State of the sLSTM: output, memory, normalizer, stabilizer."""

    h: Float[Array, "*batch hidden"]
    c: Float[Array, "*batch hidden"]
    n: Float[Array, "*batch hidden"]
    m: Float[Array, "*batch hidden"]


class Matrix(NamedTuple):
    """State of the mLSTM: output, memory, normalizer."""

    h: Float[Array, "*batch hidden"]
    c: Float[Array, "*batch heads value key"]
    n: Float[Array, "*batch heads key"]


@gated_cell("ifgo", Scalar, bias={"f": 1.0})
def slstm(s, u, v, *, heads=1):
    """Scalar LSTM with exponential gates.

        i, f, g, o  =  W x + R h + b
        m' = max(log sigmoid(f) + m, i)              stabilizer
        i' = exp(i - m')                             input gate
        f' = exp(log sigmoid(f) + m - m')            forget gate
        c' = f' * c + i' * tanh(g)                   memory
        n' = f' * n + i'                             normalizer
        h' = sigmoid(o) * c' / n'

    Options: `heads`; `R` is block diagonal with a block for each.  Gates: `i f g o`.  State:
    `h c n m`.  Beck et al. 2024, "xLSTM: extended long short-term memory", arXiv:2405.04517,
    with the sigmoid forget gate.  Where nothing is remembered yet, `i` stands for
    `log sigmoid(f) + m`, so that the normalizer is 1 however closed the first input gate is.
    """
    i, f, g, o = u + v
    decayed = jnp.where(s.n == 0, i, log_sigmoid(f) + s.m)
    m = jnp.maximum(decayed, i)
    i, f, g, o = tag(i=exp(i - m), f=exp(decayed - m), g=tanh(g), o=sigmoid(o))
    c, n = f * s.c + i * g, f * s.n + i
    return o * c / n, c, n, m


@linear_cell("ifqkvo", Matrix, bias={"f": 3.0}, sizes=("hidden", "heads head head", "heads head"))
def mlstm(u, *, heads=1, cap=15.0):
    """Matrix LSTM: a memory of outer products, written and read by keys.

        q, k, v     =  W x + b, for each head of d units; k divided by sqrt(d)
        i, f        =  W x + b, one number a head: the mean of its row over the head's units
        i  = exp(cap tanh(i / cap))                  input gate
        f  = sigmoid(cap tanh(f / cap))              forget gate
        C' = f C + i v k^T                           memory
        n' = f n + i k                               normalizer
        h' = sigmoid(o) * C' q / max(|n'^T q|, 1)

    Options: `heads`; `cap`, the soft bound on the gates that stands in for a stabilizer, as
    in Beck et al. 2025, "xLSTM 7B", arXiv:2503.13427.  Gates: `i f q k v o`.  State: `h c n`.
    Beck et al. 2024, "xLSTM: extended long short-term memory", arXiv:2405.04517.
    """
    i, f, q, k, v = (x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads) for x in u[:5])
    i, f = (cap * tanh(x.mean(-1, keepdims=True) / cap) for x in (i, f))
    i, f, k = exp(i), sigmoid(f), k / k.shape[-1] ** 0.5
    i, f, q, k, v, o = tag(i=i, f=f, q=q, k=k, v=v, o=sigmoid(u[5]))

    def read(c, n):
        overlap = jnp.abs((n * q).sum(-1, keepdims=True))
        h = (c * q[..., None, :]).sum(-1) / jnp.maximum(overlap, 1)
        return o * h.reshape(o.shape)

    return (f[..., None], f), (i[..., None] * v[..., :, None] * k[..., None, :], i * k), read
