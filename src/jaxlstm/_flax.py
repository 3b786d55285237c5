"""Flax's serialization of networks and states: `flax.serialization.to_bytes`, `to_state_dict`.

Flax knows NamedTuples; cells and static values must be registered with it.  Flax is never imported
here: they are registered when a network is made in a program that has imported it.
"""

import sys

from ._cell import Gated, General, Linear
from ._containers import Static
from ._types import T


def _written(static: object) -> dict[str, object]:
    """Its name, in a dict without arrays: a state dict stays a tree of arrays."""
    return {repr(static): {}}


def _restored(static: T, state: object) -> T:
    if state != _written(static):
        found = [*state] if isinstance(state, dict) else state
        raise ValueError(
            f"a network with {static!r} cannot take the weights of one with {found}: it would "
            "compute something else. Restore into a network of the same architecture."
        )
    return static


def register() -> None:
    """Registers cells and static values with Flax, if the program has imported it."""
    flax = sys.modules.get("flax.serialization")
    known = getattr(flax, "is_serializable", None)  # None while Flax is being imported
    if flax is None or known is None or known(Static):
        return
    for cls in (Gated, General, Linear, Static):
        flax.register_serialization_state(cls, _written, _restored)
