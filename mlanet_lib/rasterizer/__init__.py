"""Rasterizers: which triangle of a mesh covers which pixel. One call, several backends with the same conventions.

`numba` runs on the CPU, `triton` on CUDA devices, `pytorch3d` wherever that package does. Backends are imported when
they are first used, so only the package of the backend in use must be installed.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mlanet_lib.errors import UserError

# in the order in which "auto" takes them, with the devices on which their work is done
_BACKENDS = {"numba": ("cpu",), "triton": ("cuda",), "pytorch3d": ("cpu", "cuda")}

# faces on a device -> (version of their contents, lowest and highest vertex): to look again would stop the device
_extents: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Fragments(NamedTuple):
    """What covers each pixel of a batch of pictures.

    face_index: (B, H, W) int32, index of the nearest face within the mesh, -1 where there is none; barycentric:
    (B, H, W, 3), linear in the screen, sum 1, 0 on the background; depth: (B, H, W), linear in the screen, in the
    unit of the vertices' depth, infinite on the background.
    """

    face_index: Tensor
    barycentric: Tensor
    depth: Tensor


def is_present(name: str) -> bool:
    """Whether a backend can be used here: its package is installed, and for triton there is what it runs on."""
    return find_spec(name) is not None and bool(_devices(name))


def backends() -> list[str]:
    """The names of the backends that can be used on this machine."""
    return [name for name in _BACKENDS if is_present(name)]


def choose(backend: str, device: torch.device) -> str:
    """The backend that `backend` ("auto" or a name) stands for on a device; UserError if it is unknown or absent.

    "auto" prefers one that works on the device itself, and falls back to one that works on copies.
    """
    if backend == "auto":
        suited = (name for name in _BACKENDS if device.type in _devices(name))
        found = next(filter(is_present, suited), None) or next(iter(backends()), None)
        if found is None:
            raise UserError("no rasterizer backend can be used here: install numba, or triton where there is a GPU")
        return found
    if backend not in _BACKENDS:
        state = "is unknown"
    elif find_spec(backend) is None:
        state = "is not installed"
    elif not _devices(backend):
        state = "needs a CUDA device"
    else:
        return backend
    raise UserError(f"rasterizer backend {backend!r} {state}; present: {', '.join(backends())}")


def _devices(name: str) -> tuple[str, ...]:
    """The types of the devices on which a backend can work here."""
    if name != "triton":
        return _BACKENDS[name]
    # Triton's interpreter takes tensors of any device
    interpreted = ("cpu",) if os.environ.get("TRITON_INTERPRET") == "1" else ()
    return (_BACKENDS[name] if torch.cuda.is_available() else ()) + interpreted


@torch.no_grad()
def rasterize(vertices: Tensor, faces: Tensor, height: int, width: int, backend: str = "auto") -> Fragments:
    """The nearest face at every pixel's centre, without gradients (`mlanet_lib.renderer` has those).

    vertices: (B, V, 3), x to the right and y down in pixels, depth > 0, smaller is nearer; faces: (F, 3) integers,
    shared by the batch, of either winding; backend: a name of `backends()` or "auto". The pixel (i, j) is covered by a
    triangle that contains its centre (j + 0.5, i + 0.5), edges included. The lowest depth wins, of equal ones the
    lowest face index (pytorch3d: of faces with the same corners in the same order; see its backend for others).
    Triangles without area, or with a vertex that is not finite or has depth <= 0, are left out;
    those partly outside the picture are drawn where they are inside. float64 stays float64, all else is float32.
    Raises ValueError for wrong shapes or indices, UserError for a backend that is not here. On a GPU the indices in a
    tensor of faces are looked through at its first use, and again when it was changed in place.
    """
    if vertices.ndim != 3 or vertices.shape[-1] != 3:
        raise ValueError(f"vertices must be (B, V, 3), not {tuple(vertices.shape)}")
    if faces.ndim != 2 or faces.shape[-1] != 3 or faces.is_floating_point():
        raise ValueError(f"faces must be (F, 3) integers, not {tuple(faces.shape)} {faces.dtype}")
    if height < 1 or width < 1:
        raise ValueError(f"the picture must have at least one pixel, not {height} x {width}")
    low, high = _extent(faces)
    if not (low >= 0 and high < vertices.shape[1]):
        raise ValueError(f"faces index vertices {low} to {high} of {vertices.shape[1]}")
    name = choose(backend, vertices.device)
    possible = _devices(name)
    device = vertices.device if vertices.device.type in possible else torch.device(possible[0])
    dtype = torch.float64 if vertices.dtype == torch.float64 else torch.float32
    module = import_module(f"mlanet_lib.rasterizer.{name}_backend")
    result = module.rasterize(
        vertices.detach().to(device, dtype).contiguous(), faces.to(device).contiguous(), height, width
    )
    return Fragments(*(tensor.to(vertices.device) for tensor in result))


def _extent(faces: Tensor) -> tuple[int, int]:
    """The lowest and highest vertex index; of no faces (0, -1). On a device they are looked for once a tensor."""
    if not faces.numel():
        return 0, -1
    if faces.device.type == "cpu":
        # by numpy, since a torch reduction wakes all of its threads, which costs more than the work
        values = faces.numpy()
        return int(values.min()), int(values.max())
    version = None if faces.is_inference() else faces._version
    known = _extents.get(faces)
    if version is None or known is None or known[0] != version:
        known = _extents[faces] = version, *torch.stack(faces.aminmax()).tolist()
    return known[1:]
