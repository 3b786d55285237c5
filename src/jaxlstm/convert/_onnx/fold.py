"""Operators of ONNX that arrange constants: what a graph makes of its tensors before it runs."""

import math

import numpy as np

from .graph import Op
from .known import (
    OPEN,
    Known,
    Length,
    Rule,
    Size,
    Unknown,
    along,
    axes_of,
    charge,
    fixed,
    is_open,
    known,
    meet,
    numbers,
    reshaped,
    stored_shape,
    whole,
)


def spread(op: Op, k: Known, shape: tuple[Length, ...]) -> Known:
    """A constant repeated over a larger shape."""
    charge(op, math.prod(stored_shape(shape)) * k.array.dtype.itemsize)
    return Known(np.broadcast_to(k.array, stored_shape(shape)), shape)


def transpose(op: Op, k: Known) -> Known:
    perm = op.attributes.get("perm", [*reversed(range(len(k.shape)))])
    if sorted(perm) != [*range(len(k.shape))]:
        raise ValueError(f"`perm` is {perm}, of {len(k.shape)} axes")
    return Known(k.array.transpose(perm), tuple(k.shape[n] for n in perm))


def squeeze(op: Op, k: Known, axes: Known | None = None) -> Known:
    over = axes_of(op, axes, 13, len(k.shape))
    if over is None and any(isinstance(n, Size) for n in k.shape):
        raise Unknown("which axes are of length 1 is known only when the model runs")
    over = [i for i, n in enumerate(k.shape) if n == 1] if over is None else over
    if any(k.shape[fixed(k, n)] != 1 for n in over):
        raise ValueError(f"the axes {over} of {k.shape} are not all of length 1")
    return reshaped(k, tuple(n for i, n in enumerate(k.shape) if i not in over))


def unsqueeze(op: Op, k: Known, axes: Known | None = None) -> Known:
    count = len(op.attributes.get("axes", ()) if op.version < 13 else whole(axes))
    over = axes_of(op, axes, 13, len(k.shape) + count) or []
    rest = iter(k.shape)
    return reshaped(k, tuple(1 if i in over else next(rest) for i in range(len(k.shape) + count)))


