"""Doubles of pictures: found in another file, size and crop, and not where two faces only look alike."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mlanet_lib.data.sets.aflw2000 import read_sample
from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.data_check.overlap import ALIKE, SAME, compare, portrait
from mlanet_lib.geometry.crops import Box

BOX = Box(30, 30, 60, 60)


def photo(seed: int) -> Image.Image:
    """A picture with detail of several sizes, and the same coarse light and shade in all of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :120] / 120
    picture = np.repeat((90 + 120 * np.exp(-8 * ((x - 0.5) ** 2 + (y - 0.55) ** 2)))[..., None], 3, 2)
    for size, strength in ((8, 12), (20, 25)):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).resize((120, 120))
        picture += (np.asarray(noise, float) - 128) * strength / 60
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def saved_anew(picture: Image.Image, side: int) -> np.ndarray:
    buffer = io.BytesIO()
    picture.resize((side, side)).filter(ImageFilter.GaussianBlur(0.5)).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_double_is_found_whatever_was_done_to_it(mirrored):
    benchmark = [portrait(np.asarray(photo(seed)), BOX) for seed in range(6)]
    double = photo(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else photo(3)
    moved = Box(58, 64, 124, 124)  # at twice the size, and 3 pixels of the first off
    training = [portrait(np.asarray(photo(seed)), BOX) for seed in range(10, 30)]
    training.insert(7, portrait(saved_anew(double, 240), moved))
    compared = compare(training, benchmark)
    assert [(pair.training, pair.benchmark) for pair in compared.doubles()] == [(7, 3)]
    assert compared.registered[1].correlation < SAME - 0.05
    assert len(compared.alike) == len(training)


def test_the_same_picture_correlates_fully():
    own = [portrait(np.asarray(photo(seed)), BOX) for seed in range(4)]
    compared = compare(own, own)
    assert {(pair.training, pair.benchmark) for pair in compared.doubles()} == {(row, row) for row in range(4)}
    assert all(pair.correlation > 0.999 for pair in compared.alike)
    assert ALIKE < SAME < 1


def test_what_cannot_be_compared_has_no_portrait():
    image = np.asarray(photo(0))
    assert portrait(image, None) is None
    assert portrait(image, Box(0, 0, 0, 10)) is None
    assert portrait(np.full_like(image, 90), BOX) is None
    assert portrait(image, BOX).shape == (48, 48)
    assert compare([], [portrait(image, BOX)]) == ([], [])


def test_real_crops_have_doubles_of_the_benchmark(shared_data):
    """Two doubles that the cut-off of `aflw_crops` let through, and two pairs that only look alike."""
    crops = {sample.name: sample for sample in read_archive(shared_data / "aflw_crops")}
    names = ["image08684.jpg", "image67865.jpg", "image07051.jpg", "image11857.jpg"]
    photos = ["image00615.jpg", "image01780.jpg", "image02359.jpg", "image00753.jpg"]
    training = [portrait(crops[name].image(), crops[name].crop()) for name in names]
    judged = [read_sample(shared_data / "AFLW2000_dev" / name) for name in photos]
    compared = compare(training, [portrait(sample.image(), sample.crop()) for sample in judged])
    assert {(pair.training, pair.benchmark) for pair in compared.doubles()} == {(0, 0), (1, 1)}
