"""What `fuzz.run` reads: for every reader whole files to damage, how they are damaged, and what must hold of a value.

A reader's file lies in a folder with whatever else it needs. What was read is judged with `assert`.
"""

import io
import json
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import toy_model
from fuzz import arrays, mutate
from PIL import Image
from scipy.io import savemat

from mlanet_lib.data import manifest
from mlanet_lib.data.sets import aflw2000, crops, florence, scans
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009 import bfm_files as bfm2009_files
from mlanet_lib.face_sources.ict import facekit
from mlanet_lib.files import archive
from mlanet_lib.files.obj import parse_obj, read_vertices
from mlanet_lib.files.pictures import read_image, read_photo
from mlanet_lib.files.project import read_yaml
from mlanet_lib.network import MLANet, NetworkConfig, checkpoint
from mlanet_lib.study.notebook_file import notebook_text, read_notebook, stripped
from mlanet_lib.study.notebook_runner import declared_parameters
from mlanet_lib.study.params import load_params
from mlanet_lib.video.clip import Clip, _hush

ROOT = Path(__file__).resolve().parent.parent.parent
RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (6, 7, 3), np.uint8)).resize((48, 40), Image.Resampling.BICUBIC)
POINTS = np.column_stack([RNG.uniform(5, 35, (68, 2)), RNG.uniform(900, 1000, 68)])
ORIENTATION, MAKE, X_RESOLUTION, EXIF_FOLDER, GPS_FOLDER = 0x112, 0x10F, 0x11A, 0x8769, 0x8825


@dataclass(frozen=True)
class Reader:
    """read: what is called with the damaged file; seeds: (file name, whole content, mutator); beside: further files
    of the folder, by name."""

    read: Callable[[Path], object]
    seeds: list[tuple[str, bytes, mutate.Mutator]]
    beside: dict[str, bytes] = field(default_factory=dict)

    def damaged(self, rng) -> tuple[str, bytes]:
        """The name and content of one damaged file."""
        name, content, mutator = self.seeds[rng.integers(len(self.seeds))]
        same = [other for _, other, by in self.seeds if by is mutator and other is not content]
        if same and rng.random() < 0.08:
            return name, mutate.splice(rng, content, same[rng.integers(len(same))])[: mutate.LARGEST]
        return name, mutator(rng, content)[: 2 * mutate.LARGEST]

    def check(self, folder: Path) -> None:
        """What is not damaged is read, without a complaint."""
        for name, content, _ in self.seeds:
            folder.mkdir()
            for file, whole in {**self.beside, name: content}.items():
                (folder / file).write_bytes(whole)
            self.read(folder / name)
            shutil.rmtree(folder)


