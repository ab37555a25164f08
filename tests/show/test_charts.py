"""Charts: they show the numbers they are given, and are closed."""

import io

import matplotlib.pyplot as plt
import numpy as np

from mlanet_lib.show import charts, curves


def size(figure, kind="png"):
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return len(stream.getvalue())


def test_every_chart_draws_and_is_closed():
    bins = {"bin_0_30": 3.0, "bin_30_60": 4.0, "bin_60_90": 6.0, "balanced_mean": 13 / 3, "image_mean": 3.5}
    history = {"step": [10, 20, 30], "total": [3.0, 2.0, 1.0], "vertices": [2.0, 1.0, 0.5], "lr": [1, 1, 1]}
    history["val_nme"] = [9.0, 5.0, 6.0]
    made = [
        curves.training_curves(history),
        charts.yaw_bars({"a": bins, "b": bins}, {"a": {key: (v - 0.1, v + 0.2) for key, v in bins.items()}}),
        charts.cumulative_error({"a": np.array([1.0, 2.0, 30.0])}),
        charts.forest([{"name": "x", "difference": 1.0, "low": 0.5, "high": 1.5}]),
        charts.level_weights({"identity": [0.25] * 4, "pose": [0.1, 0.2, 0.3, 0.4]}, [1, 2, 3, 4]),
    ]
    for figure in made:
        assert size(figure) > 3000 and size(figure, "svg") < 300_000
    assert plt.get_fignums() == []


def test_yaw_bars_have_the_heights_and_whiskers_they_are_given():
    values = {"bin_0_30": 3.0, "bin_30_60": 4.0, "bin_60_90": 6.5, "balanced_mean": 4.5}
    axis = charts.yaw_bars({"a": values}, {"a": {"bin_0_30": (2.5, 3.75)}}).axes[0]
    assert [bar.get_height() for bar in axis.patches[:4]] == [3.0, 4.0, 6.5, 4.5]
    segment = axis.collections[0].get_segments()[0]
    assert segment[:, 1].tolist() == [2.5, 3.75]
    assert {"3.00", "6.50"} <= {text.get_text() for text in axis.texts}


def test_forest_says_not_distinguishable_where_the_interval_holds_zero():
    rows = [
        {"name": "worse", "difference": 1.0, "low": 0.5, "high": 1.5},
        {"name": "unclear", "difference": 0.1, "low": -0.5, "high": 0.7},
    ]
    texts = [text.get_text() for text in charts.forest(rows).axes[0].texts]
    assert texts == ["+1.00 [+0.50, +1.50]", "not distinguishable"]


def test_cumulative_error_counts_images():
    axis = charts.cumulative_error({"a": np.array([1.0, 2.0, 3.0, 20.0])}, limit=10).axes[0]
    x, y = axis.lines[0].get_data()
    assert y[np.searchsorted(x, 2.5) - 1] == 50
    assert axis.lines[0].get_label() == "a: 75 % within 10"


def test_pareto_joins_what_no_other_beats():
    rows = [
        {"name": name, "balanced_mean": error, "seed_sd": 0.1, "images_per_second": speed}
        for name, error, speed in (("full", 3.0, 100), ("light", 4.0, 500), ("bad", 5.0, 200), ("slow", 3.5, 50))
    ]
    axis = charts.pareto(rows).axes[0]
    x, y = axis.lines[0].get_data()
    assert x.tolist() == [2.0, 10.0] and y.tolist() == [4.0, 3.0]
    assert {text.get_text() for text in axis.texts} == {"full", "light", "bad", "slow"}


def test_landmark_errors_name_the_largest():
    errors = np.arange(68.0)
    axis = charts.landmark_errors(np.random.default_rng(0).normal(size=(68, 2)), errors).axes[0]
    assert {text.get_text() for text in axis.texts} == {"65.0", "66.0", "67.0"}
    assert axis.collections[0].get_array().tolist() == errors.tolist()
