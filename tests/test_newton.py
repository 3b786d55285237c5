"""Newton's method over time: it agrees with `scan`, or leaves the layer to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm._apply import start
from jaxlstm._arguments import Arguments
from jaxlstm._node import Plan
from jaxlstm._unroll import newton, unroll
from networks import (
    CELLS,
    KINDS,
    B,
    H,
    N,
    T,
    close,
    inputs,
    network,
    normal_like,
    over_cells,
    some_mask,
    some_of,
    some_reset,
    some_state,
)

XS = inputs()
NONLINEAR = {k: c for k, c in CELLS.items() if not isinstance(c, jaxlstm._cell.Linear)}
CONTROLS = {"mask": some_mask(), "reset": some_reset()}


def over_nonlinear(law, names=NONLINEAR):
    return over_cells(law, {name: NONLINEAR[name] for name in names})


NONLINEAR_KINDS = [name for name in KINDS if name in NONLINEAR]
over_kinds = functools.partial(over_nonlinear, names=NONLINEAR_KINDS)


def results(params, xs, state, **options):
    """Outputs, last state and the gradients of everything, under a random cotangent."""
    run = lambda params, xs, state: jaxlstm.apply(params, xs, state, **options)
    out, pull = jax.vjp(run, params, xs, state)
    return out, pull(normal_like(out))


def agrees(params, xs, state, rtol=1e-12, **options):
    both = jax.jit(
        lambda *args: [results(*args, implementation=n, **options) for n in ("newton", "scan")]
    )
    got, expected = both(params, xs, state)
    close(got, expected, rtol=rtol)


def method_of(params, xs):
    """How `newton` would run a layer."""
    seen = []
    look = lambda node, problem: (seen.append(newton._method(problem)), unroll(node, problem))[1]
    plan = Plan(implementation=("scan",))
    jax.eval_shape(lambda p: start(Arguments(p, xs), plan, look), params)
    (method,) = seen
    return method


@over_nonlinear
def test_it_agrees_with_scan(cell):
    agrees_with_scan(cell, {**CONTROLS, "reverse": True})


@pytest.mark.slow
@over_kinds
@pytest.mark.parametrize(
    "options", [{}, {"reverse": True}, CONTROLS], ids=["plain", "reverse", "controls"]
)
def test_it_agrees_with_scan_for_each_control(cell, options):
    agrees_with_scan(cell, options)


def agrees_with_scan(cell, options):
    params = network(cell)
    state = some_state(params)
    assert jaxlstm.implementations(params, XS, state, **options)["newton"] is None
    agrees(params, XS, state, **options)


@pytest.mark.slow
@over_kinds
def test_second_derivatives_agree_with_scan(cell):
    second_derivatives(network(cell))


@pytest.mark.slow
def test_second_derivatives_of_a_unitwise_cell():
    second_derivatives(network(CELLS["brc"]))


def second_derivatives(params):
    """Forward over reverse, and reverse over reverse, of weights and inputs."""
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

        return second("newton"), second("scan")

    (forward, reverse), (forward2, reverse2) = twice(params, XS)
    close(forward, forward2, rtol=1e-11)
    close(reverse, reverse2, rtol=1e-11)
    close(forward, reverse, rtol=1e-10)


@functools.partial(over_nonlinear, names=("lstm_1997", "slstm", *NONLINEAR_KINDS))
@pytest.mark.slow
def test_hundreds_of_steps_are_solved_in_few_rounds(cell):
    """From the default initialisation; three amplify errors too much or settle late, and say so."""
    params = jaxlstm.init(jax.random.key(0), cell, N, H)
    xs = inputs(shape=(300, B, N))
    report = jaxlstm.newton_report(params, xs)
    late = report.rounds == newton.ROUNDS
    assert report.fell_back == (late or report.amplification > newton.AMPLIFIED)
    assert not report.fell_back or cell.name in ("layer_norm_lstm", "lstm_1997", "slstm")
    agrees(params, xs, None)


@pytest.mark.parametrize("name", some_of(("gru", "projected_lstm"), ("gru",)))
def test_wide_states_are_solved_by_blocks_of_their_jacobians(name, monkeypatch):
    """The way to the solution is another; it and its derivatives are the same."""
    monkeypatch.setattr(newton, "FULL", 4)
    cell = CELLS[name](projection=3) if name == "projected_lstm" else CELLS[name]
    params = network(cell, seed=3)  # some networks amplify errors too much
    report = jaxlstm.newton_report(params, xs := inputs(shape=(150, B, N)))
    assert method_of(params, xs)[:2] == (True, False)
    assert not report.fell_back
    agrees(params, XS, some_state(params), **CONTROLS)


@pytest.mark.slow
@over_kinds
def test_it_agrees_by_blocks_of_its_jacobian(cell):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newton, "FULL", 0)
        params = network(cell)
        agrees(params, XS, some_state(params), **CONTROLS, reverse=True)


UNITWISE = {"brc", "indrnn", "sru_peephole"}


def test_which_cells_have_units_of_their_own_is_read_from_their_equations():
    init = lambda cell: jax.eval_shape(lambda: jaxlstm.init(jax.random.key(0), cell, N, H))
    methods = {name: method_of(init(cell), XS) for name, cell in NONLINEAR.items()}
    assert all(method.exact for method in methods.values())
    assert {name for name, method in methods.items() if method.unitwise} == UNITWISE


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        pytest.param({}, 3, id="plain", marks=pytest.mark.slow),
        pytest.param({**CONTROLS, "reverse": True}, 4, id="all"),
    ],
)
def test_blocks_of_time_change_nothing(options, steps, monkeypatch):
    params = network(jaxlstm.gru)
    monkeypatch.setattr(newton, "BYTES", steps * B * H * H * 8)
    assert method_of(params, XS).steps == steps
    agrees(params, XS, some_state(params), **options)


def chaotic(dtype=float):
    """An `rnn` whose errors grow by a third in each step."""
    params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, N, 16, dtype=dtype)
    r = jax.random.normal(jax.random.key(1), params.r.shape, dtype) * 3 / 4
    return params._replace(r=r)


@pytest.mark.parametrize("steps", [200, pytest.param(10, marks=pytest.mark.slow)])
def test_what_amplifies_errors_is_left_to_scan_to_the_bit(steps, monkeypatch):
    """In blocks too short to show it as well."""
    params, xs = chaotic(), inputs(shape=(200, N))
    monkeypatch.setattr(newton, "BYTES", steps * 16 * 16 * 8)
    report = jaxlstm.newton_report(params, xs)
    assert method_of(params, xs).steps == steps
    assert report.fell_back
    run = lambda name: jax.jit(lambda p, x: jaxlstm.apply(p, x, implementation=name))(params, xs)
    assert (run("newton")[0] == run("scan")[0]).all()
    assert (run("newton")[1].h == run("scan")[1].h).all()
    agrees(params, xs[:20], params.initial_state(()))


def test_nan_travels_as_in_scan():
    """Out of an input to the outputs after it in its row; and in none under a mask."""
    params = network(jaxlstm.gru)
    xs = XS.at[3, 1].set(jnp.nan)
    run = lambda x, **o: jax.jit(lambda p, x: jaxlstm.apply(p, x, **o))(params, x)
    got, expected = (run(xs, implementation=name) for name in ("newton", "scan"))
    np.testing.assert_array_equal(got[0], expected[0])
    assert jnp.isnan(got[0][3:, 1]).all()
    assert not jnp.isnan(got[0]).sum() > 4 * H
    mask = jnp.ones((T, B), bool).at[3, 1].set(False)
    got, expected = (run(xs, mask=mask, implementation=name) for name in ("newton", "scan"))
    close(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "indrnn"])
def test_mapped_rows_and_networks(name):
    """Gradients too, where of two networks one is left to `scan` and the other is not."""
    params, controls = network(CELLS[name]), jnp.asarray(CONTROLS["mask"])
    chaotic = params._replace(r=params.r * 40) if name == "gru" else params
    several = jax.tree.map(lambda *a: jnp.stack(a), params, chaotic)

    def mapped(way, params, xs):
        run = lambda p, x, m: jaxlstm.apply(p, x, mask=m, implementation=way)
        rows = lambda p: jax.vmap(run, (None, 1, 1), (1, 0))(p, xs, controls)
        return jax.vmap(rows)(params)

    def both(way):
        out, pull = jax.vjp(lambda *a: mapped(way, *a), several, XS)
        tangents = jax.jvp(lambda *a: mapped(way, *a), (several, XS), (several, XS))[1]
        return out, pull(normal_like(out)), tangents

    got, expected = jax.jit(lambda: [both(way) for way in ("newton", "scan")])()
    close(got, expected, rtol=1e-10)


def test_networks_without_rows():
    several = jax.tree.map(lambda a: jnp.stack([a, a]), network(jaxlstm.gru))
    run = lambda p: jaxlstm.apply(p, inputs(shape=(T, 0, N)), implementation="newton")[0]
    grads = jax.grad(lambda p: jax.vmap(run)(p).sum())(several)
    assert not any(g.any() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", some_of(("lstm", "indrnn"), ("indrnn",)))
@pytest.mark.parametrize(
    ("time", "batch"), [(0, (2,)), (1, ()), (5, ()), (4, (0,)), (3, (2, 3))], ids=str
)
def test_any_time_and_any_batch_axes(name, time, batch):
    params, xs = network(CELLS[name]), inputs(shape=(time, *batch, N))
    got, expected = (jaxlstm.apply(params, xs, implementation=name) for name in ("newton", "scan"))
    close(got, expected)


@pytest.mark.parametrize("dtype", some_of((jnp.float32, jnp.bfloat16), (jnp.bfloat16,)))
def test_dtypes_are_kept(dtype):
    params, xs = network(jaxlstm.gru, dtype=dtype), inputs(dtype=dtype)
    got, expected = (
        jax.jit(lambda p, x, n=name: results(p, x, None, implementation=n))(params, xs)
        for name in ("newton", "scan")
    )
    close(got, expected, rtol=1e-5 if dtype == jnp.float32 else 0.02, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("arrangement", ["layer", "bidirectional"])
def test_wrappers_and_directions(arrangement):
    """Noise, layers, directions, a learned initial state; mapped over weights."""
    params = network(jaxlstm.gru, arrangement)
    w = jaxlstm.wrappers
    params = w.learn_initial_state(w.zoneout(w.variational_dropout(params, 0.2, 0.3), 0.2))
    many = jax.tree.map(lambda a: jnp.stack([a, 0.9 * a]), params)
    options = {**CONTROLS, "key": jax.random.key(3)}

    @jax.jit
    def mapped(many):
        each = lambda name: jax.vmap(
            lambda p: jax.value_and_grad(
                lambda p: jnp.sum(jnp.sin(jaxlstm.apply(p, XS, implementation=name, **options)[0]))
            )(p)
        )(many)
        return each("newton"), each("scan")

    got, expected = mapped(many)
    close(got, expected)


@pytest.mark.slow
def test_a_convolutional_layer():
    """Its Jacobian is not that of one place, in which it is small."""
    params = jaxlstm.init_conv(jax.random.key(0), jaxlstm.gru, 2, 3, (3,), dtype=float)
    xs = inputs(shape=(6, 2, 12, 2))
    assert method_of(params, xs)[:2] == (True, False)
    agrees(params, xs, params.initial_state((2, 12)))
    assert method_of(params, xs[:, :, :4])[:2] == (False, True)
    agrees(params, xs[:, :, :4], params.initial_state((2, 4)))


def test_what_it_does_not_run_has_a_reason():
    reason = lambda params, **o: jaxlstm.implementations(params, XS, **o)["newton"]
    assert "`associative` runs mingru" in reason(network(jaxlstm.mingru))
    params = network(jaxlstm.lstm)
    assert "leave `checkpoint` out" in reason(params, checkpoint=True)
    assert "clip_gradient" in reason(jaxlstm.wrappers.clip_gradient(params, 1.0))
    with pytest.raises(NotImplementedError, match="`newton` is for cells that are not linear"):
        jaxlstm.apply(network(jaxlstm.mingru), XS, implementation="newton")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "indrnn", "brc", "rnn"])
def test_ten_thousand_steps(name):
    # Units of `indrnn` with a weight above 1 would grow without end.
    params, xs = network(CELLS[name], seed=1), inputs(shape=(10_000, N))
    report = jaxlstm.newton_report(params, xs)
    assert not report.fell_back
    assert report.rounds < 30
    agrees(params, xs, params.initial_state(()))


def test_a_report_has_the_tree_of_the_network():
    params = network(jaxlstm.gru, "bidirectional")
    linear = jaxlstm.init(jax.random.key(0), jaxlstm.mingru, 2 * H, H)
    report = jaxlstm.newton_report(
        jaxlstm.Stack((*params.layers, linear)), XS.swapaxes(0, 1), axis=1, mask=some_mask().T
    )
    assert report.layers[2] is None
    first = report.layers[0].forward
    assert isinstance(first, jaxlstm.NewtonReport)
    assert 0 < first.rounds <= T + 2
    assert first.residual < 1e-14
    assert 0 < first.amplification < 100
    assert not report.layers[1].backward.fell_back
    alone = jaxlstm.newton_report(params.layers[0].backward, XS, mask=some_mask(), reverse=True)
    close(alone, report.layers[0].backward, rtol=0.5, atol=1e-14)
    assert jaxlstm.newton_report(params.layers[0].forward, XS[:0]).rounds == 0
