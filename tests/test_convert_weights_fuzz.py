"""Weights of every framework that are changed at random: one of two errors, or a network."""

import contextlib
import random
import re

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert as c
from jaxlstm.cells import gru, gru_reset_before, lstm, projected_lstm, rnn
from networks import network

LSTM, GRU, STACK = network(lstm), network(gru), network(lstm, "stack")


def keras(layer):
    return dict(zip(("kernel", "recurrent_kernel", "bias"), c.to_keras(layer)))


def places(tree):
    """Every place in nested mappings and lists, as `(holder, key)`."""
    if isinstance(tree, (dict, list)):
        for key in [*tree] if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


def copied(tree):
    if isinstance(tree, dict):
        return {k: copied(v) for k, v in tree.items()}
    return [*map(copied, tree)] if isinstance(tree, list) else tree


def odd(rng, a):
    shape = getattr(a, "shape", (2,))
    shapes = [(), (0,), (0, 4), (4, 0), (3, 4, 5), shape[::-1]]
    shapes += [tuple(n + 1 for n in shape), tuple(2 * n for n in shape)]
    arrays = [np.ones(shape) for shape in shapes]
    arrays += [np.ones(shape, d) for d in ("float32", "float16", int, bool, object, np.longdouble)]
    return rng.choice([None, 1, "x", b"x", 1.5, {}, [], object(), {"a": a}, [a, a], *arrays])


BITS = ["", "_", "l", "0", "1", "/", ".", "_l1", "_l0_reverse", "forward_", "backward_", ":0", "\n"]
BITS += ["layers_1", "vars/0", "cells/", "_raw", "_g", "é", "9" * 20]
NAMES = [None, 0, 1, "0", 3.5, (), True, "a", "layers_0", "layers_2", "forward", "cell", "rngs"]


def mutated(rng, tree):
    tree = copied(tree)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if not (found := [*places(tree)]):
            break
        holder, key = rng.choice(found)
        match rng.randrange(6):
            case 0:
                holder[key] = odd(rng, holder[key])
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                name, a = str(key), holder.pop(key)
                at = rng.randrange(len(name) + 1)
                holder[name[:at] + rng.choice(BITS) + name[at + rng.randrange(2) :]] = a
            case 3:
                other, its = rng.choice(found)
                holder[key] = copied(other[its])
            case 4 if isinstance(holder, dict):
                holder[rng.choice(NAMES)] = copied(holder[key])
            case 5:
                tree = rng.choice([{"x": tree}, [tree]])
    return tree


def whole(name):
    """Weights of every framework, flat, nested and in lists."""
    both = {"layers": 2, "bidirectional": True}
    if name == "torch":
        cells = [network(lstm, **both), network(projected_lstm(projection=2)), GRU]
        return [c.to_torch(p) for p in cells] + [{"a": {"b": c.to_torch(cells[0])}}]
    if name == "keras":
        named = {f"{k}_a": keras(network(gru)) for k in ("forward", "backward")}
        return [c.to_keras(STACK), {"bidirectional": named}, {"lstm": {"cell": keras(LSTM)}}]
    if name == "flax":
        return [c.to_flax(network(lstm, **both)), c.to_flax(network(rnn, "stack"), api="nnx")]
    if name == "haiku":
        cells = [lstm, gru_reset_before, jaxlstm.rnn_relu]
        return [c.to_haiku(network(cell)) for cell in cells]
    return [c.to_equinox(STACK), c.to_equinox(LSTM)]


PREFIXES = ["", "", "", "a", "a.b", "layers_0", "0", ["0", "1"], ["layers_0", "layers_1"]]
RAW = "NoneType' object|unsupported|subscriptable|broadcast|reshape|unhashable|not supported"
RAW += "|iterable"


def tried(rng, come, tree):
    """Reads mutated weights: one of two kinds of error, or a network that runs."""
    options = {"prefix": rng.choice(PREFIXES)}
    if rng.random() < 0.2 and come is not c.from_torch:
        options["bidirectional"] = True
    if rng.random() < 0.2:
        options["cell"] = rng.choice([lstm, gru, jaxlstm.rnn_relu, jaxlstm.cells.lstm_variant()])
    try:
        params = come(mutated(rng, tree), **options)
    except (TypeError, ValueError) as e:
        if type(e) not in (TypeError, ValueError) or re.search(RAW, str(e)):
            raise AssertionError(f"a raw error: {e!r}") from e
        return 1
    xs = jax.ShapeDtypeStruct((2, params.input_size), jax.tree.leaves(params)[0].dtype)
    jax.eval_shape(jaxlstm.apply, params, xs)
    return 0


FEW = [pytest.param(0, 120)]
MANY = [pytest.param(seed, 2000, marks=pytest.mark.slow) for seed in range(1, 4)]


@pytest.mark.parametrize(("seed", "count"), [*FEW, *MANY])
@pytest.mark.parametrize("name", ["torch", "keras", "flax", "haiku", "equinox"])
def test_weights_that_are_changed_at_random(name, seed, count):
    rng, trees = random.Random(seed), whole(name)
    refused = sum(tried(rng, getattr(c, f"from_{name}"), rng.choice(trees)) for _ in range(count))
    assert 0.4 * count < refused < count


def disturbed(rng, params):
    """A leaf of another shape, dtype or kind, or a network in a place where none can be."""
    leaves, tree = jax.tree.flatten(params)
    k = rng.randrange(len(leaves))
    a = leaves[k]
    shape = jax.ShapeDtypeStruct(a.shape, a.dtype)
    others = [a, a.astype("float32"), a[:1], a[..., :1], a[None], a.T, np.asarray(a), shape]
    leaves[k] = rng.choice([*others, None, 1.0, "x"])
    new = jax.tree.unflatten(tree, leaves)
    nodes = [jaxlstm.Stack((new, new)), jaxlstm.Bidirectional(new, new), jaxlstm.Reverse(new)]
    nodes += [jaxlstm.Stack(new), jaxlstm.Stack(()), jaxlstm.Stack(3), (new,), {"a": new}, None]
    return rng.choice([*[new] * 20, *nodes])


@pytest.mark.parametrize(("seed", "count"), [*FEW, *MANY])
def test_networks_that_are_changed_at_random(seed, count):
    rng, others = random.Random(seed), [jaxlstm.rnn_relu, gru_reset_before, rnn]
    nets = [LSTM, GRU, STACK, network(lstm, "bidirectional"), *map(network, others)]
    names = ("torch", "keras", "flax", "haiku", "equinox")
    refused = 0
    for _ in range(count):
        go = getattr(c, f"to_{rng.choice(names)}")
        options = {}
        if rng.random() < 0.3:
            with contextlib.suppress(TypeError, ValueError):
                options["like"] = go(rng.choice(nets))
        try:
            go(disturbed(rng, rng.choice(nets)), **options)
        except (TypeError, ValueError) as e:
            if type(e) not in (TypeError, ValueError) or re.search(RAW, str(e)):
                raise AssertionError(f"a raw error: {e!r}") from e
            refused += 1
    assert 0.4 * count < refused < count
