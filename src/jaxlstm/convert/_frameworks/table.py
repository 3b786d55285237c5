"""What every framework shares: gates by letter, transposed, negated, joined, biases summed."""

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from ..._cell import Cell, Layer, shape_of
from ..._types import Shape
from ...cells import (
    gru,
    gru_reset_before,
    gru_reset_before_variant,
    gru_variant,
    lstm,
    lstm_variant,
    rnn,
    rnn_variant,
)
from .._arrays import array as array, device as device, one_dtype

ACTIVATIONS = {"gate", "candidate", "output", "activation"}  # the options that are activations


PLAIN: dict[Cell, Cell] = {
    lstm_variant: lstm,
    gru_variant: gru,
    gru_reset_before_variant: gru_reset_before,
    rnn_variant: rnn,
}


def plain(cell: Cell) -> Cell:
    """The cell with the usual activations, if its activations are all that is unusual in it."""
    chosen = {k: v for k, v in cell.defaults().items() if k in ACTIVATIONS}
    return PLAIN.get(cell(**chosen), cell) if chosen else cell


Rows: TypeAlias = dict[str, np.ndarray]  # of the gates, by letter


class Part(NamedTuple):
    """One array as a framework stores it.

    `roles` says what it holds: `w`, `r`, `b`, `d` (the recurrent bias), or two of them joined
    along the first axis, such as `wr`; or the name of one of the cell's further weights, for
    which `gates` is empty.  `gates` are its gates in the order of memory.
    """

    name: str
    roles: str
    gates: str = ""


class Table(NamedTuple):
    """How one framework stores one cell."""

    cell: Cell
    parts: tuple[Part, ...]
    rows: bool = False  # gates are the rows of a matrix: `(gates * hidden, input)`
    negated: str = ""  # the gates that the framework means the other way round
    added: tuple[tuple[str, float], ...] = ()  # what it adds to the bias of a gate when it runs
    inside: str = ""  # the gates whose recurrent bias stands inside a product with another gate
    always: bool = False  # it knows no layer without a bias
    sized: tuple[str, ...] = ()  # the options of the cell that are widths of the state
    free: bool = False  # it takes any activations, which are not among its weights
    hint: str = ""  # a pattern in the name of its module, where the arrays are any linear map's
    flat: bool = False  # cuDNN's memory: of each gate the rows of its matrix; biases in one row

    @property
    def names(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts)

    @property
    def required(self) -> frozenset[str]:
        biases = {part.name for part in self.parts if part.roles in ("b", "d", "bd")}
        return self.names - biases

    @property
    def biased(self) -> bool:
        return self.names != self.required

    def fits(self, cell: Cell) -> bool:
        """Whether this is the cell; widths are read from the weights."""
        cell = plain(cell) if self.free else PLAIN.get(cell, cell)
        known = cell.defaults().keys() & set(self.sized)
        return cell(**dict.fromkeys(known)) == self.cell if known else cell == self.cell

    def of(self, names: Collection[str]) -> "Table":
        """The table of a layer that has these arrays only, such as one without biases."""
        return self._replace(parts=tuple(part for part in self.parts if part.name in names))

    def holds(self, role: str) -> str:
        """The gates for which the framework stores this role."""
        return "".join(part.gates for part in self.parts if role in part.roles)


def each(name: str, roles: str, gates: str) -> tuple[Part, ...]:
    """One array a gate, its letter in the name: `each("i{}/kernel", "w", "rzn")`."""
    return tuple(Part(name.format(gate), roles, gate) for gate in gates)


