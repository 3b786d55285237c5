"""Errors in cells where they are made: declarations, options and equations; and convolutions."""

import re

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import jaxlstm
from jaxlstm import HiddenState, LSTMState, Weight, cells, gated_cell, general_cell, linear_cell
from jaxlstm.initializers import zeros
from networks import CELLS, N


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Without the shape checks of the tests, which would answer before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (cells.slstm, {"heads": 0}),
        (cells.mlstm, {"heads": 0}),
        (cells.rhn, {"depth": 1.5}),
        (cells.rhn, {"depth": 0}),
        (cells.projected_lstm, {"projection": 0}),
        (cells.damped_average, {"order": True}),
    ],
)
def test_options_that_are_sizes(cell, options):
    with pytest.raises(ValueError, match="must be a whole number, 1 or more"):
        cell(**options)


def test_a_large_size_costs_nothing_to_set():
    assert cells.rhn(depth=10**9).size_options() == {"depth": 10**9}


# One option of each cell that has an activation.
ACTIVATED = {
    name: [o for o in ("activation", "gate", "candidate", "output") if o in cell.defaults()]
    for name, cell in CELLS.items()
}


@pytest.mark.parametrize("given", ["none", 3, ("tanh", 0.2), ("hard_sigmoid", 1, 2, 3), None])
@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in ACTIVATED for option in ACTIVATED[name]]
)
def test_activations_are_known_where_they_are_set(name, option, given):
    with pytest.raises(ValueError, match="an activation must be one of"):
        CELLS[name](**{option: given})


def identity(s, u, v):
    return (u[0],)


def weighted(s, u, v, *, q):
    return (u[0],)


def optional(s, u, v, *, wide=True, q=None):
    return (u[0],)


def made(equations=identity, gates="zn", state=HiddenState, **declared):
    return gated_cell(gates, state, **declared)(equations)


DECLARATIONS = {
    "one letter twice": (lambda: made(gates="zz"), "a letter of its own"),
    "recurrent letter twice": (lambda: made(recurrent="zz"), "`recurrent`.*a letter of its own"),
    "no gate": (lambda: made(gates=""), "must have a gate"),
    "a list of gates": (lambda: made(gates=["z"]), "a string with one letter"),
    "a digit": (lambda: made(gates="z1"), "a string with one letter"),
    "bias of no gate": (lambda: made(bias={"f": 1.0}), "gates of 'zn'; got 'f'"),
    "bias of a word": (lambda: made(bias={"z": "one"}), "each gate to its initial value"),
    "a list for a state": (lambda: made(state=list), "must be a NamedTuple"),
    "a state that is a value": (lambda: made(state=HiddenState(1)), "must be a NamedTuple"),
    "sizes of two": (lambda: made(sizes=("hidden", "hidden")), "one entry for each field"),
    "an unknown size": (lambda: made(sizes=("hiden",)), "`sizes`.*got 'hiden'"),
    "a size that is a number": (lambda: made(sizes=(3,)), "shape in words"),
    "an unknown word": (lambda: made(weighted, weights={"q": Weight("hiden", zeros)}), "hiden"),
    "two dots": (lambda: made(weighted, weights={"q": Weight("... ...", zeros)}), "one `...`"),
    "no weight": (lambda: made(weighted, weights={"q": zeros}), "must be a `jaxlstm.Weight`"),
    "an option that is not": (
        lambda: made(weighted, weights={"q": Weight("hidden", zeros, "wide")}), "`when`.*'wide'"
    ),
    "a weight not declared": (lambda: made(weighted), "declare it in `weights`"),
    "a weight not taken": (lambda: made(weights={"q": Weight("hidden", zeros)}), "do not take"),
    "equations of two": (lambda: made(lambda s, u: (u,)), r"take `\(s, u, v\)`"),
    "equations of four": (lambda: made(lambda s, u, v, w: (u,)), r"take `\(s, u, v\)`"),
    "linear equations of a state": (lambda: linear_cell("z")(lambda s, u: u), r"take `\(u\)`"),
    "a number": (lambda: made(3), "a function; got an int"),
    "a class": (lambda: made(HiddenState), "a function"),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLARATIONS)
