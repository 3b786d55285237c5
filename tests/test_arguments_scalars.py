"""A number may be Python's, NumPy's or JAX's, wherever one is an option."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxlstm
from jaxlstm import wrappers
from networks import H, N, T, close, inputs, network

KEY = jax.random.key(0)
LSTM = network(jaxlstm.lstm)
WIDE = network(jaxlstm.lstm, sizes=(2 * N, H))

# what an option makes of a number, compared by its repr: static values are in it
REAL = {
    "zoneout": lambda v: wrappers.zoneout(LSTM, v),
    "zoneout, memory": lambda v: wrappers.zoneout(LSTM, 0.5, v),
    "recurrent_dropout": lambda v: wrappers.recurrent_dropout(LSTM, v),
    "recurrent_noise": lambda v: wrappers.recurrent_noise(LSTM, v),
    "weight_drop": lambda v: wrappers.weight_drop(LSTM, v),
    "variational_dropout": lambda v: wrappers.variational_dropout(LSTM, v, v, v),
    "clip_gradient": lambda v: wrappers.clip_gradient(LSTM, v),
    "dropout": lambda v: jaxlstm.init(KEY, jaxlstm.gru, N, H, layers=2, dropout=v),
    "an option of a cell": lambda v: jaxlstm.cells.lstm_variant(clip=v),
    "a number of an activation": lambda v: jaxlstm.cells.rnn_variant(activation=("elu", v)),
    "the bias of a gate": lambda v: jaxlstm.linear_cell("zn", bias={"z": v})(average).bias,
    "growth": lambda v: jaxlstm.bucket_length(50, growth=1 + v),
    "longest": lambda v: jaxlstm.initializers.chrono(KEY, LSTM, 100 * v).b.sum(),
}
WHOLE = {
    "layers": lambda v: jaxlstm.init(KEY, jaxlstm.gru, N, H, layers=v),
    "hidden_size": lambda v: jaxlstm.init(KEY, jaxlstm.gru, N, v),
    "axis": lambda v: jaxlstm.apply(LSTM, jnp.ones((1, 1, T, N)), axis=v)[0].shape,
    "checkpoint": lambda v: jaxlstm.apply(LSTM, inputs(), checkpoint=v)[0].shape,
    "window": lambda v: wrappers.window(WIDE, v),
    "time": lambda v: jaxlstm.lengths_to_mask([1, 2], v).shape,
    "projection": lambda v: jaxlstm.cells.projected_lstm(projection=v),
    "skip": lambda v: jaxlstm.lyapunov(LSTM, inputs(), count=1, skip=v).shape,
}
FLAGS = {
    "reverse": lambda v: jaxlstm.apply(LSTM, inputs(), reverse=v)[0],
    "bidirectional": lambda v: jaxlstm.init(KEY, jaxlstm.gru, N, H, bidirectional=v),
}


def average(u):
    z, n = u
    return jax.nn.sigmoid(z), n


def alike(f, values, expected):
    for value in values:
        got, wanted = f(value), f(expected)
        if hasattr(wanted, "dtype"):
            close(got, wanted)
        else:
            assert repr(got) == repr(wanted), repr(value)


@pytest.mark.parametrize("option", REAL)
def test_a_real_number_of_anyone(option, as_users_call_it):
    kinds = np.float16, np.float32, np.float64, np.array, jnp.float32, jnp.array
    alike(REAL[option], [*(kind(0.25) for kind in kinds), ml_dtypes.bfloat16(0.25)], 0.25)


@pytest.mark.parametrize("option", WHOLE)
def test_a_whole_number_of_anyone(option, as_users_call_it):
    alike(WHOLE[option], [np.int8(2), np.uint64(2), np.array(2), jnp.int32(2)], 2)


@pytest.mark.parametrize("option", FLAGS)
def test_a_flag_of_anyone(option, as_users_call_it):
    alike(FLAGS[option], [np.bool_(True), np.array(True), jnp.bool_(True)], True)


@pytest.mark.parametrize("value", ["0.25", [0.25], np.array([0.25]), True, 1j, 10**400], ids=type)
def test_what_is_no_number(value, as_users_call_it):
    checked = "zoneout", "recurrent_dropout", "recurrent_noise", "variational_dropout"
    for option in (*checked, "weight_drop", "clip_gradient", "dropout", "the bias of a gate"):
        with pytest.raises((TypeError, ValueError), match=r"must (be|map).*; got"):
            REAL[option](value)


@pytest.mark.parametrize("option", [*REAL, *WHOLE, *FLAGS])
def test_what_is_traced_is_no_option(option, as_users_call_it):
    def f(value):
        {**REAL, **WHOLE, **FLAGS}[option](value)
        return value

    value = 0.25 if option in REAL else 2 if option in WHOLE else True
    with pytest.raises((TypeError, ValueError), match="traced"):
        jax.jit(f)(value)
