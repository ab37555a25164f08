"""Checkpoint files: what goes in comes out, foreign ones are refused, a failed write leaves the old one."""

import json
import shutil
import struct

import pytest
import torch
from paths import ROOT
from safetensors.torch import save_file

from mlanet_lib.errors import UserError
from mlanet_lib.network import MLANet, NetworkConfig, checkpoint


@pytest.fixture
def network(toy_model):
    torch.manual_seed(0)
    network = MLANet(toy_model, NetworkConfig(backbone="lcnet_050", levels=(3, 4), image_size=32, width=16, pool=2))
    for head in network.heads.values():
        torch.nn.init.normal_(head.weight, std=0.02)
    return network.eval()


@pytest.fixture
def stored(network, toy_model, tmp_path):
    path = tmp_path / "network.safetensors"
    checkpoint.save(path, {f"network.{k}": v for k, v in network.state_dict().items()}, metadata(toy_model))
    return path


def metadata(model) -> dict:
    return {
        "network": {
            "backbone": "lcnet_050",
            "pretrained": True,
            "levels": [3, 4],
            "image_size": 32,
            "width": 16,
            "pool": 2,
        },
        "face_model": {"name": model.name, "fingerprint": model.fingerprint},
        "pretrained_weights": "random (a test)",
        "step": 7,
    }


def test_a_network_comes_back_as_it_was(stored, network, toy_model):
    loaded, found = checkpoint.load_network(stored, toy_model)
    assert found == metadata(toy_model) and not loaded.training
    assert loaded.pretrained_weights == "random (a test)"
    images = torch.rand(2, 3, 32, 32)
    for name, value in loaded.encode(images).as_tensors().items():
        assert torch.equal(value, getattr(network.encode(images), name)), name


def test_a_head_of_former_networks_is_left_out(stored, network, toy_model, tmp_path):
    tensors, found = checkpoint.read(stored)
    tensors |= {"network.points.weight": torch.rand(136, 128), "network.points.bias": torch.rand(136)}
    checkpoint.save(tmp_path / "former.safetensors", tensors, found)
    loaded, _ = checkpoint.load_network(tmp_path / "former.safetensors", toy_model)
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(loaded.heads["identity"].weight, network.heads["identity"].weight)


def test_steps_of_feedback_are_kept(toy_model, tmp_path):
    network = MLANet(toy_model, NetworkConfig(backbone="lcnet_050", levels=(3, 4), image_size=32, feedback=2)).eval()
    record = metadata(toy_model) | {"network": {"backbone": "lcnet_050", "levels": [3, 4], "feedback": 2}}
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(tmp_path / "fed.safetensors", tensors, record)
    loaded, _ = checkpoint.load_network(tmp_path / "fed.safetensors", toy_model)
    images = torch.rand(2, 3, 32, 32)
    for name, value in loaded.encode(images).as_tensors().items():
        assert torch.equal(value, getattr(network.encode(images), name)), name


def test_it_is_plain_safetensors_with_json_in_the_header(stored):
    content = stored.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    assert json.loads(header[checkpoint.FORMAT])["step"] == 7
    assert checkpoint.read_metadata(stored)["step"] == 7


def test_the_same_weights_make_the_same_file(stored, tmp_path):
    tensors, found = checkpoint.read(stored)
    for _ in range(6):
        checkpoint.save(tmp_path / "again.safetensors", tensors, found)
        assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()


def test_files_with_the_header_in_two_entries_are_still_read(stored, toy_model, tmp_path):
    tensors, found = checkpoint.read(stored)
    header = {"format": checkpoint.FORMAT, "mlanet": json.dumps(found)}
    save_file(tensors, tmp_path / "older.safetensors", metadata=header)
    assert checkpoint.load_network(tmp_path / "older.safetensors", toy_model)[1] == found


