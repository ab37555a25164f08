"""Training that begins with other weights: what is taken, what stays fresh, what is refused, and what resuming asks."""

import dataclasses

import pytest
import timm
import torch
from toy_data import write_toy_split
from toy_training import NETWORK, QUICK, run

from mlanet_lib.errors import UserError
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.training.resume import begin_from, start_digest

STILL = dataclasses.replace(QUICK, lr=1e-9)  # one step leaves the parameters where they began


@pytest.fixture(scope="module")
def other_model(model):
    """Another face: larger, fewer identity modes, as many expressions."""
    return model.replace(mean=model.mean * 1.2, identity_basis=model.identity_basis[..., :3], name="other")


@pytest.fixture(scope="module")
def other_folders(other_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    train = write_toy_split(other_model, root / "train", 16)
    return train, write_toy_split(other_model, root / "validation", 8, seed=1)


def beginning_with(path, **changes):
    return dataclasses.replace(NETWORK, start=str(path), **changes)


def parameters_after_one_step(model, folders, out, network):
    result = run(model, folders, out, STILL, network, max_steps=1)
    tensors, metadata = checkpoint.read(result.last_path)
    names = [name for name, _ in MLANet(model, network).named_parameters()]
    return {name: tensors[f"network.{name}"] for name in names}, metadata


def near(one, other):
    return torch.allclose(one, other, atol=1e-6)


def test_the_same_face_model_takes_all_weights(model, folders, whole, tmp_path):
    checkpoint.export_weights(whole.last_path, tmp_path / "shipped.safetensors")
    shipped, _ = checkpoint.read(tmp_path / "shipped.safetensors")
    found, metadata = parameters_after_one_step(
        model, folders, tmp_path / "out", beginning_with(tmp_path / "shipped.safetensors")
    )
    for name, value in found.items():  # half precision rounds the heads' scales too
        torch.testing.assert_close(value, shipped[f"network.{name}"].float(), rtol=1e-3, atol=1e-6)
    assert metadata["pretrained_weights"] == "started from shipped.safetensors (striped, step 9)"


def test_another_face_model_takes_all_but_what_its_shape_and_colour_are_read_with(
    other_model, other_folders, whole, tmp_path
):
    begun, _ = checkpoint.read(whole.last_path)
    found, metadata = parameters_after_one_step(
        other_model, other_folders, tmp_path / "out", beginning_with(whole.last_path)
    )
    torch.manual_seed(0)  # fit's own seed: what a network without a start has
    fresh = MLANet(other_model, NETWORK)
    own = ("heads.identity.", "heads.expression.", "heads.albedo.")
    for name, value in found.items():
        expected = fresh.state_dict()[name] if name.startswith(own) else begun[f"ema.{name}"]
        assert near(value, expected), name
    assert not near(begun["ema.heads.expression.weight"], fresh.heads["expression"].weight)  # of the same shape
    assert {"heads.rotation.bias", "heads.lighting.weight", "level_logits", "project.0.conv.weight"} <= set(found)
    neutral = checkpoint.read(tmp_path / "out" / "last.safetensors")[0]["network.neutral_translation"]
    assert torch.equal(neutral, fresh.neutral_translation)
    assert not torch.allclose(neutral, begun["ema.neutral_translation"], rtol=0.05)
    assert metadata["pretrained_weights"] == "started from last.safetensors (striped, step 9)"


def test_steps_of_feedback_are_taken_but_for_ridges_of_another_face_model(
    model, other_model, folders, other_folders, tmp_path
):
    fed = dataclasses.replace(NETWORK, feedback=2)
    path = run(model, folders, tmp_path / "fed", network=fed, max_steps=2).last_path
    begun, _ = checkpoint.read(path)
    starting = dataclasses.replace(fed, start=str(path))
    found, _ = parameters_after_one_step(model, folders, tmp_path / "same", starting)
    steps = [name for name in found if name.startswith("feedback.")]
    assert len(steps) == 68 and all(near(found[name], begun[f"ema.{name}"]) for name in steps)
    found, _ = parameters_after_one_step(other_model, other_folders, tmp_path / "other", starting)
    torch.manual_seed(0)
    fresh = MLANet(other_model, fed).state_dict()
    ridges = {"feedback.0.log_ridge", "feedback.1.log_ridge"}
    assert ridges < set(steps) and all(near(found[name], fresh[name]) for name in ridges)
    assert all(near(found[name], begun[f"ema.{name}"]) for name in set(steps) - ridges)


def test_feedback_that_reads_more_around_a_point_begins_with_what_it_saw_there(model, tmp_path):
    torch.manual_seed(3)
    narrow = MLANet(model, NETWORK, feedback=1).eval()
    torch.nn.init.normal_(narrow.feedback[0].say, std=0.1)
    record = {"face_model": {"name": model.name, "fingerprint": model.fingerprint}}
    record["network"] = dataclasses.asdict(narrow.config) | {"levels": list(narrow.config.levels)}
    path = tmp_path / "narrow.safetensors"
    checkpoint.save(path, {f"network.{name}": value for name, value in narrow.state_dict().items()}, record)
    wide = MLANet(model, beginning_with(path, feedback=1, patch=3)).eval()
    begin_from(wide, model)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        for name, value in narrow(images).items():
            torch.testing.assert_close(wide(images)[name], value, rtol=1e-4, atol=1e-6)


def test_feedback_begins_anew_where_the_start_has_none(model, folders, whole, tmp_path):
    network = beginning_with(whole.last_path, feedback=1)
    found, _ = parameters_after_one_step(model, folders, tmp_path, network)
    torch.manual_seed(0)
    fresh = MLANet(model, network).state_dict()
    begun = checkpoint.read(whole.last_path)[0]
    steps = {name for name in found if name.startswith("feedback.")}
    assert steps and all(near(found[name], fresh[name]) for name in steps)
    assert all(near(found[name], begun[f"ema.{name}"]) for name in found.keys() - steps)


@pytest.mark.parametrize("before, after", [("hierarchical", "hierarchical_concatenate"), ("none", "concatenate")])
def test_heads_that_read_side_by_side_begin_with_what_those_of_the_mean_computed(before, after, model, tmp_path):
    torch.manual_seed(3)
    mean = MLANet(model, NETWORK, fusion=before).eval()
    mean.level_logits.data.normal_()
    for head in mean.heads.values():
        head.weight.data.normal_(std=0.1)
    record = {"face_model": {"name": model.name, "fingerprint": model.fingerprint}}
    record["network"] = dataclasses.asdict(mean.config) | {"levels": [2, 3, 4]}
    path = tmp_path / "mean.safetensors"
    checkpoint.save(path, {f"network.{name}": value for name, value in mean.state_dict().items()}, record)
    wide = MLANet(model, beginning_with(path, fusion=after)).eval()
    start_digest(wide.config, tmp_path / "out")
    begin_from(wide, model)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        for name, value in mean(images).items():
            torch.testing.assert_close(wide(images)[name], value, rtol=1e-4, atol=1e-6)
    assert not wide.level_logits.any()
    with pytest.raises(UserError, match="of another network: fusion"):  # the way back has no answer
        checkpoint.save(
            path,
            {f"network.{name}": value for name, value in wide.state_dict().items()},
            record | {"network": record["network"] | {"fusion": after}},
        )
        start_digest(beginning_with(path, fusion=before), tmp_path / "out")


def test_a_backbone_alone_is_a_start(model, folders, whole, tmp_path):
    begun, metadata = checkpoint.read(whole.best_path)
    kept = {name: value for name, value in begun.items() if name.startswith(("network.backbone.", "network.points."))}
    architecture = {"backbone": NETWORK.backbone, "image_size": 32}
    checkpoint.save(tmp_path / "points.safetensors", kept, metadata | {"network": architecture})
    network = beginning_with(tmp_path / "points.safetensors")
    found, _ = parameters_after_one_step(model, folders, tmp_path / "out", network)
    torch.manual_seed(0)
    fresh = MLANet(model, NETWORK).state_dict()
    for name, value in found.items():
        assert near(value, begun[f"network.{name}"] if name.startswith(("backbone.", "points.")) else fresh[name]), name
    other = dataclasses.replace(network, backbone="resnet18")
    with pytest.raises(UserError, match="of another network: backbone"):
        run(model, folders, tmp_path / "other", STILL, other)
    checkpoint.save(tmp_path / "points.safetensors", dict(list(kept.items())[5:]), metadata | {"network": architecture})
    with pytest.raises(UserError, match="points"):
        run(model, folders, tmp_path / "out", STILL, network)


def test_the_norms_statistics_are_taken_too(other_model, whole):
    network = MLANet(other_model, beginning_with(whole.best_path))
    begin_from(network, other_model)
    begun, _ = checkpoint.read(whole.best_path)
    statistics = [name for name in network.state_dict() if name.endswith(("running_mean", "running_var"))]
    assert statistics and all(torch.equal(network.state_dict()[n], begun[f"network.{n}"]) for n in statistics)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_heads_of_another_scale_say_the_same(scale, model, whole, tmp_path):
    """scale: None for a file that knows none (its heads' outputs are as they are), else a multiple of the network's."""
    tensors, metadata = checkpoint.read(whole.best_path)
    own = tensors.pop("network.head_scale")
    if scale:
        tensors["network.head_scale"] = own * scale
    checkpoint.save(tmp_path / "start.safetensors", tensors, metadata)
    network = MLANet(model, beginning_with(tmp_path / "start.safetensors")).eval()
    begin_from(network, model)
    assert torch.equal(network.head_scale, own)
    there = MLANet(model, NETWORK).eval()
    there.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items()}, strict=False)
    there.head_scale = own * scale if scale else torch.ones_like(own)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, value in there(images).items():
            torch.testing.assert_close(network(images)[name], value, rtol=1e-4, atol=1e-6)


