"""ONNX's own test runner, pointed at this library: the 18 cases of its recurrent operators."""

import re
import warnings

import pytest

pytest.importorskip("onnx")

with warnings.catch_warnings():  # it makes the cases of every operator, overflows among them
    warnings.simplefilter("ignore")
    import onnx.backend.test

    from jaxlstm.convert.onnx_backend import Backend

    CASES = onnx.backend.test.BackendTest(Backend, __name__).test_cases

OURS = re.compile(r"test_(lstm|gru|rnn|simple_rnn)_.*_cpu")
names = [name for case in CASES.values() for name in vars(case) if OURS.match(name)]
for case in CASES.values():
    for name in [name for name in vars(case) if name.startswith("test_") and name not in names]:
        delattr(case, name)
globals().update(CASES)


def test_there_are_18():
    assert len(names) == 18, names
