"""What names say of layers, and what they do not: prefixes, orders, directions, Keras's files."""

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert
from networks import network
from test_convert_frameworks import H, N, equal


def nested(flat, sep):
    """A mapping a component of the names."""
    tree = {}
    for name, a in flat.items():
        *path, last = name.split(sep)
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = a
    return tree


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
@pytest.mark.parametrize("arrangement", ["layer", "stack", "bidirectional"])
def test_nested_mappings_mean_what_flat_ones_mean(depth, arrangement):
    params = network(jaxlstm.lstm, arrangement)
    prefix = ".".join(["model", "state_dict", "a", "b", "rnn"][:depth])
    flat = convert.to_torch(params, prefix=prefix)
    tree = nested(flat, ".")
    for weights in (flat, tree):
        equal(convert.from_torch(weights), params)
        equal(convert.from_torch(weights, prefix=prefix), params)
        equal(convert.from_torch({"epoch": 3, "rnn": weights}, prefix=f"rnn.{prefix}"), params)
    back = convert.to_torch(params, prefix=prefix, like=tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def torch_modules():
    one = convert.to_torch(jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, bidirectional=True))
    two = convert.to_torch(jaxlstm.init(jax.random.key(1), jaxlstm.gru, 2 * H, H, layers=2))
    return {f"0.{k}": a for k, a in one.items()} | {f"1.{k}": a for k, a in two.items()}


def test_an_order_is_given_by_a_list_of_prefixes():
    weights = torch_modules()
    first, second = (convert.from_torch(weights, prefix=k) for k in "01")
    params = convert.from_torch(weights, prefix=["0", "1."])
    equal(params, jaxlstm.Stack((first, *second.layers)))
    assert isinstance(params.layers[0], jaxlstm.Bidirectional)
    new = jax.tree.map(lambda a: a + 1, params)
    back = convert.to_torch(new, prefix=["0", "1"], like=weights)
    equal(convert.from_torch(back, prefix=["0", "1"]), new)
    equal(convert.from_torch([nested(weights, ".")[k] for k in "01"]), params)


@pytest.mark.parametrize("framework", ["flax", "haiku", "equinox", "keras"])
def test_an_order_is_given_in_every_framework(framework):
    come, go = getattr(convert, f"from_{framework}"), getattr(convert, f"to_{framework}")
    square = [jaxlstm.init(jax.random.key(k), jaxlstm.lstm, H, H) for k in range(2)]
    of = {
        "keras": lambda p: keras_names(p, "kernel", "recurrent_kernel", "bias"),
        "haiku": lambda p: go(p)["lstm/linear"],
    }.get(framework, go)
    inner = "/linear" if framework == "haiku" else ""
    weights = {f"lstm{inner}": of(square[0]), f"lstm_1{inner}": of(square[1])}
    with pytest.raises(ValueError, match=r"do not say which layer.*`prefix=\['lstm', 'lstm_1'\]`"):
        come(weights)
    for order in ((0, 1), (1, 0)):
        prefix = [("lstm", "lstm_1")[k] for k in order]
        params = come(weights, prefix=prefix)
        equal(params, jaxlstm.Stack(tuple(square[k] for k in order)))
        jax.tree.map(
            np.testing.assert_array_equal, go(params, prefix=prefix, like=weights), weights
        )
        both = come(weights, prefix=prefix, bidirectional=True)
        equal(both, jaxlstm.Bidirectional(*(square[k] for k in order)))


def test_a_prefix_ends_at_a_dot():
    params, other = network(jaxlstm.lstm), network(jaxlstm.gru)
    weights = convert.to_torch(params, prefix="rnn") | convert.to_torch(other, prefix="rnn2")
    equal(convert.from_torch(weights, prefix="rnn"), params)
    equal(convert.from_torch(weights, prefix="rnn2."), other)
    with pytest.raises(ValueError, match="no recurrent weights below the prefix 'rn'"):
        convert.from_torch(weights, prefix="rn")


def test_a_number_in_a_name_costs_nothing():
    weights = convert.to_torch(network(jaxlstm.lstm))
    for digits in ("1", "10000000", "999999999"):
        many = {name.replace("_l0", f"_l{digits}"): a for name, a in weights.items()}
        with pytest.raises(ValueError, match=r"the layers \[0.*\] are missing"):
            convert.from_torch(many)
    many = {name.replace("_l0", f"_l{'9' * 5000}"): a for name, a in weights.items()}
    with pytest.raises(ValueError, match="no recurrent weights"):
        convert.from_torch(many)


