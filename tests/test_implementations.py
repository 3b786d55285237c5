"""Every implementation agrees with `scan`: values, last state and all gradients, or refuses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from jaxlstm._apply import start
from jaxlstm._arguments import Arguments
from jaxlstm._node import Plan
from jaxlstm._unroll import DEFAULT, IMPLEMENTATIONS, unroll
from jaxlstm._unroll._groups import groups_of
from jaxlstm._unroll.checkpoint import near_the_root
from networks import (
    ARRANGEMENTS,
    CELLS,
    KINDS,
    N,
    T,
    close,
    inputs,
    network,
    normal_like,
    numbers,
    over_cells,
    some_mask,
    some_of,
    some_reset,
    some_state,
)

XS = inputs()
OF_SHAPE = {"linear": "associative", "gated": "deferred", "general": "deferred"}
CONTROLS = {
    "plain": {},
    "mask": {"mask": some_mask()},
    "reset": {"reset": some_reset()},
    "both": {"mask": some_mask(), "reset": some_reset()},
}


def results(params, xs, state, **options):
    """Outputs, last state and the gradients of everything, under a random cotangent."""
    run = lambda params, xs, state: jaxlstm.apply(params, xs, state, **options)
    out, pull = jax.vjp(run, params, xs, state)
    return out, pull(normal_like(out))


def over_cells_with_another(law, names=CELLS):
    """Tries a law on every cell that another implementation than `scan` runs."""
    return over_cells(law, {k: CELLS[k] for k in names if other_than_scan(CELLS[k])})


over_kinds_with_another = functools.partial(over_cells_with_another, names=KINDS)


def other_than_scan(cell):
    shape = type(cell).__name__.lower()
    if shape == "general" and not cell.recurrent:
        return None
    return OF_SHAPE[shape]


@over_cells_with_another
@pytest.mark.parametrize(("controls", "reverse"), [("plain", False), ("both", True)])
def test_it_agrees_with_scan(cell, controls, reverse):
    agrees(cell, controls, reverse)


# Each option forward or backward; the other way round in the slow suite.
@over_kinds_with_another
@pytest.mark.parametrize(
    ("controls", "reverse"),
    [
        ("mask", True), ("reset", False),
        *(
            pytest.param(*turn, marks=pytest.mark.slow)
            for turn in (("plain", True), ("mask", False), ("reset", True), ("both", False))
        ),
    ],
)  # fmt: skip
def test_it_agrees_with_scan_for_each_control(cell, controls, reverse):
    agrees(cell, controls, reverse)


def agrees(cell, controls, reverse):
    params, name = network(cell), other_than_scan(cell)
    state = some_state(params)
    options = {**CONTROLS[controls], "reverse": reverse}
    assert jaxlstm.implementations(params, XS, state, **options)[name] is None

    @jax.jit
    def both(params, xs, state):
        return [results(params, xs, state, implementation=n, **options) for n in (name, "scan")]

    got, expected = both(params, XS, state)
    close(got, expected, rtol=1e-12)


@pytest.mark.slow
@over_kinds_with_another
def test_second_derivatives_agree_with_scan(cell):
    """Forward over reverse, and reverse over reverse, of weights and inputs."""
    params, name = network(cell), other_than_scan(cell)
    direction = normal_like((params, XS), 8)

    @jax.jit
    def twice(params, xs):
        def second(n):
            def loss(params, xs):
                ys, _ = jaxlstm.apply(params, xs, mask=some_mask(), implementation=n)
                return jnp.sum(jnp.sin(3 * ys))

            grad = jax.grad(loss, (0, 1))
            along = lambda *a: sum(
                jnp.vdot(x, y)
                for x, y in zip(jax.tree.leaves(grad(*a)), jax.tree.leaves(direction))
            )
            forward = jax.jvp(grad, (params, xs), direction)[1]
            return forward, jax.grad(along, (0, 1))(params, xs)

        return second(name), second("scan")

    (forward, reverse), (forward2, reverse2) = twice(params, XS)
    close(forward, forward2, rtol=1e-11)
    close(reverse, reverse2, rtol=1e-11)
    close(forward, reverse, rtol=1e-10)


@over_kinds_with_another
@pytest.mark.parametrize(
    "batch",
    some_of([((),), ((1,),), ((1, 1),), ((4, 4),)], [((1, 1),)]),
    ids=str,
)
def test_it_agrees_with_scan_for_any_number_of_rows(cell, batch):
    """Where the products are taken depends on it.  Values, gradients, and their tangents."""
    params, xs = network(cell), inputs(shape=(T, *batch, N))
    controls = {"mask": some_mask(shape=(T, *batch)), "reset": some_reset(shape=(T, *batch))}
    args = params, xs, some_state(params, batch)

    @jax.jit
    def tangents(args, direction):
        def both(*args):
            return [
                results(*args, implementation=n, **controls)
                for n in (other_than_scan(cell), "scan")
            ]

        return jax.jvp(both, args, direction)

    for got, expected in tangents(args, normal_like(args, 8)):
        close(got, expected, rtol=1e-11)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_default_takes_the_first_that_can(arrangement):
    for cell, runs in ((jaxlstm.gru_reset_before, "deferred"), (jaxlstm.cells.indrnn, "scan")):
        params = network(cell, arrangement)
        can = jaxlstm.implementations(params, XS)
        assert next(name for name in DEFAULT if can[name] is None) == runs


def test_who_runs_and_why_the_others_do_not():
    can = jaxlstm.implementations(network(jaxlstm.cells.indrnn), XS)
    assert can["scan"] is None
    assert "recurrent weights" in can["deferred"]
    assert "indrnn" in can["associative"]
    assert set(can) == set(IMPLEMENTATIONS)


def test_a_named_one_that_cannot_run_raises_with_its_reasons():
    params = network(jaxlstm.cells.indrnn, "bidirectional")
    with pytest.raises(NotImplementedError, match=r"`deferred` needs.*recurrent weights"):
        jaxlstm.apply(params, XS, implementation="deferred")
    with pytest.raises(ExceptionGroup) as caught:
        jaxlstm.apply(params, XS, implementation=("deferred", "associative"))
    assert ["`deferred`" in str(e) for e in caught.value.exceptions] == [True, False]
    ys, _ = jaxlstm.apply(params, XS, implementation=("deferred", "scan"))
    close(ys, jaxlstm.apply(params, XS)[0])


def test_every_cell_runs_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "none")
    for cell in CELLS.values():
        can = jaxlstm.implementations(numbers(cell), XS)
        assert can["scan"] is None


@pytest.mark.parametrize("precision", ["highest", "bfloat16", jax.lax.Precision.HIGH])
def test_the_precision_of_every_product_can_be_chosen(precision):
    """Of those of the gradients too."""
    params = network(jaxlstm.lstm, "stack")
    name = precision.name if isinstance(precision, jax.lax.Precision) else precision
    name = {"bfloat16": "DEFAULT"}.get(name, name).upper()

    def text(**options):
        loss = lambda p: jnp.sum(jaxlstm.apply(p, XS, **options)[0])
        return jax.jit(jax.grad(loss)).lower(params).as_text()

    products = [line for line in text(precision=precision).splitlines() if "dot_general" in line]
    assert len(products) > 4
    assert all(f"precision = [{name}, {name}]" in line for line in products)
    plain = [line for line in text().splitlines() if "dot_general" in line]
    assert all("HIGH" not in line for line in plain)


@pytest.mark.parametrize(("cell", "share"), [(jaxlstm.lstm, 0.5), (jaxlstm.gru, 0.55)], ids=repr)
def test_deferred_takes_less_memory_than_scan(cell, share):
    """By the compiled program's own memory analysis, beside autodiff through `scan`."""
    params = jaxlstm.init(jax.random.key(0), cell, 32, 64, dtype=jnp.float32)

    def temporary(name):
        run = lambda p, xs: jaxlstm.apply(p, xs, implementation=name)[0]
        both = lambda p, xs, dys: jax.vjp(run, p, xs)[1](dys)
        args = (jax.ShapeDtypeStruct((200, 32, n), jnp.float32) for n in (32, 64))
        return jax.jit(both).lower(params, *args).compile().memory_analysis().temp_size_in_bytes

    assert temporary("deferred") <= share * temporary("scan")


