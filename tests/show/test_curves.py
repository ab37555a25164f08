"""Curves of trainings: they show the histories they are given."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from mlanet_lib.errors import UserError
from mlanet_lib.show import curves
from mlanet_lib.show.charts import COLOURS, INK


def test_training_curves_mark_the_lowest_validation():
    history = {"step": [1, 2, 3], "total": [3.0, 2.0, 1.0]}
    figure = curves.training_curves(history | {"val_nme": [9.0, 5.25, 6.0]})
    assert len(figure.axes) == 2
    assert [text.get_text() for text in figure.axes[1].texts] == ["5.25"]


def seeds(*nme, step=(20, 40, 60)):
    """Histories of one variant, a seed each."""
    return [{"step": list(step), "val_nme": list(values)} for values in nme]


def label_rows(axis):
    """Texts and heights, in shares of the axis, of the labels at the lines' ends, from the lowest."""
    return sorted((text.xyann[1], text.get_text()) for text in axis.texts)


def test_validation_curves_are_means_over_seeds_within_their_band_in_the_panels_asked_for():
    histories = {
        "no_fusion": seeds([20, 12, 8], [22, 14, 10]),
        "full": seeds([20, 10, 5], [30, 14, 7]),
        "no_pose": seeds([21, 16, 9]),
    }
    figure = curves.validation_curves(histories, {"network": ["no_fusion"], "empty": [], "losses": ["no_pose"]})
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
    histories = {name: seeds([20, 10, 5 + k / 100]) for k, name in enumerate(["full", *names])}
    figure = curves.validation_curves(histories, {"all": names})
    figure.draw_without_rendering()
    (axis,) = figure.axes
    rows = label_rows(axis)
    assert [text for _, text in rows] == [f"{name}  {5 + k / 100:.2f}" for k, name in enumerate(["full", *names])]
    boxes = [Text.get_window_extent(text) for text in sorted(axis.texts, key=lambda text: text.xyann[1])]
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
    assert rows[0][0] >= 0 and rows[-1][0] <= 1
    assert [line.get_linestyle() for line in axis.lines] == ["-"] * 8 + ["--"] * 2, "colours return with dashes"


def test_one_validation_is_a_point_and_seeds_that_do_not_belong_together_are_refused():
    figure = curves.validation_curves({"full": seeds([13.0], [15.0], step=[80])}, {"network": []})
    (axis,) = figure.axes
    assert axis.lines[0].get_ydata().tolist() == [14.0] and axis.lines[0].get_marker() == "o"
    with pytest.raises(UserError, match="seeds of variant full were validated at different steps"):
        curves.validation_curves({"full": [*seeds([9, 8, 7]), *seeds([9, 8, 7], step=[20, 40, 50])]}, {})


def test_loss_shares_are_weighted_fill_the_total_and_lie_over_the_steps_they_are_means_of():
    history = {"step": [10, 30], "lr": [1, 1], "vertices": [20.0, 10.0], "landmarks": [0.5, 0.25]}
    history |= {"photometric": [np.nan, 2.0], "albedo": [7.0, 7.0], "val_nme": [9.0, 8.0]}
    weights = {"landmarks": 4.0, "vertices": 0.3, "photometric": 1.0, "albedo": 0.0, "prior_light": 0.1}
    history["total"] = [4 * 0.5 + 0.3 * 20, 4 * 0.25 + 0.3 * 10 + 2.0]
    axis = curves.loss_shares(history, weights).axes[0]
    found = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axis.containers}
    assert list(found) == ["vertices", "landmarks", "photometric"], "the greatest first, those that do not count never"
    assert found["vertices"] == pytest.approx([75, 50]) and found["photometric"] == pytest.approx([0, 100 / 3])
    assert np.sum(list(found.values()), 0) == pytest.approx([100, 100])
    assert [(bar.get_x(), bar.get_width()) for bar in axis.containers[0]] == [(0, 10), (10, 20)]
    tops = [bar.get_y() + bar.get_height() for bar in axis.containers[0]]
    assert [bar.get_y() for bar in axis.containers[1]] == pytest.approx(tops)
    assert {text for _, text in label_rows(axis)} == {"vertices  50.0 %", "photometric  33.3 %", "landmarks  16.7 %"}
