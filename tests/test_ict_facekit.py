"""ICT-FaceKit's converter: on a small mesh of the same structure, and on the published archive where it is."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mlanet_lib import fetch
from mlanet_lib.cli import main
from mlanet_lib.errors import UserError
from mlanet_lib.export import crossing
from mlanet_lib.face_models import ict_facekit as ict
from mlanet_lib.face_models import landmarks, obj

COLUMNS, ROWS = 9, 12
EXPRESSIONS = ["jawOpen", "eyeBlink_L", "browInnerUp_R"]


def write_obj(path: Path, points: np.ndarray, uv: np.ndarray, polygons) -> None:
    lines = ["# exported", "mtllib x.mtl", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points)]
    lines += [*(f"vt {u:.6f} {v:.6f}" for u, v in uv), "usemtl M_Face"]
    path.write_text("\n".join([*lines, *("f " + " ".join(f"{i + 1}/{i + 1}" for i in p) for p in polygons)]) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A FaceXModel folder of a bent grid: its first rows are the face, the last two hang together as an eyeball."""
    grid = np.arange(COLUMNS * ROWS).reshape(ROWS, COLUMNS)
    bands = np.concatenate([np.arange(ROWS - 3), [ROWS - 2]])
    quads = np.stack([grid[bands][:, :-1], grid[bands + 1][:, :-1], grid[bands + 1][:, 1:], grid[bands][:, 1:]], -1)
    polygons = [list(q) for q in quads.reshape(-1, 4)]
    polygons[3:4] = [polygons[3][:3], [polygons[3][k] for k in (0, 2, 3)]]
    u, v = np.meshgrid(np.linspace(-1, 1, COLUMNS), np.linspace(1, -1, ROWS))
    mean = np.stack([8 * np.sin(u), 10 * v, 8 * np.cos(u) * np.cos(v)], -1).reshape(-1, 3)
    uv = np.stack([u / 2 + 0.5, v / 2 + 0.5], -1).reshape(-1, 2) * 0.98 + 0.01
    uv[-2 * COLUMNS :, 0] += 3
    model = tmp_path / "FaceXModel"
    model.mkdir()
    rng = np.random.default_rng(0)
    identities = [f"identity{k:03d}" for k in range(4)]
    for name in ("generic_neutral_mesh", *identities, *EXPRESSIONS):
        offset = 0 if name.startswith("generic") else rng.normal(size=mean.shape)
        write_obj(model / f"{name}.obj", mean + offset, uv, polygons)
    points = (np.arange(68) % (6 * COLUMNS)).tolist()
    record = {"expressions": EXPRESSIONS, "idx_to_landmark_verts": points}
    (model / "vertex_indices.json").write_text(json.dumps(record))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in model.iterdir()}
    face, head = (ROWS - 2) * COLUMNS, ROWS * COLUMNS
    monkeypatch.setattr(ict, "hashes", lambda: digests)
    monkeypatch.setattr(ict, "IDENTITIES", identities)
    monkeypatch.setattr(ict, "CUTS", {"face": face, "narrow": 6 * COLUMNS, "head": head})
    monkeypatch.setattr(ict, "PARTS", {"face": 0, "left cornea and sclera": face})
    monkeypatch.setattr(ict, "JAWLINE", {0: 7, 16: 10})
    return model


def convert(source, toy_model, **options):
    return ict.convert(source, albedo_from=toy_model, calibrated=False, **options)


