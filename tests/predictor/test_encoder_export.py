"""The exported encoder answers as the network does, says what it is, and the shipped weights' answers are pinned.

After new weights were shipped, or a change of the network or of the crop that is meant:

    PYTHONPATH=tests/helpers python tests/predictor/test_encoder_export.py        (writes tests/golden_encoder.npz)
"""

import functools
import hashlib
import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT

from mlanet_lib.drawing.views import landmarks
from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.geometry.crops import Box
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import Predictor, encoder_export
from mlanet_lib.predictor.encoder_export import OPSET, UNITS, Encoder, export_encoder
from mlanet_lib.predictor.weights import find_face_model

GOLDEN = ROOT / "tests" / "golden_encoder.npz"
RENEW = "if this is meant, renew it: python tests/test_encoder_export.py"


@pytest.fixture(scope="module")
def network(toy_model):
    """A tiny network whose every part answers: levels of 14, 7, 4 and 2 px are pooled to 4, windows of any kind."""
    torch.manual_seed(0)
    network = MLANet(toy_model, backbone="resnet10t", image_size=56, width=8, pool=4)
    with torch.no_grad():
        for head in network.heads.values():
            head.weight.normal_(std=0.1)
            head.bias.normal_(std=0.1)
        for gate in network.gates:
            gate.weigh.weight.normal_(std=0.1)
        network.level_logits.normal_()
        network(torch.rand(8, 3, 56, 56))  # in training mode: the batch norms' statistics move
    return network


@pytest.fixture(scope="module")
def files(network, toy_model, tmp_path_factory):
    """The folder with .pt2 and .onnx of the network, in training mode and in the predictor's memory layout. Tracing
    takes seconds: both files are written from one graph."""
    folder = tmp_path_factory.mktemp("exported")
    network.train().to(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        patch.setattr(encoder_export, "trace", functools.cache(encoder_export.trace))
        for suffix in ("pt2", "onnx"):
            export_encoder(network, toy_model, folder / f"toy.{suffix}", "toy, step 3")
    assert network.training, "the export changed the caller's network"
    assert sorted(path.name for path in folder.iterdir()) == ["toy.onnx", "toy.pt2"]
    return folder


@pytest.fixture(scope="module")
def loaded(files):
    """The .pt2 as a module, and its metadata."""
    extra = {"metadata.json": ""}
    program = torch.export.load(files / "toy.pt2", extra_files=extra)
    return program.module(), json.loads(extra["metadata.json"])


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 56, 56, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def expected(network, model, batch: torch.Tensor) -> dict[str, np.ndarray]:
    """What the network itself and the whole mesh say, without the wrapper."""
    parameters = network.eval().encode(batch)
    tensors = {name: value.numpy() for name, value in parameters.as_tensors().items()}
    return tensors | {"landmarks": landmarks(model, parameters)}


def assert_close(found: dict, wanted: dict, rtol: float, atol: float) -> None:
    assert list(found) == list(UNITS) and set(wanted) == set(UNITS)
    for name, value in wanted.items():
        np.testing.assert_allclose(np.asarray(found[name]), value, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntime_answers_as_the_network_does(files, network, toy_model, count):
    import onnxruntime

    session = onnxruntime.InferenceSession(files / "toy.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": images(count).numpy()}), strict=True))
    wanted = expected(network, toy_model, images(count))
    assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert wanted["identity"].std() > 0.05 and np.abs(wanted["rotation"] - np.eye(3)).max() > 0.05  # no mean face
    if count > 1:
        assert wanted["landmarks"].std(0).max() > 1e-3  # the answers differ by image


@pytest.mark.parametrize("count", [1, 5])
def test_pt2_answers_as_the_network_does(loaded, network, toy_model, count):
    assert_close(
        loaded[0](images(count)), expected(network, toy_model, images(count)), rtol=1e-5, atol=2e-5
    )  # translation in mm


