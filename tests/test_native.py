"""The kernel for the CPU computes what `scan` computes, with everything that JAX derives of it."""

import itertools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import (
    CELLS,
    close,
    compiler_here,
    normal_like,
    some_mask,
    some_of,
    some_reset,
    three_products,
)

pytestmark = pytest.mark.skipif(not compiler_here(), reason="this machine has no C++ compiler")

F32 = jnp.float32
CORE = ("rnn", "rnn_relu", "lstm", "gru")
CONTROLS = {
    "plain": {},
    "mask-reverse": {"mask": True, "reverse": True},
    "reset": {"reset": True},
    "both-reverse": {"mask": True, "reset": True, "reverse": True},
}


def network(cell, hidden=5, inputs=4, **options):
    params = jaxlstm.init(jax.random.key(0), cell, inputs, hidden, dtype=F32, **options)
    return jax.tree.map(lambda a, n: a + F32(0.2) * n, params, normal_like(params))


def some(params, time=7, batch=(3,), inputs=4):
    xs = jax.random.normal(jax.random.key(1), (time, *batch, inputs), F32)
    return xs, normal_like(jaxlstm.apply(params, xs)[1], 9)


def controls(chosen, time, batch):
    shape = (time, *batch)
    given = dict(chosen)
    if "mask" in given:
        given["mask"] = some_mask(shape=shape)
    if "reset" in given:
        given["reset"] = some_reset(shape=shape)
    return given


def pulled(name, params, xs, state, **options):
    """Values without gradients, values with them, and the gradients of everything."""
    run = lambda *a: jaxlstm.apply(*a, implementation=name, **options)

    @jax.jit
    def all_of_it(*args):
        out, pull = jax.vjp(run, *args)
        return run(*args), out, pull(normal_like(out))

    return all_of_it(params, xs, state)


def reason(cell):
    params = network(cell)
    return jaxlstm.implementations(params, some(params)[0])["native"]


@pytest.mark.parametrize(
    ("name", "chosen"),
    some_of(
        [*itertools.product(CORE, CONTROLS)],
        [("lstm", "plain"), ("lstm", "both-reverse"), ("gru", "mask-reverse"), ("gru", "reset")],
    ),
)
def test_it_agrees_with_scan(name, chosen):
    params = network(getattr(jaxlstm, name))
    xs, state = some(params)
    options = controls(CONTROLS[chosen], 7, (3,))
    got, expected = (pulled(n, params, xs, state, **options) for n in ("native", "scan"))
    close(got, expected, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mapped", [False, True])
def test_sixteen_bits_are_computed_in_float32(dtype, mapped):
    """To the bit: they are converted on their way in and out, and nothing is rounded between."""
    params = network(jaxlstm.lstm)
    xs, state = some(params)
    cast = lambda tree, dtype: jax.tree.map(lambda a: a.astype(dtype), tree)
    params, xs = cast((params, xs), dtype)
    options = controls({"mask": True, "reset": True, "reverse": True}, 7, (3,))
    f = lambda *a: jaxlstm.apply(*a, implementation="native", **options)
    args = params, xs, state
    if mapped:
        args = jax.tree.map(lambda a: jnp.stack([a, -a]), args)
        f = jax.vmap(f)

    @jax.jit
    def all_of_it(args, cotangents):
        out, pull = jax.vjp(f, *args)
        return out, pull(cotangents)

    dys, dstate = normal_like(jax.eval_shape(f, *args))
    (ys, last), (dparams, dxs, dfirst) = all_of_it(args, (dys, dstate))
    assert ys.dtype == dxs.dtype == dparams.w.dtype == dtype
    assert last.h.dtype == dfirst.h.dtype == F32
    wide = all_of_it(cast(args, F32), (dys.astype(F32), dstate))
    got = (ys, last), (dparams, dxs, dfirst)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)), got, wide)


@pytest.mark.parametrize("name", some_of(CELLS, ("gru_reset_before", "mingru")))
def test_every_cell_agrees_with_scan_or_says_why_not(name):
    params = network(CELLS[name])
    xs, state = some(params)
    reason = jaxlstm.implementations(params, xs)["native"]
    if reason:
        assert reason.startswith("`native` ")
        return
    options = controls({"mask": True, "reset": True}, 7, (3,))
    got, expected = (pulled(n, params, xs, state, **options) for n in ("native", "scan"))
    close(got, expected, rtol=1e-5, atol=1e-6)


def test_most_gated_cells_run():
    """Every way of the equations to use their gates is among these."""
    names = ("cfn", "nbrc", "star", "mut3", "fastrnn")
    assert {name: reason(CELLS[name]) for name in names} == dict.fromkeys(names)