def test_modes_units_names_and_points(folder, toy_model):
    model = convert(folder, toy_model)
    read = {name: obj.vertices((folder / f"{name}.obj").read_bytes(), name, 108) for name in ict.read(folder).points}
    neutral = read["generic_neutral_mesh"]
    assert np.allclose(model.mean, 10 * neutral[:90], atol=1e-4)
    identity = torch.tensor([[0.5, -2.0, 0.0, 1.0]])
    expression = torch.tensor([[0.3, 1.0, 0.0]])
    wanted = neutral.copy()
    weights = {"identity000": 0.5, "identity001": -2.0, "identity003": 1.0, "jawOpen": 0.3, "eyeBlink_L": 1.0}
    for name, weight in weights.items():
        wanted += weight * (read[name] - neutral)
    assert np.abs(model.vertices(identity, expression)[0].numpy() - 10 * wanted[:90]).max() < 0.1
    assert model.expression_names == ["jawOpen", "eyeBlinkLeft", "browInnerUpRight"] and model.name == "ict_facekit"
    first = model.landmark_index[:, 0].tolist()
    assert (first[0], first[16], first[17]) == (7, 10, 17)
    multipie = convert(folder, toy_model, jawline="multipie")
    assert multipie.landmark_index[:, 0].tolist() == (np.arange(68) % 54).tolist()
    assert multipie.name == "ict_facekit_multipie"


def test_quads_are_split_with_their_winding_and_cuts_keep_whole_polygons(folder, toy_model):
    head, face, narrow = (convert(folder, toy_model, cut=cut) for cut in ("head", "face", "narrow"))
    for model, rows, eye in ((head, 9, 8), (face, 9, 0), (narrow, 5, 0)):
        assert len(model.faces) == 2 * 8 * rows + 2 * eye
        flat = model.normals(model.mean[None])[0][:54]
        assert (flat * model.mean[:54]).sum(1).min() > 0
        assert not crossing(model.uv[model.faces]).any()
    assert torch.equal(head.faces[: len(narrow.faces)], narrow.faces)
    assert narrow.n_vertices == 54 and torch.equal(face.mean[:54], narrow.mean)


def test_a_quad_is_cut_along_the_flatter_diagonal():
    tent = np.array([[-2, 0, 0], [0, -0.5, 0.3], [2, 0, 0], [0, 0.5, 0.3], [3, 3, 0]])  # its ridge runs from 1 to 3
    arrow = np.array([[0, 0, 0], [1, 0, 0], [0.2, 0.2, 0], [0, 1, 0], [3, 3, 0]])  # notched at 2
    for points, halves in ((tent, [{0, 1, 3}, {1, 2, 3}]), (arrow, [{0, 1, 2}, {0, 2, 3}])):
        triangles = obj.split_quads(points, [[0, 1, 2, 3], [2, 1, 4]])
        assert triangles[2].tolist() == [2, 1, 4] and len(triangles) == 3
        assert [set(triangle) for triangle in triangles[:2].tolist()] == halves
        assert (obj.normals(points, triangles[:2])[:, 2] > 0).all()


def test_the_full_head_packs_its_tiles_side_by_side(folder, toy_model):
    head = convert(folder, toy_model, cut="head")
    face, eye = head.uv[:90], head.uv[90:]
    assert face[:, 0].max() <= 0.75 and face[:, 1].min() >= 0.25
    assert eye[:, 0].min() >= 0.75 and eye[:, 1].max() <= 0.25 and head.uv.max() <= 1


def test_albedo_comes_from_the_other_model(folder, toy_model):
    red = toy_model.replace(albedo_mean=torch.tensor([[0.8, 0.1, 0.1]]).repeat(toy_model.n_vertices, 1))
    model = convert(folder, red)
    assert np.allclose(model.albedo_mean, [0.8, 0.1, 0.1], atol=1e-5) and model.n_albedo == toy_model.n_albedo


def test_an_archive_gives_the_same_model(folder, toy_model, tmp_path):
    path = tmp_path / "FaceXModel.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(folder, "FaceXModel")
    wanted = convert(folder, toy_model).fingerprint
    assert convert(path, toy_model).fingerprint == wanted
    assert convert(folder.parent, toy_model).fingerprint == wanted  # the folder around it, as a clone has it
    assert convert(Path(shutil.make_archive(tmp_path / "z", "zip", folder)), toy_model).fingerprint == wanted