def decode(
    table: Table, arrays: Mapping[str, np.ndarray], names: Mapping[str, str], sums: bool
) -> Layer:
    """The layer that a framework's arrays hold; `names` are what a person calls them."""
    found: dict[str, Rows] = {"w": {}, "r": {}, "b": {}, "d": {}}
    extra: dict[str, np.ndarray] = {}
    one_dtype({names[name]: a for name, a in arrays.items()})
    hidden = _hidden(table, arrays, names)
    for part in table.parts:
        if part.name not in arrays:
            continue
        a, label = arrays[part.name], names[part.name]
        a = _from_flat(part, a, hidden) if table.flat else a
        expected = 1 if part.roles in ("b", "d") else 2
        if a.ndim != expected:
            raise ValueError(f"`{label}` must have {expected} axes; got shape {a.shape}.")
        a = a.T if table.rows and a.ndim == 2 else a
        if not part.gates:
            extra[part.roles] = a
            continue
        if a.shape[-1] != len(part.gates) * hidden:
            raise ValueError(
                f"`{label}` must hold {len(part.gates)} gates ({part.gates}) of {hidden} units, "
                f"{len(part.gates) * hidden} in all; got shape {arrays[part.name].shape}."
            )
        if part.roles == "bd" and a.shape[0] != 2:
            raise ValueError(f"`{label}` must hold two biases, a row each; got shape {a.shape}.")
        a = a.reshape(*a.shape[:-1], len(part.gates), hidden)
        for role, piece in _split(part.roles, a, hidden):
            for k, gate in enumerate(part.gates):
                row = piece[..., k, :]
                found[role][gate] = -row if gate in table.negated else row
    gates, recurrent = table.cell.gates, table.cell.recurrent
    _check_shapes(table, {names[name]: a.shape for name, a in arrays.items()}, found)
    w, r = _joined(found["w"], gates), _joined(found["r"], recurrent)
    if table.always and not found["b"]:
        raise ValueError(f"the bias is missing: there are {sorted(names.values())} only.")
    b, d = _biases(table, found["b"], found["d"], sums)
    weights = {k: jnp.asarray(a) for k, a in extra.items()} or None
    w, r, b, d = (None if a is None else jnp.asarray(a) for a in (w, r, b, d))
    assert w is not None
    sizes = dict.fromkeys(table.sized, 0 if r is None else r.shape[0])
    layer = Layer(table.cell(**sizes) if sizes else table.cell, w, r, b, d, weights)
    check(layer, names)
    dims, own = layer.cell.dims(layer.w.shape[0], hidden), layer.cell.own_weights()
    for part in table.parts:
        if not part.gates:
            shape = shape_of(own[part.roles].shape, dims)[:: -1 if table.rows else 1]
            if arrays[part.name].shape != shape:
                raise ValueError(
                    f"`{names[part.name]}` must have shape {shape}; got {arrays[part.name].shape}."
                )
    return layer


