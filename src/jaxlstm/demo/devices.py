"""All devices that JAX sees, of one process or of several, with the batch shared out over them."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from .._types import Tree
from .cluster import ClusterError


class Devices:
    """So many devices, or all; each has all of the weights, and some rows of the batch."""

    def __init__(self, count: int | None = None) -> None:
        there = jax.devices()
        if count is not None and count > len(there):
            raise ClusterError(f"JAX sees {len(there)} devices; got --devices {count}.")
        self.all = there[:count]
        if {d.process_index for d in self.all} != {d.process_index for d in there}:
            raise ClusterError(
                f"--devices {count} leaves a process without any: the cluster has {len(there)}, of "
                f"{jax.process_count()} processes."
            )
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

    def check_alike(self, value: int, advice: str) -> None:
        """Raises, in every process, where a number is not the same in all of them."""
        if self.alone:
            return
        found = multihost_utils.process_allgather(np.int32(value))
        if (found != value).any():
            raise ClusterError(f"the processes are at the steps {found.tolist()}. {advice}")
