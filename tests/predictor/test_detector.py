"""Faces in photos: what a photo may be, where its faces are, and the crop that follows from a box."""

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.predictor import yunet as yunet_module
from mlanet_lib.predictor.detector import COARSE_SIDE, MIDDLE_SIDE, Detection, Detector, turn_points
from mlanet_lib.predictor.yunet import YUNET_FILE


@pytest.fixture
def yunet(monkeypatch):
    monkeypatch.setenv("MLANET_MODELS", str(ROOT / "weights"))
    return Detector.load()


@pytest.fixture
def portrait(shared_data):
    return read_photo(shared_data / "portraits" / "001_neutral.jpg")


def test_crop_of_a_known_box():
    points = np.array([[35.0, 40.0], [65.0, 40.0], [60.0, 60.0], [40.0, 80.0], [60.0, 80.0]])
    crop = Detection(np.array([0.0, 0.0, 100.0, 100.0]), 0.9, points).crop()
    assert np.allclose(crop, [50 - 0.9 - 64.5, 50 + 12.6 - 64.5, 129, 129])
    assert np.isfinite(Detection(np.array([0.0, 0, 80, 80]), 1.0, np.full((5, 2), np.nan)).crop()).all()


@pytest.mark.parametrize("turns", range(4))
def test_turn_points_follows_numpy(turns):
    photo = np.zeros((7, 11), int)
    photo[2, 9] = 1
    turned = np.rot90(photo, turns)
    i, j = np.argwhere(turned)[0]
    assert np.allclose(turn_points(np.array([j + 0.5, i + 0.5]), turns, 7, 11), [9.5, 2.5])


def test_every_kind_of_file_gives_the_same_rgb(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([rgb, np.full((24, 32), 255, np.uint8)])).save(tmp_path / "rgba.png")
    assert np.array_equal(read_photo(tmp_path / "rgb.png"), rgb)
    assert np.array_equal(read_photo(tmp_path / "rgba.png"), rgb)
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    for name in ("grey.png", "grey16.png"):
        assert np.array_equal(read_photo(tmp_path / name), np.repeat(grey[..., None], 3, 2)), name
    assert np.array_equal(read_photo(rgb.astype(np.uint16) * 257), rgb)
    assert np.array_equal(read_photo((rgb / 255.0).astype(np.float32)), rgb)


