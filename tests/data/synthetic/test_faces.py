import numpy as np
import pytest
import torch

from mlanet_lib import limits
from mlanet_lib.data.synthetic import faces
from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.parameters import LANDMARK_BOX_SHARE, FaceParameters

CONFIG = SyntheticConfig(image_size=48, train=60, validation=30, images_per_person=3)


@pytest.fixture(scope="module")
def splits(toy_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    for split, count in (("train", 60), ("validation", 30)):
        faces.write_split(CONFIG, toy_model, folder / split, split, count, seed=7)
    return {
        split: (np.load(folder / split / "images.npy"), dict(np.load(folder / split / "labels.npz")))
        for split in ("train", "validation")
    }


def test_frame_puts_the_landmark_box_where_it_is_told(toy_model):
    rng = np.random.default_rng(0)
    people = faces.sample_people(toy_model, rng, 16)
    parameters = faces.sample_parameters(toy_model, rng, people, rng.uniform(-90, 90, 16))
    vertices = toy_model.vertices(parameters.identity, parameters.expression)
    points = project(
        to_camera(toy_model.landmarks(vertices), parameters.rotation, parameters.translation), parameters.focal, 1, 1
    )[..., :2]
    low, high = points.amin(1), points.amax(1)
    torch.testing.assert_close((high - low).amax(1), torch.full((16,), LANDMARK_BOX_SHARE), atol=1e-4, rtol=0)
    torch.testing.assert_close((low + high) / 2, torch.full((16, 2), 0.5), atol=1e-4, rtol=0)


def test_split_is_a_function_of_its_seed(toy_model, splits, tmp_path):
    folder = faces.write_split(CONFIG, toy_model, tmp_path / "again", "validation", 30, seed=7)
    assert np.array_equal(np.load(folder / "images.npy"), splits["validation"][0])
    other = faces.write_split(CONFIG, toy_model, tmp_path / "other", "validation", 30, seed=8)
    assert not np.array_equal(np.load(other / "images.npy"), splits["validation"][0])


def test_splits_share_no_person(splits):
    people = [labels["identity"][labels["kind"] == 0] for _, labels in splits.values()]
    assert np.abs(people[0][:, None] - people[1][None]).max(-1).min() > 1e-3


def test_a_sample_holds_no_label_that_its_kind_does_not_know(splits):
    _, labels = splits["train"]
    assert np.bincount(labels["kind"]).tolist() == [36, 15, 9]
    assert np.all(labels["rotation"][labels["kind"] > 0] == 0) and np.all(labels["identity"][labels["kind"] > 0] == 0)
    assert np.all(labels["landmarks"][labels["kind"] == 2] == 0)
    assert np.abs(labels["landmarks"][labels["kind"] < 2]).sum((1, 2)).min() > 0


def test_yaw_bins_of_a_judged_split_are_equally_full(splits):
    _, labels = splits["validation"]
    parameters = FaceParameters.from_tensors({k: torch.tensor(v) for k, v in labels.items()})
    yaw = parameters.pose_degrees()[:, 1].abs().numpy()
    assert np.histogram(yaw, [0, 30, 60, 90.01])[0].tolist() == [10, 10, 10]


def test_pictures_show_the_face_where_the_labels_say(toy_model, splits):
    """Within the face the picture follows the shading that the labels give; beside it, it does not."""
    from mlanet_lib.renderer import render_face

    images, labels = splits["validation"]
    clear = np.flatnonzero(labels["occluded"] == 0)[:12]
    parameters = FaceParameters.from_tensors({k: torch.tensor(v[clear]) for k, v in labels.items()})
    rendered = render_face(toy_model, parameters, CONFIG.image_size)
    photo = torch.tensor(images[clear]).permute(0, 3, 1, 2) / 255
    error = (rendered.image.clamp(0, 1) - photo).abs().mean(1, keepdim=True)
    inside = (error * rendered.mask).sum() / rendered.mask.sum()
    outside = ((photo - rendered.image.clamp(0, 1)).abs().mean(1, keepdim=True) * (1 - rendered.mask)).sum()
    assert inside < 0.12
    assert outside / (1 - rendered.mask).sum() > 2 * inside


def test_occluders_cover_the_stated_share(splits):
    _, labels = splits["train"]
    covered = labels["occluded"]
    assert 0.1 < (covered > 0).mean() < 0.5
    assert covered[covered > 0].min() >= 0.05 and covered.max() <= 0.6


def test_expressions_are_activations(face_model):
    activations = faces.sample_expression(np.random.default_rng(0), face_model.expression_names, 400)
    assert activations.min() >= 0 and activations.max() <= 1
    neutral = (activations == 0).all(1).mean()
    assert 0.15 < neutral < 0.35
    assert (activations > 0).any(0).all()


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"train": 10**9}, r"^data.train 1,000,000,000 at data.image_size 48 needs about 6,912 GB of memory"),
        ({"validation": 10**8, "train": 0}, r"^data.validation 100,000,000 at data.image_size 48 needs about 691 GB"),
        (
            {"image_size": 10**5, "train": 1, "validation": 0},
            r"^data.train 1 at data.image_size 100000 needs about 30 GB",
        ),
        (
            {"image_size": 10**4, "train": 9, "validation": 0},
            r"^data.image_size 10000, drawn 2 at once, needs about 90 GB",
        ),
        ({"photo_size": 10**4, "test": 3}, r"^data.photo_size 10000, drawn 2 at once, needs about"),
        ({"photo_size": 10**4, "scans": 1, "test": 0}, r"^data.photo_size 10000, drawn 2 at once, needs about"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_estimate(asked, line, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 8e9)
    options = {"image_size": 48, "train": 60, "validation": 0}
    faces.check_size(SyntheticConfig(**options), 64)
    with pytest.raises(UserError, match=line):
        faces.check_size(SyntheticConfig(**options | asked), 2)
