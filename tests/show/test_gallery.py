"""The report's pictures: the right faces in the right group."""

import dataclasses

import numpy as np
import pytest
import torch

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.network import MLANet
from mlanet_lib.predictor import Predictor
from mlanet_lib.show.gallery import make_gallery


@pytest.fixture
def predictor(toy_model):
    torch.manual_seed(0)
    network = MLANet(toy_model, backbone="resnet10t", image_size=32, width=8, pool=1, levels=(2, 4)).eval()
    metadata = {"face_model": {"name": "toy"}, "step": 0, "network": dataclasses.asdict(network.config)}
    return Predictor(network, toy_model, metadata)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(5):  # photo k is grey of its own, so that the pictures tell which one they are
        points = np.column_stack([rng.uniform(20, 80, (68, 2)), np.zeros(68)])
        image = np.full((100, 100, 3), 40 * k + 20, np.uint8)
        pose, middle = np.array([0.0, 10.0 * k, 0.0]), np.array([50.0, 50.0, 0.0])
        aflw2000.write_sample(tmp_path, f"image{k}", image, points, pose, 0.5, middle)
    return tmp_path


def test_best_median_worst_are_what_they_say(predictor, folder):
    names, nme = [f"image{k}.jpg" for k in range(5)], [5.0, 1.0, 9.0, 3.0, 7.0]
    gallery = make_gallery(predictor, folder, names, nme, count=1)
    assert [title for title, _, _ in gallery.rows] == ["Best", "Median", "Worst"]
    for (_, figure, _), k in zip(gallery.rows, (1, 0, 2), strict=True):
        photo = figure.axes[0].images[0].get_array()
        assert abs(int(photo[112, 112, 0]) - (40 * k + 20)) <= 3
        assert f"{nme[k]:.2f} %" in figure.axes[0].get_ylabel() and f"{10 * k:+d}°" in figure.axes[0].get_ylabel()
    assert list(gallery.levels) == [2, 4] and len(gallery.viewer.layout.updatemenus[0].buttons) == 3
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in gallery.level_weights.values())
    assert len([axis for axis in gallery.attention.axes if axis.images]) >= 9


def test_a_photo_may_have_dollars_in_its_name(predictor, folder):
    """matplotlib would read what stands between two of them as a formula."""
    for ending in (".jpg", ".mat"):
        (folder / f"image0{ending}").rename(folder / f"cost $x^{{$ 5{ending}")
    [(_, figure, _)] = make_gallery(predictor, folder, ["cost $x^{$ 5.jpg", "image3.jpg"], [2.0, 1.0], 1).failures
    figure.canvas.draw()
    assert any("cost " in axis.get_xlabel() and not axis.xaxis.label.get_text().count("$") % 2 for axis in figure.axes)


def test_fewer_faces_than_asked_for(predictor, folder):
    gallery = make_gallery(predictor, folder, ["image0.jpg", "image3.jpg"], [2.0, 1.0], count=3)
    assert len(gallery.rows[0][1].axes) == 10


def test_worst_and_errors_on_the_face(predictor, folder):
    names, nme = [f"image{k}.jpg" for k in range(5)], [5.0, 1.0, 9.0, 3.0, 7.0]
    gallery = make_gallery(predictor, folder, names, nme, count=1)
    [(title, figure, caption)] = gallery.failures
    labels = [axis.get_xlabel() for axis in figure.axes if axis.images]
    assert title == "The worst 5" and [label.split()[0] for label in labels] == ["9.0", "7.0", "5.0", "3.0", "1.0"]
    assert labels[0].endswith("image2") and "worst of 5" in caption
    [(title, figure, _)] = gallery.errors  # photos that do not know their shape
    shown = figure.axes[0].collections[0].get_array()
    assert title == "By point" and shown.shape == (68,)


def test_errors_are_those_of_the_points_and_of_the_surface(predictor, folder, tmp_path_factory, monkeypatch):
    from mlanet_lib.data.sample import SyntheticTruth
    from mlanet_lib.show import figures, gallery

    model, seen = predictor.model, {}
    read = aflw2000.read_sample
    coefficients = {"identity": np.zeros(model.n_identity, np.float32), "expression": np.zeros(model.n_expression)}

    def knowing(path):
        truth = SyntheticTruth(**{f.name: None for f in dataclasses.fields(SyntheticTruth)})
        truth = dataclasses.replace(truth, face_model=model.fingerprint, **coefficients)
        return dataclasses.replace(read(path), truth=truth)

    def drawn(_, __, errors, limit):
        seen["errors"] = errors

    monkeypatch.setattr(aflw2000, "read_sample", knowing)
    monkeypatch.setattr(figures, "error_map", drawn)
    parts = gallery.errors_on_the_face(predictor, folder, [f"image{k}.jpg" for k in range(5)])
    assert [title for title, _, _ in parts] == ["By point", "On the surface"]
    # the untrained network says the mean face, and that is the truth here
    assert seen["errors"].shape == (len(model.mean),) and seen["errors"].max() < 0.05
