"""What each weight is for: optimisers see matrices where matrices are, in any tree."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxlstm
from jaxlstm import wrappers
from jaxlstm._named import named
from networks import CELLS, KINDS, numbers, some_of


@pytest.fixture(autouse=True)
def _promotion():
    """What optax needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def whole(rnn=None):
    """A model: networks among other arrays."""
    rnn = numbers(jaxlstm.lstm, "bidirectional") if rnn is None else rnn
    readout = {"w": np.ones((10, 2)), "b": np.ones(2)}
    return {"embed": np.ones((7, 4)), "rnn": [rnn, None], "readout": (readout, np.ones(()))}


def by_path(tree, is_leaf=None):
    """The leaves of a tree by their key paths."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="."): a for path, a in found}


@pytest.mark.parametrize("name", some_of(CELLS, KINDS))
def test_a_layer_of_every_cell(name):
    cell = CELLS[name]
    params = numbers(cell)
    roles, mask = jaxlstm.weight_roles(params), jaxlstm.decay_mask(params)
    assert jax.tree.structure(roles) == jax.tree.structure(mask) == jax.tree.structure(params)
    assert (roles.w, mask.w) == ("input", True)
    expected = {"r": ("recurrent", True), "b": ("bias", False), "recurrent_bias": ("bias", False)}
    for name, declared in expected.items():
        if getattr(params, name) is not None:
            assert (getattr(roles, name), getattr(mask, name)) == declared
    for name, weight in (params.weights or {}).items():
        # The equations multiply a state with a vector unit by unit, along an axis for the batch.
        vector = "..." in dict(cell.weights)[name].shape
        assert roles.weights[name] == ("vector" if vector else "matrix"), name
        assert mask.weights[name] is not vector
        assert vector or weight.ndim >= 2


def test_a_whole_model():
    tree = whole()
    roles = by_path(jaxlstm.weight_roles(tree))
    assert roles["embed"] == roles["readout.0.w"] == roles["readout.1"] == "other"
    assert roles["rnn.0.layers.1.backward.r"] == "recurrent"
    decayed = {name for name, yes in by_path(jaxlstm.decay_mask(tree)).items() if yes}
    layers = [
        f"rnn.0.layers.{i}.{way}.{a}" for i in "01" for way in ("forward", "backward") for a in "wr"
    ]
    assert decayed == {"embed", "readout.0.w", *layers}


WRAPPED = {
    "layer_norm": (wrappers.layer_norm, {"gain": "vector", "shift": "bias"}),
    "highway": (
        lambda p: wrappers.highway(jax.random.key(0), p),
        {"gate": "matrix", "bias": "bias"},
    ),
    "initial": (
        wrappers.learn_initial_state,
        {"state.h": "initial_state", "state.c": "initial_state"},
    ),
    "zoneout": (lambda p: wrappers.zoneout(p, 0.1), {}),
    "window": (lambda p: wrappers.window(p, 2), {"layers.0.of": "vector"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers(name):
    wrap, declared = WRAPPED[name]
    params = wrap(jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 4, 4))
    roles = by_path(jaxlstm.weight_roles(params))
    own = {
        k: v for k, v in roles.items() if not k.rpartition(".")[0].endswith(("node", "layers.1"))
    }
    assert own == declared
    inner = {k.rpartition(".")[2]: v for k, v in roles.items() if k not in declared}
    assert inner == {"w": "input", "r": "recurrent", "b": "bias"}


class Fields(NamedTuple):
    scale: jax.Array
    table: jax.Array
    node: jaxlstm.Node


class Mine(Fields, jaxlstm.Node):
    """A node of one's own."""

    roles = {"table": "vector"}  # noqa: RUF012
    input_size = 3
    initial_state = run = lambda self, *_: None


def test_a_node_of_ones_own_says_what_its_arrays_are_for():
    params = Mine(np.ones((3, 3)), np.ones((3, 3)), numbers(jaxlstm.gru))
    roles = jaxlstm.weight_roles(params)
    assert (roles.scale, roles.table, roles.node.w) == ("other", "vector", "input")
    mask = jaxlstm.decay_mask(params)
    assert (mask.scale, mask.table, mask.node.b) == (True, False, False)


def test_an_ensemble_has_the_roles_of_one():
    one = numbers(jaxlstm.cells.scrn)
    many = jax.tree.map(lambda a: np.stack([a, a]), one)
    assert jaxlstm.weight_roles(many) == jaxlstm.weight_roles(one)
    assert jaxlstm.decay_mask(many) == jaxlstm.decay_mask(one)


