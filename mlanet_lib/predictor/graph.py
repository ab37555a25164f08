"""The network as an ONNX graph without its weights: onnxruntime reads a face in a quarter of the time that torch's
modules take on a CPU.

torch needs some ten seconds to make such a graph, so it is made when weights are shipped (`weights.ship`). A graph
holds what `MLANet.read` computes, most of the work; it serves every checkpoint of its architecture, which gives it its
tensors. The steps of feedback, small matrices that no ONNX operator solves, stay torch's.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.network import MLANet, attention, feedback, mlanet
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor.engine import session

if TYPE_CHECKING:
    import onnx

ENDING = ".graph.onnx"
OPSET = 18
_CODE = tuple(Path(str(module.__file__)) for module in (attention, feedback, mlanet))


class GraphNetwork:
    """`MLANet.encode` of a network in evaluation mode on the CPU, its `read` run by onnxruntime.

    The tensors are those that the network has now: what is changed in it later, but for feedback, is not seen.
    """

    def __init__(self, network: MLANet, graph: "onnx.ModelProto"):
        """graph: of `write_graph`, for a network of this architecture; runs use as many threads as torch's."""
        needed = {tensor.name for tensor in graph.graph.initializer if tensor.external_data}
        # copies in C order, which onnxruntime reads from as long as it runs
        self._tensors = {
            name: np.array(value.numpy(), order="C") for name, value in _tensors(network).items() if name in needed
        }
        self._network = network
        self._session = session(graph.SerializeToString(), self._tensors, torch.get_num_threads())

    def encode(self, images: Tensor) -> FaceParameters:
        """As `MLANet.encode`: images (B, 3, S, S) in [0, 1], S the network's -> the parameters of B faces, without
        gradients."""
        outputs = self._session.run(None, {"images": np.ascontiguousarray(images.detach().numpy())})
        heads = len(self._network.sizes)
        with torch.inference_mode():  # of many small steps, a tenth is torch's bookkeeping
            tensors = [torch.from_numpy(output) for output in outputs]
            raw = dict(zip(self._network.sizes, tensors[:heads], strict=True))
            found = self._network.finish(raw, tensors[heads:])
        return FaceParameters.from_tensors({name: value.clone() for name, value in found.items()})


def find_graph(network: MLANet, folders: list[Path]) -> GraphNetwork | None:
    """The network run by the first graph (`*.graph.onnx`) in these folders that is of its architecture and of today's
    code; None: there is none."""
    import onnx

    wanted = fingerprint(network)
    for path in (path for folder in folders for path in sorted(folder.glob(f"*{ENDING}"))):
        try:
            graph = onnx.load(path, load_external_data=False)
        except Exception:  # protobuf raises whatever the broken bytes lead it to: no graph, and the modules serve
            continue
        if any(entry.key == "fingerprint" and entry.value == wanted for entry in graph.metadata_props):
            return GraphNetwork(network, graph)
    return None


def fingerprint(network: MLANet) -> str:
    """sha256 of what determines the graph: the network's choices, its tensors' names and shapes, and the code."""
    config = dataclasses.asdict(network.config) | {"pretrained": None, "start": None}
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(network).items()}
    digest = hashlib.sha256(json.dumps([config, list(network.sizes), shapes], sort_keys=True).encode())
    for path in _CODE:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Outputs(nn.Module):
    """What `MLANet.read` gives as a tuple: the heads in the order of `MLANet.sizes`, then the maps for feedback."""

    def __init__(self, network: MLANet):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raw, maps = self.network.read(images)
        return *(raw[name] for name in self.network.sizes), *maps


def write_graph(network: MLANet, path: Path) -> None:
    """Write the graph of a network, in evaluation mode and on the CPU, for any number of images; atomically."""
    import onnx
    import onnxscript

    size = network.config.image_size
    exported = torch.onnx.export(
        torch.export.export(
            _Outputs(network).eval(),
            (torch.zeros(2, 3, size, size),),
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            strict=False,
        ),
        input_names=["images"],
        output_names=[*network.sizes, *(f"map {k}" for k in range(network.per_step * network.config.feedback))],
        opset_version=OPSET,
        dynamic_shapes={"images": {0: "batch"}},
        optimize=False,  # it would fold tensors into others
        verbose=False,
    )
    written = cast(torch.onnx.ONNXProgram, exported).model
    own = {name: value for name, value in written.graph.initializers.items() if name in _tensors(network)}
    for name, value in own.items():  # inputs, while the graph is simplified: their values go into nothing else
        del written.graph.initializers[name]
        written.graph.inputs.append(value)
        value.const_value = None
    onnxscript.optimizer.optimize(written)
    model = onnxscript.ir.to_proto(written)
    used = {name for node in model.graph.node for name in node.input}
    tensors = [value for value in model.graph.input if value.name != "images"]
    del model.graph.input[1:], model.graph.value_info[:]
    for value in (value for value in tensors if value.name in used):
        kind = value.type.tensor_type
        tensor = model.graph.initializer.add(name=value.name, data_type=kind.elem_type)
        tensor.dims.extend(side.dim_value for side in kind.shape.dim)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="checkpoint")
    for node in model.graph.node:  # the tracer's notes
        del node.metadata_props[:]
    model.metadata_props.add(key="fingerprint", value=fingerprint(network))
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _tensors(network: MLANet) -> dict[str, Tensor]:
    """The network's parameters and buffers by name, as in a checkpoint."""
    return {
        f"network.{name}": tensor.detach() for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }
