"""Protocols against published numbers, and against arithmetic done by hand."""

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from scipy.spatial.transform import Rotation

from mlanet_lib import metrics
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import scan_metrics, summary
from mlanet_lib.evaluation.scan_metrics import Mesh


def test_public_system_on_real_labels(shared_data):
    """3DDFA_V2's released network: its published-protocol numbers must come out to 0.001."""
    folder = shared_data / "AFLW2000_dev"
    stored = np.load(folder / "predictions_3ddfa_v2_mb05.npz")
    labels = [loadmat(folder / f"{name[:-4]}.mat") for name in stored["names"]]
    truth = np.stack([label["pt3d_68"][:2].T for label in labels])
    yaw = np.rad2deg([label["Pose_Para"][0, 1] for label in labels])
    nme = metrics.sparse_nme(stored["landmarks68"], truth)
    assert np.abs(nme - stored["nme_percent"]).max() < 1e-4
    found = metrics.by_yaw(nme, yaw)
    expected = {"bin_0_30": 2.869, "bin_30_60": 3.391, "bin_60_90": 4.216, "balanced_mean": 3.492, "image_mean": 3.170}
    for name, value in expected.items():
        assert abs(found[name] - value) < 1e-3, name
    assert found["images"] == [132, 38, 30, 200]
    low, high = summary.bootstrap_interval(nme, strata=metrics.yaw_bin(yaw))
    assert low < 3.492 < high and 0.1 < high - low < 1


def test_a_truth_without_size_is_an_error_and_no_nan():
    truth = np.random.default_rng(0).random((4, 68, 3))
    truth[2, :, 1] = 0.5
    for nme, axes in ((metrics.sparse_nme, 2), (metrics.sparse_3d_nme, 3)):
        with pytest.raises(UserError, match=r"true points of face 2 span no box.* \(1 of 4 faces\)"):
            nme(truth[..., :axes], truth[..., :axes])
        assert np.isfinite(nme(truth[:2, :, :axes], truth[:2, :, :axes])).all()


def test_sparse_nme_by_hand():
    truth = np.zeros((1, 68, 2))
    truth[0, :, 0], truth[0, :, 1] = np.linspace(0, 40, 68), np.linspace(0, 90, 68)
    assert np.isclose(metrics.sparse_nme(truth + np.array([3, 4]), truth)[0], 100 * 5 / 60)
    assert np.isclose(metrics.sparse_nme(7 * (truth + np.array([3, 4])), 7 * truth)[0], 100 * 5 / 60)
    with pytest.raises(ValueError, match="not"):
        metrics.sparse_nme(truth, truth[:, :67])
    with pytest.raises(ValueError, match="not"):
        metrics.sparse_nme(np.zeros((1, 68, 3)), np.zeros((1, 68, 3)))


def test_bins_close_on_the_right():
    yaw = np.array([-30.0, 30.0, 30.01, -60.0, 60.01, -90.0, 0.0])
    assert metrics.yaw_bin(yaw).tolist() == [0, 0, 1, 1, 2, 2, 0]
    found = metrics.by_yaw(np.array([1.0, 1, 2, 2, 6, 6, 1]), yaw)
    assert (found["bin_0_30"], found["bin_30_60"], found["bin_60_90"]) == (1, 2, 6)
    assert found["balanced_mean"] == 3 and np.isclose(found["image_mean"], 19 / 7)
    assert found["images"] == [3, 2, 2, 7]
    empty = metrics.by_yaw(np.array([1.0]), np.array([10.0]))
    assert np.isnan(empty["balanced_mean"]) and empty["image_mean"] == 1 and empty["images"] == [1, 0, 0, 1]


def test_pose_mae_leaves_out_wild_angles():
    truth = np.array([[0.0, 0, 0], [10, 20, 30], [0, 0, 100], [99, 0, 0]])
    predicted = truth + np.array([[1, 2, 3], [-1, -2, -3], [500, 500, 500], [1, 2, 3]])
    result = metrics.pose_mae(predicted, truth)
    geodesic = result.pop("geodesic")
    assert result == {"pitch": 1, "yaw": 2, "roll": 3, "mean": 2, "images": 3} and 2 < geodesic < 5
    assert np.isnan(metrics.pose_mae(predicted[2:3], truth[2:3])["mean"])


