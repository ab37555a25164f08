"""Training end to end on toy faces: it learns, it resumes bit for bit, it says what is wrong."""

import csv
import dataclasses
import math

import numpy as np
import pytest
import torch
from toy_data import write_toy_split
from toy_training import NETWORK, PLAIN, QUICK, run, same, weights

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.front import front_faces
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.renderer import covered_by, render_face
from mlanet_lib.training import loop
from mlanet_lib.training.config import Job, TrainConfig, resolved_precision
from mlanet_lib.training.data import TrainingData
from mlanet_lib.training.loop import fit
from mlanet_lib.training.losses import LossWeights, photometric_loss
from mlanet_lib.training.processes import Processes
from mlanet_lib.training.validation import validate

ALONE = Processes(0, 1, torch.device("cpu"))


def test_what_a_training_leaves_behind(whole, model, folders):
    assert whole.step == 9 and whole.resumed_from == 0
    assert [row["step"] for row in whole.history] == [4, 8, 9]
    assert whole.best is min(whole.history, key=lambda row: row["val_nme"])
    with whole.history_path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_nme"]) for row in rows] == [row["val_nme"] for row in whole.history]
    names = {field.name for field in dataclasses.fields(LossWeights)} - {"early", "points", "same_person"}
    assert names | {"total", "lr", "epoch", "val_pose_mae", "val_vertices", "val_expression"} <= set(rows[0])
    network, metadata = checkpoint.load_network(whole.best_path, model)
    held_out = TrainingData(folders[1], model, 32)
    again = validate(network, held_out, SparseShape(model, QUICK.vertices), ALONE)
    assert again["val_nme"] == pytest.approx(whole.best["val_nme"], rel=1e-6)  # threads may add in another order
    assert metadata["step"] == whole.best["step"] and metadata["pretrained_weights"] == "random"
    assert metadata["samples"] == {"labelled": 14, "landmarked": 7, "unlabelled": 7}
    assert np.shape(metadata["constant"]["landmarks"]) == (68, 2) and len(metadata["constant"]["pose_degrees"]) == 3
    assert set(weights(whole.best_path)) == {f"network.{name}" for name in network.state_dict()}


def test_stopped_and_resumed_is_bit_for_bit_the_same(whole, model, folders, tmp_path):
    stopped = run(model, folders, tmp_path, seed=5, max_steps=6)
    assert stopped.step == 6
    torch.rand(3)  # the caller's random numbers do not matter
    resumed = run(model, folders, tmp_path, seed=5)
    assert resumed.resumed_from == 6 and resumed.step == 9
    assert same(weights(resumed.last_path), weights(whole.last_path))
    assert same(weights(resumed.best_path), weights(whole.best_path))
    assert resumed.history == whole.history
    assert resumed.history_path.read_bytes() == whole.history_path.read_bytes()


def test_killed_between_checkpoints_it_repeats_the_lost_steps(whole, model, folders, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    draw = loop.random_numbers

    def kill_in_step_7(count, generator):
        if generator.initial_seed() == loop.generator(5, 6, "cpu").initial_seed():
            raise Killed
        return draw(count, generator)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "random_numbers", kill_in_step_7)
        run(model, folders, tmp_path, seed=5)
    resumed = run(model, folders, tmp_path, seed=5)
    assert resumed.resumed_from == 4
    assert same(weights(resumed.last_path), weights(whole.last_path))


def test_a_finished_run_is_not_trained_again(whole, model, folders):
    before = whole.last_path.read_bytes()
    again = run(model, folders, whole.last_path.parent, seed=5)
    assert again.resumed_from == again.step == 9 and again.history == whole.history
    assert whole.last_path.read_bytes() == before


def test_another_configuration_starts_anew_and_says_why(whole, model, folders, tmp_path, capsys):
    run(model, folders, tmp_path, seed=5, max_steps=4)
    changed = dataclasses.replace(QUICK, lr=1e-3, steps=5)
    result = run(model, folders, tmp_path, changed, seed=5)
    assert result.resumed_from == 0 and result.step == 5
    assert "train.lr (0.002 there, 0.001 here)" in capsys.readouterr().out
    fresh = run(model, folders, tmp_path / "fresh", changed, seed=5)
    assert same(weights(fresh.last_path), weights(result.last_path))


def test_an_explicit_checkpoint_must_fit(whole, model, toy_model, folders, tmp_path):
    with pytest.raises(UserError, match=r"train\.lr \(0\.002 there, 0\.001 here\)"):
        run(model, folders, tmp_path, dataclasses.replace(QUICK, lr=1e-3), seed=5, resume=whole.last_path)
    with pytest.raises(UserError, match=r"seed \(5 there, 6 here\)"):
        run(model, folders, tmp_path, seed=6, resume=whole.last_path)
    with pytest.raises(UserError, match=r"data\.train"):
        run(model, (folders[1], folders[1]), tmp_path, seed=5, resume=whole.last_path)
    with pytest.raises(UserError, match=r"trained with face model 'striped'.* not with 'toy'"):
        run(toy_model, folders, tmp_path, seed=5, resume=whole.last_path)
    with pytest.raises(UserError, match="weights only"):
        run(model, folders, tmp_path, seed=5, resume=whole.best_path)
    with pytest.raises(UserError, match="not found"):
        run(model, folders, tmp_path, seed=5, resume=tmp_path / "none.safetensors")
    assert not list(tmp_path.iterdir())
    again = run(model, folders, tmp_path, seed=5, resume=whole.last_path)
    assert again.resumed_from == 9 and again.best_path.read_bytes() == whole.best_path.read_bytes()