def reshape(op: Op, k: Known, shape: Known | None = None) -> Known:
    requested = op.attributes.get("shape") if op.version < 5 else numbers(shape)
    if requested is None or len(requested) > 64:
        raise ValueError("the shape is missing, or longer than arrays have axes")
    zeros = op.attributes.get("allowzero", 0)
    target = [k.shape[i] if n == 0 and not zeros else n for i, n in enumerate(requested)]
    sizes = [n for n in k.shape if isinstance(n, Size)]
    if not sizes and not any(isinstance(n, Size) for n in target):
        return known(k.array.reshape([n for n in target if isinstance(n, int)]))
    # One unknown size keeps its place: what lies before and behind it is only regrouped.
    if len(sizes) != 1 or sum(isinstance(n, Size) for n in target) > 1:
        raise Unknown("several axes of unknown length are reshaped")
    at = [i for i, n in enumerate(target) if n is sizes[0] or n == -1]
    at = [i for i in at if target[i] is sizes[0]] or at
    before = math.prod(stored_shape(k.shape[: k.shape.index(sizes[0])]))
    if len(at) != 1:
        raise Unknown("an axis of unknown length is reshaped")
    parts = []
    for part, total in (
        (target[: at[0]], before),
        (target[at[0] + 1 :], k.array.size // max(before, 1)),
    ):
        fixed_sizes = [n for n in part if isinstance(n, int)]
        rest = math.prod(n for n in fixed_sizes if n != -1)
        parts.append([total // max(rest, 1) if n == -1 else n for n in fixed_sizes])
        if len(fixed_sizes) < len(part) or math.prod(parts[-1]) != total:
            raise Unknown("an axis of unknown length is reshaped with others")
    return reshaped(k, (*parts[0], sizes[0], *parts[1]))


def flatten(op: Op, k: Known) -> Known:
    at = op.attributes.get("axis", 1)
    if not -len(k.shape) <= at <= len(k.shape) or k.array.shape != k.shape:
        raise Unknown("it has no known shape")
    at += len(k.shape) * (at < 0)
    return known(k.array.reshape(math.prod(k.array.shape[:at]), -1))


def expand(op: Op, k: Known, shape: Known | None) -> Known:
    return spread(op, k, meet(k.shape, numbers(shape)))


def tile(op: Op, k: Known, repeats: Known | None) -> Known:
    times = numbers(repeats)
    if op.version < 6 or len(times) != len(k.shape):
        raise ValueError(f"{len(times)} repeats of {len(k.shape)} axes")
    shape, array = list(k.shape), k.array
    for axis, n in enumerate(times):
        if isinstance(n, Size) or isinstance(shape[axis], Size):
            if not (shape[axis] == 1 or (isinstance(n, int) and n == 1)):
                raise Unknown("an axis is repeated as often as only the data say")
            shape[axis] = n if shape[axis] == 1 else shape[axis]
        else:
            shape[axis] = shape[axis] * n
    charge(op, math.prod(stored_shape(shape)) * array.dtype.itemsize)
    array = np.tile(array, [1 if isinstance(n, Size) else n for n in times])
    return Known(array, tuple(shape))


def filled(op: Op, shape: Known | None) -> Known:
    value = op.attributes.get("value")
    one = np.zeros(1, np.float32) if value is None else op.scope.model.tensor(value, op.name)
    if one.size != 1:
        raise ValueError("its `value` is not one number")
    return spread(op, known(one.reshape(())), tuple(numbers(shape)))


def concat(op: Op, *args: Known) -> Known:
    axis = op.attributes.get("axis", 1 if op.version < 4 else None)
    if axis is None:
        raise ValueError("`axis` is missing")
    axis = {fixed(k, axis) for k in args}
    (at,) = axis  # arrays of several ranks have no such axis in common
    shapes = [(*k.shape[:at], 1, *k.shape[at + 1 :]) for k in args]
    whole_shape = meet(*shapes)
    total = sum(k.array.shape[at] for k in args)
    charge(
        op, math.prod(stored_shape(whole_shape)) * total * max(k.array.dtype.itemsize for k in args)
    )
    shape = [(*whole_shape[:at], k.array.shape[at], *whole_shape[at + 1 :]) for k in args]
    arrays = [np.broadcast_to(k.array, stored_shape(s)) for k, s in zip(args, shape)]
    kinds = {a.dtype for a in arrays if a.dtype != object}
    if len(kinds) > 1:
        raise ValueError(f"the dtypes {sorted(map(str, kinds))} differ")
    return along(Known(arrays[0], shape[0]), at, np.concatenate(arrays, at))


def split(op: Op, k: Known, sizes: Known | None = None) -> list[Known]:
    at = fixed(k, op.attributes.get("axis", 0))
    length, count = k.array.shape[at], op.attributes.get("num_outputs", len(op.outputs))
    parts = op.attributes.get("split") if op.version < 13 else sizes and whole(sizes)
    if parts is None:
        each = -(-length // max(count, 1))
        parts = [max(0, min(each, length - each * i)) for i in range(count)]
    if sum(parts) != length or min(parts, default=0) < 0 or len(parts) < len(op.outputs):
        raise ValueError(f"the parts {parts} of {length} are not those of {op.outputs}")
    ends = np.cumsum(parts)[:-1]
    return [along(k, at, a) for a in np.split(k.array, ends, at)]


def slice_(op: Op, k: Known, *given: Known | None) -> Known:
    if op.version < 10:
        operands = [op.attributes.get(name) for name in ("starts", "ends", "axes")]
    else:
        operands = [None if one is None else whole(one) for one in given]
    starts, ends, axes, steps = (*operands, *(None,) * (4 - len(operands)))
    if starts is None or ends is None:
        raise ValueError("`starts` or `ends` is missing")
    axes = axes or [*range(len(starts))]
    steps = steps or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ValueError("`starts`, `ends`, `axes` and `steps` do not fit each other")
    for start, end, axis, step in zip(starts, ends, axes, steps):
        if (start, step) == (0, 1) and end >= 2**31 - 1:
            continue  # all of an axis, of whatever length
        if is_open(k) and axis == 0 and step == 1 and 0 <= start <= end <= OPEN:
            k = known(k.array[start:end])
            continue
        at = fixed(k, axis)
        k = along(k, at, k.array[(slice(None),) * at + (slice(start, end, step),)])
    return k


def gather(op: Op, k: Known, indices: Known | None) -> Known:
    if is_open(k) and indices is not None and all(0 <= n < OPEN for n in whole(indices)):
        return known(k.array[indices.array])
    at = fixed(k, op.attributes.get("axis", 0))
    if (
        indices is None
        or indices.array.dtype.kind not in "iu"
        or indices.array.shape != indices.shape
    ):
        raise Unknown("its indices are not known")
    charge(op, k.array.nbytes // max(k.array.shape[at], 1) * indices.array.size)
    length = k.array.shape[at]
    if indices.array.size and not (-length <= indices.array.min() <= indices.array.max() < length):
        raise ValueError(f"its indices reach beyond the {length} that there are")
    made = np.asarray(np.take(k.array, indices.array, at))
    shape = (*k.shape[:at], *indices.shape, *k.shape[at + 1 :])
    return (known(made) if made.dtype == object else Known(made, shape))._replace(shape=shape)


def cast(op: Op, k: Known, like: Known | None = None) -> Known:
    if like is not None:
        to = like.array.dtype
    else:
        to = op.scope.model.onnx.helper.tensor_dtype_to_np_dtype(op.attributes["to"])
    if k.array.dtype == object:
        if to.kind not in "iu":
            raise Unknown("a size becomes more than a size")
        return k
    charge(op, k.array.size * to.itemsize)
    with np.errstate(all="ignore"):
        return Known(k.array.astype(to), k.shape)


def constant(op: Op) -> Known:
    attributes, model = op.attributes, op.scope.model
    if "value" in attributes:
        return known(model.tensor(attributes["value"], op.outputs[0]))
    kinds = {"value_float": np.float32, "value_int": np.int64}
    kinds |= {f"{name}s": dtype for name, dtype in kinds.items()}
    for name, dtype in kinds.items():
        if name in attributes:
            return known(np.asarray(attributes[name], dtype))
    raise ValueError(f"it has no value that is an array of numbers, only {sorted(attributes)}")


def identity(op: Op, k: Known) -> Known:
    return k


def dropout(op: Op, k: Known, ratio: Known | None = None, training: Known | None = None) -> Known:
    if drops(op, training):
        raise ValueError("it drops at random")
    return k


def drops(op: Op, training: Known | None) -> bool:
    """Whether a `Dropout` does what it does in training, in place of nothing."""
    if op.version < 7:
        return not op.attributes.get("is_test", 0)
    return training is not None and bool(training.array.any())


STRUCTURE: dict[str, Rule] = {
    "Cast": cast,
    "CastLike": cast,
    "Concat": concat,
    "Constant": constant,
    "ConstantOfShape": filled,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Identity": identity,
    "Reshape": reshape,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
