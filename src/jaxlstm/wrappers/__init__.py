"""Wrappers: noise inside a step, and transformations of the inputs and outputs of a node.

Each function takes a network, or a part of one, and returns it wrapped.  Rates are static values
in the tree.  Noise is active only when `apply` is given a key; without one, the network
computes the expectation over the noise, as in each paper.
"""

from ._deterministic import (
    ClipGradient as ClipGradient,
    InitialState as InitialState,
    clip_gradient as clip_gradient,
    learn_initial_state as learn_initial_state,
)
from ._noise import (
    RecurrentDropout as RecurrentDropout,
    RecurrentNoise as RecurrentNoise,
    StateDropout as StateDropout,
    WeightDrop as WeightDrop,
    Zoneout as Zoneout,
    recurrent_dropout as recurrent_dropout,
    recurrent_noise as recurrent_noise,
    weight_drop as weight_drop,
    zoneout as zoneout,
)
from ._sequence import (
    Dense as Dense,
    Highway as Highway,
    LayerNorm as LayerNorm,
    Residual as Residual,
    SequenceDropout as SequenceDropout,
    dense as dense,
    highway as highway,
    layer_norm as layer_norm,
    residual as residual,
    variational_dropout as variational_dropout,
)
from ._step import each_layer as each_layer
from ._window import Delay as Delay, window as window
