"""Mirrored faces: the picture of the mirrored parameters is the mirrored picture."""

import dataclasses

import pytest
import torch
from toy_faces import some_faces

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.mirror import Mirror, mean_of
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.network import MLANet
from mlanet_lib.predictor import Predictor
from mlanet_lib.renderer import decode, render_face
from mlanet_lib.training.augmentation import AugmentConfig, augment, random_numbers
from mlanet_lib.training.data import Batch

OFF = AugmentConfig(**{field.name: 0.0 for field in dataclasses.fields(AugmentConfig)})


def test_the_mirrored_parameters_draw_the_mirrored_picture(face_model):
    faces, mirror = some_faces(face_model), Mirror.of(face_model)
    other = mirror.parameters(faces)
    drawn, expected = render_face(face_model, other, 96), render_face(face_model, faces, 96)
    inside = torch.nn.functional.avg_pool2d(drawn.mask, 5, 1, 2) > 0.99
    difference = (drawn.image - expected.image.flip(3)).abs() * inside
    assert difference.quantile(0.999) < 0.1 and difference.sum() / (3 * inside.sum()) < 1e-3  # gums are not quite alike
    assert ((drawn.image - expected.image).abs() * inside).sum() / (3 * inside.sum()) > 0.03
    points = decode(face_model, faces).landmarks2d(1)[:, mirror.twins] * torch.tensor([-1.0, 1]) + torch.tensor(
        [1.0, 0]
    )
    assert torch.allclose(decode(face_model, other).landmarks2d(1), points, atol=5e-3)  # outer eye corners differ most


def test_twice_is_the_same_face(face_model):
    faces, mirror = some_faces(face_model), Mirror.of(face_model)
    twice = mirror.parameters(mirror.parameters(faces))
    for name, value in faces.as_tensors().items():
        learned = name in ("identity", "expression")  # modes of scans: mirrored ones are modes again, but nearly
        assert torch.allclose(getattr(twice, name), value, atol=0.1 if learned else 1e-4), name


def test_what_is_known_of_a_smile_is_known_of_the_other_side(face_model):
    mirror, names = Mirror.of(face_model), face_model.expression_names
    left, right = (face_model.n_identity + names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    known = torch.zeros(1, face_model.n_identity + face_model.n_expression)
    known[0, left] = 0.7
    assert mirror.known(known)[0, right] == pytest.approx(0.7, abs=0.02)
    assert mirror.known(known)[0, left] == pytest.approx(0, abs=0.02)


def test_left_and_right_expressions_change_places(face_model):
    names, matrix = face_model.expression_names, Mirror.of(face_model).maps["expression"]
    left, right = names.index("mouthSmileLeft"), names.index("mouthSmileRight")
    assert matrix[left, right] == pytest.approx(1, abs=0.01) and matrix[left, left] == pytest.approx(0, abs=0.01)
    assert matrix[names.index("jawOpen"), names.index("jawOpen")] == pytest.approx(1, abs=0.01)


def test_augmentation_mirrors_that_share_of_a_batch(face_model):
    count, mirror = 40, Mirror.of(face_model)
    faces = some_faces(face_model, 1)[torch.zeros(count).long()]
    with torch.no_grad():
        image = render_face(face_model, faces[:1], 32).image.clamp(0, 1).expand(count, -1, -1, -1)
    points = decode(face_model, faces).landmarks2d(1)
    visible = (torch.arange(68.0) / 68).repeat(count, 1)
    sets = torch.arange(count) % 2
    known = torch.rand(count, 153, generator=torch.Generator().manual_seed(1))
    yes, same = torch.ones(count, dtype=torch.bool), torch.zeros(count).long()
    batch = Batch(image, image, points, visible, visible, faces, known, same, yes, yes, sets, same)
    numbers = random_numbers(count, torch.Generator().manual_seed(0))
    found = augment(batch, dataclasses.replace(OFF, mirror=0.5), numbers, mirror)
    flipped = (found.target - image.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    same = (found.target - image).abs().amax((1, 2, 3)) < 1e-4
    assert (flipped ^ same).all() and 10 < flipped.sum() < 30
    assert torch.allclose(decode(face_model, found.parameters).landmarks2d(1), found.landmarks, atol=5e-3)
    assert torch.equal(found.visible[flipped], visible[flipped][:, mirror.twins])
    assert torch.equal(found.known[same], known[same])
    assert torch.equal(found.known[flipped], mirror.known(known)[flipped])
    assert torch.equal(found.visible[same], visible[same]) and torch.equal(found.points_set, sets)


def test_a_model_without_the_symmetry_is_refused(face_model, toy_model):
    with pytest.raises(UserError, match="cannot show a mirrored identity"):
        Mirror.of(toy_model)
    bent = face_model.mean.clone()
    bent[bent[:, 0] > 20, 2] += 10
    with pytest.raises(UserError, match=r"is not symmetric \(vertices lie"):
        Mirror.of(face_model.replace(mean=bent.numpy()))


def test_the_mean_of_two_readings_lies_halfway(face_model):
    faces = some_faces(face_model)
    other = faces.replace(
        identity=faces.identity + 1, rotation=euler_to_matrix(torch.tensor([[10.0, 50.0, 8.0]]).repeat(3, 1))
    )
    mean = mean_of(faces, other)
    assert torch.allclose(mean.identity, faces.identity + 0.5) and torch.allclose(mean.lighting, faces.lighting)
    assert torch.allclose(mean.pose_degrees(), torch.tensor([[10.0, 40.0, 8.0]]), atol=0.3)
    assert torch.allclose(torch.linalg.det(mean.rotation), torch.ones(3), atol=1e-5)


def test_a_mirrored_reading_reads_mirrored_pictures_as_mirrored_faces(face_model):
    torch.manual_seed(0)
    network = MLANet(face_model, backbone="resnet10t", image_size=32, width=8, pool=2).eval()
    for head in network.heads.values():
        torch.nn.init.normal_(head.weight, std=0.05)
    metadata = {"face_model": {"name": face_model.name, "fingerprint": face_model.fingerprint}, "step": 7}
    images, mirror = torch.rand(2, 3, 32, 32), Mirror.of(face_model)
    plain, both = (Predictor(network, face_model, metadata, mirrored=flag) for flag in (False, True))
    for predictor, agrees in ((plain, False), (both, True)):
        seen, flipped = predictor.predict_crops(images), mirror.parameters(predictor.predict_crops(images.flip(3)))
        assert torch.allclose(seen.rotation, flipped.rotation, atol=1e-4) == agrees
        assert torch.allclose(seen.expression, flipped.expression, atol=1e-3) == agrees
    assert both.weights.endswith("step 7, mirrored)") and plain.weights.endswith("step 7)")
