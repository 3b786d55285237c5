"""A backend that ONNX's own test runner can be pointed at."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import onnx
import onnx.backend.base as base
from jaxtyping import ArrayLike, PyTree

from ._onnx.cells import LETTERS
from ._onnx.graph import value_of
from ._onnx.nodes import INPUTS, roles
from ._onnx.read import operator

SHAPING = {
    "Identity": lambda x: x,
    "Transpose": lambda x, perm=None: jnp.transpose(x, perm),
    "Squeeze": lambda x, axes=None: jnp.squeeze(x, None if axes is None else tuple(axes)),
    "Reshape": lambda x, shape: x.reshape(
        [x.shape[k] if n == 0 else n for k, n in enumerate(shape)]
    ),
}


class Prepared(base.BackendRep):
    """A model that is ready to run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {t.name: onnx.numpy_helper.to_array(t) for t in self.graph.initializer}

    def run(self, inputs: PyTree, **_: object) -> tuple[np.ndarray, ...]:
        if not isinstance(inputs, Mapping):
            names = [v.name for v in self.graph.input if v.name not in self.constants]
            inputs = dict(zip(names, inputs, strict=True))
        values: dict[str, ArrayLike] = {**self.constants, **inputs}
        for proto in self.graph.node:
            outputs = _run(proto, values)
            values |= {name: a for name, a in zip(proto.output, outputs) if name}
        return tuple(np.asarray(values[v.name]) for v in self.graph.output)


def _run(proto: onnx.NodeProto, values: Mapping[str, ArrayLike]) -> tuple[ArrayLike, ...]:
    attributes = {a.name: value_of(onnx, a, proto.name) for a in proto.attribute}
    if proto.op_type in LETTERS:
        given = {k: values[v] for k, v in zip(roles(proto.op_type), proto.input) if v}
        weights = {role: given.get(role) for role in ("W", "R", "B", "P")}
        made = operator(proto.op_type, attributes, weights, proto.name or proto.op_type)
        return made(given[INPUTS[0]], *(given.get(k) for k in INPUTS[4:7]))
    given = [values[name] for name in proto.input if name]
    rest = [np.asarray(a).tolist() for a in given[1:]]
    return (SHAPING[proto.op_type](jnp.asarray(given[0]), *rest, **attributes),)


class Backend(base.Backend):
    """Runs models that consist of RNN, GRU, LSTM, and operators that rearrange arrays.

    ```
    import onnx.backend.test
    from jaxlstm.convert.onnx_backend import Backend

    tests = onnx.backend.test.BackendTest(Backend, __name__)
    tests.include(r"test_(lstm|gru|rnn|simple_rnn)_")
    ```
    """

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **_: object) -> bool:
        return all(node.op_type in {*LETTERS, *SHAPING} for node in model.graph.node)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: object) -> Prepared:
        super().prepare(model, device, **kwargs)
        return Prepared(model)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Sequence[ArrayLike],
        device: str = "CPU",
        *_: object,
        **__: object,
    ) -> tuple[np.ndarray, ...]:
        names = [name for name in node.input if name]
        return tuple(np.asarray(a) for a in _run(node, dict(zip(names, inputs, strict=True))))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"
