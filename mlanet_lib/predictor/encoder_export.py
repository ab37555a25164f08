"""The trained encoder as one file that runs without this library: `.onnx` for ONNX runtimes, `.pt2` for torch.

    images (B, 3, S, S) float32 in [0, 1], RGB, the training crop -> the outputs named in `UNITS`, in that order

B is free, S is the network's. Both files are written from the same graph (torch.export), normalisation of the pixels,
camera and the 68 points included. The file also holds what a caller needs to know, as text: `encoder_metadata`.
"""

import copy
import importlib.util
import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.files.outputs import MARK
from mlanet_lib.network import MLANet

FORMAT = "mlanet encoder 1"
OPSET = 18
"""The ONNX operators' version: the one that torch's translations are written in, so that none is converted."""
UNITS = {
    "identity": "(B, Ki) standard deviations",
    "expression": "(B, Ke) activations, 0 neutral, 1 full; named in expression_names",
    "albedo": "(B, Ka) standard deviations",
    "rotation": "(B, 3, 3) model frame (x to the subject's left, y up, z out of the face), identity = frontal; "
    "rotation @ bfm_rotation is the pose in BFM's frame, in which data sets have their labels",
    "translation": "(B, 3) mm, camera frame (x right, y down, z away): X = diag(1, -1, -1) rotation X_model + t",
    "lighting": "(B, 9, 3) radiance: spherical harmonics 00 1-1 10 11 2-2 2-1 20 21 22 (camera frame, y up) x RGB",
    "focal": "(B,) widths of the crop",
    "landmarks": "(B, 68, 2) x right, y down, sides of the crop, (0, 0) its upper left corner; Multi-PIE order",
}


class Encoder(nn.Module):
    """A copy of the network, on the CPU and in evaluation mode, with the face model's 68 points behind it.

    model: the `MorphableModel` that the network was made for, on the CPU; one of other sizes is a ValueError.
    """

    def __init__(self, network: MLANet, model: MorphableModel):
        super().__init__()
        for name in ("identity", "expression", "albedo"):
            if network.sizes[name] != getattr(model, f"n_{name}"):
                raise ValueError(f"the network predicts {network.sizes[name]} {name} modes, {model.name} has others")
        self.network = copy.deepcopy(network).float().cpu().eval().requires_grad_(False)
        self.network.to(memory_format=torch.contiguous_format)  # torch.export.save warns of weights in another layout
        self.shape = SparseShape(model, 0)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) in [0, 1] -> the outputs of `UNITS` by name."""
        parameters = self.network.encode(images)
        landmarks = self.shape.landmarks(self.shape.turned(parameters), parameters)
        return {name: landmarks if name == "landmarks" else getattr(parameters, name) for name in UNITS}


def trace(network: MLANet, model: MorphableModel) -> torch.export.ExportedProgram:
    """`Encoder` as torch.export's graph: any number of images, nothing in it of where it was made."""
    size = network.config.image_size
    batch = torch.export.Dim("batch", min=1)
    graph = torch.export.export(
        Encoder(network, model), (torch.zeros(2, 3, size, size),), dynamic_shapes={"images": {0: batch}}, strict=False
    )
    for part in graph.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return graph


def encoder_metadata(network: MLANet, model: MorphableModel, weights: str) -> dict[str, str]:
    """The text entries stored with the graph: generator, format, weights (their name), face_model and its fingerprint,
    bfm_rotation (JSON, the 3 x 3 matrix R0 by rows), expression_names (JSON list), image_size (S, pixels), input (in
    words) and units (JSON, `UNITS`)."""
    return {
        "generator": MARK,
        "format": FORMAT,
        "weights": weights,
        "face_model": model.name,
        "face_model_fingerprint": model.fingerprint,
        "bfm_rotation": json.dumps(model.bfm_rotation.tolist()),
        "expression_names": json.dumps(model.expression_names),
        "image_size": str(network.config.image_size),
        "input": "RGB in [0, 1], square crop around the face: larger side of the 68 points' box times sqrt(2)",
        "units": json.dumps(UNITS),
    }


def export_encoder(network: MLANet, model: MorphableModel, path: str | Path, weights: str = "in memory") -> None:
    """Write the encoder as one file, atomically: `.onnx` (metadata in metadata_props) or `.pt2` (`torch.export.load`;
    metadata in the extra file metadata.json).

    network: on any device, in any mode, and left as it is; model: its face model, on the CPU; weights: their name.
    Raises UserError for another suffix, where onnxscript is not installed, and where `path` cannot be written.
    """
    path = Path(path)
    check_target(path)
    metadata = encoder_metadata(network, model, weights)
    graph = trace(network, model)
    with atomic_path(path) as temporary:
        if path.suffix == ".pt2":
            try:
                torch.export.save(graph, temporary, extra_files={"metadata.json": json.dumps(metadata)})
            except RuntimeError as error:  # so torch says that the disk is full
                raise OSError(str(error).splitlines()[0]) from error
            return
        exported = torch.onnx.export(
            graph,
            input_names=["images"],
            output_names=list(UNITS),
            opset_version=OPSET,
            dynamic_shapes={"images": {0: "batch"}},
            verbose=False,
        )
        program = cast(torch.onnx.ONNXProgram, exported)  # None only where a path was given
        program.model.metadata_props.update(metadata)
        for node in program.model.graph.all_nodes():  # the tracer's notes
            node.metadata_props.clear()
        program.save(temporary, external_data=False)


def check_target(path: Path) -> None:
    """UserError unless an encoder can be written under this name with what is installed."""
    if path.suffix not in (".onnx", ".pt2"):
        raise UserError(f"{path}: an encoder is written as .onnx or .pt2")
    if path.suffix == ".onnx" and importlib.util.find_spec("onnxscript") is None:
        raise UserError(f"{path}: writing .onnx needs onnxscript: pip install onnxscript")