def encoded(kind: str, picture: Image.Image = PICTURE, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def written(write: Callable[[Path], object], folder: Path, name: str) -> bytes:
    """The content of a file that a function of its path writes."""
    write(folder / name)
    return (folder / name).read_bytes()


def judge_picture(path: Path) -> None:
    for read in (read_photo, read_image):
        image = read(path)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size, image.shape


def pictures() -> Reader:
    grey16 = Image.fromarray((np.arange(48 * 40).reshape(40, 48) * 30).astype(np.uint16))
    clear = PICTURE.convert("RGBA")
    clear.putalpha(PICTURE.convert("L"))
    frames = {"save_all": True, "append_images": [PICTURE.rotate(90), PICTURE.rotate(180)]}
    seeds = [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", PICTURE.convert("CMYK"))]
    seeds += [encoded("JPEG", PICTURE.convert("L"), subsampling=0, quality=30)]
    seeds += [encoded("WEBP"), encoded("WEBP", lossless=True), encoded("WEBP", clear, **frames)]
    packings = (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate")
    seeds += [encoded("TIFF", compression=packing) for packing in packings]
    seeds += [encoded("TIFF", grey16), encoded("TIFF", clear), encoded("TIFF", PICTURE.convert("F"), **{})]
    seeds += [encoded("TIFF", PICTURE.convert("1"), compression="group4"), encoded("TIFF", **frames)]
    seeds += [encoded("GIF"), encoded("GIF", PICTURE.convert("P"), transparency=3, **frames)]
    seeds += [encoded("BMP"), encoded("BMP", PICTURE.convert("P")), encoded("BMP", PICTURE.convert("1"))]
    seeds += [encoded("PPM"), encoded("PPM", PICTURE.convert("L"))]
    palette = PICTURE.quantize(16)
    pngs = [
        encoded("PNG"),
        encoded("PNG", clear),
        encoded("PNG", grey16),
        encoded("PNG", palette, transparency=b"\0\7"),
    ]
    pngs += [encoded("PNG", PICTURE.convert("LA")), encoded("PNG", PICTURE.convert("1"))]
    both = [("photo.jpg", seed, mutate.binary) for seed in seeds] + 2 * [("photo.png", png, mutate.png) for png in pngs]
    return Reader(judge_picture, both)


def exif_block(little: bool) -> bytes:
    """A TIFF block with what cameras write: orientation, texts, rationals, folders of EXIF and GPS."""
    exif = Image.Exif()
    exif.endian = "<" if little else ">"
    exif[ORIENTATION], exif[MAKE], exif[X_RESOLUTION] = 6, "maker", 72.0
    inner = exif.get_ifd(EXIF_FOLDER)
    inner |= {0x9003: "2024:01:01 00:00:00", 0x920A: 4.25, 0xA405: 28, 0xA002: 48, 0xA003: 40, 0x927C: b"\1" * 40}
    gps = exif.get_ifd(GPS_FOLDER)
    gps |= {1: "N", 2: (48.0, 8.0, 3.5), 5: b"\0"}
    return exif.tobytes()[6:]


def damaged_exif(rng, data: bytes) -> bytes:
    """`data`: JPEG, PNG or WebP without EXIF; it gets a damaged block, and stays whole else."""
    block = exif_block(bool(rng.random() < 0.5))
    if rng.random() < 0.6:  # one entry: its tag, type, count or value
        order = "<" if block.startswith(b"II") else ">"
        changed, at = bytearray(block), 8 + 2 + 12 * int(rng.integers(12))
        for part, code, size in ((0, "H", 2), (2, "H", 2), (4, "I", 4), (8, "I", 4)):
            if rng.random() < 0.4 and at + part + size <= len(changed):
                odd = (rng.integers(14), mutate.NUMBERS[rng.integers(len(mutate.NUMBERS))], ORIENTATION, 0xA405)
                value = int(odd[rng.integers(4)]) % 256**size
                changed[at + part : at + part + size] = struct.pack(order + code, value)
        block = bytes(changed)
    else:
        block = mutate.binary(rng, block)
    block = block[:65000]
    if data.startswith(b"\x89PNG"):
        chunk = b"eXIf" + block
        body = struct.pack(">I", len(block)) + chunk + struct.pack(">I", mutate.zlib.crc32(chunk))
        return data[:33] + body + data[33:]
    if data.startswith(b"RIFF"):
        return encoded("WEBP", exif=b"Exif\0\0" + block)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]


def exif() -> Reader:
    kinds = ("JPEG", "JPEG", "JPEG", "PNG", "WEBP")
    return Reader(judge_picture, [("photo.jpg", encoded(kind), damaged_exif) for kind in kinds])


def judge_clip(path: Path) -> None:
    clip = Clip.open(path)
    assert clip.fps > 0 and min(clip.width, clip.height) > 0 and clip.count >= 0
    times = [time for time, frame in islice(clip.frames(), 12) if frame.shape == (clip.height, clip.width, 3)]
    assert all(a < b for a, b in pairwise(times)), times


def clips(folder: Path) -> Reader:
    def write(codec: str, path: Path) -> None:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25.0, (48, 40))
        for turn in range(8):
            writer.write(np.asarray(PICTURE.rotate(5 * turn))[..., ::-1])
        writer.release()

    _hush()  # FFmpeg asks once how much it may say
    kinds = (("mp4v", "clip.mp4"), ("mp4v", "clip.mov"), ("MJPG", "clip.avi"), ("mp4v", "clip.mkv"))
    return Reader(
        judge_clip,
        [(name, written(lambda path, c=codec: write(c, path), folder, name), mutate.binary) for codec, name in kinds],
    )


def judge_mat(path: Path) -> None:
    labels = aflw2000.read_mat(path)
    assert labels["landmarks"].shape == (68, 2) and labels["pose_degrees"].shape == (3,)
    assert np.isfinite(labels["landmarks"]).all() and np.isfinite(labels["pose_degrees"]).all()


def mats(folder: Path) -> Reader:
    truth = aflw2000.SyntheticTruth("abc", np.zeros(5), np.zeros(4), False)
    aflw2000.write_sample(folder, "face", np.asarray(PICTURE), POINTS, np.zeros(3), 1.2, POINTS[30], truth=truth)
    plain = io.BytesIO()
    savemat(plain, {"pt2d": POINTS[:, :2].T, "Pose_Para": np.zeros((1, 7))}, do_compression=False)
    contents = ((folder / "face.mat").read_bytes(), plain.getvalue())
    return Reader(judge_mat, [("face.mat", content, arrays.mat) for content in contents])


def judge_bfm(path: Path) -> None:
    fields = bfm2009_files.read(path, "expression")
    assert all(np.isfinite(value).all() for value in fields.values())


def bfm_files() -> Reader:
    basis, buffers = RNG.normal(size=(9, 4)).astype(np.float32), (io.BytesIO(), io.BytesIO())
    for buffer, packing in zip(buffers, (True, False), strict=True):
        savemat(buffer, {"mu_exp": basis[:, :1], "w_exp": basis, "sigma_exp": np.ones((4, 1))}, do_compression=packing)
    return Reader(judge_bfm, [("Model_Exp.mat", buffer.getvalue(), arrays.mat) for buffer in buffers])


OBJ = "mtllib scan.mtl\n" + "".join(f"v {x:.4f} {y:.4f} {z:.4f} 0.5 0.5 1\n" for x, y, z in POINTS[:12].tolist())
OBJ += "".join(f"vt {x / 40:.4f} {y / 40:.4f}\n" for x, y, _ in POINTS[:12].tolist()) + "usemtl face\ns 1\n"
OBJ += "".join(f"f {a}/{a} {a + 1}/{a + 1} {a + 2}/{a + 2}\n" for a in range(1, 11)) + "f -1//1 -2//1 -3//1 -4//1\n"
MARKS = {"unit": "mm", "landmarks": {str(k): POINTS[k].round(3).tolist() for k in (30, 36, 45, 48)}, "face_model": "ab"}
SCAN = {
    "scan.obj": OBJ.encode(),
    "scan.mtl": b"newmtl face\nKd 1 1 1\nillum 1\nmap_Kd scan_texture.png\n",
    "scan_texture.png": encoded("PNG"),
    "landmarks.json": json.dumps(MARKS).encode(),
}


def judge_scan(path: Path) -> None:
    scan = scans.read_scan(path.with_name("scan.obj"), path.with_name("landmarks.json"))
    assert scan.vertices.ndim == 2 and np.isfinite(scan.vertices).all()
    assert not len(scan.faces) or (scan.faces.min() >= 0 and scan.faces.max() < len(scan.vertices))
    assert all(point.shape == (3,) and np.isfinite(point).all() for point in scan.landmarks.values())
    assert scan.colours is None or (np.isfinite(scan.colours).all() and scan.colours.shape == scan.vertices.shape)
    assert scan.uv is None or scan.uv.shape == (*scan.faces.shape, 2)
    assert all(texture.parent == path.parent for texture in scan.textures)


def judge_topology(path: Path) -> None:
    content = path.read_bytes()
    points = read_vertices(content, path.name)
    polygons, uv = facekit._polygons(parse_obj(path.name, content), path.name)
    assert (np.isfinite(points).all() and uv.shape[1] == 2 and len(polygons) == 0) or polygons.max() < len(uv)
    facekit.split_quads(parse_obj(path.name, content).vertices, polygons)


def judge_boxes(path: Path) -> None:
    for box in florence._read_boxes(path).values():
        assert np.isfinite(box).all() and min(box[2:]) > 0


def judge_model(path: Path) -> None:
    model = MorphableModel.load(path)
    assert all(np.isfinite(value).all() for value in model.contents().values())


def judge_crops(path: Path) -> None:
    for sample in crops.read_archive(path.parent):
        assert sample.landmarks.shape == (68, 2)
        assert sample.image().shape[2] == 3


def landmarked(folder: Path) -> dict[str, bytes]:
    names = ("a.jpg", "b.jpg", "c.jpg")
    labels = {"landmarks68": np.tile(POINTS, (3, 1, 1)), "landmarks21": np.tile(POINTS[:21, :2], (3, 1, 1))}
    labels |= {"visible21": np.ones((3, 21), bool), "yaw_degrees": np.zeros(3), "agreement": np.ones(3)}
    np.savez(folder / "labels.npz", names=np.array(names), **labels)
    images = mutate.zip_of([(name, encoded("JPEG"), zipfile.ZIP_DEFLATED if name == "b.jpg" else 0) for name in names])
    return {"labels.npz": (folder / "labels.npz").read_bytes(), "images.zip": images}


def judge_archive(path: Path) -> None:
    for name, content in archive.members(path, ("a.obj", "b.txt")):
        assert name in ("a.obj", "b.txt") and isinstance(content, bytes)


def archives() -> Reader:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("model/a.obj", OBJ.encode()), ("model/b.txt", b"text"), ("model/" + "n" * 120, b"x")):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"comment": "é"}
            tar.addfile(info, io.BytesIO(content))
    plain = buffer.getvalue()
    zip_ = mutate.zip_of([("model/a.obj", OBJ.encode(), zipfile.ZIP_DEFLATED), ("b.txt", b"text", zipfile.ZIP_STORED)])
    contents = (plain, mutate.gzip.compress(plain), mutate.squeeze(plain), zip_)
    return Reader(judge_archive, [("archive.bin", content, mutate.packed) for content in contents])


