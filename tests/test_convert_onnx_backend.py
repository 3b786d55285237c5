"""ONNX's own test runner, pointed at this library: the 18 cases of its recurrent operators."""

import re
import warnings

import pytest

pytest.importorskip("onnx")

OF_ALL = ["defaults", "with_initial_bias", "batchwise", "reverse", "bidirectional"]
NAMES = [f"test_{kind}_{what}_cpu" for kind in ("lstm", "gru", "simple_rnn") for what in OF_ALL]
NAMES += [
    f"test_{name}_cpu" for name in ("lstm_with_peepholes", "gru_seq_length", "rnn_seq_length")
]


@pytest.fixture(scope="module")
def cases():
    """The runner's tests by name, each a method of a `unittest.TestCase`."""
    with warnings.catch_warnings():  # it makes the cases of every operator, overflows among them
        warnings.simplefilter("ignore")
        import onnx.backend.test

        from jaxlstm.convert.onnx_backend import Backend

        found = onnx.backend.test.BackendTest(Backend, __name__).test_cases.values()
    return {name: case for case in found for name in vars(case) if name.startswith("test_")}


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_what_onnx_expects(cases, name):
    getattr(cases[name](name), name)()


def test_these_are_all(cases):
    ours = re.compile(r"test_(lstm|gru|rnn|simple_rnn)_.*_cpu")
    assert set(filter(ours.match, cases)) == set(NAMES)