def in_a_module(params):
    """A network as a module of Flax or Haiku has it, among other layers."""
    names = lambda tree: named(tree)[0]
    dense = {"kernel": np.ones((5, 2)), "bias": np.ones(2)}
    return {"params": {"Recurrent_0": names(params), "Dense_0": dense}}


def roles_of(params):
    return named(jaxlstm.weight_roles(params))[0]


@pytest.mark.parametrize("name", some_of(CELLS, KINDS))
@pytest.mark.parametrize("arrangement", some_of(("layer", "bidirectional"), ("layer",)))
def test_weights_that_stand_by_their_names(name, arrangement):
    params = numbers(CELLS[name], arrangement)
    tree = in_a_module(params)
    roles = jaxlstm.weight_roles(tree)["params"]
    assert roles["Recurrent_0"] == roles_of(params)
    assert set(roles["Dense_0"].values()) == {"other"}
    mask = jaxlstm.decay_mask(tree)["params"]
    assert mask["Recurrent_0"] == named(jaxlstm.decay_mask(params))[0]
    assert mask["Dense_0"] == {"kernel": True, "bias": False}


@pytest.mark.parametrize("name", [*WRAPPED, "convolution", "ensemble"])
def test_what_is_wrapped_stands_by_its_names(name):
    params = numbers(jaxlstm.lstm)
    if name in WRAPPED:
        params = WRAPPED[name][0](jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 4, 4))
        params = jaxlstm.Stack((params, params))
    elif name == "convolution":
        params = jaxlstm.init_conv(jax.random.key(0), jaxlstm.gru, 2, 3, kernel=(3, 2))
    else:
        params = jax.tree.map(lambda a: np.stack([a, a]), params)
    tree = in_a_module(params)
    assert jaxlstm.weight_roles(tree)["params"]["Recurrent_0"] == roles_of(params)
    given = lambda tree: by_path(tree, lambda a: isinstance(a, optax.contrib.MuonDimensionNumbers))
    declared = given(jaxlstm.muon_dimension_numbers(tree)["params"]["Recurrent_0"])
    expected = given(jaxlstm.muon_dimension_numbers(params))
    assert declared == {k.replace(".", "_"): v for k, v in expected.items()}


NO_NETWORK = {
    "a convolution in time": {"w": np.ones((3, 4, 5)), "b": np.ones(5)},
    "adapters of low rank": {"lora_a": np.ones((4, 2)), "lora_b": np.ones((2, 4))},
    "other widths": {"w": np.ones((3, 4, 5)), "b": np.ones((4, 6)), "r": np.ones((5, 4, 5))},
    "matrices": {"w": np.ones((4, 5)), "r": np.ones((5, 5)), "b": np.ones((2, 5))},
}


@pytest.mark.parametrize("name", NO_NETWORK)
def test_what_has_the_names_of_a_network_and_is_none(name):
    assert set(jaxlstm.weight_roles(NO_NETWORK[name]).values()) == {"other"}


def test_weight_decay_by_names_where_others_are_masked_already():
    tree = jax.tree.map(jnp.ones_like, in_a_module(numbers(jaxlstm.gru, "stack")))
    roles = jaxlstm.weight_roles(tree)
    for kept in ("bias", "recurrent"):
        chain = optax.add_decayed_weights(0.5, mask=jaxlstm.decay_mask), optax.scale(-1.0)
        label = lambda role, kept=kept: "kept" if role == kept else "rest"
        optimizer = optax.multi_transform(
            {"kept": optax.chain(*chain), "rest": optax.set_to_zero()}, jax.tree.map(label, roles)
        )
        for name, a in by_path(moved(optimizer, tree)).items():
            decays = kept == by_path(roles)[name] == "recurrent"
            np.testing.assert_allclose(a, 0.5 if decays else 1.0, err_msg=name)


def ones(tree):
    return jax.tree.map(jnp.ones_like, tree)


def moved(optimizer, params, grads=None, steps=1):
    """The parameters after some steps of zero gradients, by default."""
    state = optimizer.init(params)
    grads = jax.tree.map(jnp.zeros_like, params) if grads is None else grads
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_weight_decay_leaves_biases_alone():
    params = ones(whole())
    after = by_path(moved(optax.adamw(0.1, weight_decay=0.5, mask=jaxlstm.decay_mask), params))
    mask = by_path(jaxlstm.decay_mask(params))
    for name, a in after.items():
        np.testing.assert_allclose(a, 0.95 if mask[name] else 1.0, err_msg=name)
    assert any(name.endswith(".b") and not yes for name, yes in mask.items())