def checkpoints(folder: Path, model: MorphableModel) -> Reader:
    config = NetworkConfig(backbone="test_efficientnet", levels=(3, 4), image_size=32, width=8, pool=1)
    network = MLANet(model, config)
    metadata = {"network": vars(config) | {"levels": [3, 4]}, "pretrained_weights": "none", "step": 1, "history": []}
    metadata["face_model"] = {"name": model.name, "fingerprint": model.fingerprint}
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}

    def judge(path: Path) -> None:
        assert isinstance(checkpoint.read_metadata(path), dict)
        read, said = checkpoint.load_network(path, model)
        assert isinstance(read, MLANet) and isinstance(said, dict)

    content = written(lambda path: checkpoint.save(path, weights, metadata), folder, "weights.safetensors")
    return Reader(judge, [("weights.safetensors", content, arrays.safetensors)])


def judge_params(path: Path) -> None:
    if path.name == "params.yaml":
        load_params(path)
    for keep in (False, True):
        assert isinstance(read_yaml(path, keep), dict)


def params() -> Reader:
    whole = (ROOT / "profiles" / "embedded.yaml").read_text(encoding="utf-8")
    bare = "".join(f"{row.split(' #')[0].rstrip()}\n" for row in whole.splitlines() if row.split("#")[0].strip())
    seeds = [("params.yaml", bare.encode())]
    seeds += [("profile.yaml", path.read_bytes()) for path in sorted((ROOT / "profiles").glob("[!e]*.yaml"))]
    return Reader(judge_params, [(name, content, mutate.text) for name, content in seeds])


