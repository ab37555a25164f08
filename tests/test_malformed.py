"""Files that nobody vouches for: damaged at random, or made to crash, hang, fill the memory or run code.

Whatever the bytes, a reader gives finite values of the right shape or a UserError, in bounded time and memory.
"""

import io
import json
import multiprocessing
import os
import resource
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat, whosmat

from mlanet_lib.data.sample import SyntheticTruth
from mlanet_lib.data.sets import aflw2000, crops, florence, scans
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009 import bfm_files
from mlanet_lib.files import obj
from mlanet_lib.files.mat import mat_fields
from mlanet_lib.files.npz import read_npz
from mlanet_lib.files.pictures import read_image
from mlanet_lib.network import checkpoint

SECONDS, MEGABYTES = 3.0, 300  # what a hostile file may cost; a limit well above stops what costs more
RNG = np.random.default_rng(0)
PICTURE = Image.effect_noise((40, 40), 60).convert("RGB")


def encoded(kind):
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind)
    return buffer.getvalue()


def write_crops(folder, **members):
    """A folder of landmarked crops; members: of the zip, beside the three that belong there."""
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            archive.writestr(name, encoded("JPEG"))
    labels = {"names": np.array(["a.jpg", "b.jpg", "c.jpg"]), "landmarks68": RNG.uniform(5, 35, (3, 68, 3))}
    np.savez(folder / "labels.npz", **labels)
    return folder


def read_mat(path):
    labels = aflw2000.read_mat(path)
    assert labels["landmarks"].shape == (68, 2) and labels["pose_degrees"].shape == (3,)
    assert np.isfinite(labels["landmarks"]).all() and np.isfinite(labels["pose_degrees"]).all()


def read_picture(path):
    image = read_image(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def read_obj(path):
    vertices, faces = obj.read_obj(path)
    assert vertices.ndim == 2 and np.isfinite(vertices).all()
    assert not len(faces) or (faces.min() >= 0 and faces.max() < len(vertices))


def read_model(path):
    model = MorphableModel.load(path)
    assert all(np.isfinite(value).all() for value in model.contents().values())


def read_crops(path):
    for sample in crops.read_archive(path.parent):
        assert sample.landmarks.shape == (68, 2)
        assert sample.image().shape[2] == 3


def read_landmarks(path):
    scan = scans.read_scan(path.with_name("scan.obj"), path)
    assert all(np.isfinite(point).all() and point.shape == (3,) for point in scan.landmarks.values())


def read_boxes(path):
    for picture in florence.read_subject(path.parent.parent.parent).pictures:
        assert picture.box is None or (np.isfinite(picture.box).all() and min(picture.box[2:]) > 0)


READERS = {
    "face.mat": read_mat,
    "plain.mat": read_mat,
    "face.jpg": read_picture,
    "face.png": read_picture,
    "scan.obj": read_obj,
    "model.npz": read_model,
    "labels.npz": read_crops,
    "images.zip": read_crops,
    "landmarks.json": read_landmarks,
    "subject_01/Images/indoor/boxes.json": read_boxes,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy_model):
    """A folder with one whole file for each reader."""
    folder = tmp_path_factory.mktemp("whole")
    points = np.column_stack([RNG.uniform(5, 35, (68, 2)), RNG.uniform(900, 1000, 68)])
    truth = SyntheticTruth("abc", np.zeros(5), np.zeros(4), False)
    aflw2000.write_sample(folder, "face", np.asarray(PICTURE), points, np.zeros(3), 1.2, points[30], truth=truth)
    fields = {"pt3d_68": points.T, "Pose_Para": np.zeros((1, 7))}
    savemat(folder / "plain.mat", fields, do_compression=False)
    (folder / "face.png").write_bytes(encoded("PNG"))
    obj.write_obj(folder / "scan.obj", points[:9], np.arange(9).reshape(3, 3))
    toy_model.save(folder / "model.npz")
    write_crops(folder)
    marks = {str(index): points[index].tolist() for index in (30, 36, 45, 48)}
    (folder / "landmarks.json").write_text(json.dumps({"unit": "mm", "landmarks": marks}))
    subject = folder / "subject_01"
    for place in (subject / "Model/frontal1/obj", subject / "Images/indoor"):
        place.mkdir(parents=True)
    (subject / "Model/frontal1/obj/a.obj").write_bytes((folder / "scan.obj").read_bytes())
    (subject / "Model/frontal1/landmarks.json").write_bytes((folder / "landmarks.json").read_bytes())
    (subject / "Images/indoor/frame_000.jpg").write_bytes(encoded("JPEG"))
    (subject / "Images/indoor/boxes.json").write_text('{"frame_000.jpg": [1.5, 2.5, 30.0, 30.0]}')
    for name, read in READERS.items():
        read(folder / name)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_read_or_refused(whole, name, data):
    content = bytearray((whole / name).read_bytes())
    kept = bytes(content)
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content) - 1), "length") :]
    else:
        spots = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255))
        # headers and directories are where the structure is: half of the damage goes there
        ends = st.tuples(st.integers(-min(300, len(content)), min(300, len(content)) - 1), st.integers(1, 255))
        for at, bits in data.draw(st.lists(spots | ends, min_size=1, max_size=6), "flips"):
            content[at] ^= bits
    try:
        (whole / name).write_bytes(content)
        READERS[name](whole / name)
    except UserError as error:
        assert "\n" not in str(error).strip()
    finally:
        (whole / name).write_bytes(kept)


