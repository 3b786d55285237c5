"""A conversion that cannot be exact says why, and so does a mapping that is no network."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert as c
from jaxlstm.cells import gru, gru_reset_before, lstm, rnn
from networks import numbers as network

LSTM, GRU = network(lstm), network(gru)
WEIGHTS = c.to_torch(LSTM)
UNBIASED = {k: a for k, a in WEIGHTS.items() if "bias" not in k}
BOTH = c.to_torch(network(rnn, "bidirectional"))
HALF = {k: a for k, a in BOTH.items() if "l1_r" not in k}
CELLS = {"a": c.to_equinox(LSTM), "b": c.to_equinox(LSTM)}
NARROWER = jaxlstm.init(jax.random.key(0), lstm, 2, 5)
MIXED = jaxlstm.Stack((LSTM, jaxlstm.init(jax.random.key(0), gru, 5, 5)))
INTEGERS = {k: a.astype(int) for k, a in WEIGHTS.items()}
NARROW = {k: a.astype("float32") if "ih" in k else a for k, a in WEIGHTS.items()}
SHORT = {**WEIGHTS, "weight_ih_l0": np.ones((15, 3))}
UNEVEN = {**c.to_flax(GRU), "ir": {"kernel": np.ones((2, 5)), "bias": np.ones(5)}}

GAP = {**WEIGHTS, **{k.replace("l0", "l2"): a for k, a in WEIGHTS.items()}}
DENSE = {"lstm/linear": {"w": np.ones((8, 20)), "b": np.ones(20)}, "linear": {"w": np.ones((5, 2))}}
STACKS = jaxlstm.Bidirectional(network(lstm, "stack"), network(lstm, "stack"))


def without(name):
    return {k: a for k, a in WEIGHTS.items() if name not in k}


CASES = {
    "reset": (lambda: c.to_torch(network(gru_reset_before)), "resets after the recurrent"),
    "haiku": (lambda: c.to_haiku(GRU), "Haiku has no `gru`: its GRU resets before"),
    "relu": (lambda: c.to_haiku(network(rnn)), "has a rectifier"),
    "candidate": (lambda: c.to_flax(GRU, api="nnx"), "recurrent bias of gate `n` is not zero"),
    "mixed": (lambda: c.to_torch(MIXED), "have the same cells"),
    "no mapping": (lambda: c.from_torch(LSTM.cell), "must be a mapping of names to arrays"),
    "no gates": (lambda: c.from_torch(SHORT), "must hold 4 gates"),
    "half": (lambda: c.from_torch(HALF), "one direction and no backward one"),
    "cell": (lambda: c.from_torch(WEIGHTS, cell=gru), "not the weights that PyTorch has for `gru`"),
    "cell's name": (lambda: c.from_torch(WEIGHTS, cell="lstm"), "`cell` must be a cell such as"),
    "no bias_hh": (lambda: c.from_torch(without("bias_hh")), r"missing \['bias_hh'\]. Of a larger"),
    "no weight": (lambda: c.from_torch(without("weight_hh")), r"missing \['weight_hh'\]"),
    "a gap": (lambda: c.from_torch(GAP), r"the layers \[1\] are missing"),
    "dense": (lambda: c.from_haiku(DENSE), "Of a larger model, name the recurrent layers with"),
    "stacks": (lambda: c.to_torch(STACKS), "must hold layers; got one that holds stacks"),
    "order": (lambda: c.from_equinox(CELLS), "do not say which layer comes first"),
    "integers": (lambda: c.from_torch(INTEGERS), "must be of a floating dtype"),
    "dtypes": (lambda: c.from_torch(NARROW), "of one dtype"),
    "uneven": (lambda: c.from_flax(UNEVEN), "the weights of all gates must have one shape"),
    "list": (lambda: c.from_keras([np.ones(3)]), "a list of Keras weights must hold"),
    "which list": (lambda: c.from_keras([np.ones((2, 6))] * 6), "which can be either"),
    "wrapper": (lambda: c.to_torch(jaxlstm.Static(3)), "a `Static` has no counterpart"),
    "like": (lambda: c.to_torch(network(gru, "stack"), like=c.to_torch(GRU)), "`like` has the"),
    "like bias": (lambda: c.to_torch(LSTM, like=UNBIASED), "has no bias, and `params` has one"),
    "like shape": (lambda: c.to_torch(LSTM, like=c.to_torch(NARROWER)), "must have shape"),
    "haiku bias": (lambda: c.from_haiku({"lstm/linear": {"w": np.ones((9, 16))}}), "is missing"),
    "api": (lambda: c.to_flax(LSTM, api="haiku"), "`api` must be 'linen' or 'nnx'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_exact_says_why(name):
    call, said = CASES[name]
    with pytest.raises((TypeError, ValueError), match=said):
        call()


def test_float64_is_not_truncated():
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(TypeError, match="which JAX would truncate"):
        c.from_torch(WEIGHTS)


ALONE = """
import sys, jaxlstm
assert "jaxlstm.convert" not in sys.modules
from jaxlstm import convert
found = {"torch", "keras", "flax", "haiku", "equinox", "onnx", "safetensors"} & set(sys.modules)
assert not found, found
"""


def test_no_framework_is_imported_and_convert_only_by_its_user():
    subprocess.run([sys.executable, "-c", ALONE], check=True)