def test_averaged_weights_are_preferred(network, toy_model, tmp_path):
    tensors = {f"ema.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"network.{k}": torch.zeros_like(v) for k, v in network.state_dict().items()}
    checkpoint.save(tmp_path / "last.safetensors", tensors, metadata(toy_model))
    loaded, _ = checkpoint.load_network(tmp_path / "last.safetensors", toy_model)
    assert torch.equal(loaded.heads["identity"].weight, network.heads["identity"].weight)
    checkpoint.export_weights(tmp_path / "last.safetensors", tmp_path / "ship.safetensors")
    shipped, _ = checkpoint.read(tmp_path / "ship.safetensors")
    assert set(shipped) == {f"network.{k}" for k in network.state_dict()}
    assert torch.equal(shipped["network.heads.identity.weight"], network.heads["identity"].weight.half())


def test_shipped_weights_are_half_as_big_and_nearly_the_same(stored, network, toy_model, tmp_path):
    checkpoint.export_weights(stored, tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.65 * stored.stat().st_size
    loaded, found = checkpoint.load_network(tmp_path / "half.safetensors", toy_model)
    assert found["weights_dtype"] == "float16" and found["step"] == 7
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    images = torch.rand(2, 3, 32, 32)
    for name, value in loaded.encode(images).as_tensors().items():
        assert torch.allclose(value, getattr(network.encode(images), name), rtol=0.02, atol=0.02), name


def test_another_face_model_is_refused(stored, network, toy_model):
    from toy_data import striped

    with pytest.raises(UserError, match=r"face model 'toy' .* not with 'striped'"):
        checkpoint.load_network(stored, striped(toy_model))


def test_foreign_and_damaged_files_are_user_errors(stored, toy_model, tmp_path):
    with pytest.raises(UserError, match="not found"):
        checkpoint.load_network(tmp_path / "none.safetensors", toy_model)
    for name, content in {"text": b"hello", "empty": b"", "cut": stored.read_bytes()[:-100]}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable checkpoint"):
            checkpoint.read(path)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not an mlanet checkpoint"):
        checkpoint.read_metadata(tmp_path / "foreign.safetensors")
    weights, found = checkpoint.read(stored)
    del weights["network.heads.identity.bias"]
    checkpoint.save(tmp_path / "part.safetensors", weights, found)
    with pytest.raises(UserError, match=r"do not fit.*heads\.identity\.bias"):
        checkpoint.load_network(tmp_path / "part.safetensors", toy_model)


def test_a_failed_write_leaves_the_old_file(stored, monkeypatch):
    before = stored.read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(stored, {"network.x": torch.zeros(1)}, {})
    assert stored.read_bytes() == before and list(stored.parent.iterdir()) == [stored]


def test_differences_are_named():
    there = {"train": {"lr": 0.1, "steps": 5}, "seed": 1, "code": "a" * 64}
    here = {"train": {"lr": 0.2, "steps": 5}, "seed": 1, "code": "b" * 64, "new": 3}
    assert checkpoint.differences(there, here) == ["code", "new (None there, 3 here)", "train.lr (0.1 there, 0.2 here)"]
    assert checkpoint.differences(there, there) == []


@pytest.mark.parametrize(
    "name, counts",
    [("training/loop.py", True), ("geometry/camera.py", True), ("renderer.py", True), ("show/live.py", False)],
)
def test_the_code_fingerprint_is_of_what_trains(name, counts, tmp_path, monkeypatch):
    """One byte more in a file changes it where the training depends on that file."""
    library = tmp_path / "mlanet_lib"
    shutil.copytree(ROOT / "mlanet_lib", library, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(checkpoint, "__file__", str(library / "network" / "checkpoint.py"))
    checkpoint.code_fingerprint.cache_clear()
    before = checkpoint.code_fingerprint()
    with (library / name).open("a") as file:
        file.write("#")
    assert checkpoint.code_fingerprint() == before  # as first asked for
    checkpoint.code_fingerprint.cache_clear()
    assert (checkpoint.code_fingerprint() != before) == counts
    monkeypatch.undo()
    checkpoint.code_fingerprint.cache_clear()
