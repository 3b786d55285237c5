"""What is measured: the grid, further lines, and the data of one line."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
CELLS = tuple(GATES)


class Case(NamedTuple):
    """A cell and the sizes of one line, and what else it has.

    `masked` lines have ragged lengths, `reset` lines episodes; `bidirectional` are two layers, and
    a `population` is as many networks by `vmap` over their weights, which see the same inputs.
    """

    cell: str
    batch: int
    time: int
    input: int
    hidden: int
    masked: bool = False
    reset: bool = False
    bidirectional: bool = False
    population: int = 0
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.cell} {self.sizes}"

    @property
    def sizes(self) -> str:
        numbers = f"{self.batch},{self.time},{self.input},{self.hidden}"
        words = [name for name in ("masked", "reset") if getattr(self, name)]
        words += ["two layers, bidirectional"] if self.bidirectional else []
        words += [f"population of {self.population}"] if self.population else []
        words += [] if self.dtype == "float32" else [self.dtype]
        return f"({', '.join([numbers, *words])})"

    @property
    def plain(self) -> bool:
        """Whether it is a line of the grid, one layer in float32."""
        others = self.reset or self.bidirectional or self.population
        return self.cell in GATES and not others and self.dtype == "float32"


GRID = (
    (1, 1000, 32, 32),
    (1, 1000, 128, 128),
    (16, 113, 128, 128),
    (32, 128, 256, 256),
    (64, 100, 128, 512),
    (8, 256, 1024, 1024),
    (32, 128, 256, 256, True),
)
MORE = (
    Case("lstm", 32, 128, 128, 128, bidirectional=True),
    Case("gru", 32, 128, 128, 128, bidirectional=True),
    Case("lstm", 16, 113, 64, 64, population=8),
    Case("peephole_lstm", 16, 113, 128, 128),
    Case("projected_lstm", 16, 113, 128, 128),
    Case("gru_reset_before", 16, 113, 128, 128),
    Case("mingru", 16, 113, 128, 128),
    Case("slstm", 16, 113, 128, 128),
    Case("lstm", 16, 113, 128, 128, reset=True),
    Case("lstm", 1, 256, 512, 512, dtype="bfloat16"),
    Case("lstm", 32, 128, 256, 256, dtype="bfloat16"),
)
SMALL = (
    Case("lstm", 2, 3, 4, 5),
    Case("lstm", 2, 3, 4, 5, bidirectional=True),
    Case("projected_lstm", 2, 3, 4, 6, reset=True, population=2),
    Case("mingru", 2, 3, 4, 5, masked=True, dtype="bfloat16"),
)


class Data(NamedTuple):
    """Weights, inputs, and the random cotangents of `ys` and of every array of the last state."""

    params: Any
    xs: np.ndarray  # (time, batch, input)
    lengths: np.ndarray | None  # (batch,)
    dys: np.ndarray
    dlast: tuple[np.ndarray, ...]
    reset: np.ndarray | None = None  # (time, batch)


def network(case: Case, seed: int) -> Any:
    cell = getattr(jaxlstm.cells, case.cell)
    if case.cell == "projected_lstm":
        cell = cell(projection=case.hidden // 2)
    options = {"layers": 2, "bidirectional": True} if case.bidirectional else {}
    one = lambda key: jaxlstm.init(
        key, cell, case.input, case.hidden, dtype=case.dtype, scheme="torch", **options
    )
    key = jax.random.key(seed)
    return jax.vmap(one)(jax.random.split(key, case.population)) if case.population else one(key)


def apply(case: Case, params: Any, xs: Any, **options: Any) -> Any:
    """`(ys, last)`, the last state as a tuple of arrays."""
    run = lambda params: jaxlstm.apply(params, xs, **options)
    ys, last = (jax.vmap(run) if case.population else run)(params)
    return ys, tuple(jax.tree.leaves(last))


def sample(case: Case, seed: int = 0) -> Data:
    params = network(case, seed)
    rng = np.random.default_rng(seed)
    dtype = jnp.dtype(case.dtype)
    normal = lambda shape, dtype=dtype: rng.normal(size=shape).astype(dtype)
    xs = normal((case.time, case.batch, case.input))
    ys, last = jax.eval_shape(lambda p: apply(case, p, xs, implementation="scan"), params)
    lengths = reset = None
    if case.masked:
        lengths = rng.integers(1, case.time + 1, case.batch).astype(np.int32)
        lengths[0] = case.time
    if case.reset:
        reset = rng.random((case.time, case.batch)) < 0.05
    dlast = tuple(normal(a.shape, a.dtype) for a in last)
    return Data(params, xs, lengths, normal(ys.shape), dlast, reset)


def flops(case: Case) -> int | None:
    """Of the matrix products of one forward pass; backward takes twice as many."""
    if not case.plain:
        return None
    return 2 * case.batch * case.time * GATES[case.cell] * case.hidden * (case.input + case.hidden)
