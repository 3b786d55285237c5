"""A conversion that cannot be exact says why, and so does a mapping that is no network."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert as c
from jaxlstm.cells import gru, gru_reset_before, lstm, projected_lstm, rnn
from networks import numbers as network

LSTM, GRU = network(lstm), network(gru)
WEIGHTS = c.to_torch(LSTM)
UNBIASED = {k: a for k, a in WEIGHTS.items() if "bias" not in k}
BOTH = c.to_torch(network(rnn, "bidirectional"))
HALF = {k: a for k, a in BOTH.items() if "l1_r" not in k}
CELLS = {"a": c.to_equinox(LSTM), "b": c.to_equinox(LSTM)}
NARROWER = network(lstm, sizes=(2, 5))
MIXED = jaxlstm.Stack((LSTM, network(gru, sizes=(5, 5))))
INTEGERS = {k: a.astype(int) for k, a in WEIGHTS.items()}
NARROW = {k: a.astype("float32") if "ih" in k else a for k, a in WEIGHTS.items()}
SHORT = {**WEIGHTS, "weight_ih_l0": np.ones((15, 3))}
UNEVEN = {**c.to_flax(GRU), "ir": {"kernel": np.ones((2, 5)), "bias": np.ones(5)}}

GAP = {**WEIGHTS, **{k.replace("l0", "l2"): a for k, a in WEIGHTS.items()}}
DENSE = {"lstm/linear": {"w": np.ones((8, 20)), "b": np.ones(20)}, "linear": {"w": np.ones((5, 2))}}
STACKS = jaxlstm.Bidirectional(network(lstm, "stack"), network(lstm, "stack"))


ABSTRACT = jax.eval_shape(lambda: LSTM)
PROJECTED = c.to_torch(network(projected_lstm(projection=2)))
SMALL = network(lstm, sizes=(3, 3))
SQUARES = network(lstm, "stack", sizes=(5, 5))
STACK = network(lstm, "stack")
SQUARE = c.to_torch(SQUARES.layers[0])
TWO_STACKS = jaxlstm.Bidirectional(SQUARES, SQUARES)
HALF_STACK = jaxlstm.Stack((network(lstm, sizes=(3, 5)), network(lstm, sizes=(5, 3))))
NARROW_AND_WIDE = jaxlstm.Bidirectional(HALF_STACK, HALF_STACK)
SIBLINGS = {f"{k}.{name}": a for k in range(2) for name, a in SQUARE.items()}
SECOND = {k.replace("l0", "l1"): a.astype("float32") for k, a in SQUARE.items()}
HALVED = jax.tree.map(lambda a: a.astype("float32"), SQUARES.layers[0])
ODD = c.to_keras(SQUARES) + c.to_keras(LSTM)


def keras(layer):
    return dict(zip(("kernel", "recurrent_kernel", "bias"), c.to_keras(layer)))


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
    "projection": (lambda: c.from_torch({**PROJECTED, "weight_hr_l0": np.ones((2, 7))}),
        r"`weight_hr_l0` must have shape \(2, 5\); got \(2, 7\)"),
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
    "siblings": (lambda: c.from_torch(SIBLINGS), r"prefix=\['0', '1'\]` makes a stack"),
    "siblings, nested": (lambda: c.from_torch({"0": SQUARE, "1": SQUARE}), "which layer comes"),
    "siblings by side": (lambda: c.from_torch({"forward_lm": SQUARE, "backward_lm": SQUARE}),
        "which layer comes first"),
    "siblings like": (lambda: c.to_torch(STACK, like=SIBLINGS), "which layer comes first"),
    "a layer and a cell": (lambda: c.from_torch({**WEIGHTS, "weight_ih": WEIGHTS["weight_ih_l0"],
        "weight_hh": WEIGHTS["weight_hh_l0"]}), "Give each a mapping of its own"),
    "half, nested": (lambda: c.from_torch({"a": {"b": HALF}}), "`a.b.l1` has one direction and no"),
    "backward alone": (lambda: c.from_torch({k: a for k, a in BOTH.items() if "reverse" in k}),
        "one direction and no forward one"),
    "gap, nested": (lambda: c.from_torch({"a": {"b": GAP}}), r"\[1\] are missing below 'a.b'"),
    "other inputs": (lambda: c.from_keras({"bidirectional/forward_a": keras(SMALL),
        "bidirectional/backward_a": keras(LSTM)}), "take the same inputs; the forward one takes 3"),
    "nnx list": (lambda: c.from_flax({0: c.to_flax(SMALL), 1: c.to_flax(SMALL)}), "which layer"),
    "half of Flax": (lambda: c.from_flax({"forward_rnn": {"cell": c.to_flax(LSTM)}}), "no back"),
    "of two directions": (lambda: c.from_keras(c.to_keras(SQUARES)), "may be a stack or two dire"),
    "of two stacks": (lambda: c.from_keras(c.to_keras(TWO_STACKS)), "or two directions.*w.path"),
    "of two stacks that widen and narrow": (
        lambda: c.from_keras(c.to_keras(NARROW_AND_WIDE)), "may be a stack or two directions",
    ),
    "merge mode": (lambda: c.from_keras({"bidirectional/forward_a": keras(LSTM),
        "bidirectional/backward_a": keras(LSTM), "b": keras(SQUARES.layers[0])},
        prefix=["bidirectional", "b"]), "merge_mode"),
    "pairs": (lambda: c.from_keras(ODD, bidirectional=True), "takes layers in pairs; got 3"),
    "which GRU": (lambda: c.from_keras(c.to_keras(GRU)[:2]), "say which with `cell=`"),
    "two biases": (lambda: c.from_keras({**keras(GRU), "bias": np.ones((3, 15))}), "must hold two"),
    "twice": (lambda: c.from_torch(SIBLINGS, prefix=["0", "0"]), "name some arrays twice"),
    "prefix": (lambda: c.from_torch(WEIGHTS, prefix=3), "a name or a list of names"),
    "prefixes": (lambda: c.from_torch(WEIGHTS, prefix=[]), "got an empty list"),
    "many prefixes": (lambda: c.to_flax(STACK, prefix=["a", "b"]), "without `like`, `prefix`"),
    "mlp": (lambda: c.from_haiku({"mlp/linear": {"w": np.ones((8, 8)), "b": np.ones(8)}}),
        "need not be a layer `lstm`: name it with `prefix='mlp'`"),
    "linear": (
        lambda: c.from_haiku({"linear": {"w": np.ones((8, 8)), "b": np.ones(8)}}), "say `ce",
    ),
    "one name": (
        lambda: c.from_torch({"a.weight_ih_l0": 1, "a": {"weight_ih_l0": 1}}), "two arrays",
    ),
    "one array": (lambda: c.from_keras({**keras(LSTM), "bias:0": np.ones(20)}), "the one array"),
    "list of things": (lambda: c.from_torch([1, 2]), "no recurrent weights below the prefix '0'"),
    "dtypes of layers": (lambda: c.from_torch({**WEIGHTS, **SECOND}), "of one dtype"),
    "to dtypes": (lambda: c.to_torch(jaxlstm.Stack((LSTM, HALVED))), "of one dtype"),
    "to widths": (lambda: c.to_keras(jaxlstm.Stack((LSTM, LSTM))), "they are no stack"),
    "to sides": (lambda: c.to_keras(jaxlstm.Bidirectional(LSTM, SMALL)), "take the same inputs"),
    "to gates": (lambda: c.to_torch(LSTM._replace(cell=gru)), "`w` of gru must have"),
    "to no r": (lambda: c.to_torch(LSTM._replace(r=None)), "`r` of lstm must have"),
    "to nothing": (lambda: c.to_torch(jaxlstm.Stack(())), "has no layers"),
    "to shapes": (lambda: c.to_torch(ABSTRACT), "`w` must be an array; got its shape and dtype"),
    "to shapes of paths": (lambda: c.to_dict(ABSTRACT), "`w` must be an array; got its shape"),
    "to a stack of what": (lambda: c.to_keras(jaxlstm.Stack(3)), "must hold a tuple of layers"),
    "to reverse": (lambda: c.to_torch(jaxlstm.Reverse(LSTM)), "a `Reverse` has no counterpart"),
    "to directions": (lambda: c.to_haiku(STACKS, prefix=list("abcd"), like={k: v for name in "abcd"
        for k, v in c.to_haiku(LSTM, prefix=name).items()}), "of the directions"),
    "no keys": (lambda: c.from_dict(3, like=LSTM), "`arrays` must map key paths"),
    "odd keys": (lambda: c.from_dict({**c.to_dict(LSTM), 3: 1, None: 1}, like=LSTM), "too many"),
    "no leaf": (lambda: c.from_dict({"a": 1.0}, like={"a": 1.0}), "`like` must hold arrays"),
    "api": (lambda: c.to_flax(LSTM, api="haiku"), "`api` must be 'linen' or 'nnx'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_exact_says_why(name):
    call, message = CASES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


FLAGS = {
    "from_torch": (lambda **o: c.from_torch(WEIGHTS, **o), ["sum_biases"]),
    "from_flax": (lambda **o: c.from_flax(c.to_flax(GRU), **o), ["bidirectional"]),
    "from_haiku": (
        lambda **o: c.from_haiku(c.to_haiku(LSTM), **o),
        ["bidirectional", "sum_biases"],
    ),
    "from_equinox": (lambda **o: c.from_equinox(CELLS["a"], **o), ["bidirectional"]),
    "to_onnx": (lambda **o: c.to_onnx(LSTM, **o), ["lengths", "state"]),
    "from_onnx": (lambda **o: c.from_onnx(c.to_onnx(LSTM), **o), ["state", "sum_biases"]),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_true_or_false(name, as_users_call_it):
    call, flags = FLAGS[name]
    if "onnx" in name:
        pytest.importorskip("onnx")
    for flag in flags:
        for value in ("no", 1, None, [True]):
            with pytest.raises(TypeError, match=f"`{flag}` must be True or False; got"):
                call(**{flag: value})


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


ALTERED = {
    "weight_hh_l0_g": "weight-normed.*remove_weight_norm.module, 'weight_hh_l0'",
    "weight_ih_l0_reverse_v": "weight-normed.*'weight_ih_l0_reverse'",
    "parametrizations.weight_hh_l0.original": "parametrized.*remove_parametrizations",
    "parametrizations.weight_hh_l0.0._u": "parametrized.*remove_parametrizations",
    "weight_hh_l0_orig": "spectral-normed.*remove_spectral_norm",
    "weight_hh_l0_mask": "pruned.*prune.remove",
    "weight_hh_g": "weight-normed.*'weight_hh'",
    "weight_hh_l0_raw": "weight-dropped.*without the `_raw`",
    "_all_weight_values.0.param": "dynamically quantised.*get_weight",
    "_packed_weight_ih": "dynamically quantised.*Convert the module that it was made from",
    "layers.0.layer_fw.cell.igates.weight": "quantisable.*made from",
}


@pytest.mark.parametrize("found", ALTERED)
@pytest.mark.parametrize("at", ["", "encoder.rnn."])
@pytest.mark.parametrize("prefixed", [False, True])
def test_what_was_done_to_a_module_is_named(found, at, prefixed):
    weights = {at + k: a for k, a in WEIGHTS.items()} | {at + found: np.ones((20, 5))}
    weights |= {"head.weight": np.ones(3)} if prefixed else {}
    with pytest.raises(ValueError, match=ALTERED[found]) as caught:
        c.from_torch(weights, prefix=at if prefixed and at else "")
    assert f"`{at}{found}`" in str(caught.value)
    assert "prefix" not in str(caught.value)


def test_what_lies_above_the_inner_module_is_seen():
    """The dropped weights of the inner module are whole; those at rest stand beside it."""
    weights = {f"rnn.module.{k}": a for k, a in WEIGHTS.items()}
    weights |= {"rnn.weight_hh_l0_raw": WEIGHTS["weight_hh_l0"]}
    with pytest.raises(ValueError, match="weight-dropped"):
        c.from_torch(weights, prefix="rnn.module")


class Torch:
    state_dict = load_state_dict = None


class Keras:
    get_weights = weights = None


class Linen:
    init = apply = None


NNX = type("LSTMCell", (), {"__module__": "flax.nnx.nn.recurrent"})
HAIKU = type("LSTM", (), {"__module__": "haiku._src.recurrent"})
CONVERTERS = [c.from_torch, c.from_keras, c.from_flax, c.from_haiku, c.from_equinox]
CONVERTERS += [lambda like, to=to: to(LSTM, like=like) for to in (c.to_torch, c.to_haiku)]
MODULES = {
    Torch: "a PyTorch module, a `Torch`: pass `module.state_dict",
    Keras: "a Keras layer or model.*get_weights",
    Linen: "the parameters that `init` returns",
    NNX: "an nnx module.*to_pure_dict",
    HAIKU: "a Haiku module",
    str: "must be a mapping of names to arrays; got a str",
}


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_a_module_is_no_mapping(kind):
    for convert in CONVERTERS:
        with pytest.raises(TypeError, match=MODULES[kind]):
            convert(kind())


KEYS = [None, b"weight_ih_l0", ("a", "b"), 1.5, True]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_names_are_strings(key):
    for convert in CONVERTERS[:5]:
        for tree in ({key: np.ones(3)}, {"a": {key: np.ones(3)}}):
            with pytest.raises(TypeError, match="the names must be strings; got the key"):
                convert(tree)
    c.from_torch({"rnn": WEIGHTS, key: {key: 3}}, prefix="rnn")  # of a part that is not meant


def test_a_mapping_that_holds_itself_ends():
    tree = dict(WEIGHTS)
    tree["self"] = tree
    for convert in CONVERTERS:
        with pytest.raises(ValueError, match="nested deeper than 64 levels"):
            convert(tree)
    with pytest.raises(ValueError, match="more than 64 components"):
        c.from_torch({"a." * 5000 + "weight_ih_l0": np.ones(3)})


WRONG = {
    "text": ("x", TypeError),
    "number": (3.0, TypeError),
    "object": (object(), TypeError),
    "integers": (int, TypeError),
    "complex": (complex, TypeError),
    "objects": (object, TypeError),
    "axes": (np.ones((20, 4, 1)), ValueError),
    "nothing": (np.ones((0, 0)), ValueError),
    "scalar": (np.ones(()), ValueError),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_error_names_the_tensor(wrong):
    a, kind = WRONG[wrong]
    for name, right in WEIGHTS.items():
        a = right.astype(WRONG[wrong][0]) if isinstance(WRONG[wrong][0], type) else a
        given = {f"rnn.{k}": v for k, v in WEIGHTS.items()} | {f"rnn.{name}": a}
        with pytest.raises(kind, match=rf"rnn\.{name}"):
            c.from_torch(given)


def test_equinox_s_own_cells_alone():
    fields = ["weight_ih", "weight_hh", "bias", "input_size", "hidden_size", "use_bias"]
    arrays = c.to_equinox(LSTM)
    known = dataclasses.make_dataclass("LSTMCell", fields, namespace={"__module__": "equinox.nn"})
    other = dataclasses.make_dataclass("Mine", fields, bases=(known,))
    values = [arrays["weight_ih"], arrays["weight_hh"], arrays["bias"], 3, 5, True]
    known.__module__ = "equinox.nn._rnn"
    np.testing.assert_array_equal(c.from_equinox(known(*values)).w, LSTM.w)
    with pytest.raises(TypeError, match=r"must be Equinox's `LSTMCell` or `GRUCell`.*Mine"):
        c.from_equinox(other(*values))


TO = ("to_torch", "to_keras", "to_flax", "to_haiku", "to_equinox", "to_onnx", "to_dict")
TRACED = r"must be an array; got a .*Tracer.* outside of `jit`"


@pytest.mark.parametrize("to", TO)
def test_what_is_sent_has_values_of_its_own(to):
    """Nothing traced, whose values are not known; no masks, which would be lost; no integers."""
    send = getattr(c, to)
    with pytest.raises(TypeError, match=TRACED):
        jax.jit(lambda p: send(p) and 0)(LSTM)
    masked = LSTM._replace(b=np.ma.array(LSTM.b, mask=LSTM.b > 0))
    with pytest.raises(TypeError, match=r"`b`.* is a masked array.*`.filled\(0\)`"):
        send(masked)
    if to != "to_dict":  # of any tree
        with pytest.raises(TypeError, match=r"got (int32|\['int32'\])"):
            send(jax.tree.map(lambda a: a.astype("int32"), LSTM))


@pytest.mark.parametrize("framework", ["torch", "keras", "flax", "haiku", "equinox"])
def test_what_is_taken_has_values_of_its_own(framework):
    take = getattr(c, f"from_{framework}")
    weights = getattr(c, f"to_{framework}")(LSTM)
    of_each = lambda f: jax.tree.map(f, weights)
    with pytest.raises(TypeError, match=TRACED):
        jax.jit(lambda w: take(w) and 0)(weights)
    with pytest.raises(TypeError, match="is a masked array"):
        take(of_each(lambda a: np.ma.array(a, mask=a > 0)))
    with pytest.raises(TypeError, match=f"is {np.dtype('longdouble')}, which JAX does not have"):
        take(of_each(lambda a: a.astype("longdouble")))


def test_masks_around_networks_are_not_lost():
    masked = np.ma.array(np.ones((5, LSTM.w.shape[0])), mask=True)
    with pytest.raises(TypeError, match="`a` is a masked array"):
        c.from_dict({"a": masked}, like={"a": np.ones(masked.shape)})
    with pytest.raises(TypeError, match="`embedding` is a masked array"):
        c.to_onnx(LSTM, embedding=masked)
