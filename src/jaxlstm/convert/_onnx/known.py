"""Constants of a graph of ONNX, some of whose sizes are known only when the model runs.

The initial states of a model are as often as not zeros, or one learned row, of as many rows as the
data have.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import PyTree

from .graph import Op

OPEN = 8  # the sizes that are kept of a shape whose own length is not known


class Size:
    """The length of an axis that is known only when the model runs; equal to itself alone."""

    def _other(self, _: object) -> "Size":
        return Size()

    def __mul__(self, other: object) -> "Size":
        return self if isinstance(other, int) and other == 1 else Size()

    __rmul__ = __mul__
    __add__ = __radd__ = __sub__ = __rsub__ = _other


Length: TypeAlias = int | Size


class Known(NamedTuple):
    """A constant; along an axis of unknown length, its array has length 1 and is repeated.

    Whole numbers that are made of unknown sizes are an array of objects.
    """

    array: np.ndarray
    shape: tuple[Length, ...]


Rule: TypeAlias = Callable[..., Known | list[Known]]  # of an operator: (op, *inputs)


class Unknown(ValueError):
    """A constant that would need a size that is known only when the model runs."""


def known(given: object) -> Known:
    a = np.asarray(given)
    if a.dtype == object and not any(isinstance(v, Size) for v in a.flat):
        a = a.astype(np.int64)
    return Known(a, a.shape)


def numbers(k: Known | None) -> list[Length]:
    """A short vector, such as axes or a shape."""
    if k is None:
        raise ValueError("an input is missing")
    if any(isinstance(n, Size) for n in k.shape) or k.array.ndim > 1 or k.array.dtype.kind == "f":
        raise Unknown("a list of whole numbers has no known length")
    return [v if isinstance(v, Size) else int(v) for v in k.array.reshape(-1)]


def whole(k: Known | None) -> list[int]:
    """The same, of known numbers."""
    found = numbers(k)
    sizes = [n for n in found if not isinstance(n, Size)]
    if len(sizes) < len(found):
        raise Unknown("a number depends on the size of the data")
    return sizes


def meeting(a: Length, b: Length) -> Length:
    """The length of an axis where two arrays meet."""
    if a is b or a == b or (isinstance(b, int) and b == 1):
        return a
    if (isinstance(a, int) and a == 1) or isinstance(a, Size):
        return b
    if isinstance(b, Size):
        return a
    raise ValueError(f"lengths {a} and {b} do not fit")


def meet(*shapes: Sequence[Length]) -> tuple[Length, ...]:
    rank = max(map(len, shapes))
    found: tuple[Length, ...] = (1,) * rank
    for shape in shapes:
        found = tuple(map(meeting, found, (1,) * (rank - len(shape)) + tuple(shape)))
    return found


def stored_shape(shape: Sequence[Length]) -> tuple[int, ...]:
    """The shape of the array in which such a constant is stored."""
    return tuple(1 if isinstance(n, Size) else n for n in shape)


def charge(op: Op, nbytes: int) -> None:
    """Counts what is computed: it must stay within a multiple of the size of the model."""
    op.scope.model.spend(nbytes)


def plain(f: Callable[..., PyTree]) -> Rule:
    """A function of arrays as it is, for constants whose shapes are all known."""

    def rule(op: Op, *args: Known | None) -> Known | list[Known]:
        for k in args:
            if k is not None and (k.array.dtype == object or k.array.shape != k.shape):
                raise Unknown("an array has a size that is known only when the model runs")
        made = f(op, *(None if k is None else k.array for k in args))
        return [known(a) for a in made] if isinstance(made, list) else known(made)

    return rule


def is_open(k: Known) -> bool:
    """Whether this is the shape of a value that has no known number of axes."""
    return k.array.dtype == object and len(k.shape) == 1 and isinstance(k.shape[0], Size)


def fixed(k: Known, axis: int) -> int:
    """An axis that is there and of known length, counted from the front."""
    if not -len(k.shape) <= axis < len(k.shape):
        raise ValueError(f"there is no axis {axis} of {len(k.shape)}")
    if isinstance(k.shape[axis], Size):
        raise Unknown("an axis has a length that is known only when the model runs")
    return axis % len(k.shape)


def along(k: Known, axis: int, array: np.ndarray) -> Known:
    """A constant of which one axis has changed its length."""
    shape = (*k.shape[:axis], array.shape[axis], *k.shape[axis + 1 :])
    return (known(array) if array.dtype == object else Known(array, shape))._replace(shape=shape)


def reshaped(k: Known, shape: tuple[Length, ...]) -> Known:
    return Known(k.array.reshape(stored_shape(shape)), shape)


def axes_of(op: Op, given: Known | None, since: int, rank: int) -> list[int] | None:
    """The axes, which stood among the attributes before they became an input."""
    over = op.attributes.get("axes") if op.version < since else given and whole(given)
    if over is None:
        return None
    if any(not -rank <= n < rank for n in over) or len({n % rank for n in over}) < len(over):
        raise ValueError(f"the axes {over} are not among {rank}, each once")
    return sorted(n % rank for n in over)