def test_a_mask_of_what_is_masked_already():
    params = ones(whole())
    inner = optax.add_decayed_weights(0.5, mask=jaxlstm.decay_mask)
    outer = optax.multi_transform({True: inner, False: optax.identity()}, jaxlstm.decay_mask)
    optimizer = optax.chain(outer, optax.scale(-1.0))
    mask = by_path(jaxlstm.decay_mask(params))
    for name, a in by_path(moved(optimizer, params)).items():
        np.testing.assert_allclose(a, 0.5 if mask[name] else 1.0, err_msg=name)


def test_a_rate_for_each_role():
    params = ones(whole())
    rates = {"input": 1.0, "recurrent": 2.0, "bias": 3.0, "other": 4.0}
    optimizer = optax.multi_transform(
        {role: optax.sgd(rate) for role, rate in rates.items()}, jaxlstm.weight_roles
    )
    roles = by_path(jaxlstm.weight_roles(params))
    for name, a in by_path(moved(optimizer, params, ones(params))).items():
        np.testing.assert_allclose(a, 1 - rates[roles[name]], err_msg=name)


def test_schedule_free():
    params = ones(whole())
    base = optax.adamw(0.1, b1=0.0, weight_decay=0.5, mask=jaxlstm.decay_mask)
    optimizer = optax.contrib.schedule_free(base, 0.1, b1=0.9)
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(ones(params), state, params)
    after = optax.contrib.schedule_free_eval_params(state, optax.apply_updates(params, updates))
    assert jax.tree.structure(after) == jax.tree.structure(params)
    mask = by_path(jaxlstm.decay_mask(params))
    # Adam's first step has the length of the rate, with or without decay.
    for name, a in by_path(state.z).items():
        np.testing.assert_allclose(a, 0.85 if mask[name] else 0.9, rtol=1e-6, err_msg=name)


def orthogonal(m):
    """Whether all singular values of a matrix are as near to one another as Muon makes them."""
    values = np.linalg.svd(m, compute_uv=False)
    return values.max() / values.min() < 2.0


@pytest.mark.parametrize("ensemble", [False, True])
def test_muon_takes_the_matrix_of_each_gate(ensemble):
    params = whole(numbers(jaxlstm.cells.scrn if not ensemble else jaxlstm.lstm))
    if ensemble:
        params["rnn"] = jax.tree.map(lambda a: np.stack([a, a + 1]), params["rnn"])
    params = jax.tree.map(jnp.asarray, params)
    rng = np.random.default_rng(0)
    draw = lambda a: jnp.asarray(rng.standard_normal(a.shape))
    grads = jax.tree.map(draw, params)
    optimizer = optax.contrib.muon(
        1.0, ns_steps=12, muon_weight_dimension_numbers=jaxlstm.muon_dimension_numbers
    )
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    roles, step, came = (by_path(t) for t in (jaxlstm.weight_roles(params), updates, grads))
    seen = set()
    for name, role in roles.items():
        a = np.asarray(step[name])
        if role in ("input", "recurrent"):
            matrices = np.moveaxis(a, -2, 0)
        elif role == "matrix" or name in ("embed", "readout.0.w"):
            matrices = a
        else:  # Adam's first step: the sign of the gradient
            np.testing.assert_allclose(np.abs(a), np.abs(a).max(), rtol=1e-6, err_msg=name)
            assert (np.sign(a) == -np.sign(came[name])).all()
            continue
        seen.add(role)
        assert all(map(orthogonal, matrices.reshape(-1, *matrices.shape[-2:]))), name
    assert seen >= {"input", "recurrent", "other"}


def test_muon_and_a_convolution():
    params = jaxlstm.init_conv(jax.random.key(0), jaxlstm.gru, 2, 3, kernel=(3, 2))
    declared = jaxlstm.muon_dimension_numbers(params)
    assert declared.w == declared.r == optax.contrib.MuonDimensionNumbers((-5, -4, -3), -1)
    assert declared.b is declared.recurrent_bias is None
    optimizer = optax.contrib.muon(
        1.0, ns_steps=12, muon_weight_dimension_numbers=jaxlstm.muon_dimension_numbers
    )
    after = moved(optimizer, params, params)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    for gate in range(3):
        assert orthogonal((after.w - params.w)[..., gate, :].reshape(-1, 3))


def test_the_library_needs_no_optax():
    code = "import sys, jaxlstm; sys.exit('optax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
