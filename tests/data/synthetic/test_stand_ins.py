from contextlib import nullcontext

import numpy as np
import pytest
import torch
from toy_model import with_ibug

from mlanet_lib.data.sets import aflw2000, florence
from mlanet_lib.data.synthetic import stand_ins
from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.alignment import similarity
from mlanet_lib.geometry.camera import euler_to_matrix

CONFIG = SyntheticConfig(image_size=32, train=20, validation=6, test=30, photo_size=90, scans=2, occluded=0.3)


@pytest.fixture(scope="module")
def folders(toy_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    return stand_ins.generate(CONFIG, toy_model, root / "training", root / "aflw", root / "florence", seed=3, workers=1)


def test_photos_read_back_with_their_bins_and_occlusions(folders):
    samples = aflw2000.read_folder(folders["aflw2000"])
    yaw = np.array([abs(sample.pose_degrees[1]) for sample in samples])
    occluded = np.array([sample.truth.occluded for sample in samples])
    bins = np.digitize(yaw, [30, 60])
    assert np.bincount(bins).tolist() == [10, 10, 10]
    assert [int(occluded[bins == k].sum()) for k in range(3)] == [3, 3, 3]
    assert samples[0].image().shape == (90, 90, 3)


def test_pose_of_the_mat_file_puts_the_mesh_on_the_landmarks(folders, toy_model):
    """Scaled orthography with Pose_Para, the published formula, against pt3d_68, which was projected in perspective."""
    for sample in aflw2000.read_folder(folders["aflw2000"])[:6]:
        identity, expression = (
            torch.tensor(x[None], dtype=torch.float32) for x in (sample.truth.identity, sample.truth.expression)
        )
        points = toy_model.landmarks(toy_model.vertices(identity, expression))[0].double().numpy()
        rotation = euler_to_matrix(torch.tensor(sample.pose_degrees)).numpy()
        posed = sample.bfm.scale * 1000 * points @ rotation.T + sample.bfm.translation
        expected = np.stack([posed[:, 0], 90 + 1 - posed[:, 1]], -1)
        assert np.abs(expected - (sample.landmarks + 0.5)).max() < 0.12 * np.ptp(expected, axis=0).max()


def test_scans_read_back(folders, toy_model):
    subjects = florence.read_folder(folders["florence"])
    assert len(subjects) == 2
    scan = subjects[0].scan()
    assert scan.face_model == toy_model.fingerprint and len(scan.vertices) == len(toy_model.mean)
    assert {picture.condition for picture in subjects[0].pictures} == set(florence.CONDITIONS)
    assert all(picture.box.w > 20 for picture in subjects[0].pictures)
    assert np.abs(scan.vertices - subjects[1].scan().vertices).max() > 0.5


def test_several_workers_write_the_same_as_one(folders, toy_model, two_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(stand_ins, "worker_pool", lambda model, workers: nullcontext(two_workers))
    again = stand_ins.generate(CONFIG, toy_model, tmp_path / "t", tmp_path / "a", tmp_path / "f", seed=3, workers=2)
    for name in ("train", "validation"):
        for file in ("images.npy", "labels.npz"):
            assert (again[name] / file).read_bytes() == (folders[name] / file).read_bytes()
    photo = "image00001.jpg"
    assert (again["aflw2000"] / photo).read_bytes() == (folders["aflw2000"] / photo).read_bytes()


def test_what_cannot_fit_is_refused_before_anything_is_drawn(toy_model, tmp_path):
    places = [tmp_path / name for name in ("training", "aflw", "florence")]
    with pytest.raises(UserError, match=r"^data.train 1,000,000,000 at data.image_size 32 needs about 3,072 GB"):
        stand_ins.generate(SyntheticConfig(image_size=32, train=10**9), toy_model, *places, 0, workers=1)
    assert not list(tmp_path.iterdir())


def test_photos_of_a_model_with_another_frame_are_labelled_in_bfms(toy_model, tmp_path):
    """The drawn heads' own poses, R = R_BFM R0^T, put the mesh on the landmarks; bins are those of the labels."""
    model = with_ibug(toy_model, (8.0, 0.0, 0.0))
    stand_ins.write_aflw2000(CONFIG, model, tmp_path, 3)
    samples = aflw2000.read_folder(tmp_path)
    pose = np.stack([sample.pose_degrees for sample in samples])
    assert np.bincount(np.digitize(np.abs(pose[:, 1]), [30, 60])).tolist() == [10, 10, 10]
    assert pose[:, 0].mean() == pytest.approx(8, abs=6)
    off = {"own": [], "wrong": []}
    for sample in samples:
        known = (torch.tensor(x[None], dtype=torch.float32) for x in (sample.truth.identity, sample.truth.expression))
        points = model.landmarks(model.vertices(*known))[0].double().numpy()
        rotation = euler_to_matrix(torch.tensor(sample.pose_degrees)).numpy()
        truth = np.pad(sample.landmarks, ((0, 0), (0, 1)))
        for name, turn in (("own", model.bfm_rotation.double().numpy()), ("wrong", np.eye(3))):
            drawn = (points @ (rotation @ turn.T).T) * [1, -1, 0]
            off[name].append(np.abs(similarity(drawn, truth).apply(drawn) - truth).mean())
    assert np.mean(off["own"]) < 0.5 * np.mean(off["wrong"])