def test_without_its_best_weights_a_run_is_not_resumed(model, folders, tmp_path, capsys):
    first = run(model, folders, tmp_path, max_steps=4)
    first.best_path.unlink()
    with pytest.raises(UserError, match=r"best\.safetensors.* is not beside it"):
        run(model, folders, tmp_path / "elsewhere", max_steps=4, resume=first.last_path)
    assert run(model, folders, tmp_path, max_steps=4).resumed_from == 0
    assert "starts anew" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_not_resumed(model, folders, tmp_path, capsys):
    (tmp_path / "last.safetensors").write_bytes(b"half a file")
    assert run(model, folders, tmp_path, max_steps=1).resumed_from == 0
    assert "starts anew" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_names_step_and_term(model, folders, tmp_path, monkeypatch):
    honest = loop.semi_supervised_terms

    def broken(seen):
        terms, amounts = honest(seen)
        broken.calls += 1
        return terms | {"rotation": terms["rotation"] * (math.nan if broken.calls == 3 else 1)}, amounts

    broken.calls = 0
    monkeypatch.setattr(loop, "semi_supervised_terms", broken)
    with pytest.raises(UserError, match=r"'rotation' is nan at step 3 "):
        run(model, folders, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_every_parameter_is_trained(model, folders, whole, tmp_path):
    torch.manual_seed(5)
    start = MLANet(model, NETWORK)
    trained = weights(whole.last_path)
    moved = {name: not torch.equal(p, trained[f"network.{name}"]) for name, p in start.named_parameters()}
    assert all(moved.values()), [name for name, value in moved.items() if not value]


def test_feedback_is_trained_and_goes_on_bit_for_bit(model, folders, tmp_path):
    network = dataclasses.replace(NETWORK, feedback=2)
    whole = run(model, folders, tmp_path / "whole", network=network)
    assert {"early", "points"} <= set(whole.history[0])
    run(model, folders, tmp_path / "parts", network=network, max_steps=5)
    resumed = run(model, folders, tmp_path / "parts", network=network)
    assert resumed.resumed_from == 5 and same(weights(resumed.last_path), weights(whole.last_path))
    fresh, trained = run(model, folders, tmp_path / "fresh", network=network, max_steps=1), weights(whole.last_path)
    start = weights(fresh.last_path)
    names = [name for name in start if name.startswith("network.feedback.")]
    assert len(names) == 68 and not [name for name in names if torch.equal(start[name], trained[name])]


def test_frozen_levels_are_neither_trained_nor_averaged_away(model, folders, tmp_path):
    frozen = dataclasses.replace(QUICK, frozen=2)
    result = run(model, folders, tmp_path, frozen)
    begun = run(model, folders, tmp_path / "start", frozen, max_steps=1)
    start, last = weights(begun.last_path), weights(result.last_path)
    kept = [name for name in last if ".backbone.model.blocks.2." in name and name.startswith(("network.", "ema."))]
    later = [name for name in last if name.startswith("network.backbone.model.blocks.5.") and "num" not in name]
    assert len(kept) > 10 and later
    assert all(torch.equal(start[name], last[name]) for name in kept)
    assert not any(torch.equal(start[name], last[name]) for name in later)
    stopped = tmp_path / "stopped"
    run(model, folders, stopped, frozen, max_steps=5)
    assert same(weights(run(model, folders, stopped, frozen).last_path), last)


def test_the_last_steps_see_weak_augmentation(model, folders, tmp_path, monkeypatch):
    seen, augment = [], loop.augment

    def noted(batch, strengths, *others):
        seen.append(strengths)
        return augment(batch, strengths, *others)

    monkeypatch.setattr(loop, "augment", noted)
    run(model, folders, tmp_path, dataclasses.replace(QUICK, weak_end=0.34))
    assert seen == [QUICK.augment] * 6 + [QUICK.augment.weak()] * 3
    seen.clear()
    run(model, folders, tmp_path / "without", QUICK)
    assert seen == [QUICK.augment] * 9


def test_the_progress_bar_shows_loss_and_time_left(model, folders, tmp_path, capsys):
    fit(Job(dataclasses.replace(QUICK, steps=4), NETWORK, model, *folders, tmp_path))
    shown = capsys.readouterr().err
    assert "training: 100%" in shown and "loss=" in shown and "nme=" in shown and "<00:00" in shown


def test_bfloat16_trains(model, folders, tmp_path):
    result = run(model, folders, tmp_path, dataclasses.replace(QUICK, precision="bfloat16"), max_steps=4)
    assert np.isfinite(result.history[0]["val_nme"])


def test_a_compiled_network_is_trained_and_its_checkpoint_is_as_any(whole, model, folders, tmp_path, monkeypatch):
    """With the compiler's last stage left out (it takes a minute): captured as a graph, run eagerly."""
    real, asked = torch.compile, []

    def captured(module, **options):
        asked.append(options)
        return real(module, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", captured)
    config = dataclasses.replace(QUICK, compile=True)
    stopped = run(model, folders, tmp_path, config, seed=5, max_steps=3)
    assert asked == [{"dynamic": False}]
    names = set(weights(whole.last_path))
    assert set(weights(stopped.last_path)) == names and not any("_orig_mod" in name for name in names)
    compiled = run(model, folders, tmp_path, config, seed=5)
    assert compiled.resumed_from == 3
    assert compiled.history[-1]["total"] == pytest.approx(whole.history[-1]["total"], rel=1e-3)


def test_the_number_of_processes_is_no_part_of_the_fingerprint(whole, model, folders):
    again = run(model, folders, whole.last_path.parent, dataclasses.replace(QUICK, processes=3), seed=5)
    assert again.resumed_from == again.step == 9


def test_precision_is_what_the_machine_computes_in(monkeypatch):
    for can, expected in (({"avx512_bf16": True}, "bfloat16"), ({"avx512_bf16": False}, "float32"), ({}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        assert resolved_precision("auto") == expected
        assert resolved_precision("bfloat16") == "bfloat16" and resolved_precision("float32") == "float32"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert resolved_precision("auto") == "float32"


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"lr": 0.0}, {"ema": 1.0}, {"precision": "float16"}, {"processes": -1}]
)
def test_wrong_settings_are_user_errors(change):
    with pytest.raises(UserError):
        TrainConfig(**change)


def test_overfits_a_small_set(model, tmp_path):
    """Sixteen labelled faces, learned by heart: the landmarks come at least four times nearer than the mean face's."""
    folder = write_toy_split(model, tmp_path / "few", 16)
    config = TrainConfig(
        steps=60, batch_size=16, lr=8e-3, vertices=20, augment=PLAIN, validate_every=30, ema=0.7, photometric_batch=0
    )
    start = MLANet(model, NETWORK).eval()
    data = TrainingData(folder, model, 32)
    before = validate(start, data, SparseShape(model, 20), ALONE)
    result = run(model, (folder, folder), tmp_path / "out", config)
    print("overfit", before, result.best)
    assert result.best["val_nme"] < before["val_nme"] / 4
    assert result.best["val_pose_mae"] < before["val_pose_mae"] / 4
    assert result.best["val_vertices"] < before["val_vertices"] / 2


def test_photos_are_judged_by_their_points_and_drawn_faces_by_their_parameters(model, tmp_path):
    """Rows whose light nobody knows are photos: the NME is theirs alone, errors of parameters are the others'."""
    network, shape = MLANet(model, NETWORK).eval(), SparseShape(model, 20)
    drawn = write_toy_split(model, tmp_path / "both" / "drawn", 6, seed=1)
    photos = write_toy_split(model, tmp_path / "both" / "photos", 5, seed=2, kinds=(0, 1))
    with np.load(photos / "labels.npz") as archive:
        labels = {name: archive[name] for name in archive.files}
    labels["lighting"][:] = np.nan
    np.savez(photos / "labels.npz", **labels)
    both, first, second = (
        validate(network, TrainingData(folder, model, 32), shape, ALONE)
        for folder in (tmp_path / "both", drawn, photos)
    )
    assert both["val_nme"] == pytest.approx(second["val_nme"]) != first["val_nme"]
    for name in ("val_pose_mae", "val_vertices", "val_identity", "val_albedo"):
        assert both[name] == pytest.approx(first[name], rel=1e-5)
    assert "val_albedo" not in second and second["val_pose_mae"] > 0  # of the fitted ones, where there are no others


def test_unlabelled_pictures_are_learned_from(model, tmp_path):
    """From pictures alone: the photometric error on the unlabelled samples falls by a tenth at least."""
    folder = write_toy_split(model, tmp_path / "free", 16, kinds=(2,))
    held_out = write_toy_split(model, tmp_path / "held_out", 4, seed=1)
    config = TrainConfig(
        steps=60,
        batch_size=16,
        lr=8e-3,
        augment=PLAIN,
        photometric_batch=16,
        photometric_size=16,
        ema=0.7,
        validate_every=60,
    )
    result = run(model, (folder, held_out), tmp_path / "out", config)
    assert "landmarks" not in result.history[0] and "identity" not in result.history[0]
    data = TrainingData(folder, model, 32)
    batch = data.batch(torch.arange(16))

    def error(network) -> float:
        with torch.no_grad():
            drawing = render_face(model, network.eval().encode(batch.images), 32)
            front = covered_by(drawing.fragments, front_faces(model)).float()  # all that is compared
            return float(photometric_loss(drawing.image, batch.images, front))

    trained, _ = checkpoint.load_network(result.last_path, model)
    before, after = error(MLANet(model, NETWORK)), error(trained)
    print("photometric", before, after)
    assert after < 0.9 * before
