"""What a release says of itself is the same everywhere."""

import re
import tomllib

import jaxlstm
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = (ROOT / "CITATION.cff").read_text()


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/jaxlstm/__init__.py"
    assert f"\nversion: {jaxlstm.__version__}\n" in CITATION
    (kernels,) = PROJECT["project"]["optional-dependencies"]["kernels"]
    assert kernels.startswith(f"jaxlstm-kernels=={jaxlstm.__version__};")
    faq = (ROOT / "docs" / "faq.md").read_text()
    assert f"version = {{{jaxlstm.__version__}}}" in faq


def test_the_changelog_begins_with_what_is_not_released_or_with_this_version():
    (head, *_) = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    dated = re.fullmatch(r"(\S+) \((\d{4}-\d\d-\d\d)\)", head)
    assert head == "Unreleased" or (dated and dated[1] == jaxlstm.__version__)


def test_what_the_tests_read_is_in_the_source_distribution():
    kept = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = re.findall(r'(?:ROOT|parents\[\d\]|parent\.parent) / "([\w.]+)"', text)
    assert "docs" in named
    assert {name for name in named if not name.endswith(".md")} <= {*kept, "pyproject.toml"}


def test_the_page_of_citation_names_the_software_as_the_file_does():
    (title,) = re.findall(r'^title: "(.*)"$', CITATION, re.MULTILINE)
    assert title in (ROOT / "docs" / "faq.md").read_text()