def _cell(f):
    """An LSTM with one gate, whose candidate is `f(z)`."""

    @jaxlstm.gated_cell("fz", jaxlstm.LSTMState)
    def of_one_gate(s, u, v):
        f_, z = u + v
        c = jax.nn.sigmoid(f_) * s.c + f(z)
        return jnp.tanh(c), c

    return of_one_gate


# Each is other equations if it is traced for one unit.
NOT_OF_ONE_UNIT = {
    "norm": lambda z: z / (1 + jnp.linalg.norm(z, axis=-1, keepdims=True)),
    "mean": lambda z: z - z.mean(-1, keepdims=True),
    "neighbours": lambda z: jnp.roll(z, 1, -1),
    "turned": lambda z: z[..., ::-1],
    "cumulative": lambda z: jnp.cumsum(z, -1),
    "halves": lambda z: jnp.concatenate([jnp.tanh(z[..., :2]), z[..., 2:]], -1),
    "first": lambda z: z[..., :1] * jnp.ones_like(z),
    "rates": lambda z: z * jnp.linspace(jnp.zeros_like(z[..., 0]), 1.0, z.shape[-1], axis=-1),
    "mask": lambda z: jnp.where(np.broadcast_to(np.arange(z.shape[-1]) % 2, z.shape), z, -z),
}


def _printing(z):
    jax.debug.callback(lambda z: None, z)
    return z


# What the kernel has no C++ for runs as a loop, and what is a call is entered.
PROGRAMS = {
    "print": _printing,
    "jit": jax.jit(lambda z: jnp.tanh(z) * 2),
    "print in jit": jax.jit(_printing),
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "power": lambda z: jnp.abs(z) ** 1.5,
    "integer power": lambda z: z**3 - z**0 + (2 + z**2) ** -2,
    "cond": lambda z: jax.lax.cond(z.sum() > 0, jnp.sin, jnp.cos, z),
    "loop": lambda z: jax.lax.fori_loop(0, 3, lambda i, z: jnp.sin(z), z),
    "sorted": lambda z: jnp.sort(z, -1),
    "largest": lambda z: jax.lax.top_k(z, 2)[0].sum(-1, keepdims=True) * z,
    "softmax": lambda z: jax.nn.softmax(z, -1),
    "rounded": lambda z: z.astype(jnp.bfloat16).astype(z.dtype),
    "stopped": lambda z: z - jax.lax.stop_gradient(jnp.tanh(z)),
    "checkpoint": jax.checkpoint(lambda z: jnp.tanh(z) ** 2),
}


@pytest.mark.parametrize("name", some_of(PROGRAMS, ("print in jit", "cond")))
def test_whatever_equations_call_the_default_means_what_scan_means(name, kernel_by_default):
    params = network(_cell(PROGRAMS[name]))
    xs, state = some(params, 3, (2,))
    got, expected = (pulled(n, params, xs, state) for n in (None, "scan"))
    close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", some_of(NOT_OF_ONE_UNIT, ("norm", "neighbours", "rates")))
def test_units_that_differ_or_see_each_other_are_found(name, kernel_by_default):
    params = network(_cell(NOT_OF_ONE_UNIT[name]))
    xs, state = some(params)
    assert reason(params.cell).startswith(("`native` needs a cell", "`native` has no"))
    close(pulled(None, params, xs, state), pulled("scan", params, xs, state), rtol=3e-6, atol=1e-6)


@pytest.mark.slow
def test_equations_may_know_how_many_units_there_are():
    cell = _cell(lambda z: z / z.shape[-1] ** 0.5)
    for hidden in (5, 16):
        params = network(cell, hidden)
        xs, state = some(params)
        got, expected = (pulled(n, params, xs, state) for n in ("native", "scan"))
        close(got, expected, rtol=3e-6, atol=1e-6)


def test_zero_keeps_its_sign():
    one = lambda zero, z: jnp.clip(1 / (zero * abs(z)), -1, 1)
    params = network(_cell(lambda z: one(0.0, z) - one(-0.0, z)))
    xs, state = some(params)
    got, expected = (jaxlstm.apply(params, xs, state, implementation=n) for n in ("native", "scan"))
    close(got, expected, rtol=3e-6, atol=1e-6)


@jaxlstm.general_cell("rn", jaxlstm.HiddenState)
def all_gates_at_once(s, u, recur):
    r, n = u + recur(s.h)
    return (jax.nn.sigmoid(r) * s.h + jnp.tanh(n),)


