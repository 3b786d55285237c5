"""Recurrent networks for JAX: one call for layers, directions, ragged lengths and state."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from . import (
    _export as _export,
    _flax as _flax,
    cells as cells,
    initializers as initializers,
    wrappers as wrappers,
)
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
    BidirectionalState as BidirectionalState,
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
from ._long import (
    bucket_length as bucket_length,
    burn_in as burn_in,
    segmented_loss as segmented_loss,
    truncated_value_and_grad as truncated_value_and_grad,
)
from ._lyapunov import lyapunov as lyapunov
from ._newton_report import NewtonReport as NewtonReport, newton_report as newton_report
from ._node import Context as Context, Node as Node, StepNode as StepNode, run as run
from ._record import Record as Record, record as record
from ._roles import (
    decay_mask as decay_mask,
    muon_dimension_numbers as muon_dimension_numbers,
    weight_roles as weight_roles,
)
from ._summary import summary as summary
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

if TYPE_CHECKING:
    from . import convert as convert, plot as plot

__version__ = "0.1.0"

_ON_USE = ("convert", "plot")  # imported when they are first used


def __getattr__(name: str) -> ModuleType:
    if name in _ON_USE:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_USE])


_flax.register()
