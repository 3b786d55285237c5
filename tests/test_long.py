"""Sequences cut in time: truncated gradients, gradients of the whole, burn-in, buckets."""

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import B, N, close, inputs, network, some_of, some_state

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
        with pytest.raises(ValueError, match=r"one time first, .*; got times \[5, 6\]"):
            f(loss, STEPS)(params, some_state(params), tree)
        with pytest.raises(ValueError, match="`steps` must be a whole number, 1 or more"):
            f(loss, 0)


@pytest.mark.parametrize("time", some_of((2, 3, 8), (3,)))
@pytest.mark.parametrize("state", [None, {"rnn": None}], ids=["alone", "in a tree"])
def test_no_state_is_the_initial_one(time, state):
    params = network(jaxlstm.lstm)
    of = lambda state: state["rnn"] if isinstance(state, dict) else state
    put = lambda new: new if state is None else {"rnn": new}

    def inside(params, state, part):
        value, new = loss(params, of(state), part)
        return value, put(new)

    first = put(params.initial_state((B,)))
    truncated = jax.jit(jaxlstm.truncated_value_and_grad(inside, STEPS))
    whole = jax.jit(jax.value_and_grad(jaxlstm.segmented_loss(inside, STEPS), has_aux=True))
    for f in (truncated, whole):
        close(f(params, state, sequence(time)), f(params, first, sequence(time)))


@pytest.mark.parametrize("kind", ["truncated", "segmented"])
def test_gradients_of_16_bits_are_summed_in_32(kind):
    """Of 1500 parts: summed in bfloat16 they would be wrong by 15 to 50 per cent."""
    params = network(jaxlstm.rnn, dtype=jnp.bfloat16)
    xs = inputs(shape=(1500, B, N), dtype=jnp.bfloat16)

    def linear(params, state, part):
        ys, state = jaxlstm.apply(params, part, state)
        return ys.astype(jnp.float32).sum(), state

    def grad(dtype):
        p, part = jax.tree.map(lambda a: a.astype(dtype), (params, xs))
        state = p.initial_state((B,))
        if kind == "truncated":
            return jax.jit(jaxlstm.truncated_value_and_grad(linear, 1))(p, state, part)[1]
        whole = jaxlstm.segmented_loss(linear, 1)
        return jax.jit(jax.grad(lambda p: whole(p, state, part)[0]))(p)

    got, expected = grad(jnp.bfloat16), grad(jnp.float32)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.bfloat16
        assert jnp.linalg.norm(a.astype(b.dtype) - b) < 0.01 * jnp.linalg.norm(b)


@pytest.mark.slow
def test_parts_inside_shard_map():
    """The initial state varies over no mesh axis, what follows it does."""
    params, tree = network(jaxlstm.gru), {k: v[:, :2] for k, v in sequence(7).items()}
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec(None, "rows")

    def value(params, tree):
        state = params.initial_state((tree["xs"].shape[1],))
        whole = jaxlstm.segmented_loss(loss, STEPS)(params, state, tree)[0]
        truncated = jaxlstm.truncated_value_and_grad(loss, STEPS)(params, state, tree)
        return jax.lax.psum((whole, truncated[0][0]), "rows"), truncated[1]

    once = jax.sharding.PartitionSpec()
    shared = jax.shard_map(value, mesh=mesh, in_specs=(once, rows), out_specs=(once, once))
    state = params.initial_state((2,))
    (total, _), grads = jaxlstm.truncated_value_and_grad(loss, STEPS)(params, state, tree)
    close(jax.jit(shared)(params, tree), ((total, total), grads))