@jaxlstm.general_cell("rn", jaxlstm.HiddenState, recurrent="nr")
def one_matrix_twice(s, u, recur):
    r, n = u
    v, w = recur(s.h, gates="nr")
    (again,) = recur(jax.nn.sigmoid(r + w) * s.h, "n")
    return (jnp.tanh(n + v * again),)


@jaxlstm.gated_cell(
    "h",
    jaxlstm.HiddenState,
    weights={"q": jaxlstm.Weight("input hidden", jaxlstm.initializers.zeros, when="mixed")},
)
def optional_matrix(s, u, v, *, mixed=False, q=None):
    """Without its option there is no `q`, whose shape the kernel could not take."""
    return (jnp.tanh((u + v)[0]),)


ASKING = {f.name: f for f in (all_gates_at_once, one_matrix_twice, optional_matrix)}


@pytest.mark.parametrize("name", some_of(ASKING, ("one_matrix_twice",)))
def test_products_as_equations_may_ask_for_them(name):
    params = network(ASKING[name])
    xs, state = some(params)
    options = controls({"mask": True, "reset": True}, 7, (3,))
    got, expected = (pulled(n, params, xs, state, **options) for n in ("native", "scan"))
    close(got, expected, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("time", "batch", "hidden"),
    some_of([(60, (1,), 130), (9, (17,), 37), (40, (33,), 64)], [(9, (17,), 37)]),
)
def test_several_products_and_weights_of_units(time, batch, hidden):
    """On one thread, and on two that wait for each other before each product."""
    params = network(three_products, hidden)
    xs, state = some(params, time, batch)
    options = controls({"mask": True, "reset": True, "reverse": True}, time, batch)
    got, expected = (pulled(n, params, xs, state, **options) for n in ("native", "scan"))
    close(got, expected, rtol=2e-5, atol=2e-6)


# Sizes at the ends of panels, tiles and blocks, of one thread and of two.
SIZES = [
    (5, (), 7),
    (60, (1,), 130),
    (9, (17,), 37),
    (3, (2, 3), 16),
    (40, (33,), 64),
    (2, (1,), 300),
]
# Rows of which the kernel copies columns, before it multiplies them transposed: more of them than a
# block of time has, a block and a part of one, and inputs alone.
WIDE = [(2, (300,), 257, 4), (9, (31,), 260, 300), (3, (2,), 5, 256)]


@pytest.mark.parametrize(
    ("name", "time", "batch", "hidden"),
    some_of(
        [(name, *size) for name in ("lstm", "gru") for size in SIZES],
        [("lstm", *SIZES[0]), ("gru", *SIZES[2]), ("lstm", *SIZES[4])],
    ),
)
def test_any_size(name, time, batch, hidden):
    params = network(getattr(jaxlstm, name), hidden, scheme="torch")
    xs, state = some(params, time, batch)
    options = controls({"mask": True, "reset": True, "reverse": time % 2 == 0}, time, batch)
    got, expected = (pulled(n, params, xs, state, **options) for n in ("native", "scan"))
    close(got, expected, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "time", "batch", "hidden", "inputs"),
    some_of(
        [(name, *size) for name in ("lstm", "gru", "gru_reset_before") for size in WIDE],
        [("lstm", *WIDE[0]), ("gru_reset_before", *WIDE[1])],
    ),
)
def test_wide_rows(name, time, batch, hidden, inputs):
    params = network(getattr(jaxlstm, name), hidden, inputs, scheme="torch")
    xs, state = some(params, time, batch, inputs)
    got, expected = (pulled(n, params, xs, state) for n in ("native", "scan"))
    close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [(0, ["0x3x4"]), (1, ["0x4x5", "0x5"]), (2, ["0x3x4", "0x4x5", "0x5"])],
    ids=["weights", "inputs", "state"],
)
def test_gradients_that_nobody_asks_for_are_not_computed(asked, left_out):
    """The kernel gives an array of no rows in place of each."""
    params = network(jaxlstm.cells.peephole_lstm)
    args = (params, *some(params))

    def grad(n):
        loss = lambda *a: jnp.sum(jaxlstm.apply(*a, implementation=n)[0] ** 3)
        return jax.jit(jax.grad(loss, asked))

    close(grad("native")(*args), grad("scan")(*args), rtol=3e-6, atol=1e-6)
    lines = grad("native").lower(*args).as_text().splitlines()
    (back,) = [line for line in lines if re.search(r"custom_call @jaxlstm_\w+_back", line)]
    results = back.split(" -> ")[-1]
    assert sorted(set(re.findall(r"tensor<1x(0[x0-9]*)xf32>", results))) == sorted(left_out)


