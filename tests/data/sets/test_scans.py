"""Scans: OBJ files of every make, units, textures and colours, and what pictures of them show."""

import json

import numpy as np
import pytest
from PIL import Image

from mlanet_lib.data.sets import scans
from mlanet_lib.data.sets.scans import Scan, check_size, draw_views, read_scan, seen_from_outside
from mlanet_lib.errors import UserError

POINTS = (30, 0, 16, 36, 45, 8, 60)


@pytest.fixture
def of_side(monkeypatch):
    """Sets the side of the pictures that are drawn, pixels."""
    return lambda side: monkeypatch.setattr(scans, "PICTURE", side)


def toy_scan(model, **look) -> Scan:
    """The toy face's mean as a scan, somewhere else, turned, and of another size."""
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    vertices = 1.2 * model.mean.double().numpy() @ turn.T + [300, -20, 50]
    landmarks = {k: vertices[model.landmark_index[k, 0]] for k in POINTS}
    return Scan(vertices, model.faces.numpy(), landmarks, **look)


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


def in_unit(model, folder, mesh=1.0, marks=1.0, unit="mm", size=1.0):
    """The toy face with lengths divided by `mesh`, its landmarks by `marks`, both said to be in `unit`; its files."""
    vertices = size * model.mean.double().numpy()
    points = {str(k): (vertices[model.landmark_index[k, 0]] / marks).tolist() for k in POINTS}
    rows = "".join(f"v {x!r} {y!r} {z!r}\n" for x, y, z in (vertices / mesh).tolist())
    (folder / "head.obj").write_text(rows + "f 1 2 3\n")
    (folder / "marks.json").write_text(json.dumps({"unit": unit, "landmarks": points}))
    return read_scan(folder / "head.obj", folder / "marks.json", unit)


@pytest.mark.parametrize(
    ("factor", "said", "looks"),
    [
        (1000.0, "mm", "look like m"),
        (10.0, "mm", "look like cm"),
        (25.4, "mm", "look like inches"),
        (0.001, "mm", "look like micrometres"),
        (1.0, "m", "look like mm"),
        (1.0, "cm", "look like mm"),
        (1000.0, "cm", "look like m"),
        (1e7, "mm", "in no unit known"),
    ],
)
def test_a_wrong_unit_is_refused_with_the_distance_and_the_likely_one(tmp_path, toy_model, factor, said, looks):
    scan = in_unit(toy_model, tmp_path, factor, factor, said)
    apart = np.linalg.norm(scan.landmarks[36] - scan.landmarks[45])
    with pytest.raises(UserError, match=rf"head\.obj: .* 36 and 45 .* not in {said}, .*{looks}") as caught:
        check_size(scan, toy_model)
    assert f"{apart:.4g} mm apart" in str(caught.value)


def test_any_landmarks_tell_the_size(tmp_path, toy_model):
    scan = in_unit(toy_model, tmp_path, 1000.0, 1000.0)
    for key in (36, 45, 0, 16):
        del scan.landmarks[key]
    with pytest.raises(UserError, match=r"its landmarks 8 and 60 are .* look like m"):
        check_size(scan, toy_model)


@pytest.mark.parametrize("size", [0.6, 1.0, 1.3])
def test_children_and_large_heads_pass(tmp_path, toy_model, size):
    scan = in_unit(toy_model, tmp_path, 1000.0, 1000.0, "m", size)
    assert check_size(scan, toy_model) is scan
    scan.landmarks[8] = scan.landmarks[8] + 400  # one misplaced point does not decide on the unit, but is no head's
    with pytest.raises(UserError, match="taken for each other"):
        check_size(scan, toy_model)