BAD = {
    "no state": (lambda p, s, x: 1.0, sequence(6), TypeError, "`.value, state.`; got a float"),
    "three": (lambda p, s, x: (1.0, s, s), sequence(6), TypeError, "got 3 values"),
    "several": (
        lambda p, s, x: (jaxlstm.apply(p, x["xs"])[0].sum((0, 2)), s), sequence(6), ValueError,
        "one real number; got an array of shape",
    ),
    "whole numbers": (lambda p, s, x: (1, s), sequence(6), ValueError, "dtype int64"),
    "a number": (loss, {**sequence(6), "weight": 0}, TypeError, "one time first; got an int in it"),
    "no axes": (loss, {**sequence(6), "weight": jnp.ones(())}, ValueError, r"times \[6, none\]"),
    "nothing": (loss, {}, ValueError, r"got times \[\]"),
    "a part of the state": (
        lambda p, s, x: (jaxlstm.apply(p, x["xs"], s)[0].sum(), s.h), sequence(6), TypeError,
        r"a state like the one that it is given, HiddenState\(h=.*; got float64\[3, 5\]",
    ),
    "another state": (
        lambda p, s, x: (s.h.sum(), jax.tree.map(lambda a: a[:1], s)), sequence(2), TypeError,
        r"HiddenState\(h=float64\[3, 5\]\); got HiddenState\(h=float64\[1, 5\]\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("f", [jaxlstm.segmented_loss, jaxlstm.truncated_value_and_grad])
def test_a_key_in_the_state_draws_anew_in_every_part(f):
    """And a counter beside it counts, under all of them."""
    params = network(jaxlstm.lstm, "stack", dropout=0.5)

    def noisy(params, state, xs):
        rnn, key, count = state
        key, now = jax.random.split(key)
        ys, rnn = jaxlstm.apply(params, xs, rnn, key=now)
        return (ys**2).sum(), (rnn, key, count + 1)

    xs = inputs(shape=(8, B, N))
    state = params.initial_state((B,)), jax.random.key(3), jnp.zeros((), int)
    made = f(noisy, STEPS)
    whole = made if f is jaxlstm.truncated_value_and_grad else lambda *a: (made(*a), None)
    (value, (last, key, count)), _ = jax.jit(whole)(params, state, xs)
    total, expected = 0.0, state
    for start in range(0, 8, STEPS):
        one, expected = noisy(params, expected, xs[start : start + STEPS])
        total = total + one
    close((value, last), (total, expected[0]))
    assert (jax.random.key_data(key) == jax.random.key_data(expected[1])).all()
    assert count == 3


@pytest.mark.parametrize("time", some_of((0, 1, STEPS, STEPS + 1), (0, STEPS + 1)))
def test_times_of_no_step_one_and_a_whole_part(time):
    params, tree = network(jaxlstm.gru), sequence(time)
    state = some_state(params)
    for f in (
        jax.value_and_grad(jaxlstm.segmented_loss(loss, STEPS), has_aux=True),
        jaxlstm.truncated_value_and_grad(loss, 10**9),
    ):
        close(jax.jit(f)(params, state, tree), jax.value_and_grad(loss, has_aux=True)(
            params, state, tree))  # fmt: skip


@pytest.mark.parametrize("f", [jaxlstm.segmented_loss, jaxlstm.truncated_value_and_grad])
def test_a_time_that_is_known_when_a_program_runs_is_refused(f, as_users_call_it):
    from jax import export

    params = network(jaxlstm.gru)
    (time,) = export.symbolic_shape("t")
    tree = {"xs": (time, B, N), "targets": (time, B)}
    tree = {k: jax.ShapeDtypeStruct(shape, float) for k, shape in tree.items()}
    with pytest.raises(ValueError, match=r"known when the program is traced; got times \[t\]"):
        export.export(jax.jit(f(loss, STEPS)))(params, params.initial_state((B,)), tree)


BURN_INS = {
    "a tree": (lambda p, xs: ({"rnn": p}, xs), TypeError, "`params` must be what"),
    "a word": (lambda p, xs: ("rnn", xs), TypeError, "`params` must be what .*; got a str"),
    "no array": (lambda p, xs: (p, None), TypeError, "`xs` must be one array"),
    "another state": (lambda p, xs: (p, xs, xs[0]), ValueError, "the state of another network"),
}


@pytest.mark.parametrize("name", BURN_INS)
def test_what_cannot_be_burned_in(name, as_users_call_it):
    made, kind, message = BURN_INS[name]
    with pytest.raises(kind, match=message):
        jaxlstm.burn_in(*made(network(jaxlstm.gru), inputs()))


def test_burn_in_of_no_steps_is_the_state():
    params = network(jaxlstm.lstm)
    state = some_state(params)
    close(jaxlstm.burn_in(params, inputs()[:0], state), state)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_loss_or_no_sequence(name):
    f, tree, error, message = BAD[name]
    params = network(jaxlstm.rnn)
    for of in (jaxlstm.segmented_loss, jaxlstm.truncated_value_and_grad):
        with pytest.raises(error, match=message):
            of(f, STEPS)(params, some_state(params), tree)
