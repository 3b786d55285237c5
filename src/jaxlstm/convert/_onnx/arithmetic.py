"""Operators of ONNX that compute with constants, as those that make weights of small integers."""

import math
import operator
from collections.abc import Callable

import numpy as np
from jaxtyping import ArrayLike

from .fold import STRUCTURE
from .graph import Op
from .known import (
    Known,
    Length,
    Rule,
    Size,
    Unknown,
    axes_of,
    charge,
    known,
    meet,
    plain,
    stored_shape,
)


def pointwise(f: Callable[..., object]) -> Callable[..., Known]:
    def rule(op: Op, *args: Known) -> Known:
        if op.version < 7 and op.attributes.get("broadcast") and len(args) == 2:
            a, b = args  # before opset 7, the second lies along axes of the first from `axis` on
            at = op.attributes.get("axis", len(a.shape) - len(b.shape)) % (len(a.shape) or 1)
            after = (1,) * (len(a.shape) - at - len(b.shape))
            args = a, Known(b.array.reshape(b.array.shape + after), b.shape + after)
        shape = meet(*(k.shape for k in args))
        charge(op, math.prod(stored_shape(shape)) * max(k.array.dtype.itemsize for k in args))
        kinds = {k.array.dtype for k in args if k.array.dtype not in (object, bool)}
        if len(kinds) > 1:
            raise ValueError(f"the dtypes {sorted(map(str, kinds))} differ")
        with np.errstate(all="ignore"):
            made = np.asarray(f(*(k.array for k in args)))
        floats = [k for k in kinds if k.kind != "b"]
        if made.dtype.kind == "f" and floats and floats[0] != made.dtype:
            made = made.astype(floats[0])
        return known(made)._replace(shape=shape)

    return rule


def divided(a: np.ndarray, b: np.ndarray) -> ArrayLike:
    if a.dtype.kind == "f":
        return a / b
    if a.dtype == object or b.dtype == object:
        raise Unknown("a size is divided")
    if not b.all():
        raise ValueError("a whole number is divided by zero")
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


def equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(_equal, 2, 1)(a, b), bool)


def _equal(a: Length, b: Length) -> bool:
    if not isinstance(a, Size) and not isinstance(b, Size):
        return bool(a == b)
    if a is b:
        return True
    if any(not isinstance(n, Size) and n < 0 for n in (a, b)):
        return False  # a size is never negative
    raise Unknown("whether two sizes are equal is known only when the model runs")


def scaled(op: Op, x: np.ndarray, a: np.ndarray, what: str) -> np.ndarray:
    """A scale or a zero point, as it lies along the array: one, one a row, or one a block."""
    block, axis = op.attributes.get("block_size", 0), op.attributes.get("axis", 1)
    if a.size == 1 and not block:
        return a.reshape(())
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"there is no axis {axis}")
    axis %= x.ndim
    if block:
        charge(op, x.size * 4)
        if a.ndim != x.ndim or a.shape[axis] * block < x.shape[axis] or block < 0:
            raise ValueError(f"{what} of shape {a.shape} are not of blocks of {block}")
        index = np.arange(x.shape[axis]) // block
        return np.take(a, index, axis)
    if a.shape != (x.shape[axis],):
        raise ValueError(f"{what} of shape {a.shape} are not one for each of {x.shape[axis]}")
    return a.reshape((-1,) + (1,) * (x.ndim - axis - 1))


def dequantized(
    op: Op, x: np.ndarray, scale: np.ndarray | None, zero: np.ndarray | None = None
) -> np.ndarray:
    if scale is None or "float" not in str(scale.dtype):
        raise ValueError("its scale is missing, or of no floating dtype")
    charge(op, x.size * 16)
    wide = np.float64 if scale.dtype == np.float64 else np.float32
    made = x.astype(wide)
    if zero is not None:
        made = made - scaled(op, x, zero, "zero points").astype(wide)
    return (made * scaled(op, x, scale, "scales").astype(wide)).astype(scale.dtype)


