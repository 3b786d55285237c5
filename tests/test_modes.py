"""JAX's flags and modes, and what a program may stand in, for every entry point."""

import contextlib
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import B, H, N, T, inputs, network, some_of

MASK = np.arange(T)[:, None] < np.array([T, 4, 0])
RESET = np.arange(T)[:, None] == np.array([3, 2, 1])
XS = np.random.default_rng(0).normal(size=(T, B, N))
HIDDEN = np.where(MASK[..., None], XS, np.nan)  # NaN under the mask changes nothing


@functools.cache
def _weights(cell, arrangement):
    """The same numbers in every mode: NumPy's, drawn here."""
    more = {"stack": {"layers": 2}, "bidirectional": {"bidirectional": True}}.get(arrangement, {})
    shapes = jax.eval_shape(lambda: jaxlstm.init(jax.random.key(0), cell, N, H, **more))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: 0.5 * rng.normal(size=a.shape), shapes)


def real(dtype=float):
    return jax.dtypes.canonicalize_dtype(dtype)


def weights(cell=jaxlstm.lstm, arrangement="layer", dtype=float):
    put = lambda a: jax.device_put(a.astype(real(dtype)))
    return jax.tree.map(put, _weights(cell, arrangement))


def arrays(*given, dtype=float):
    cast = lambda a: a.astype(real(dtype)) if a.dtype.kind == "f" else a
    return [jax.device_put(cast(np.asarray(a))) for a in given]


def loss(ys):
    return jnp.sum(jnp.sin(ys))


def run(params, xs, mask, reset, **options):
    return jaxlstm.apply(params, xs, mask=mask, reset=reset, **options)


def gradients(params, xs, mask, reset, **options):
    value = lambda p, x: loss(run(p, x, mask, reset, **options)[0])
    return jax.grad(value, (0, 1))(params, xs)


def noisy(params, xs, mask, reset):
    """Every wrapper with noise, inside and around."""
    params = jaxlstm.wrappers.zoneout(params, 0.5)
    params = jaxlstm.wrappers.recurrent_dropout(params, 0.5)
    params = jaxlstm.wrappers.variational_dropout(params, 0.5, 0.5, 0.5)
    key = jax.random.key(3, impl="threefry2x32")
    ys = jaxlstm.apply(params, xs, mask=mask, reset=reset, key=key)[0]
    return jnp.isnan(ys).any(), ys.shape


def wrapped(params, xs, mask, reset):
    params = jaxlstm.wrappers.weight_drop(params, 0.5)
    for wrap in (jaxlstm.wrappers.clip_gradient, lambda p, _: jaxlstm.wrappers.layer_norm(p)):
        params = wrap(params, 1.0)
    params = jaxlstm.wrappers.learn_initial_state(params)
    return gradients(params, xs, mask, reset)


def drawn(params, xs, mask, reset):
    key = jax.random.key(0)
    first = jaxlstm.init(key, jaxlstm.gru, N, H, layers=2, bidirectional=True, dropout=0.5)
    conv = jaxlstm.init_conv(key, jaxlstm.lstm, N, H, (3,))
    return [a.shape for a in jax.tree.leaves((first, conv))]


def stepped(params, xs, mask, reset):
    state, ys = None, []
    for t in range(2):
        x, m = (jax.device_put(np.asarray(a)[t]) for a in (xs, mask))
        y, state = jaxlstm.step(params, x, state, mask=m)
        ys.append(y)
    return ys, state


ENTRIES = {
    "apply": run,
    "apply, batch first": lambda p, x, m, r: jaxlstm.apply(
        p, jax.device_put(np.swapaxes(np.asarray(x), 0, 1)), mask=m.T, axis=1, reverse=True
    ),
    "apply, GRU": lambda p, x, m, r: run(weights(jaxlstm.gru, "bidirectional"), x, m, r),
    "apply, linear": lambda p, x, m, r: run(weights(jaxlstm.minlstm), x, m, r),
    "gradients": gradients,
    "gradients, checkpointed": lambda p, x, m, r: gradients(p, x, m, r, checkpoint=3),
    "step": stepped,
    "record": lambda p, x, m, r: jaxlstm.record(p, x, mask=m, reset=r),
    "gradient_flow": lambda p, x, m, r: jaxlstm.gradient_flow(p, x, loss, mask=m, reset=r),
    "state_jacobians": lambda p, x, m, r: jaxlstm.state_jacobians(p, x, mask=m, reset=r),
    "implementations": lambda p, x, m, r: sorted(jaxlstm.implementations(p, x, mask=m, reset=r)),
    "lengths_to_mask": lambda p, x, m, r: jaxlstm.lengths_to_mask([7, 4, 0], T),
    "init": drawn,
    "noise": noisy,
    "wrappers": wrapped,
}
RUNS = [
    ("scan", jaxlstm.lstm),
    ("scan", jaxlstm.cells.mgu),
    ("deferred", jaxlstm.gru),
    ("native", jaxlstm.lstm),
    ("associative", jaxlstm.mingru),
    ("native", jaxlstm.gru),
    ("newton", jaxlstm.gru),
    ("newton", jaxlstm.cells.indrnn),
]


