"""Known motions must come back: with correspondences, from 2D, and without correspondences."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mlanet_lib.alignment import Similarity, icp, rotation_vector, scaled_orthographic, similarity
from mlanet_lib.surface import Surface


def random_similarity(rng, angle=1.0, shift=30.0, factor=0.3):
    rotation = Rotation.from_rotvec(rng.normal(size=3) * angle).as_matrix()
    return Similarity(np.asarray(np.exp(rng.uniform(-factor, factor))), rotation, rng.normal(size=3) * shift)


def bumpy_cap(n=41, reach=1.3):
    """An open, asymmetric cap, about 150 mm, no motion of which maps it onto itself."""
    u, v = np.meshgrid(np.linspace(-reach, reach, n), np.linspace(-reach, reach, n))
    radius = 1 + 0.25 * np.exp(-((u - 0.1) ** 2 + (v + 0.2) ** 2) / 0.05) - 0.1 * np.exp(-((u + 0.5) ** 2 + v**2) / 0.1)
    radius += 0.05 * np.sin(3 * u + 1) * np.cos(2 * v)
    points = [70 * np.sin(u) * np.cos(v) * radius, 100 * np.sin(v) * radius, 80 * np.cos(u) * np.cos(v) * radius]
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = (part.reshape(-1) for part in (i[:-1, :-1], i[:-1, 1:], i[1:, :-1], i[1:, 1:]))
    return np.stack(points, -1).reshape(-1, 3), np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def points_on(rng, vertices, faces, count):
    """Random points of the surface itself, uniform over triangles."""
    weights = rng.dirichlet(np.ones(3), count)
    return (weights[..., None] * vertices[faces[rng.integers(0, len(faces), count)]]).sum(1)


def difference(found, truth, vertices):
    """Largest distance between the two placements of the mesh."""
    return np.abs(found.apply(vertices) - truth.apply(vertices)).max()


@pytest.mark.parametrize("scale", [True, False])
def test_similarity_comes_back(scale):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(6, 50, 3))
    rotation = Rotation.random(6, rng=rng).as_matrix()
    factor = rng.uniform(0.5, 2, 6) if scale else np.ones(6)
    truth = Similarity(factor, rotation, rng.normal(size=(6, 3)))
    found = similarity(source, truth.apply(source), scale=scale)
    assert np.allclose(found.scale, factor, atol=1e-10)
    assert np.allclose(found.rotation, rotation, atol=1e-10)
    assert np.allclose(found.translation, truth.translation, atol=1e-10)
    single = similarity(source[3], truth.apply(source)[3], scale=scale)
    assert np.allclose(single.rotation, rotation[3]) and single.scale.shape == ()


def test_similarity_minimises():
    """No small motion away from the answer lowers the weighted error, and a mirrored target gets no reflection."""
    rng = np.random.default_rng(1)
    source, weights = rng.normal(size=(30, 3)), rng.uniform(0, 2, 30)
    for target in (source @ rng.normal(size=(3, 3)) + 1, source * [1, 1, -1]):
        found = similarity(source, target, weights=weights)
        assert np.isclose(np.linalg.det(found.rotation), 1)

        def error(s, target=target):
            return (weights * ((s.apply(source) - target) ** 2).sum(1)).sum()

        best = error(found)
        for _ in range(200):
            turn, step = rotation_vector(rng.normal(size=3) * 0.02), rng.normal(size=4) * 0.02
            other = Similarity(found.scale * np.exp(step[0]), turn @ found.rotation, found.translation + step[1:])
            assert error(other) >= best


def test_weights_of_zero_drop_points():
    rng = np.random.default_rng(2)
    source, truth = rng.normal(size=(20, 3)), random_similarity(rng)
    target, weights = truth.apply(source), np.ones(20)
    target[:5] += 100
    weights[:5] = 0
    assert difference(similarity(source, target, weights=weights), truth, source) < 1e-9


def test_inverse():
    rng = np.random.default_rng(3)
    move, points = random_similarity(rng), rng.normal(size=(9, 3))
    assert np.allclose(move.inverse().apply(move.apply(points)), points)


def test_a_line_or_nan_is_refused():
    line = np.arange(10.0)[:, None] * np.ones(3)
    with pytest.raises(ValueError, match="one line"):
        similarity(line, line)
    with pytest.raises(ValueError, match="finite"):
        similarity(np.full((5, 3), np.nan), np.zeros((5, 3)))


def test_rotation_vector_against_scipy():
    vectors = np.random.default_rng(4).normal(size=(20, 3)) * np.geomspace(1e-9, 3, 20)[:, None]
    assert np.allclose(rotation_vector(vectors), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)


def test_scaled_orthographic_comes_back():
    rng = np.random.default_rng(5)
    points = rng.normal(size=(68, 3)) * [60, 80, 40] + [3, -20, 10]
    rotation = Rotation.random(50, rng=rng).as_matrix()
    scale, offset = rng.uniform(0.5, 3, 50), rng.normal(size=(50, 2)) * 100
    image = scale[:, None, None] * (points @ rotation.transpose(0, 2, 1))[..., :2] + offset[:, None]
    found = scaled_orthographic(points, image)
    assert np.allclose(found.rotation, rotation, atol=1e-7)
    assert np.allclose(found.scale, scale, rtol=1e-7) and np.allclose(found.offset, offset, atol=1e-5)
    assert np.allclose(found.apply(points), image, atol=1e-5)


def test_scaled_orthographic_is_a_minimum():
    """With other shapes than the model's, against a general optimiser started at random."""
    from scipy.optimize import least_squares

    rng = np.random.default_rng(6)
    points = rng.normal(size=(68, 3)) * [60, 80, 40]
    for _ in range(4):
        image = (points + rng.normal(size=(68, 3)) * 10) @ Rotation.random(rng=rng).as_matrix().T
        found = scaled_orthographic(points, image[None, :, :2]).apply(points)[0]

        def residual(p, image=image):
            turned = Rotation.from_rotvec(p[:3]).apply(points)[:, :2]
            return (np.exp(p[3]) * turned + p[4:] - image[:, :2]).reshape(-1)

        starts = [np.concatenate([rng.normal(size=3), np.zeros(3)]) for _ in range(12)]
        best = min(2 * least_squares(residual, start).cost for start in starts)
        assert ((found - image[:, :2]) ** 2).sum() <= best * (1 + 1e-6)


