"""Gates at their limits and large inputs: finite and near the float64 truth, in every dtype.

Every gate is driven to levels up to 300 by an input feature of its own, by itself and together
with the others; each row of the batch is another combination, compared by itself.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import CELLS, KINDS, some_of

LEVELS = [0.0, *(s * a for a in (10.0, 30.0, 100.0, 300.0) for s in (1, -1))]
T, H = 4, 4
DTYPES = ("float32", "bfloat16", "float16")


def rounded(tree, dtype):
    """In float64, what `dtype` can hold."""
    return jax.tree.map(lambda a: a.astype(dtype).astype(float), tree)


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def drive(gates, seed=0):
    """Inputs `(time, rows, gates)`: one gate at a level, all at one, and any at any."""
    random = np.random.default_rng(seed)
    single = random.normal(size=(T, gates * len(LEVELS), gates))
    for row, (gate, level) in enumerate(itertools.product(range(gates), LEVELS)):
        single[:, row, gate] = level
    together = np.broadcast_to(np.array(LEVELS)[None, :, None], (T, len(LEVELS), gates))
    mixed = random.choice(LEVELS, size=(T, 24, gates))
    return jnp.asarray(np.concatenate([single, together, mixed], 1))


def moved(xs, seed=3):
    """No two alike: at a tie, as in the sLSTM's `max`, there is no one derivative."""
    random = np.random.default_rng(seed)
    return xs * random.uniform(0.97, 0.98, xs.shape) + random.uniform(0.25, 1, xs.shape)


def driven(cell, at="levels"):
    """A layer each of whose gates sees one input, and its inputs."""
    gates = len(cell.gates)
    layer = jaxlstm.init(jax.random.key(0), cell, gates, H)
    spread = 1 + jnp.arange(H) / 64
    layer = layer._replace(w=jnp.eye(gates)[..., None] * spread[None, None])
    if layer.recurrent_bias is not None:  # `relu(u v)` of a product with no state has no derivative
        layer = layer._replace(recurrent_bias=layer.recurrent_bias + 0.5)
    return layer, drive(gates) if at == "levels" else moved(drive(gates))


def signs(tree, seed=1):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(random.choice([-1.0, 1.0], a.shape), a.dtype), tree)


def everything(f, params, xs, modes="reverse forward"):
    """Outputs, last state, gradients of all, tangents along one direction."""
    cotangents, (dp, dxs) = map(signs, (jax.eval_shape(f, params, xs), (params, xs)))
    dp = jax.tree.map(lambda a: a / 256, dp)  # an input of 300 makes it about 1
    found = {"out": f(params, xs)}
    if "reverse" in modes:
        found["dp"], found["dxs"] = jax.vjp(f, params, xs)[1](cotangents)
    if "forward" in modes:
        found["tangents"] = jax.jvp(f, (params, xs), (dp, dxs))[1]
    return found


EPSILON = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}


def truth(dtype, modes):
    """The same in float64, and how far it moves where every step is rounded as in `dtype`.

    What a norm divides by almost nothing is as uncertain as its inputs, whoever computes it.
    """

    def rounded_at_random(noise, params, xs):
        bit = lambda tree, signs: jax.tree.map(
            lambda a, e: a * (1 + EPSILON[dtype] * e), tree, signs
        )

        def f(p, xs):
            p = bit(p, noise[0])

            def body(s, at):
                y, s = jaxlstm.step(p, at[0], bit(s, at[1]))
                return s, y

            start = p.initial_state(xs.shape[1:-1])
            last, ys = jax.lax.scan(body, start, (bit(xs, noise[1]), noise[2]))
            return ys, last

        return everything(f, params, xs, modes)

    @jax.jit
    def compiled(noise, params, xs):
        f = lambda p, xs: jaxlstm.apply(p, xs, implementation="scan")
        exact = everything(f, params, xs, modes)
        others = jax.vmap(rounded_at_random, (0, None, None))(noise, params, xs)
        return exact, jax.tree.map(lambda a, b: jnp.abs(a - b[None]).max(0), others, exact)

    def both(params, xs):
        many = lambda a, *shape: jax.ShapeDtypeStruct((4, *shape, *a.shape), float)
        states = jax.eval_shape(lambda: params.initial_state(xs.shape[1:-1]))
        like = jax.tree.map(many, (params, xs)), jax.tree.map(lambda a: many(a, T), states)
        return jax.tree.map(np.asarray, compiled(signs((*like[0], like[1]), 2), params, xs))

    return both


