"""Wavefront files of every make: what is read, which pictures they name, and every way they can be wrong."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from mlanet_lib.errors import UserError
from mlanet_lib.files.obj import parse_obj, read_obj, shades, textures, write_obj


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
    assert np.isnan(parse_obj(tmp_path / "a.obj").colours[1:]).all()
    (tmp_path / "cloud.obj").write_bytes("\ufeffv 0 0 0\r\nv 1 2 3\r\n".encode())
    assert [part.shape for part in read_obj(tmp_path / "cloud.obj")] == [(2, 3), (0, 3)]


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
        ("v 0 0 0\nvt nan 0\n", "not finite"),
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


def test_colours_are_written_and_read(tmp_path, toy_model):
    colours = np.random.default_rng(0).uniform(size=(toy_model.n_vertices, 3))
    write_obj(tmp_path / "c.obj", toy_model.mean, toy_model.faces, colours)
    obj = parse_obj(tmp_path / "c.obj")
    assert np.allclose(obj.colours, colours, atol=1e-4) and np.array_equal(obj.faces, toy_model.faces)
    theirs = trimesh.load(tmp_path / "c.obj", process=False)
    assert np.abs(np.asarray(theirs.visual.vertex_colors)[:, :3] / 255 - colours).max() < 0.01


TRIANGLE = "v 0 0 0\nv 9 0 0\nv 0 9 0\nvt 0 0\nf 1/1 2/1 3/1\n"


def written(folder, mtl, library="a.mtl", name="a.mtl", picture="t.jpg", encoding="utf-8"):
    """An OBJ with one texture; its path."""
    for path in (folder / name, folder / picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(folder / picture)
    (folder / name).write_bytes(mtl.encode(encoding))
    (folder / "a.obj").write_bytes(f"mtllib {library}\n{TRIANGLE}".encode(encoding))
    return folder / "a.obj"


def found(path):
    """Names of the textures from the OBJ's folder on, and the trouble."""
    pictures, trouble = textures(path, parse_obj(path).libraries)
    return [picture.relative_to(path.parent).as_posix() for picture in pictures], trouble


@pytest.mark.parametrize(
    ("line", "picture"),
    [
        ("map_Kd my texture.jpg", "my texture.jpg"),
        ("map_Kd textures/t.jpg", "textures/t.jpg"),
        ("map_Kd .\\textures\\my t.jpg", "textures/my t.jpg"),
        ("map_kd t.jpg", "t.jpg"),
        ("\tMAP_KD\tt.jpg", "t.jpg"),
        ("map_Kd -s 1 1 1 t.jpg", "t.jpg"),
        ("map_Kd -o 0 -clamp on -mm 0 1 -bm 0.5 my 2.jpg", "my 2.jpg"),
        ("map_Kd -s 1 1 1 2.jpg", "2.jpg"),
        ("map_Kd -clamp on C:\\pictures\\t.jpg", "t.jpg"),
        ('map_Kd "my t.jpg"', "my t.jpg"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_textures_are_found_however_they_are_named(tmp_path, line, picture, encoding, end):
    path = written(tmp_path, f"{line}{end}newmtl a{end}Kd 1 1 1{end}", picture=picture, encoding=encoding)
    assert found(path) == ([picture], "")


@pytest.mark.parametrize(
    ("library", "name", "line", "picture"),
    [
        ("my material.mtl", "my material.mtl", "map_Kd t.jpg", "t.jpg"),
        ("parts/a.mtl", "parts/a.mtl", "map_Kd t.jpg", "parts/t.jpg"),
        ("parts\\a.mtl", "parts/a.mtl", "map_Kd parts/t.jpg", "parts/t.jpg"),
    ],
)
def test_material_files_in_a_subfolder_or_with_a_space(tmp_path, library, name, line, picture):
    assert found(written(tmp_path, f"{line}\n", library, name, picture)) == ([picture], "")


def test_two_material_files_on_one_line(tmp_path):
    path = written(tmp_path, "map_Kd t.jpg\n", "a.mtl b.mtl")
    Image.new("RGB", (4, 4)).save(tmp_path / "u.jpg")
    assert found(path) == (["t.jpg"], "its material file 'b.mtl' is not in its folder")
    (tmp_path / "b.mtl").write_text("map_Kd u.jpg\nmap_Kd t.jpg\n")
    assert found(path) == (["t.jpg", "u.jpg"], "")


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("map_Kd gone.jpg", "its texture 'gone.jpg' (a.mtl) is not in its folder"),
        ("map_Kd ../out.jpg", "its texture '../out.jpg' (a.mtl) is not in its folder"),
        ("map_Kd {outside}", "its texture '{outside}' (a.mtl) is not in its folder"),
        ("map_Kd -clamp on x" + "y" * 5000, "is not in its folder"),
        ("map_Kd -s 2 2 1 t.jpg", "-o, -s, -t"),
        ("map_Kd -o 0.5 t.jpg", "-o, -s, -t"),
    ],
)
def test_textures_that_cannot_be_used_are_said(tmp_path, line, trouble):
    """Nothing outside of the OBJ's folder is looked at, and a placement that is not followed is none."""
    outside = (tmp_path / "out.jpg").as_posix()
    Image.new("RGB", (4, 4)).save(outside)
    pictures, said = found(written(tmp_path / "scan", line.format(outside=outside) + "\n"))
    assert pictures == [] and trouble.format(outside=outside) in said


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(0.5, 1, 0), (1, 1, 1)], [(0.5, 1, 0), (1, 1, 1)]),
        ([(128, 255, 0), (1, 1, 1)], [(128 / 255, 1, 0), (1 / 255,) * 3]),
        ([(0.5, 1.0002, 0), (1, 1, 1)], [(0.5, 1, 0), (1, 1, 1)]),
        ([(128, 255, 0), (0.5, 1, 1)], "neither"),
        ([(128.5, 255, 0), (1, 1, 1)], "neither"),
        ([(0, 0, 256), (1, 1, 1)], "neither"),
        ([(0, 0, -0.5), (1, 1, 1)], "neither"),
        ([(0, 0, np.inf), (1, 1, 1)], "neither"),
        ([(0, 0, 1), (np.nan,) * 3], "only 1 of its 2 vertices"),
    ],
)
def test_vertex_colours_of_either_range_and_no_mix(values, expected):
    colours, trouble = shades(np.array(values, float))
    if isinstance(expected, str):
        assert colours is None and expected in trouble
    else:
        assert trouble == "" and np.allclose(colours, expected)