@pytest.mark.parametrize(("mesh", "marks"), [(1000.0, 1.0), (0.1, 1.0)])
def test_a_mesh_in_another_unit_than_its_landmarks_is_refused(tmp_path, toy_model, mesh, marks):
    with pytest.raises(UserError, match=r"head\.obj: its landmarks lie .* mm beside it"):
        check_size(in_unit(toy_model, tmp_path, mesh, marks), toy_model)


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    for text in ('{"unit": "mm", "unit": "m"}', '{"landmarks": {"30": [0, 0, 0], "30": [1, 0, 0]}}'):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(UserError, match=r"m\.json.*twice"):
            read_scan(tmp_path / "a.obj", tmp_path / "m.json")
    points = {"30": [0, 0, 0], "36": [9, 0, 0], "7": [0, 9, 0], "07": [0, 9, 1]}
    (tmp_path / "m.json").write_text("\ufeff" + json.dumps({"unit": "mm", "landmarks": points}))
    with pytest.raises(UserError, match="landmark '07'"):
        read_scan(tmp_path / "a.obj", tmp_path / "m.json")


HEAD = "v 0 0 0{c}\nv 9 0 0{c}\nv 0 9 0{c}\nvt 0 0\nf 1/1 2/1 3/1\n"


@pytest.mark.parametrize(
    ("obj", "mtl", "look", "refused"),
    [
        ("mtllib a.mtl\n" + HEAD, "map_Kd in.png", "texture", None),
        ("mtllib a.mtl\n" + HEAD, "Kd 1 1 1", "grey shading", None),
        (HEAD, "", "grey shading", None),
        ("mtllib a.mtl\n" + HEAD, "map_Kd gone.png", "grey shading", r"'gone.png' .*--texture"),
        ("mtllib a.mtl\n" + HEAD, "map_Kd in.png\nmap_Kd gone.png", "grey shading", "'gone.png'"),
        ("mtllib b.mtl\n" + HEAD, "map_Kd in.png", "grey shading", "material file 'b.mtl'"),
        ("mtllib a.mtl\n" + HEAD.replace("/1", ""), "map_Kd in.png", "grey shading", "no texture coordinates"),
        (HEAD.replace("{c}", " 1 0 0"), "", "vertex colours", None),
        (HEAD.replace("{c}", " 255 0 0"), "", "vertex colours", None),
        (HEAD.replace("{c}", " 0.5 300 0"), "", "grey shading", "neither"),
        (HEAD.replace("{c}", " 1 0 0", 1), "", "grey shading", "only 1 of its 3"),
        ("mtllib a.mtl\n" + HEAD, "map_Kd in.png\nmap_Kd more.png", "texture", "2 textures"),
    ],
)
def test_a_scan_whose_colours_cannot_be_had_is_not_judged_grey(tmp_path, toy_model, of_side, obj, mtl, look, refused):
    """What its files say and is not there is refused when it is to be drawn, not before: Deng's form needs no look."""
    for name in ("in.png", "more.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "a.obj").write_text(obj.replace("{c}", ""))
    (tmp_path / "a.mtl").write_text(mtl)
    marks = tmp_path / "m.json"
    marks.write_text(json.dumps({"unit": "mm", "landmarks": {"30": [0, 0, 0], "36": [9, 0, 0], "45": [0, 9, 0]}}))
    scan = read_scan(tmp_path / "a.obj", marks)
    of_side(32)
    assert scan.look == look
    if refused:
        with pytest.raises(UserError, match=refused):
            draw_views(scan, toy_model)
    else:
        assert draw_views(scan, toy_model)[0].image.shape == (32, 32, 3)
    if scan.uv is not None:
        named = read_scan(tmp_path / "a.obj", marks, texture=tmp_path / "in.png")
        assert named.look == "texture" and draw_views(named, toy_model)


def test_a_picture_shows_the_scan_upright_in_its_box(toy_model, of_side):
    """Wherever the scan stood: frontal at yaw 0, its points where the mean face's are, the box around them."""
    colours = np.tile([0.9, 0.2, 0.1], (toy_model.n_vertices, 1))
    scan = toy_scan(toy_model, colours=colours)
    of_side(160)
    (frontal,) = draw_views(scan, toy_model)
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
    (again,) = draw_views(moved, toy_model)
    assert np.abs(again.image.astype(int) - frontal.image).mean() < 0.1


def test_yaw_and_pitch_have_3ddfas_signs(toy_model, of_side):
    """The nose tip's mark goes to the image's left with positive yaw, and up with positive pitch."""
    mean = toy_model.mean.numpy()
    nose = np.linalg.norm(mean - mean[np.argmax(mean[:, 2])], axis=1) < 15
    scan = toy_scan(toy_model, colours=np.where(nose[:, None], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))
    of_side(120)
    views = draw_views(scan, toy_model, yaw=(-30, 0, 30), pitch=(0, 20))
    assert [(view.yaw, view.pitch) for view in views] == [(y, p) for p in (0, 20) for y in (-30, 0, 30)]
    spots = [np.argwhere(view.image[..., 2] > 200).mean(0) for view in views]
    assert spots[2][1] < spots[1][1] - 3 < spots[0][1] - 6
    assert spots[4][0] < spots[1][0] - 2


def test_a_texture_is_sampled_where_its_coordinates_say(tmp_path, toy_model, of_side):
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
    of_side(128)
    for lit in (False, True):
        pictures = [
            draw_views(scan, toy_model, (25,), (5,), lit=lit)[0].image.astype(float) for scan in (textured, plain)
        ]
        assert np.abs(pictures[0] - pictures[1]).max() <= 3
    assert textured.look == "texture"
    bare = toy_scan(toy_model, uv=np.full((len(faces), 3, 2), np.nan), textures=(tmp_path / "t.png",))
    of_side(64)
    image = draw_views(bare, toy_model)[0].image
    assert (image[32, 32] == round(scans.GREY * 255)).all()


def test_a_scan_without_colour_is_shaded_and_says_so(toy_model, of_side):
    scan = toy_scan(toy_model)
    of_side(96)
    image = draw_views(scan, toy_model)[0].image
    assert scan.look == "grey shading" and (image[..., 0] == image[..., 1]).all() and image[30:66, 30:66].std() > 5
    cloud = Scan(scan.vertices, scan.faces[:0], scan.landmarks)
    with pytest.raises(UserError, match="no faces"):
        draw_views(cloud, toy_model)
    line = {k: np.array([k, 0.0, 0.0]) for k in POINTS}
    with pytest.raises(UserError, match="how it stands"):
        draw_views(Scan(scan.vertices, scan.faces, line), toy_model)


def test_pockets_are_not_seen(toy_model, of_side):
    """A sheet 10 mm behind the face's front is hidden by it; the front is seen, but for nothing."""
    scan = toy_scan(toy_model)
    behind = scan.vertices.mean(0) + 0.8 * (scan.vertices - scan.vertices.mean(0))
    inner = np.abs(toy_model.mean.numpy()[:, :2]).max(1) < 40
    both = Scan(
        np.concatenate([scan.vertices, behind]),
        np.concatenate([scan.faces, scan.faces[inner[scan.faces].all(1)] + len(behind)]),
        scan.landmarks,
    )
    of_side(200)
    seen = seen_from_outside(both, toy_model)
    assert seen[: len(behind)].mean() > 0.95 and not seen[len(behind) :][inner].any()


def test_left_and_right_taken_for_each_other_is_refused(tmp_path, face_model):
    """Landmarks whose distances are a head's, and which no head has."""
    vertices = face_model.mean.double().numpy()
    points = face_model.landmarks(face_model.mean[None])[0].double().numpy()
    right = {key: points[key] for key in (30, 36, 39, 42, 45, 48, 54)}
    scan = scans.Scan(vertices, face_model.faces.numpy(), right, name="head")
    assert check_size(scan, face_model) is scan
    swapped = right | {36: right[45], 45: right[36], 39: right[42], 42: right[39], 48: right[54], 54: right[48]}
    with pytest.raises(UserError, match="left and right, taken for each other"):
        check_size(scans.Scan(vertices, face_model.faces.numpy(), swapped, name="head"), face_model)
