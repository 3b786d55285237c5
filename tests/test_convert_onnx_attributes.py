"""Attributes and inputs of the recurrent nodes of ONNX: which are read, which are refused."""

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert
from onnx_models import GATES, B, H, one, onnx

ALL_KINDS = tuple(GATES)
READ = {
    "activations": {"RNN": ["Relu"], "GRU": ["HardSigmoid", "Relu"],
                    "LSTM": ["Sigmoid", "Relu", "Tanh"]},
    "activation_alpha": {k: [0.25] for k in ALL_KINDS},
    "activation_beta": {k: [0.75] for k in ALL_KINDS},
    "clip": dict.fromkeys(ALL_KINDS, 0.5),
    "direction": dict.fromkeys(ALL_KINDS, "reverse"),
    "hidden_size": dict.fromkeys(ALL_KINDS, H),
    "layout": dict.fromkeys(ALL_KINDS, 1),
    "linear_before_reset": {"GRU": 1},
    "input_forget": {"LSTM": 1},
}  # fmt: skip
WITH = {
    "activation_alpha": {"activations": {"RNN": ["Elu"], "GRU": ["Sigmoid", "Elu"],
                                         "LSTM": ["Sigmoid", "Elu", "Tanh"]}},
    "activation_beta": {"activations": {"RNN": ["ScaledTanh"], "GRU": ["Sigmoid", "ScaledTanh"],
                                        "LSTM": ["Sigmoid", "ScaledTanh", "Tanh"]}},
}  # fmt: skip
SCHEMA = [(k, a) for k in GATES for a in onnx.defs.get_schema(k).attributes]


@pytest.mark.parametrize(("kind", "name"), SCHEMA)
def test_every_attribute_of_the_standard_is_read(kind, name):
    """With it another network comes out, unless it says what is so anyway."""
    more = {k: v[kind] for k, v in WITH.get(name, {}).items()}
    made = one([], kind=kind, attributes={**more, name: READ[name][kind]})
    plain = one([], kind=kind, attributes=more)
    same_tree = jax.tree.structure(convert.from_onnx(made)) == jax.tree.structure(
        convert.from_onnx(plain)
    )
    assert same_tree == (name in ("hidden_size", "layout"))  # a layout is `axis` of the call


NAMES = [*READ, "output_sequence", "training"]


@pytest.mark.parametrize(
    ("kind", "name"), [(k, a) for k in GATES for a in NAMES if (k, a) not in SCHEMA]
)
def test_every_other_attribute_is_refused(kind, name):
    value = READ.get(name, {name: {kind: 1}}).get(kind, 1)
    with pytest.raises(ValueError, match=f"`rnn`: a {kind} of opset 14 has .*got `{name}`"):
        convert.from_onnx(one([], kind=kind, attributes={name: value}))


WRONG = {
    "activations": [["Sin"] * 3, ["Tanh"], "Tanh", [0.5, 0.5, 0.5]],
    "activation_alpha": [[0.5], 0.5, [float("nan")]],
    "activation_beta": [[0.5], 1],
    "clip": [0.0, -1.0, float("nan"), 1],
    "direction": ["sideways", "foward", 1],
    "hidden_size": [H + 1, 1.5],
    "layout": [2, "time"],
    "input_forget": [2, 0.5],
}


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, values in WRONG.items() for v in values])
def test_wrong_values_of_attributes_are_refused(name, value):
    with pytest.raises(ValueError, match="`rnn`"):
        convert.from_onnx(one([], attributes={name: value}))


def test_attributes_of_older_operator_sets():
    for version in (1, 5):
        made = one([], kind="GRU", version=version, attributes={"output_sequence": 1})
        assert isinstance(convert.from_onnx(made), jaxlstm.Layer)
    made = one([], kind="GRU", version=1, attributes={"direction": "foward"})  # its own default
    assert isinstance(convert.from_onnx(made), jaxlstm.Layer)
    for version, value in ((7, {"output_sequence": 1}), (13, {"layout": 1})):
        with pytest.raises(ValueError, match=f"of opset {version} has the attributes"):
            convert.from_onnx(one([], version=version, attributes=value))


INPUTS = {
    "B": (["B"], None), "sequence_lens": (["", "lens"], "sequence lengths as constants"),
    "initial_h": (["", "", "h"], "starts from constants"),
    "initial_c": (["", "", "", "h"], "starts from constants"),
    "P": (["", "", "", "", "P"], None),
}  # fmt: skip


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("name", INPUTS)
def test_every_input_is_read_or_refused(kind, name):
    arrays = {"P": np.ones((1, 3 * H)), "lens": np.asarray([1, 2], "i"), "h": np.ones((1, B, H))}
    more, message = INPUTS[name]
    if kind != "LSTM" and name in ("initial_c", "P"):
        message = f"a {kind} has"
    made = one([], arrays, kind=kind, inputs=["X", "W", "R", *more])
    if message is not None:
        with pytest.raises(ValueError, match=message):
            convert.from_onnx(made)
    else:
        without = convert.from_onnx(one([], arrays, kind=kind, inputs=["X", "W", "R"]))
        assert jax.tree.structure(convert.from_onnx(made)) != jax.tree.structure(without)
