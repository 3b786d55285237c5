"""The text, as numbers: vocabulary, entropies, and the streams that are read in parallel."""

import dataclasses
import math
from pathlib import Path

import numpy as np


class TextError(ValueError):
    """A text that cannot be learned from; the message is for the person who named it."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text, its characters in order of their code, and where the held-out part starts."""

    name: str
    vocabulary: str
    symbols: np.ndarray  # (characters,) of indices into the vocabulary
    split: int  # what stands from here on is held out

    @property
    def train(self) -> np.ndarray:
        return self.symbols[: self.split]

    @property
    def held_out(self) -> np.ndarray:
        return self.symbols[self.split :]

    def decode(self, symbols: np.ndarray) -> str:
        return "".join(self.vocabulary[i] for i in symbols)


def load(path: str | None, held_out: float = 0.1) -> Text:
    """The text of a file, or Python's own language reference, which every Python carries."""
    if path is None:
        from pydoc_data.topics import topics

        name, text = "Python's language reference", "\n".join(topics[k] for k in sorted(topics))
    else:
        name, text = path, _read(Path(path))
    vocabulary = "".join(sorted(set(text)))
    index = {c: i for i, c in enumerate(vocabulary)}
    symbols = np.fromiter((index[c] for c in text), np.int32, len(text))
    return Text(name, vocabulary, symbols, round(len(text) * (1 - held_out)))


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise TextError(f"{path} is not UTF-8 text: {e.reason} at byte {e.start}.") from None
    except OSError as e:
        raise TextError(f"{path} cannot be read: {e.strerror or e}.") from None
    if not text:
        raise TextError(f"{path} is empty.")
    return text


def check_length(text: Text, batch: int, chunk: int) -> None:
    """Both parts must hold one chunk for every stream."""
    least = batch * (chunk + 1)
    for part, n in (("training", len(text.train)), ("held-out", len(text.held_out))):
        if n < least:
            raise TextError(
                f"{text.name} is too short: its {part} part has {n} characters, and {batch} "
                f"streams of {chunk} steps need {least}. Name a longer text, or pass a smaller "
                "--batch or --chunk."
            )


def streams(symbols: np.ndarray, batch: int) -> np.ndarray:
    """`(time, batch)`: the text cut into as many contiguous parts, side by side."""
    time = len(symbols) // batch
    return symbols[: time * batch].reshape(batch, time).T


def entropies(symbols: np.ndarray) -> tuple[float, float]:
    """Of a character, and of one given the one before it, in bits, as counted in the text."""
    counts = np.bincount(symbols)
    pairs = np.unique(symbols[:-1].astype(np.int64) << 32 | symbols[1:], return_counts=True)[1]
    firsts = np.bincount(symbols[:-1])
    return _entropy(counts), _entropy(pairs) - _entropy(firsts)


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum() / math.log(2))
