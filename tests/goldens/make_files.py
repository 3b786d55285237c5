"""Makes `jaxlstm_VERSION.safetensors`: a file of this version with cells and nodes of every kind.

    python tests/goldens/make_files.py

Each version writes one and commits it; every later version must load all of them.  The weights do
not depend on random numbers, so that any version can make the same network.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm
from jaxlstm import convert, wrappers


def network():
    """Containers, wrappers, options and additional weights, in float32."""
    key = jax.random.key(0)
    init = lambda cell, n, h, **options: jaxlstm.init(key, cell, n, h, dtype="float32", **options)
    peephole = jaxlstm.cells.lstm_variant(peephole=True, gate=("hard_sigmoid", 0.25, 0.5), clip=3.0)
    layers = (
        init(peephole, 3, 4, bidirectional=True),
        wrappers.residual(wrappers.zoneout(init(jaxlstm.gru, 8, 8), 0.25, 0.5)),
        wrappers.clip_gradient(wrappers.learn_initial_state(init(jaxlstm.rnn, 8, 2)), 1.0),
        wrappers.layer_norm(wrappers.recurrent_dropout(init(jaxlstm.lstm, 2, 3, bias=False), 0.5)),
        wrappers.dense(jaxlstm.Reverse(init(jaxlstm.cells.projected_lstm(projection=2), 3, 4))),
        wrappers.highway(key, init(jaxlstm.minlstm, 5, 5)),
    )
    params = jaxlstm.Stack(layers, jaxlstm.Static(0.25))
    leaves, tree = jax.tree.flatten(params)
    count = lambda n, a: (np.arange(a.size).reshape(a.shape) % 17 - 8 + n % 5) / 16
    numbers = [jnp.asarray(count(n, a), jnp.float32) for n, a in enumerate(leaves)]
    return jax.tree.unflatten(tree, numbers)


if __name__ == "__main__":
    path = Path(__file__).parent / f"jaxlstm_{jaxlstm.__version__}.safetensors"
    convert.save(path, network())
