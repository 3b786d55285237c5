"""Files outlive versions: every golden loads, and so do files without later fields."""

import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert, wrappers
from networks import network
from test_convert_files import equal, rewritten

GOLDENS = pathlib.Path(__file__).parent / "goldens"
FILES = sorted(GOLDENS.glob("*.safetensors"))
LAYER = network(jaxlstm.lstm)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_golden_loads(path):
    assert jax.tree.leaves(convert.load(path))


def test_the_golden_of_this_version_is_its_network():
    made = runpy.run_path(str(GOLDENS / "make_files.py"))["network"]()
    found = convert.load(GOLDENS / f"jaxlstm_{jaxlstm.__version__}.safetensors")
    equal(found, made)
    xs = jnp.asarray(np.linspace(-1, 1, 21).reshape(7, 3), jnp.float32)
    for one, two in zip(*(jax.tree.leaves(jaxlstm.apply(p, xs)) for p in (found, made))):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        (jaxlstm.Stack((LAYER,)), ["dropout"]),
        (wrappers.layer_norm(LAYER), ["epsilon"]),
        (LAYER, ["recurrent_bias", "weights"]),
    ],
)
def test_a_field_with_a_default_may_be_missing(params, fields, tmp_path):
    convert.save(tmp_path / "a", params)

    def remove(header, architecture):
        for name in fields:
            del architecture["fields"][name]

    rewritten(tmp_path / "a", remove)
    equal(convert.load(tmp_path / "a"), params)


def test_a_field_without_a_default_may_not(tmp_path):
    convert.save(tmp_path / "a", jaxlstm.Stack((LAYER,)))
    rewritten(tmp_path / "a", lambda header, a: a["fields"].pop("layers") and None)
    with pytest.raises(convert.FileError, match="a Stack with the fields"):
        convert.load(tmp_path / "a")


def cell(architecture):
    return architecture["fields"]["cell"]


NEWER = {
    "a field": (lambda a: a["fields"].update(later=None), "a Layer with the fields"),
    "a node": (lambda a: a.update(node="Later"), "a node of"),
    "a cell": (lambda a: cell(a).update(cell="later"), "a cell of jaxlstm"),
    "an option": (lambda a: cell(a).update(options=[["later", 1]]), "options of lstm"),
    "other gates": (lambda a: cell(a).update(gates="ifog"), "lstm with the gates 'ifgo'"),
}


@pytest.mark.parametrize("name", NEWER)
def test_what_a_newer_version_wrote_is_refused_by_name(name, tmp_path):
    change, expected = NEWER[name]
    for writer in ("99.1", jaxlstm.__version__):
        convert.save(tmp_path / "a", LAYER)

        def rewrite(header, architecture, writer=writer):
            header["__metadata__"]["jaxlstm"] = writer
            change(architecture)

        rewritten(tmp_path / "a", rewrite)
        with pytest.raises(convert.FileError, match=expected) as error:
            convert.load(tmp_path / "a")
        assert ("written by 99.1: load it with that version" in str(error.value)) == (
            writer == "99.1"
        )


def test_cells_of_files_without_gates(tmp_path):
    convert.save(tmp_path / "a", LAYER)
    assert json.dumps("ifgo") in (tmp_path / "a").read_bytes().decode("latin1").replace("\\", "")
    rewritten(tmp_path / "a", lambda header, a: cell(a).pop("gates") and None)
    equal(convert.load(tmp_path / "a"), LAYER)
