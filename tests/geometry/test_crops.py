"""The crop: points and pixels must agree, there and back, to a fraction of a pixel."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import (
    ONE_BASED,
    ZERO_BASED,
    Box,
    crop_box_from_landmarks,
    crop_image,
    from_crop,
    from_index,
    second_look,
    to_crop,
    to_index,
)

places = st.floats(-1000, 1000)
boxes = st.builds(Box, places, places, st.floats(1, 2000), st.floats(1, 2000))
point_lists = st.lists(st.tuples(places, places, places), min_size=1, max_size=20).map(np.array)
bases = st.sampled_from([ZERO_BASED, 0.5, ONE_BASED])


def gaussian_dot(height, width, centre, sigma):
    """A white dot, sampled at the pixels' centres (i + 0.5)."""
    y, x = np.mgrid[:height, :width] + 0.5
    dot = 255 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(dot)[..., None], 3, -1).astype(np.uint8)


def centroid(image):
    """Centre of mass in pixels, first pixel's centre at 0.5."""
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(20.25, 31.5, 64, 64), 64),
        (Box(20.7, 11.3, 90.2, 90.2), 48),
        (Box(10.4, 20.1, 80, 60), 128),
        (Box(-15.3, -8.8, 120, 120), 100),
        (Box(30, 25, 100, 90), 24),
    ],
)
def test_a_dot_lands_where_to_crop_says(box, size):
    point = np.array([58.3, 53.9])
    crop = crop_image(gaussian_dot(110, 130, point, sigma=3.5), box, size)
    assert crop.shape == (size, size, 3)
    assert np.abs(centroid(crop) - to_crop(point, box, size)).max() < 0.03


def test_a_dot_near_the_corner_needs_the_padding():
    point, box = np.array([6.2, 9.7]), Box(-20, -20, 60, 60)
    crop = crop_image(gaussian_dot(80, 80, point, sigma=1.5), box, 90)
    assert np.abs(centroid(crop) - to_crop(point, box, 90)).max() < 0.03


def test_to_crop_and_back_is_exact():
    points = np.random.default_rng(0).uniform(-50, 500, (7, 68, 3))
    box = Box(-12.5, 33.1, 210.7, 180.2)
    crop = to_crop(points, box, 96)
    assert np.abs(from_crop(crop, box, 96) - points).max() < 1e-10
    assert np.array_equal(crop[..., 2], points[..., 2])
    assert np.allclose(to_crop(np.array([[box.x, box.y], [box.x + box.w, box.y + box.h]]), box), [[0, 0], [1, 1]])


def test_the_axes_have_scales_of_their_own():
    assert np.allclose(to_crop(np.array([10.0, 10.0]), Box(0, 0, 20, 40), 100), [50, 25])


def test_a_crop_of_whole_pixels_is_the_pixels():
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(crop_image(image, Box(7, 5, 24, 24), 24), image[5:29, 7:31])


def test_outside_is_black_or_the_border():
    image = np.full((20, 20, 3), 200, np.uint8)
    black, border = (crop_image(image, Box(-20, -20, 60, 60), 60, padding) for padding in ("zero", "edge"))
    assert black[:18].max() == 0 and black[30, 30, 0] == 200 and border.min() == 200
    outside = crop_image(image, Box(100, 100, 30, 30), 16)
    assert outside.max() == 0


def test_shrinking_does_not_alias():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_image(stripes, Box(16, 16, 96, 96), 13).astype(int)
    assert np.abs(crop - 127.5).max() < 12


def test_the_crops_border_sees_what_lies_beyond_it():
    """A crop is the middle of a larger crop of the same scale, up to its very edge."""
    image = np.random.default_rng(5).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    crop, larger = crop_image(image, Box(20, 26, 60, 60), 20), crop_image(image, Box(14, 20, 72, 72), 24)
    assert np.abs(crop.astype(int) - larger[2:-2, 2:-2]).max() <= 1


def test_box_from_landmarks_is_3ddfas_roi(shared_data):
    from scipy.io import loadmat

    stored = np.load(shared_data / "AFLW2000_dev" / "predictions_3ddfa_v2_mb05.npz")
    close = 0
    for name, expected in zip(stored["names"][:40], stored["crop_box"][:40], strict=True):
        points = loadmat(shared_data / "AFLW2000_dev" / f"{name[:-4]}.mat")["pt3d_68"][:2].T
        box = crop_box_from_landmarks(points)
        close += np.abs(np.array([box.x, box.y, box.x + box.w, box.y + box.h]) - expected).max() <= 1
    assert close >= 38  # the stored corners and sides are rounded, and a few boxes at the border were cut


def test_box_from_landmarks():
    box = crop_box_from_landmarks(np.array([[10.0, 20.0], [50.0, 100.0], [30.0, 60.0]]))
    assert np.allclose(box, (30 - 40 * 2**0.5, 60 - 40 * 2**0.5, 80 * 2**0.5, 80 * 2**0.5))
    with pytest.raises(UserError, match="no box"):
        crop_box_from_landmarks(np.ones((68, 2)))
    with pytest.raises(UserError, match="no box"):
        crop_box_from_landmarks(np.full((68, 2), np.nan))


def test_pixel_indices():
    first = np.array([[0.0, 0.0, 7.0]])
    assert np.array_equal(from_index(first, ZERO_BASED), [[0.5, 0.5, 7.0]])
    assert np.array_equal(from_index(first + np.array([1, 1, 0]), ONE_BASED), [[0.5, 0.5, 7.0]])
    points = np.random.default_rng(2).normal(size=(5, 2))
    assert np.allclose(to_index(from_index(points, ONE_BASED), ONE_BASED), points)


