"""Under a batch shared out over devices, none waits for another inside a loop over time."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import jaxlstm
from networks import CELLS, KINDS, inputs, network, some_mask, some_of, some_reset

COLLECTIVES = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
OFTEN = ("lstm", "peephole_lstm", "projected_lstm")
over_cells = pytest.mark.parametrize("name", some_of(CELLS, OFTEN))
over_kinds = pytest.mark.parametrize("name", some_of(KINDS, OFTEN))


def inside_loops(program):
    """The lines of all that the bodies of loops in a compiled program run, and how many loops."""
    parts, part = {}, None
    for line in program.splitlines():
        if (head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)) and not line.startswith(" "):
            part = parts[head.group(1)] = []
        elif part is not None:
            part.append(line)
    bodies = re.findall(r"body=%?([\w.\-]+)", program)
    seen, todo = set(), list(bodies)
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += [n for n in re.findall(r"%?([\w.\-]+)", " ".join(parts[name])) if n in parts]
    return [line for name in seen for line in parts[name]], len(bodies)


def collectives(lines):
    return [line for line in lines if re.search(rf"= .*\b({COLLECTIVES})(-start)?\(", line)]


def programs(run, *args):
    """Compiled: forward, and with the gradients of all that is given."""

    def loss(*args):
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(run(*args)))

    for f in (run, jax.value_and_grad(loss, (0, 1))):
        yield jax.jit(f).lower(*args).compile().as_text()


def placed(cell, kind, rows=4):
    params, xs = network(cell, dtype=jnp.float32), inputs(shape=(5, rows, 4), dtype=jnp.float32)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(getattr(AxisType, kind),))
    whole, shared = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "data"))
    flags = some_mask(shape=(5, rows)), some_reset(shape=(5, rows))
    return jax.device_put(params, whole), *jax.device_put((xs, *flags), shared)


@pytest.mark.skipif(jax.device_count() < 2, reason="one device")
@over_cells
def test_no_collective_in_a_loop(name):
    no_collective(name, "Auto")


@pytest.mark.skipif(jax.device_count() < 2, reason="one device")
@over_kinds
def test_no_collective_in_a_loop_where_types_tell_the_sharding(name):
    no_collective(name, "Explicit")


def no_collective(name, kind):
    params, xs, mask, reset = placed(CELLS[name], kind)
    for options in ({}, {"mask": mask, "reset": reset, "reverse": True}):
        run = functools.partial(jaxlstm.apply, **options)
        for program in programs(run, params, xs):
            lines, loops = inside_loops(program)
            assert loops
            assert not collectives(lines)


@pytest.mark.skipif(jax.device_count() < 2, reason="one device")
@over_kinds
def test_no_collective_in_a_loop_of_each_device(name):
    """Inside `shard_map` only the gradients of the weights are summed, after the loop."""
    params, xs, *_ = placed(CELLS[name], "Auto")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    out = jax.eval_shape(jaxlstm.apply, params, xs)
    specs = P(None, "data"), jax.tree.map(lambda _: P("data"), out[1])
    run = jax.shard_map(jaxlstm.apply, mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=specs)
    for program in programs(run, params, xs):
        lines, loops = inside_loops(program)
        assert loops
        assert not collectives(lines)


@pytest.mark.skipif(jax.device_count() < 2, reason="one device")
def test_collectives_in_a_loop_are_found():
    """By `scan` the gradient of the recurrent weights is summed over devices in each step."""
    params, xs, *_ = placed(jaxlstm.lstm, "Auto")
    run = functools.partial(jaxlstm.apply, implementation="scan")
    forward, gradients = programs(run, params, xs)
    assert not collectives(inside_loops(forward)[0])
    assert collectives(inside_loops(gradients)[0])
