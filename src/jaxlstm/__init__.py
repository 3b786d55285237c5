"""Recurrent networks for JAX: one call for layers, directions, ragged lengths and state."""

from . import cells as cells, initializers as initializers, wrappers as wrappers
from ._apply import apply as apply, implementations as implementations, step as step
from ._cell import (
    Cell as Cell,
    HiddenState as HiddenState,
    Layer as Layer,
    LSTMState as LSTMState,
    Weight as Weight,
    gated_cell as gated_cell,
    general_cell as general_cell,
    linear_cell as linear_cell,
    tag as tag,
)
from ._containers import (
    Bidirectional as Bidirectional,
    Reverse as Reverse,
    Stack as Stack,
    Static as Static,
)
from ._conv import ConvLayer as ConvLayer, init_conv as init_conv
from ._gradient_flow import (
    gradient_flow as gradient_flow,
    state_jacobians as state_jacobians,
)
from ._init import init as init, lengths_to_mask as lengths_to_mask
from ._node import Context as Context, Node as Node, StepNode as StepNode, run as run
from ._record import Record as Record, record as record
from .cells import (
    gru as gru,
    gru_reset_before as gru_reset_before,
    lstm as lstm,
    mingru as mingru,
    minlstm as minlstm,
    peephole_lstm as peephole_lstm,
    rnn as rnn,
    rnn_relu as rnn_relu,
)

__version__ = "0.1.0"