@pytest.mark.parametrize("reverse", some_of((False, True), (False,)))
@pytest.mark.parametrize(
    ("time", "batch"),
    some_of([(0, (3,)), (1, (3,)), (4, (0,)), (0, ()), (0, (3000,))], [(0, (3,)), (4, (0,))]),
    ids=str,
)
def test_no_steps_and_no_rows(time, batch, reverse):
    """The many rows are so that what is written beside an array of no steps is found."""
    params = network(jaxlstm.gru, hidden=300 if batch == (3000,) else 5)
    xs, state = some(params, time, batch)
    got, expected = (pulled(n, params, xs, state, reverse=reverse) for n in ("native", "scan"))
    close(got, expected, rtol=1e-6)


@pytest.mark.parametrize("name", some_of(("lstm", "gru", "mingru"), ("lstm", "mingru")))
def test_layers_and_directions_with_a_mask(name):
    params = network(getattr(jaxlstm, name), layers=2, bidirectional=True)
    xs, state = some(params)
    options = controls({"mask": True}, 7, (3,))
    got, expected = (pulled(n, params, xs, state, **options) for n in ("native", "scan"))
    close(got, expected, rtol=3e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "minlstm"])
def test_forward_mode_and_second_derivatives(name):
    params = network(getattr(jaxlstm, name), 3)
    xs, _ = some(params, 4, (2,))
    direction = normal_like((params, xs), 8)

    def derived(n):
        def loss(params, xs):
            ys, last = jaxlstm.apply(params, xs, mask=some_mask(shape=(4, 2)), implementation=n)
            return jnp.sum(jnp.sin(3 * ys)) + jnp.sum(last[0] ** 2)

        tangent = jax.jvp(loss, (params, xs), direction)
        grad = jax.grad(loss, (0, 1))
        along = lambda *a: sum(
            jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(grad(*a)), jax.tree.leaves(direction))
        )
        forward_over_reverse = jax.jvp(grad, (params, xs), direction)[1]
        reverse_over_reverse = jax.grad(along, (0, 1))(params, xs)
        hessian = jax.hessian(loss, 1)(params, xs)
        return tangent, forward_over_reverse, reverse_over_reverse, hessian

    got, expected = (
        jax.jit(derived, static_argnums=0)("native"),
        jax.jit(derived, static_argnums=0)("scan"),
    )
    close(got, expected, rtol=2e-5, atol=1e-5)
    close(got[1], got[2], rtol=2e-5, atol=1e-5)


def test_vmap_over_data_and_over_networks():
    cell = jaxlstm.lstm
    keys = jax.random.split(jax.random.key(0), 3)
    ensemble = jax.vmap(lambda k: jaxlstm.init(k, cell, 4, 5, dtype=F32))(keys)
    one = jax.tree.map(lambda a: a[0], ensemble)
    xs = jax.random.normal(jax.random.key(1), (3, 7, 2, 4), F32)

    def all_of_it(name):
        run = lambda p, x: jaxlstm.apply(p, x, implementation=name)
        loss = lambda p, x: jnp.sum(run(p, x)[0] ** 2)
        over_data = jax.vmap(run, (None, 0))(one, xs), jax.vmap(jax.grad(loss), (None, 0))(one, xs)
        over_both = jax.vmap(run)(ensemble, xs), jax.vmap(jax.grad(loss))(ensemble, xs)
        together = jax.grad(lambda p: jnp.sum(jax.vmap(loss)(p, xs)))(ensemble)
        return over_data, over_both, together

    close(jax.jit(all_of_it, static_argnums=0)("native"), all_of_it("scan"), rtol=1e-5, atol=1e-6)


def test_checkpoint_and_remat_change_nothing():
    params = network(jaxlstm.gru)
    xs, state = some(params, 10)
    plain = pulled("native", params, xs, state)
    close(pulled("native", params, xs, state, checkpoint=3), plain, rtol=1e-5, atol=1e-6)
    run = jax.checkpoint(lambda *a: jaxlstm.apply(*a, implementation="native"))
    out, pull = jax.vjp(run, params, xs, state)
    close((out, pull(normal_like(out))), plain[1:], rtol=1e-5, atol=1e-6)