def test_pictures_may_be_of_another_size_and_the_lens_another(model, folders, whole, tmp_path):
    network = beginning_with(whole.best_path, image_size=48, focal=3.0)
    found, _ = parameters_after_one_step(model, folders, tmp_path, network)
    assert near(found["heads.rotation.weight"], checkpoint.read(whole.best_path)[0]["network.heads.rotation.weight"])
    neutral = checkpoint.read(tmp_path / "last.safetensors")[0]["network.neutral_translation"]
    assert torch.equal(neutral, MLANet(model, network).neutral_translation)


def test_imagenet_s_weights_are_not_fetched_for_it(model, folders, whole, tmp_path, monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        assert not pretrained, "weights that would be overwritten were fetched"
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    run(model, folders, tmp_path, STILL, beginning_with(whole.best_path, pretrained=True), max_steps=1)


def test_stopped_and_resumed_is_bit_for_bit_the_same(model, folders, whole, tmp_path):
    network = beginning_with(whole.best_path)
    straight = run(model, folders, tmp_path / "straight", QUICK, network)
    run(model, folders, tmp_path / "stopped", QUICK, network, max_steps=4)
    resumed = run(model, folders, tmp_path / "stopped", QUICK, network)
    assert resumed.resumed_from == 4 and resumed.history == straight.history
    (one, said), (other, said_again) = (checkpoint.read(result.last_path) for result in (straight, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    line = f"started from best.safetensors (striped, step {whole.best['step']})"
    assert said["pretrained_weights"] == said_again["pretrained_weights"] == line


def test_a_run_is_not_resumed_where_its_start_has_changed(model, folders, whole, tmp_path, capsys):
    start = tmp_path / "start.safetensors"
    start.write_bytes(whole.best_path.read_bytes())
    out, network = tmp_path / "out", beginning_with(start)
    stopped = run(model, folders, out, QUICK, network, max_steps=1)
    checkpoint.export_weights(whole.best_path, start)
    with pytest.raises(UserError, match=r"cannot resume from .*last\.safetensors: it differs in start_file$"):
        run(model, folders, out, QUICK, network, resume=stopped.last_path)
    anew = run(model, folders, out, QUICK, network, max_steps=2)
    assert anew.resumed_from == 0 and "differs in start_file" in capsys.readouterr().out
    start.unlink()
    with pytest.raises(UserError, match=r"network\.start: no file .*start\.safetensors"):
        run(model, folders, out, QUICK, network)
    assert anew.last_path.is_file()


def test_what_came_out_is_loaded_without_the_start(model, folders, whole, tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes(whole.best_path.read_bytes())
    result = run(model, folders, tmp_path / "out", QUICK, beginning_with(start))
    start.unlink()
    checkpoint.export_weights(result.best_path, tmp_path / "shipped.safetensors")
    network, metadata = checkpoint.load_network(tmp_path / "shipped.safetensors", model)
    assert network.config.start == metadata["network"]["start"] == str(start)
    assert network.pretrained_weights.startswith("started from start.safetensors (striped, step ")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backbone": "lcnet_075"}, r"backbone \(lcnet_050 there, lcnet_075 here\)"),
        ({"levels": (2, 3)}, r"levels \(\[2, 3, 4\] there, \[2, 3\] here\)"),
        ({"attention": "channel"}, r"attention \(channel_spatial there, channel here\)"),
        ({"fusion": "none", "width": 8}, r"fusion \(hierarchical there, none here\), width \(16 there, 8 here\)"),
        ({"pool": 1}, r"pool \(2 there, 1 here\)"),
    ],
)
def test_another_architecture_is_refused_before_an_older_run_is_lost(changes, named, model, folders, whole, tmp_path):
    older = tmp_path / "best.safetensors"
    older.write_bytes(b"of an older run")
    with pytest.raises(UserError, match=rf"network\.start: .*best\.safetensors is of another network: {named}$"):
        run(model, folders, tmp_path, QUICK, beginning_with(whole.best_path, **changes))
    assert older.is_file()


def test_a_start_that_the_run_would_overwrite_is_refused(model, folders, tmp_path, whole):
    (tmp_path / "best.safetensors").write_bytes(whole.best_path.read_bytes())
    with pytest.raises(UserError, match="lies in the folder that this training writes"):
        run(model, folders, tmp_path, QUICK, beginning_with(tmp_path / "best.safetensors"))
    assert (tmp_path / "best.safetensors").is_file()


def test_files_that_are_no_start_are_user_errors(model, whole, tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        start_digest(beginning_with(path), tmp_path / "out")
    tensors, metadata = checkpoint.read(whole.best_path)
    checkpoint.save(path, tensors, {name: value for name, value in metadata.items() if name != "network"})
    with pytest.raises(UserError, match=r"another network: backbone \(None there"):
        start_digest(beginning_with(path), tmp_path / "out")
    tensors.pop("network.project.0.conv.weight")
    checkpoint.save(path, tensors, metadata)
    with pytest.raises(UserError, match="weights do not fit the network"):
        begin_from(MLANet(model, beginning_with(path)), model)
