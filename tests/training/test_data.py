"""The arrays of a split, and the order in which they are visited."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_data import write_toy_split
from toy_model import with_ibug
from toy_training import NETWORK, QUICK, run, same, weights

from mlanet_lib.errors import UserError
from mlanet_lib.training import data as module
from mlanet_lib.training.data import TrainingData, visiting_order


@pytest.fixture(scope="module")
def split(toy_model, tmp_path_factory):
    return write_toy_split(toy_model, tmp_path_factory.mktemp("split"), 12, kinds=(0, 0, 1, 2))


def rewrite(folder, target, **changes):
    with np.load(folder / "labels.npz") as archive:
        labels = {name: archive[name] for name in archive.files} | changes
    target.mkdir(exist_ok=True)
    np.save(target / "images.npy", np.load(folder / "images.npy"))
    np.savez(target / "labels.npz", **{name: value for name, value in labels.items() if value is not None})
    return target


def test_a_batch_is_the_files_content(split, toy_model):
    data = TrainingData(split, toy_model, 32)
    batch = data.batch(torch.tensor([5, 2]))
    images, labels = np.load(split / "images.npy"), np.load(split / "labels.npz")
    assert np.allclose(batch.images.permute(0, 2, 3, 1).numpy() * 255, images[[5, 2]], atol=1e-3)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch.landmarks.numpy(), labels["landmarks"][[5, 2]])
    assert np.array_equal(batch.parameters.lighting.numpy(), labels["lighting"][[5, 2]])
    assert batch.kind.tolist() == [0, 1]
    assert len(data) == 12 and data.images.dtype == torch.uint8


def test_kinds_can_be_left_out_and_pictures_resized(split, toy_model):
    data = TrainingData(split, toy_model, 16, kinds=("labelled",))
    assert len(data) == 6 and data.images.shape == (6, 16, 16, 3) and not data.kind.any()
    full = TrainingData(split, toy_model, 32, kinds=("labelled",))
    assert abs(data.images[:].float().mean() - full.images[:].float().mean()) < 1


def test_labels_can_be_kept_for_a_share(split, toy_model):
    some = TrainingData(split, toy_model, 32, labelled_share=0.5)
    full = TrainingData(split, toy_model, 32)
    assert (full.kind == 0).sum() == 6 and (some.kind == 0).sum() == 3 and (some.kind == 2).sum() == 6
    assert torch.equal(some.kind, TrainingData(split, toy_model, 32, labelled_share=0.5).kind)
    assert not some.lit[some.kind == 2].any() and torch.equal(some.kind == 1, full.kind == 1)
    assert len(TrainingData(split, toy_model, 32, ("labelled",), labelled_share=0.5)) == 3


def test_the_fingerprint_follows_the_content(split, toy_model, tmp_path):
    same = TrainingData(rewrite(split, tmp_path / "same"), toy_model, 32).fingerprint
    labels = np.load(split / "labels.npz")
    other = TrainingData(rewrite(split, tmp_path / "other", albedo=labels["albedo"] + 1), toy_model, 32).fingerprint
    assert same == TrainingData(tmp_path / "same", toy_model, 16, ("labelled",)).fingerprint
    assert len({same, other}) == 2


def test_the_constant_baseline_is_the_mean_of_what_is_labelled(split, toy_model, tmp_path):
    labels = np.load(split / "labels.npz")
    kind, landmarks, rotation = labels["kind"], labels["landmarks"].copy(), labels["rotation"].copy()
    landmarks[kind == 2], rotation[kind > 0] = 99.0, 0.0
    constant = TrainingData(rewrite(split, tmp_path, landmarks=landmarks, rotation=rotation), toy_model, 32).constant()
    assert np.allclose(constant["landmarks"], labels["landmarks"][kind < 2].mean(0), atol=1e-6)
    assert np.isfinite(constant["pose_degrees"]).all() and np.abs(constant["pose_degrees"]).max() < 40


def test_rows_without_labels_may_hold_anything(split, toy_model, tmp_path):
    labels = np.load(split / "labels.npz")
    identity = labels["identity"].copy()
    identity[labels["kind"] > 0] = np.nan
    data = TrainingData(rewrite(split, tmp_path, identity=identity), toy_model, 32)
    assert data.labels["identity"].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": np.zeros((12, 9), np.float32)}, "identity.*toy"),
        ({"landmarks": None}, "no field 'landmarks'"),
        ({"kind": np.zeros(11, np.int64)}, "kind"),
        ({"rotation": np.full((12, 3, 3), np.nan, np.float32)}, "rotation.*finite"),
        ({"confidence": np.ones((12, 67), np.float32)}, r"'confidence' has shape \(12, 67\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(split, toy_model, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        TrainingData(rewrite(split, tmp_path, **changes), toy_model, 32)


def test_labels_may_know_the_shape_and_not_the_light(split, toy_model, tmp_path):
    labels = np.load(split / "labels.npz")
    lighting = labels["lighting"].copy()
    lighting[:2] = np.nan
    data = TrainingData(rewrite(split, tmp_path, lighting=lighting), toy_model, 32)
    batch = data.batch(torch.arange(12))
    assert batch.lit.tolist() == [kind == 0 and k > 1 for k, kind in enumerate(labels["kind"])]
    assert batch.parameters.lighting.isfinite().all()


def test_a_split_of_several_data_sets_is_their_sum(split, toy_model, tmp_path):
    worth = np.linspace(0, 1, 12 * 68, dtype=np.float32).reshape(12, 68)
    rewrite(split, tmp_path / "a")
    rewrite(split, tmp_path / "b", confidence=worth, kind=np.full(12, 1))
    np.save(tmp_path / "b" / "images.npy", np.load(split / "images.npy")[:, ::2, ::2])  # crops of another size
    data = TrainingData(tmp_path, toy_model, 32)
    assert len(data) == 24 and data.images.shape == (24, 32, 32, 3)
    assert data.kind[12:].tolist() == [1] * 12
    batch = data.batch(torch.tensor([0, 17]))
    assert (batch.confidence[0] == 1).all() and np.allclose(batch.confidence[1], worth[5])
    assert len(TrainingData(tmp_path, toy_model, 32, ("unlabelled",))) == 3
    assert data.fingerprint != TrainingData(tmp_path / "a", toy_model, 32).fingerprint


def test_missing_damaged_and_empty_data_are_user_errors(split, toy_model, tmp_path):
    with pytest.raises(UserError, match=r"images\.npy"):
        TrainingData(tmp_path / "nothing", toy_model, 32)
    folder = rewrite(split, tmp_path / "damaged")
    (folder / "labels.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="not a readable file of training labels"):
        TrainingData(folder, toy_model, 32)
    labelled = rewrite(split, tmp_path / "labelled", kind=np.zeros(12, np.int64))
    with pytest.raises(UserError, match="no unlabelled sample"):
        TrainingData(labelled, toy_model, 32, kinds=("unlabelled",))
    with pytest.raises(UserError, match="labeled"):
        TrainingData(split, toy_model, 32, kinds=("labeled",))


def test_order_is_a_pure_function_that_visits_all_and_mixes_kinds():
    kind = torch.tensor([0] * 60 + [1] * 25 + [2] * 15)
    person = torch.arange(100) // 4
    person[::7] = -1
    order = visiting_order(kind, person, seed=1, epoch=3)
    assert torch.equal(order, visiting_order(kind, person, seed=1, epoch=3))
    assert sorted(order.tolist()) == list(range(100))
    assert not torch.equal(order, visiting_order(kind, person, seed=1, epoch=4))
    assert not torch.equal(order, visiting_order(kind, person, seed=2, epoch=3))
    counts = torch.stack([torch.bincount(kind[rows], minlength=3) for rows in order.split(20)])
    assert (counts - torch.tensor([12, 5, 3])).abs().max() <= 1


def test_rows_of_one_person_go_in_pairs_that_are_others_each_epoch():
    kind = torch.tensor([0] * 40 + [1] * 30)
    person = torch.cat([torch.arange(40) // 5, torch.full((10,), -1), torch.arange(20) // 2])

    def pairs(epoch):
        """The pairs that stand beside each other among the rows of their kind."""
        order = visiting_order(kind, person, 0, epoch)
        ways = [order[kind[order] == value].tolist() for value in (0, 1)]
        beside = [(min(a, b), max(a, b)) for way in ways for a, b in itertools.pairwise(way)]
        return {(a, b) for a, b in beside if person[a] == person[b] >= 0}

    first, second = pairs(0), pairs(1)
    for found in (first, second):
        paired = {row for pair in found for row in pair}
        assert len(paired & set(range(40))) >= 8 * 4  # of each five, two pairs
        assert set(range(50, 70)) <= paired  # two of each: always together
    assert {pair for pair in first if pair[1] < 40} != {pair for pair in second if pair[1] < 40}
    alone = visiting_order(kind, torch.full((70,), -1), 0, 0)
    apart = (person[alone[:-1]] == person[alone[1:]]) & (person[alone[1:]] >= 0)
    assert apart.sum() < 0.3 * len(first)  # by chance


def test_people_of_several_data_sets_are_different_people(split, toy_model, tmp_path):
    people = np.array([0, 0, 1, 1, 2, 2, -1, -1, 0, 1, 2, 5])
    rewrite(split, tmp_path / "a", person=people)
    rewrite(split, tmp_path / "b", person=people)
    rewrite(split, tmp_path / "c")
    found = TrainingData(tmp_path, toy_model, 32).person
    first, second, none = found.split(12)
    assert first.tolist() == people.tolist() and (none == -1).all()
    assert second.tolist() == np.where(people < 0, -1, people + 6).tolist()
    assert TrainingData(tmp_path, toy_model, 32).batch(torch.tensor([0, 13, 30])).person.tolist() == [0, 6, -1]


def test_rows_say_how_much_of_the_shape_their_labels_tell(split, toy_model, tmp_path):
    whole = TrainingData(split, toy_model, 32)
    assert torch.equal(whole.shaped, whole.kind == 0) and (whole.batch(torch.arange(12)).known == 1).all()
    known = np.ones((12, 9), np.float32)
    known[[0, 2], 3] = 0.25
    batch = TrainingData(rewrite(split, tmp_path, known=known), toy_model, 32).batch(torch.arange(12))
    kind = np.load(split / "labels.npz")["kind"]
    assert np.array_equal(batch.known.numpy(), known)
    assert batch.shaped.tolist() == ((kind == 0) & (known == 1).all(1)).tolist() and not batch.shaped[0]


def test_rows_say_by_whose_definition_their_points_are(split, toy_model, tmp_path):
    assert not TrainingData(split, toy_model, 32).points_set.any()
    sets, marks = np.arange(12) % 2, np.load(split / "labels.npz")["landmarks"].copy()
    marks[sets == 1] = 7.0
    rewrite(split, tmp_path / "a", points_set=sets, landmarks=marks)
    rewrite(split, tmp_path / "b")
    data = TrainingData(tmp_path, toy_model, 32, ("labelled", "landmarked"))
    kind = np.load(split / "labels.npz")["kind"]
    assert data.points_set.tolist() == [*sets[kind < 2], *[0] * 9]
    assert data.batch(torch.tensor([1, 0])).points_set.tolist() == [1, 0]
    assert np.max(data.constant()["landmarks"]) < 1.5  # of 3DDFA's rows
    ibug = TrainingData(rewrite(split, tmp_path / "c", points_set=np.ones(12, np.int64)), toy_model, 32)
    assert np.shape(ibug.constant()["landmarks"]) == (68, 2)
    with pytest.raises(UserError, match=r"'points_set' holds other numbers than 0 \(3ddfa\), 1 \(ibug\)"):
        TrainingData(rewrite(split, tmp_path / "d", points_set=np.full(12, 2)), toy_model, 32)


def test_the_constant_baselines_pose_is_that_of_bfms_frame(split, toy_model):
    plain = TrainingData(split, toy_model, 32).constant()["pose_degrees"]
    turned = TrainingData(split, with_ibug(toy_model, (10.0, 0.0, 0.0)), 32).constant()["pose_degrees"]
    assert turned[0] - plain[0] == pytest.approx(10, abs=2)


def test_pictures_are_looked_at_by_rows(split, toy_model):
    pictures, whole = TrainingData(split, toy_model, 32).images, np.load(split / "images.npy")
    assert len(pictures) == 12 and np.array_equal(pictures[3].numpy(), whole[3])
    assert np.array_equal(pictures[-2:].numpy(), whole[-2:])
    assert np.array_equal(pictures[torch.tensor([7, 1])].numpy(), whole[[7, 1]])
    assert np.array_equal(pictures[[7, 1]].numpy(), whole[[7, 1]]) and np.array_equal(pictures[np.int64(5)], whole[5])


def test_a_batch_is_the_same_from_the_disk_and_from_the_device(split, toy_model, tmp_path, monkeypatch):
    """What a GPU holds, tried on the CPU: the same bits, resized ones too, in whatever order they are asked for."""
    rewrite(split, tmp_path / "a")
    rewrite(split, tmp_path / "b", kind=np.full(12, 2))
    rewrite(split, tmp_path / "c", kind=np.full(12, 1))
    read = TrainingData(tmp_path, toy_model, 20, ("labelled", "landmarked"), labelled_share=0.5)
    asked = []
    monkeypatch.setattr(module, "_fits", lambda device, size: asked.append(size) or True)
    held = TrainingData(tmp_path, toy_model, 20, ("labelled", "landmarked"), labelled_share=0.5)
    assert held._held and not read._held and len(read) == 18
    assert asked == [18 * (3 * 20**2 + 4 * sum(v[0].numel() for v in held._held[1].values()))]
    for rows in torch.randperm(18, generator=torch.Generator().manual_seed(0)).split(5):
        one, other = read.batch(rows), held.batch(rows)
        assert torch.equal(one.images, other.images) and torch.equal(one.confidence, other.confidence)
        for name, value in one.parameters.as_tensors().items():
            assert torch.equal(value, other.parameters.as_tensors()[name])
    assert torch.equal(read.labels["landmarks"], held.labels["landmarks"]) and read.constant() == held.constant()


def test_a_training_ends_with_the_same_bits_from_the_disk_and_from_the_device(split, toy_model, tmp_path, monkeypatch):
    read = run(toy_model, (split, split), tmp_path / "read", QUICK, NETWORK, max_steps=3)
    monkeypatch.setattr(module, "_fits", lambda device, size: True)
    held = run(toy_model, (split, split), tmp_path / "held", QUICK, NETWORK, max_steps=3)
    assert same(weights(read.last_path), weights(held.last_path))


def test_files_that_are_replaced_meanwhile_are_not_followed(split, toy_model, tmp_path):
    data = TrainingData(rewrite(split, tmp_path / "mine"), toy_model, 32)
    before = data.batch(torch.arange(12))
    other = write_toy_split(toy_model, tmp_path / "other", 12, seed=5)
    for name in ("images.npy", "labels.npz"):
        (other / name).replace(tmp_path / "mine" / name)
    after = data.batch(torch.arange(12))
    assert torch.equal(before.images, after.images) and torch.equal(before.landmarks, after.landmarks)


def test_what_was_read_is_given_back(toy_model, tmp_path):
    """This process's memory after all rows were read once: less than a quarter of the pictures more."""

    def resident():
        return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    folder = write_toy_split(toy_model, tmp_path, 12)
    labels = {
        name: np.resize(value, (3000, *value.shape[1:])) for name, value in np.load(folder / "labels.npz").items()
    }
    np.save(folder / "images.npy", np.zeros((3000, 96, 96, 3), np.uint8))  # 83 MB
    np.savez(folder / "labels.npz", **labels)
    data = TrainingData(folder, toy_model, 96)
    data.batch(torch.arange(64))
    before = resident()
    for rows in torch.randperm(3000).split(64):
        data.batch(rows)
    assert resident() - before < 20e6
