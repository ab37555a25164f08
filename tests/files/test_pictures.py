"""One reader of pictures: every form, whatever is wrong with it, and large photos read smaller."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from mlanet_lib.errors import UserError
from mlanet_lib.files import pictures
from mlanet_lib.files.pictures import decode_image, pictures_in, read_image, read_photo, read_reduced

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = RGB[..., 0]
READERS = [read_photo, read_image]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("largest", [1.0, 255.0, 65535.0])
def test_float_pictures_have_their_own_white(read, largest, tmp_path):
    Image.fromarray((GREY / 255.0 * largest).astype(np.float32)).save(tmp_path / "float.tif")
    assert np.abs(read(tmp_path / "float.tif").astype(int) - GREY[..., None]).max() <= 1


@pytest.mark.parametrize("read", READERS)
def test_sixteen_bits_are_scaled_or_refused(read, tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "bright.png")
    assert np.array_equal(read(tmp_path / "bright.png")[..., 1], GREY)
    for bits in (8, 12):  # in 16: black, if it were read
        Image.fromarray((GREY.astype(np.uint16) << 8) >> (16 - bits)).save(tmp_path / "dark.png")
        with pytest.raises(UserError, match=r"dark\.png.*white is 65535: scale them"):
            read(tmp_path / "dark.png")
    Image.new("I;16", (20, 20)).save(tmp_path / "black.png")
    assert read(tmp_path / "black.png").max() == 0


@pytest.mark.parametrize("read", READERS)
def test_what_overshoots_white_a_little_is_white(read, tmp_path):
    for white in (1.0, 255.0):
        values = (GREY / 255 * white).astype(np.float32)
        values[0, 0] = 1.02 * white
        Image.fromarray(values).save(tmp_path / "over.tif")
        assert abs(read(tmp_path / "over.tif").mean() - GREY.mean()) < 1


def test_floats_that_have_no_white_are_refused(tmp_path):
    values = np.full((20, 20), 1e6, np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "hdr.tif")
    with pytest.raises(UserError, match=r"hdr\.tif.*white is 1 or 255 or 65535"):
        read_photo(tmp_path / "hdr.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillow_s(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    for name, options in (("photo.png", {}), ("raw.tif", {}), ("packed.tif", {"compression": "tiff_deflate"})):
        Image.fromarray(RGB).save(tmp_path / name, exif=exif, **options)  # Pillow turns TIFF by itself
        photo = read_reduced(tmp_path / name)
        assert np.array_equal(photo.pixels, upright) and photo.size == upright.shape[1::-1], name
        assert np.array_equal(read_image(tmp_path / name, upright=False), RGB), name


@pytest.mark.parametrize("name", ["exif_neg_long", "exif_neg_rational", "exif_rational_as_byte"])
def test_a_malformed_tag_does_not_cost_the_orientation(name, shared_data):
    path = shared_data / "faults" / f"{name}.jpg"
    stored = read_image(path, upright=False)
    assert np.array_equal(read_photo(path), np.rot90(stored, 3))  # the tag says 6: a quarter turn clockwise


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", "AVIF", "MPO", "WEBP", "BMP"])
def test_other_forms(kind, tmp_path):
    flat = Image.new("RGB", (32, 24), (200, 100, 50))
    ends = {"JPEG2000": "jp2", "MPO": "jpg"}
    flat.save(tmp_path / f"photo.{ends.get(kind, kind.lower())}", kind)
    (found,) = pictures_in(tmp_path)
    assert np.abs(read_photo(found).astype(int) - [200, 100, 50]).max() < 6


def test_a_form_that_is_not_read_is_said_with_a_way_out(tmp_path):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert pictures_in(tmp_path) == [tmp_path / "phone.HEIC"]  # not left out without a word
    with pytest.raises(UserError, match=r"phone\.HEIC: .*the Pillow here does not read HEIC: convert it to JPEG"):
        read_photo(tmp_path / "phone.HEIC")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_very_large_photo_is_read_smaller(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST_PHOTO", 5000)
    ramp = np.zeros((160, 240, 3), np.uint8)
    ramp[..., 0] = np.arange(240)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(tmp_path / f"big.{kind}", kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    photo, reduced, size = read_reduced(tmp_path / f"big.{kind}")
    assert reduced == 4 and photo.shape == (60, 40, 3) and size == (160, 240)  # upright
    assert np.abs(photo[..., 0].mean(1) - (np.arange(60) * 4 + 1.5)).max() < 3
    assert read_image(tmp_path / f"big.{kind}", upright=False).shape == (160, 240, 3)  # labels count its pixels


def test_a_photo_of_a_phone_is_no_attack_and_a_bomb_is_refused(tmp_path):
    """182 million pixels are beyond Pillow's own bound, which is left as it was."""
    bound = Image.MAX_IMAGE_PIXELS
    Image.new("L", (14_000, 13_000)).save(tmp_path / "phone.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo, reduced, size = read_reduced(tmp_path / "phone.jpg")
    assert (
        reduced == 2 and size == (14_000, 13_000) and photo.shape == (6500, 7000, 3) and bound == Image.MAX_IMAGE_PIXELS
    )
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb\.png: .*400 million pixels are more than 40: reduce it"):
        read_photo(tmp_path / "bomb.png")


def test_the_name_is_in_every_message(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "text.png").write_text("no picture")
    wrong = {"dot.png": "1x1 pixels are too small", "text.png": "not a readable picture", "no.png": "no such photo"}
    for name, words in wrong.items():
        with pytest.raises(UserError, match=words) as caught:
            read_photo(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(UserError, match=r"zip: 'a.jpg'"):
        decode_image(b"no picture", "zip: 'a.jpg'")


def test_a_picture_that_was_given_stays_open():
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    given = Image.open(buffer)
    assert np.array_equal(read_photo(given), RGB)
    assert np.array_equal(read_photo(given), RGB)


def test_folders_count_as_people_do_and_hidden_files_are_none(tmp_path):
    for name in ("f10.png", "f9.png", ".f1.png", "notes.txt"):
        Image.fromarray(RGB).save(tmp_path / name, "PNG")
    assert [path.name for path in pictures_in(tmp_path)] == ["f9.png", "f10.png"]