def test_checkpoint_keeps_states_of_the_root_of_time():
    """Beside one copy of the inputs; and no second one, whether the root divides time or not."""
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 1, 32, dtype=jnp.float32)

    def beside_inputs(time):
        run = lambda p, xs: jaxlstm.apply(p, xs, checkpoint=True, implementation="deferred")[0]
        both = jax.grad(lambda p, xs: run(p, xs).sum(), (0, 1))
        compiled = jax.jit(both).lower(params, jax.ShapeDtypeStruct((time, 1), jnp.float32))
        return compiled.compile().memory_analysis().temp_size_in_bytes - 4 * time

    few, many = beside_inputs(2_000), beside_inputs(32_000)
    assert 0 < many < 4 * few


@pytest.mark.parametrize(
    ("time", "size"), [(0, 1), (1, 1), (7, 3), (10_000, 100), (100_000, 250), (99_991, 317)]
)
def test_segments_of_the_root_leave_no_rest_where_they_can(time, size):
    assert near_the_root(time) == size


@jaxlstm.gated_cell("ab", jaxlstm.HiddenState)
def twice(s, u, v):
    """The sum of `a` is taken, and its `v` once more; that of `b` crosses over."""
    a, b = u + v
    return (jnp.tanh(a + v[0]) * b,)


