"""Checkpoints: one safetensors file each, written atomically, with all that is not a tensor as JSON in its header.

Tensors are named `network.*` (the weights to use), and in a file to resume from also `ema.*` and `optimizer.*`.
"""

import hashlib
import json
import typing
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.network.mlanet import MLANet, NetworkConfig

FORMAT = "mlanet checkpoint 1"
_MODULES = ("metrics.py", "parameters.py", "renderer.py")
FORMER = ("points.weight", "points.bias")
"""Of networks from before feedback: a head that only their training used."""
TRAINING_CODE = (*_MODULES, "face_model", "geometry", "network", "rasterizer", "training")
"""What a training's result depends on: a checkpoint of other code is not resumed."""


def save(path: str | Path, tensors: dict[str, Tensor], metadata: dict) -> None:
    """Write tensors (any device and layout) and JSON-able metadata as one file; a failure leaves an older one whole."""
    flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            # one entry: safetensors writes several in any order, and the same training would give other bytes each time
            save_file(flat, temporary, metadata={FORMAT: json.dumps(metadata)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors, on the CPU, and the metadata. A missing, truncated or foreign file is a UserError."""
    with _opened(path) as file:
        metadata, tensors = _metadata(path, file), {}
        for name in file.keys():  # noqa: SIM118
            try:
                tensors[name] = file.get_tensor(name)
            except Exception as error:  # a type that torch does not have, say
                raise UserError(f"{path}: tensor {name} cannot be read ({error})") from error
    return tensors, metadata


def read_metadata(path: str | Path) -> dict:
    """The metadata alone, without reading the weights; errors as `read`."""
    with _opened(path) as file:
        return _metadata(path, file)


def load_network(path: str | Path, model: MorphableModel, device: str | torch.device = "cpu") -> tuple[MLANet, dict]:
    """The network of a checkpoint in evaluation mode (its averaged weights where it has them), and the metadata.

    model: the `MorphableModel` it was trained with; another one is a UserError. Nothing is downloaded.
    """
    tensors, metadata = read(path)
    check_face_model(path, metadata, model)
    weights = {name: value for name, value in network_weights(tensors).items() if name not in FORMER}
    config = _config(path, metadata, weights.get("heads.identity.weight"))
    try:
        network = MLANet(model, config, pretrained=False)
    except (RuntimeError, ValueError, OverflowError) as error:  # numbers of which no network can be made
        raise UserError(f"{path}: no network can be made of the checkpoint's header ({error})") from error
    load_state(path, network, weights, "")
    network.pretrained_weights = str(metadata.get("pretrained_weights", "unknown"))
    return network.to(device).eval(), metadata


def network_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights to use of a checkpoint's tensors, the averaged ones where it has them, without a prefix."""
    prefix = "ema." if any(name.startswith("ema.") for name in tensors) else "network."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_state(path: str | Path, network: torch.nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Copy the tensors under `prefix` into the network; names or shapes that do not fit are a UserError."""
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: the weights do not fit the network ({reason})") from error


def export_weights(source: str | Path, destination: str | Path) -> None:
    """Write a checkpoint for shipping: only the weights to use, in half precision.

    Integers (the batch norms' counters) stay as they are. `load_network` gives float32 weights again.
    """
    tensors, metadata = read(source)
    weights = {
        f"network.{name}": value.half() if value.is_floating_point() else value
        for name, value in network_weights(tensors).items()
    }
    save(destination, weights, {**metadata, "weights_dtype": "float16"})


def check_face_model(path: str | Path, metadata: dict, model: MorphableModel) -> None:
    """UserError unless the checkpoint was trained with this face model."""
    made_with = metadata.get("face_model")
    if not (isinstance(made_with, dict) and {"name", "fingerprint"} <= made_with.keys()):
        raise UserError(f"{path}: the checkpoint's header does not say which face model it was trained with")
    name, fingerprint = (str(made_with[key]) for key in ("name", "fingerprint"))
    if fingerprint != model.fingerprint:
        raise UserError(
            f"{path} was trained with face model '{name}' ({fingerprint[:12]}), not with '{model.name}' "
            f"({model.fingerprint[:12]}): name weights of this face model, or train anew"
        )


@cache
def code_fingerprint() -> str:
    """sha256 over the source of the packages that a training run's result depends on, as first asked for."""
    library = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for part in TRAINING_CODE:
        for path in sorted((library / part).rglob("*.py")) or [library / part]:
            digest.update(path.relative_to(library).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def differences(there: dict, here: dict, prefix: str = "") -> list[str]:
    """What differs between two nested dictionaries of JSON values, in words: `train.lr (0.001 there, 0.002 here)`."""
    found = []
    for key in sorted({*there, *here}):
        one, other, name = there.get(key), here.get(key), f"{prefix}{key}"
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{name}.")
        elif one != other:
            long = any(isinstance(value, str) and len(value) > 40 for value in (one, other))
            found.append(name if long else f"{name} ({one} there, {other} here)")
    return found


def _opened(path: str | Path) -> safe_open:
    if not Path(path).is_file():
        raise UserError(f"checkpoint not found: {path}")
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable checkpoint (safetensors): {error}") from error


def _metadata(path: str | Path, file: safe_open) -> dict:
    header = file.metadata() or {}
    text = header.get("mlanet") if header.get("format") == FORMAT else header.get(FORMAT)  # the former: older files
    if text is None:
        raise UserError(f"{path} is not an mlanet checkpoint: its header does not say '{FORMAT}'")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the checkpoint's header is damaged ({error})") from error
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: the checkpoint's header is damaged (it holds no names and values)")
    return metadata


def _config(path: str | Path, metadata: dict, head: Tensor | None) -> NetworkConfig:
    """The network's choices that a header holds. A UserError unless each has its type, and before anything large is
    made of them: the heads that they make must be as wide as the stored one."""
    stored = metadata.get("network")
    if not isinstance(stored, dict):
        raise UserError(f"{path}: the checkpoint's header does not say which network it holds")
    kinds: dict[str, Any] = typing.get_type_hints(NetworkConfig) | {"focal": int | float}
    for name, value in stored.items():
        kind = kinds.get(name)
        if name == "levels":
            fits = isinstance(value, list) and all(type(level) is int for level in value)
        else:
            fits = kind is not None and isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits:
            raise UserError(f"{path}: the checkpoint's header says network.{name} = {value!r}, which cannot be")
    try:
        config = NetworkConfig(**stored)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if head is None or head.ndim != 2 or head.shape[1] % (config.width * config.pool**2):
        raise UserError(f"{path}: the weights do not fit the network (heads.identity.weight)")
    return config
