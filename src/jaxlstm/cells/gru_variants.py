"""The gated recurrent unit with every option of other frameworks."""

from .._cell import HiddenState, gated_cell, general_cell, tag
from .activations import activation


@gated_cell("rzn", HiddenState, recurrent_bias=True)
def gru_variant(s, u, v, *, gate="sigmoid", candidate="tanh", clip=None):
    """Gated recurrent unit, reset after the product, with options.

        r  = gate(clip(W_r x + b_r + R_r h + d_r))
        z  = gate(clip(W_z x + b_z + R_z h + d_z))
        n  = candidate(clip(W_n x + b_n + r * (R_n h + d_n)))
        h' = (1 - z) * n + z * h

    Options: the activations `gate` and `candidate` by name, with their numbers if any, as
    `("hard_sigmoid", 0.2, 0.5)`; `clip`, the bound on what goes into them.  Gates: `r z n`.
    State: `h`.  Without options it is `gru` (Cho et al. 2014, arXiv:1406.1078 version 1);
    the operator `GRU` of ONNX with `linear_before_reset`.
    """
    r, z = activation(gate, clip)(u[:2] + v[:2])
    n = activation(candidate, clip)(u[2] + r * v[2])
    r, z, n = tag(r=r, z=z, n=n)
    return ((1 - z) * n + z * s.h,)


@general_cell("rzn", HiddenState)
def gru_reset_before_variant(s, u, recur, *, gate="sigmoid", candidate="tanh", clip=None):
    """Gated recurrent unit, reset before the product, with options.

        r  = gate(clip(W_r x + R_r h + b_r))
        z  = gate(clip(W_z x + R_z h + b_z))
        n  = candidate(clip(W_n x + R_n (r * h) + b_n))
        h' = (1 - z) * n + z * h

    Options: those of `gru_variant`.  Gates: `r z n`.  State: `h`.  Without options it is
    `gru_reset_before` (Cho et al. 2014, arXiv:1406.1078 version 3); the operator `GRU` of
    ONNX.
    """
    r, z = activation(gate, clip)(u[:2] + recur(s.h, "rz"))
    (n,) = activation(candidate, clip)(u[2:] + recur(r * s.h, "n"))
    r, z, n = tag(r=r, z=z, n=n)
    return ((1 - z) * n + z * s.h,)