def test_the_turn_between_two_poses():
    from mlanet_lib.geometry.camera import euler_to_matrix

    rng = np.random.default_rng(0)
    one, other = rng.uniform(-85, 85, (2, 50, 3))
    turn = euler_to_matrix(torch.from_numpy(one)).mT @ euler_to_matrix(torch.from_numpy(other))
    angle = torch.rad2deg(torch.acos((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2))
    assert metrics.pose_mae(one, other)["geodesic"] == pytest.approx(float(angle.mean()))
    near = metrics.pose_mae(np.array([[60.0, 90, 60]]), np.array([[10.0, 90, 10]]))  # one and the same pose
    assert near["mean"] == pytest.approx(100 / 3) and near["geodesic"] < 1e-5


def test_pose_exclusion_on_real_labels(shared_data):
    files = sorted((shared_data / "AFLW2000_dev").glob("*.mat"))
    truth = np.rad2deg([loadmat(file)["Pose_Para"][0, :3] for file in files])
    assert metrics.pose_mae(truth + 1, truth)["images"] == 199


def test_vertex_error_judges_shape_alone():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 500, 3)) * 60
    turned = truth @ Rotation.random(3, rng=rng).as_matrix() * 1.4 + [10, 20, 900]
    assert metrics.vertex_error(turned, truth).max() < 1e-9
    noisy = truth + rng.normal(size=truth.shape)
    assert np.allclose(metrics.vertex_error(noisy, truth), 2 * np.sqrt(2 / np.pi), rtol=0.1)
    assert (metrics.vertex_error(truth * 1.1, truth, scale=False) > 3).all()


def face_like(toy_model):
    vertices, faces = toy_model.mean.double().numpy(), toy_model.faces.numpy()
    return vertices, faces, [0, 20, 178, 336, 356, 100, 250]


def test_florence_finds_the_surface(toy_model):
    """A scan that is the prediction itself, moved, scaled and sampled elsewhere, has no error."""
    rng = np.random.default_rng(1)
    vertices, faces, landmarks = face_like(toy_model)
    weights = rng.dirichlet(np.ones(3), 20000)
    cloud = (weights[..., None] * vertices[faces[rng.integers(0, len(faces), 20000)]]).sum(1)
    rotation = Rotation.from_rotvec([0.3, -0.8, 0.2]).as_matrix()

    def move(points):
        return 1.25 * points @ rotation.T + [40, -700, 12]

    rough = move(vertices[landmarks]) + rng.normal(size=(len(landmarks), 3)) * 2
    nose = move(vertices[178:179])[0]
    mesh, scan = Mesh(vertices, faces, vertices[landmarks]), Mesh(move(cloud), faces[:0], rough)
    result = scan_metrics.florence_deng(mesh, scan, nose)
    # an ellipsoid's cap slides along itself a little before its distances notice: the surface is what counts
    assert result["rmse_mm"] < 0.1 and abs(result["scale"] - 1.25) < 0.02 and result["converged"]
    inside = np.linalg.norm(move(cloud) - nose, axis=1) <= 95
    assert result["points"] == inside.sum() < len(cloud)


def test_florence_measures_a_dent(toy_model):
    """A known field of offsets along the normal comes back as its RMS (less what the alignment may take up)."""
    rng = np.random.default_rng(2)
    vertices, faces, landmarks = face_like(toy_model)
    weights = rng.dirichlet(np.ones(3), 20000)
    index = rng.integers(0, len(faces), 20000)
    cloud = (weights[..., None] * vertices[faces[index]]).sum(1)
    a, b, c = np.moveaxis(vertices[faces[index]], 1, 0)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    offset = 1.5 * np.sign(np.sin(cloud[:, :1] / 4) * np.sin(cloud[:, 1:2] / 4))
    mesh, scan = (
        Mesh(vertices, faces, vertices[landmarks]),
        Mesh(cloud + offset * normal, faces[:0], vertices[landmarks]),
    )
    result = scan_metrics.florence_deng(mesh, scan, vertices[178])
    assert abs(result["rmse_mm"] - 1.5) < 0.1
    assert "isotropic scale" in result["protocol"]


def test_florence_errors(toy_model):
    vertices, faces, landmarks = face_like(toy_model)
    points = vertices[landmarks]
    with pytest.raises(UserError, match="in mm"):
        large = Mesh(vertices * 100, faces, points * 100)
        scan_metrics.florence_deng(Mesh(vertices, faces, points), large, vertices[178] * 100)
    with pytest.raises(UserError, match="one line"):
        scan_metrics.florence_deng(Mesh(vertices, faces, points * 0), Mesh(vertices, faces, points), vertices[178])


def test_bootstrap_covers_the_truth():
    """Of 200 samples of a known mean, about 95 % of the intervals hold it."""
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        low, high = summary.bootstrap_interval(rng.gamma(2, 2, 80), seed=seed)
        hits += low <= 4 <= high
    assert 176 <= hits <= 199


def test_bootstrap_strata_are_balanced_and_seeded():
    values = np.concatenate([np.full(90, 1.0), np.full(10, 5.0)])
    strata = np.repeat([0, 1], [90, 10])
    assert summary.bootstrap_interval(values, strata=strata) == (3.0, 3.0)
    noisy = values + np.random.default_rng(4).normal(size=100)
    assert summary.bootstrap_interval(noisy, seed=1) == summary.bootstrap_interval(noisy, seed=1)
    assert summary.bootstrap_interval(noisy, seed=1) != summary.bootstrap_interval(noisy, seed=2)
    assert np.isnan(summary.bootstrap_interval(np.array([]))).all()