LARGEST = {"float16": 65504.0}  # what is larger is infinite


def apart(got, exact, moved, dtype):
    """For each array the largest error, in units of what is allowed; above 1 it is wrong.

    Each row of the batch is by itself, relative to the largest in it, and 1.  In float32 what
    cancels may be a thousand times as large, as the derivatives of the mLSTM's quotient, `v / q`
    each; in 16 bits all of that is exact beside the products.  A step
    rounds a few dozen numbers, of which `moved` has only those that enter it.
    """
    steps = 2048 if dtype == "float32" else 16
    found = {}
    for name in exact:
        arrays = (jax.tree.leaves(tree[name]) for tree in (got, exact, moved))
        for i, (a, b, c) in enumerate(zip(*arrays, strict=True)):
            a = np.asarray(a, np.float64)
            assert np.isfinite(b).all(), f"the truth of {name}[{i}]"
            # Outputs are (time, rows, ...), states (rows, ...); weights are of all rows.
            rows = () if name == "dp" else (1,) if name == "dxs" or i == 0 else (0,)
            rest = tuple(k for k in range(b.ndim) if k not in rows)
            largest = functools.partial(np.max, axis=rest, keepdims=True, initial=0.0)
            fits = largest(np.abs(b)) < LARGEST.get(dtype, np.inf)
            assert np.isfinite(a[np.broadcast_to(fits, a.shape)]).all(), f"{name}[{i}]"
            allowed = 64 * largest(c) + steps * EPSILON[dtype] * (1 + largest(np.abs(b)))
            error = np.where(fits, np.abs(np.where(fits, a, 0) - b), 0) / allowed
            found[f"{name}[{i}]"] = float(np.max(error, initial=0.0))
    return found


def check(build, dtype, implementations=(None,), modes="reverse forward"):
    """How wrong: at the levels what is computed, which is finite; beside them gradients too."""
    call = lambda implementation, p, xs: jaxlstm.apply(p, xs, implementation=implementation)
    of = lambda implementation: jax.jit(
        lambda *a: everything(functools.partial(call, implementation), *a, modes)
    )
    runs, true = (
        {implementation: of(implementation) for implementation in implementations},
        truth(dtype, modes),
    )
    worst = {}
    for at in ("levels", "beside"):
        params, xs = rounded(build(at), dtype)
        exact, moved = true(params, xs)
        for implementation, run in runs.items():
            found = apart(run(*cast((params, xs), dtype)), exact, moved, dtype)
            counted = {k: v for k, v in found.items() if at == "beside" or k.startswith("out")}
            worst |= {f"{implementation} {k} {at}": v for k, v in counted.items()}
    return worst


BY_NAME = {
    ("lstm", "float32"): "native",
    ("layer_norm_lstm", "float16"): "deferred",
    ("minlstm", "float16"): "associative",
    ("rg_lru", "float16"): "scan",
}