def cast(xs, dtype):
    """Inputs of a dtype: by NumPy where JAX would stop at the NaN under the mask."""
    if jax.config.jax_debug_nans and not isinstance(xs, jax.core.Tracer):
        return jax.device_put(np.asarray(xs).astype(dtype))
    return xs.astype(dtype)


def by(implementation, cell):
    def entry(_, xs, mask, reset):
        dtype = np.float32 if implementation == "native" else float  # which it alone has
        params, xs = weights(cell, "stack", dtype), cast(xs, real(dtype))
        how = {"implementation": implementation}
        return run(params, xs, mask, reset, **how), gradients(params, xs, mask, reset, **how)

    return entry


ENTRIES |= {f"{implementation}, {cell}": by(implementation, cell) for implementation, cell in RUNS}


@contextlib.contextmanager
def flag(**values):
    before = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


FLAGS = {
    "x64 off": {"jax_enable_x64": False},
    "standard promotion": {
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
    },
    "debug nans": {"jax_debug_nans": True},
    "debug infs": {"jax_debug_infs": True},
    "disable jit": {"jax_disable_jit": True},
    "disable jit, debug nans": {"jax_disable_jit": True, "jax_debug_nans": True},
    "checks": {"jax_enable_checks": True},
    "tracer leaks": {"jax_check_tracer_leaks": True},
    "matmul precision": {"jax_default_matmul_precision": "highest"},
    "rbg": {"jax_default_prng_impl": "rbg"},
    "unsafe rbg": {"jax_default_prng_impl": "unsafe_rbg"},
    "threefry": {"jax_threefry_partitionable": not jax.config.jax_threefry_partitionable},
    "transfer guard": {"jax_transfer_guard": "disallow"},
    "numpy rank and promotion, x64 off": {"jax_enable_x64": False, "jax_debug_nans": True},
    "log compiles": {"jax_log_compiles": True},
    "default device": {"jax_default_device": jax.devices()[-1]},
    "custom prng": {"jax_enable_custom_prng": True},
    "legacy prng": {"jax_legacy_prng_key": "error"},
}

# Flags of random numbers, and the entry points that take a key or may.
OF_KEYS = {"rbg", "unsafe rbg", "threefry", "custom prng", "legacy prng"}
WITH_KEYS = {"apply", "gradients", "step", "init", "noise", "wrappers"}

# Flags that change no program of an implementation.
OF_CALLS = {"standard promotion", "log compiles", "default device"}
NAMED = {f"{implementation}, {cell}" for implementation, cell in RUNS}

# What JAX itself cannot do outside `jit` when transfers are disallowed: draw, and differentiate.
BY_JIT = {"gradients", "gradients, checkpointed", "init", "noise", "wrappers"} | NAMED


ALWAYS = [("debug nans", "apply"), ("debug nans", "gradients"), ("x64 off", "apply")]
ALWAYS += [("disable jit, debug nans", "gradients")]


def sampled(first, second):
    often = zlib.crc32(f"{first} {second}".encode()) % 90 == 0 or (first, second) in ALWAYS
    return pytest.param(first, second, marks=() if often else pytest.mark.slow)


@functools.cache
def expected(entry):
    with flag(jax_enable_x64=True):
        return ENTRIES[entry](weights(), *arrays(XS, MASK, RESET))


