"""An estimate of the memory that a training needs: one that cannot fit is refused at the start, not killed half-way.

A training that works must never be refused. So the estimate counts only what is surely needed, and is compared with all
of the machine's memory, not with the free part.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.limits import check_memory, memory
from mlanet_lib.network import NetworkConfig
from mlanet_lib.network.mlanet import backbone_options

if TYPE_CHECKING:
    from mlanet_lib.training.config import TrainConfig

PHOTO = 60  # bytes a pixel of a batch's photos: they, their targets, and what the augmentation makes of them
RENDERED, VERTEX = 50, 50  # bytes a pixel, and a vertex of each face, that is rendered for the photometric loss
COPIES = 20  # bytes a weight: itself, its average, its gradient, and AdamW's two moments


def check_training(
    config: "TrainConfig", network: NetworkConfig, model: MorphableModel, batch: int, device: torch.device
) -> None:
    """UserError, with the estimate, where a training cannot fit into the memory of this machine or of its GPU.

    batch: photos of a step in that memory. The estimate was compared with processes that called `fit` for two steps on
    a CPU in float32: 6.5 MB a photo for resnet18 at 96 px (estimated 4.7), 105 at 224 px for resnet50 (89), 118 bytes a
    rendered pixel and 83 a vertex (50 each, since fewer may be drawn than allowed).
    """
    available = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else memory()
    outputs = model.n_identity + model.n_expression + model.n_albedo + 36
    heads = len(network.levels) if network.fusion.endswith("concatenate") else 1
    weights = COPIES * heads * network.width * network.pool**2 * outputs
    check_memory(weights, f"network.width {network.width} with network.pool {network.pool}", available)
    share = 1 / 2 if config.compile or config.precision == "bfloat16" else 1  # compiled, some is computed again instead
    photos = batch * (picture_bytes(network) * share + PHOTO * network.image_size**2)
    photos += batch * 12 * min(config.vertices, model.n_vertices)
    asked = config.batch_size if batch == config.batch_size else f"{config.batch_size} ({batch:,} here)"
    what = f"train.batch_size {asked} at network.image_size {network.image_size}"
    check_memory(weights + photos, what, available)
    drawn = min(config.photometric_batch, batch) if config.weights.photometric else 0
    vertices = min(config.photometric_vertices or model.n_vertices, model.n_vertices)
    rendered = drawn * (RENDERED * config.photometric_size**2 + VERTEX * vertices)
    what = f"train.photometric_batch {drawn} at train.photometric_size {config.photometric_size}"
    check_memory(rendered, what, available)
    check_memory(weights + photos + rendered, f"train.batch_size {asked} with {what}", available)


@lru_cache(maxsize=32)
def picture_bytes(config: NetworkConfig) -> int:
    """Bytes that a backbone keeps of one picture for its gradient, in float32; 0 if unknown.

    The network is built and run on torch's device "meta", which computes shapes and holds nothing.
    """
    import timm

    kept = {}
    with torch.device("meta"):
        network = timm.create_model(config.backbone, **backbone_options(config)).train()
        weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage  # held, so that no other one gets its address
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                network(torch.empty(2, 3, config.image_size, config.image_size))
        except (AssertionError, NotImplementedError, RuntimeError):  # a size or an operation that it does not have
            return 0
    return sum(storage.nbytes() for storage in kept.values()) // 2
