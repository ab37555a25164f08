"""The head's texture map: borders, islands, and the band that is laid around the face's square."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mlanet_lib.face_sources.ict import unwrapping
from mlanet_lib.geometry.mesh import borders

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)


def tube(*counts: int) -> np.ndarray:
    """Triangles between rings of so many vertices, each ring as many as the one before it or half of them, outwards
    and counter-clockwise where they are circles; its own mirror image through the rings' first vertices."""
    faces, first = [], 0
    for count, following in pairwise(counts):
        near, far = first + np.arange(count), first + count + np.arange(following)
        step, half = count // following, np.arange(following) < following / 2
        a, b, c, d = near[::step], np.roll(near[::step], -1), far, np.roll(far, -1)
        middle = np.roll(near, -1)[::2] if step == 2 else np.where(half, b, a)
        for corners in ((c, d, middle), (c, middle, a), (d, b, middle)):
            triangle = np.stack(corners, 1)
            faces.append(triangle[(triangle[:, 1:] != triangle[:, :1]).all(1) & (triangle[:, 1] != triangle[:, 2])])
        first += count
    return np.concatenate(faces)


def fan(count: int) -> np.ndarray:
    """Triangles of a disk: its middle, the vertex 0, and `count` around it."""
    around = 1 + np.arange(count)
    return np.stack([np.zeros(count, int), around, np.roll(around, -1)], 1)


def cowl(rings: int = 9, count: int = 32, centre=(0.5, 0.45), radius=0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A made-up head without its face: points (V, 3) mm from the face's border in front to the end of the neck below,
    triangles, and a map in which only that border, a circle, has a place."""
    counts = [count, *[count // 2] * (rings - 1)]
    points, uv = [], np.zeros((sum(counts), 2))
    for number, around in zip(np.linspace(0, 1, rings), counts, strict=True):
        angle = np.pi / 2 + 2 * np.pi * np.arange(around) / around  # from the top over the side of smaller x
        face = np.stack([60 * np.cos(angle), 70 * np.sin(angle), np.full(around, 60.0)], 1)
        neck = np.stack([45 * np.cos(angle), np.full(around, -130.0), -20 - 45 * np.sin(angle)], 1)
        bulge = np.sin(np.pi * number) * (1 + np.sin(angle))[:, None] * [0, 30, -60]
        points.append((1 - number) * face + number * neck + bulge)
        if number == 0:
            uv[:around] = centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate(points), tube(*counts), uv


def test_borders_of_a_disk_a_cylinder_and_a_closed_surface():
    (disk,) = borders(fan(5))
    assert disk.tolist() == [1, 2, 3, 4, 5]
    low, high = sorted(borders(tube(6, 6, 6)), key=min)
    assert set(low) == set(range(6)) and set(high) == set(range(12, 18))
    assert set((np.roll(low, -1) - low) % 6) == {5} and set((np.roll(high, -1) - high) % 6) == {1}
    assert borders(np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])) == []


def test_the_area_is_negative_where_a_triangle_is_folded():
    faces = np.array([[0, 1, 2], [0, 3, 2], [0, 1, 1]])
    assert unwrapping.areas(SQUARE, faces).tolist() == [0.5, -0.5, 0]
    assert unwrapping.areas(torch.from_numpy(SQUARE), torch.from_numpy(faces)).tolist() == [0.5, -0.5, 0]


def test_an_island_fills_its_rectangle_but_for_a_margin():
    points = np.random.default_rng(0).normal(size=(50, 2)) * [3, 40] + 7
    placed = unwrapping.island(points, (0.2, 0.9), (0.3, 0.1))
    assert np.allclose(placed.min(0), np.array([0.2, 0.9]) + unwrapping.MARGIN)
    assert np.allclose(placed.max(0), np.array([0.5, 1.0]) - unwrapping.MARGIN)
    assert (np.argsort(placed, 0) == np.argsort(points, 0)).all()
    flat = unwrapping.island(points * [1, 0], (0.2, 0.9), (0.3, 0.1))
    assert np.isfinite(flat).all() and flat[:, 1].min() >= 0.9


@pytest.mark.parametrize(
    ("height", "centre", "radius"),
    [(0.93, (0.5, 0.45), 0.3), (1.0, (0.5, 0.45), 0.3), (0.93, (0.35, 0.6), 0.25)],  # the last one has to be unfolded
)
def test_a_band_lies_around_the_face_without_a_fold(height, centre, radius):
    points, faces, uv = cowl(centre=centre, radius=radius)
    placed = unwrapping.around(points, faces, uv, height)
    assert np.array_equal(placed[:32], uv[:32])  # the face stays where it was
    areas = unwrapping.areas(placed, faces)
    assert areas.min() > 0  # and together what is left, but for the corners that no vertex lies in
    assert areas.sum() == pytest.approx(height - unwrapping.areas(uv[:32], fan(31)[:-1]).sum(), rel=0.05)
    assert np.allclose(placed.max(0), [1, height]) and np.allclose(placed.min(0), 0)
    rim = placed[borders(faces)[1]]
    assert np.abs(rim * (rim - [1, height])).prod(1).max() < 1e-12  # all of it on the rectangle's sides


def test_no_triangle_of_a_band_is_left_with_hardly_any_area():
    points, faces, uv = cowl(radius=0.44)
    placed = unwrapping.around(points, faces, uv, 0.93)
    a, b, c = points[faces].transpose(1, 0, 2)
    share = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    shrunk = unwrapping.areas(placed, faces) / unwrapping.areas(placed, faces).sum() / (share / share.sum())
    assert shrunk.min() > 0.24


def test_both_sides_of_the_head_are_mapped_alike():
    points, faces, uv = cowl()
    placed = unwrapping.around(points, faces, uv, 0.93)
    distance = np.linalg.norm(points[:, None] - points[None] * [-1, 1, 1], axis=2)
    assert distance.min(1).max() < 1e-9
    assert np.abs(placed[distance.argmin(1)] * [-1, 1] + [1, 0] - placed).max() < 0.02


def test_what_is_no_band_is_refused():
    points = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(ValueError, match="two borders, this surface 1"):
        unwrapping.around(points, fan(5), points[:, :2], 0.9)


def test_folds_that_cannot_be_opened_are_counted():
    points, faces, uv = cowl(rings=3)  # the face lies outside of the rectangle
    with pytest.raises(ValueError, match=r"\d+ triangles of the texture map stay folded"):
        unwrapping.around(points, faces, uv + np.array([2, 0]), 0.93)
