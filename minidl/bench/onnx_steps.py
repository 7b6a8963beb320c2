"""The inference steps for ONNX Runtime: the graphs, written node by node, with minidl's weights."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from minidl.bench.cases import Step
from minidl.bench.minidl_steps import work

OPSET, FORMAT = 17, 8  # of ONNX 1.12: old enough for every ONNX Runtime of today


def _session(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]):
    """A session for a graph, with as many threads as the other libraries have, which sleep while they wait."""
    given = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "bench", inputs, outputs, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=FORMAT)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OPENBLAS_NUM_THREADS", 1))
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _value(name: str, *shape: int, kind: int = TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def _lenet() -> Step:
    model, x, _ = work("lenet-infer")
    node: Callable[..., onnx.NodeProto] = helper.make_node
    pool = {"kernel_shape": (2, 2), "strides": (2, 2)}
    nodes = [
        node("Conv", ("x", "conv1.weight", "conv1.bias"), ("c1",)),
        node("MaxPool", ("c1",), ("p1",), **pool),
        node("Conv", ("p1", "conv2.weight", "conv2.bias"), ("c2",)),
        node("MaxPool", ("c2",), ("p2",), **pool),
        node("Flatten", ("p2",), ("flat",)),
        node("Gemm", ("flat", "ip1.weight", "ip1.bias"), ("i1",), transB=1),
        node("Relu", ("i1",), ("r1",)),
        node("Gemm", ("r1", "ip2.weight", "ip2.bias"), ("logits",), transB=1),
    ]
    constants = {name: p.data for name, p in model.named_parameters()}
    session = _session(nodes, [_value("x", *x.shape)], [_value("logits", len(x), 10)], constants)
    return lambda: session.run(("logits",), {"x": x})[0]


def _onnx_gates(array: np.ndarray) -> np.ndarray:
    """The gates along the first axis in ONNX's order i, o, f, g instead of i, f, g, o."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate((i, o, f, g))


def language_model(model, x: np.ndarray) -> Step:
    """Inference of an LSTMLanguageModel on x: (T, B), the state carried from call to call; returns the logits."""
    vocabulary, (time_steps, rows) = len(model.embedding.weight.data), x.shape
    units = [layer.weight_hh.shape[1] for layer in model.layers]
    constants = {"embedding": model.embedding.weight.data, "rows": np.array([-1, units[-1]])}
    constants |= {"output.weight": model.output.weight.data, "output.bias": model.output.bias.data}
    constants["direction"] = np.array([1])
    nodes, below = [helper.make_node("Gather", ("embedding", "x"), ("h",))], "h"
    states = {"x": x}
    for k, layer in enumerate(model.layers):
        bias = _onnx_gates(layer.bias.data)
        constants[f"W{k}"] = _onnx_gates(layer.weight_ih.data)[None]
        constants[f"R{k}"] = _onnx_gates(layer.weight_hh.data)[None]
        constants[f"B{k}"] = np.concatenate((bias, np.zeros_like(bias)))[None]  # ONNX has two biases
        takes = (below, f"W{k}", f"R{k}", f"B{k}", "", f"h{k}", f"c{k}")
        nodes.append(helper.make_node("LSTM", takes, (f"Y{k}", f"h{k}'", f"c{k}'"), hidden_size=units[k]))
        nodes.append(helper.make_node("Squeeze", (f"Y{k}", "direction"), (f"y{k}",)))
        below = f"y{k}"
        states |= {name: np.zeros((1, rows, units[k]), np.float32) for name in (f"h{k}", f"c{k}")}
    nodes.append(helper.make_node("Reshape", (below, "rows"), ("flat",)))
    nodes.append(helper.make_node("Gemm", ("flat", "output.weight", "output.bias"), ("logits",), transB=1))
    shapes = {name: array.shape for name, array in states.items() if name != "x"}
    inputs = [_value("x", time_steps, rows, kind=TensorProto.INT64), *(_value(n, *s) for n, s in shapes.items())]
    outputs = [_value("logits", time_steps * rows, vocabulary), *(_value(f"{n}'", *s) for n, s in shapes.items())]
    session = _session(nodes, inputs, outputs, constants)
    wanted = [output.name for output in outputs]

    def step():
        logits, *after = session.run(wanted, states)
        states.update(zip(shapes, after, strict=True))
        return logits

    return step


def _lstm() -> Step:
    model, x, _ = work("lstm-infer")
    return language_model(model, x)


STEPS = {"lenet-infer": _lenet, "lstm-infer": _lstm}
