"""Laws of the transformations: jit, vmap, grad, remat and shard_map take every network."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxlstm
from networks import (
    B,
    T,
    close,
    inputs,
    network,
    normal_like,
    over_cells,
    over_kinds,
    pulled,
    some_mask,
    some_of,
    some_reset,
)

XS = inputs()


@over_kinds
def test_one_trace_for_other_weights(cell):
    traces = []

    @jax.jit
    def run(params, xs):
        traces.append(1)
        return jaxlstm.apply(params, xs)

    for seed in (0, 1):
        run(network(cell, "bidirectional", seed, layers=1), XS)
    fresh = pickle.loads(pickle.dumps(network(cell, "bidirectional", 2, layers=1)))
    run(fresh, XS)
    assert len(traces) == 1


def test_jit_of_apply_itself():
    run = jax.jit(jaxlstm.apply)
    run(network(jaxlstm.lstm, "stack"), XS)
    before = run._cache_size()
    params = network(jaxlstm.lstm, "stack", 1)
    close(run(params, XS), jaxlstm.apply(params, XS))
    assert run._cache_size() == before


@over_kinds
def test_vmap_over_data_is_a_batch(cell):
    params = network(cell, "bidirectional", layers=1)
    mask, reset = some_mask(), some_reset()
    ys, last = jaxlstm.apply(params, XS, mask=mask, reset=reset)
    one = lambda x, m, r: jaxlstm.apply(params, x, mask=m, reset=r)
    ys2, last2 = jax.vmap(one, 1, (1, 0))(XS, mask, reset)
    close((ys2, last2), (ys, last))


@over_kinds
def test_vmap_over_weights_is_an_ensemble(cell):
    """Values and gradients, so that the rule of a fast path is batched too."""
    networks = [network(cell, "stack", seed) for seed in (0, 5)]
    ensemble = jax.tree.map(lambda *a: jnp.stack(a), *networks)
    got = jax.vmap(lambda p: pulled(p, XS, mask=some_mask()))(ensemble)
    for i, params in enumerate(networks):
        close(jax.tree.map(lambda a, i=i: a[i], got), pulled(params, XS, mask=some_mask()))


@over_kinds
def test_vmap_of_init_draws_an_ensemble(cell):
    keys = jax.random.split(jax.random.key(0), 2)
    draw = lambda key: jaxlstm.init(key, cell, 4, 5, layers=2)
    got = jax.vmap(draw)(keys)
    for i in range(2):
        close(jax.tree.map(lambda a, i=i: a[i], got), draw(keys[i]))


@over_kinds
def test_forward_mode_agrees_with_reverse_mode(cell):
    params = network(cell, "bidirectional", layers=1)
    run = jax.jit(lambda p, x: jaxlstm.apply(p, x, mask=some_mask(), reset=some_reset()))
    tangents = normal_like((params, XS), 6)
    out, pushed = jax.jvp(run, (params, XS), tangents)
    cotangents = normal_like(out, 7)
    pulled_back = jax.vjp(run, params, XS)[1](cotangents)
    dot = lambda a, b: sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    np.testing.assert_allclose(dot(cotangents, pushed), dot(pulled_back, tangents), rtol=1e-10)


@over_kinds
def test_remat_changes_nothing(cell):
    params = network(cell, "stack")
    loss = lambda p: jnp.sum(jnp.sin(jaxlstm.apply(p, XS)[0]))
    close(jax.jit(jax.grad(jax.remat(loss)))(params), jax.jit(jax.grad(loss))(params), rtol=1e-11)


@over_kinds
def test_shard_map_over_the_batch(cell):
    """Values, and gradients summed over the shards."""
    params = network(cell, "bidirectional", layers=1)
    xs = inputs(shape=(T, 4, 4))
    mask, reset = some_mask(shape=(T, 4)), some_reset(shape=(T, 4))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = P(None, "data")
    one = lambda p, x, m, r: jaxlstm.apply(p, x, mask=m, reset=r)[0]
    sharded = jax.shard_map(one, mesh=mesh, in_specs=(P(), rows, rows, rows), out_specs=rows)
    loss = lambda f: jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(f(p, xs, mask, reset)))))
    close(loss(sharded)(params), loss(one)(params))


@over_kinds
@pytest.mark.parametrize("kind", some_of(("Auto", "Explicit"), ("Explicit",)))
def test_a_batch_shared_out_over_devices_stays_there(cell, kind):
    """Under `jit` alone: each device has its rows, and what is summed is the weights' gradient."""
    params = network(cell, "bidirectional", layers=1)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    shared = lambda tree, *axes: jax.device_put(tree, jax.sharding.NamedSharding(mesh, P(*axes)))
    rows = inputs(shape=(T, 4, 4)), some_mask(shape=(T, 4)), some_reset(shape=(T, 4))

    def loss(params, xs, mask, reset):
        ys, last = jaxlstm.apply(params, xs, mask=mask, reset=reset)
        return sum(jnp.sum(jnp.sin(a)) for a in (ys, *jax.tree.leaves(last)))

    grad = jax.jit(jax.value_and_grad(loss, (0, 1)))
    given = shared(params), *shared(rows, None, "data")
    close(grad(*given), grad(params, *rows))
    text = grad.lower(*given).compile().as_text()
    assert "all-reduce" in text
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
    if kind == "Explicit":  # else it is XLA that decides how results are shared out
        ys, last = jax.jit(jaxlstm.apply)(*given[:2])
        assert ys.sharding.spec[1] == "data"
        assert all(a.sharding.spec[0] == "data" for a in jax.tree.leaves(last))


