"""The command line: what it writes, what it says, and that wrong input is one line and exit code 2."""

import dataclasses
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from paths import ROOT
from PIL import Image
from ruamel.yaml import YAML
from toy_data import write_toy_split
from toy_portraits import write_folder

from mlanet_lib.cli.__main__ import main
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files import pictures
from mlanet_lib.files.atomic import together
from mlanet_lib.files.outputs import MARK
from mlanet_lib.files.project import read_yaml
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.study.profiles import merge


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_model):
    """A project folder with a toy face model and an untrained network."""
    root = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "dvc.yaml"):
        (root / name).write_text("")
    toy_model.save(root / "data" / "face_models" / "toy.npz")
    stored = MorphableModel.load(root / "data" / "face_models" / "toy.npz")
    torch.manual_seed(0)
    network = MLANet(stored, backbone="resnet10t", image_size=32, width=8, pool=1)
    metadata = {
        "network": dataclasses.asdict(network.config),
        "face_model": {"name": "toy", "fingerprint": stored.fingerprint},
        "pretrained_weights": "random",
        "step": 0,
        "constant": {"landmarks": np.full((68, 2), 0.5).tolist(), "pose_degrees": [0.0, 0.0, 0.0]},
    }
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(root / "weights" / "toy.safetensors", tensors, metadata)
    checkpoint.save(
        root / "other.safetensors", tensors, metadata | {"face_model": {"name": "toy", "fingerprint": "0" * 64}}
    )
    return root


@pytest.fixture(autouse=True)
def at_home(project, monkeypatch):
    monkeypatch.setenv("MLANET_ROOT", str(project))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "me.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(path)
    return path


