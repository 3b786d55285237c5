"""`newton_report`: how `implementation="newton"` ran the layers of a network."""

import jax
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from . import _arguments
from ._apply import Precision
from ._node import Plan, Problem, State
from ._record import mirror, seen_by
from ._unroll import newton, scan
from ._unroll.newton import NewtonReport


def newton_report(
    params: PyTree,
    xs: Float[ArrayLike, "time *batch input"],
    state: State = None,
    *,
    mask: Bool[ArrayLike, "time *rows"] | None = None,
    reset: Bool[ArrayLike, "time *rows"] | None = None,
    key: ArrayLike | None = None,
    reverse: bool = False,
    axis: int = 0,
    precision: Precision = None,
) -> PyTree:
    """How `apply(params, xs, state, implementation="newton")` runs each layer.

    The arguments are those of `apply`.

    Returns:
        The tree of `params`, with a `NewtonReport` in place of each layer: `report.rounds` for
        one layer, `report.layers[1].forward.fell_back` for a bidirectional layer in a stack.  It is
        None for a layer that `newton` does not run; `jaxlstm.implementations` says why.  A node
        that runs more than once has a tuple of reports.

    Raises:
        TypeError, ValueError: as `apply`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    xs = jax.random.normal(jax.random.key(1), (1000, 3))
    report = jaxlstm.newton_report(params, xs)
    assert report.rounds < 20 and not report.fell_back
    ```
    """
    args = _arguments.arrays(params, xs, state, mask, reset, key, axis, None, precision)
    args = args.time_first(axis)
    plan = Plan(_arguments.flag("reverse", reverse))

    def look(problem: Problem, *_: int) -> tuple[Array, State, NewtonReport | None]:
        if newton.refusal(problem):
            return *scan.run(problem), None
        return newton.reported(problem)

    with _arguments.products(precision):
        return mirror(args.params, jax.jit(lambda args: seen_by(look, args, plan)[2])(args))
