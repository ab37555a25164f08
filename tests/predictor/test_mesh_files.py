"""Files that open elsewhere: read back with trimesh, in the right units, all of a face or none."""

import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from mlanet_lib.drawing import textures
from mlanet_lib.errors import UserError
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import mesh_files


@pytest.fixture
def parameters(toy_model):
    generator = torch.Generator().manual_seed(0)
    return FaceParameters.neutral(toy_model, 1).replace(
        identity=torch.randn(1, 5, generator=generator), albedo=torch.randn(1, 3, generator=generator)
    )


def test_baked_texture_holds_each_vertex_value_at_its_uv(toy_model):
    values = torch.cat([toy_model.uv, 1 - toy_model.uv[:, :1]], 1)  # linear over the map: exact in every texel
    texture = textures.bake(toy_model.uv, toy_model.faces, values, 128)
    j, i = np.meshgrid(np.arange(128), np.arange(128))
    wanted = np.stack([(j + 0.5) / 128, 1 - (i + 0.5) / 128], -1)
    inside = (np.abs(wanted - 0.5) < 0.48).all(-1)
    assert np.abs(texture[..., :2] - wanted)[inside].max() < 1e-4


def test_uncovered_texels_continue_the_nearest():
    uv = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    texture = textures.bake(uv, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.full((4, 1), 0.7), 32)
    assert np.allclose(texture, 0.7)


def test_a_mesh_without_uv_is_refused(toy_model):
    with pytest.raises(UserError, match="UV"):
        textures.bake(torch.zeros_like(toy_model.uv), toy_model.faces, toy_model.albedo_mean, 16)


def test_files_open_in_trimesh_with_their_units(toy_model, parameters, tmp_path):
    overlay = np.zeros((8, 8, 3), np.uint8)
    parameters = parameters.replace(expression=torch.full_like(parameters.expression, 0.5))
    paths = mesh_files.write_face(tmp_path, "me_0", toy_model, parameters, {"score": 0.5}, overlay)
    names = {path.name for path in paths}
    assert names == {"me_0.obj", "me_0.mtl", "me_0_texture.png", "me_0.glb", "me_0.json", "me_0.png"}
    assert names == {path.name for path in tmp_path.iterdir()}
    seen = toy_model.vertices(parameters.identity, parameters.expression)[0].numpy()
    rest = toy_model.vertices(parameters.identity, 0 * parameters.expression)[0].numpy()
    assert np.abs(seen - rest).max() > 0.1
    obj = trimesh.load(tmp_path / "me_0.obj", process=False)
    glb = next(iter(trimesh.load(tmp_path / "me_0.glb", process=False).geometry.values()))
    texture = Image.open(tmp_path / "me_0_texture.png")
    for mesh, unit, picture, wanted in (
        (obj, 1.0, obj.visual.material.image, seen),
        (glb, 1000.0, glb.visual.material.baseColorTexture, rest),
    ):
        assert len(mesh.faces) == len(toy_model.faces)
        assert np.abs(np.sort(mesh.vertices * unit, 0) - np.sort(wanted, 0)).max() < 1e-3
        # the same point of the face has the same colour in every file
        vertex = int(np.abs(mesh.vertices * unit - wanted[100]).sum(1).argmin())
        assert np.abs(mesh.visual.uv[vertex] - toy_model.uv[100].numpy()).max() < 1e-5
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(texture))
    assert glb.vertex_normals.shape == glb.vertices.shape
    assert json.loads((tmp_path / "me_0.json").read_text()) == {"generator": "written by mlanet", "score": 0.5}


def test_normals_point_out(toy_model, parameters, tmp_path):
    mesh_files.write_face(tmp_path, "x_0", toy_model, parameters, {})
    mesh = trimesh.load(tmp_path / "x_0.obj", process=False)
    assert ((mesh.face_normals * mesh.triangles_center).sum(1) > 0).mean() > 0.95


def test_photo_texture_takes_the_photo_where_it_is_seen(toy_model, parameters):
    crop = np.zeros((96, 96, 3), np.uint8)
    crop[..., 0] = 200
    texture = textures.photo_texture(toy_model, parameters, crop, 64)
    assert np.abs(texture[32, 32].astype(int) - [200, 0, 0]).max() <= 2
    turned = parameters.replace(rotation=torch.diag(torch.tensor([-1.0, 1.0, -1.0]))[None])  # we see its back
    assert (textures.photo_texture(toy_model, turned, crop, 64) == textures.albedo_texture(toy_model, turned, 64)).all()


def test_all_files_or_none(toy_model, parameters, tmp_path):
    for record in ({"score": float("nan")}, {"score": object()}):
        with pytest.raises((ValueError, TypeError)):
            mesh_files.write_face(tmp_path, "a_0", toy_model, parameters, record)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="not finite"):
        mesh_files.write_face(
            tmp_path, "a_0", toy_model, parameters.replace(identity=torch.full((1, 5), torch.nan)), {}
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        mesh_files.write_face(tmp_path / "file" / "sub", "a_0", toy_model, parameters, {})


def test_a_failed_move_takes_back_what_was_placed(tmp_path):
    (tmp_path / "b.txt").mkdir()  # a folder where a file is to go: its move fails after a.txt's
    with pytest.raises(UserError), mesh_files.together(tmp_path) as temporary:
        (temporary / "a.txt").write_text("1")
        (temporary / "b.txt").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_triangles_across_the_map_s_border_hide_nothing_and_have_one_colour():
    """A square whose last triangle joins its far corners the other way round, as at the back of a closed head."""
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    faces = torch.tensor([[0, 3, 1], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    values = torch.tensor([[1.0], [0], [0], [1.0], [0.5]])
    texture = textures.bake(uv, faces, values, 16)[..., 0]
    assert np.allclose(texture, 1 - (np.arange(16) + 0.5) / 16, atol=1e-5)
    source, opened, placed = textures.cut(uv, faces)
    assert source.tolist() == [0, 1, 2, 3, 4, 0, 3, 1] and opened[0].tolist() == [5, 6, 7]
    assert (opened[1:] == faces[1:].numpy()).all() and (placed[5:] == 0).all()
    assert (source[opened] == faces.numpy()).all()
