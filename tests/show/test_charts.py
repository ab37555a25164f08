"""Charts: they show the numbers they are given, and are closed."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from mlanet_lib.errors import UserError
from mlanet_lib.show import charts
from mlanet_lib.show.charts import COLOURS, INK


def size(figure, kind="png"):
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return len(stream.getvalue())


def test_every_chart_draws_and_is_closed():
    bins = {"bin_0_30": 3.0, "bin_30_60": 4.0, "bin_60_90": 6.0, "balanced_mean": 13 / 3, "image_mean": 3.5}
    curves = {"step": [10, 20, 30], "total": [3.0, 2.0, 1.0], "vertices": [2.0, 1.0, 0.5], "lr": [1, 1, 1]}
    curves["val_nme"] = [9.0, 5.0, 6.0]
    made = [
        charts.yaw_bars({"a": bins, "b": bins}, {"a": {key: (v - 0.1, v + 0.2) for key, v in bins.items()}}),
        charts.cumulative_error({"a": np.array([1.0, 2.0, 30.0])}),
        charts.training_curves(curves),
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


def test_training_curves_mark_the_lowest_validation():
    curves = {"step": [1, 2, 3], "total": [3.0, 2.0, 1.0]}
    figure = charts.training_curves(curves | {"val_nme": [9.0, 5.25, 6.0]})
    assert len(figure.axes) == 2
    assert [text.get_text() for text in figure.axes[1].texts] == ["5.25"]


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


def seeds(*nme, step=(20, 40, 60)):
    """Histories of one variant, a seed each."""
    return [{"step": list(step), "val_nme": list(values)} for values in nme]


def label_rows(axis):
    """Texts and heights, in shares of the axis, of the labels at the lines' ends, from the lowest."""
    return sorted((text.xyann[1], text.get_text()) for text in axis.texts)


def test_validation_curves_are_means_over_seeds_within_their_band_in_the_panels_asked_for():
    curves = {
        "no_fusion": seeds([20, 12, 8], [22, 14, 10]),
        "full": seeds([20, 10, 5], [30, 14, 7]),
        "no_pose": seeds([21, 16, 9]),
    }
    figure = charts.validation_curves(curves, {"network": ["no_fusion"], "empty": [], "losses": ["no_pose"]})
    left, right = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["network", "losses"]
    assert [line.get_label() for line in (*left.lines, *right.lines)] == ["full", "no_fusion", "full", "no_pose"]
    full = left.lines[0]
    assert full.get_color() == INK and left.lines[1].get_color() == COLOURS[0]
    assert full.get_xdata().tolist() == [20, 40, 60] and full.get_ydata().tolist() == [25, 12, 6]
    corners = {tuple(corner) for corner in left.collections[0].get_paths()[0].vertices.tolist()}
    assert {(20, 20), (20, 30), (40, 10), (40, 14), (60, 5), (60, 7)} <= corners
    assert [text for _, text in label_rows(right)] == ["full  6.00", "no_pose  9.00"]


def test_labels_of_lines_that_end_together_do_not_overlap_and_stay_beside_the_axis():
    names = [f"variant_{k}" for k in range(9)]
    curves = {name: seeds([20, 10, 5 + k / 100]) for k, name in enumerate(["full", *names])}
    figure = charts.validation_curves(curves, {"all": names})
    figure.draw_without_rendering()
    (axis,) = figure.axes
    rows = label_rows(axis)
    assert [text for _, text in rows] == [f"{name}  {5 + k / 100:.2f}" for k, name in enumerate(["full", *names])]
    boxes = [Text.get_window_extent(text) for text in sorted(axis.texts, key=lambda text: text.xyann[1])]
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
    assert rows[0][0] >= 0 and rows[-1][0] <= 1
    assert [line.get_linestyle() for line in axis.lines] == ["-"] * 8 + ["--"] * 2, "colours return with dashes"


def test_one_validation_is_a_point_and_seeds_that_do_not_belong_together_are_refused():
    figure = charts.validation_curves({"full": seeds([13.0], [15.0], step=[80])}, {"network": []})
    (axis,) = figure.axes
    assert axis.lines[0].get_ydata().tolist() == [14.0] and axis.lines[0].get_marker() == "o"
    with pytest.raises(UserError, match="seeds of variant full were validated at different steps"):
        charts.validation_curves({"full": [*seeds([9, 8, 7]), *seeds([9, 8, 7], step=[20, 40, 50])]}, {})


def test_loss_shares_are_weighted_fill_the_total_and_lie_over_the_steps_they_are_means_of():
    history = {"step": [10, 30], "lr": [1, 1], "vertices": [20.0, 10.0], "landmarks": [0.5, 0.25]}
    history |= {"photometric": [np.nan, 2.0], "albedo": [7.0, 7.0], "val_nme": [9.0, 8.0]}
    weights = {"landmarks": 4.0, "vertices": 0.3, "photometric": 1.0, "albedo": 0.0, "prior_light": 0.1}
    history["total"] = [4 * 0.5 + 0.3 * 20, 4 * 0.25 + 0.3 * 10 + 2.0]
    axis = charts.loss_shares(history, weights).axes[0]
    found = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axis.containers}
    assert list(found) == ["vertices", "landmarks", "photometric"], "the greatest first, those that do not count never"
    assert found["vertices"] == pytest.approx([75, 50]) and found["photometric"] == pytest.approx([0, 100 / 3])
    assert np.sum(list(found.values()), 0) == pytest.approx([100, 100])
    assert [(bar.get_x(), bar.get_width()) for bar in axis.containers[0]] == [(0, 10), (10, 20)]
    tops = [bar.get_y() + bar.get_height() for bar in axis.containers[0]]
    assert [bar.get_y() for bar in axis.containers[1]] == pytest.approx(tops)
    assert {text for _, text in label_rows(axis)} == {"vertices  50.0 %", "photometric  33.3 %", "landmarks  16.7 %"}
