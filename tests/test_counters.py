"""Whole and complex numbers in a state, under every wrapper and every call."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from jaxlstm import wrappers
from networks import B, N, close, inputs, network, some_mask, some_of, some_reset

T = 4
XS, MASK, RESET = inputs(shape=(T, B, N)), some_mask(shape=(T, B)), some_reset(shape=(T, B))
KEY = jax.random.key(3)


class CountedState(NamedTuple):
    h: Any
    n: Any  # int32, how many steps there were


class Fields(NamedTuple):
    layer: Any


class Counted(Fields, jaxlstm.StepNode):
    """A layer whose steps become smaller, `h' = h + (layer(h, x) - h) / n`."""

    @property
    def input_size(self):
        return self.layer.input_size

    @property
    def gates(self):
        return self.layer.gates

    def project(self, xs, gates=None):
        return self.layer.project(xs, gates)

    def recur(self, h, gates):
        return self.layer.recur(h, gates)

    def initial_state(self, batch):
        return CountedState(self.layer.initial_state(batch).h, jnp.zeros(batch, jnp.int32))

    def step(self, s, u, recur, noise):
        n = s.n + 1
        new = self.layer.step(jaxlstm.HiddenState(s.h), u, recur, noise).h
        share = 1 / n.astype(s.h.dtype)[..., None]
        return CountedState(s.h + share * (new - s.h), n)


COUNTED = Counted(network(jaxlstm.rnn))
WRAPPED = {
    "alone": lambda p: p,
    "zoneout": lambda p: wrappers.zoneout(p, 0.2, 0.4),
    "clip": lambda p: wrappers.clip_gradient(p, 1e3),
    "initial": wrappers.learn_initial_state,
    "states": lambda p: wrappers.variational_dropout(p, 0.2, 0.3, 0.2),
    "norm": wrappers.layer_norm,
    "several": lambda p: wrappers.zoneout(wrappers.learn_initial_state(p), 0.2),
}


@jax.jit
def by_steps(params, xs, state=None):
    ys = []
    for t in range(T):
        y, state = jaxlstm.step(params, xs[t], state, mask=MASK[t], reset=RESET[t])
        ys.append(y)
    return jnp.stack(ys), state


def grads_of(f, params, xs):
    return jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a)[0])), (0, 1)))(params, xs)


class Plain(NamedTuple):
    rate: Any


class Unmultiplied(Plain, jaxlstm.StepNode):
    """A running mean, with a weight that its step has beside any product."""

    @property
    def input_size(self):
        return self.rate.shape[0]

    def initial_state(self, batch):
        return CountedState(jnp.zeros((*batch, N)), jnp.zeros((*batch, 2), jnp.int32))

    def step(self, s, u, recur, noise):
        n = s.n + 1
        rate = jnp.broadcast_to(self.rate, u.shape)
        return CountedState(s.h + rate * (u - s.h) / n[..., :1].astype(s.h.dtype), n)


NODES = {"products": COUNTED, "no products": Unmultiplied(jnp.linspace(0.5, 0.9, N))}


@pytest.mark.parametrize(
    ("name", "node"),
    some_of(
        [(name, node) for name in WRAPPED for node in NODES],
        [("several", "products")],
    ),
)
def test_every_wrapper_and_implementation(name, node):
    """As a loop of `step`, in values and gradients, whatever runs it."""
    if name == "states":
        return
    params = WRAPPED[name](NODES[node])
    expected = by_steps(params, XS)
    gradients = grads_of(by_steps, params, XS)
    options = {"mask": MASK, "reset": RESET}
    for implementation, refused in jaxlstm.implementations(params, XS, **options).items():
        if refused is None:
            run = jax.jit(
                functools.partial(jaxlstm.apply, **options, implementation=implementation)
            )
            close(run(params, XS), expected)
            close(grads_of(run, params, XS), gradients, rtol=1e-10)
    close(
        grads_of(lambda *a: jaxlstm.apply(*a, **options, checkpoint=3), params, XS),
        gradients,
        1e-10,
    )


def test_a_counter_is_not_zoned_out():
    params = wrappers.zoneout(COUNTED, 0.9)
    for key in (None, KEY):
        assert (jaxlstm.apply(params, XS, key=key)[1].n == T).all()


def test_a_counter_is_not_learned():
    params = wrappers.learn_initial_state(COUNTED)
    assert params.state.n is None
    assert params.initial_state((B,)).n.dtype == jnp.int32
    jax.grad(lambda p: jaxlstm.apply(p, XS)[0].sum())(params)  # of every leaf


def test_gradients_of_states():
    """A counter has none; those of the rest are those of `apply`."""
    first = jaxlstm.apply(COUNTED, XS[:1])[1]
    ended = lambda h: jaxlstm.apply(COUNTED, XS[1:], first._replace(h=h))
    flow = jaxlstm.gradient_flow(COUNTED, XS, lambda ys: jnp.sum(ys[-1] ** 2))
    pushed = jax.grad(lambda h: jnp.sum(ended(h)[0][-1] ** 2))(first.h)
    assert flow.n is None
    close(flow.h[0], jnp.linalg.norm(pushed, axis=-1))
    products = jaxlstm.state_jacobians(COUNTED, XS[1:], first)
    every = jax.jacfwd(lambda h: ended(h)[1].h)(first.h)
    close(products[-1], jnp.stack([every[row, :, row] for row in range(B)]))
    largest = jnp.linalg.slogdet(products[-1])[1] / (T - 1)  # the sum of all exponents
    close(jaxlstm.lyapunov(COUNTED, XS[1:], first).sum(-1), largest, rtol=1e-10)


@pytest.mark.slow
def test_what_is_recorded_and_cut():
    assert jaxlstm.record(COUNTED, XS)[2].states.n.dtype == jnp.int32

    def loss(params, state, part):
        ys, state = jaxlstm.apply(params, part, state)
        return jnp.sum(ys**2), state

    whole = jax.value_and_grad(loss, has_aux=True)(COUNTED, None, XS)
    cut = jax.value_and_grad(jaxlstm.segmented_loss(loss, 3), has_aux=True)(COUNTED, None, XS)
    close(cut, whole, rtol=1e-11)
    (_, state), _ = jaxlstm.truncated_value_and_grad(loss, 3)(COUNTED, None, XS)
    close(state, whole[0][1])


def test_a_wrapper_of_candidates_needs_a_cell():
    with pytest.raises(TypeError, match="needs layers with a cell"):
        wrappers.recurrent_dropout(COUNTED, 0.5)


class ComplexState(NamedTuple):
    h: Any
    z: Any


class PartsState(NamedTuple):
    h: Any
    re: Any
    im: Any


class Turned(Unmultiplied):
    """A rotation of complex numbers, read by what is not analytic."""

    def initial_state(self, batch):
        zeros = jnp.zeros((*batch, N))
        return ComplexState(zeros, jax.lax.complex(zeros, zeros))

    def step(self, s, u, recur, noise):
        rate = jnp.broadcast_to(self.rate, u.shape)
        z = jax.lax.complex(0.9 * jnp.cos(rate), 0.9 * jnp.sin(rate)) * s.z
        z = z + jax.lax.complex(u + jnp.tanh(s.h), u)
        return ComplexState(jnp.abs(z + 2.0 + 0j), z)


class TurnedParts(Turned):
    """The same with both parts as fields of their own."""

    def initial_state(self, batch):
        return PartsState(*[jnp.zeros((*batch, N))] * 3)

    def step(self, s, u, recur, noise):
        h, z = Turned.step(self, ComplexState(s.h, jax.lax.complex(s.re, s.im)), u, recur, noise)
        return PartsState(h, z.real, z.imag)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: wrappers.clip_gradient(p, 0.05)])
def test_complex_numbers_are_two_real_ones(wrap):
    complex_, parts = (wrap(node(jnp.linspace(0.5, 0.9, N))) for node in (Turned, TurnedParts))
    loss = lambda p: jnp.sum(jaxlstm.apply(p, XS, mask=MASK, reset=RESET)[0] ** 2)
    close(jax.tree.leaves(jax.grad(loss)(complex_)), jax.tree.leaves(jax.grad(loss)(parts)))
    flow, both = (
        jaxlstm.gradient_flow(p, XS, lambda ys: jnp.sum(ys[-1] ** 2)) for p in (complex_, parts)
    )
    close((flow.h, flow.z), (both.h, jnp.hypot(both.re, both.im)))
    if isinstance(complex_, Turned):
        close(*(jaxlstm.state_jacobians(p, XS, reset=RESET) for p in (complex_, parts)))
        close(*(jaxlstm.lyapunov(p, XS, count=4) for p in (complex_, parts)), rtol=1e-9)
