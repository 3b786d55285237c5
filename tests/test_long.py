"""Sequences cut in time: truncated gradients, gradients of the whole, burn-in, buckets."""

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import B, N, close, inputs, network, some_state

STEPS = 3


def loss(params, state, part):
    ys, state = jaxlstm.apply(params, part["xs"], state)
    return ((ys - part["targets"][..., None]) ** 2).sum(), state


def sequence(time):
    return {"xs": inputs(shape=(time, B, N)), "targets": inputs(7, (time, B))}


def parts(tree, steps):
    cut = lambda start: jax.tree.map(lambda a: a[start : start + steps], tree)
    return [cut(start) for start in range(0, tree["xs"].shape[0], steps)]


@pytest.mark.parametrize("time", [2, 6, 8])
def test_truncated_gradients_are_those_of_the_chunks(time):
    params = network(jaxlstm.lstm)
    state, tree = some_state(params), sequence(time)
    (value, last), grads = jax.jit(jaxlstm.truncated_value_and_grad(loss, STEPS))(
        params, state, tree
    )
    total, sums = 0.0, jax.tree.map(jnp.zeros_like, params)
    of_part = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for part in parts(tree, STEPS):
        (one, state), d = of_part(params, state, part)
        total, sums = total + one, jax.tree.map(jnp.add, sums, d)
    close((value, last, grads), (total, state, sums))


def test_the_last_state_has_no_gradient():
    params = network(jaxlstm.gru)

    def later(w):
        grad = jaxlstm.truncated_value_and_grad(loss, STEPS)
        (_, state), _ = grad(params._replace(w=w), some_state(params), sequence(6))
        return state.h.sum()

    close(jax.jit(jax.grad(later))(params.w), jnp.zeros_like(params.w))


@pytest.mark.parametrize("time", [2, 8])
def test_segments_have_the_gradient_of_the_whole(time):
    params = network(jaxlstm.gru)
    state, tree = some_state(params), sequence(time)
    grad = lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))
    close(
        grad(jaxlstm.segmented_loss(loss, STEPS))(params, state, tree),
        grad(loss)(params, state, tree),
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_memory_grows_with_the_square_root_of_time(batch):
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 4, 32)

    def temporaries(time, steps):
        f = jax.value_and_grad(jaxlstm.segmented_loss(loss, steps), has_aux=True)
        shapes = {"xs": (time, batch, 4), "targets": (time, batch)}
        tree = {k: jax.ShapeDtypeStruct(s, float) for k, s in shapes.items()}
        compiled = jax.jit(f).lower(params, params.initial_state((batch,)), tree).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(4096, 64), temporaries(16 * 4096, 256)
    assert large < 6 * small  # the square root of 16 is 4; of the whole it would be 16


def test_burn_in_is_a_state_without_gradient():
    params, xs = network(jaxlstm.lstm), inputs()

    def later(params):
        state = jaxlstm.burn_in(params, xs[:3])
        return jaxlstm.apply(params, xs[3:], state)[0].sum()

    fixed = jaxlstm.apply(params, xs[:3])[1]
    expected = jax.grad(lambda p: jaxlstm.apply(p, xs[3:], fixed)[0].sum())
    close(jax.jit(jax.grad(later))(params), jax.jit(expected)(params))


def test_buckets_are_few_and_near():
    found = {jaxlstm.bucket_length(time) for time in range(1, 1001)}
    assert len(found) == 12
    for time in range(16, 1001):
        assert time <= jaxlstm.bucket_length(time) <= 1.5 * time
    assert jaxlstm.bucket_length(3, shortest=1, growth=1.01) == 3
    for bad in (1, 0.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`growth` must be a factor of more than 1"):
            jaxlstm.bucket_length(3, growth=bad)


def test_times_must_be_one():
    params = network(jaxlstm.rnn)
    tree = {**sequence(6), "targets": jnp.ones((5, B))}
    for f in (jaxlstm.segmented_loss, jaxlstm.truncated_value_and_grad):
        with pytest.raises(ValueError, match=r"one time first; got times \[5, 6\]"):
            f(loss, STEPS)(params, some_state(params), tree)
        with pytest.raises(ValueError, match="`steps` must be a whole number, 1 or more"):
            f(loss, 0)
