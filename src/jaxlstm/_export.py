"""How `jax.export` writes the trees of this library: nodes and states by name, options as JSON.

A function that takes or returns params and states is serialised with their trees.  Your own
nodes and states are registered as these are: `jax.export.register_namedtuple_serialization`.
"""

import json
import sys
from typing import NoReturn

from jax import export
from jaxtyping import PyTree

from . import _containers, cells, wrappers
from ._cell import Cell, Gated, General, Layer, Linear, unpickled
from ._conv import ConvLayer
from ._record import Record


def _written(value: object, of: str) -> bytes:
    def no(value: object) -> NoReturn:
        raise ValueError(
            f"an option that is exported must be a number, a string, None, or a tuple of them; got "
            f"{value!r} in {of}."
        )

    return json.dumps(value, default=no).encode()


def _read(data: bytes | bytearray) -> PyTree:
    tuples = lambda v: tuple(map(tuples, v)) if isinstance(v, list) else v
    return tuples(json.loads(bytes(data)))


def _write_cell(cell: Cell) -> bytes:
    return _written(cell.__reduce__()[1], repr(cell))


def _read_cell(data: bytes) -> Cell:
    module, *rest = _read(data)
    if module not in sys.modules:  # nothing is imported because a file says so
        raise ValueError(
            f"an exported function holds a cell of `{module}`. Import that module first."
        )
    return unpickled(module, *rest)


def _write_static(static: _containers.Static[object]) -> bytes:
    return _written(static.value, repr(static))


def _read_static(data: bytes) -> _containers.Static[PyTree]:
    return _containers.Static(_read(data))


for _cls in (Gated, General, Linear):
    export.register_pytree_node_serialization(
        _cls,
        serialized_name=f"jaxlstm.{_cls.__name__}",
        serialize_auxdata=_write_cell,
        deserialize_auxdata=_read_cell,
        from_children=lambda aux_data, children: aux_data,
    )
export.register_pytree_node_serialization(
    _containers.Static,
    serialized_name="jaxlstm.Static",
    serialize_auxdata=_write_static,
    deserialize_auxdata=_read_static,
    from_children=lambda aux_data, children: aux_data,
)

_ROOMS = (
    "jaxlstm._layer",
    "jaxlstm._conv",
    "jaxlstm._record",
    "jaxlstm._containers",
    "jaxlstm.wrappers",
)
_FOUND = [Layer, ConvLayer, Record, *vars(_containers).values(), *vars(wrappers).values()]
_NAMED = {
    t
    for t in _FOUND
    if isinstance(t, type)
    and issubclass(t, tuple)
    and t.__module__.startswith(_ROOMS)
    and not t.__name__.startswith("_")
}
_NAMED |= {cell.state for cell in vars(cells).values() if isinstance(cell, Cell)}
for _type in sorted(_NAMED, key=lambda t: t.__name__):
    export.register_namedtuple_serialization(_type, serialized_name=f"jaxlstm.{_type.__name__}")
