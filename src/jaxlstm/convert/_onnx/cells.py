"""Operators of ONNX as cells: what their attributes mean, both ways."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxtyping import PyTree

from ..._cell import Cell
from ...cells import (
    coupled_input_lstm,
    gru,
    gru_reset_before,
    gru_reset_before_variant,
    gru_variant,
    lstm,
    lstm_variant,
    peephole_lstm,
    rnn,
    rnn_relu,
    rnn_variant,
)
from ...cells.activations import Named
from .._frameworks.table import Part, Table

# ONNX's name -> ours, and the numbers that it takes, with ONNX's defaults
ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "Relu": ("relu", {}),
    "Tanh": ("tanh", {}),
    "Sigmoid": ("sigmoid", {}),
    "Affine": ("affine", {"alpha": 1.0, "beta": 0.0}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
    "ScaledTanh": ("scaled_tanh", {"alpha": 1.0, "beta": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "Elu": ("elu", {"alpha": 1.0}),
    "Softsign": ("softsign", {}),
    "Softplus": ("softplus", {}),
}
LETTERS = {"RNN": "h", "GRU": "zrn", "LSTM": "iofg"}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
OPTIONS = {
    "RNN": ("activation",),
    "GRU": ("gate", "candidate"),
    "LSTM": ("gate", "candidate", "output"),
}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
COMMON = {
    "activation_alpha": list,
    "activation_beta": list,
    "activations": list,
    "clip": float,
    "direction": str,
    "hidden_size": int,
}
PEEPHOLES = ("pi", "po", "pf")  # in the order of `P`


class Spec(NamedTuple):
    """What the attributes of an operator say of one direction."""

    operator: str
    activations: tuple[Named, ...]
    clip: float | None = None
    reset_after: bool = False
    coupled: bool = False


PLAIN: dict[Cell, Cell] = {
    gru_variant: gru,
    gru_reset_before_variant: gru_reset_before,
    lstm_variant: lstm,
    rnn_variant: rnn,
    rnn_variant(activation="relu"): rnn_relu,
    lstm_variant(peephole=True): peephole_lstm,
}


def checked(
    operator: str, attributes: Mapping[str, object], name: str, version: int
) -> dict[str, PyTree]:
    """The attributes, each of which is one that this operator has, of its type and range."""
    flags = {"GRU": ["linear_before_reset"], "LSTM": ["input_forget"]}.get(operator, [])
    flags += ["layout"] if version >= 14 else []
    flags += ["output_sequence"] if version < 7 else []  # whether `Y` is an output: no equation
    kinds = COMMON | dict.fromkeys(flags, int)
    settings: dict[str, PyTree] = {"direction": "forward", "layout": 0, **attributes}
    if settings["direction"] == "foward" and version < 7:  # the default of a GRU of opset 1
        settings["direction"] = "forward"
    for k, value in attributes.items():
        if k not in kinds:
            raise ValueError(
                f"`{name}`: a {operator} of opset {version} has the attributes {sorted(kinds)}; "
                f"got `{k}`."
            )
        inner = {"activations": str}.get(k, float)
        fits = type(value) is kinds[k] and not (
            isinstance(value, list) and any(type(one) is not inner for one in value)
        )
        if not fits:
            expected = kinds[k].__name__
            raise ValueError(f"`{name}`: `{k}` must be of type {expected}; got {value!r}.")
        if k in flags and value not in (0, 1):
            raise ValueError(f"`{name}`: a {operator} has a {k} of 0 or 1; got {value}.")
    if settings["direction"] not in DIRECTIONS:
        raise ValueError(
            f"`{name}`: a {operator} has a direction of {list(DIRECTIONS)}; "
            f"got {settings['direction']!r}."
        )
    clip = settings.get("clip")
    if isinstance(clip, float) and not clip > 0:
        raise ValueError(f"`{name}`: `clip` must be positive; got {clip}.")
    if clip == float("inf"):
        del settings["clip"]
    return settings


def activations(
    operator: str, attributes: Mapping[str, PyTree], directions: int, where: str
) -> list[tuple[Named, ...]]:
    """The activations by direction; a number is taken by the next that needs one."""
    names = attributes.get("activations") or DEFAULTS[operator] * directions
    count = len(DEFAULTS[operator])
    if len(names) != count * directions:
        raise ValueError(
            f"`{where}`: `activations` of {operator} must be {count} for each of {directions} "
            f"directions; got {list(names)}."
        )
    given = {k: iter(attributes.get(f"activation_{k}") or ()) for k in ("alpha", "beta")}
    found = [_activation(name, given, where) for name in names]
    for k, rest in given.items():
        if any(left := list(rest)):  # some writers put zeros where no number is taken
            raise ValueError(
                f"`{where}`: no activation of {list(names)} takes the `activation_{k}` {left}."
            )
    return [tuple(found[k : k + count]) for k in range(0, len(found), count)]


def _activation(name: str, given: Mapping[str, Iterator[float]], where: str) -> Named:
    title = {known.lower(): known for known in ACTIVATIONS}.get(name.lower())
    if title is None:
        raise ValueError(
            f"`{where}`: an activation must be one of {sorted(ACTIVATIONS)}; got {name!r}."
        )
    ours, numbers = ACTIVATIONS[title]
    values = [next(given[k], default) for k, default in numbers.items()]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"`{where}`: the numbers of an activation are finite; got {values}.")
    return ours if values == list(numbers.values()) else (ours, *values)


def cell_of(spec: Spec, peephole: bool) -> Cell:
    """The cell that computes the operator, the plainest of its kind."""
    functions = dict(zip(OPTIONS[spec.operator], spec.activations))
    more: dict[str, object] = {"clip": spec.clip}
    if spec.operator == "LSTM":
        base = coupled_input_lstm if spec.coupled else lstm_variant
        more["peephole"] = peephole
    elif spec.operator == "GRU":
        base = gru_variant if spec.reset_after else gru_reset_before_variant
    else:
        base = rnn_variant
    cell = base(**functions, **more)
    return PLAIN.get(cell, cell)


def spec_of(cell: Cell) -> Spec:
    """What attributes make an operator compute this cell."""
    variant = {plain: cell for cell, plain in PLAIN.items()}.get(cell, cell)
    options: dict[str, PyTree] = {**variant.defaults(), **dict(variant.options)}
    base = variant(**variant.defaults())
    operators: dict[Cell, str] = {
        lstm_variant: "LSTM",
        coupled_input_lstm: "LSTM",
        gru_variant: "GRU",
        gru_reset_before_variant: "GRU",
        rnn_variant: "RNN",
    }
    operator = operators.get(base)
    known = {name for name, _ in ACTIVATIONS.values()}
    functions = [options[k] for k in OPTIONS.get(operator or "", ())]
    unknown = [a for a in functions if (a if isinstance(a, str) else a[0]) not in known]
    if operator is None or unknown or options.get("cell_clip") is not None:
        why = f"they have no activation {unknown}" if unknown else "their equations are others"
        raise ValueError(
            f"ONNX has no operator that computes `{cell!r}`. It has RNN, GRU and LSTM, and {why}."
        )
    after, coupled = base == gru_variant, base == coupled_input_lstm
    return Spec(operator, tuple(functions), options["clip"], after, coupled)


def attributes_of(specs: Sequence[Spec]) -> dict[str, PyTree]:
    """The attributes of an operator of one or two directions."""
    titles = {ours: title for title, (ours, _) in ACTIVATIONS.items()}
    names: list[str] = []
    given: dict[str, list[float]] = {"alpha": [], "beta": []}
    for one in specs:
        for function in one.activations:
            ours, *numbers = (function,) if isinstance(function, str) else function
            names.append(titles[str(ours)])
            defaults = ACTIVATIONS[names[-1]][1]
            full = [*numbers, *list(defaults.values())[len(numbers) :]]
            for k, value in zip(defaults, full, strict=True):
                given[k].append(float(value))
    operator = specs[0].operator
    found: dict[str, PyTree] = {}
    if names != DEFAULTS[operator] * len(specs):
        found["activations"] = names
        found |= {f"activation_{k}": values for k, values in given.items() if values}
    if specs[0].clip is not None:
        found["clip"] = float(specs[0].clip)
    if operator == "GRU":
        found["linear_before_reset"] = int(specs[0].reset_after)
    if specs[0].coupled:
        found["input_forget"] = 1
    return found


def table(spec: Spec, cell: Cell) -> Table:
    """How ONNX stores the cell: gates are rows, and there are two biases."""
    letters = LETTERS[spec.operator]
    inside = "n" if spec.reset_after else ""
    parts = (
        Part("W", "w", letters),
        Part("R", "r", letters),
        Part("Wb", "b", letters),
        Part("Rb", "d", letters),
    )
    return Table(cell, parts, rows=True, inside=inside)
