"""The README: every block of Python runs as it stands, and what it points to is there."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
FOUND = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
BLOCKS = [block for block in FOUND if "torch," not in block]  # which `make test-peers` runs


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number):
    jax.config.update("jax_enable_x64", False)  # as a reader has it
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})


def test_there_are_blocks():
    assert len(BLOCKS) >= 4


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", TEXT)) <= targets