def keras_names(params, *names):
    kernel, recurrent, bias = convert.to_keras(params)
    return dict(zip(names, (kernel, recurrent, bias)))


KERAS_STYLES = {
    "path": "lstm/lstm_cell/{}",
    "keras 2": "lstm/lstm_cell_3/{}:0",
    "tf 1": "lstm_1/{}:0",
    "legacy file": "model_weights/lstm/lstm/lstm_cell/{}:0",
    "backward": "backward_lm/lstm_cell/{}",
    "sequential backward": "sequential/backward_lm/simple_cell/{}",
}


@pytest.mark.parametrize("style", KERAS_STYLES)
def test_names_of_keras(style):
    params = network(jaxlstm.lstm)
    words = ("kernel", "recurrent_kernel", "bias")
    weights = keras_names(params, *(KERAS_STYLES[style].format(w) for w in words))
    seeds = {"lstm/seed_generator/seed_generator_state": np.zeros(2, "uint32")}
    for given in (weights, weights | seeds, nested(weights, "/")):
        equal(convert.from_keras(given), params)
    equal(convert.from_keras(convert.to_keras(params, like=weights)), params)


def test_files_of_keras():
    """Keras 3's names are places; of layers that are not recurrent they are the same."""
    one, two = network(jaxlstm.lstm), network(jaxlstm.gru)
    at = lambda path: [f"{path}/vars/{k}" for k in range(3)]
    weights = keras_names(one, *at("layers/lstm/cell"))
    weights |= keras_names(two, *at("layers/bidirectional/forward_layer/cell"))
    weights |= keras_names(two, *at("layers/bidirectional/backward_layer/cell"))
    equal(convert.from_keras(weights, prefix="layers/lstm"), one)
    both = convert.from_keras(weights, prefix="layers/bidirectional")
    equal(both, jaxlstm.Bidirectional(two, two))
    dense = {"layers/dense/vars/0": np.ones((5, 2)), "layers/dense/vars/1": np.ones(2)}
    with pytest.raises(ValueError, match="'layers/dense/vars/0', 'layers/dense/vars/1'"):
        convert.from_keras(weights | dense)
    optimizer = {"optimizer/vars/0": np.ones((), "int32"), "optimizer/vars/1": np.ones((3, 4))}
    equal(convert.from_keras(keras_names(one, *at("layers/lstm/cell")) | optimizer), one)
    half = {k: a for k, a in weights.items() if "backward" not in k and "bidir" in k}
    with pytest.raises(ValueError, match=r"bidirectional.* has one direction and no backward one"):
        convert.from_keras(half)


def test_stacked_cells_of_keras_are_a_stack_where_both_orders_agree():
    first, second = (jaxlstm.init(jax.random.key(k), jaxlstm.lstm, H, H) for k in range(2))
    words = ("kernel", "recurrent_kernel", "bias")
    cells = [f"rnn/stacked_rnn_cells_1/lstm_cell_{k}" for k in (9, 10)]
    parts = [
        keras_names(p, *(f"{cell}/{w}" for w in words)) for p, cell in zip((first, second), cells)
    ]
    equal(convert.from_keras(parts[0] | parts[1]), jaxlstm.Stack((first, second)))
    with pytest.raises(ValueError, match="do not say which layer comes first"):
        convert.from_keras(parts[1] | parts[0])
    equal(convert.from_keras(parts[1] | parts[0], prefix=cells), jaxlstm.Stack((first, second)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_any_order_of_bytes(order):
    params = network(jaxlstm.gru)
    weights = {
        k: a.astype(a.dtype.newbyteorder(order)) for k, a in convert.to_torch(params).items()
    }
    equal(convert.from_torch(weights, sum_biases=False), params)
    tree = convert.to_dict(params)
    tree = {k: a.astype(a.dtype.newbyteorder(order)) for k, a in tree.items()}
    equal(convert.from_dict(tree, like=params), params)


def test_a_sequential_of_flax_loses_no_layer():
    params = network(jaxlstm.lstm, "stack")
    for api in ("linen", "nnx"):
        weights = convert.to_flax(params, api=api)
        equal(convert.from_flax(weights), params)
        if api == "linen":  # what stands between them is no recurrent layer
            weights["layers_2"] = weights.pop("layers_1")
        else:
            weights["layers"][2] = weights["layers"].pop(1)
        with pytest.raises(ValueError, match=r"the layers \[1\] are missing"):
            convert.from_flax(weights)


def test_a_variant_without_options_has_the_plain_name_in_haiku():
    assert [*convert.to_haiku(network(jaxlstm.cells.lstm_variant))] == ["lstm/linear"]