def _hidden(table: Table, arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> int:
    part = next(part for part in table.parts if "w" in part.roles and part.gates)
    a = arrays[part.name]
    if a.ndim != 2:
        raise ValueError(f"`{names[part.name]}` must have 2 axes; got shape {a.shape}.")
    total = a.shape[0] if table.rows else a.shape[-1]
    if total % len(part.gates) or not total:
        raise ValueError(
            f"`{names[part.name]}` must hold {len(part.gates)} gates ({part.gates}) of one "
            f"width; got shape {a.shape}."
        )
    return total // len(part.gates)


def _split(roles: str, a: np.ndarray, hidden: int) -> list[tuple[str, np.ndarray]]:
    if len(roles) == 1:
        return [(roles, a)]
    at = 1 if roles == "bd" else a.shape[0] - hidden
    first, second = a[:at], a[at:]
    return list(zip(roles, (first[0], second[0]) if roles == "bd" else (first, second)))


def _from_flat(part: Part, a: np.ndarray, hidden: int) -> np.ndarray:
    """An array of cuDNN's memory in the shape that Keras has without it."""
    gates = len(part.gates)
    if part.roles == "bd":
        return a.reshape(2, -1) if a.shape == (2 * gates * hidden,) else a
    if a.ndim != 2 or a.shape[1] != gates * hidden:
        return a
    blocks = [block.reshape(hidden, -1).T for block in np.split(a, gates, 1)]
    return np.concatenate(blocks, 1)


def _to_flat(part: Part, a: np.ndarray) -> np.ndarray:
    if part.roles == "bd":
        return a.reshape(-1)
    blocks = np.split(a, len(part.gates), 1)
    return np.concatenate([block.T.reshape(block.shape) for block in blocks], 1)


def _check_shapes(table: Table, shapes: Mapping[str, Shape], found: Mapping[str, Rows]) -> None:
    """One matrix a gate, all of one shape."""
    for role in ("w", "r"):
        if len({row.shape for row in found[role].values()}) > 1:
            names = [name for name, shape in shapes.items() if len(shape) == 2]
            kernels = {name: shapes[name] for name in names}
            raise ValueError(f"the weights of all gates must have one shape; got {kernels}.")


def _joined(rows: Mapping[str, np.ndarray], gates: str) -> np.ndarray | None:
    return np.stack([rows[gate] for gate in gates], -2) if rows else None


def _biases(
    table: Table, b: Rows, d: Rows, sums: bool
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`(b, d)`; what the framework adds when it runs joins `d`, as a thing apart."""
    if not b and not d:
        return None, None
    cell, zeros = table.cell, np.zeros_like(next(iter((b or d).values())))
    b = {gate: b.get(gate, zeros) for gate in cell.gates}
    d = {gate: d.get(gate, zeros) for gate in cell.recurrent} if d or table.added else {}
    for gate, value in table.added:
        d[gate] = d[gate] + np.asarray(value, zeros.dtype)
    if cell.recurrent_bias:
        d = d or dict.fromkeys(cell.recurrent, zeros)
    elif sums and d:
        b, d = {gate: b[gate] + d.get(gate, zeros) for gate in cell.gates}, {}
    return _joined(b, cell.gates), _joined(d, cell.recurrent)


def check(layer: Layer, names: Mapping[str, str]) -> None:
    """The recurrent weights must take what the layer gives out."""
    hidden, output = layer.w.shape[-1], layer.cell.output_size(layer.w.shape[-1])
    listed = ", ".join(f"`{name}`" for name in names.values())
    if layer.r is not None and layer.r.shape[0] != output:
        raise ValueError(
            f"the recurrent weights of a layer of {hidden} units must take {output} outputs; "
            f"got {layer.r.shape[0]} (in {listed})."
        )


def encode(table: Table, layer: Layer) -> dict[str, np.ndarray]:
    """The arrays of a layer as the framework stores them."""
    b, d = _rows(layer.b, layer.cell.gates), _rows(layer.recurrent_bias, layer.cell.recurrent)
    if table.biased:
        b, d = _unsummed(table, b, d, np.zeros(layer.w.shape[-1], layer.w.dtype))
    elif b or d:
        raise ValueError("the layer that the weights are for has no bias, and `params` has one.")
    w, r = _rows(layer.w, layer.cell.gates), _rows(layer.r, layer.cell.recurrent)
    rows = {"w": w, "r": r, "b": b, "d": d}
    out: dict[str, np.ndarray] = {}
    for part in table.parts:
        if part.gates:
            flat = [_flat(rows[role], part.gates, table.negated) for role in part.roles]
            a = np.stack(flat) if part.roles == "bd" else np.concatenate(flat)
        else:
            a = np.asarray((layer.weights or {})[part.roles])
        a = _to_flat(part, a) if table.flat else a
        out[part.name] = np.ascontiguousarray(a.T if table.rows and a.ndim == 2 else a)
    return out


def _rows(a: ArrayLike | None, gates: str) -> Rows:
    return {} if a is None else {gate: np.asarray(a)[..., k, :] for k, gate in enumerate(gates)}


def _flat(rows: Mapping[str, np.ndarray], gates: str, negated: str) -> np.ndarray:
    return np.concatenate([-rows[g] if g in negated else rows[g] for g in gates], -1)


def _unsummed(table: Table, b: Rows, d: Rows, zeros: np.ndarray) -> tuple[Rows, Rows]:
    """The biases as the framework has room for them; what has no place of its own is summed."""
    b = {gate: b.get(gate, zeros) for gate in table.cell.gates}
    d = {gate: d.get(gate, zeros) for gate in table.cell.recurrent}
    for gate, value in table.added:
        d[gate] = d[gate] - np.asarray(value, zeros.dtype)
    kept = table.holds("d")
    for gate in set(d) - set(kept):
        if gate in table.inside and np.any(d[gate]):
            raise ValueError(
                f"the recurrent bias of gate `{gate}` is not zero, and this framework's "
                f"`{table.cell.name}` has no place for it: it stands inside a product with "
                "another gate, so no other bias can take it in."
            )
        b[gate] = b[gate] + d[gate]
    return b, {gate: d[gate] for gate in kept}
