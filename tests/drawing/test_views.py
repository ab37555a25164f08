"""Pictures of faces: the face is where it should be, seen from where it should be."""

import numpy as np
import pytest
import torch

from mlanet_lib.drawing import views
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.crops import Box
from mlanet_lib.parameters import FaceParameters


@pytest.fixture
def face(toy_model):
    return FaceParameters.neutral(toy_model, 1)


def test_panels_show_the_face_where_it_is(toy_model, face):
    crop = np.full((64, 64, 3), 200, np.uint8)
    panels = views.panels(toy_model, face, crop, 48)
    assert list(panels) == ["photo", "overlay", "mesh", "side view", "albedo"]
    assert all(picture.shape == (48, 48, 3) and picture.dtype == np.uint8 for picture in panels.values())
    assert (panels["photo"] == 200).all()
    assert (panels["overlay"][24, 24] != 200).any() and (panels["overlay"][0, 0] == 200).all()
    albedo = toy_model.albedo(face.albedo)[0].mean(0)
    assert np.abs(panels["albedo"][24, 24] / 255 - albedo.numpy()).max() < 0.08


def test_framed_keeps_the_face_in_the_picture_from_every_side(toy_model, face):
    for yaw in (-90, -45, 0, 45, 90):
        seen = views.framed(toy_model, face, yaw)
        assert float(seen.pose_degrees()[0, 1]) == pytest.approx(yaw, abs=0.1)
        points = views.landmarks(toy_model, seen)[0]
        assert points.min() > 0 and points.max() < 1
        assert np.abs(points.mean(0) - 0.5).max() < 0.2


def test_clay_light_comes_from_the_upper_right(toy_model, face):
    picture = views.coloured(toy_model, face, 64).astype(float)
    assert picture[26, 40].sum() > picture[40, 24].sum()


def test_overlay_lies_on_the_same_pixels_as_the_crop_s_rendering(toy_model, face):
    """The wider window of the overlay is the crop's camera: the mask agrees inside the crop."""
    box = Box(50.0, 30.0, 100.0, 100.0)
    turned = face.replace(rotation=euler_to_matrix(torch.tensor([[10.0, 30.0, 5.0]])))
    photo = np.zeros((180, 220, 3), np.uint8)
    middle = np.full((68, 2), [100.0, 80.0])  # within the face, so that the points hide no border
    drawn = views.overlay_in_photo(toy_model, turned, photo, box, middle, opacity=1.0)
    _, mask = views.rendered(toy_model, turned, 100)
    inside = drawn[30:130, 50:150].max(-1) > 50
    assert (inside != mask).mean() < 0.02


def test_drawn_landmarks_stand_at_their_points():
    photo = np.zeros((100, 100, 3), np.uint8)
    points = np.full((68, 2), 20.0)
    points[30] = [70.5, 60.5]
    drawn = views.draw_landmarks(photo, points, width=2)
    assert drawn[60, 70].sum() > 300 and drawn[90, 90].sum() == 0


@pytest.mark.parametrize("yaw", [-90, -55, 0, 55])
def test_the_whole_head_stands_in_the_picture_s_middle(face_model, yaw):
    def extent(seen: FaceParameters) -> tuple[torch.Tensor, torch.Tensor]:
        camera = to_camera(face_model.vertices(seen.identity, seen.expression), seen.rotation, seen.translation)
        points = project(camera, seen.focal, 1, 1)[0, :, :2]
        return points.amin(0), points.amax(0)

    head = FaceParameters.neutral(face_model)
    low, high = extent(views.framed(face_model, head, yaw))
    assert low.min() < 0  # as crops are framed, a part of the head is cut
    seen = views.framed(face_model, head, yaw, whole=True)
    low, high = extent(seen)
    assert ((low + high) / 2 - 0.5).abs().max() < 0.02
    assert float((high - low).max()) < 0.96
    assert float(seen.pose_degrees()[0, 1]) == pytest.approx(yaw, abs=0.1)
