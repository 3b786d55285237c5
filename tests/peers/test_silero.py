"""A production voice detector: equal to the package's own model under ONNX Runtime."""

import jax
import numpy as np
import pytest

from . import silero


@pytest.fixture(scope="module")
def signal():
    wave, voiced = silero.speech(60)
    return silero.chunks(wave), voiced


@pytest.mark.parametrize("source", ["onnx", "safetensors"])
def test_a_minute_of_speech(source, signal, measured):
    x, voiced = signal
    if source == "onnx":
        detector = silero.from_onnx()
        expected = silero.runtime(str(silero.folder() / "silero_vad.onnx"), x)
    else:
        detector = silero.from_safetensors()
        expected = silero.runtime(silero.with_safetensors().SerializeToString(), x)
    detector = jax.tree.map(jax.numpy.asarray, detector)
    for how in (silero.whole, silero.streamed):
        probabilities = np.asarray(how(detector, x))
        assert probabilities.shape == expected.shape
        difference = float(np.max(np.abs(probabilities - expected)))
        measured("silero-vad", f"{source}, {how.__name__}", "float32", difference)
        assert difference < 1e-5
    share = voiced[: len(x) * silero.CHUNK].reshape(len(x), -1).mean(1)
    assert np.median(expected[share == 1]) > 0.9  # it hears the made-up voice
    assert np.median(expected[share == 0]) < 0.1
