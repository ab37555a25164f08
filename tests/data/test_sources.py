"""Real data sets as training splits: toy photos in the published layouts, read, split, packed and fitted."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from toy_bfm import toy_bfm, write_3ddfa
from toy_data import toy_parameters
from toy_model import with_ibug
from toy_photos import write_300w_lp

from mlanet_lib.data import sources
from mlanet_lib.data.sets.crops import POSES
from mlanet_lib.data.sources import DataConfig, Source, held_out, person, prepare
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.face_sources.bfm2009 import convert
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.metrics import sparse_nme
from mlanet_lib.renderer import render_face
from mlanet_lib.training.data import TrainingData


def projected(model, parameters, labels="3ddfa"):
    vertices = model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(model.landmarks(vertices, labels), parameters.rotation, parameters.translation)
    return project(camera, parameters.focal, 1, 1)[..., :2]


def write_crops(folder, model, names):
    """A zip of grey crops of 120 px with the toy model's own points; the fourth's no face could have."""
    count = len(names)
    points = projected(model, toy_parameters(model, count, seed=5)).numpy() * 120 - 0.5  # counted from 0
    points[3] = np.random.default_rng(0).uniform(10, 110, (68, 2))
    stream = io.BytesIO()
    Image.new("RGB", (120, 120), (90, 80, 70)).save(stream, "JPEG")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name in names:
            archive.writestr(name, stream.getvalue())
    depth = np.zeros((count, 68, 1))
    agreement = np.where(np.arange(count) == 5, 12.0, 2.0)
    np.savez(
        folder / "labels.npz", names=names, landmarks68=np.concatenate([points, depth], 2).astype(np.float32),
        agreement=agreement.astype(np.float16),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def crops(toy_model, tmp_path_factory):
    return write_crops(tmp_path_factory.mktemp("crops"), toy_model, [f"image{i:05d}.jpg" for i in range(24)])


def test_fits_label_what_they_fit_and_leave_the_rest_to_the_points(crops, toy_model, tmp_path):
    source = Source("crops", str(crops), labels="fit", agreement=9.0, validation=0.3, ridge=1e-6)
    rows = prepare({"faces": source}, toy_model, tmp_path, 48)
    assert [row["split"] for row in rows] == ["train", "validation"]
    assert sum(row["pictures"] for row in rows) == 23 and sum(row["landmarked"] for row in rows) == 1
    data = TrainingData(tmp_path / "train", toy_model, 48)
    labelled = torch.nonzero(data.kind == 0).flatten()
    batch = data.batch(labelled)
    assert not data.lit.any()
    found = projected(toy_model, batch.parameters)
    assert sparse_nme(found.numpy(), batch.landmarks.numpy()).max() < 0.5
    assert 0.3 < float(data.labels["visible"][labelled].mean()) < 1  # the toy's rim is turned away
    assert data.constant()["landmarks"] is not None


def labels_of(folder) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "labels.npz"))


def test_fits_say_how_much_of_the_shape_they_know(crops, toy_model, tmp_path):
    known = {}
    for ridge in (1e-6, 1e-2):
        source = Source("crops", str(crops), labels="fit", validation=0.0, ridge=ridge)
        prepare({"faces": source}, toy_model, tmp_path / str(ridge), 32)
        labels = labels_of(tmp_path / str(ridge) / "train" / "faces")
        fitted = labels["kind"] == 0
        assert labels["known"].shape == (24, toy_model.n_identity + toy_model.n_expression)
        assert (labels["known"][~fitted] == 1).all() and 15 < fitted.sum() < 24
        known[ridge] = labels["known"][fitted]
        assert not TrainingData(tmp_path / str(ridge) / "train", toy_model, 32).shaped.any()
    assert known[1e-2].min() >= 0 and known[1e-6].max() < 1  # noise is never nothing
    assert known[1e-6].min() > 0.9 and known[1e-2].mean() < 0.5


def test_fits_to_photos_know_the_shape_that_points_do_not(toy_model, tmp_path, monkeypatch):
    """Of people whom the renderer drew: their identity is found better than by points; not of those who are turned."""
    truth = toy_parameters(toy_model, 12, seed=8)
    yaws = torch.tensor([0.0] * 8 + [45.0] * 4)
    turned = euler_to_matrix(torch.stack([yaws * 0, yaws, yaws * 0], 1)).float() @ toy_model.bfm_rotation.T
    truth = truth.replace(rotation=turned)
    pictures = render_face(toy_model, truth, 120).image.clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).numpy()
    points = projected(toy_model, truth).numpy() * 120 - 0.5
    names = [f"image{k:05d}.png" for k in range(12)]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, picture in zip(names, pictures, strict=True):
            Image.fromarray(picture).save(stream := io.BytesIO(), "PNG")
            archive.writestr(name, stream.getvalue())
    landmarks = np.concatenate([points, np.zeros((12, 68, 1))], 2).astype(np.float32)
    np.savez(tmp_path / "labels.npz", names=np.array(names), landmarks68=landmarks)
    monkeypatch.setattr(sources, "PHOTO_FITS", dataclasses.replace(sources.PHOTO_FITS, vertices=0, size=64))
    errors = {}
    for kind in ("fit", "photo"):
        source = Source("crops", str(tmp_path), labels=kind, validation=0.0, ridge=1e-2)
        prepare({"faces": source}, toy_model, tmp_path / kind, 64)
        data = TrainingData(tmp_path / kind / "train", toy_model, 64)
        rows = torch.arange(12)
        batch, frontal = data.batch(rows), yaws < sources.FRONTAL
        assert (data.kind == 0).all() and not data.lit.any()
        assert torch.equal(data.shaped, frontal if kind == "photo" else torch.zeros(12, dtype=torch.bool))
        distance = (batch.parameters.identity - truth.identity).square().mean(1).sqrt()
        errors[kind] = distance[frontal].mean(), distance[~frontal].mean()
    assert errors["photo"][0] < 0.7 * errors["fit"][0]
    assert torch.isclose(errors["photo"][1], errors["fit"][1])


def test_photos_of_which_no_points_fit_keep_their_points(crops, toy_model, tmp_path):
    source = Source("crops", str(crops), labels="photo", validation=0.0, worst_fit=1e-9)
    (row,) = prepare({"faces": source}, toy_model, tmp_path, 32)
    assert row["labelled"] == 0 and row["landmarked"] == 24


def test_an_epoch_sees_repeated_photos_more_often(crops, toy_model, tmp_path):
    options = {"layout": "crops", "path": str(crops), "labels": "fit", "validation": 0.3}
    rows = [
        prepare({"faces": Source(**options, repeat=times)}, toy_model, tmp_path / str(times), 32) for times in (1, 3)
    ]
    assert rows[0] == rows[1] and {row["broken"] for row in rows[1]} == {0}  # pictures are counted once
    held = [len(labels_of(tmp_path / str(times) / "validation" / "faces")["kind"]) for times in (1, 3)]
    assert held[0] == held[1] > 0
    once, thrice = (labels_of(tmp_path / str(times) / "train" / "faces") for times in (1, 3))
    assert set(once) == set(thrice) > {"known", "person", "rotation_bfm", "identity"}
    for name, value in once.items():
        assert np.array_equal(thrice[name], np.concatenate([value] * 3), equal_nan=value.dtype.kind == "f"), name
    assert len(np.load(tmp_path / "3" / "train" / "faces" / "images.npy")) == 3 * len(once["kind"])


def test_of_photos_in_one_light_skin_and_light_are_known(crops, toy_model, tmp_path, monkeypatch):
    seen = []

    def skin_and_light(model, faces, photos):
        seen.append((len(faces), photos.shape))
        return torch.full((len(faces), model.n_albedo), 0.5), torch.full((len(faces), 9, 3), 2.0)

    monkeypatch.setattr(sources, "skin_and_light", skin_and_light)
    options = {"layout": "crops", "path": str(crops), "labels": "fit", "validation": 0.0}
    (row,) = prepare({"faces": Source(**options, light="one")}, toy_model, tmp_path / "one", 32)
    assert seen == [(row["labelled"], (row["labelled"], 32, 32, 3))]
    data = TrainingData(tmp_path / "one" / "train", toy_model, 32)
    assert torch.equal(data.lit, data.kind == 0)
    labelled = data.batch(torch.nonzero(data.kind == 0).flatten()).parameters
    assert (labelled.albedo == 0.5).all() and (labelled.lighting == 2).all()
    for name, changes in (("each", {"light": "each"}), ("two", {"light": "one", "limit": 2})):
        (row,) = prepare({"faces": Source(**options | changes)}, toy_model, tmp_path / name, 32)
        assert row["labelled"] >= 2 and not TrainingData(tmp_path / name / "train", toy_model, 32).lit.any()
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("007_neutral.jpg", "007"),
        ("007_smiling.jpg", "007"),
        ("007_smiling_0.jpg", "007"),  # as `mlanet data annotate` names it
        ("clips/Some_Body_12.jpg", "Some_Body"),
        ("image00012.jpg", "image00012"),
        ("a_neutral_face.jpg", "a_neutral_face"),
    ],
)
def test_a_pictures_name_says_who_is_in_it(name, who):
    assert person(name) == who


def test_pictures_of_a_person_are_known_as_such_and_held_out_together(toy_model, tmp_path):
    names = [f"{number:03d}_{mood}.jpg" for number in range(12) for mood in ("neutral", "smiling")]
    source = Source("crops", str(write_crops(tmp_path, toy_model, names)), labels="fit", validation=0.4)
    prepare({"faces": source}, toy_model, tmp_path / "out", 32)
    found = {split: labels_of(tmp_path / "out" / split / "faces") for split in ("train", "validation")}
    people = {split: [name[:3] for name in labels["names"]] for split, labels in found.items()}
    assert set(people["train"]).isdisjoint(people["validation"]) and all(people.values())
    for split, labels in found.items():
        same = np.array(people[split])[:, None] == people[split]
        assert np.array_equal(labels["person"][:, None] == labels["person"], same)
    data = TrainingData(tmp_path / "out" / "train", toy_model, 32)
    assert data.person.tolist() == found["train"]["person"].tolist()


def test_known_rotations_hold_the_pose_of_fits(toy_model, tmp_path):
    """Of heads that another system sees turned by 8 degrees more, in BFM's frame, far from the model's."""
    model, names = with_ibug(toy_model, (30.0, 0.0, 0.0)), [f"image{i:05d}.jpg" for i in range(24)]
    options = {"layout": "crops", "path": str(write_crops(tmp_path, model, names)), "labels": "fit", "validation": 0.0}
    source, more = Source(**options, ridge=1e-2, worst_fit=20.0), euler_to_matrix(torch.tensor([0.0, 8.0, 0.0]))
    said = more @ toy_parameters(model, 24, seed=5).rotation
    off = {}
    for known in (False, True):
        if known:
            rotation = (said.double() @ model.bfm_rotation.double()).float().numpy()
            np.savez(tmp_path / POSES, names=names, rotation=rotation)
        prepare({"faces": source}, model, tmp_path / str(known), 32)
        labels = labels_of(tmp_path / str(known) / "train" / "faces")
        apart = np.swapaxes(labels["rotation"][labels["kind"] == 0], 1, 2) @ said.numpy()[labels["kind"] == 0]
        off[known] = np.degrees(Rotation.from_matrix(apart).magnitude()).mean()
        assert np.isfinite(labels["rotation_bfm"]).all() == known
    assert off[True] < 0.5 * off[False] and off[False] > 6


@pytest.mark.parametrize(("labels", "kind"), [("landmarks", 1), ("none", 2)])
def test_less_may_be_taken_than_is_there(crops, toy_model, tmp_path, labels, kind):
    source = Source("crops", str(crops), labels=labels, validation=0.0, limit=10)
    (row,) = prepare({"faces": source}, toy_model, tmp_path, 32)
    assert row["pictures"] == 10
    data = TrainingData(tmp_path / "train", toy_model, 32)
    assert data.kind.tolist() == [kind] * 10


def test_bfm_labels_of_300w_lp_are_its_own_coefficients(toy_model, tmp_path):
    raw_folder = tmp_path / "BFM"
    raw_folder.mkdir()
    write_3ddfa(raw_folder, toy_bfm(toy_model))
    model = convert.convert(raw_folder)
    write_300w_lp(tmp_path / "300W_LP", model, convert.RawBfm.load(raw_folder), photos=3, turns=2)
    source = Source("300w_lp", str(tmp_path / "300W_LP"), labels="bfm", validation=0.0, worst_fit=8.0)
    (row,) = prepare({"lp": source}, model, tmp_path / "data", 48, bfm=raw_folder)
    assert row["pictures"] == 12 and row["labelled"] == 12  # three photos, two turns, mirrored
    data = TrainingData(tmp_path / "data" / "train", model, 48)
    with np.load(tmp_path / "data" / "train" / "lp" / "labels.npz") as labels:
        names = labels["names"]
    truth = np.load(tmp_path / "300W_LP" / "truth.npz")
    for k, name in enumerate(names):
        if "_Flip" not in name:
            assert np.allclose(data.labels["identity"][k], truth[f"{name} identity"], atol=1e-4)
            assert np.allclose(data.labels["expression"][k], truth[f"{name} expression"], atol=1e-4)
    with pytest.raises(UserError, match=r"paths\.bfm"):
        prepare({"lp": source}, model, tmp_path / "none", 48)


def test_all_pictures_of_a_photo_are_held_out_together():
    source = Source("300w_lp", "somewhere", validation=0.5)
    split = {}
    for photo in range(40):
        names = [f"{folder}/AFW_{photo:06d}_1_{turn}.jpg" for folder in ("AFW", "AFW_Flip") for turn in range(5)]
        (split[photo],) = {held_out(source, name, seed=0) for name in names}
    assert 8 < sum(split.values()) < 32
    assert split != {photo: held_out(source, f"AFW/AFW_{photo:06d}_1_0.jpg", seed=1) for photo in range(40)}


def test_a_source_that_makes_no_sense_is_refused():
    for wrong in ({"points": "IBUG"}, {"points": "ibug", "layout": "photos"}, {"disagreement": 0.0}):
        with pytest.raises(UserError, match=r"points|disagreement"):
            Source(**{"layout": "crops", "path": "x", **wrong})
    with pytest.raises(UserError, match="unknown beside_ibug 'frontal'"):
        Source("crops", "x", beside_ibug="frontal")
    for wrong in ({"light": "two"}, {"light": "one", "labels": "landmarks"}):
        with pytest.raises(UserError, match="light"):
            Source(**{"layout": "crops", "path": "x", **wrong})
    for wrong in ({"layout": "crop"}, {"labels": "all"}, {"validation": 1.0}, {"worst_fit": 0.0}, {"repeat": 0}):
        with pytest.raises(UserError):
            Source(**{"layout": "crops", "path": "x", **wrong})
    assert DataConfig().sources == {} and dataclasses.replace(DataConfig(), train=0).train == 0


@pytest.fixture
def two_sets(crops, toy_model, tmp_path):
    """The crops with labels by two definitions, one of iBUG's rows wrong, one empty; the model that has both."""
    model = with_ibug(toy_model)
    with np.load(crops / "labels.npz") as labels:
        fields = dict(labels)
    truth = toy_parameters(model, 24, seed=5)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "images.zip").write_bytes((crops / "images.zip").read_bytes())
    np.savez(tmp_path / "both" / "labels.npz", **fields)
    points = projected(model, truth, "ibug").numpy() * 120 - 0.5
    points[7] = np.nan
    differ = np.where(np.arange(24) == 8, 30.0, 2.0)
    spread = np.full((24, 68), 0.2)
    np.savez(
        tmp_path / "both" / "labels_ibug68.npz", names=fields["names"], landmarks68=points, spread=spread,
        disagreement=differ,
    )  # fmt: skip
    return tmp_path / "both", model