@over_kinds
def test_time_and_batch_in_one_axis_change_nothing(cell, monkeypatch):
    """The products of a machine with one device; here there are two."""
    params = network(cell, "bidirectional", layers=1)
    out = lambda p, x: jaxlstm.apply(p, x)[0]
    xs = inputs(shape=(T, 2, 3, 4))
    loss = lambda p, x: jnp.sum(jnp.sin(out(p, x)))
    expected = out(params, xs), jax.grad(loss, (0, 1))(params, xs)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    jax.clear_caches()
    got = out(params, xs), jax.grad(loss, (0, 1))(params, xs)
    jax.clear_caches()  # so that no other test meets these products
    close(got, expected)


@over_cells
def test_pickle_and_copy(cell):
    params = network(cell, "bidirectional")
    for again in (pickle.loads(pickle.dumps(params)), copy.deepcopy(params)):
        assert jax.tree.structure(again) == jax.tree.structure(params)
        close(again, params)
        assert hash(jax.tree.structure(again)) == hash(jax.tree.structure(params))


@over_kinds
def test_numpy_arrays_are_welcome(cell):
    params = network(cell, "stack")
    plain = jax.tree.map(np.asarray, params)
    got = jaxlstm.apply(plain, np.asarray(XS), mask=np.ones((T, B), bool))
    close(got, jaxlstm.apply(params, XS))


@pytest.mark.parametrize("what", ["forward", "gradient"])
def test_the_program_does_not_grow_with_time(what):
    """What is traced and compiled is one step, however many there are."""

    def size(time):
        params = network(jaxlstm.lstm, "bidirectional")
        loss = lambda p, x: jnp.sum(jaxlstm.apply(p, x)[0])
        f = loss if what == "forward" else jax.grad(loss)
        return len(jax.jit(f).lower(params, inputs(shape=(time, B, 4))).as_text().splitlines())

    assert size(1000) == size(10)


@pytest.mark.parametrize("batch", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_checkpoint_takes_memory_of_the_square_root_of_time(batch):
    """By the compiled program's own memory analysis; the outputs, if wanted, come on top."""
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 16, 64, dtype=jnp.float32)

    def temporary(time, checkpoint):
        loss = lambda p, x: jnp.sum(jaxlstm.apply(p, x, checkpoint=checkpoint)[1].h)
        xs = jax.ShapeDtypeStruct((time, batch, 16), jnp.float32)
        compiled = jax.jit(jax.grad(loss)).lower(params, xs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Of four times the steps: what comes on top grows by the power of time that all grows by.
    def growth(checkpoint):
        small, middle, large = (temporary(time, checkpoint) for time in (256, 1024, 4096))
        return (large - middle) / (middle - small)

    assert growth(None) == pytest.approx(4, rel=0.05)
    assert growth(True) == pytest.approx(2, rel=0.05)
    # The gradients of the weights, which do not grow, are more of the whole where rows are few.
    assert temporary(4096, True) < temporary(4096, None) / (40 if batch > 1 else 30)
