"""All devices that JAX sees, of one process or of several, with the batch shared out over them."""

import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from .._types import Tree


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the cluster that the arguments name, or else the one that JAX detects."""
    if (coordinator, processes, process) != (None, None, None):
        return jax.distributed.initialize(coordinator, processes, process)
    try:
        jax.distributed.initialize()
    except ValueError:  # there is none
        pass
    except Exception as e:
        print(f"runs alone, in no cluster: {type(e).__name__}: {e}", file=sys.stderr)


class Devices:
    """So many devices, or all; each has all of the weights, and some rows of the batch."""

    def __init__(self, count: int | None = None) -> None:
        self.all = jax.devices()[:count]
        self.mesh = jax.make_mesh((len(self.all),), ("batch",), (AxisType.Auto,), devices=self.all)
        self.alone = jax.process_count() == 1
        self._whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, P()))

    def __str__(self) -> str:
        several = f"{len(self.all)} devices, the first of them " if len(self.all) > 1 else ""
        processes = "" if self.alone else f", of {jax.process_count()} processes"
        return f"{several}{self.all[0]}{processes}"

    def copied(self, tree: Tree) -> Tree:
        """The same arrays on every device."""
        return self._placed(tree, P())

    def shared_out(self, tree: Tree, axis: int) -> Tree:
        """Arrays with this axis shared out over the devices."""
        return self._placed(tree, P(*[None] * axis, "batch"))

    def _placed(self, tree: Tree, spec: P) -> Tree:
        sharding = NamedSharding(self.mesh, spec)
        host = jax.tree.map(np.asarray, tree)
        place = lambda a: jax.make_array_from_callback(a.shape, sharding, lambda at: a[at])
        return jax.tree.map(place, host)

    def fetched(self, tree: Tree) -> Tree:
        """Whole arrays, on the host of every process."""
        return jax.tree.map(np.asarray, self._whole(tree))

    def check_alike(self, value: int, said: str) -> None:
        """Raises where a number is not the same in every process."""
        if not self.alone:
            multihost_utils.assert_equal(np.int32(value), said)