def test_two_sources_of_the_same_photos_speak_two_definitions(two_sets, tmp_path):
    folder, model = two_sets
    options = {"layout": "crops", "path": str(folder), "labels": "fit", "validation": 0.3, "ridge": 1e-6}
    both = {"plain": Source(**options), "ibug": Source(**options, points="ibug")}
    rows = prepare(both, model, tmp_path / "out", 48)
    assert sum(row["pictures"] for row in rows if row["source"] == "ibug") == 22
    data = TrainingData(tmp_path / "out" / "train", model, 48)
    assert set(data.points_set.tolist()) == {0, 1}
    batch = data.batch(torch.nonzero(data.kind == 0).flatten())
    shape = SparseShape(model, 0)
    turned, sets = shape.turned(batch.parameters), batch.points_set
    distance, wrong = (
        (shape.landmarks(turned, batch.parameters, rows) - batch.landmarks).norm(dim=2)[batch.confidence > 0.2].mean()
        for rows in (sets, 1 - sets)
    )
    assert distance < 0.004 < 0.02 < wrong
    held = {(split, name): tmp_path / "out" / split / name for split in ("train", "validation") for name in both}
    names = {place: set(np.load(path / "labels.npz")["names"]) for place, path in held.items()}
    assert not names["train", "plain"] & names["validation", "ibug"]  # held out alike
    assert not names["train", "ibug"] & names["validation", "plain"]


