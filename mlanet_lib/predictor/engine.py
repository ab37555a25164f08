"""ONNX graphs on the CPU through onnxruntime, two to four times as fast on two cores as OpenCV or torch's modules."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime


def session(
    graph: bytes | Path, tensors: Mapping[str, np.ndarray] | None = None, threads: int = 0
) -> "onnxruntime.InferenceSession":
    """A graph ready to run on the CPU.

    graph: an ONNX model, or the path of one; tensors: by name, what the graph leaves to an external file; threads: how
    many a run uses, 0: one for each core. onnxruntime's own exceptions where the graph is none, or a tensor is missing
    or of another shape.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.force_spinning_stop", "1")  # at the end of a run: torch has threads, too
    if tensors:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in tensors.values()]
        options.add_external_initializers(list(tensors), values)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
