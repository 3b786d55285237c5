"""An LSTM as the TFLite operator `UNIDIRECTIONAL_SEQUENCE_LSTM`, which LiteRT runs."""

import numpy as np

LETTERS = "ifgo"  # TFLite's order


def lstm_run(layer, xs):
    """`ys` of a layer of our cells, computed by LiteRT; a weight that it lacks is left out."""
    import ai_edge_litert.schema_py_generated as schema
    import flatbuffers
    from ai_edge_litert.interpreter import Interpreter

    cell = layer.cell
    settings = {**cell.defaults(), **dict(cell.options)}
    weights = {k: np.asarray(a) for k, a in (layer.weights or {}).items()}
    at = lambda a, gate: (
        None if gate not in cell.gates else np.asarray(a)[..., cell.gates.index(gate), :]
    )
    bias = weights["b_z"] if layer.b is None else layer.b
    batch, hidden, width = xs.shape[1], layer.w.shape[-1], layer.r.shape[0]
    norm = [at(weights["a"], g) for g in LETTERS] if "a" in weights else [None] * 4
    q = weights.get("q")
    inputs = [
        *[None if (w := at(layer.w, g)) is None else w.T for g in LETTERS],
        *[None if (r := at(layer.r, g)) is None else r.T for g in LETTERS],
        *[weights.get(name) for name in ("pi", "pf", "po")],
        *[at(bias, g) for g in LETTERS],
        *[None if q is None else q.T, None],
        (batch, width),  # states, which are variables
        (batch, hidden),
        *norm,
    ]

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, graph.tensors = 3, [schema.BufferT()], []

    def tensor(shape, data=None, variable=False):
        made = schema.TensorT()
        made.name, made.shape = f"t{len(graph.tensors)}".encode(), list(shape)
        made.type, made.buffer, made.isVariable = schema.TensorType.FLOAT32, 0, variable
        if data is not None:
            made.buffer = len(model.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, np.float32).tobytes(), np.uint8)
            model.buffers.append(buffer)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def given(a):
        if a is None:
            return -1
        return tensor(a, variable=True) if isinstance(a, tuple) else tensor(a.shape, a)

    operator, code = schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
    graph.inputs = [tensor(xs.shape)]
    operator.inputs = [*graph.inputs, *map(given, inputs)]
    graph.outputs = operator.outputs = [tensor((*xs.shape[:-1], width))]
    operator.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    options = operator.builtinOptions = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    options.cellClip, options.projClip = (
        settings.get("cell_clip") or 0.0,
        settings.get("projection_clip") or 0.0,
    )
    options.timeMajor = True
    model.operatorCodes, graph.operators, model.subgraphs = [code], [operator], [graph]

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    interpreter = Interpreter(model_content=bytes(builder.Output()))
    interpreter.allocate_tensors()
    interpreter.set_tensor(graph.inputs[0], np.asarray(xs))
    interpreter.invoke()
    return interpreter.get_tensor(graph.outputs[0])