def test_a_full_disk_is_one_line_and_the_older_file_stays(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nframe #0: c10")

    for name, instead in (("trace", None), ("encoder_metadata", {})):
        monkeypatch.setattr(encoder_export, name, lambda *_, instead=instead: instead)
    monkeypatch.setattr("torch.export.save", full)
    (tmp_path / "a.pt2").write_text("older")
    with pytest.raises(UserError, match=r"cannot write .*a\.pt2: .*unexpected pos 64 vs 0$"):
        export_encoder(None, None, tmp_path / "a.pt2")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.pt2", "older")]


def test_onnx_file_is_whole_and_says_what_it_is(files, loaded, toy_model):
    import onnx

    graph = onnx.load(files / "toy.onnx", load_external_data=False)
    onnx.checker.check_model(graph, full_check=True)
    assert [(used.domain, used.version) for used in graph.opset_import] == [("", OPSET)]
    (given,) = graph.graph.input
    sides = given.type.tensor_type.shape.dim
    assert (given.name, sides[0].dim_param) == ("images", "batch")
    assert [side.dim_value for side in sides[1:]] == [3, 56, 56]
    assert [output.name for output in graph.graph.output] == list(UNITS)
    said = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(said["expression_names"]) == toy_model.expression_names
    assert (said["face_model"], said["face_model_fingerprint"]) == ("toy", toy_model.fingerprint)
    assert (said["weights"], said["image_size"]) == ("toy, step 3", "56")
    assert json.loads(said["bfm_rotation"]) == toy_model.bfm_rotation.tolist() and "bfm_rotation" in UNITS["rotation"]
    assert set(json.loads(said["units"])) == set(UNITS)
    assert loaded[1] == said


def test_files_do_not_say_where_they_were_made(files):
    for path in files.iterdir():
        assert str(ROOT).encode() not in path.read_bytes(), path.name


def test_wrong_targets_are_refused(network, toy_model, tmp_path, monkeypatch):
    for name in ("a.pth", "a", "a.onnx.gz"):
        with pytest.raises(UserError, match=r"\.onnx or \.pt2"):
            export_encoder(network, toy_model, tmp_path / name)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        encoder_export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    with pytest.raises(UserError, match=r"pip install onnxscript$"):
        export_encoder(network, toy_model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_another_face_model_is_refused(network, toy_model):
    smaller = toy_model.replace(albedo_basis=toy_model.albedo_basis[..., :2])
    with pytest.raises(ValueError, match="3 albedo modes"):
        Encoder(network, smaller)


def synthetic_photo() -> np.ndarray:
    """(120, 160, 3) uint8: two shaded discs with eyes and mouth on a gradient, by integer arithmetic alone, so that it
    is the same everywhere."""
    rows, columns = np.mgrid[:120, :160]
    photo = np.stack([rows + 40, columns // 2 + 60, 200 - rows], -1)
    for x, y, radius in ((70, 58, 40), (139, 40, 26)):
        dx, dy = columns - x, rows - y
        inside = dx**2 + dy**2 < radius**2
        shade = (210 - (dx + dy) * 60 // radius)[..., None] * np.array([10, 8, 7]) // 10
        photo = np.where(inside[..., None], shade, photo)
        for side in (-1, 1):
            eye = (dx - side * radius // 3) ** 2 + (dy + radius // 5) ** 2 < (radius // 7) ** 2
            photo[eye] = [40, 30, 30]
        photo[(abs(dx) < radius // 3) & (abs(dy - radius // 2) < radius // 10)] = [150, 60, 60]
    return np.clip(photo, 0, 255).astype(np.uint8)


def answers(weights: Path) -> dict[str, np.ndarray]:
    """What the weights say of the synthetic photo's two faces, one beyond its border, by the way that photos take."""
    model = find_face_model(checkpoint.read_metadata(weights)["face_model"]["name"], ROOT)
    predictor = Predictor.load(weights, face_model=model)
    boxes = [Box(20.0, 8.0, 100.0, 100.0), Box(104.5, 3.25, 70.0, 70.0)]
    faces = predictor.faces(synthetic_photo(), boxes)
    found = FaceParameters.cat([face.parameters for face in faces]).as_tensors()
    found["landmarks68"] = torch.from_numpy(np.stack([face.landmarks68 for face in faces]))
    return {name: value.numpy().astype(np.float32) for name, value in found.items()}


def shipped() -> Path:
    """The shipped weights that the golden file is of, if they are pulled; else the test is skipped."""
    path = ROOT / "weights" / "ict.safetensors"
    if not path.is_file():
        pytest.skip("the shipped weights are not pulled: dvc pull weights.dvc")
    return path


def test_shipped_weights_answer_as_they_did():
    weights = shipped()
    try:
        found = answers(weights)
    except UserError as error:
        pytest.skip(str(error))
    with np.load(GOLDEN) as file:
        golden = dict(file)
    digest = str(golden.pop("weights_sha256"))
    same = digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert same, f"{weights.name} is not the file that {GOLDEN.name} was made with; {RENEW}"
    assert set(found) == set(golden), RENEW
    for name, value in golden.items():
        where = f"{name}: the same weights answer otherwise: the crop or the network has changed; {RENEW}"
        tolerance = 0.01 if name in ("landmarks68", "translation") else 2e-4  # pixels of the photo, mm
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=tolerance, err_msg=where)


def renew() -> None:
    """Write the golden file from the weights and the code that are here."""
    weights = shipped()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    with atomic_path(GOLDEN) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, weights_sha256=np.array(digest), **answers(weights))
    print(f"{GOLDEN.relative_to(ROOT)}: {GOLDEN.stat().st_size / 1000:.1f} kB, of {weights.name}")


if __name__ == "__main__":
    renew()