def judge_notebook(path: Path) -> None:
    notebook = read_notebook(path)
    clean = stripped(notebook)
    assert json.loads(notebook_text(clean))["nbformat"] == 4
    assert isinstance(declared_parameters(clean, path.name), dict)


def notebooks() -> Reader:
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Title\n", "Text"]},
        {
            "cell_type": "code",
            "execution_count": 1,
            "id": "b",
            "metadata": {"tags": ["parameters"], "editable": True},
            "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}],
            "source": ["train_lr = 1e-3\n", "run: str = 'full'\n", "names = ['a', {'b': (1, None)}]\n"],
        },
    ]
    whole = {"cells": cells, "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    return Reader(judge_notebook, [("notebook.ipynb", json.dumps(whole, indent=1).encode(), mutate.json_text)])


def readers(folder: Path) -> dict[str, Reader]:
    """All readers by name; `folder` for what is written on the way."""
    model = toy_model.build()
    crop_files = landmarked(folder)
    fields, images = mutate.zipped(arrays.npy), mutate.zipped(mutate.binary)
    whole_model = written(model.save, folder, "model.npz")
    listed = folder / "listed"
    listed.mkdir()
    manifest.write(folder / "manifest.json", {"photos": listed}, progress=False)
    scan = [("scan.obj", SCAN["scan.obj"]), ("scan.obj", SCAN["scan.obj"]), ("scan.mtl", SCAN["scan.mtl"])]
    boxes = {"frame_000.jpg": [1.5, 2.5, 30, 30.0], "frame_001.jpg": [1, 2, 3, 4]}
    return {
        "photo": pictures(),
        "exif": exif(),
        "clip": clips(folder),
        "mat": mats(folder),
        "bfm": bfm_files(),
        "obj and mtl": Reader(judge_scan, [(name, content, mutate.text) for name, content in scan], SCAN),
        "obj topology": Reader(judge_topology, [("known.obj", OBJ.encode().rsplit(b"\n", 2)[0], mutate.text)]),
        "landmarks": Reader(judge_scan, [("landmarks.json", SCAN["landmarks.json"], mutate.json_text)], SCAN),
        "boxes": Reader(judge_boxes, [("boxes.json", json.dumps(boxes).encode(), mutate.json_text)]),
        "face model": Reader(judge_model, [("model.npz", whole_model, by) for by in (fields, arrays.npz)]),
        "labels": Reader(
            judge_crops, [("labels.npz", crop_files["labels.npz"], by) for by in (fields, arrays.npz)], crop_files
        ),
        "crops": Reader(judge_crops, [("images.zip", crop_files["images.zip"], images)], crop_files),
        "archive": archives(),
        "checkpoint": checkpoints(folder, model),
        "params": params(),
        "notebook": notebooks(),
        "manifest": Reader(
            lambda path: manifest.verify(path, {"photos": listed}),
            [("manifest.json", (folder / "manifest.json").read_bytes(), mutate.json_text)],
        ),
    }
