"""The cells.  Each is its equations; every one that is named here takes the whole exam."""

from .gru import gru as gru, gru_reset_before as gru_reset_before
from .gru_variants import (
    gru_reset_before_variant as gru_reset_before_variant,
    gru_variant as gru_variant,
)
from .lstm import lstm as lstm
from .lstm_variants import (
    coupled_forget_lstm as coupled_forget_lstm,
    coupled_input_lstm as coupled_input_lstm,
    lstm_variant as lstm_variant,
    peephole_lstm as peephole_lstm,
    projected_lstm as projected_lstm,
)
from .rnn import rnn as rnn, rnn_relu as rnn_relu, rnn_variant as rnn_variant
