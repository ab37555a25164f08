"""The ablation: plans, tables of scores, and the judgement of differences, with known answers."""

import numpy as np
import pytest

from mlanet_lib import limits
from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.data.synthetic.stand_ins import write_aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.ablation import Scores, balanced, judge, resampled_balanced, score
from mlanet_lib.metrics import NOT_DISTINGUISHABLE
from mlanet_lib.network import MLANet, NetworkConfig

YAW = np.array([5.0, -10, 20, 25, 40, -50, 70, 85, -65])
IMAGES = [f"image{k}" for k in range(len(YAW))]


def scores(offset=0.0, noise=0.0, seeds=(0, 1, 2), rng=None):
    """Scores around 4 %, shared difficulty per image, `offset` higher, with `noise` of a seed's own."""
    difficulty = np.random.default_rng(0).normal(4, 1, len(YAW))[:, None]
    own = (rng or np.random.default_rng(1)).normal(0, noise, (len(YAW), len(seeds))) if noise else 0
    return Scores(IMAGES, YAW, list(seeds), difficulty + offset + own + np.zeros((1, len(seeds))))


def test_a_batch_that_cannot_fit_is_refused_by_its_key(toy_model, tmp_path, monkeypatch):
    config = SyntheticConfig(test=3, scans=0, photo_size=90)
    write_aflw2000(config, toy_model, tmp_path, seed=0)
    network = MLANet(toy_model, NetworkConfig(backbone="lcnet_050", image_size=32, width=8, pool=1)).eval()
    monkeypatch.setattr(limits, "memory", lambda: 1e5)
    with pytest.raises(UserError, match=r"^benchmark.batch_size 3 at network.image_size 32 needs about"):
        score(tmp_path, toy_model, {0: network}, batch_size=10**9)
    monkeypatch.undo()
    assert score(tmp_path, toy_model, {0: network}, batch_size=10**9).nme.shape == (3, 1)


def test_balanced_mean_weighs_the_bins_alike():
    bins = np.array([0, 0, 0, 2])
    nme = np.array([[1.0, 2], [1, 2], [1, 2], [5, 8]])
    np.testing.assert_allclose(balanced(nme, bins), [3, 5])


def test_a_constant_difference_is_found_exactly_because_images_and_seeds_are_paired():
    full, worse, better, same = judge(
        {"full": scores(noise=0.5), "worse": scores(0.2, 0.5), "better": scores(-0.3, 0.5), "same": scores(0, 0.5)}
    )
    assert "difference" not in full and full["images"] == 9 and full["seeds"] == 3
    for row, offset, verdict in ((worse, 0.2, "worse"), (better, -0.3, "better"), (same, 0.0, NOT_DISTINGUISHABLE)):
        assert row["difference"] == pytest.approx(offset)
        assert (row["low"], row["high"]) == pytest.approx((offset, offset))
        assert row["verdict"] == verdict
    assert full["balanced_mean"] == pytest.approx(np.mean(list(full["per_seed"].values())))
    assert full["balanced_mean"] == pytest.approx(np.mean(list(full["bins"].values())))


def test_seeds_that_disagree_are_not_distinguishable_however_many_images_there_are():
    """One seed better by 1 on every image, one worse, one alike: images alone would make that certain."""
    full = scores()
    other = Scores(full.images, full.yaw, full.seeds, full.nme + np.array([[-1.0, 1.0, 0.1]]))
    row = judge({"full": full, "other": other})[1]
    assert row["low"] < 0 < row["high"]
    assert row["verdict"] == NOT_DISTINGUISHABLE
    assert row["difference"] == pytest.approx(0.1 / 3)


def test_intervals_widen_with_the_number_of_comparisons():
    rng = np.random.default_rng(3)
    full, one = scores(noise=0.5, rng=rng), scores(0.1, 0.5, rng=rng)
    alone = judge({"full": full, "one": one})[1]
    among = judge({"full": full, "one": one, **{f"more{k}": scores(0.1, 0.5, rng=rng) for k in range(9)}})[1]
    assert among["low"] < alone["low"] and among["high"] > alone["high"]


def test_resampled_means_have_the_spread_that_theory_says():
    """Images: variance of a mean of n in each of two bins; one seed, so that seeds add nothing."""
    rng = np.random.default_rng(5)
    values, bins = rng.normal(0, 1, (400, 1)), np.repeat([0, 1], 200)
    drawn = resampled_balanced(values, bins, samples=3000)
    expected = np.sqrt(np.mean([values[bins == k].var() / 200 for k in (0, 1)]) / 2)
    assert drawn.std() == pytest.approx(expected, rel=0.06)
    assert drawn.mean() == pytest.approx(balanced(values, bins)[0], abs=4 * expected / np.sqrt(3000))
    np.testing.assert_array_equal(drawn, resampled_balanced(values, bins, samples=3000))
