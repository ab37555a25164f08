"""Scans: OBJ files of every make, units, textures and colours, and what pictures of them show."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from mlanet_lib.datasets import scans
from mlanet_lib.datasets.scans import (
    Scan,
    draw_views,
    parse_obj,
    read_obj,
    read_scan,
    seen_from_outside,
    write_obj,
)
from mlanet_lib.errors import UserError

POINTS = (30, 0, 16, 36, 45, 8, 60)


def toy_scan(model, **look) -> Scan:
    """The toy face's mean as a scan, somewhere else, turned, and of another size."""
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    vertices = 1.2 * model.mean.double().numpy() @ turn.T + [300, -20, 50]
    landmarks = {k: vertices[model.landmark_index[k, 0]] for k in POINTS}
    return Scan(vertices, model.faces.numpy(), landmarks, **look)


def test_objs_of_every_make(tmp_path):
    text = """# comment
mtllib x.mtl
v 0 0 0 0.5 0.5 0.5
v 1 0 0
v 1 1 0
v 0 1 0
v 0.5 0.5 1e0
vt 0 0
vn 0 0 1
g head
usemtl skin
f 1/1/1 2/1/1 3/1/1 4/1/1
f 1//1 2//1 5//1
f -1 -2 -3
s off
f 1 2 3 4 5
"""
    (tmp_path / "a.obj").write_text(text)
    vertices, faces = read_obj(tmp_path / "a.obj")
    assert vertices.shape == (5, 3) and vertices[4].tolist() == [0.5, 0.5, 1]
    expected = [[0, 1, 2], [0, 2, 3], [0, 1, 4], [4, 3, 2], [0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert faces.tolist() == expected
    (tmp_path / "cloud.obj").write_text("v 0 0 0\nv 1 2 3\n")
    assert read_obj(tmp_path / "cloud.obj")[1].shape == (0, 3)


def test_obj_round_trip_is_exact_to_its_digits(tmp_path, toy_model):
    write_obj(tmp_path / "a.obj", toy_model.mean, toy_model.faces)
    vertices, faces = read_obj(tmp_path / "a.obj")
    assert np.abs(vertices - toy_model.mean.numpy()).max() <= 0.5e-4 + 1e-9
    assert np.array_equal(faces, toy_model.faces)


def test_texture_coordinates_of_quads_and_seams(tmp_path):
    """Each corner keeps its own; a vertex on a seam has several; a face without any has none."""
    text = "mtllib a b.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt .5 0\nvt .5 1\nvt 0 1\nvt .6 0 0\n"
    (tmp_path / "a.obj").write_text(text + "f 1/1 2/2 3/3 4/4\nf 1/5/1 2/-2/1 3/1/1\nf 1//1 2//1 3//1\n")
    obj = parse_obj(tmp_path / "a.obj")
    assert obj.uv.shape == (4, 3, 2) and obj.libraries == ("a b.mtl",) and obj.colours is None
    assert obj.uv[0].tolist() == [[0, 0], [0.5, 0], [0.5, 1]] and obj.uv[1].tolist() == [[0, 0], [0.5, 1], [0, 1]]
    assert obj.uv[2].tolist() == [[0.6, 0], [0, 1], [0, 0]]
    assert np.isnan(obj.uv[3]).all()


def test_a_real_scan(shared_data):
    """The head scan that stands beside the project: an OBJ or a glTF; only an OBJ is of use here."""
    files = sorted((shared_data / "head_scan").rglob("*.obj"))
    if not files:
        pytest.skip("the head scan is not an OBJ")
    vertices, faces = read_obj(files[0])
    ours = trimesh.Trimesh(vertices, faces, process=False)
    theirs = trimesh.load(files[0], process=False, force="mesh")
    assert len(faces) == len(theirs.faces) and np.isclose(ours.area, theirs.area, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no vertices"),
        ("a text file\n", "no vertices"),
        ("v 1 2\n", "line 1"),
        ("v 0 0 0\nv 1 x 0\n", "line 2"),
        ("v 0 0 0\nf 1 2 3\n", "names vertex 3 of 1"),
        ("v 0 0 0\nf 1 1\n", "line 2"),
        ("v 0 0 0\nf 0 1 1\n", "line 2"),
        ("v nan 0 0\n", "not finite"),
        ("v 0 0 0\nvt 0\n", "line 2"),
        ("v 0 0 0\nvt 0 0\nf 1/1 1/2 1/1\n", "texture coordinate 2 of 1"),
        ("v 0 0 0\nvt 0 0\nf 1/-2 1/1 1/1\n", "line 3"),
    ],
)
def test_bad_objs(tmp_path, text, message):
    (tmp_path / "bad.obj").write_text(text)
    with pytest.raises(UserError, match=rf"bad\.obj.*{message}"):
        read_obj(tmp_path / "bad.obj")
    with pytest.raises(UserError, match=r"missing\.obj"):
        read_obj(tmp_path / "missing.obj")


def test_units_are_explicit(tmp_path, toy_model):
    """The same head in metres, with landmarks in metres, is the same scan; a unit that is not the file's is refused."""
    vertices, faces = toy_model.mean.double().numpy(), toy_model.faces.numpy()
    for unit, factor in scans.UNITS.items():
        path, marks = tmp_path / f"{unit}.obj", tmp_path / f"{unit}.json"
        path.write_text("\n".join(f"v {x!r} {y!r} {z!r}" for x, y, z in (vertices / factor).tolist()) + "\nf 1 2 3\n")
        points = {str(k): (vertices[toy_model.landmark_index[k, 0]] / factor).tolist() for k in POINTS}
        marks.write_text(json.dumps({"unit": unit, "landmarks": points}))
        scan = read_scan(path, marks, unit)
        assert np.allclose(scan.vertices, vertices, rtol=1e-12)
        assert np.allclose(scan.landmarks[36], vertices[toy_model.landmark_index[36, 0]], rtol=1e-12)
    with pytest.raises(UserError, match=r"m\.json.*'unit' must say \"mm\""):
        read_scan(tmp_path / "m.obj", tmp_path / "m.json")
    with pytest.raises(UserError, match="unknown unit 'inch'"):
        read_scan(tmp_path / "m.obj", tmp_path / "m.json", "inch")
    with pytest.raises(UserError, match="no texture coordinates"):
        read_scan(tmp_path / "m.obj", tmp_path / "m.json", "m", tmp_path / "picture.jpg")
    assert len(faces)


def test_textures_are_looked_for_beside_the_scan_only(tmp_path):
    folder = tmp_path / "obj"
    folder.mkdir()
    for name in (tmp_path / "out.png", folder / "in.png", folder / "more.png"):
        Image.new("RGB", (4, 4)).save(name)
    (folder / "a.obj").write_text("mtllib a.mtl\nmtllib none.mtl\nv 0 0 0\nv 9 0 0\nv 0 9 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    marks = folder / "m.json"
    marks.write_text(json.dumps({"unit": "mm", "landmarks": {"30": [0, 0, 0], "36": [9, 0, 0], "45": [0, 9, 0]}}))
    for line, expected in (
        ("map_Kd -clamp on C:\\\\pictures\\\\in.png", ["in.png"]),
        ("map_Kd ../out.png", []),
        (f"map_Kd {tmp_path / 'out.png'}", []),
        ("map_Kd missing.png", []),
        ("map_Kd in.png\nmap_Kd more.png\nmap_Kd in.png", ["in.png", "more.png"]),
    ):
        (folder / "a.mtl").write_text(f"newmtl a\n{line}\n".replace("\\\\", "\\"))
        scan = read_scan(folder / "a.obj", marks)
        assert [path.name for path in scan.textures] == expected
        assert scan.look == ("texture" if expected else "grey shading")
    with pytest.raises(UserError, match="2 textures"):
        draw_views(scan, None)


def test_a_picture_shows_the_scan_upright_in_its_box(toy_model):
    """Wherever the scan stood: frontal at yaw 0, its points where the mean face's are, the box around them."""
    colours = np.tile([0.9, 0.2, 0.1], (toy_model.n_vertices, 1))
    scan = toy_scan(toy_model, colours=colours)
    (frontal,) = draw_views(scan, toy_model, size=160)
    assert frontal.image.shape == (160, 160, 3) and scan.look == "vertex colours"
    face = (frontal.image == np.round(np.array([0.9, 0.2, 0.1]) * 255)).all(-1)
    rows, columns = np.nonzero(face)
    background = (frontal.image == 128).all(-1) | (frontal.image == 127).all(-1)
    assert (face | background).mean() > 0.97
    assert abs((columns.min() + columns.max() + 1) / 2 - 80) <= 1.5
    # the toy's points reach over the whole mesh: the box is the mesh's larger side times sqrt(2)
    assert abs(frontal.box.h - np.sqrt(2) * (np.ptp(rows) + 1)) < 4
    moved = Scan(
        scan.vertices * 3 - 40, scan.faces, {k: p * 3 - 40 for k, p in scan.landmarks.items()}, colours=colours
    )
    (again,) = draw_views(moved, toy_model, size=160)
    assert np.abs(again.image.astype(int) - frontal.image).mean() < 0.1


def test_yaw_and_pitch_have_3ddfas_signs(toy_model):
    """The nose tip's mark goes to the image's left with positive yaw, and up with positive pitch."""
    mean = toy_model.mean.numpy()
    nose = np.linalg.norm(mean - mean[np.argmax(mean[:, 2])], axis=1) < 15
    scan = toy_scan(toy_model, colours=np.where(nose[:, None], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))
    views = draw_views(scan, toy_model, yaw=(-30, 0, 30), pitch=(0, 20), size=120)
    assert [(view.yaw, view.pitch) for view in views] == [(y, p) for p in (0, 20) for y in (-30, 0, 30)]
    spots = [np.argwhere(view.image[..., 2] > 200).mean(0) for view in views]
    assert spots[2][1] < spots[1][1] - 3 < spots[0][1] - 6
    assert spots[4][0] < spots[1][0] - 3


def test_a_texture_is_sampled_where_its_coordinates_say(tmp_path, toy_model):
    """A texture of two ramps against the same ramps as vertex colours: the pictures agree."""
    uv = toy_model.uv.double().numpy() * 0.8 + 0.1
    size = 256
    ramp = (np.arange(size) + 0.5) / size
    texture = np.stack([np.broadcast_to(ramp, (size, size)), np.broadcast_to(1 - ramp[:, None], (size, size))], -1)
    picture = np.concatenate([texture, np.full((size, size, 1), 0.3)], -1)
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(tmp_path / "t.png")
    colours = np.concatenate([uv, np.full((len(uv), 1), 0.3)], 1)
    faces = toy_model.faces.numpy()
    textured = toy_scan(toy_model, uv=uv[faces] + 3, textures=(tmp_path / "t.png",))  # coordinates repeat every 1
    plain = toy_scan(toy_model, colours=colours)
    for lit in (False, True):
        pictures = [
            draw_views(scan, toy_model, (25,), (5,), size=128, lit=lit)[0].image.astype(float)
            for scan in (textured, plain)
        ]
        assert np.abs(pictures[0] - pictures[1]).max() <= 3
    assert textured.look == "texture"
    bare = toy_scan(toy_model, uv=np.full((len(faces), 3, 2), np.nan), textures=(tmp_path / "t.png",))
    image = draw_views(bare, toy_model, size=64)[0].image
    assert (image[32, 32] == round(scans.GREY * 255)).all()


def test_a_scan_without_colour_is_shaded_and_says_so(toy_model):
    scan = toy_scan(toy_model)
    image = draw_views(scan, toy_model, size=96)[0].image
    assert scan.look == "grey shading" and (image[..., 0] == image[..., 1]).all() and image[30:66, 30:66].std() > 5
    cloud = Scan(scan.vertices, scan.faces[:0], scan.landmarks)
    with pytest.raises(UserError, match="no faces"):
        draw_views(cloud, toy_model)
    line = {k: np.array([k, 0.0, 0.0]) for k in POINTS}
    with pytest.raises(UserError, match="how it stands"):
        draw_views(Scan(scan.vertices, scan.faces, line), toy_model)


def test_pockets_are_not_seen(toy_model):
    """A sheet 10 mm behind the face's front is hidden by it; the front is seen, but for nothing."""
    scan = toy_scan(toy_model)
    behind = scan.vertices.mean(0) + 0.8 * (scan.vertices - scan.vertices.mean(0))
    inner = np.abs(toy_model.mean.numpy()[:, :2]).max(1) < 40
    both = Scan(
        np.concatenate([scan.vertices, behind]),
        np.concatenate([scan.faces, scan.faces[inner[scan.faces].all(1)] + len(behind)]),
        scan.landmarks,
    )
    seen = seen_from_outside(both, toy_model, size=200)
    assert seen[: len(behind)].mean() > 0.95 and not seen[len(behind) :][inner].any()


def test_colours_are_written_and_read(tmp_path, toy_model):
    colours = np.random.default_rng(0).uniform(size=(toy_model.n_vertices, 3))
    write_obj(tmp_path / "c.obj", toy_model.mean, toy_model.faces, colours)
    obj = parse_obj(tmp_path / "c.obj")
    assert np.allclose(obj.colours, colours, atol=1e-4) and np.array_equal(obj.faces, toy_model.faces)
    theirs = trimesh.load(tmp_path / "c.obj", process=False)
    assert np.abs(np.asarray(theirs.visual.vertex_colors)[:, :3] / 255 - colours).max() < 0.01
