"""Axes through the operators of ONNX that move, join and part them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import PyTree

from .graph import Op, Ref
from .known import Length, Size

SHAPING = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


class Axes(NamedTuple):
    """The axes of a value, as those of the value that it was shaped from.

    Each is made of some axes of `source`, joined; those of length 1 are left out.  None is a
    value of which not even the number of axes is known.
    """

    source: Ref
    groups: tuple[tuple[int, ...], ...] | None


def shaped(
    op: Op,
    groups: tuple[tuple[int, ...], ...],
    given: list[Length] | None,
    size: Callable[[int], Length],
) -> tuple[tuple[int, ...], ...] | None:
    """The axes after an operator that moves, joins or parts axes; None if there is no saying."""
    rank = len(groups)
    if op.kind in ("Identity", "Dropout"):
        return groups
    if op.kind == "Transpose":
        perm = op.attributes.get("perm", [*reversed(range(rank))])
        return tuple(groups[n] for n in perm) if sorted(perm) == [*range(rank)] else None
    if op.kind == "Flatten":
        at = op.attributes.get("axis", 1)
        at += rank * (at < 0)
        return sum(groups[:at], ()), sum(groups[at:], ())
    if op.kind == "Reshape":
        given = op.attributes.get("shape") if op.version < 5 else given
        zeros = bool(op.attributes.get("allowzero", 0))
        return None if given is None else regrouped(groups, given, size, zeros)
    axes: PyTree = op.attributes.get("axes") if op.version < 13 else given
    if any(isinstance(n, Size) for n in axes or ()):
        return None
    if op.kind == "Squeeze":
        if axes is None:
            return tuple(group for group in groups if group)
        gone = {n % rank for n in axes if -rank <= n < rank}
        if len(gone) < len(axes) or any(groups[n] for n in gone):
            return None
        return tuple(group for n, group in enumerate(groups) if n not in gone)
    full = rank + len(axes or ())
    new = {n % full for n in axes or () if -full <= n < full}
    rest = iter(groups)
    if len(new) < len(axes or ()):
        return None
    return tuple(() if n in new else next(rest) for n in range(full))


def regrouped(
    groups: tuple[tuple[int, ...], ...],
    target: Sequence[Length],
    size: Callable[[int], Length],
    zeros: bool,
) -> tuple[tuple[int, ...], ...] | None:
    """The axes after a `Reshape`: their order stays, and `target` says where each new one ends."""
    rest = [axis for group in groups for axis in group]
    if any(size(axis) == 0 for axis in rest) or (zeros and 0 in target):
        return None
    found: list[tuple[int, ...] | None] = [None] * len(target)
    for back in (False, True):  # from the front as far as lengths are known, then from the back
        for i in reversed(range(len(target))) if back else range(len(target)):
            if found[i] is not None:
                continue
            n = target[i]
            if n == 0:
                taken = groups[i] if i < len(groups) else None
            else:
                taken = _taken(rest[::-1] if back else rest, n, size)
                taken = taken if taken is None or not back else taken[::-1]
            if taken is None:
                break
            at = len(rest) - len(taken) if back else 0
            if tuple(rest[at : at + len(taken)]) != tuple(taken):
                return None
            found[i] = tuple(taken)
            del rest[at : at + len(taken)]
    if None in found:
        found[found.index(None)] = tuple(rest)
        rest = []
    return None if rest or None in found else tuple(group for group in found if group is not None)


def _taken(rest: Sequence[int], n: Length, size: Callable[[int], Length]) -> tuple[int, ...] | None:
    """The axes next in order that make up a length; None where that is not known."""
    if isinstance(n, Size):
        return (rest[0],) if rest and size(rest[0]) is n else None
    product, count = 1, 0
    while product < n and count < len(rest):
        one = size(rest[count])
        if isinstance(one, Size):
            return None
        product, count = product * one, count + 1
    return tuple(rest[:count]) if product == n else None
