"""ONNX Runtime as a contestant, on the file that npnet writes."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.peers.task import Task
from bench.peers.worker import Contestant
from npnet.exchange.onnx_graph import INPUT, Graph
from npnet.kernels.arrays import Floats
from npnet.model.weights import Weights


def session(model: bytes, exact: bool = True) -> onnxruntime.InferenceSession:
    """One thread. Unless `exact`, processors that have AVX2 but no VNNI add pairs of int8 products
    in 16 bits, and cut them off.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def as_input(images: Floats, turned: bool = False) -> dict[str, NDArray[np.float32]]:
    """npnet's images (N,S,S,3), perhaps turned for a `tf_same` network, as the file takes them."""
    upright = images[:, ::-1, ::-1] if turned else images
    return {INPUT: np.ascontiguousarray(upright.transpose(0, 3, 1, 2))}


def inference(task: Task) -> Contestant:
    weights = Weights(task.config, task.values, task.statistics, None, "a task")
    run, images = session(Graph(weights).model().SerializeToString()).run, as_input(task.images)

    def step() -> Floats:
        logits: Floats = run(None, images)[0]
        return logits

    return Contestant(f"ONNX Runtime {onnxruntime.__version__}", step)