def test_identify_says_what_is_there(folder, tmp_path):
    assert "whole" in ict.identify(folder) and "every file as published" in ict.identify(folder)
    (folder / "identity002.obj").unlink()
    with (folder / "jawOpen.obj").open("a") as file:
        file.write("# mine\n")
    said = ict.identify(folder)
    assert "missing: identity002.obj" in said and "not as published: jawOpen.obj" in said and "whole" not in said
    (folder / "jawOpen.obj").write_text("v 1 2\n")
    assert "not readable" in ict.identify(folder) and "jawOpen.obj" in ict.identify(folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    assert ict.identify(tmp_path / "empty") is None and ict.identify(tmp_path / "note.txt") is None


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("identity001.obj", "v ", "vn ", "identity001.obj: 0 vertices instead of 108"),
        ("identity001.obj", "v 0.", "v nan.", "not three numbers"),
        ("jawOpen.obj", "v -", "v nan ", "jawOpen.obj: vertex . is not finite"),
        ("generic_neutral_mesh.obj", "f 1/1", "f 999/1", "not triangles and quads"),
        ("generic_neutral_mesh.obj", "f 1/1 10/10 ", "f ", "not triangles and quads"),
        ("generic_neutral_mesh.obj", "f 1/1", "f 0/1", "not triangles and quads"),
        ("generic_neutral_mesh.obj", "f 1/1", "f 1//1", "not triangles and quads"),
        ("generic_neutral_mesh.obj", "vt ", "vp ", "not triangles and quads"),
        ("vertex_indices.json", "{", "[" * 100_000, "vertex_indices.json"),
        (
            "vertex_indices.json",
            '"idx_to_landmark_verts": [',
            '"idx_to_landmark_verts": [-1, ',
            "idx_to_landmark_verts",
        ),
        ("vertex_indices.json", '"jawOpen"', "7", "expressions"),
        ("vertex_indices.json", "jawOpen", "jawShut", "jawShut.obj missing"),
    ],
)
def test_broken_files_are_named(folder, toy_model, name, old, new, message):
    content = (folder / name).read_text()
    assert old in content
    (folder / name).write_text(content.replace(old, new))
    with pytest.raises(UserError, match=message):
        convert(folder, toy_model)


def test_a_missing_or_mirrored_mesh_is_refused(folder, toy_model):
    points = obj.vertices((folder / "generic_neutral_mesh.obj").read_bytes(), "", 108)
    polygons, uv = obj.polygons((folder / "generic_neutral_mesh.obj").read_bytes(), "", 108)
    write_obj(folder / "generic_neutral_mesh.obj", points * [-1, 1, 1], uv, polygons)
    with pytest.raises(UserError, match="wound inwards"):
        convert(folder, toy_model)
    (folder / "generic_neutral_mesh.obj").unlink()
    with pytest.raises(UserError, match=r"generic_neutral_mesh\.obj missing"):
        convert(folder, toy_model)
    with pytest.raises(UserError, match="cut is one of"):
        convert(folder, toy_model, cut="ears")


