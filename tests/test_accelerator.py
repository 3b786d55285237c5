"""On a GPU or TPU: every cell agrees with the CPU, and what is for the CPU alone says so.

`pytest -m gpu` runs it where JAX has an accelerator.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import CELLS, CORE, N, T, inputs, network, normal_like, some_mask, some_reset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator"),
]

ROWS = 16
OPTIONS = {"mask": some_mask(shape=(T, ROWS)), "reset": some_reset(shape=(T, ROWS))}


def results(params, xs, cotangents, dtype, compiler_options=None, **options):
    """Outputs, last state, and the gradients of weights and inputs."""

    def f(params, xs):
        return jaxlstm.apply(params, xs, **options)

    def run(params, xs, cotangents):
        out, pull = jax.vjp(f, params, xs)
        like = jax.tree.map(lambda c, a: c.astype(a.dtype), cotangents, out)
        return out, pull(like)

    jitted = jax.jit(run, compiler_options=compiler_options)
    return jitted(cast(params, dtype), cast(xs, dtype), cotangents)


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def on_the_cpu(f):
    """What `f` gives in float64 on the CPU."""
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        return jax.tree.map(np.asarray, f())


def worst(got, true):
    """The largest error of an array over its largest entry, the worst of a tree of them."""
    errors = [0.0]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(true), strict=True):
        if b.size:
            scale = max(float(np.abs(b).max()), 1e-3)
            errors.append(float(np.abs(np.asarray(a, np.float64) - b).max()) / scale)
    return max(errors) if np.isfinite(errors).all() else np.inf


@functools.cache
def prepared(name, arrangement, dtype="float64"):
    """A network and inputs that `dtype` can hold, cotangents, and the float64 truth."""

    def make():
        params = network(CELLS[name], arrangement)
        xs = inputs(shape=(T, ROWS, N))
        params, xs = cast(cast((params, xs), jnp.dtype(dtype)), np.float64)
        out = jax.eval_shape(jaxlstm.apply, params, xs)
        cotangents = normal_like(jax.tree.map(lambda a: np.zeros(a.shape), out))
        quickly = {"xla_backend_optimization_level": 0}  # compiling is what takes the time here
        true = results(params, xs, cotangents, np.float64, quickly, **OPTIONS)
        return params, xs, cotangents, true

    return on_the_cpu(make)


# What `precision=None` computes with: TF32 on NVIDIA's GPUs, bfloat16 on TPUs.
COARSE = [("float32", None, 2e-2), ("bfloat16", None, 0.3)]


@pytest.mark.parametrize(
    ("name", "dtype", "precision", "bound"),
    [(name, "float32", "highest", 1e-4) for name in CELLS]
    + [(name, "float64", None, 1e-11) for name in CORE]
    + [(name, *coarse) for name in CORE for coarse in COARSE],
)
def test_a_cell_agrees_with_the_cpu(name, dtype, precision, bound):
    params, xs, cotangents, true = prepared(name, "bidirectional", dtype)
    got = results(params, xs, cotangents, jnp.dtype(dtype), precision=precision, **OPTIONS)
    assert worst(got, true) < bound


@pytest.mark.parametrize("name", ["lstm", "gru", "mingru"])
@pytest.mark.parametrize("implementation", ["associative", "deferred", "scan"])
def test_a_named_implementation_agrees_with_the_cpu(name, implementation):
    params, xs, cotangents, true = prepared(name, "layer")
    reason = jaxlstm.implementations(params, xs)[implementation]
    if reason is not None:
        pytest.skip(reason)
    got = results(params, xs, cotangents, np.float64, implementation=implementation, **OPTIONS)
    assert worst(got, true) < 1e-11


def test_the_cpus_own_implementation_refuses_with_a_reason():
    params = jax.tree.map(lambda a: a.astype(np.float32), network(jaxlstm.lstm))
    xs = inputs(shape=(T, ROWS, N)).astype(np.float32)
    assert "runs on the CPU" in jaxlstm.implementations(params, xs)["native"]


def test_an_ensemble_of_networks():
    members = [network(jaxlstm.lstm, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *members)
    xs = inputs(shape=(T, ROWS, N))
    got = jax.jit(jax.vmap(jaxlstm.apply, (0, None)))(stacked, xs)
    alone = [on_the_cpu(lambda p=p: jaxlstm.apply(p, xs)) for p in members]
    assert worst(got, jax.tree.map(lambda *a: np.stack(a), *alone)) < 1e-11


def test_checkpoint_and_second_derivatives():
    params, xs, _, _ = prepared("gru", "layer")
    loss = lambda p, **options: jnp.sum(jnp.sin(jaxlstm.apply(p, xs, **OPTIONS, **options)[0]))
    along = normal_like(params)
    second = lambda p, **options: jax.jvp(
        jax.grad(functools.partial(loss, **options)), (p,), (along,)
    )[1]
    true = on_the_cpu(lambda: second(params))
    for options in ({}, {"checkpoint": True}):
        assert worst(jax.jit(functools.partial(second, **options))(params), true) < 1e-10
