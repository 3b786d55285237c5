"""The cells.  Each is its equations; every one that is named here takes the whole exam."""

from .gru import gru as gru, gru_reset_before as gru_reset_before
from .lstm import lstm as lstm
from .rnn import rnn as rnn, rnn_relu as rnn_relu