def same(got, wanted, double):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    tolerance = 1e-11 if double else 2e-4
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        if isinstance(b, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("mode", "entry"),
    [
        sampled(mode, entry)
        for mode in FLAGS for entry in ENTRIES
        if (mode not in OF_KEYS or entry in WITH_KEYS)
        and (mode not in OF_CALLS or entry not in NAMED)
    ],
)  # fmt: skip
def test_flags(mode, entry):
    wanted = expected(entry)
    with flag(**FLAGS[mode]):
        double = jax.config.jax_enable_x64 and "native" not in entry
        given = weights(), *arrays(HIDDEN, MASK, RESET)
        run = ENTRIES[entry]
        by_jit = mode == "transfer guard" and entry in BY_JIT
        got = (jax.jit(run) if by_jit else run)(*given)
    same(got, wanted, double)


VALUES = {name: ENTRIES[name] for name in ("apply", "record", "gradient_flow", "state_jacobians")}
VALUES["step"] = lambda p, x, m, r: jaxlstm.step(p, x[0], None, mask=m[0], reset=r[0])
for implementation, cell in RUNS:
    if implementation != "native":
        VALUES[f"{implementation}, {cell}"] = (
            lambda p, x, m, r, implementation=implementation, cell=cell: run(
                weights(cell, "stack"), x, m, r, implementation=implementation
            )
        )
VALUES["native, lstm"] = lambda p, x, m, r: run(
    *jax.tree.map(lambda a: a.astype("float32"), (p, x)), m, r, implementation="native"
)
VALUES["noise"] = lambda p, x, m, r: run(
    jaxlstm.wrappers.variational_dropout(jaxlstm.wrappers.recurrent_dropout(p, 0.5), 0.5, 0.5),
    x,
    m,
    r,
    key=jax.random.key(3, impl="threefry2x32"),
)
VALUES["lengths_to_mask"] = lambda p, x, m, r: jaxlstm.lengths_to_mask(m.sum(0), T)
VALUES["init"] = lambda p, x, m, r: jaxlstm.init(jax.random.key(0), jaxlstm.gru, N, H)
VALUES["init_conv"] = lambda p, x, m, r: jaxlstm.init_conv(
    jax.random.key(0), jaxlstm.gru, N, H, (3,)
)
VALUES["wrappers"] = lambda p, x, m, r: run(
    jaxlstm.wrappers.layer_norm(jaxlstm.wrappers.learn_initial_state(p)), x, m, r
)


def scaled(call):
    """A function of a number that is 1, for what differentiates or loops."""
    return lambda one, given: call(given[0], given[1] * one, *given[2:])


def one(given):
    return jnp.ones((), given[1].dtype)


def donated(call, given):
    """Arguments come back beside the results, so that their buffers can be taken."""
    copies = jax.tree.map(jnp.array, given)
    both = lambda *args: (call(*args), args[:2])
    out, again = jax.jit(both, donate_argnums=(0, 1))(*copies)
    same(again, tuple(given[:2]), True)
    return out


def compile_time(call, given):
    def inside():
        with jax.ensure_compile_time_eval():
            out = call(*given)
        assert not any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(out))
        return out

    return jax.jit(inside)()


def scoped(call, given):
    with jax.named_scope("outer"):
        return jax.jit(jax.named_scope("inner")(call))(*given)


def shaped(call, given):
    """Shapes alone; the values are computed beside, so that there is something to compare."""
    out = jax.eval_shape(call, *given)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    again = jax.eval_shape(call, *shapes)
    values = call(*given)
    for a, b, c in zip(*map(jax.tree.leaves, (out, again, values)), strict=True):
        assert a.shape == b.shape == c.shape
        assert a.dtype == b.dtype == c.dtype
    return values


def traced(call, given):
    closed, shape = jax.make_jaxpr(call, return_shape=True)(*given)
    outs = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *jax.tree.leaves(given))
    return jax.tree.unflatten(jax.tree.structure(shape), outs)


def linearized(call, given):
    out, push = jax.linearize(lambda x: scaled(call)(x, given), one(given))
    tangents = push(one(given))
    _, expected = jax.jvp(lambda x: scaled(call)(x, given), (one(given),), (one(given),))
    floats = [a for a in zip(*map(jax.tree.leaves, (tangents, expected))) if a[0].dtype.kind == "f"]
    for a, b in floats:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    return out


def custom(call, given):
    f = jax.custom_vjp(lambda *args: call(*args))
    f.defvjp(lambda *a: (call(*a), a), lambda a, d: jax.tree.map(jnp.zeros_like, a))
    return jax.jit(f)(*given)


def mapped(call, given):
    outs = jax.lax.map(lambda x: scaled(call)(x, given), jnp.ones(2, given[1].dtype))
    return jax.tree.map(lambda a: a[1], outs)


