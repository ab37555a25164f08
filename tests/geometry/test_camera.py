"""Rotations, their signs (also on real files), and the projection."""

import math

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.nn.functional import normalize

from mlanet_lib.geometry.camera import (
    euler_to_matrix,
    flip,
    matrix_to_euler,
    project,
    rotation_6d_to_matrix,
    rotation_vector_to_matrix,
    to_camera,
)


def six_of(rotation):
    """The first two columns, one after the other."""
    return torch.cat([rotation[..., :, 0], rotation[..., :, 1]], -1)


def angles(count: int, seed: int = 0) -> torch.Tensor:
    limits = torch.tensor([175.0, 89.0, 175.0], dtype=torch.float64)
    return (torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * limits


def test_euler_is_the_product_of_3ddfas_three_matrices():
    for pitch, yaw, roll in angles(20):
        (cx, sx), (cy, sy), (cz, sz) = (
            (math.cos(a), math.sin(a)) for a in torch.deg2rad(torch.stack([pitch, yaw, roll]))
        )
        rx = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
        ry = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        rz = np.array([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
        found = euler_to_matrix(torch.stack([pitch, yaw, roll])).numpy()
        np.testing.assert_allclose(found, rx @ ry @ rz, atol=1e-14)


def test_euler_round_trip():
    degrees = angles(2000)
    assert (matrix_to_euler(euler_to_matrix(degrees)) - degrees).abs().max() < 1e-10
    assert (matrix_to_euler(euler_to_matrix(degrees.float())) - degrees).abs().max() < 0.02


degree = st.floats(-720, 720, allow_nan=False)
coordinate = st.floats(-1e3, 1e3, allow_nan=False)


@settings(deadline=None)
@given(st.tuples(degree, degree, degree))
def test_any_angles_give_a_rotation_that_its_own_angles_give_again(degrees):
    """Also beyond 90 degrees of yaw, where other angles come back, and at the gimbal lock."""
    matrix = euler_to_matrix(torch.tensor(degrees, dtype=torch.float64))
    assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert abs(float(torch.linalg.det(matrix)) - 1) < 1e-12
    again = matrix_to_euler(matrix)
    assert torch.allclose(euler_to_matrix(again), matrix, atol=3e-6)  # at the lock, roll is given up below 1e-6
    assert (again.abs() <= 180 + 1e-9).all() and again[1].abs() <= 90 + 1e-9


@settings(deadline=None)
@given(st.tuples(degree, degree, degree), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), coordinate)
def test_any_rotation_comes_back_from_its_six_numbers(degrees, first, second, shear):
    """Whatever length the two columns have, and whatever share of the first is in the second."""
    matrix = euler_to_matrix(torch.tensor(degrees, dtype=torch.float64))
    six = six_of(matrix)
    assert torch.allclose(rotation_6d_to_matrix(six), matrix, atol=1e-12)
    stretched = torch.cat([first * six[:3], second * six[3:] + 1e-3 * shear * second * six[:3]])
    assert torch.allclose(rotation_6d_to_matrix(stretched), matrix, atol=1e-9)


@settings(deadline=None)
@given(st.lists(coordinate, min_size=6, max_size=6))
def test_any_six_numbers_that_span_a_plane_give_a_rotation(values):
    six = torch.tensor(values, dtype=torch.float64)
    a, b = six[:3], six[3:]
    if float(torch.linalg.cross(a, b).norm()) < 1e-6 * max(1.0, float(a.norm() * b.norm())):
        return  # parallel columns leave the rotation open
    matrix = rotation_6d_to_matrix(six)
    assert torch.allclose(matrix.T @ matrix, torch.eye(3, dtype=torch.float64), atol=1e-8)
    assert abs(float(torch.linalg.det(matrix)) - 1) < 1e-8
    assert float((matrix[:, 0] * a).sum()) > 0 and float((matrix[:, 1] * b).sum()) > 0


@pytest.mark.parametrize("yaw", [90.0, -90.0])
def test_euler_at_the_gimbal_lock_gives_the_same_matrix(yaw):
    degrees = torch.tensor([[20.0, yaw, 0.0], [-35.0, yaw, 15.0]], dtype=torch.float64)
    matrices = euler_to_matrix(degrees)
    again = matrix_to_euler(matrices)
    assert torch.allclose(euler_to_matrix(again), matrices, atol=1e-12)
    assert torch.equal(again[:, 2], torch.zeros(2, dtype=torch.float64))


def test_euler_signs_in_the_picture():
    """Positive pitch lifts the nose, positive yaw turns it to the image's left, positive roll is clockwise."""
    far = torch.tensor([[0.0, 0.0, 1000.0]])
    nose, crown = torch.tensor([[[0.0, 0.0, 100.0]]]), torch.tensor([[[0.0, 100.0, 0.0]]])

    def pixel(points, degrees):
        camera = to_camera(points, euler_to_matrix(torch.tensor([degrees])), far)
        return (project(camera, torch.tensor([1.0]), 100, 100)[0, 0, :2] - 50).tolist()

    assert pixel(nose, [20.0, 0.0, 0.0])[1] < -1  # y runs down
    assert pixel(nose, [0.0, 20.0, 0.0])[0] < -1
    assert pixel(crown, [0.0, 0.0, 20.0])[0] > 1
    assert pixel(crown, [0.0, 0.0, 0.0])[1] < -1


def test_euler_signs_on_real_files(shared_data):
    """Undoing a file's rotation makes its 68 points a frontal, upright, mirror-symmetric face.

    Also pins the points' frame: pixels with y down, larger depth nearer.
    """
    files = sorted((shared_data / "AFLW2000_dev").glob("*.mat"))
    if not files:
        pytest.skip("no .mat file in AFLW2000_dev")
    right, left = [36, 39, 31, 48, 0], [45, 42, 35, 54, 16]  # eye corners, nostrils, mouth corners, jaw
    turned, frontal, left_of_centre = [], [], []
    for file in files[:300]:
        data = scipy.io.loadmat(file)
        points = data["pt3d_68"].astype(np.float64).T * [1, -1, 1]
        degrees = np.rad2deg(data["Pose_Para"][0, :3].astype(np.float64))
        if np.abs(degrees).max() > 90:
            continue
        canonical = points @ euler_to_matrix(torch.tensor(degrees)).numpy()  # rows: R^T x
        axis = canonical[left] - canonical[right]
        turned.append(np.abs((axis / np.linalg.norm(axis, axis=1, keepdims=True))[:, 1:]).mean())
        frontal.append(canonical[30, 2] > canonical[[36, 45, 48, 54], 2].max())
        if abs(degrees[1]) > 20 and abs(degrees[2]) < 20:
            offset = points[30, 0] - points[[36, 45], 0].mean()
            left_of_centre.append(np.sign(-offset) == np.sign(degrees[1]))
    assert len(turned) >= 5
    assert np.median(turned) < 0.05  # the sine of about 3 degrees; any wrong sign gives several times that
    assert np.mean(frontal) > 0.98
    assert np.mean(left_of_centre) > 0.98


@pytest.mark.parametrize("length", [0.0, 1e-5, 0.3, 3.1, 7.0])
def test_rotation_vectors_are_turns_about_their_axis(length):
    axes = normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    expected = Rotation.from_rotvec((length * axes).numpy()).as_matrix()
    assert torch.allclose(rotation_vector_to_matrix(length * axes), torch.from_numpy(expected), atol=1e-9)
    single = rotation_vector_to_matrix((length * axes).float())
    assert torch.allclose(single, torch.from_numpy(expected).float(), atol=2e-6)


def test_rotation_vectors_have_a_gradient_at_zero():
    jacobian = torch.autograd.functional.jacobian(rotation_vector_to_matrix, torch.zeros(3, dtype=torch.float64))
    for axis in range(3):
        cross = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[axis].expand(3, 3), torch.eye(3).double()).T
        assert torch.allclose(jacobian[..., axis], cross, atol=1e-9)


def test_6d_round_trip_and_orthonormality():
    rotation = euler_to_matrix(angles(100))
    assert torch.allclose(rotation_6d_to_matrix(six_of(rotation)), rotation, atol=1e-12)
    any_six = torch.randn(100, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 7
    found = rotation_6d_to_matrix(any_six)
    assert torch.allclose(
        found @ found.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(100, 3, 3), atol=1e-12
    )
    assert torch.allclose(torch.linalg.det(found), torch.ones(100, dtype=torch.float64))
    # scaling either column changes nothing
    scaled = any_six * torch.tensor([3.0, 3, 3, 0.5, 0.5, 0.5])
    assert torch.allclose(rotation_6d_to_matrix(scaled), found, atol=1e-12)


def test_to_camera_is_the_stated_equation():
    generator = torch.Generator().manual_seed(2)
    vertices = torch.randn(3, 10, 3, dtype=torch.float64, generator=generator)
    rotation, translation = euler_to_matrix(angles(3)), torch.randn(3, 3, dtype=torch.float64, generator=generator)
    expected = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64)) @ rotation @ vertices.transpose(1, 2)
    expected = expected.transpose(1, 2) + translation[:, None]
    assert torch.allclose(to_camera(vertices, rotation, translation), expected)
    assert torch.equal(flip(flip(vertices)), vertices)


def test_projection_pixels_and_resolution():
    points = torch.tensor([[[0.0, 0.0, 1000.0], [100.0, -50.0, 1000.0]]])
    focal = torch.tensor([4.0])
    small, large = project(points, focal, 60, 80), project(points, focal, 120, 160)
    assert torch.allclose(small[0, 0], torch.tensor([40.0, 30.0, 1000.0]))
    assert torch.allclose(small[0, 1], torch.tensor([40 + 4 * 80 * 0.1, 30 - 4 * 80 * 0.05, 1000.0]))
    assert torch.allclose(large[..., :2], small[..., :2] * 2)


def test_points_not_in_front_are_finite_with_finite_gradients():
    points = torch.tensor([[[1.0, 2.0, 0.0], [1.0, 2.0, -5.0], [1.0, 2.0, 5.0]]], requires_grad=True)
    found = project(points, torch.tensor([1.0]), 10, 10)
    assert torch.isfinite(found).all() and torch.equal(found[..., 2], points[..., 2])
    found.sum().backward()
    assert torch.isfinite(points.grad).all()
