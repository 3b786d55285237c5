"""The lines in the README and in the page on conversions that take a network from PyTorch."""

import pathlib
import re

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ("README.md", "docs/conversions.md")
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    if "import torch" in block or ", torch" in block
]


def test_there_are_such_lines():
    assert {page for page, _ in BLOCKS} == set(PAGES)


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_the_lines_run(page, block):
    jax.config.update("jax_enable_x64", False)
    exec(compile(block, page, "exec"), {})