def test_fetch_from_a_copy_notes_what_is_changed(folder, toy_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mlanet_lib.face_models.anthropometric.build", lambda **_: toy_model)
    monkeypatch.chdir(tmp_path)
    start = ["face-model", "fetch", "ict", "--jawline", "multipie"]
    assert main([*start, "--from", str(folder)]) == 0
    captured = capsys.readouterr()
    assert "carried over" in captured.out and captured.err == ""
    out = Path("licensed/face_models/ict_facekit_multipie.npz")
    before = out.read_bytes()
    with (folder / "jawOpen.obj").open("a") as file:
        file.write("# mine\n")
    assert main([*start, "--from", str(folder), "--out", "x.npz"]) == 0
    assert "not as published: jawOpen.obj" in capsys.readouterr().err and Path("x.npz").read_bytes() == before
    monkeypatch.setattr(fetch, "ict_facekit", lambda: folder)  # test_fetch has the download
    assert main([*start, "--cut", "narrow"]) == 0
    assert Path("licensed/face_models/ict_facekit_narrow_multipie.npz").is_file()
    (folder / "identity002.obj").unlink()
    assert main([*start, "--from", str(folder), "--out", "y.npz"]) == 2
    assert "identity002.obj missing" in capsys.readouterr().err and not Path("y.npz").exists()


def test_check_names_folders_and_files(folder, tmp_path, capsys):
    assert main(["face-model", "check", str(folder)]) == 0
    assert "4 of 100 identity modes" in capsys.readouterr().out
    (tmp_path / "notes.txt").write_text("hello")
    assert main(["face-model", "check", str(tmp_path / "notes.txt")]) == 2
    assert "no face model that is known" in capsys.readouterr().err


@pytest.fixture(scope="module")
def published(shared_data):
    return ict.read(shared_data / "ict_facekit" / "FaceXModel.tar.xz")


def test_the_published_archive_is_whole(published):
    assert published.missing() == [] and published.changed() == [] and len(published.digests) == 160


def test_the_published_face(published, face_model):
    model = ict.convert(published, albedo_from=face_model, calibrated=False)
    assert (model.n_vertices, model.n_identity, model.n_expression) == (9409, 100, 53)
    assert len(model.faces) == 18460 and not crossing(model.uv[model.faces]).any()
    points = model.landmarks(model.mean[None])[0]
    assert points[45, 0] > points[36, 0] and points[27, 1] > points[8, 1] and points[30, 2] > points[0, 2]
    assert 85 < points[45, 0] - points[36, 0] < 110  # outer eye corners, mm
    lids = model.vertices(torch.zeros(1, 100), torch.eye(53)[[model.expression_names.index("eyeBlinkLeft")]])
    left, right = ((model.landmarks(lids) - points)[0, k].norm(dim=-1).mean() for k in ([43, 44], [37, 38]))
    assert left > 5 and right < 0.5
    normals = model.normals(model.mean[None])[0]
    assert normals[model.landmark_index[30, 0], 2] > 0.9
    skin, lip = model.albedo_mean[model.landmark_index[[29, 62], 0]]
    assert skin.mean() > 0.4 and lip[0] - lip[1] > 0.2
    assert (points[17:] - face_model.landmarks(face_model.mean[None])[0, 17:]).norm(dim=-1).max() < 15


def test_the_published_head_has_its_eyes_in_place(published, face_model):
    model = ict.convert(published, "head", albedo_from=face_model, calibrated=False)
    assert model.n_vertices == 26719 and model.uv.min() >= 0 and model.uv.max() <= 1
    owner = ict.part_of(np.arange(26719))
    drawn = np.unique(owner[model.faces.numpy().ravel()])
    assert set(drawn) == set(ict.PARTS) - ict.NOT_DRAWN
    eye = owner == "left cornea and sclera"
    front = np.flatnonzero(eye)[model.mean[eye, 2].argmax()]
    assert model.albedo_mean[front].mean() < 0.3  # the pupil looks ahead
    assert model.mean[eye, 0].min() > 10  # and left is the subject's left, +x


def test_calibrated_points_are_taken_from_the_table_onto_the_mesh(published, face_model, monkeypatch):
    named = ict.convert(published, albedo_from=face_model, calibrated=False)
    own = named.landmarks(named.mean[None])[0].double().numpy()
    places = own + np.array([0.0, 2.0, 0.0])
    monkeypatch.setattr(landmarks, "load", lambda name: {"ict_facekit": places}[name])
    model = ict.convert(published, albedo_from=face_model, calibrated=True)
    points = model.landmarks(model.mean[None])[0].numpy()
    assert np.linalg.norm(points - places, axis=1).max() < 2.01  # 2 mm is the old place; a lid's rim has none above it
    assert np.median(points[:, 1] - own[:, 1]) > 1 and torch.equal(model.faces, named.faces)
    multipie = ict.convert(published, albedo_from=face_model, calibrated=True, jawline="multipie")
    assert not multipie.points_between