def scanned(call, given):
    body = lambda carry, x: (carry, scaled(call)(x, given))
    outs = jax.lax.scan(body, 0, jnp.ones(2, given[1].dtype))[1]
    return jax.tree.map(lambda a: a[1], outs)


def looped(call, given):
    outs = jax.eval_shape(call, *given)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), outs)
    body = lambda c: (c[0] + 1, scaled(call)(one(given), given))
    return jax.lax.while_loop(lambda c: c[0] < 2, body, (0, zeros))[1]


def branched(call, given):
    outs = jax.eval_shape(call, *given)
    zeros = lambda x: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), outs)
    yes = jax.jit(lambda: jnp.array(True))()
    return jax.lax.cond(yes, lambda x: scaled(call)(x, given), zeros, one(given))


def vmapped(call, given):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        f = jax.vmap(lambda x: scaled(call)(x, given), spmd_axis_name="data")
        outs = jax.jit(f)(jnp.ones(2, given[1].dtype))
    return jax.tree.map(lambda a: a[1], outs)


def pmapped(call, given):
    outs = jax.pmap(lambda x: scaled(call)(x, given))(jnp.ones(2, given[1].dtype))
    return jax.tree.map(lambda a: a[1], outs)


AROUND = {
    "jit": lambda call, given: jax.jit(call)(*given),
    "donated arguments": donated,
    "ensure_compile_time_eval": compile_time,
    "named_scope": scoped,
    "eval_shape": shaped,
    "make_jaxpr": traced,
    "linearize": linearized,
    "checkpoint": lambda call, given: jax.jit(jax.checkpoint(call))(*given),
    "checkpoint, dots saved": lambda call, given: jax.jit(
        jax.checkpoint(call, policy=jax.checkpoint_policies.dots_saveable)
    )(*given),
    "custom_vjp": custom,
    "lax.map": mapped,
    "lax.scan": scanned,
    "lax.while_loop": looped,
    "lax.cond": branched,
    "vmap with spmd_axis_name": vmapped,
    "pmap": pmapped,
}


@pytest.mark.parametrize(
    ("around", "entry"), [sampled(around, entry) for around in AROUND for entry in VALUES]
)
def test_programs_around(around, entry):
    given = (weights(), *arrays(XS, MASK, RESET))
    got = AROUND[around](VALUES[entry], given)
    same(got, VALUES[entry](*given), "native" not in entry)


@pytest.mark.parametrize("entry", ["record", "gradient_flow", "state_jacobians"])
def test_inputs_shared_out_by_their_type(entry):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    place = lambda a, *axes: jax.device_put(
        a, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    )
    rows = [np.concatenate([a, a[:, :1]], 1) for a in (XS, MASK, RESET)]  # an even number
    params = weights()
    with jax.set_mesh(mesh):
        got = VALUES[entry](place(params), *(place(a, None, "data") for a in arrays(*rows)))
    same(got, VALUES[entry](params, *arrays(*rows)), True)


def _printing(kind, seen):
    def equations(s, u, v):
        (z,) = u + (v(s.h, "z") if callable(v) else v)  # the product, or what makes it
        jax.jit(lambda h: jax.debug.callback(lambda _: seen.append(1), h))(s.h)
        return (jnp.tanh(z),)

    return kind("z", jaxlstm.HiddenState)(equations)


@pytest.mark.parametrize("kind", [jaxlstm.gated_cell, jaxlstm.general_cell])
@pytest.mark.parametrize("implementation", some_of((None, "scan", "deferred"), (None,)))
def test_what_a_step_prints_is_printed_once(kind, implementation):
    """With gradients too; `checkpoint` computes steps again, and prints again, as JAX's does."""
    seen = []
    params = network(_printing(kind, seen))
    f = lambda params, **options: jaxlstm.apply(
        params, inputs(), implementation=implementation, **options
    )[0].sum()
    for run, times in (
        (f, 1),
        (jax.grad(f), 1),
        (jax.jit(jax.grad(f)), 1),
        (jax.grad(lambda params: f(params, checkpoint=True)), 2),
        (lambda params: jax.jvp(f, (params,), (params,)), 1),
    ):
        seen.clear()
        jax.block_until_ready(run(params))
        jax.effects_barrier()
        assert len(seen) == times * T
    reason = jaxlstm.implementations(params, inputs())["newton"]
    assert reason is not None
    assert "such as `jax.debug.print`" in reason