@pytest.mark.parametrize("scale", [True, False])
def test_icp_comes_back(scale):
    rng = np.random.default_rng(7)
    vertices, faces = bumpy_cap()
    for _ in range(3):
        truth = random_similarity(rng, factor=0.3 if scale else 0.0)
        start = random_similarity(rng, angle=0.08, shift=4, factor=0.06 if scale else 0.0)
        initial = Similarity(
            truth.scale * start.scale, start.rotation @ truth.rotation, truth.translation + start.translation
        )
        cloud = truth.apply(points_on(rng, vertices, faces, 2000))
        found = icp(vertices, faces, cloud, initial, scale=scale)
        assert found.converged
        assert difference(found.transform, truth, vertices) < 1e-4
        assert abs(found.transform.scale - truth.scale) < 1e-6
        assert found.rmse < 1e-5


def test_icp_with_noise_partial_overlap_and_outliers():
    rng = np.random.default_rng(8)
    vertices, faces = bumpy_cap()
    truth = random_similarity(rng)
    start = random_similarity(rng, angle=0.05, shift=3, factor=0.04)
    initial = Similarity(
        truth.scale * start.scale, start.rotation @ truth.rotation, truth.translation + start.translation
    )
    cloud = points_on(rng, vertices, faces, 4000)
    noisy = truth.apply(cloud) + rng.normal(size=cloud.shape) * 0.5
    found = icp(vertices, faces, noisy, initial)
    assert difference(found.transform, truth, vertices) < 0.3
    assert 0.4 < found.rmse < 0.6

    # the cloud covers a part of the mesh, and reaches beyond its rim, where it bends away
    larger, larger_faces = bumpy_cap(65, reach=1.3 * 64 / 48)
    part = points_on(rng, larger, larger_faces, 6000)
    part = part[part[:, 0] > -30]
    found = icp(vertices, faces, truth.apply(part), initial)
    assert found.kept < 0.97
    assert difference(found.transform, truth, vertices) < 0.5

    outliers = cloud.copy()
    outliers[:400] += rng.uniform(10, 60, (400, 1)) * rng.normal(size=(400, 3))
    trimmed = icp(vertices, faces, truth.apply(outliers), initial, trim=0.15)
    assert difference(trimmed.transform, truth, vertices) < 1e-3
    untrimmed = icp(vertices, faces, truth.apply(outliers), initial)
    assert difference(untrimmed.transform, truth, vertices) > 10 * difference(trimmed.transform, truth, vertices)


def test_icp_on_a_sphere_keeps_what_is_open():
    """All rotations fit a sphere: centre and radius are found, the start's rotation stays, nothing blows up."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 61)[:-1], np.linspace(0, np.pi, 31))
    ball = np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], -1).reshape(-1, 3)
    i = np.arange(len(ball)).reshape(31, 60)
    right = np.roll(i, -1, 1)
    faces = np.concatenate(
        [
            np.stack([i[:-1], i[1:], right[:-1]], -1).reshape(-1, 3),
            np.stack([i[1:], right[1:], right[:-1]], -1).reshape(-1, 3),
        ]
    )
    rng = np.random.default_rng(9)
    cloud = rng.normal(size=(2000, 3))
    cloud = 50 * cloud / np.linalg.norm(cloud, axis=1, keepdims=True) + [5, -3, 2]
    found = icp(ball, faces, cloud, Similarity(np.asarray(45.0), np.eye(3), np.zeros(3)))
    assert np.abs(found.transform.translation - [5, -3, 2]).max() < 0.05
    assert abs(found.transform.scale - 50) < 0.2
    assert np.linalg.norm(Rotation.from_matrix(found.transform.rotation).as_rotvec()) < 0.05


def test_icp_does_not_touch_its_arguments_and_refuses_shapes_that_do_not_meet():
    rng = np.random.default_rng(10)
    vertices, faces = bumpy_cap(21)
    cloud = points_on(rng, vertices, faces, 300)
    copies = vertices.copy(), cloud.copy()
    identity = Similarity(np.asarray(1.0), np.eye(3), np.zeros(3))
    icp(vertices, faces, cloud, identity)
    assert np.array_equal(vertices, copies[0]) and np.array_equal(cloud, copies[1])
    with pytest.raises(ValueError, match="do not overlap"):
        icp(vertices, faces, np.array([[500.0, 0, -300]] * 20), identity)
    assert Surface(vertices, faces).closest(cloud).distances.max() < 1e-9
