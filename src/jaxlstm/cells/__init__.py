"""The cells.  Each is its equations; every one that is named here takes the whole exam."""

from .dynamical import (
    antisymmetric_rnn as antisymmetric_rnn,
    cornn as cornn,
    ctrnn as ctrnn,
    gated_antisymmetric_rnn as gated_antisymmetric_rnn,
    indrnn as indrnn,
    lem as lem,
    multiplicative_rnn as multiplicative_rnn,
    scrn as scrn,
)
from .gated_rnns import (
    brc as brc,
    cfn as cfn,
    fastgrnn as fastgrnn,
    fastrnn as fastrnn,
    minimal_rnn as minimal_rnn,
    nbrc as nbrc,
    ran as ran,
    rhn as rhn,
    star as star,
    ugrnn as ugrnn,
)
from .gru import gru as gru, gru_reset_before as gru_reset_before
from .gru_family import (
    light_ru as light_ru,
    ligru as ligru,
    mgu as mgu,
    mgu_reset_after as mgu_reset_after,
    mut1 as mut1,
    mut2 as mut2,
    mut3 as mut3,
    sru_peephole as sru_peephole,
    tau_gru as tau_gru,
)
from .gru_variants import (
    gru_reset_before_variant as gru_reset_before_variant,
    gru_variant as gru_variant,
)
from .linear import (
    gated_average as gated_average,
    mingru as mingru,
    minlstm as minlstm,
    qrnn as qrnn,
    qrnn_f as qrnn_f,
    qrnn_ifo as qrnn_ifo,
    sru as sru,
)
from .lstm import lstm as lstm
from .lstm_family import (
    janet as janet,
    layer_norm_lstm as layer_norm_lstm,
    lstm_1997 as lstm_1997,
    multiplicative_lstm as multiplicative_lstm,
    nas as nas,
    residual_lstm as residual_lstm,
)
from .lstm_variants import (
    coupled_forget_lstm as coupled_forget_lstm,
    coupled_input_lstm as coupled_input_lstm,
    gate_norm_lstm as gate_norm_lstm,
    lstm_variant as lstm_variant,
    peephole_lstm as peephole_lstm,
    projected_lstm as projected_lstm,
)
from .rnn import rnn as rnn, rnn_relu as rnn_relu, rnn_variant as rnn_variant
from .state_space import damped_average as damped_average, lru as lru, rg_lru as rg_lru
from .xlstm import mlstm as mlstm, slstm as slstm
