"""Checkpoints of training: a run that was killed resumes, and ends with the same weights."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..convert import load, save
from ..convert._extra import extra
from .text import Text


class Curve(NamedTuple):
    """What was measured in every step that is done, and now and then."""

    bits: list[float]
    seconds: list[float]
    held_out: list[tuple[int, float]]


class Checkpoint:
    """A folder, with a file for each run in it: another text or option is another run."""

    def __init__(self, folder: Path, every: float) -> None:
        extra("safetensors", "demo")
        self.folder, self.every = folder, every
        self.files: list[Path] = []

    def path(self, name: str) -> Path:
        """Where a file of these runs lies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files.append(self.folder / name)
        return self.files[-1]

    def of(self, name: str, text: Text, model: Any, *options: Any) -> "File":
        """The file of a run, named by all that its weights follow from."""
        made = hashlib.sha256(repr((name, text.split, options, jax.tree.structure(model))).encode())
        for a in (text.symbols, *jax.tree.leaves(model)):
            made.update(np.ascontiguousarray(a).data)
        return File(self.path(f"{name}-{made.hexdigest()[:16]}.safetensors"), self.every)

    def remove(self) -> None:
        """Removes the files of these runs, which are done."""
        for file in self.files:
            file.unlink(missing_ok=True)


class File:
    """The checkpoint of one run, written whole or not at all."""

    def __init__(self, path: Path, every: float) -> None:
        self.path, self.every, self.last = path, every, time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self.last >= self.every

    def save(self, model: Any, opt_state: Any, state: Any, curve: Curve) -> None:
        tree = {"model": model, "opt_state": opt_state, "state": state, "curve": json.dumps(curve)}
        save(self.path, tree, architecture=False)
        self.last = time.monotonic()

    def load(self, model: Any, opt_state: Any, state: Any) -> tuple[Any, Any, Any, Curve] | None:
        """What was saved, in trees like these; None where nothing was."""
        if not self.path.exists():
            return None
        like = {"model": model, "opt_state": opt_state, "state": state, "curve": ""}
        tree = load(self.path, like=like)
        bits, seconds, held_out = json.loads(tree["curve"])
        curve = Curve(bits, seconds, [(step, value) for step, value in held_out])
        return tree["model"], tree["opt_state"], tree["state"], curve
