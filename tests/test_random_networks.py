"""Random networks and options against the oracle, run by a plain Python loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import jaxlstm
from networks import CELLS, close, normal_like
from oracle import run_network

N = 3
PLAIN = sorted(CELLS)


DIRECTIONS = ("forward", "backward", "both")


def architectures(directions=DIRECTIONS):
    """One to three layers of any cells and widths, each in one direction or in both."""
    layer = st.tuples(
        st.sampled_from(PLAIN), st.sampled_from([2, 4, 6]), st.sampled_from(directions)
    )
    return st.tuples(st.integers(0, 2**16), st.lists(layer, min_size=1, max_size=3))


def build(architecture):
    seed, plan = architecture
    layers, size = [], N
    for key, (cell, width, direction) in zip(jax.random.split(jax.random.key(seed), 3), plan):
        layer = jaxlstm.init(key, CELLS[cell], size, width, bidirectional=direction == "both")
        layer = jax.tree.map(lambda a, noise: a + 0.3 * noise, layer, normal_like(layer))
        layers.append(jaxlstm.Reverse(layer) if direction == "backward" else layer)
        size = jax.eval_shape(jaxlstm.apply, layer, jnp.zeros((1, size)))[0].shape[-1]
    return layers[0] if len(layers) == 1 else jaxlstm.Stack(tuple(layers))


@st.composite
def calls(draw):
    """What `apply` may be called with, time first, and whether it is to be batch-first."""
    time, batch = draw(st.integers(0, 5)), draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,)]))
    noise = np.random.default_rng(draw(st.integers(0, 2**16)))
    rows = (time, *batch)
    some = lambda p: noise.random(rows) < p if draw(st.booleans()) else None
    return {
        "xs": noise.normal(size=(*rows, N)),
        "mask": some(0.7),
        "reset": some(0.3),
        "reverse": draw(st.booleans()),
        "begun": draw(st.booleans()),  # from a state that is not the initial one
        "batch_first": bool(batch) and draw(st.booleans()),
    }


def agree(architecture, call):
    params = build(architecture)
    xs, mask, reset, reverse = (call[k] for k in ("xs", "mask", "reset", "reverse"))
    batch = xs.shape[1:-1]
    initial = params.zeros(batch)
    if call["begun"]:
        _, state = jaxlstm.apply(params, np.ones((2, *batch, N)))
    else:
        state = None
    flip = lambda a: None if a is None else np.moveaxis(a, 0, 1)
    given = (xs, mask, reset)
    x, m, r = map(flip, given) if call["batch_first"] else given
    axis = 1 if call["batch_first"] else 0
    ys, last = jaxlstm.apply(params, x, state, mask=m, reset=r, reverse=reverse, axis=axis)
    ys = np.moveaxis(ys, axis, 0)

    begun = initial if state is None else state
    for row in itertools.product(*map(range, batch)):
        at = (slice(None), *row)
        take = lambda a, at=at: None if a is None else a[at]
        one = lambda tree, row=row: jax.tree.map(lambda a: np.asarray(a)[row], tree)
        how = (take(mask), take(reset), one(initial), reverse)
        expected, end = run_network(params, xs[at], one(begun), *how)
        np.testing.assert_allclose(ys[at], expected, rtol=1e-12, atol=1e-12)
        close(jax.tree.map(jnp.asarray, one(last)), jax.tree.map(jnp.asarray, end), 1e-12, 1e-12)


@settings(max_examples=25)
@given(architectures(), calls())
def test_a_random_network_is_its_equations(architecture, call):
    agree(architecture, call)


@pytest.mark.slow
@settings(max_examples=1000)
@given(architectures(), calls())
def test_many_random_networks_are_their_equations(architecture, call):
    agree(architecture, call)


@settings(max_examples=10)
@given(architectures(["forward"]), calls())
def test_a_random_network_is_a_loop_over_its_steps(architecture, call):
    params = build(architecture)
    xs, mask, reset = call["xs"], call["mask"], call["reset"]
    expected = jaxlstm.apply(params, xs, mask=mask, reset=reset)
    at = lambda a, t: None if a is None else a[t]
    ys, state = np.zeros(expected[0].shape), params.zeros(xs.shape[1:-1])
    for t, x in enumerate(xs):
        ys[t], state = jaxlstm.step(params, x, state, mask=at(mask, t), reset=at(reset, t))
    close((jnp.asarray(ys), state), expected, 1e-12, 1e-12)