def test_frontal_photos_may_be_left_to_ibugs_labels(two_sets, tmp_path):
    folder, model = two_sets
    with np.load(folder / "labels.npz") as labels:
        points = labels["landmarks68"]
    straight = np.abs(points[:, 16, 2] - points[:, 0, 2]) <= np.tan(np.deg2rad(12)) * np.linalg.norm(
        (points[:, 16] - points[:, 0])[:, :2], axis=1
    )
    straight[[7, 8]] = False  # iBUG's labels do not have these, or wrong ones
    assert 0 < straight.sum() < 24
    options = {"layout": "crops", "path": str(folder), "labels": "landmarks", "validation": 0.3}
    names = {}
    for beside in ("all", "turned"):
        prepare({"plain": Source(**options, beside_ibug=beside)}, model, tmp_path / beside, 48)
        for split in ("train", "validation"):
            with np.load(tmp_path / beside / split / "plain" / "labels.npz") as labels:
                names[beside, split] = labels["names"].tolist()
    assert names["turned", "validation"] == names["all", "validation"]
    frontal = {name for name, is_so in zip(_names(folder), straight, strict=True) if is_so}
    assert frontal & set(names["all", "train"])
    assert names["turned", "train"] == [name for name in names["all", "train"] if name not in frontal]


def _names(folder):
    with np.load(folder / "labels.npz") as labels:
        return labels["names"].tolist()
