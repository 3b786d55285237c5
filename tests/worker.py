"""One process of `test_processes.py`: trains on all devices of all processes, prints numbers.

`python worker.py ADDRESS PROCESSES NUMBER`; the same program whatever their counts are.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import jaxlstm
from jaxlstm.demo import model as lm
from jaxlstm.demo.text import load, streams

STEPS, BATCH, CHUNK = 20, 16, 24


def sharing(kind):
    """What puts rows on all devices, of which each process has read its own, and the rest whole."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (kind,))

    def rows(a, axis):
        mine = np.split(np.asarray(a), jax.process_count(), axis)[jax.process_index()]
        spec = NamedSharding(mesh, P(*[None] * axis, "data"))
        return jax.make_array_from_process_local_data(spec, mine)

    def whole(tree):
        same = NamedSharding(mesh, P())
        return jax.tree.map(lambda a: jax.make_array_from_process_local_data(same, a), tree)

    return rows, whole


def language_model():
    """The losses of the demo's model, in nats."""
    text = load(None)
    data = streams(text.train, BATCH)
    model = lm.init(jax.random.key(0), jaxlstm.lstm, len(text.vocabulary), 32, 1)
    rows, whole = sharing(AxisType.Auto)
    optimizer = optax.adam(3e-3)
    memory = whole(jax.tree.map(np.asarray, optimizer.init(model)))
    state = jax.tree.map(lambda a: rows(a, 0), model.network.initial_state((BATCH,)))
    model = whole(jax.tree.map(np.asarray, model))

    @jax.jit
    def update(model, memory, state, symbols):
        (nats, state), grads = jax.value_and_grad(lm.loss, has_aux=True)(model, state, symbols)
        updates, memory = optimizer.update(grads, memory)
        return optax.apply_updates(model, updates), memory, state, nats

    losses = []
    for step in range(STEPS):
        symbols = rows(data[step * CHUNK : (step + 1) * CHUNK + 1], 1)
        model, memory, state, nats = update(model, memory, state, symbols)
        losses.append(float(nats))
    return losses


def options():
    """A loss with mask, reset and dropout, and the norms of its gradients, on an explicit mesh."""
    rows, whole = sharing(AxisType.Explicit)
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 4, 8, layers=2, dropout=0.3)
    rng = np.random.default_rng(0)
    xs = rows(rng.normal(size=(9, BATCH, 4)).astype("float32"), 1)
    mask, reset = rows(rng.random((9, BATCH)) < 0.7, 1), rows(rng.random((9, BATCH)) < 0.2, 1)

    @jax.jit
    def f(params, xs, mask, reset):
        def loss(params):
            key = jax.random.key(5)
            ys, _ = jaxlstm.apply(params, xs, mask=mask, reset=reset, key=key)
            return jnp.sum(jnp.sin(ys)) / BATCH

        value, grads = jax.value_and_grad(loss)(params)
        return [value, *[jnp.sqrt(jnp.sum(a**2)) for a in jax.tree.leaves(grads)]]

    return [float(a) for a in f(whole(jax.tree.map(np.asarray, params)), xs, mask, reset)]


if __name__ == "__main__":
    address, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if count > 1:
        jax.distributed.initialize(address, count, number)
    found = {"devices": jax.device_count(), "losses": language_model(), "options": options()}
    print(json.dumps(found))
