"""The interpreter of jaxprs: what moves numbers moves whatever stands for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlstm._jaxpr import MOVES, called, evaluate, moved

A = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
MOVING = {
    "slice": lambda a: a[:, 1:, ::2],
    "split": lambda a: tuple(jnp.split(a, [1, 3], 2)),
    "squeeze": lambda a: a[:1].squeeze(0),
    "reshape": lambda a: a.reshape(6, 4),
    "ravel": lambda a: a.ravel(),
    "expand_dims": lambda a: a[:, None, :, None],
    "transpose": lambda a: a.transpose(2, 0, 1),
    "moveaxis": lambda a: jnp.moveaxis(a, 0, -1),
    "rev": lambda a: a[:, ::-1],
    "concatenate": lambda a: jnp.concatenate([a, a[:, :1]], 1),
    "stack": lambda a: jnp.stack([a, a], -1),
    "unpacked": lambda a: tuple(a),
    "broadcast": lambda a: jnp.broadcast_to(a[:, :1], (5, 2, 3, 4)),
    "repeat": lambda a: jnp.repeat(a, 2, axis=1),
    "tile": lambda a: jnp.tile(a, (1, 2, 1)),
    "pad": lambda a: lax.pad(a, np.int32(-7), ((1, 0, 0), (-1, 2, 0), (0, -1, 2))),
    "pad with holes": lambda a: lax.pad(a, np.int32(9), ((0, 0, 3), (2, -3, 1), (-2, 1, 0))),
    "of no length": lambda a: lax.pad(a[:, :0], np.int32(9), ((0, 0, 1), (1, 1, 2), (0, 0, 0))),
    "checkpoint_name": lambda a: checkpoint_name(a, "a"),
    "jit": lambda a: jax.jit(lambda a: a[:, 0])(a),
    "checkpoint": lambda a: jax.checkpoint(lambda a: a.T)(a),
    "copy": lambda a: jnp.array(a, copy=True),
}


def rule(eqn, values):
    if (program := called(eqn)) is not None:
        return evaluate(program, values, rule, np.asarray)
    if (outs := moved(eqn, values)) is not None:
        return outs
    raise NotImplementedError(eqn.primitive.name)


@pytest.mark.parametrize("name", MOVING)
def test_moves_are_those_of_jax(name):
    outs = evaluate(jax.make_jaxpr(MOVING[name])(A), [A], rule, np.asarray)
    expected = jax.tree.leaves(MOVING[name](A))
    assert len(outs) == len(expected)
    for out, right in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(out, right)


def test_most_moves_are_met():
    """JAX of this version writes the programs above with these."""
    found = {eqn.primitive.name for f in MOVING.values() for eqn in jax.make_jaxpr(f)(A).eqns}
    assert found & MOVES.keys() >= {
        "slice", "split", "squeeze", "reshape", "transpose", "rev", "concatenate",
        "broadcast_in_dim", "pad", "name",
    }  # fmt: skip


def test_a_call_with_a_rule_of_its_own_is_a_call():
    turned = lambda a: a[::-1]
    forward, reverse = jax.custom_jvp(turned), jax.custom_vjp(turned)
    forward.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    reverse.defvjp(lambda a: (a, None), lambda _, d: (d,))
    for f in (forward, reverse):
        (out,) = evaluate(jax.make_jaxpr(f)(A), [A], rule, np.asarray)
        np.testing.assert_array_equal(out, A[::-1])


@pytest.mark.parametrize(
    "f", [jnp.sin, lambda a: lax.scan(lambda c, x: (c, x), 0, a), lambda a: a.sum(0)]
)
def test_what_computes_is_no_move(f):
    with pytest.raises(NotImplementedError, match=r"sin|scan|reduce_sum"):
        evaluate(jax.make_jaxpr(f)(A.astype(np.float32)), [A], rule, np.asarray)


def test_constants_and_literals():
    table = jnp.asarray(A)
    program = jax.make_jaxpr(lambda a: (jnp.concatenate([table, a]), 3))(A)
    out, literal = evaluate(program, [A], rule, lambda v: np.asarray(v) + 100)
    np.testing.assert_array_equal(out, np.concatenate([A + 100, A]))
    assert literal == 103