def _child(pipe, function, arguments):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30),) * 2)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    start = time.perf_counter()
    try:
        said = ("read", repr(function(*arguments))[:80])
    except UserError as error:
        said = ("refused", str(error))
    except BaseException as error:
        said = ("escaped", repr(error)[:200])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    pipe.send((*said, time.perf_counter() - start, grown / 2**20))
    os._exit(0)


def refused(function, *arguments) -> str:
    """The UserError's text of a call in a process of its own, whose time and memory are held to the bounds."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(there, function, arguments))
    child.start()
    there.close()
    try:
        assert here.poll(10 * SECONDS), "it hangs"
        outcome, text, seconds, megabytes = here.recv()
    except EOFError:
        pytest.fail("the process crashed")
    finally:
        child.kill()
        child.join()
    assert outcome == "refused", f"{outcome}: {text}"
    assert seconds < SECONDS and megabytes < MEGABYTES, (seconds, megabytes)
    return text


def test_the_measure_sees_memory_and_what_escapes():
    with pytest.raises(AssertionError, match="escaped"):
        refused(lambda: [][0])
    with pytest.raises(pytest.fail.Exception, match="crashed"):
        refused(os._exit, 1)

    def greedy():
        np.ones(60_000_000)
        raise UserError("too late")

    with pytest.raises(AssertionError):
        refused(greedy)


def npy(shape, dtype="<f4", data=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


@pytest.mark.parametrize("shape", [(10**12, 3), (2**62, 2**62), (10**5, 68, 2), (-1, 3)])
def test_npy_headers_that_claim_too_much(tmp_path, shape):
    write_crops(tmp_path)
    for name, field in (("model.npz", "mean"), ("labels.npz", "landmarks68")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(f"{field}.npy", npy(shape, data=bytes(120)))
    assert "model.npz" in refused(MorphableModel.load, tmp_path / "model.npz")
    assert "labels.npz" in refused(crops.read_archive, tmp_path)


def test_npz_bombs(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mean.npy", npy((2**28,)) + bytes(2**20))
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\1\2")
    assert "claims" in refused(read_npz, path)  # the header claims more than the member holds
    for size in (0xFFFFFFF0, 2**31):  # the directory claims 4 GB, so that the header's claim would fit
        path.write_bytes(whole[: directory + 24] + struct.pack("<I", size) + whole[directory + 28 :])
        assert "more than 1024 MB" in refused(read_npz, path)
    # the directory says little, the stream would unpack to a lot
    path.write_bytes(whole[: directory + 24] + struct.pack("<I", 200) + whole[directory + 28 :])
    assert "bomb.npz" in refused(read_npz, path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("mean.npy", bytes(2**20))
    assert "NumPy does not write" in refused(read_npz, path)


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_opened(tmp_path):
    write_crops(tmp_path)
    marker = tmp_path / "ran"
    evil = np.array([Evil(marker)], dtype=object)
    np.savez(tmp_path / "model.npz", mean=evil, format=evil)
    np.savez(tmp_path / "labels.npz", names=evil, landmarks68=evil)
    assert "pickle" in refused(MorphableModel.load, tmp_path / "model.npz")
    assert "labels.npz" in refused(crops.read_archive, tmp_path)
    assert not marker.exists()
    np.load(tmp_path / "model.npz", allow_pickle=True)["mean"]  # the file is what it is meant to be
    assert marker.exists()


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind, dims, name, content):
    """An array element of a MATLAB 5 file; kind: 1 cell, 2 struct, 4 char, 6 double, 16 function handle."""
    flags, sizes = element(6, struct.pack("<II", kind, 0)), element(5, struct.pack(f"<{len(dims)}i", *dims))
    return element(14, flags + sizes + element(1, name.encode()) + content)


def mat(*elements):
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + b"".join(elements)


def nested(depth):
    inner = matrix(6, (1, 1), "", element(9, bytes(8)))
    sizes = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<2i", 1, 1))
    for level in range(depth):
        name = element(1, b"pt3d_68" if level == depth - 1 else b"")
        inner = element(14, sizes + name + inner)
    return inner


def bomb(megabytes):
    """A well-formed field of zeros, compressed."""
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    head = matrix(6, (megabytes << 17, 1), "pt3d_68", struct.pack("<II", 9, megabytes << 20))
    head = struct.pack("<II", 14, len(head) - 8 + (megabytes << 20)) + head[8:]
    packed = b"".join([packer.compress(head), *(packer.compress(block) for _ in range(megabytes)), packer.flush()])
    return struct.pack("<II", 15, len(packed)) + packed


POSE = matrix(6, (1, 7), "Pose_Para", element(9, np.zeros(7).tobytes()))
HOSTILE_MATS = {
    "absurd dimensions": lambda: mat(matrix(6, (2**31 - 1, 2**30), "pt3d_68", element(9, bytes(64)))),
    "negative dimensions": lambda: mat(matrix(6, (-3, -68), "pt3d_68", element(9, bytes(1632)))),
    "absurd text": lambda: mat(matrix(4, (2**30, 4), "Pose_Para", element(16, b""))),
    "absurd struct": lambda: mat(
        matrix(2, (2**31 - 1, 1), "pt3d_68", element(5, struct.pack("<i", 1)) + element(1, b""))
    ),
    "deep cells": lambda: mat(nested(20_000)),
    "function handle": lambda: mat(POSE, matrix(16, (1, 1), "pt3d_68", matrix(4, (1, 4), "", element(16, b"exit")))),
    "zlib bomb": lambda: mat(bomb(600)),
    "claimed length": lambda: mat(struct.pack("<II", 14, 0xFFFFFFF0) + bytes(64)),
    "not a number": lambda: mat(
        POSE,
        matrix(6, (3, 68), "pt3d_68", element(9, np.full(204, np.nan).tobytes())),
    ),
    "version 7.3": lambda: b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H2s", 0x0200, b"IM") + bytes(512),
}


@pytest.mark.parametrize("name", HOSTILE_MATS)
def test_hostile_mat_files(tmp_path, name):
    path = tmp_path / "hostile.mat"
    path.write_bytes(HOSTILE_MATS[name]())
    assert "hostile.mat" in refused(aflw2000.read_mat, path)


@pytest.mark.parametrize("kind", [0, 8, 10, 11, 14, 15, 19, 137, 0xFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("packed", [False, True])
def test_data_of_a_type_that_there_is_not(tmp_path, kind, packed):
    """SciPy takes the type for an index into a table, and the process dies; without data it looks at it, too."""
    for data in (struct.pack("<II", kind, 1632) + bytes(1632), struct.pack("<HHI", kind & 0xFFFF, 4, 0)):
        field = matrix(6, (3, 68), "w_exp", data)
        if packed:
            field = element(15, zlib.compress(field))
        (tmp_path / "Model_Exp.mat").write_bytes(mat(field))
        with pytest.raises(ValueError, match="holds neither"):
            mat_fields(tmp_path / "Model_Exp.mat")
        assert "holds neither" in refused(bfm_files.read, tmp_path / "Model_Exp.mat", "expression")


def test_fields_of_a_mat_file_are_those_that_scipy_sees(tmp_path):
    fields = {
        "a": np.eye(3),
        "text": "some",
        "cell": np.array([1, "x"], object),
        "struct": {"x": 1},
        "i": 1j * np.eye(2),
    }
    fields |= {
        "none": np.zeros((0, 0)),
        "truth": np.array([[True]]),
        "n" * 31: np.uint8([[1]]),
        "c": np.zeros((2, 3, 4)),
    }
    for packing in (False, True):
        savemat(tmp_path / "a.mat", fields, do_compression=packing)
        expected = {name: shape for name, shape, _ in whosmat(tmp_path / "a.mat")}
        assert mat_fields(tmp_path / "a.mat") == expected | {"text": (1, 4), "cell": None, "struct": None, "i": None}
    (tmp_path / "a.mat").write_bytes(mat(POSE, POSE))
    with pytest.raises(ValueError, match="twice"):
        mat_fields(tmp_path / "a.mat")


def test_mat_files_made_by_hand_are_read(tmp_path):
    """What the hostile ones are made with makes a good one, too."""
    points = RNG.uniform(5, 35, (3, 68))
    (tmp_path / "good.mat").write_bytes(mat(POSE, matrix(6, (3, 68), "pt3d_68", element(9, points.T.tobytes()))))
    assert np.allclose(aflw2000.read_mat(tmp_path / "good.mat")["landmarks"], points[:2].T - 0.5)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "C:\\a.jpg", "x/../../a.jpg", "..\\a.jpg", "a.jpg\0.txt"])
def test_zip_names_that_lead_out(tmp_path, name):
    write_crops(tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip", "a") as archive:
        info = zipfile.ZipInfo("x" * len(name))
        archive.writestr(info, b"x")
    content = (tmp_path / "images.zip").read_bytes().replace(b"x" * len(name), name.encode())
    (tmp_path / "images.zip").write_bytes(content)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert "images.zip" in refused(crops.read_archive, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_zip_member_that_claims_gigabytes(tmp_path):
    write_crops(tmp_path)
    whole = (tmp_path / "images.zip").read_bytes()
    directory = whole.index(b"PK\1\2")
    for field in (20, 24):  # packed size, size
        start = directory + field
        (tmp_path / "images.zip").write_bytes(whole[:start] + struct.pack("<I", 0xFFFFFFF0) + whole[start + 4 :])
        assert "a.jpg" in refused(crops.read_archive, tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"frame_000.jpg": [1, 2, 1' + "0" * 400 + ", 5]}"])
def test_json_that_is_deep_or_large(whole, tmp_path, text):
    (tmp_path / "boxes.json").write_text(text)
    assert "boxes.json" in refused(florence._read_boxes, tmp_path / "boxes.json")
    marks = {"30": [0, 0, 0], "36": [1, 0, 0], "9" * 5000: [0, 1, 0]}
    (tmp_path / "marks.json").write_text(json.dumps({"unit": "mm", "landmarks": marks}))
    assert "marks.json" in refused(scans.read_scan, whole / "scan.obj", tmp_path / "marks.json")


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_pictures_that_claim_too_much_or_run_programs(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    assert "bomb.png" in refused(read_image, tmp_path / "bomb.png")
    (tmp_path / "page.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "page.jpg" in refused(read_image, tmp_path / "page.jpg")


@pytest.mark.parametrize("text", ["v 0 0 0\nf 1 1 " + "9" * 30, "v 1e999 0 0", "v 0 0 0\nf 1 1 -9", "f 1 2 3"])
def test_hostile_objs(tmp_path, text):
    (tmp_path / "bad.obj").write_text(text)
    assert "bad.obj" in refused(obj.read_obj, tmp_path / "bad.obj")


CONFIG = {"backbone": "test_efficientnet", "levels": [4], "image_size": 32, "width": 4, "pool": 1}
DAMAGED_HEADERS = {
    "no mapping": [],
    "deep": "[" * 100_000,
    "no network": {"network": None},
    "a network that is none": {"network": 7},
    "an unknown field": {"network": CONFIG | {"depth": None}},
    "a number for a name": {"network": CONFIG | {"backbone": 1.5}},
    "a truth for a number": {"network": CONFIG | {"width": True}},
    "levels that are none": {"network": CONFIG | {"levels": {"a": 1}}},
    "a size that no memory holds": {"network": CONFIG | {"width": 2**31, "pool": 2**20}},
    "beyond floating point": {"network": CONFIG | {"focal": "x" * 5000}},
    "no face model": {"face_model": None},
    "half a face model": {"face_model": {"name": "toy"}},
    "a list for a face model": {"face_model": [1, 2]},
}


@pytest.mark.parametrize("name", DAMAGED_HEADERS)
def test_headers_of_checkpoints_that_say_what_cannot_be(tmp_path, toy_model, name):
    told = DAMAGED_HEADERS[name]
    if isinstance(told, dict):
        told = {"network": CONFIG, "face_model": {"name": "toy", "fingerprint": toy_model.fingerprint}} | told
    text = told if isinstance(told, str) else json.dumps(told)
    header = {checkpoint.FORMAT: text}
    save_file({"network.heads.identity.weight": torch.zeros(5, 4)}, tmp_path / "a.safetensors", metadata=header)
    assert "a.safetensors" in refused(checkpoint.load_network, tmp_path / "a.safetensors", toy_model)


def test_text_beyond_unicode(tmp_path, toy_model):
    """NumPy makes a str of any 32 bits, and Python fails on it with a SystemError wherever it looks at it."""
    for name, read in (("model.npz", MorphableModel.load), ("labels.npz", lambda path: crops.read_archive(tmp_path))):
        np.savez(tmp_path / name, names=np.array([0x2E000000], np.uint32).view("<U1"))
        assert "not Unicode" in refused(read, tmp_path / name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", np.float64(1)), ("expression_names", np.array("abcd")), ("expression_names", np.zeros(4)), ("mean", 1.0)],
)
def test_fields_of_a_face_model_that_are_something_else(tmp_path, toy_model, field, value):
    toy_model.save(tmp_path / "model.npz")
    fields = dict(np.load(tmp_path / "model.npz"))
    np.savez(tmp_path / "model.npz", **fields | {field: value})
    assert field in refused(MorphableModel.load, tmp_path / "model.npz")
