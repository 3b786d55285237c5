"""Errors at the door of cells' options and of convolutional layers."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import jaxlstm
from networks import N


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Without the shape checks of the tests, which would answer before the door does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    "cell",
    [
        jaxlstm.cells.slstm(heads=0),
        jaxlstm.cells.mlstm(heads=0),
        jaxlstm.cells.rhn(depth=1.5),
        jaxlstm.cells.rhn(depth=0),
        jaxlstm.cells.projected_lstm(projection=0),
        jaxlstm.cells.damped_average(order=True),
    ],
    ids=repr,
)
def test_options_that_are_sizes(cell):
    with pytest.raises(ValueError, match="must be a whole number, 1 or more"):
        jaxlstm.init(jax.random.key(0), cell, 3, 4)


@pytest.mark.parametrize("told", ["none", 3, ("tanh", 0.2), ("hard_sigmoid", 1, 2, 3), None])
def test_activations(told):
    params = jaxlstm.init(jax.random.key(0), jaxlstm.cells.lstm_variant(gate=told), 3, 4)
    with pytest.raises(ValueError, match="an activation must be one of"):
        jaxlstm.apply(params, jnp.ones((2, 3)))


def test_convolutional_layers():
    draw = lambda cell=jaxlstm.lstm, **told: jaxlstm.init_conv(
        jax.random.key(0), cell, N, 4, **{"kernel": (3,), **told}
    )
    for kernel in ((), (1, 1, 1, 1), 3):
        with pytest.raises(ValueError, match="one, two or three"):
            draw(kernel=kernel)
    with pytest.raises(ValueError, match="`scheme` must be one of"):
        draw(scheme="none")
    with pytest.raises(TypeError, match="`cell` must be a cell"):
        draw("lstm")
    with pytest.raises(TypeError, match="`dtype` must be a floating dtype"):
        draw(dtype=int)
    with pytest.raises(ValueError, match="one head"):
        draw(jaxlstm.cells.slstm(heads=2))
