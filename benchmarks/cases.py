"""What is measured: the grid, and the data of one line of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
CELLS = tuple(GATES)


class Case(NamedTuple):
    """A cell and the sizes of one line; `masked` lines have ragged lengths."""

    cell: str
    batch: int
    time: int
    input: int
    hidden: int
    masked: bool = False

    def __str__(self) -> str:
        sizes = f"{self.batch},{self.time},{self.input},{self.hidden}"
        return f"{self.cell} ({sizes}{', masked' if self.masked else ''})"


GRID = (
    (1, 1000, 32, 32),
    (1, 1000, 128, 128),
    (16, 113, 128, 128),
    (32, 128, 256, 256),
    (64, 100, 128, 512),
    (8, 256, 1024, 1024),
    (32, 128, 256, 256, True),
)


class Data(NamedTuple):
    """Weights, inputs, and the random cotangents of `ys` and of every field of the last state."""

    params: Any
    xs: np.ndarray  # (time, batch, input)
    lengths: np.ndarray | None  # (batch,)
    dys: np.ndarray
    dlast: tuple[np.ndarray, ...]


def draw(case: Case, seed: int = 0) -> Data:
    params = jaxlstm.init(
        jax.random.key(seed), getattr(jaxlstm, case.cell), case.input, case.hidden,
        dtype=jnp.float32, scheme="torch",
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    fields = len(params.cell.state._fields)
    lengths = None
    if case.masked:
        lengths = rng.integers(1, case.time + 1, case.batch).astype(np.int32)
        lengths[0] = case.time
    return Data(
        params,
        normal(case.time, case.batch, case.input),
        lengths,
        normal(case.time, case.batch, case.hidden),
        tuple(normal(case.batch, case.hidden) for _ in range(fields)),
    )


def flops(case: Case) -> int:
    """Of the matrix products of one forward pass; backward takes twice as many."""
    return 2 * case.batch * case.time * GATES[case.cell] * case.hidden * (case.input + case.hidden)
