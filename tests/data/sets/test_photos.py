"""A folder of photos: where the detector says, upright, several faces a photo, and what is left out."""

import shutil

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from red_squares import RedSquares, photo

from mlanet_lib.data.sets.photos import read_folder
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import MARK
from mlanet_lib.geometry.crops import crop_image


def is_red(sample) -> bool:
    return np.abs(crop_image(sample.image(), sample.box, 8)[2:-2, 2:-2].astype(int) - [255, 0, 0]).max() < 40


def test_faces_are_found_cropped_and_named(tmp_path, capsys):
    (tmp_path / "party").mkdir()
    (tmp_path / ".cache").mkdir()
    photo((8, 10, 16)).save(tmp_path / "one.png")
    photo((8, 10, 12), (50, 20, 24)).save(tmp_path / "party" / "two.png")
    photo().save(tmp_path / "none.png")
    photo((8, 10, 16)).save(tmp_path / ".cache" / "hidden.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    samples = read_folder(tmp_path, RedSquares())
    assert [sample.name for sample in samples] == ["one.png", "party/two.png", "party/two.png#2"]
    assert all(is_red(sample) and sample.landmarks is None for sample in samples)
    assert [sample.crop().w for sample in samples] == [16, 24, 12]
    said = capsys.readouterr().err
    assert "1 pictures show no face that the detector finds: none.png" in said
    assert "1 pictures cannot be read" in said and "broken.jpg" in said


def test_our_own_overlay_is_no_second_photo(tmp_path, capsys):
    photo((8, 10, 16)).save(tmp_path / "a.jpg")
    own = PngInfo()
    own.add_text("Software", MARK)
    photo((8, 10, 16)).save(tmp_path / "a.png", pnginfo=own)
    assert [sample.name for sample in read_folder(tmp_path, RedSquares())] == ["a.jpg"]
    assert "1 pictures that mlanet wrote are left out" in capsys.readouterr().err
    photo((8, 10, 16)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.jpg and a\.png are one photo"):
        read_folder(tmp_path, RedSquares())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_are_turned_upright_by_exif(tmp_path, orientation):
    stored = {1: 0, 3: 180, 6: 90, 8: -90}[orientation]  # what a camera held so would have stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo((8, 10, 16)).rotate(stored, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    (sample,) = read_folder(tmp_path, RedSquares())
    assert sample.image().shape == (60, 80, 3) and is_red(sample)
    assert np.abs(np.array(sample.box) - [8, 10, 16, 16]).max() <= 2


def test_a_photo_that_the_detector_turns(tmp_path):
    picture = photo((20, 5, 10), (60, 40, 16))
    picture.paste((0, 255, 0), (0, 0, 2, 2))
    picture.save(tmp_path / "sideways.png")
    samples = read_folder(tmp_path, RedSquares())
    assert len(samples) == 2 and samples[0].image().shape == (80, 60, 3) and all(map(is_red, samples))


def test_folders_without_photos_or_faces(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "nothing", RedSquares())
    with pytest.raises(UserError, match="no pictures"):
        read_folder(tmp_path, RedSquares())
    photo().save(tmp_path / "none.png")
    with pytest.raises(UserError, match="no face found in 1 pictures"):
        read_folder(tmp_path, RedSquares())


def test_real_portraits(shared_data, tmp_path, monkeypatch):
    from mlanet_lib.predictor.detector import Detector

    monkeypatch.setenv("MLANET_MODELS", str(ROOT / "weights"))
    names = ["001_neutral.jpg", "001_smiling.jpg", "002_neutral.jpg"]
    for name in names:
        shutil.copy(shared_data / "portraits" / name, tmp_path)
    samples = read_folder(tmp_path, Detector.load())
    assert [sample.name for sample in samples] == names
    for sample in samples:
        assert 200 < sample.crop().w < 675