@jaxlstm.gated_cell("abc", jaxlstm.HiddenState)
def functions(s, u, v):
    """What no other cell here asks of C++: powers, roots, comparisons, constants."""
    a, b, c = u + v
    x = jnp.where(a > b, a**3, b**-2) + jnp.sqrt(jnp.abs(c) + 1) + jnp.sign(a)
    x = jnp.clip(x, -1.5, 2.0) + jnp.minimum(jnp.exp(-jnp.square(b)), 0.7) / (1 + jax.nn.relu(c))
    return (jnp.where((a <= b) & ~(c == 0) | (b != b), jnp.maximum(x, 0.1 * a), x),)


def test_a_cell_of_ones_own():
    params = network(functions)
    xs, state = some(params)
    got, expected = (pulled(n, params, xs, state) for n in ("native", "scan"))
    close(got, expected, rtol=2e-5, atol=1e-5)


@jaxlstm.gated_cell("h", jaxlstm.HiddenState, bias=False)
def wavy(s, u, v):
    return (jnp.sin((u + v)[0]),)


@jaxlstm.general_cell("h", jaxlstm.HiddenState)
def of_a_tanh_first(s, u, recur):
    return (jnp.tanh(u[0] + recur(jnp.tanh(s.h), "h")[0]),)


def refused(cell, **options):
    params = jaxlstm.init(jax.random.key(0), cell, 4, 5, **{"dtype": F32, **options})
    xs = jax.ShapeDtypeStruct((7, 3, 4), jax.tree.leaves(params)[0].dtype)
    return jaxlstm.implementations(params, xs)["native"]


def test_it_says_why_it_cannot(monkeypatch):
    assert "further weights" in refused(CELLS["lru"])
    assert "first product" in refused(of_a_tanh_first)
    assert "computes in float32; this is float64" in refused(jaxlstm.lstm, dtype=jnp.float64)
    assert "'sin'" in refused(wavy)
    for name in ("rhn", "projected_lstm"):
        assert "further weights" in refused(CELLS[name])
    assert "several units" in refused(CELLS["layer_norm_lstm"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "needs a C++ compiler" in refused(jaxlstm.lstm)


class Functions(NamedTuple):
    exp: jax.Array
    expm1: jax.Array
    log: jax.Array
    log1p: jax.Array
    logistic: jax.Array
    tanh: jax.Array


@jaxlstm.gated_cell("abcdef", Functions, bias=False)
def functions_of_a_gate(s, u, v):
    """Each of its own gate, in one kernel."""
    a, b, c, d, e, f = u + 0 * v
    return jnp.exp(a), jnp.expm1(b), jnp.log(c), jnp.log1p(d), jax.nn.sigmoid(e), jnp.tanh(f)


TRUE = Functions(np.exp, np.expm1, np.log, np.log1p, lambda x: 1 / (1 + np.exp(-x)), np.tanh)


@pytest.mark.parametrize("name", Functions._fields)
def test_functions_to_two_units_in_the_last_place(name):
    """Over every magnitude, infinities and NaN."""
    x = np.concatenate([s * np.logspace(-30, 2, 100_000) for s in (-1, 1)])
    x = np.concatenate([x, np.linspace(-90, 90, 100_000), [0.0, np.inf, -np.inf, np.nan]])
    x = x.astype(np.float32)
    x = x[~(x < -87)]  # XLA takes what is smaller than a normal number for zero
    params = jaxlstm.init(jax.random.key(0), functions_of_a_gate, 1, 1, dtype=F32)
    params = params._replace(w=jnp.ones_like(params.w), r=jnp.zeros_like(params.r))
    _, last = jaxlstm.apply(params, jnp.asarray(x)[None, :, None], implementation="native")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        true = getattr(TRUE, name)(x.astype(np.float64))
        rounded = true.astype(np.float32)
    got = np.asarray(getattr(last, name))[:, 0]
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    ulp = np.abs(got[~same] - true[~same]) / np.spacing(np.abs(rounded[~same]))
    assert np.all(ulp <= 2.5), (x[~same][np.argmax(ulp)], ulp.max())


def test_gates_that_are_closed_further_than_a_normal_number_tells():
    """Where exp(-x) leaves the normal numbers: the logistic function is zero, tanh is -1."""
    x = np.linspace(-110, -87.4, 20_000).astype(np.float32)
    params = jaxlstm.init(jax.random.key(0), functions_of_a_gate, 1, 1, dtype=F32)
    params = params._replace(w=jnp.ones_like(params.w), r=jnp.zeros_like(params.r))
    _, last = jaxlstm.apply(params, jnp.asarray(x)[None, :, None], implementation="native")
    np.testing.assert_array_equal(last.logistic[:, 0], 0)
    np.testing.assert_array_equal(last.tanh[:, 0], -1)