def test_bootstrap_draws_what_a_loop_draws(monkeypatch):
    """The very numbers of the plain loop, in blocks as small as memory asks for, within strata, of any statistic."""
    rng = np.random.default_rng(9)
    values, strata = rng.normal(size=(37, 3)), np.repeat([0, 1, 2], [20, 10, 7])
    for one, statistic, of_draws in (
        (values[:, 0], np.mean, lambda x: x.mean(1)),
        (values, lambda x: x.std(0).max(), lambda x: x.std(1).max(1)),
    ):
        for groups in (None, strata):
            loop, drawn = np.random.default_rng(4), np.zeros(summary.RESAMPLES)
            labels = np.zeros(37, int) if groups is None else groups
            for label in np.unique(labels):
                group = one[labels == label]
                for k in range(len(drawn)):
                    chosen = group[loop.integers(0, len(group), len(group))]
                    drawn[k] += statistic(chosen) / len(np.unique(labels))
            expected = tuple(np.quantile(drawn, [0.025, 0.975]))
            for block in (summary.BLOCK, 1000, 1):
                monkeypatch.setattr(summary, "BLOCK", block)
                found = summary.bootstrap_interval(one, of_draws, seed=4, strata=groups)
                assert found == pytest.approx(expected, rel=1e-12)
            monkeypatch.undo()


def test_paired_difference_says_what_it_can():
    rng = np.random.default_rng(5)
    base = rng.gamma(2, 2, 150)
    better = summary.paired_difference(base - 0.1 + rng.normal(size=150) * 0.1, base)
    assert better["verdict"] == "lower" and better["low"] < better["difference"] < better["high"] < 0
    assert summary.paired_difference(base + 1, base)["verdict"] == "higher"
    same = summary.paired_difference(base + rng.normal(size=150) - 0.02, base)
    assert same["verdict"] == "not distinguishable" and same["low"] < 0 < same["high"]


def test_arguments_stay_as_they_are():
    rng = np.random.default_rng(6)
    predicted, truth = rng.normal(size=(4, 68, 2)), rng.normal(size=(4, 68, 2))
    copies = predicted.copy(), truth.copy()
    metrics.sparse_nme(predicted, truth)
    metrics.vertex_error(predicted[..., [0, 1, 1]], truth[..., [0, 1, 0]])
    assert np.array_equal(predicted, copies[0]) and np.array_equal(truth, copies[1])


def test_dense_and_sparse_3d_against_loops():
    """SADRNet's 3D errors, point by point: a shift in depth costs nothing, one in the picture does."""
    rng = np.random.default_rng(7)
    truth = rng.uniform(0, 200, (3, 68, 3))
    predicted = truth + rng.normal(size=truth.shape) * 4 + [2, -1, 300]
    expected = []
    for p, t in zip(predicted, truth, strict=True):
        width, height = (max(t[:, k]) - min(t[:, k]) for k in (0, 1))
        p_depth, t_depth = (sum(points[:, 2]) / 68 for points in (p, t))
        total = 0.0
        for a, b in zip(p, t, strict=True):
            total += ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + ((a[2] - p_depth) - (b[2] - t_depth)) ** 2) ** 0.5
        expected.append(100 * total / 68 / (width * height) ** 0.5)
    assert np.allclose(metrics.sparse_3d_nme(predicted, truth), expected)
    assert np.allclose(metrics.dense_nme(predicted, truth), expected)
    assert np.allclose(metrics.dense_nme(5 * predicted, 5 * truth), expected)
    aside, deeper = np.array([1.0, 0, 0]), np.array([0, 0, 77.0])
    assert metrics.dense_nme(truth + deeper, truth).max() < 1e-9 < metrics.dense_nme(truth + aside, truth).min()
    with pytest.raises(ValueError, match="68 points"):
        metrics.sparse_3d_nme(predicted[:, :50], truth[:, :50])
    with pytest.raises(ValueError, match="corresponding"):
        metrics.dense_nme(predicted[..., :2], truth[..., :2])


def test_reconstruction_nme_judges_shape_over_the_eyes():
    rng = np.random.default_rng(8)
    truth = rng.normal(size=(2, 300, 3)) * 60
    eyes = np.array([[[-45.0, 0, 0], [45, 0, 0]], [[0, -40, 30], [0, 40, 30]]])
    turned = truth @ Rotation.random(2, rng=rng).as_matrix() * 0.3 + [5, 6, 700]
    assert metrics.reconstruction_nme(turned, truth, eyes).max() < 1e-9
    noisy = turned + rng.normal(size=truth.shape) * 0.3 * 2
    expected = []
    for n, t, (first, second) in zip(noisy, truth, eyes, strict=True):
        rotation, _ = Rotation.align_vectors(t - t.mean(0), n - n.mean(0))
        moved = rotation.apply(n - n.mean(0))
        scale = (moved * (t - t.mean(0))).sum() / (moved**2).sum()
        distances = [np.linalg.norm(scale * m + t.mean(0) - p) for m, p in zip(moved, t, strict=True)]
        expected.append(100 * np.mean(distances) / np.linalg.norm(first - second))
    assert np.allclose(metrics.reconstruction_nme(noisy, truth, eyes), expected)
    mirrored = truth * [-1, 1, 1]
    assert metrics.reconstruction_nme(mirrored, truth, eyes).min() > 10
