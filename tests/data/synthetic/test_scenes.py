import numpy as np
import pytest
import torch

from mlanet_lib.data.synthetic import scenes
from mlanet_lib.geometry.lighting import shade

LANDMARKS = np.stack([np.linspace(20, 80, 68), 50 + 25 * np.sin(np.linspace(0, 9, 68))], -1)


@pytest.mark.parametrize("size", [48, 96])
def test_background_is_a_function_of_its_seed(size):
    one, same, other = (scenes.background(np.random.default_rng(seed), size) for seed in (0, 0, 1))
    assert one.shape == (size, size, 3) and one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert np.abs(one.astype(int) - other).mean() > 5


def test_noise_uses_the_whole_range():
    field = scenes.noise(np.random.default_rng(0), 64, octaves=4)
    assert 0 <= field.min() < 0.25 and 0.75 < field.max() <= 1
    assert field.std() > 0.1


def test_occluders_stay_near_the_face_and_vary():
    rng = np.random.default_rng(0)
    shares = [scenes.occluder(rng, 100, LANDMARKS)[1].mean() for _ in range(60)]
    assert 0 < np.median(shares) < 0.5
    assert np.std(shares) > 0.02


def test_hair_lies_around_the_box():
    picture, where = scenes.hair(np.random.default_rng(0), 100, np.array([30.0, 30.0, 70.0, 80.0]))
    assert picture.shape == (100, 100, 3)
    assert where[45:60, 45:55].min() > 0.9 and where[0].max() < 0.1


def test_light_is_plausible_on_a_white_ball():
    normals = torch.nn.functional.normalize(torch.randn(1, 500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    lighting = scenes.light(np.random.default_rng(0), 200)
    assert lighting.shape == (200, 9, 3)
    shown = shade(torch.ones(200, 500, 3), normals.expand(200, -1, -1), lighting)
    front = shown[:, normals[0, :, 2] > 0.5].mean((1, 2))
    assert front.min() > 0.3 and front.max() < 2.2
    assert front.std() > 0.1


def test_sensor_keeps_the_picture_recognisable():
    picture = scenes.background(np.random.default_rng(3), 64)
    taken = scenes.sensor(np.random.default_rng(0), picture)
    assert taken.dtype == np.uint8 and not np.array_equal(taken, picture)
    assert np.corrcoef(taken.ravel(), picture.ravel())[0, 1] > 0.8