def test_transparent_pixels_are_white():
    assert (read_photo(np.zeros((20, 20, 4), np.uint8)) == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    rgb = np.zeros((20, 40, 3), np.uint8)
    rgb[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn 90 degrees clockwise to show
    Image.fromarray(rgb).save(tmp_path / "side.png", exif=exif)
    shown = read_photo(tmp_path / "side.png")
    assert shown.shape == (40, 20, 3)
    assert (shown[:, 10:] == 255).all() and (shown[:, :10] == 0).all()


def test_bad_photos_are_one_clear_line(tmp_path):
    (tmp_path / "text.jpg").write_text("not a readable picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
    Image.new("RGB", (5, 5)).save(tmp_path / "tiny.png")
    for source, words in [
        (tmp_path / "none.jpg", "no such photo"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.jpg", "not a readable picture"),
        (tmp_path / "cut.jpg", "not a readable picture"),
        (tmp_path / "tiny.png", "too small"),
        (np.zeros((20, 20, 2), np.uint8), "a photo array is"),
        (np.full((20, 20, 3), 7.0), "within"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            read_photo(source)
        assert "\n" not in str(caught.value)


def test_missing_and_altered_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(yunet_module, "library_root", lambda: tmp_path)
    monkeypatch.delenv("MLANET_MODELS", raising=False)
    (tmp_path / "weights").mkdir()
    with pytest.raises(UserError, match=r"not here \(.*\): run dvc pull weights.dvc"):
        Detector.load()
    (tmp_path / "weights" / YUNET_FILE).write_bytes(b"something else")
    with pytest.raises(UserError, match=r"was altered .*: run dvc pull --force weights.dvc"):
        Detector.load()


def test_a_folder_of_ones_own_is_not_filled_by_dvc(tmp_path, monkeypatch):
    monkeypatch.setenv("MLANET_MODELS", str(tmp_path))
    with pytest.raises(UserError, match=rf"not here \(.*\): put {YUNET_FILE} there, or unset MLANET_MODELS"):
        Detector.load()
    (tmp_path / YUNET_FILE).write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"was altered .*: put {YUNET_FILE} there, or unset MLANET_MODELS"):
        Detector.load()


def test_yunet_answers_as_opencv_s_own_form_of_it(yunet, portrait):
    """The graph, and the step from its cells to boxes, points and scores, beside cv2.FaceDetectorYN."""
    import cv2

    portrait = cv2.resize(portrait, (640, 480))
    theirs = cv2.FaceDetectorYN.create(str(ROOT / "weights" / YUNET_FILE), "", (640, 480), 0.6, 0.3, 5000)
    _, rows = theirs.detect(cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR))
    ours = yunet.network(portrait, 0)
    assert len(rows) == len(ours.boxes) == 1
    assert np.abs(ours.boxes - rows[:, :4]).max() < 0.02
    assert np.abs(ours.points.reshape(1, 10) - rows[:, 4:14]).max() < 0.02
    assert np.abs(ours.scores - rows[:, 14]).max() < 1e-4


class Looks:
    """YuNet that says at how many pixels it looked."""

    def __init__(self, network):
        self.network, self.sides = network, []

    def __call__(self, photo, frame):
        self.sides.append(max(photo.shape[:2]))
        return self.network(photo, frame)


def enlarged(portrait, side):
    return np.array(Image.fromarray(portrait).resize((side, side)))


def test_all_pixels_are_looked_at_only_for_small_faces(yunet, portrait):
    yunet.network = Looks(yunet.network)
    photo = enlarged(portrait, 1350)
    assert len(yunet.detect(photo)) == 1
    assert yunet.network.sides == [COARSE_SIDE, MIDDLE_SIDE]
    yunet.network.sides.clear()
    photo[:90, :90] = enlarged(portrait, 90)  # one more, that the small copy does not show
    assert len(yunet.detect(photo)) == 2
    assert yunet.network.sides[:3] == [COARSE_SIDE, MIDDLE_SIDE, 1350]
    yunet.network.sides.clear()
    yunet.detect(np.full((1350, 1350, 3), 128, np.uint8))
    assert yunet.network.sides == [COARSE_SIDE, MIDDLE_SIDE, 1350] + 3 * [COARSE_SIDE, MIDDLE_SIDE]
    yunet.network.sides.clear()
    yunet.detect(photo, thorough=False)
    assert yunet.network.sides == [COARSE_SIDE, MIDDLE_SIDE]


def test_twelve_portraits_hold_twelve_faces(yunet, shared_data):
    for path in sorted((shared_data / "portraits").glob("*.jpg")):
        faces = yunet.detect(read_photo(path))
        assert len(faces) == 1 and faces[0].score > 0.9 and faces[0].turns == 0, path.name


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_is_turned_back(yunet, portrait, turns):
    upright = yunet.detect(portrait)[0]
    turned = np.ascontiguousarray(np.rot90(portrait, turns))
    found = yunet.detect(turned)[0]
    assert found.turns == (4 - turns) % 4
    in_turned = turn_points(found.points, found.turns, *turned.shape[:2])
    in_photo = turn_points(in_turned, turns, *portrait.shape[:2])
    assert np.abs(in_photo - upright.points).max() < 2


def test_several_faces_come_largest_first(yunet, portrait):
    small = np.asarray(Image.fromarray(portrait).resize((300, 300)))
    both = np.full((700, 1100, 3), 255, np.uint8)
    both[:300, :300], both[10:685, 400:1075] = small, portrait
    faces = yunet.detect(both)
    assert len(faces) == 2
    assert faces[0].box[0] > 400 > faces[1].box[0]


def test_each_face_has_a_turn_of_its_own(yunet, shared_data):
    """One upside-down face and one on its side among upright ones."""
    turns = [0, 2, 0, 1]
    photos = [read_photo(path) for path in sorted((shared_data / "portraits").glob("*_neutral.jpg"))[:4]]
    row = np.concatenate([np.rot90(photo, n) for photo, n in zip(photos, turns, strict=True)], 1)
    faces = sorted(yunet.detect(row), key=lambda face: face.box_in_photo(*row.shape[:2])[0])
    assert [face.turns for face in faces] == [(4 - n) % 4 for n in turns]
    for number, face in enumerate(faces):
        alone = yunet.detect(photos[number])[0]
        in_row = turn_points(face.points, face.turns, *row.shape[:2]) - [number * 675, 0]
        expected = turn_points(alone.points, -turns[number], *photos[number].shape[:2])
        assert np.abs(in_row - expected).max() < 20, number  # px; the face has 40 px of the small copy


def test_small_faces_of_a_large_photo_are_found(yunet, portrait):
    """30 faces of 45 px in 6000 x 4000 pixels."""
    (face,) = yunet.detect(portrait)
    side = round(45 / face.box[2] * portrait.shape[1])
    small = np.asarray(Image.fromarray(portrait).resize((side, side), Image.Resampling.LANCZOS))
    photo = np.full((4000, 6000, 3), portrait[0, 0], np.uint8)
    places = [(500 + 600 * (k // 6), 300 + 900 * (k % 6)) for k in range(30)]
    for y, x in places:
        photo[y : y + side, x : x + side] = small
    found = yunet.detect(photo)
    assert len(found) == 30 and all(face.turns == 0 for face in found)
    centres = np.array([face.box[:2] + face.box[2:] / 2 for face in found])
    expected = np.array([(x, y) for y, x in places]) + (face.box[:2] + face.box[2:] / 2) * side / portrait.shape[1]
    assert np.linalg.norm(expected[:, None] - centres, axis=2).min(1).max() < 8


def test_a_big_photo_and_a_thumbnail_agree(yunet, portrait):
    size = portrait.shape[0]
    at_home = yunet.detect(portrait)[0].crop() / size
    for side in (3000, 100):
        crop = yunet.detect(np.asarray(Image.fromarray(portrait).resize((side, side))))[0].crop() / side
        assert np.abs(crop - at_home).max() < 0.05, side


def test_no_face(yunet):
    assert yunet.detect(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)) == []
    assert yunet.detect(np.full((200, 300, 3), 128, np.uint8)) == []


def test_crop_agrees_with_the_training_convention(yunet, shared_data):
    """Overlap with the square of 3DDFA's roi on frames of YouTube Faces (never on the benchmark)."""
    import io
    import zipfile

    labels = np.load(shared_data / "youtube_faces" / "labels.npz")
    overlaps = []
    with zipfile.ZipFile(shared_data / "youtube_faces" / "images.zip") as archive:
        for k in range(0, len(labels["names"]), 120):
            photo = read_photo(Image.open(io.BytesIO(archive.read(labels["names"][k]))))
            points = labels["landmarks68"][k]
            low, high = points.min(0), points.max(0)
            side = (high - low).max() * np.sqrt(2)
            wanted = np.array([*((low + high) / 2 - side / 2), side])
            x, y, got, _ = min((f.crop() for f in yunet.detect(photo)), key=lambda c: abs(c[:2] - wanted[:2]).sum())
            corner = np.minimum([x + got, y + got], wanted[:2] + side) - np.maximum([x, y], wanted[:2])
            shared = np.prod(np.maximum(corner, 0))
            overlaps.append(shared / (got**2 + side**2 - shared))
    assert np.mean(overlaps) > 0.82