def test_declarations(case):
    make, message = DECLARATIONS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_what_a_declaration_may_have():
    made(optional, weights={"q": Weight("hidden", zeros, when="wide")})
    made(lambda *args, **weights: args[0], weights={"q": Weight("hidden 2 ...", zeros)})
    made(lambda s, u, v, q: s, weights={"q": Weight("hidden", zeros)})


def several(s, u, v):
    return u[0], u[1]


EQUATIONS = {
    "no comma": (made(lambda s, u, v: u[0]), r"`return \(h,\)`; got float32\[4\]"),
    "a list": (made(lambda s, u, v: [u[0]]), "got a list"),
    "nothing": (made(lambda s, u, v: None), "got None"),
    "two for one": (made(several), r"`return \(h,\)`; got 2 values"),
    "one for two": (made(identity, state=LSTMState), "`return h, c`; got 1 values"),
    "one gate not unpacked": (made(lambda s, u, v: (u + v,), "z"), r"unpack it, `\(z,\) = u"),
    "gates not unpacked": (made(lambda s, u, v: (u + v,)), "a row for each gate"),
    "a sum over units": (made(lambda s, u, v: (u[0].sum(),)), r"shape \(4,\); got \(\)"),
    "a second field": (made(lambda s, u, v: (u[0], u), state=LSTMState), "`c` of shape"),
    "bool": (made(lambda s, u, v: (u[0] > 0,)), "`h` of dtype float32; got bool"),
    "a number as a": (linear_cell("z")(lambda u: (0.9, u[0])), "`a` of the shape of its memory"),
    "none as b": (linear_cell("z")(lambda u: (u[0], None)), "memory `h`; got None"),
    "a read that is none": (
        linear_cell("z", jaxlstm.LSTMState)(lambda u: (u[0], u[0], 3)), "return `read`, a function",
    ),
    "a linear cell's a alone": (linear_cell("z")(lambda u: u[0]), "must return `a, b`"),
    "no read": (linear_cell("z", LSTMState)(lambda u: (u[0], u[0])), "a, b, read"),
    "a read too many": (linear_cell("z")(lambda u: (u[0], u[0], u[0])), "got 3 values"),
    "memories": (linear_cell("z")(lambda u: ((u[0], u[0]), u[0])), "each of 1 memories; got 2"),
    "linear shape": (linear_cell("z")(lambda u: (u, u)), "`a` of the shape of its"),
    "linear cell's b": (linear_cell("zn")(lambda u: (u[0], u)), "`b` of the shape of its"),
    "an unknown gate": (
        general_cell("z", HiddenState)(lambda s, u, recur: recur(s.h, "q")), "gates of 'z'"
    ),
    "a product of a wide row": (
        general_cell("z", HiddenState)(lambda s, u, recur: recur(u, "z")), "shape of the output"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS)
def test_equations_are_traced_at_init(case):
    cell, message = EQUATIONS[case]
    with pytest.raises((TypeError, ValueError), match=message) as e:
        jaxlstm.init(jax.random.key(0), cell, 3, 4)
    assert "<lambda>" in str(e.value) or cell.name in str(e.value)


def test_other_errors_of_equations_tell_the_cell():
    cell = made(lambda s, u, v: (u[0] + jnp.ones(7, jnp.float32),))
    with pytest.raises(TypeError) as e:
        jaxlstm.init(jax.random.key(0), cell, 3, 4)
    assert re.search("equations of the cell", "".join(e.value.__notes__))


def test_initializers_of_a_cells_own_weights():
    wrong = made(weighted, weights={"q": Weight("hidden", lambda key, shape, dtype: jnp.ones(2))})
    with pytest.raises(ValueError, match=r"the weight `q` of the cell weighted must return"):
        jaxlstm.init(jax.random.key(0), wrong, 3, 4)


def test_convolutional_layers():
    draw = lambda cell=jaxlstm.lstm, **options: jaxlstm.init_conv(
        jax.random.key(0), cell, N, 4, **{"kernel": (3,), **options}
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