@jaxlstm.gated_cell("ab", jaxlstm.HiddenState)
def crossed(s, u, v):
    """What is added is not of one gate."""
    return (jnp.tanh(u[0] + v[1]) * (u[1] + v[0]),)


@jaxlstm.gated_cell("abc", jaxlstm.HiddenState, recurrent="cb")
def straight(s, u, v):
    """Of another order, and one gate without a product; the first is no sum."""
    (c,) = u[2:] + v[:1]
    return (jnp.tanh(u[1] + v[1]) * u[0] + c,)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (jaxlstm.lstm, ("ifgo", "", "", "ifgo")),
        (jaxlstm.gru, ("rz", "n", "n", "rzn")),
        (jaxlstm.cells.peephole_lstm, ("ifgo", "", "", "ifgo")),
        (jaxlstm.cells.layer_norm_lstm, ("", "ifgo", "ifgo", "ifgo")),
        (jaxlstm.cells.cfn, ("fi", "n", "", "fi")),
        (jaxlstm.cells.nas, ("abcefjk", "d", "d", "abcdefjk")),
        (jaxlstm.gru_reset_before, ("rzn", "", "", "rz n")),
        (twice, ("b", "a", "a", "ab")),
        (crossed, ("", "ab", "ab", "ab")),
        (straight, ("bc", "a", "", "cb")),
    ],
    ids=lambda x: x.equations.__name__ if isinstance(x, jaxlstm.Cell) else "",
)
def test_only_a_sum_is_kept_of_gates_taken_by_their_sum_alone(cell, expected):
    params = network(cell)
    found = []
    look = lambda node, problem: (found.append(groups_of(problem)), unroll(node, problem))[1]
    plan = Plan(implementation=("deferred",))
    start(Arguments(params, XS), plan, look)
    (groups,) = found
    assert (groups.sums, groups.u, "".join(groups.v), " ".join(groups.calls)) == expected
    if cell.name in CELLS:  # which are compared above
        return
    both = jax.jit(
        lambda *args: [results(*args, None, implementation=n) for n in ("deferred", "scan")]
    )
    got, plain = both(params, XS)
    close(got, plain)


def test_a_step_is_traced_once_for_all_that_ask_what_it_does():
    """Two times for the groups of its gates, and once for the loop that runs it."""
    traced = []

    @jaxlstm.gated_cell("ab", jaxlstm.HiddenState)
    def counted(s, u, v):
        traced.append(None)
        a, b = u + v
        return (jnp.tanh(a) * jax.nn.sigmoid(b),)

    params = network(counted)
    traced.clear()
    jaxlstm.apply(params, XS)
    assert len(traced) == 3


def test_a_segment_of_one_step_is_not_one_of_the_square_root():
    params = network(jaxlstm.lstm)
    program = lambda checkpoint: str(
        jax.make_jaxpr(lambda p: jaxlstm.apply(p, XS, checkpoint=checkpoint))(params)
    )
    assert program(1) != program(True)
    assert program(False) == program(None)


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    some_of(
        [*itertools.product(("lstm", "gru_reset_before", "mingru"), (None, True))],
        [("gru_reset_before", True), ("mingru", None)],
    ),
)
def test_no_steps_without_jit(name, checkpoint):
    params = network(CELLS[name], "bidirectional")
    state = some_state(params)
    run = functools.partial(results, checkpoint=checkpoint)
    expected = jax.jit(run)(params, XS[:0], state)
    with jax.disable_jit():
        close(run(params, XS[:0], state), expected)
        assert jaxlstm.record(params, XS[:0])[0].shape == (0, 3, 10)