def quantized(
    op: Op, x: np.ndarray, scale: np.ndarray | None, zero: np.ndarray | None = None
) -> np.ndarray:
    to = np.dtype(np.uint8) if zero is None else zero.dtype
    if scale is None or to.kind not in "iu" or "output_dtype" in op.attributes:
        raise ValueError("its scale is missing, or it makes no plain whole numbers")
    charge(op, x.size * 16)
    with np.errstate(all="ignore"):
        made = np.rint(x.astype(np.float32) / scaled(op, x, scale, "scales").astype(np.float32))
    made = made + (0 if zero is None else scaled(op, x, zero, "zero points").astype(np.float32))
    return np.clip(made, np.iinfo(to).min, np.iinfo(to).max).astype(to)


def matmul(op: Op, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if min(a.ndim, b.ndim) < 1 or a.dtype != b.dtype:
        raise ValueError("its inputs are no matrices of one dtype")
    rows = math.prod(a.shape[:-1])
    columns = math.prod(b.shape[:-2]) * (b.shape[-1] if b.ndim > 1 else 1)
    charge(op, rows * columns * a.dtype.itemsize)
    return a @ b


def gemm(op: Op, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    attributes = op.attributes
    a, b = (m.T if attributes.get(k) else m for m, k in ((a, "transA"), (b, "transB")))
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError("its inputs are no matrices")
    made = matmul(op, a, b) * np.asarray(attributes.get("alpha", 1.0), a.dtype)
    return made if c is None else made + c * np.asarray(attributes.get("beta", 1.0), a.dtype)


def power(op: Op, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    charge(op, math.prod(np.broadcast_shapes(a.shape, b.shape)) * 8)
    with np.errstate(all="ignore"):
        return (a**b).astype(a.dtype)


def several(f: Callable[..., object]) -> Callable[..., Known]:
    """An operator of any number of inputs, two by two."""
    two = pointwise(f)

    def rule(op: Op, *args: Known) -> Known:
        made = args[0]
        for k in args[1:]:
            made = two(op, made, k)
        return made

    return rule


def reduced(f: Callable[..., ArrayLike], since: int = 18) -> Rule:
    @plain
    def rule(op: Op, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        over_axes = axes_of(op, None if axes is None else known(axes), since, x.ndim)
        if not over_axes and op.attributes.get("noop_with_empty_axes"):
            return x
        charge(op, x.nbytes)
        over = tuple(over_axes) if over_axes else None
        made = f(x, axis=over, keepdims=bool(op.attributes.get("keepdims", 1)))
        return np.asarray(made, x.dtype)

    return rule


def stretch(op: Op, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    one, two, by = (np.asarray(n).item() for n in (start, limit, delta))
    count = max(math.ceil((two - one) / by), 0)
    charge(op, count * 8)
    return (one + np.arange(count) * by).astype(start.dtype)


def where(condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if condition.dtype != bool:
        raise ValueError("its condition is no truth value")
    return np.where(condition, a, b)


UNARY = {"Abs": np.abs, "Exp": np.exp, "Log": np.log, "Neg": np.negative, "Not": np.logical_not}
UNARY |= {"Reciprocal": lambda a: 1 / a, "Sqrt": np.sqrt, "Tanh": np.tanh}
UNARY |= {"Relu": lambda a: np.maximum(a, 0), "Sigmoid": lambda a: 1 / (1 + np.exp(-a))}
BINARY = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": divided}
BINARY |= {"Equal": equal, "Where": where}
SEVERAL = {"Max": np.maximum, "Min": np.minimum, "Sum": operator.add}
REDUCED = {
    "ReduceL1": lambda x, **k: np.abs(x).sum(**k),
    "ReduceL2": lambda x, **k: np.sqrt(np.square(x).sum(**k)),
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSumSquare": lambda x, **k: np.square(x).sum(**k),
}
RULES: dict[str, Rule] = {
    **STRUCTURE,
    **{name: pointwise(f) for name, f in (UNARY | BINARY).items()},
    **{name: several(f) for name, f in SEVERAL.items()},
    **{name: reduced(f) for name, f in REDUCED.items()},
    "ReduceSum": reduced(np.sum, 13),
    "DequantizeLinear": plain(dequantized),
    "Gemm": plain(gemm),
    "MatMul": plain(matmul),
    "Pow": plain(power),
    "QuantizeLinear": plain(quantized),
    "Range": plain(stretch),
}
