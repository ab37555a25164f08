"""Metrics of a study as the report reads them, as fixtures."""

import numpy as np
import pytest
from toy_portraits import by_hand

from mlanet_lib.evaluation.likeness_metrics import PROTOCOLS as LIKENESS_PROTOCOLS
from mlanet_lib.evaluation.likeness_metrics import closed_mouths, proportions, rank_1, skin
from mlanet_lib.evaluation.scan_metrics import PROTOCOLS as SCANS
from mlanet_lib.metrics import NOT_DISTINGUISHABLE, PROTOCOLS


def bins(value):
    keys = ("bin_0_30", "bin_30_60", "bin_60_90", "balanced_mean", "image_mean")
    return {key: value + k for k, key in enumerate(keys)} | {"images": [10, 11, 12, 33]}


def difference(value, low, high, verdict):
    return {"difference": value, "low": low, "high": high, "verdict": verdict, "images": 33}


def make_aflw():
    pose = {"pitch": 3.0, "yaw": 4.0, "roll": 2.0, "mean": 3.0, "geodesic": 5.0, "images": 33}
    baseline = {
        "sparse_nme": bins(20.0),
        "pose_mae": pose | {"mean": 30.0},
        "difference": {"sparse_nme": difference(-15.0, -16.0, -14.0, "lower")},
        "uses_the_truth": False,
    }
    oracle = baseline | {"sparse_nme": bins(3.0), "uses_the_truth": True}
    return {
        "sparse_nme": bins(5.0),
        "pose_mae": pose,
        "intervals": {"balanced_mean": [7.5, 8.75], "bin_0_30": [4.5, 5.5], "pose_mae_mean": [2.5, 3.5]},
        "baselines": {"constant": baseline, "oracle-pose mean shape": oracle},
        "protocol": {name: PROTOCOLS[name] for name in ("sparse_nme", "pose_mae")},
        "by_occlusion": {"free": bins(4.0), "occluded": bins(6.0)},
        "vertex_error": {"mean_mm": 1.5, "mean_face_mm": 2.5, "protocol": PROTOCOLS["vertex_error"]},
        "box": "square on the larger side",
        "undetected": 0,
        "weights": "best.safetensors",
        "images": 33,
        "folder": "aflw2000_synthetic",
    }


def make_florence():
    conditions = {"frontal": {"mean_mm": 1.25, "sd_mm": 0.5, "pictures": 8}}
    conditions["all"] = conditions["frontal"]
    return {
        "conditions": conditions,
        "baselines": {"mean face": {"conditions": {k: v | {"mean_mm": 1.75} for k, v in conditions.items()}}},
        "difference": {"over_subjects": difference(-0.5, -0.75, -0.25, "lower")},
        "protocol": "synthetic stand-in in Florence's layout, not Florence; " + SCANS["florence_deng"],
        "subjects": 4,
        "pictures": 8,
    }


def make_ablation():
    shared = {"seed_sd": 0.25, "bins": bins(9.0), "images": 33, "seeds": 3, "per_seed": {}}
    shared |= {"parameters": 4_500_000, "gmacs": 0.125, "images_per_second": 200.0}
    return [
        {"name": "full", "balanced_mean": 9.5} | shared,
        {"name": "no_attention", "balanced_mean": 9.75} | shared | difference(0.25, -0.1, 0.6, NOT_DISTINGUISHABLE),
    ]


@pytest.fixture
def likeness():
    """Thirty people whose faces are drawn half-way between theirs and the mean one."""
    rng = np.random.default_rng(0)
    people = rng.uniform(0, 100, (68, 2)) + rng.normal(0, 3, (30, 68, 2))
    skins = rng.uniform(0.3, 0.9, (30, 3))
    mean = people.mean(0, keepdims=True).repeat(30, 0)
    rank = rank_1(1 - np.eye(30))
    return {
        "proportions": proportions(by_hand(people), (people + mean) / 2, mean),
        "closed_mouths": closed_mouths(by_hand(people), mean),
        "skin": skin(skins, skins, np.array(["all"] * 30)),
        "identity": {"sd": rank, "cosine": rank},
        "recognisable": {"run": False, "why": "not run: needs the extra"},
        "baselines": {"mean face": {"proportions": proportions(by_hand(people), mean)}},
        "people": 30,
        "undetected": 0,
        "points": "iBUG's",
        "crop": "stored",
        "protocol": LIKENESS_PROTOCOLS,
        "weights": "best.safetensors",
        "folder": "portraits",
    }


aflw, florence, ablation = map(pytest.fixture, (make_aflw, make_florence, make_ablation))
