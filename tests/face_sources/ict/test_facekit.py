"""Reading ICT-FaceKit: on a small mesh of the same structure, and on the published archive where it is."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mlanet_lib.cli.__main__ import main
from mlanet_lib.drawing.textures import crossing
from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.ict import facekit as ict
from mlanet_lib.files.obj import parse_obj, read_vertices
from mlanet_lib.geometry.mesh import face_normals

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
    monkeypatch.setattr(ict, "VERTICES", head)
    monkeypatch.setattr(ict, "FACE", face)
    return model


def test_modes_units_names_and_winding(folder):
    whole = ict.whole(folder)
    read = {name: read_vertices((folder / f"{name}.obj").read_bytes(), name) for name in ict.read(folder).points}
    neutral = read["generic_neutral_mesh"]
    assert np.allclose(whole.mean, 10 * neutral) and whole.uv.shape == (108, 2)
    assert whole.identity.shape == (108, 3, 4) and whole.expression.shape == (108, 3, 3)
    assert np.allclose(whole.identity[..., 1], 10 * (read["identity001"] - neutral))
    assert np.allclose(whole.expression[..., 1], 10 * (read["eyeBlink_L"] - neutral))
    assert whole.expression_names == ["jawOpen", "eyeBlinkLeft", "browInnerUpRight"]
    face = whole.triangles[(whole.triangles < 90).all(1)]
    assert len(face) == 2 * 8 * 9 and len(whole.triangles) == 2 * 8 * 10
    assert ((face_normals(whole.mean, face) * whole.mean[face].mean(1)).sum(1) > 0).all()


def test_a_quad_is_cut_along_the_flatter_diagonal():
    tent = np.array([[-2, 0, 0], [0, -0.5, 0.3], [2, 0, 0], [0, 0.5, 0.3], [3, 3, 0]])  # its ridge runs from 1 to 3
    arrow = np.array([[0, 0, 0], [1, 0, 0], [0.2, 0.2, 0], [0, 1, 0], [3, 3, 0]])  # notched at 2
    for points, halves in ((tent, [{0, 1, 3}, {1, 2, 3}]), (arrow, [{0, 1, 2}, {0, 2, 3}])):
        triangles = ict.split_quads(points, np.array([[0, 1, 2, 3], [2, 1, 4, -1]]))
        assert triangles[2].tolist() == [2, 1, 4] and len(triangles) == 3
        assert [set(triangle) for triangle in triangles[:2].tolist()] == halves
        assert (face_normals(points, triangles[:2])[:, 2] > 0).all()


def test_an_archive_holds_the_same(folder, tmp_path):
    path = tmp_path / "FaceXModel.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(folder, "FaceXModel")
    wanted = ict.whole(folder)
    for source in (path, folder.parent, Path(shutil.make_archive(tmp_path / "z", "zip", folder))):
        found = ict.whole(source)  # the folder around it: as a clone has it
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


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
        ("generic_neutral_mesh.obj", "f 1/1", "f 999/1", "generic_neutral_mesh.obj: a face names vertex 999 of 108"),
        ("generic_neutral_mesh.obj", "f 1/1 10/10 ", "f ", "generic_neutral_mesh.obj, line .*: not a vertex or face"),
        ("generic_neutral_mesh.obj", "f 1/1", "f 0/1", "generic_neutral_mesh.obj, line .*: not a vertex or face"),
        ("generic_neutral_mesh.obj", "f 1/1", "f 1//1", "not triangles and quads"),
        (
            "generic_neutral_mesh.obj",
            "vt ",
            "vp ",
            "a face names texture coordinate 108 of 0",
        ),
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
def test_broken_files_are_named(folder, monkeypatch, name, old, new, message):
    content = (folder / name).read_text()
    assert old in content
    (folder / name).write_text(content.replace(old, new))
    published(folder, monkeypatch)
    with pytest.raises(UserError, match=message):
        ict.whole(folder)


def published(folder, monkeypatch) -> None:
    """The files as they are now are those that were published."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(ict, "hashes", lambda: digests)


def test_a_missing_changed_or_mirrored_mesh_is_refused(folder, monkeypatch):
    path = folder / "generic_neutral_mesh.obj"
    corners, uv = ict._polygons(parse_obj(path), "")
    polygons = [[corner for corner in polygon if corner >= 0] for polygon in corners.tolist()]
    write_obj(path, read_vertices(path.read_bytes(), "") * [-1, 1, 1], uv, polygons)
    with pytest.raises(UserError, match=r"not as ICT-FaceKit published it: generic_neutral_mesh\.obj"):
        ict.whole(folder)
    published(folder, monkeypatch)
    with pytest.raises(UserError, match="wound inwards"):
        ict.whole(folder)
    (folder / "generic_neutral_mesh.obj").unlink()
    with pytest.raises(UserError, match=r"generic_neutral_mesh\.obj missing"):
        ict.whole(folder)


def test_check_names_folders_and_files(folder, tmp_path, capsys):
    assert main(["face-model", "check", str(folder)]) == 0
    assert "4 of 100 identity modes" in capsys.readouterr().out
    (tmp_path / "notes.txt").write_text("hello")
    assert main(["face-model", "check", str(tmp_path / "notes.txt")]) == 2
    assert "no face model that is known" in capsys.readouterr().err


@pytest.mark.slow  # 400 MB unpacked
def test_the_published_archive_is_whole(shared_data, monkeypatch):
    archive = shared_data / "ict_facekit" / "FaceXModel.tar.xz"
    found = ict.read(archive)
    assert found.missing() == [] and found.changed() == [] and len(found.digests) == 160
    monkeypatch.setattr(ict, "read", lambda source: found)
    whole = ict.whole(archive)
    assert whole.mean.shape == (26719, 3) and whole.identity.shape[2] == 100 and whole.expression.shape[2] == 53
    points = whole.mean[found.indices["idx_to_landmark_verts"]]
    assert 85 < points[45, 0] - points[36, 0] < 110  # outer eye corners, mm, the subject's left at larger x
    assert points[27, 1] > points[8, 1] and points[30, 2] > points[0, 2]
    face = whole.triangles[(whole.triangles < ict.FACE).all(1)]
    assert len(face) == 18460 and not crossing(torch.from_numpy(whole.uv[face])).any()
    blink = whole.expression[found.indices["idx_to_landmark_verts"], :, whole.expression_names.index("eyeBlinkLeft")]
    left, right = (np.linalg.norm(blink[k], axis=1).mean() for k in ([43, 44], [37, 38]))
    assert left > 5 and right < 0.5
