"""Packing: the arrays are the samples' crops and labels, in order, without the broken ones."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mlanet_lib.data.packing import pack
from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import crops
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.crops import Box, crop_image, from_crop
from mlanet_lib.training.data import TrainingData


def picture(seed: int, side: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 10, 3), dtype=np.uint8)


def broken():
    raise UserError("zip: 'bad.jpg': damaged")


def landmarked(seed: int, **fields) -> Sample:
    points = np.random.default_rng(seed).uniform(10, 50, (68, 2))
    return Sample(f"marked{seed}.jpg", partial(picture, seed), landmarks=points, **fields)


def test_rows_are_the_samples_crops_and_labels(tmp_path):
    confidence, visible = np.linspace(0, 1, 68), np.arange(68) % 2 == 0
    samples = [
        landmarked(0, confidence=confidence),
        Sample("plain.jpg", partial(picture, 1), box=Box(-5, 10, 40, 40)),
        landmarked(2, visible=visible),
    ]
    folder = pack(samples, tmp_path / "packed", 32, progress=False)
    images, labels = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npz", allow_pickle=False)
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8
    assert labels["kind"].tolist() == [1, 2, 1]
    assert labels["names"].tolist() == ["marked0.jpg", "plain.jpg", "marked2.jpg"]
    for i, sample in enumerate(samples):
        assert np.array_equal(images[i], crop_image(picture(i), sample.crop(), 32))
        if sample.landmarks is not None:
            assert np.allclose(from_crop(labels["landmarks"][i], sample.crop()), sample.landmarks, atol=1e-4)
    assert (
        np.isnan(labels["landmarks"][1]).all() and not labels["visible"][1].any() and not labels["confidence"][1].any()
    )
    assert labels["points_set"].dtype == np.int64 and labels["points_set"].tolist() == [0, 0, 0]
    again = pack(samples, tmp_path / "again", 32, progress=False, points="ibug")
    assert np.load(again / "labels.npz")["points_set"].tolist() == [1, 1, 1]
    assert np.allclose(labels["confidence"][0], confidence) and (labels["confidence"][2] == 1).all()
    assert np.isnan(labels["rotation_bfm"]).all() and len(set(labels["person"].tolist())) == 3
    assert (labels["visible"][0] == 1).all() and np.array_equal(labels["visible"][2], visible)


def test_whose_pictures_are_whose_and_known_poses(tmp_path):
    turn = Rotation.from_euler("y", 30, degrees=True).as_matrix()
    samples = [landmarked(0), landmarked(1, rotation=turn), landmarked(2)]
    who = {"marked0.jpg": "b", "marked1.jpg": "a", "marked2.jpg": "b"}
    labels = np.load(pack(samples, tmp_path, 8, progress=False, person=who.get) / "labels.npz")
    assert labels["person"].tolist() == [1, 0, 1]
    assert np.isfinite(labels["rotation_bfm"]).all((1, 2)).tolist() == [False, True, False]
    assert np.allclose(labels["rotation_bfm"][1], turn)


def test_many_workers_keep_the_order(tmp_path):
    samples = [landmarked(seed) for seed in range(300)]  # more than are decoded ahead
    one, four = (pack(samples, tmp_path / str(n), 8, workers=n, progress=False) for n in (1, 4))
    assert (one / "images.npy").read_bytes() == (four / "images.npy").read_bytes()
    assert np.load(four / "labels.npz")["names"].tolist() == [sample.name for sample in samples]


def test_broken_samples_are_left_out_and_named(tmp_path, capsys):
    nan, nowhere = np.full((68, 2), np.nan), Sample("nowhere.jpg", partial(picture, 0))
    bad = [
        Sample("bad.jpg", broken, box=Box(0, 0, 9, 9)),
        Sample("nan.jpg", partial(picture, 0), landmarks=nan),
        nowhere,
    ]
    samples = [bad[0], landmarked(1), *bad[1:], *[landmarked(seed) for seed in range(2, 12)]]
    folder = pack(samples, tmp_path / "packed", 16, progress=False)
    images = np.load(folder / "images.npy")
    assert images.shape == (11, 16, 16, 3) and len(np.load(folder / "labels.npz")["kind"]) == 11
    assert np.array_equal(images[1], crop_image(picture(2), samples[4].crop(), 16))
    said = capsys.readouterr().err
    assert "left out 3 of 14 samples" in said
    assert all(name in said for name in ("zip: 'bad.jpg': damaged", "nan.jpg: the landmarks", "nowhere.jpg: neither"))


def test_nothing_to_pack_leaves_no_files(tmp_path):
    for samples in ([], [Sample("bad.jpg", broken, box=Box(0, 0, 9, 9))]):
        with pytest.raises(UserError, match="no sample to pack"):
            pack(samples, tmp_path / "packed", 16, progress=False)
    assert not list((tmp_path / "packed").iterdir())


def test_a_full_disk_leaves_the_older_arrays_both(tmp_path, monkeypatch):
    pack([landmarked(0)], tmp_path, 24, progress=False)
    older = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    with pytest.raises(UserError, match="No space left"):
        pack([landmarked(1)], tmp_path, 24, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == older


def test_training_reads_what_was_packed(tmp_path, toy_model):
    samples = [landmarked(0), Sample("plain.jpg", partial(picture, 1), box=Box(5, 10, 40, 40)), landmarked(2)]
    data = TrainingData(pack(samples, tmp_path, 32, progress=False), toy_model, 24)
    batch = data.batch(torch.tensor([0, 1, 2]))
    assert batch.images.shape == (3, 3, 24, 24) and batch.kind.tolist() == [1, 2, 1]
    assert batch.landmarks.isfinite().all() and batch.visible[1].sum() == 0


def test_real_crops(shared_data, tmp_path):
    samples = crops.read_archive(shared_data / "aflw_crops")[::900]
    folder = pack(samples, tmp_path, 64, progress=False)
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npz")
    assert len(images) == len(samples) and images.std(axis=(1, 2, 3)).min() > 5
    span = np.ptp(labels["landmarks"], axis=1).max(1)
    assert np.allclose(span, 2**-0.5, atol=1e-5)  # the larger side of the points' box, times sqrt(2), is the crop
