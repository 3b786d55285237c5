"""The voice detector of the package silero-vad: its front end in JAX, its LSTM in jaxlstm.

The package holds several trainings of one network: `silero_vad_16k.safetensors` is another than
`silero_vad.onnx` and the ONNX models like it.  Both are read here.
"""

import importlib.util
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm
from jaxlstm import convert

RATE, CHUNK, CONTEXT = 16000, 512, 64  # samples: a second, a step, and what a step sees again
NODE = "/model/decoder/rnn/LSTM"
VOWELS = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480)]


class Detector(NamedTuple):
    """Four convolutions over a spectrum, an LSTM, and one unit."""

    spectrum: jax.Array
    convolutions: list[tuple[jax.Array, jax.Array]]
    lstm: Any
    last: tuple[jax.Array, jax.Array]

    def features(self, chunks: jax.Array) -> jax.Array:
        """`(n, context + chunk)` samples to `(n, 128)` features."""
        x = jnp.pad(chunks, ((0, 0), (0, 64)), mode="reflect")[:, None]
        x = jax.lax.conv_general_dilated(x, self.spectrum, (128,), "VALID")
        x = jnp.hypot(x[:, :129], x[:, 129:])
        for (w, b), stride in zip(self.convolutions, (1, 2, 2, 1)):
            x = jax.lax.conv_general_dilated(x, w, (stride,), [(1, 1)])
            x = jax.nn.relu(x + b[None, :, None])
        return x[:, :, 0]

    def probability(self, h: jax.Array) -> jax.Array:
        w, b = self.last
        return jax.nn.sigmoid(jax.nn.relu(h) @ w[0, :, 0] + b[0])


def folder() -> pathlib.Path:
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"


def from_safetensors() -> Detector:
    from safetensors.numpy import load_file

    a = load_file(folder() / "silero_vad_16k.safetensors")
    convolutions = [(a[f"conv{k}.weight"], a[f"conv{k}.bias"]) for k in (1, 2, 3, 4)]
    lstm = convert.from_torch(a, prefix="lstm_cell")
    last = (a["final_conv.weight"], a["final_conv.bias"])
    return Detector(a["stft_conv.weight"], convolutions, lstm, last)


def model():
    import onnx

    return onnx.load(folder() / "silero_vad_16k_op15.onnx")


def from_onnx() -> Detector:
    import onnx

    a = {t.name: onnx.numpy_helper.to_array(t) for t in model().graph.initializer}
    name = "model.encoder.{}.reparam_conv.{}"
    convolutions = [(a[name.format(k, "weight")], a[name.format(k, "bias")]) for k in range(4)]
    lstm = convert.from_onnx(model(), node=NODE)
    last = (a["model.decoder.decoder.2.weight"], a["model.decoder.decoder.2.bias"])
    return Detector(a["model.stft.forward_basis_buffer"], convolutions, lstm, last)


def with_safetensors():
    """The package's ONNX model with the weights of its safetensors file."""
    import onnx
    from safetensors.numpy import load_file

    a = load_file(folder() / "silero_vad_16k.safetensors")
    names = {"model.decoder.decoder.2": "final_conv", "model.decoder.rnn": "lstm_cell"}
    names |= {f"model.encoder.{k}.reparam_conv": f"conv{k + 1}" for k in range(4)}
    names |= {"model.stft": "stft_conv"}
    changed = model()
    for tensor in changed.graph.initializer:
        stem, _, last = tensor.name.rpartition(".")
        last = "weight" if last == "forward_basis_buffer" else last
        array = a[f"{names[stem]}.{last}"]
        assert list(array.shape) == list(tensor.dims)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return changed


def vowel(rng: np.random.Generator, n: int) -> np.ndarray:
    """Pulses of a glottis through the resonances of a mouth."""
    t = np.arange(n) / RATE
    pitch = rng.uniform(100, 140) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(2, 5) * t) - 0.3 * t)
    pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0) + 0.02 * rng.normal(size=n)
    f = np.fft.rfftfreq(n, 1 / RATE)
    formants = zip(VOWELS[rng.integers(len(VOWELS))], (60, 80, 120), (1.0, 0.6, 0.3))
    gain = sum(a / (1 + ((f - at) / width) ** 2) for at, width, a in formants)
    y = np.fft.irfft(np.fft.rfft(pulses) * gain, n) * np.sqrt(np.hanning(n))
    return y / np.abs(y).max()


def speech(seconds: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A made-up voice with pauses, and where it speaks."""
    rng = np.random.default_rng(seed)
    wave, voiced = 0.002 * rng.normal(size=seconds * RATE), np.zeros(seconds * RATE, bool)
    at = RATE
    while at < len(wave) - 3 * RATE:
        start, end = at, at + int(rng.uniform(1, 3) * RATE)
        while at < end:
            n = int(rng.uniform(0.1, 0.25) * RATE)
            wave[at : at + n] += rng.uniform(0.2, 0.4) * vowel(rng, n)
            at += n + int(rng.uniform(0, 0.03) * RATE)
        voiced[start:at] = True
        at += int(rng.uniform(1.5, 3) * RATE)
    return wave.astype("float32"), voiced


def chunks(wave: np.ndarray) -> np.ndarray:
    """Steps of 512 samples, each with the 64 before it."""
    n = len(wave) // CHUNK
    padded = np.concatenate([np.zeros(CONTEXT, wave.dtype), wave[: n * CHUNK]])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK].copy()


def runtime(content: Any, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime says, chunk by chunk."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    state, probabilities, rate = np.zeros((2, 1, 128), "float32"), [], np.array(RATE)
    for chunk in x:
        y, state = session.run(None, {"input": chunk[None], "state": state, "sr": rate})
        probabilities.append(y[0, 0])
    return np.array(probabilities)


@jax.jit
def whole(detector: Detector, x: jax.Array) -> jax.Array:
    """All chunks in one pass."""
    ys, _ = jaxlstm.apply(detector.lstm, detector.features(x))
    return detector.probability(ys)


@jax.jit
def listen(detector: Detector, chunk: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    """One chunk, as it comes from a microphone."""
    y, state = jaxlstm.step(detector.lstm, detector.features(chunk[None])[0], state)
    return detector.probability(y), state


def streamed(detector: Detector, x: np.ndarray) -> np.ndarray:
    state, probabilities = detector.lstm.initial_state(()), []
    for chunk in x:
        p, state = listen(detector, chunk, state)
        probabilities.append(p)
    return np.array(probabilities)
