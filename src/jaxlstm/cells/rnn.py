"""The simple recurrent network."""

from jax.nn import relu
from jax.numpy import tanh

from .._cell import HiddenState, gated_cell, tag
from . import activations


@gated_cell("h", HiddenState)
def rnn(s, u, v):
    """Simple recurrent network (Elman 1990, "Finding structure in time").

        h' = tanh(W x + R h + b)

    Gates: `h`.  State: `h`.
    """
    (z,) = u + v
    return (tag(h=tanh(z)),)


@gated_cell("h", HiddenState)
def rnn_relu(s, u, v):
    """Simple recurrent network with a rectifier, as PyTorch's `nonlinearity="relu"`.

        h' = max(0, W x + R h + b)

    Gates: `h`.  State: `h`.  Started at the identity it is the IRNN of Le, Jaitly and
    Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units".
    """
    (z,) = u + v
    return (tag(h=relu(z)),)


@gated_cell("h", HiddenState)
def rnn_variant(s, u, v, *, activation="tanh", clip=None):
    """Simple recurrent network with options.

        h' = activation(clip(W x + R h + b))

    Options: `activation` by name, with its numbers if any, as `("leaky_relu", 0.1)`; `clip`,
    the bound on what goes into it.  Gates: `h`.  State: `h`.  Elman 1990, "Finding structure
    in time"; the operator `RNN` of ONNX.
    """
    (z,) = u + v
    return (tag(h=activations.activation(activation, clip)(z)),)