@pytest.mark.parametrize(
    ("name", "dtype", "implementation"),
    some_of(
        [(*at, implementation) for at, implementation in BY_NAME.items()],
        [("minlstm", "float16", "associative"), ("rg_lru", "float16", "scan")],
    ),
)
def test_gates_at_their_limits(name, dtype, implementation):
    cell = CELLS[name]
    reason = jaxlstm.implementations(*cast(driven(cell), dtype))[implementation]
    if reason is not None:
        pytest.skip(reason)
    found = check(lambda at: driven(cell, at), dtype, [implementation])
    assert all(error < 1 for error in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_gates_at_their_limits_in_every_implementation(name, dtype):
    """A cell of each kind in all, in both modes; the others by default and in the kernel."""
    cell = CELLS[name]
    reasons = jaxlstm.implementations(*cast(driven(cell), dtype))
    every = [implementation for implementation, reason in reasons.items() if reason is None]
    implementations = every if name in KINDS else [None, *(n for n in every if n == "native")]
    modes = "reverse forward" if name in KINDS else "reverse"
    found = check(lambda at: driven(cell, at), dtype, implementations, modes)
    assert all(error < 1 for error in found.values()), found


def around(name):
    """A network of a wrapper, of four inputs; those of the state are around an LSTM."""
    layer = lambda size, cell=jaxlstm.lstm: jaxlstm.init(jax.random.key(0), cell, size, H)
    wrap = jaxlstm.wrappers
    return {
        "layer_norm": lambda: wrap.layer_norm(layer(H, jaxlstm.rnn_relu)),
        "layer_norm of inputs": lambda: wrap.layer_norm(layer(H), of="inputs"),
        "highway": lambda: wrap.highway(jax.random.key(1), layer(H)),
        "residual": lambda: wrap.residual(layer(H)),
        "dense": lambda: wrap.dense(layer(H)),
        "zoneout": lambda: wrap.zoneout(layer(H), 0.25, 0.5),
        "learn_initial_state": lambda: wrap.learn_initial_state(layer(H)),
        "clip_gradient": lambda: wrap.clip_gradient(layer(H), 0.5),
        "window": lambda: wrap.window(layer(2 * H), 2),
        "recurrent_dropout": lambda: wrap.recurrent_dropout(layer(H), 0.25),
        "recurrent_noise": lambda: wrap.recurrent_noise(layer(H), 0.25),
        "weight_drop": lambda: wrap.weight_drop(layer(H), 0.25),
        "variational_dropout": lambda: wrap.variational_dropout(layer(H), 0.2, 0.2, 0.2),
    }[name]()


WRAPPERS = (
    "layer_norm", "layer_norm of inputs", "highway", "residual", "dense", "zoneout",
    "learn_initial_state", "clip_gradient", "window", "recurrent_dropout", "recurrent_noise",
    "weight_drop", "variational_dropout",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dtype"),
    some_of(
        [*itertools.product(WRAPPERS, DTYPES)],
        [("layer_norm", "float16")],
    ),
)
def test_wrappers_at_inputs_up_to_300(name, dtype):
    """Rows of equal numbers, without variance, among them."""
    net = around(name)
    build = lambda at: (net, drive(H) if at == "levels" else moved(drive(H)))
    modes = "reverse" if name == "clip_gradient" else "reverse forward"
    found = check(build, dtype, modes=modes)
    assert all(error < 1 for error in found.values()), found


@pytest.mark.parametrize("implementation", ["associative", "scan"])
def test_the_minlstm_with_both_gates_closed(implementation):
    """What they let through is in proportion, however little it is."""
    layer = jaxlstm.init(jax.random.key(0), jaxlstm.cells.minlstm, 2, 1, dtype=jnp.float32)
    layer = layer._replace(w=0 * layer.w, b=jnp.array([[-110.0], [-110.0], [0.5]], jnp.float32))
    f = lambda p: jaxlstm.apply(p, jnp.ones((3, 2), jnp.float32), implementation=implementation)[0]
    np.testing.assert_allclose(f(layer)[:, 0], [0.25, 0.375, 0.4375], rtol=1e-6)
    gradients = jax.grad(lambda p: f(p).sum())(layer).b[:, 0]
    # h = n (1 - f^t), f = sigmoid(b_f - b_i) = 1/2: the sum over t of n t f^t / 2.
    np.testing.assert_allclose(gradients, [0.34375, -0.34375, 2.125], rtol=1e-5)


@pytest.mark.parametrize(
    ("closed", "implementation"),
    some_of(
        [*itertools.product((-20.0, -90.0, -300.0), ("associative", "scan"))],
        [(-90.0, "associative"), (-300.0, "scan")],
    ),
)
def test_the_rg_lru_with_a_closed_gate(closed, implementation):
    """Its root has derivative 0 in the limit; near it the gradients are those of float64."""
    layer = jaxlstm.init(jax.random.key(0), jaxlstm.cells.rg_lru, 2, 1)
    layer = layer._replace(w=0 * layer.w, b=jnp.array([[closed], [0.0], [1.0]]))

    def gradients(p):
        run = lambda p: jaxlstm.apply(
            p, jnp.ones((3, 2), p.w.dtype), implementation=implementation
        )[0].sum()
        return jax.tree.leaves(jax.grad(run)(p))

    for a, b in zip(gradients(cast(layer, jnp.float32)), gradients(layer), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-15)
