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


def table() -> list[str]:
    lines = ["| framework | cell | dtype | largest difference |", "|---|---|---|---|"]
    for (framework, cell), (dtype, difference) in sorted(MEASURED.items()):
        lines.append(f"| {framework} | {cell} | {dtype} | {difference:.1e} |")
    return lines


def pytest_terminal_summary(terminalreporter):
    if MEASURED:
        terminalreporter.section("largest difference, relative, with each framework")
        terminalreporter.write("\n".join([*table(), ""]))