def refused(arguments, capsys, *words):
    """The command fails with code 2 and one line on stderr that holds `words`."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("mlanet: "), error
    for word in words:
        assert word in error, error


def test_help_names_the_verbs_and_is_quick():
    code = "import sys; from mlanet_lib.cli.__main__ import build_parser; text = build_parser().format_help(); "
    code += "print(text); sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'numpy', 'pandas', 'dvc')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, "help imports something heavy"
    for verb in ("reconstruct", "evaluate", "train", "export", "face-model", "data", "profile"):
        assert verb in done.stdout


def test_unknown_verb_or_option_is_one_line(capsys):
    for arguments in (["reconstrcut"], ["reconstruct", "a.jpg"], ["profile", "use"], []):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_reconstruct_writes_the_contract_s_files(photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reconstruct", str(photo), "--out", str(out), "--cropped"]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"me_0.glb", "me_0.obj", "me_0.mtl", "me_0_texture.png", "me_0.png", "me_0.json"}
    record = json.loads((out / "me_0.json").read_text())
    fields = {"landmarks68", "pose_degrees", "identity", "expression", "lighting", "box", "score", "weights"}
    assert fields <= set(record)
    assert record["box"] == [0, 0, 80, 80] and record["score"] is None and "toy" in record["weights"]
    sizes = [np.ptp(trimesh.load(out / f"me_0.{kind}", force="mesh").bounds, axis=0) for kind in ("obj", "glb")]
    assert np.allclose(sizes[0], sizes[1] * 1000, rtol=1e-3)
    with Image.open(out / "me_0.png") as overlay:
        assert overlay.size == (80, 80)
    assert "me_0.glb" in capsys.readouterr().out


def test_photo_texture_differs_from_the_albedo(photo, tmp_path):
    for kind in ("albedo", "photo"):
        out = tmp_path / kind
        assert main(["reconstruct", str(photo), "--out", str(out), "--cropped", "--texture", kind]) == 0
    images = [np.asarray(Image.open(tmp_path / kind / "me_0_texture.png")).std() for kind in ("albedo", "photo")]
    assert images[1] > 2 * images[0]


def test_one_bad_photo_does_not_lose_the_others(photo, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("hello")
    bad = [str(tmp_path / "text.jpg"), str(tmp_path / "missing.jpg")]
    out = tmp_path / "out"
    assert main(["reconstruct", bad[0], str(photo), bad[1], "--out", str(out), "--cropped"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and "text.jpg" in lines[0] and "missing.jpg" in lines[1]
    assert (out / "me_0.glb").is_file() and not list(out.glob("text_0*"))


def test_photos_that_would_overwrite_each_other(photo, tmp_path, capsys):
    other = tmp_path / "sub" / "me.jpg"
    refused(["reconstruct", photo, other, "--out", tmp_path / "out", "--cropped"], capsys, "same files")
    assert not (tmp_path / "out").exists()


def test_reconstruct_refuses_what_is_wrong(photo, project, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "junk.safetensors").write_text("junk")
    out = tmp_path / "out"
    start = ["reconstruct", photo, "--cropped", "--out"]
    refused([*start, tmp_path / "file" / "x"], capsys, "cannot write", "not a folder")
    refused([*start, out, "--weights", tmp_path / "none.safetensors"], capsys, "checkpoint not found")
    refused([*start, out, "--weights", tmp_path / "junk.safetensors"], capsys, "not a readable checkpoint")
    refused([*start, out, "--weights", project / "other.safetensors"], capsys, "was trained with face model")
    refused([*start, out, "--backend", "opengl"], capsys, "opengl", "numba")
    refused([*start, out, "--device", "warp9"], capsys, "warp9")
    assert not out.exists()


def test_read_only_folder(photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlanet_lib.files.atomic.os.access", lambda path, mode: False)  # root may write everywhere
    refused(["reconstruct", photo, "--cropped", "--out", tmp_path / "out"], capsys, "read-only")


def test_full_disk_leaves_nothing_half_written(photo, tmp_path, capsys):
    """A limit on the size of files stands in for the full disk: the writes themselves fail."""
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        code = main(["reconstruct", str(photo), "--cropped", "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert code == 2 and "cannot write into" in error and error.count("\n") == 1
    assert not out.exists() or list(out.iterdir()) == []


def test_fresh_clone_says_what_to_run(photo, tmp_path, capsys, monkeypatch):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    refused(["reconstruct", photo, "--cropped", "--out", tmp_path / "o"], capsys, "no weights", "make repro")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "toy.safetensors").write_bytes(b"")
    refused(["reconstruct", photo, "--cropped", "--out", tmp_path / "o"], capsys, "not a readable checkpoint")


def test_face_model_not_pulled(photo, project, tmp_path, capsys, monkeypatch):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / "weights").mkdir()
    weights = (project / "weights" / "toy.safetensors").read_bytes()
    (tmp_path / "weights" / "toy.safetensors").write_bytes(weights)
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    command = ["reconstruct", photo, "--cropped", "--out", tmp_path / "o"]
    refused(command, capsys, "toy.safetensors", "face model 'toy' is not here", "name other weights, or train anew")
    tensors, metadata = checkpoint.read(tmp_path / "weights" / "toy.safetensors")
    metadata["face_model"] = {"name": "ict", "fingerprint": "0" * 64}
    checkpoint.save(tmp_path / "weights" / "ict.safetensors", tensors, metadata)
    refused(command, capsys, "ict.safetensors", "dvc pull data.dvc")


def test_no_face_is_said(photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLANET_MODELS", str(ROOT / "weights"))
    refused(["reconstruct", photo, "--out", tmp_path / "o"], capsys, "no face found")
    assert not (tmp_path / "o").exists()


def test_export_writes_one_file_that_names_the_weights(tmp_path, capsys):
    out = tmp_path / "deep" / "encoder.pt2"
    out.parent.mkdir()
    out.write_text(MARK)  # its own file may be written again
    assert main(["export", "--out", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["encoder.pt2"]
    assert "toy.safetensors (toy, step 0), crops of 32 px" in capsys.readouterr().out
    extra = {"metadata.json": ""}
    torch.export.load(out, extra_files=extra)
    assert json.loads(extra["metadata.json"])["weights"] == "toy.safetensors (toy, step 0)"


def test_export_refuses_what_is_wrong(project, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    refused(["export", "--out", tmp_path / "encoder.pth"], capsys, ".onnx or .pt2")
    refused(["export", "--out", tmp_path / "file" / "encoder.pt2"], capsys, "cannot write", "not a folder")
    refused(["export", "--weights", tmp_path / "no.safetensors", "--out", tmp_path / "a.pt2"], capsys, "not found")
    refused(["export", "--weights", project / "other.safetensors", "--out", tmp_path / "a.pt2"], capsys, "face model")
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    refused(["export", "--out", tmp_path / "a.pt2"], capsys, "no weights", "make repro")
    assert not list(tmp_path.glob("*.pt2"))


def test_evaluate_writes_the_benchmark_s_json(shared_data, tmp_path, capsys):
    out = tmp_path / "r.json"
    folder = shared_data / "AFLW2000_dev"
    assert main(["evaluate", "aflw2000", str(folder), "--json", str(out), "--limit", "6"]) == 0
    result = json.loads(out.read_text())
    assert {"sparse_nme", "pose_mae", "baselines", "protocol", "weights"} <= set(result)
    assert result["sparse_nme"]["images"][3] == 6
    assert any("constant" in name for name in result["baselines"])
    assert "protocol" in capsys.readouterr().out


def test_evaluate_refuses_what_is_wrong(tmp_path, capsys, photo):
    out = tmp_path / "r.json"
    refused(["evaluate", "aflw2000", tmp_path / "none", "--json", out], capsys, "no such folder")
    photo.with_suffix(".mat").write_text("no")
    refused(["evaluate", "aflw2000", tmp_path, "--json", out], capsys, "me.mat")
    assert not out.exists()


def test_face_model_check_and_convert(project, tmp_path, capsys):
    path = project / "data" / "face_models" / "toy.npz"
    assert main(["face-model", "check", str(path)]) == 0
    assert "toy, 357 vertices" in capsys.readouterr().out
    refused(["face-model", "check", tmp_path / "none.npz"], capsys, "not found")
    refused(["face-model", "convert", "flame", tmp_path, "--out", tmp_path / "x.npz"], capsys, "flame")


def test_face_model_build_passes_its_sources_on(tmp_path, toy_model, capsys, monkeypatch):
    asked, photos = [], np.zeros((3, 2, 64, 64, 3), np.uint8)
    london = write_folder(tmp_path / "london", ["001", "002", "003"], np.full((3, 189, 2), 30.0), photos)
    monkeypatch.setattr("mlanet_lib.face_sources.ict.build.build", lambda *sources: asked.append(sources) or toy_model)
    monkeypatch.setattr(
        "mlanet_lib.face_sources.ict.fetch.ict_facekit", lambda: tmp_path / "cache"
    )  # test_fetch has the download
    start = ["face-model", "build", "--london", str(london)]
    assert main([*start, "--ict", str(tmp_path / "FaceXModel"), "--out", str(tmp_path / "a.npz")]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(start) == 0
    assert asked == [(tmp_path / "FaceXModel", london), (tmp_path / "cache", london)]
    out = capsys.readouterr().out
    assert "data/face_models/ict.npz: toy, 357 vertices" in out
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "data" / "face_models" / "ict.npz").read_bytes()


def test_face_model_build_says_what_is_missing_before_it_fetches(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlanet_lib.face_sources.ict.fetch.ict_facekit", lambda: pytest.fail("fetched"))
    out = tmp_path / "ict.npz"
    refused(["face-model", "build", "--out", out], capsys, "--london", "62 people", "labels.npz", "m9.figshare.5047666")
    refused(["face-model", "build", "--london", tmp_path / "none", "--out", out], capsys, "none: no such folder")
    assert not out.exists()


def test_data_check(tmp_path, toy_model, capsys, monkeypatch):
    root = ROOT
    (tmp_path / "params.yaml").write_bytes((root / "profiles" / "embedded.yaml").read_bytes())
    (tmp_path / "dvc.yaml").write_text("")
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    refused(["data", "check"], capsys, "dvc pull data.dvc")
    toy_model.save(tmp_path / "data" / "face_models" / "ict.npz")
    assert main(["data", "check"]) == 0
    out = capsys.readouterr().out
    assert "toy, 357 vertices" in out and "not here yet" in out
    (tmp_path / "data" / "face_models" / "ict.npz").write_bytes(b"cut")
    refused(["data", "check"], capsys, "not a readable face model")


def test_data_check_leaves_the_manifest_of_no_photos_alone(tmp_path, capsys, monkeypatch):
    sources = {"my_photos": {"layout": "photos", "path": "licensed/my_photos", "labels": "none"}}
    values = merge(read_yaml(ROOT / "profiles" / "embedded.yaml"), {"data": {"sources": sources}})
    YAML().dump(values, tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "no_photos.json").write_text("{}\n")
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    refused(["data", "check"], capsys, "set paths.manifest")
    assert (tmp_path / "profiles" / "no_photos.json").read_text() == "{}\n"


@pytest.fixture
def study(tmp_path, toy_model, monkeypatch):
    """A project whose params.yaml says a training of a few steps on toy data."""
    values = read_yaml(ROOT / "profiles" / "embedded.yaml")
    network = {"backbone": "test_resnet", "pretrained": False, "levels": [4], "image_size": 32, "width": 8, "pool": 1}
    sizes = {"steps": 4, "batch_size": 8, "vertices": 20, "photometric_size": 16, "validate_every": 2}
    changes = {"face_model": {"path": "toy.npz"}, "paths": {"training": "data"}, "network": network, "train": sizes}
    base = {"train": {"steps": 2}}
    changes["ablation"] = {"base": base, "seeds": [0, 1]}
    values = merge(values, changes)
    values["ablation"]["base"] = base
    (tmp_path / "params.yaml").write_text(json.dumps(values))  # JSON is YAML
    (tmp_path / "dvc.yaml").write_text("")
    toy_model.save(tmp_path / "toy.npz")
    for seed, name in enumerate(("train", "validation")):
        write_toy_split(toy_model, tmp_path / "data" / name, 16, seed, kinds=(0, 0, 1, 2))
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_trains_what_params_say_and_goes_on(study, capsys):
    assert main(["train", "--max-steps", "2", "--device", "cpu"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("seed 0, step 2, best at step 2: nme ") and "outputs/train/best.safetensors" in line
    assert main(["train", "--device", "cpu", "--resume", "outputs/train/last.safetensors", "--out", "there"]) == 0
    assert checkpoint.read_metadata(study / "there" / "last.safetensors")["step"] == 4
    assert capsys.readouterr().out.startswith("seed 0, step 4, best at step ")


def test_train_trains_a_variant_once_for_each_seed(study, capsys):
    assert main(["train", "--run", "ablation/full", "--out", "runs", "--device", "cpu"]) == 0
    assert [line[:14] for line in capsys.readouterr().out.splitlines()] == ["seed 0, step 2", "seed 1, step 2"]
    assert sorted(path.name for path in (study / "runs").iterdir()) == ["seed_0", "seed_1"]


def test_wrong_input_of_train_is_one_line(study, capsys):
    refused(["train", "--max-steps", "0"], capsys, "--max-steps must be at least 1")
    refused(["train", "--run", "trian"], capsys, "'trian'")
    refused(["train", "--run", "ablation/ful"], capsys, "did you mean full?")
    refused(["train", "--resume", "none.safetensors"], capsys, "checkpoint not found", "none.safetensors")
    refused(["train", "--run", "ablation/full", "--resume", "x"], capsys, "one for each seed")
    refused(["train", "--device", "cuda:99"], capsys, "'cuda:99' is not to be had")
    refused(["train", "--out", "toy.npz"], capsys, "is not a folder")
    assert not (study / "outputs").exists()


def test_profile_list_and_unknown_profile(capsys, monkeypatch):
    monkeypatch.setenv("MLANET_ROOT", str(ROOT))
    assert main(["profile", "list"]) == 0
    assert "embedded" in capsys.readouterr().out
    refused(["profile", "use", "embeded"], capsys, "embeded")


def reconstruct(*arguments):
    return main(["reconstruct", *map(str, arguments), "--cropped"])


def test_one_bad_file_is_one_line_and_the_others_are_done(photo, tmp_path, capsys, monkeypatch):
    """A name that is not UTF-8, one that is too long, a folder that may not be read, a fault that nobody foresaw."""
    latin = tmp_path / os.fsdecode(b"caf\xe9.png")
    latin.write_bytes(photo.read_bytes())
    long, closed, odd = tmp_path / f"{'x' * 300}.png", tmp_path / "closed", tmp_path / "odd.png"
    odd.write_bytes(photo.read_bytes())
    closed.mkdir()

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    def surprise(path):
        if Path(path) == odd:
            raise ValueError("a surprise\nin two lines")
        return real(path)

    real = pictures.read_reduced
    monkeypatch.setattr(pictures, "pictures_in", refuse)  # root may read everything
    monkeypatch.setattr(pictures, "read_reduced", surprise)
    assert reconstruct(closed, latin, long, odd, photo, "--out", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("mlanet: ") for line in lines)
    for words in ("File name too long", "Permission denied", "not UTF-8", "a surprise in two"):
        assert any(words in line for line in lines), words
    assert "odd.png" in lines[-1] and "MLANET_TRACEBACK=1" in lines[-1]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"me_0.glb", "me_0.json"}


def test_where_a_fault_arose_is_shown_on_demand(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLANET_TRACEBACK", "1")
    assert reconstruct(tmp_path / "none.png", "--out", tmp_path / "out") == 2
    assert "Traceback" in capsys.readouterr().err


def test_stdout_that_knows_ascii_only_or_is_full(photo, tmp_path, capsys, monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert reconstruct(photo, "--out", tmp_path / "out") == 0
    ascii_only.seek(0)
    assert r"\xb0" in ascii_only.read()
    command = [sys.executable, "-m", "mlanet_lib.cli.__main__", "profile", "list"]
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "one.yaml").write_text("profile: one\n")
    (tmp_path / "params.yaml").write_text("profile: one\n")
    (tmp_path / "dvc.yaml").write_text("")
    with open("/dev/full", "w") as full:
        environment = os.environ | {"MLANET_ROOT": str(tmp_path)}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 2 and done.stderr == "mlanet: No space left on device\n"


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        refused(["profile", "list"], capsys, "the working directory is not there any more")
    finally:
        os.chdir(tmp_path)


def test_sigterm_ends_the_command_and_removes_what_it_wrote(photo, tmp_path, monkeypatch):
    def stopped(*arguments, **options):
        with together(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    monkeypatch.setattr("mlanet_lib.predictor.mesh_files.write_face", stopped)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        reconstruct(photo, "--out", tmp_path / "out")
    assert ended.value.code == 143 and os.listdir(tmp_path / "out") == []
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "nan", "9" * 30, ""])
def test_a_limit_is_a_whole_number_from_one_on(limit, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "aflw2000", str(tmp_path), "--json", str(tmp_path / "r.json"), f"--limit={limit}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and "whole number from 1 on" in error


@pytest.mark.parametrize("arguments", [["reconstruct", "", "--out", "o"], ["reconstruct", "a.jpg", "--out", ""]])
def test_an_empty_path_is_not_the_current_folder(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and "an empty path" in capsys.readouterr().err


def test_a_json_that_is_an_input_or_a_folder_is_refused_before_the_work(photo, tmp_path, capsys):
    labels = photo.with_suffix(".mat")
    labels.write_text("labels")
    start = ["evaluate", "aflw2000", tmp_path, "--json"]
    refused([*start, labels], capsys, "is an input")
    refused([*start, tmp_path], capsys, "it is a folder")
    refused(["evaluate", "scan", photo, "--landmarks", labels, "--json", labels], capsys, "is an input")
    refused(["evaluate", "aflw2000", photo.parent / "none", "--json", "/dev/null"], capsys, "no such folder")
    refused(["face-model", "convert", "bfm2009", photo, "--out", photo], capsys, "is an input")
    assert labels.read_text() == "labels" and Path("/dev/null").is_char_device()


def test_reannotated_labels_and_their_file_go_together(tmp_path, capsys):
    start = ["evaluate", "aflw2000", tmp_path, "--json", tmp_path / "out.json"]
    for wrong in (["--labels", "reannotated"], ["--reannotated", "re.npy"]):
        refused([*start, *wrong], capsys, "labels are one of original, reannotated")


def test_a_face_model_that_is_no_file(capsys):
    refused(["face-model", "check", "/dev/null"], capsys, "/dev/null: neither a file nor a folder")


def test_a_device_that_computes_nothing(photo, tmp_path, capsys):
    refused(["reconstruct", photo, "--cropped", "--out", tmp_path / "o", "--device", "meta"], capsys, "meta")


def test_a_crop_that_is_not_square_is_none(tmp_path, capsys):
    Image.new("RGB", (230, 115)).save(tmp_path / "wide.png")
    Image.new("RGB", (120, 118)).save(tmp_path / "nearly.png")
    refused(["reconstruct", tmp_path / "wide.png", "--cropped", "--out", tmp_path / "o"], capsys, "230x115", "square")
    assert reconstruct(tmp_path / "nearly.png", "--out", tmp_path / "o") == 0


def test_a_line_break_in_a_name_breaks_no_reference(photo, tmp_path, capsys):
    odd = photo.rename(tmp_path / "two\nlines.png")
    assert reconstruct(odd, "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"two_lines_0.obj", "two_lines_0.mtl"}
    mesh = trimesh.load(tmp_path / "out" / "two_lines_0.obj", process=False)
    assert mesh.visual.material.image.size == (512, 512)
    assert json.loads((tmp_path / "out" / "two_lines_0.json").read_text())["photo"] == odd.name


def test_files_are_utf_8_whatever_the_locale(photo, tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getencoding", lambda: "ascii")
    name = photo.rename(tmp_path / "Zoë 1.png")
    real = Path.write_text

    def strict(path, text, encoding=None, **options):
        return real(path, text, encoding or "ascii", **options)

    monkeypatch.setattr(Path, "write_text", strict)
    assert reconstruct(name, "--out", tmp_path / "out") == 0
    obj = (tmp_path / "out" / "Zoë 1_0.obj").read_text(encoding="utf-8")
    assert "mtllib Zoë 1_0.mtl\n" in obj
    assert trimesh.load(tmp_path / "out" / "Zoë 1_0.obj", process=False).visual.material.image.size == (512, 512)


def test_expressions_in_files_are_activations(photo, tmp_path, monkeypatch):
    real = MLANet.encode

    def outside(self, images):
        found = real(self, images)
        return found.replace(expression=torch.tensor([[-0.85, 1.3, 0.2, 0.0]]).expand(len(images), -1))

    monkeypatch.setattr(MLANet, "encode", outside)
    assert reconstruct(photo, "--out", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "me_0.json").read_text())
    assert all(0 <= value <= 1 for value in record["expression"].values())
    assert np.allclose(record["expression_predicted"], [-0.85, 1.3, 0.2, 0.0])


def test_a_second_run_over_its_own_folder(photo, tmp_path, capsys):
    """Overlays and textures beside the photo are no photos, and may be written again; what was edited may not."""
    for _ in range(2):
        assert reconstruct(tmp_path, "--out", tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 7
    assert "2 pictures that mlanet wrote are left out" in capsys.readouterr().err
    refused(
        ["reconstruct", tmp_path / "me_0.png", "--out", tmp_path / "o"], capsys, "mlanet wrote this, it is no photo"
    )
    (tmp_path / "me_0.obj").write_text("# edited by hand")
    arguments = ["reconstruct", photo, "--cropped", "--out", tmp_path]
    refused(arguments, capsys, "me_0.obj is there already", "--overwrite")
    assert main([*map(str, arguments), "--overwrite"]) == 0
    assert "edited" not in (tmp_path / "me_0.obj").read_text()


@pytest.mark.parametrize("angle", ["180", "-91", "1e30", "nan", "x"])
def test_a_view_shows_the_face(angle, photo, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "scan", str(photo), "--landmarks", str(photo), "--json", "o.json", f"--yaw={angle}"])
    assert stopped.value.code == 2 and "no angle from -90 to 90 degrees" in capsys.readouterr().err


def test_what_the_run_reads_by_itself_is_not_replaced(project, photo, tmp_path, capsys):
    """Weights and face model are not named on the command line; nor is anybody's file of another kind."""
    weights = project / "weights" / "toy.safetensors"
    before = weights.read_bytes()
    refused(["evaluate", "aflw2000", tmp_path, "--json", weights], capsys, "is there already")
    refused(["face-model", "build", "--out", weights], capsys, "is there already")
    refused(["data", "check", photo, "--json", photo], capsys, "is an input")
    assert weights.read_bytes() == before
