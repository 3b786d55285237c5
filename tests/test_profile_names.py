"""Compiled programs name layers and cells, so that a profile can be read."""

import re

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import inputs, network

XS = inputs(dtype=jnp.float32)


def names(f, *args):
    """What the operations of a compiled program are called."""
    return set(re.findall(r'op_name="([^"]*)"', jax.jit(f).lower(*args).compile().as_text()))


def found(all_names, *parts):
    """Whether an operation of a loop is called by these, from the outside in."""
    pattern = ".*".join(map(re.escape, (*parts, "while/body")))
    return any(re.search(pattern, name) for name in all_names)


@pytest.mark.parametrize("implementation", ["deferred", "scan"])
def test_layers_directions_and_cells(implementation):
    params = network(jaxlstm.lstm, "bidirectional", dtype=jnp.float32)
    run = lambda p, xs: jaxlstm.apply(p, xs, implementation=implementation)[0]
    grad = jax.grad(lambda p, xs: run(p, xs).sum())
    for f in (run, grad):
        seen = names(f, params, XS)
        for layer in ("layers[0]", "layers[1]"):
            for direction in ("forward", "backward"):
                assert found(seen, layer, direction, "lstm")
        assert not found(seen, "layers[2]")
    assert any("transpose" in name and "layers[0]" in name for name in seen)


def test_a_cell_by_its_name_and_another_node_by_its_class():
    params = jaxlstm.Stack(
        (
            network(jaxlstm.gru, dtype=jnp.float32),
            jaxlstm.init(jax.random.key(0), jaxlstm.cells.mingru, 5, 5),
        )
    )
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    params = jaxlstm.wrappers.zoneout(params, 0.1)
    seen = names(lambda p, xs: jaxlstm.apply(p, xs, implementation="scan")[0], params, XS)
    assert found(seen, "layers[0]", "Zoneout")
    assert found(seen, "layers[1]", "Zoneout")


def test_a_step_has_names_too():
    params = network(jaxlstm.gru, "stack", dtype=jnp.float32)
    seen = names(lambda p, x: jaxlstm.step(p, x)[0], params, XS[0])
    for layer in ("layers[0]", "layers[1]"):
        assert any(re.search(rf"{re.escape(layer)}.*gru", name) for name in seen)
