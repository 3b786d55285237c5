"""`jax.export`: sizes that are known when a program runs, and trees that are written with it."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

import jaxlstm
from jaxlstm import wrappers
from networks import B, N, T, close, inputs, network, over_kinds, some_mask, some_of, some_reset

# The shape checks of the tests take sizes for whole numbers.
pytestmark = pytest.mark.usefixtures("as_users_call_it")
SIZES = {"batch": (T, "b", N), "time": ("t", B, N), "both": ("t", "b", N)}


def specs(shape):
    """The shape of inputs, with letters for the sizes that are not known."""
    return export.symbolic_shape(", ".join(map(str, shape)))


def exported(f, params, shape, others=()):
    shape = specs(shape)
    rows = [jax.ShapeDtypeStruct(shape[:2], bool) for _ in others]
    return export.export(jax.jit(f))(params, jax.ShapeDtypeStruct(shape, float), *rows)


def pull(**options):
    """Outputs, the last state, and all gradients."""

    def f(params, xs, mask=None, reset=None):
        run = lambda p, x: jaxlstm.apply(p, x, mask=mask, reset=reset, **options)
        out, back = jax.vjp(run, params, xs)
        return out, back(jax.tree.map(jnp.ones_like, out))

    return jax.jit(f)


CASES = [
    ("both", True),
    pytest.param("batch", None, marks=pytest.mark.slow),
    pytest.param("time", 3, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("sizes", "checkpoint"), CASES)
def test_sizes_may_be_known_later(sizes, checkpoint):
    params, f = network(jaxlstm.lstm), pull(checkpoint=checkpoint)
    program = exported(f, params, SIZES[sizes])
    for time, batch in ((T, B), (1, 20)):
        time, batch = (time if "t" in SIZES[sizes] else T), (batch if "b" in SIZES[sizes] else B)
        xs = inputs(shape=(time, batch, N))
        close(program.call(params, xs), f(params, xs), rtol=1e-9)


@pytest.mark.slow
@over_kinds
def test_of_a_cell_of_each_kind(cell):
    params, f = network(cell), pull(checkpoint=True)
    program = exported(f, params, SIZES["both"])
    close(program.call(params, inputs()), f(params, inputs()), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_mask_and_reset(reverse):
    params = wrappers.learn_initial_state(network(jaxlstm.gru))
    f = pull(checkpoint=3, reverse=reverse)
    program = exported(f, params, SIZES["both"], "mr")
    given = params, inputs(), some_mask(), some_reset()
    close(program.call(*given), f(*given), rtol=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("given", ["argument", "constant"])
def test_lengths_become_a_mask_of_sizes_that_are_known_later(axis, given):
    params, (time, rows) = network(jaxlstm.gru), export.symbolic_shape("t, b")
    shape = (time, rows, N) if axis == 0 else (rows, time, N)
    constant = jnp.array([T, 2, 0])

    def f(xs, lengths):
        lengths = constant if given == "constant" else lengths
        mask = jaxlstm.lengths_to_mask(lengths, xs.shape[axis], axis=axis)
        return jaxlstm.apply(params, xs, mask=mask, axis=axis)

    if given == "constant":
        shape = tuple(B if size is rows else size for size in shape)
    specs = jax.ShapeDtypeStruct(shape, float), jax.ShapeDtypeStruct((rows,), "int32")
    program = export.export(jax.jit(f))(*specs)
    xs, lengths = inputs(shape=(T, B, N)).swapaxes(0, axis), jnp.array([T, 2, 0], "int32")
    close(program.call(xs, lengths), f(xs, lengths), rtol=1e-9)
    bad = jax.jit(lambda xs: jaxlstm.lengths_to_mask([-1, 2, 0], xs.shape[axis]))
    with pytest.raises(ValueError, match="`lengths` must lie between 0 and the time t; got -1"):
        export.export(bad)(specs[0])


NEED_TIME = {"associative": jaxlstm.minlstm, "newton": jaxlstm.lstm}


@pytest.mark.parametrize("implementation", NEED_TIME)
def test_implementations_that_need_a_known_time_refuse_another(implementation):
    params, shape = network(NEED_TIME[implementation]), specs(SIZES["both"])
    xs = jax.ShapeDtypeStruct(shape, float)
    run = lambda xs: jaxlstm.apply(params, xs, implementation=implementation)
    with pytest.raises(
        NotImplementedError, match=f"`{implementation}` needs a number of steps that is known"
    ):
        export.export(jax.jit(run))(xs)
    assert jaxlstm.implementations(params, xs)[implementation] is not None


@pytest.mark.slow
def test_segments_of_more_than_there_is():
    """Steps after the last are masked, and change no state and no gradient."""
    params, f = network(jaxlstm.lstm), pull(checkpoint=True)
    program = exported(f, params, SIZES["time"])
    xs = inputs(shape=(130, B, N))
    close(program.call(params, xs), f(params, xs), rtol=1e-9)


NETWORKS = {
    "layer": lambda: network(jaxlstm.lstm),
    "stack": lambda: network(jaxlstm.gru, "stack", dropout=0.25),
    "options": lambda: network(
        jaxlstm.cells.lstm_variant(gate=("hard_sigmoid", 0.25, 0.5), cell_clip=float("inf"))
    ),
    "bidirectional": lambda: network(jaxlstm.cells.minlstm, "bidirectional"),
    "general": lambda: jaxlstm.Reverse(network(jaxlstm.cells.rhn(depth=3))),
    "zoneout": lambda: wrappers.zoneout(network(jaxlstm.lstm), 0.1, 0.2),
    "initial": lambda: wrappers.learn_initial_state(network(jaxlstm.cells.slstm)),
    "norm": lambda: wrappers.layer_norm(wrappers.dense(network(jaxlstm.lstm))),
    "window": lambda: wrappers.window(network(jaxlstm.cells.qrnn), 2),
}


@pytest.mark.parametrize("name", some_of(NETWORKS, ("stack", "options", "general", "initial")))
def test_trees_are_written_with_the_function(name):
    pytest.importorskip("flatbuffers")
    params = NETWORKS[name]()
    xs = jnp.ones((T, B, params.input_size))

    def f(params, xs, state):
        ys, state = jaxlstm.apply(params, xs, state)
        return params, ys, state

    state = jaxlstm.apply(params, xs)[1]
    program = export.deserialize(export.export(jax.jit(f))(params, xs, state).serialize())
    assert program.in_tree == jax.tree.structure(((params, xs, state), {}))
    close(program.call(params, xs, state), f(params, xs, state), rtol=1e-9)


def test_records_are_written_too():
    pytest.importorskip("flatbuffers")
    params = network(jaxlstm.lstm)
    program = export.export(jax.jit(jaxlstm.record))(params, inputs())
    found = export.deserialize(program.serialize()).call(params, inputs())
    close(found, jaxlstm.record(params, inputs()), rtol=1e-9)
    assert type(found[2]) is jaxlstm.Record


@jaxlstm.gated_cell("h", jaxlstm.HiddenState)
def mine(s, u, v, *, option=None):
    return (jnp.tanh(u + v)[0],)


def test_a_cell_of_ones_own_is_written_by_name():
    pytest.importorskip("flatbuffers")
    params = network(mine)
    program = export.export(jax.jit(jaxlstm.apply))(params, inputs())
    data = program.serialize()
    close(export.deserialize(data).call(params, inputs()), jaxlstm.apply(params, inputs()))
    name = mine.equations.__module__.encode()
    with pytest.raises(ValueError, match="Import that module first"):
        export.deserialize(data.replace(name, b"x" * len(name)))


def test_an_option_that_cannot_be_written():
    pytest.importorskip("flatbuffers")
    params = network(mine)._replace(cell=mine(option=1j))
    program = export.export(jax.jit(jaxlstm.apply))(params, inputs())
    with pytest.raises(ValueError, match="a number, a string, None, or a tuple"):
        program.serialize()
