"""Live parity: other frameworks beside ours, in an environment that has them.

Every module here imports its framework inside its functions, so that `make test`, which has
none of them, can still collect the tests that it does not run.
"""

import os

import jax
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")

MEASURED: dict[tuple[str, str], tuple[str, float]] = {}


def pytest_collection_modifyitems(items):
    for item in items:
        if "peers" in item.path.parts:
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def _their_promotion():
    """Other frameworks were not written for strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def measured():
    """Notes the largest relative difference for a framework and a cell."""

    def note(framework: str, cell: str, dtype: str, difference: float) -> None:
        before = MEASURED.get((framework, cell), (dtype, 0.0))[1]
        MEASURED[framework, cell] = (dtype, max(before, difference))

    return note


ROWS = ("lstm", "peephole_lstm", "coupled_input_lstm", "lstm_variant", "projected_lstm")
ROWS += ("gru", "gru_reset_before", "gru_variant", "gru_reset_before_variant", "mgu_reset_after")
ROWS += ("rnn", "rnn_relu", "rnn_variant")
COLUMNS = ("torch", "keras", "linen", "nnx", "haiku", "equinox", "ONNX Runtime")


def table() -> list[str]:
    """The numbers of the table in `docs/conversions.md`, and whatever else was measured."""
    columns = [c for c in COLUMNS if any(framework == c for framework, _ in MEASURED)]
    lines = [f"| cell | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    left = dict(MEASURED)
    for row in ROWS:
        found = [left.pop((column, row), None) for column in columns]
        if any(found):
            texts = [f"{f[1]:.1e} {f[0]}" if f else "" for f in found]
            lines.append(f"| {row} | {' | '.join(texts)} |")
    rest = [f"{' '.join(name)}: {worst:.1e} {dtype}" for name, (dtype, worst) in left.items()]
    return [*(lines if len(lines) > 2 else []), "", *sorted(rest)]


def pytest_terminal_summary(terminalreporter):
    if MEASURED:
        terminalreporter.section("largest difference, relative, with each framework")
        terminalreporter.write("\n".join([*table(), ""]))