@pytest.mark.parametrize("folder", ["AFW", "HELEN"])
def test_300w_lp_counts_pixels_from_one(shared_data, folder):
    """The mirrored photo is the mirror image; its labels, read as counted from 1, are mirrored about its centre."""
    from scipy.io import loadmat

    root = shared_data / "300W_LP_samples"
    for photo in sorted((root / folder).glob("*.jpg")):
        mirrored = root / f"{folder}_Flip" / photo.name
        image, image_mirrored = read_image(photo).astype(int), read_image(mirrored).astype(int)
        differences = [np.abs(np.roll(image[:, ::-1], k, 1) - image_mirrored).mean() for k in (-1, 0, 1)]
        assert np.argmin(differences) == 1
        points = from_index(loadmat(photo.with_suffix(".mat"))["pt2d"].T, ONE_BASED)
        points_mirrored = from_index(loadmat(mirrored.with_suffix(".mat"))["pt2d"].T, ONE_BASED)
        assert np.allclose(points[:, 0].min() + points_mirrored[:, 0].max(), image.shape[1], atol=1e-6)
        assert np.allclose(np.sort(points[:, 0]), np.sort(image.shape[1] - points_mirrored[:, 0]), atol=1e-6)


def test_read_image_modes(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1))
    Image.new("RGBA", (4, 3), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 4, 3)
    assert read_image(tmp_path / "turned.jpg", upright=False).shape == (4, 8, 3)


def test_read_image_errors(tmp_path):
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("this is not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("truncated.jpg", "text.jpg", "empty.jpg", "missing.jpg"):
        with pytest.raises(UserError, match=name):
            read_image(tmp_path / name)


def test_bad_boxes():
    image = np.zeros((10, 10, 3), np.uint8)
    for box in (Box(0, 0, 0, 5), Box(0, 0, -3, 5), Box(float("nan"), 0, 5, 5), Box(0, 0, 1e6, 1e6)):
        with pytest.raises(UserError, match="no crop"):
            crop_image(image, box, 8)
    with pytest.raises(ValueError, match="padding"):
        crop_image(image, Box(0, 0, 5, 5), 8, "mirror")


@given(points=point_lists, box=boxes, size=st.floats(1, 1024))
def test_to_crop_and_from_crop_undo_each_other(points, box, size):
    assert np.allclose(from_crop(to_crop(points, box, size), box, size), points, rtol=0, atol=1e-7)
    assert np.allclose(to_crop(from_crop(points, box, size), box, size), points, rtol=0, atol=1e-5)
    corners = np.array([[box.x, box.y], [box.x + box.w, box.y + box.h]])
    assert np.allclose(to_crop(corners, box, size), [[0, 0], [size, size]], atol=1e-6 * size)


@given(points=point_lists, box=boxes, size=st.floats(1, 512), inner=boxes)
def test_a_crop_of_a_crop_is_a_crop(points, box, size, inner):
    outer = Box(*(from_crop(np.array([inner[:2]]), box, size)[0]), inner.w * box.w / size, inner.h * box.h / size)
    assert np.allclose(to_crop(to_crop(points, box, size), inner), to_crop(points, outer), atol=1e-6, rtol=1e-6)


@given(points=point_lists, first=bases)
def test_from_index_and_to_index_undo_each_other(points, first):
    pixels = from_index(points, first)
    assert np.allclose(to_index(pixels, first), points, atol=1e-9) and np.array_equal(pixels[:, 2], points[:, 2])
    assert np.allclose(from_index(np.full((1, 2), first), first), 0.5)
    assert np.allclose(pixels[:, :2] - points[:, :2], 0.5 - first, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    share=st.tuples(st.floats(0.25, 0.75), st.floats(0.25, 0.75)),
    corner=st.tuples(st.floats(-30, 60), st.floats(-30, 60)),
    side=st.tuples(st.floats(40, 160), st.floats(40, 160)),
    size=st.integers(24, 140),
)
def test_a_dot_lands_where_to_crop_says_in_any_box(share, corner, side, size):
    box = Box(*corner, *side)
    point = np.array([box.x + share[0] * box.w, box.y + share[1] * box.h])
    assume(point.min() > 15 and point[0] < 115 and point[1] < 95)  # the whole dot is in the picture
    reach = 3.5 * 2.0 + 2 * max(side) / size  # and in the crop
    assume(min(share[0] * box.w, (1 - share[0]) * box.w, share[1] * box.h, (1 - share[1]) * box.h) > reach)
    crop = crop_image(gaussian_dot(110, 130, point, sigma=2.0), box, size)
    assert np.abs(centroid(crop) - to_crop(point, box, size)).max() < 0.06


def test_a_second_look_is_around_the_points_unless_they_make_no_sense():
    rng = np.random.default_rng(0)
    boxes = [Box(10.0, 20.0, 50.0, 50.0)] * 4
    points = rng.uniform(0.2, 0.8, (4, 68, 2))
    points[1] = 0.5 + 0.1 * (points[1] - 0.5)  # a tenth as large
    points[2] = 0.5 + 5 * (points[2] - 0.5)
    points[3] = 0.5
    found = second_look(points, boxes)
    assert found[0] == pytest.approx(crop_box_from_landmarks(points[0] * 50 + [10, 20]))
    assert found[1:] == boxes[1:]
