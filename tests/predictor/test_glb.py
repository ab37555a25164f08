"""Morph targets of a GLB file: read back by hand, they make the face that was written."""

import numpy as np
import pytest
import torch

from mlanet_lib.drawing import textures
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import glb, mesh_files


def values(tree, binary, index):
    """What an accessor holds, (count, 3) or (count,), dense or sparse, after the specification."""
    accessor = tree["accessors"][index]
    width = {"VEC3": 3, "SCALAR": 1}[accessor["type"]]

    def part(view, dtype, count):
        start = tree["bufferViews"][view]["byteOffset"]
        return np.frombuffer(binary, dtype, count, start)

    if "bufferView" in accessor:
        return part(accessor["bufferView"], "<f4", accessor["count"] * width).reshape(-1, width)
    dense = np.zeros((accessor["count"], width), np.float32)
    if sparse := accessor.get("sparse"):
        rows = part(sparse["indices"]["bufferView"], "<u4", sparse["count"])
        assert (np.diff(rows.astype(int)) > 0).all()  # as the specification demands
        dense[rows] = part(sparse["values"]["bufferView"], "<f4", sparse["count"] * width).reshape(-1, width)
    np.testing.assert_allclose([accessor["min"], accessor["max"]], [dense.min(0), dense.max(0)])
    return dense


@pytest.fixture
def written(toy_model, tmp_path):
    torch.manual_seed(3)
    parameters = FaceParameters.neutral(toy_model, 1)
    expression = torch.rand(1, toy_model.n_expression)
    parameters = parameters.replace(identity=torch.randn(1, toy_model.n_identity), expression=expression)
    mesh_files.write_face(tmp_path, "a_0", toy_model, parameters, {})
    return parameters, (tmp_path / "a_0.glb").read_bytes()


def test_the_targets_at_their_weights_are_the_face(written, toy_model):
    parameters, data = written
    tree, binary = glb.read(data)
    mesh = tree["meshes"][0]
    primitive = mesh["primitives"][0]
    assert mesh["extras"]["targetNames"] == list(toy_model.expression_names)
    np.testing.assert_allclose(mesh["weights"], parameters.expression[0])
    position = values(tree, binary, primitive["attributes"]["POSITION"]).astype(float)
    for target, weight in zip(primitive["targets"], mesh["weights"], strict=True):
        position += weight * values(tree, binary, target["POSITION"])
    seen = toy_model.vertices(parameters.identity, parameters.expression)[0].numpy() / 1000
    source, _, _ = textures.cut(toy_model.uv, toy_model.faces)
    np.testing.assert_allclose(position, seen[source], atol=2e-5)


def test_the_container_says_its_sizes(written):
    tree, binary = glb.read(written[1])
    assert 0 <= len(binary) - tree["buffers"][0]["byteLength"] < 4
    views = tree["bufferViews"]
    assert all(view["byteOffset"] % 4 == 0 for view in views)
    assert max(view["byteOffset"] + view["byteLength"] for view in views) == tree["buffers"][0]["byteLength"]
    assert glb.read(glb.write(tree, binary)) == (tree, binary)


def test_another_file_is_refused():
    with pytest.raises(ValueError, match="not a binary glTF"):
        glb.read(b"glTF" + bytes(8))


def test_the_targets_turn_the_normals_as_the_mesh_does(written, toy_model):
    parameters, data = written
    tree, binary = glb.read(data)
    primitive = tree["meshes"][0]["primitives"][0]
    source, _, _ = textures.cut(toy_model.uv, toy_model.faces)
    at_rest = values(tree, binary, primitive["attributes"]["NORMAL"]).astype(float)
    for number, target in enumerate(primitive["targets"]):
        expression = torch.eye(toy_model.n_expression)[[number]]
        wanted = toy_model.normals(toy_model.vertices(parameters.identity, expression))[0].numpy()[source]
        turned = at_rest + values(tree, binary, target["NORMAL"])
        assert np.abs(turned - wanted).max() <= glb.STEADY + 1e-3
        assert np.abs(at_rest - wanted).max() > 5 * glb.STEADY  # there was something to turn


def test_weights_lie_within_zero_and_one_and_the_file_is_signed(toy_model, tmp_path):
    parameters = FaceParameters.neutral(toy_model, 1)
    parameters = parameters.replace(expression=torch.tensor([[-0.8, 1.4, 0.3, 0.0]]))
    mesh_files.write_face(tmp_path, "a_0", toy_model, parameters, {})
    data = (tmp_path / "a_0.glb").read_bytes()
    tree, _ = glb.read(data)
    assert min(tree["meshes"][0]["weights"]) >= 0 and max(tree["meshes"][0]["weights"]) <= 1
    assert tree["asset"] == {"version": "2.0", "generator": "written by mlanet"}
