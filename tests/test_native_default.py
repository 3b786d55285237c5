"""The default: one traced program, which becomes the kernel where it is lowered for one device."""

import functools
import itertools
import logging
import os
import pathlib
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import jaxlstm
from jaxlstm._unroll import native
from jaxlstm._unroll.native import _compiler
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
from test_collectives import collectives, inside_loops, placed, programs

pytestmark = [
    pytest.mark.skipif(not compiler_here(), reason="this machine has no C++ compiler"),
    pytest.mark.usefixtures("kernel_by_default"),
]

F32 = jnp.float32
TRIED = (
    "rnn", "rnn_relu", "lstm", "gru", "cfn", "nbrc", "star", "peephole_lstm", "slstm",
    "gru_reset_before",
)  # fmt: skip
SHAPE = (7, 3)
CONTROLS = {
    "plain": {},
    "mask-reverse": {"mask": some_mask(shape=SHAPE), "reverse": True},
    "reset": {"reset": some_reset(shape=SHAPE)},
    "both": {"mask": some_mask(shape=SHAPE), "reset": some_reset(shape=SHAPE)},
    "both-reverse": {
        "mask": some_mask(shape=SHAPE), "reset": some_reset(shape=SHAPE), "reverse": True
    },
}  # fmt: skip


def network(cell=jaxlstm.lstm, key=0, dtype=F32, **options):
    params = jaxlstm.init(jax.random.key(key), cell, 4, 5, dtype=dtype, **options)
    return jax.tree.map(lambda a, n: a + F32(0.2).astype(dtype) * n, params, normal_like(params))


def inputs(*shape, key=1):
    return jax.random.normal(jax.random.key(key), shape or (*SHAPE, 4), F32)


def loss(params, xs, **options):
    out = jaxlstm.apply(params, xs, **options)
    return sum(jnp.sum(jnp.sin(3 * a)) for a in jax.tree.leaves(out))


def both(implementation=None, cotangents=normal_like, **options):
    """Values without gradients, and with those of everything."""

    def f(*args):
        run = lambda *a: jaxlstm.apply(*a, implementation=implementation, **options)
        out, pull = jax.vjp(run, *args)
        return run(*args), out, pull(cotangents(out))

    return f


def kernels(f, *args, **how):
    """How many kernels a program is lowered to."""
    return jax.jit(f).trace(*args).lower(**how).as_text().count("custom_call @jaxlstm_")


def mesh(kind="Auto", n=2):
    return jax.make_mesh((n,), ("data",), (getattr(AxisType, kind),), devices=jax.devices()[:n])


def put(mesh, tree, *axes):
    return jax.device_put(tree, NamedSharding(mesh, P(*axes)))


# The same meaning.


@pytest.mark.parametrize(
    ("name", "controls"),
    some_of(
        [*itertools.product(TRIED, CONTROLS)],
        [("lstm", "both-reverse"), ("gru", "both"), ("gru_reset_before", "both-reverse")],
    ),
)
def test_it_means_what_scan_means(name, controls):
    params, controls = network(CELLS[name]), CONTROLS[controls]
    xs, state = inputs(), normal_like(params.initial_state((3,)), 9)
    args = params, xs, state
    assert kernels(both(**controls), *args) == 3
    got, expected = (jax.jit(both(n, **controls))(*args) for n in (None, "scan"))
    close(got, expected, rtol=5e-6, atol=1e-6)


ODD = [np.nan, np.inf, -np.inf, 1e-42, -1e-42, 3e38, 0.0, -0.0]


@pytest.mark.parametrize(
    "name", ["lstm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gru", "rnn"))]
)
def test_odd_numbers_go_where_scan_lets_them_go(name):
    """In one row's inputs and in another's state; a third has none of them."""
    params = network(getattr(jaxlstm, name))
    mask = jnp.ones(SHAPE, bool).at[5, 0].set(False)
    reset = jnp.zeros(SHAPE, bool).at[5, 1].set(True)
    runs = [
        jax.jit(both(implementation, mask=mask, reset=reset)) for implementation in (None, "scan")
    ]
    for odd in ODD:
        state = normal_like(params.initial_state((3,)), 9)
        state = jax.tree.map(lambda a, odd=odd: a.at[1, 2].set(odd), state)
        got, expected = (run(params, inputs().at[3, 0, 1].set(odd), state) for run in runs)
        assert jnp.isfinite(got[0][0][:, 2]).all()
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=str(odd))


