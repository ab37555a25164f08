"""Faces as files: OBJ + MTL + texture, GLB, overlay and parameters, all files of a face or none.

OBJ is in millimetres in the model frame (y up, z out of the face); GLB is in metres, as glTF has it, same axes. GLB
carries the expressions as morph targets under the model's names (ARKit's): its mesh is the neutral face, and it opens
with the predicted expression. The texture is the model's per-vertex albedo baked through its UV map, or taken from the
photo where the face is visible.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlanet_lib.drawing.textures import albedo_texture, cut
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.activations import activations
from mlanet_lib.files import obj
from mlanet_lib.files.atomic import safe_name, together
from mlanet_lib.files.outputs import MARK
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import glb


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray) -> None:
    """`path` (.obj), and beside it STEM.mtl and STEM_texture.png. vertices (V,3) mm, faces (F,3) 0-based, uv (V,2)."""
    stem = path.stem
    head = [f"# {MARK}: millimetres, y up, z out of the face", f"mtllib {stem}.mtl", f"o {stem}"]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(obj.lines_of(vertices, faces, uv=uv, head=head, material=["usemtl face", "s 1"]))
    material = [f"# {MARK}", "newmtl face", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {stem}_texture.png"]
    path.with_name(f"{stem}.mtl").write_text("\n".join(material) + "\n", encoding="utf-8")
    write_png(path.with_name(f"{stem}_texture.png"), texture)


def write_png(path: Path, image: np.ndarray) -> None:
    """A picture (H,W,3) uint8 as PNG, with mlanet's mark in its text field "Software"."""
    text = PngInfo()
    text.add_text("Software", MARK)
    Image.fromarray(image).save(path, format="PNG", pnginfo=text)


def write_glb(
    path: Path,
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    texture: np.ndarray,
    normals: np.ndarray,
    targets: Mapping[str, glb.Target] | None = None,
) -> None:
    """One binary glTF file with the texture inside. `vertices` (V,3) in mm, the file in metres; normals (V,3) unit.

    targets: morph targets by name, moves in mm.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb

    material = trimesh.visual.material.PBRMaterial(
        name="face", baseColorTexture=Image.fromarray(texture), metallicFactor=0.0, roughnessFactor=0.9
    )
    mesh = trimesh.Trimesh(
        vertices=np.asarray(vertices, float) / 1000,
        faces=np.asarray(faces),
        vertex_normals=normals,
        visual=trimesh.visual.TextureVisuals(uv=np.asarray(uv, float), material=material),
        process=False,
    )
    tree, binary = glb.read(export_glb(mesh, include_normals=True))
    if targets:
        metres = {name: target._replace(moves=target.moves / 1000) for name, target in targets.items()}
        binary = glb.add_targets(tree, binary, metres)
    tree = {"asset": tree.pop("asset") | {"generator": MARK}} | tree  # at the beginning, where `outputs.is_own` looks
    path.write_bytes(glb.write(tree, binary))


def _targets(
    model: MorphableModel, neutral: torch.Tensor, weights: torch.Tensor, source: np.ndarray
) -> dict[str, glb.Target]:
    """Each expression by name: what it does to a face at rest (1,V,3) mm at activation 1, at the vertices `source`, and
    its activation (weights (Ke,)). The model is linear in the expression."""
    one_each = torch.eye(model.n_expression)
    nobody = torch.zeros(1, model.n_identity)
    rest = model.vertices(nobody, torch.zeros(1, model.n_expression))
    normals = model.normals(neutral)[0]
    targets = {}
    for name, row, weight in zip(model.expression_names, one_each, weights.tolist(), strict=True):
        moves = model.vertices(nobody, row[None]) - rest
        turns = model.normals(neutral + moves)[0] - normals
        targets[name] = glb.Target(moves[0].numpy()[source], turns.numpy()[source], weight)
    return targets


def write_face(
    folder: str | Path,
    stem: str,
    model: MorphableModel,
    parameters: FaceParameters,
    record: dict,
    overlay: np.ndarray | None = None,
    texture: np.ndarray | None = None,
    may_replace: Callable[[Path], bool] | None = None,
) -> list[Path]:
    """All files of one face (`parameters`: batch of 1) in `folder`: STEM.obj, .mtl, _texture.png, .glb, .json, .png.

    stem: as a safe name (`files.atomic.safe_name`). The meshes carry identity and expression, OBJ in its vertices and
    GLB in its morph targets' weights (`activations`), not the pose, which is in the JSON. `record` is written as JSON
    (finite numbers only), `overlay` (H,W,3) uint8 as STEM.png, `texture` instead of the baked albedo. may_replace:
    which files of these names may be replaced (all). Returns the paths.
    Raises UserError if the folder cannot be written; then none of the files is there.
    """
    stem = safe_name(stem)
    parameters = parameters.detach().to("cpu")
    vertices = model.vertices(parameters.identity, parameters.expression)[0].numpy()
    if not np.isfinite(vertices).all():
        raise UserError(f"{stem}: the reconstruction holds numbers that are not finite; nothing was written")
    texture = albedo_texture(model, parameters) if texture is None else texture
    source, faces, uv = cut(model.uv, model.faces)
    neutral = model.vertices(parameters.identity, torch.zeros_like(parameters.expression))
    normals = model.normals(neutral)[0].numpy()[source]
    targets = _targets(model, neutral, activations(model, parameters.expression)[0], source)
    with together(folder, may_replace or (lambda path: True)) as temporary:
        write_obj(temporary / f"{stem}.obj", vertices[source], faces, uv, texture)
        write_glb(temporary / f"{stem}.glb", neutral[0].numpy()[source], faces, uv, texture, normals, targets)
        text = json.dumps({"generator": MARK, **record}, indent=1, allow_nan=False) + "\n"
        (temporary / f"{stem}.json").write_text(text, encoding="utf-8")
        if overlay is not None:
            write_png(temporary / f"{stem}.png", overlay)
        names = sorted(path.name for path in temporary.iterdir())
    return [Path(folder) / name for name in names]