def test_padding_of_nan_is_invisible():
    params = network(jaxlstm.gru, bidirectional=True)
    mask = some_mask(shape=SHAPE)
    clean = inputs()
    padded = jnp.where(mask[..., None], clean, jnp.nan)
    assert kernels(both(mask=mask), params, padded) == 6
    run = jax.jit(both(mask=mask))
    (got, dgot), (expected, dexpected) = (run(params, xs)[1:] for xs in (padded, clean))
    close(got, expected, rtol=1e-6)
    close(dgot, dexpected, rtol=1e-6)


SEVERAL = pytest.param(three_products, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "cell", [jaxlstm.gru, SEVERAL, pytest.param(jaxlstm.mingru, marks=pytest.mark.slow)], ids=str
)
def test_second_derivatives_and_forward_mode(cell):
    params, xs = network(cell), inputs(4, 2, 4)
    direction = normal_like((params, xs), 8)

    def derived(implementation):
        f = functools.partial(loss, implementation=implementation, mask=some_mask(shape=(4, 2)))
        grad = jax.grad(f, (0, 1))
        along = lambda *a: sum(map(jnp.vdot, *map(jax.tree.leaves, (grad(*a), direction))))
        forward = jax.jvp(grad, (params, xs), direction)[1]
        return (
            jax.jvp(f, (params, xs), direction), forward, jax.grad(along, (0, 1))(params, xs),
            jax.hessian(f, 1)(params, xs), jax.jacfwd(f, 1)(params, xs),
        )  # fmt: skip

    got, expected = (
        jax.jit(lambda implementation=implementation: derived(implementation))()
        for implementation in (None, "scan")
    )
    close(got, expected, rtol=2e-5, atol=1e-5)
    close(got[1], got[2], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("checkpoint", [3, pytest.param(True, marks=pytest.mark.slow)])
def test_checkpoint(checkpoint):
    params, xs = network(), inputs()
    run = lambda implementation: jax.jit(both(implementation, checkpoint=checkpoint))(params, xs)
    assert kernels(both(checkpoint=checkpoint), params, xs)
    close(run(None), run("scan"), rtol=5e-6, atol=1e-6)


def test_in_bits_twice_the_same():
    params, xs = network(), inputs()
    run = jax.jit(both())
    a, b = run(params, xs), run(params, xs)
    assert all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


# Mapped axes.


@pytest.mark.parametrize("at", some_of((0, 1, 2), (1,)))
def test_mapped_data_become_rows_of_one_call(at):
    """By `vmap` inside and outside of `grad`, also of some arguments, also twice."""
    params, mask, axis = network(), some_mask(shape=SHAPE), min(at, 1)
    shape = [*SHAPE, 4]
    shape.insert(at, 6)
    xs, state = inputs(*shape), normal_like(params.initial_state((6, 3)), 3)

    def mean(params, xs, implementation=None):
        f = lambda x, s: loss(params, x, state=s, mask=mask, implementation=implementation)
        return jnp.mean(jax.vmap(f, (at, 0))(xs, state))

    grad = jax.grad(mean, (0, 1))
    assert kernels(grad, params, xs) == 2
    close(
        jax.jit(grad)(params, xs),
        jax.jit(functools.partial(grad, implementation="scan"))(params, xs),
        rtol=5e-6, atol=1e-6,
    )  # fmt: skip
    run = lambda x, implementation=None: jaxlstm.apply(
        params, x, mask=mask, implementation=implementation
    )
    twice = lambda implementation=None: jax.vmap(
        jax.vmap(functools.partial(run, implementation=implementation), axis), axis
    )
    more = jnp.stack([xs, 2 * xs], axis) if at < 2 else jnp.stack([xs, 2 * xs], 1)
    if at < 2:
        assert kernels(twice(), more) == 1
        assert "while" not in jax.jit(twice()).lower(more).as_text()
        close(twice()(more), twice("scan")(more), rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("cell", [jaxlstm.lstm, SEVERAL, jaxlstm.minlstm], ids=str)
def test_an_ensemble(cell):
    """Mapped weights, and gradients of the same weights for each member of the data."""
    ensemble = jax.vmap(lambda k: jaxlstm.init(k, cell, 4, 5, dtype=F32))(
        jax.random.split(jax.random.key(0), 3)
    )
    one, xs = jax.tree.map(lambda a: a[0], ensemble), inputs(3, *SHAPE, 4)
    for args, axes in (
        ((ensemble, xs), (0, 0)),
        ((ensemble, xs[0]), (0, None)),
        ((one, xs), (None, 0)),
    ):
        f = lambda implementation, axes=axes: jax.vmap(both(implementation), axes)
        assert kernels(f(None), *args) == 3
        close(jax.jit(f(None))(*args), jax.jit(f("scan"))(*args), rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("count", some_of((0, 1, 2), (2,)))
def test_ensembles_of_ensembles(count):
    """And one of data inside of them, which are rows of each member."""
    keys = jax.random.split(jax.random.key(0), (count, 3))
    many = jax.vmap(jax.vmap(lambda k: jaxlstm.init(k, jaxlstm.gru, 4, 5, dtype=F32)))(keys)
    xs = inputs(3, 2, *SHAPE, 4)

    def grad(params, xs, implementation):
        mean = lambda p, x: jnp.mean(
            jax.vmap(lambda x: loss(p, x, implementation=implementation))(x)
        )
        return jax.value_and_grad(mean, (0, 1))(params, xs)

    def all_of_them(params, xs, implementation=None):
        each = jax.vmap(functools.partial(grad, implementation=implementation))
        return jax.vmap(each, (0, None))(params, xs)

    assert kernels(all_of_them, many, xs) == 2
    assert "while" not in jax.jit(all_of_them).lower(many, xs).as_text()
    run = jax.jit(all_of_them, static_argnums=2)
    close(run(many, xs, None), run(many, xs, "scan"), rtol=5e-6, atol=1e-6)


def large_pages():
    settings = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return settings.exists() and "[never]" not in settings.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not large_pages(), reason="the system has no large pages")
def test_large_arrays_take_few_page_faults():
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 4, 256, dtype=F32)
    xs = inputs(64, 128, 4)
    grad = jax.jit(jax.grad(loss)).lower(params, xs).compile()
    jax.block_until_ready(grad(params, xs))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(grad(params, xs))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < grad.memory_analysis().temp_size_in_bytes / 4096 / 4


@pytest.mark.parametrize(
    "batch", some_of([((),), ((1,),), ((4,),), ((20,),)], [((),), ((20,),)]), ids=str
)
def test_one_step(batch):
    params, x = network(layers=2), inputs(*batch, 4)
    state = normal_like(params.initial_state(batch), 7)
    step = lambda implementation: jaxlstm.apply(
        params, x[None], state, implementation=implementation
    )
    assert kernels(lambda: jaxlstm.step(params, x, state)) == 2
    y, last = jaxlstm.step(params, x, state)
    close((y[None], last), step("scan"), rtol=5e-6, atol=1e-6)


# Where it is not taken.


def test_one_program_for_every_platform():
    params, xs = network(), inputs()
    grad = jax.value_and_grad(loss, (0, 1))
    assert kernels(grad, params, xs) == 2
    for platform in ("cuda", "tpu"):
        assert kernels(grad, params, xs, lowering_platforms=(platform,)) == 0
        with pytest.raises(NotImplementedError, match="`native` runs on the CPU"):
            kernels(
                functools.partial(loss, implementation="native"), params, xs,
                lowering_platforms=(platform,),
            )  # fmt: skip


def test_what_is_exported_runs_anywhere(as_users_call_it):
    params, xs = network(), inputs()
    exported = jax.export.export(jax.jit(both()), platforms=("cpu", "cuda", "tpu"))(params, xs)
    assert "custom_call @jaxlstm_" not in str(exported.mlir_module())
    close(exported.call(params, xs), jax.jit(both("scan"))(params, xs), rtol=5e-6, atol=1e-6)
    time, rows = jax.export.symbolic_shape("time, rows")
    of_any = jax.ShapeDtypeStruct((time, rows, 4), F32)
    ones = functools.partial(jax.tree.map, jnp.ones_like)  # of sizes that are not known yet
    exported = jax.export.export(jax.jit(both(cotangents=ones)))(params, of_any)
    expected = jax.jit(both("scan", ones))(params, xs)
    close(exported.call(params, xs), expected, rtol=5e-6, atol=1e-6)
    with pytest.raises(NotImplementedError, match="`native` cannot be exported"):
        jax.export.export(jax.jit(both("native")))(params, xs)


@pytest.mark.parametrize(
    ("name", "kind"),
    some_of(
        [*itertools.product(("lstm", "peephole_lstm"), ("Auto", "Explicit"))],
        [("lstm", "Explicit"), ("peephole_lstm", "Auto")],
    ),
)
def test_a_batch_that_is_shared_out_is_not_gathered(name, kind):
    """By XLA's loops, without a collective inside of them."""
    params, xs = network(CELLS[name]), inputs(7, 4, 4)
    on = mesh(kind)
    shared = put(on, params), put(on, xs, None, "data")
    grad = jax.jit(jax.value_and_grad(loss, (0, 1)))
    text = grad.lower(*shared).compile().as_text()
    assert "custom-call" not in text
    assert "all-gather" not in text
    close(grad(*shared), grad(params, xs), rtol=5e-6, atol=1e-6)
    (ys, _) = jax.jit(jaxlstm.apply)(*shared)
    assert ys.sharding.is_equivalent_to(NamedSharding(on, P(None, "data")), 3)


def test_loops_where_one_device_would_have_the_kernel_have_no_collectives():
    """Weights of the equations too are summed over the rows once, after the loop."""
    params, xs, mask, reset = placed(CELLS["peephole_lstm"], "Auto")
    run = functools.partial(jaxlstm.apply, mask=mask, reset=reset)
    for program in programs(run, params, xs):
        lines, loops = inside_loops(program)
        assert loops
        assert not collectives(lines)


@pytest.mark.parametrize("check", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_shard_map_over_all_axes_runs_it_on_each_device(check):
    params, xs = network(jaxlstm.gru), inputs(7, 4, 4)

    def within(params, xs):
        value, (dparams, dxs) = jax.value_and_grad(loss, (0, 1))(params, xs)
        dparams = dparams if check else jax.lax.psum(dparams, "data")
        return jax.lax.psum(value, "data"), (dparams, dxs)

    each = P(None, "data")
    f = jax.shard_map(
        within, mesh=mesh(), in_specs=(P(), each), out_specs=(P(), (P(), each)), check_vma=check
    )
    assert kernels(f, params, xs) == 2
    close(
        jax.jit(f)(params, xs),
        jax.jit(jax.value_and_grad(loss, (0, 1)))(params, xs),
        rtol=5e-6,
        atol=1e-6,
    )


def test_shard_map_over_some_axes_does_not():
    params, xs = network(), inputs(7, 4, 4)
    on = jax.make_mesh((2, 1), ("data", "other"), (AxisType.Auto,) * 2)
    each = P(None, "data")
    f = jax.shard_map(
        jaxlstm.apply, mesh=on, in_specs=(P(), each), out_specs=(each, P("data")),
        axis_names={"data"},
    )  # fmt: skip
    assert kernels(f, params, xs) == 0
    close(jax.jit(f)(params, xs), jaxlstm.apply(params, xs), rtol=5e-6, atol=1e-6)


def test_a_mesh_of_one_device():
    params, xs = network(), inputs(7, 4, 4)
    for kind in ("Auto", "Explicit"):
        on = mesh(kind, 1)
        shared = put(on, params), put(on, xs, None, "data")
        close(jax.jit(both())(*shared), jax.jit(both())(params, xs), rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("named", [None, "native"])
def test_constants_of_numpy(named):
    params, xs, reset = network(), inputs(1, 3, 4), np.array([[True, False, True]])

    def grad(implementation):
        f = functools.partial(loss, reset=reset, implementation=implementation)
        return jax.grad(jax.checkpoint(f))(params, xs)  # without `jit`

    close(grad(named), grad("scan"), 1e-5, 1e-6)


def test_not_for_other_numbers_cells_and_modes(monkeypatch):
    xs = inputs()
    assert kernels(jaxlstm.apply, network(), xs) == 1
    assert kernels(jaxlstm.apply, network(dtype=jnp.float64), xs.astype(float)) == 0
    assert kernels(jaxlstm.apply, network(CELLS["projected_lstm"]), xs) == 0
    assert kernels(jaxlstm.apply, network(CELLS["layer_norm_lstm"]), xs) == 0
    monkeypatch.setenv(native.SWITCH, "off")
    jax.clear_caches()
    assert kernels(jaxlstm.apply, network(), xs) == 0
    assert kernels(functools.partial(jaxlstm.apply, implementation="native"), network(), xs) == 1
    monkeypatch.setenv(native.SWITCH, "no")
    jax.clear_caches()
    with pytest.raises(ValueError, match="JAXLSTM_KERNEL must be on or off; got 'no'"):
        jaxlstm.apply(network(), xs)
    jax.clear_caches()


@pytest.mark.slow
def test_not_where_jit_is_disabled():
    params, xs = network(), inputs()
    with jax.disable_jit():
        got, expected = (jaxlstm.apply(params, xs, implementation=n) for n in (None, "scan"))
    close(got, expected, 1e-5)


# Where it cannot be had.


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """A process that has compiled nothing yet, and a folder that nothing is kept in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_compiler, "_registered", set())
    monkeypatch.setattr(_compiler, "_failures", {})
    monkeypatch.setattr(native, "_logged", [])
    jax.clear_caches()
    yield tmp_path
    jax.clear_caches()


def test_without_a_compiler_there_is_a_loop_and_one_line(anew, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    params, xs = network(), inputs()
    with caplog.at_level(logging.WARNING, "jaxlstm"):
        assert kernels(both(), params, xs) == 0
        close(jax.jit(both())(params, xs), jax.jit(both("scan"))(params, xs), rtol=5e-6, atol=1e-6)
        jaxlstm.apply(network(jaxlstm.gru), xs)
    (line,) = caplog.records
    message = line.getMessage()
    assert line.name == "jaxlstm"
    assert "no-such-compiler" in message
    assert "Install a C++ compiler" in message
    assert "jaxlstm[kernels]" in message
    assert "JAXLSTM_KERNEL=off" in message
    assert "needs a C++ compiler" in jaxlstm.implementations(params, xs)["native"]
    with pytest.raises(
        NotImplementedError, match="`native` needs a C++ compiler".replace("+", r"\+")
    ):
        jaxlstm.apply(params, xs, implementation="native")


def test_a_compiler_that_fails_is_asked_once(anew, monkeypatch, caplog):
    path = anew / "c++"
    path.write_text(
        '#!/bin/sh\ncase "$*" in *--version*) echo 1; exit;; esac\n'
        f"echo x >> {anew}/asked\nexit 1\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    params, xs = network(), inputs()
    assert jaxlstm.implementations(params, xs)["native"] is None
    assert not (anew / "asked").exists()
    with caplog.at_level(logging.WARNING, "jaxlstm"):
        got = jax.jit(both())(params, xs)
        close(got, jax.jit(both("scan"))(params, xs), rtol=5e-6, atol=1e-6)
        asked = (anew / "asked").read_text()
        jax.jit(jaxlstm.apply)(network(jaxlstm.gru), xs)
    assert (anew / "asked").read_text() == asked
    assert len(asked.splitlines()) == 2  # for each of the ways to name this machine
    (line,) = caplog.records
    assert "did not make the loop" in line.getMessage()
    assert "did not make the loop" in jaxlstm.implementations(params, xs)["native"]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_no_reason(anew, monkeypatch, caplog):
    (anew / "cache").write_text("no folder")
    monkeypatch.setenv("CXX", f"{_compiler.compiler()[0]} -D_{anew.name}")  # a library of its own
    params, xs = network(jaxlstm.rnn), inputs()
    with caplog.at_level(logging.WARNING, "jaxlstm"):
        assert kernels(jaxlstm.apply, params, xs) == 1
    assert not caplog.records


def test_asking_and_tracing_compile_nothing(anew, monkeypatch):
    monkeypatch.setattr(_compiler, "_compile", lambda *a: pytest.fail("asked the compiler"))
    params, xs = network(), inputs()
    assert jaxlstm.implementations(params, xs)["native"] is None
    assert jax.eval_shape(both(), params, xs)[0][0].shape == (7, 3, 5)
    jax.make_jaxpr(jax.grad(loss))(params, xs)
    jax.jit(both()).trace(params, xs).lower(lowering_platforms=("cuda",))


@pytest.mark.slow
def test_the_choice_is_by_process():
    """The variable is read where a process traces; a later change has no effect."""
    code = (
        "import jax, jaxlstm, jax.numpy as jnp\n"
        "p = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, 3, 4, dtype=jnp.float32)\n"
        "text = jax.jit(jaxlstm.apply).lower(p, jnp.ones((5, 3))).as_text()\n"
        "print(text.count('custom_call @jaxlstm_'))"
    )
    for value, expected in (("off", "0"), (None, "1")):
        env = {k: v for k, v in os.environ.items() if k != native.SWITCH}
        env |= {native.SWITCH: value} if value else {}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr[-2000:]


def test_programs_carry_the_names_of_cells():
    text = jax.jit(jaxlstm.apply).lower(network(jaxlstm.gru), inputs()).as_text(debug_info=True)
    assert "gru/" in text
