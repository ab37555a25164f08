"""The table of semi-landmarks, read: a left half of the head, joined with its mirror image."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlanet_lib.face_models.chart import MIRROR, ChartInterpolator

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Semilandmarks:
    """Left half: `chart (N,3)` unit vectors, `mean (N,3)` mm, `labels` (name -> row), `expressions` (name -> (N,3)
    displacement in mm at full activation). The splines go through the whole head's points."""

    chart: np.ndarray
    mean: np.ndarray
    labels: dict[str, int]
    expressions: dict[str, np.ndarray]
    spline: ChartInterpolator
    mean_spline: ChartInterpolator

    def surface(self, chart: np.ndarray) -> np.ndarray:
        """(M,3) unit vectors anywhere on the head -> (M,3,1+E) mm: the mean shape, then the expressions in order."""
        return self.spline(chart).reshape(len(chart), 3, -1)

    def mean_surface(self, chart: np.ndarray) -> np.ndarray:
        """(M,3) unit vectors -> (M,3) mm, the mean shape alone."""
        return self.mean_spline(chart)

    def place(self, label: str) -> np.ndarray:
        """(3,) chart place of a named point of the left half."""
        return self.chart[self.labels[label]]

    def chain(self, kind: str) -> np.ndarray:
        """(K,) rows of the points `kind0`, `kind1`, ... in this order."""
        names = [name for name in self.labels if name.startswith(kind) and name[len(kind) :].isdigit()]
        return np.array([self.labels[name] for name in sorted(names, key=lambda name: int(name[len(kind) :]))])


def read_table(name: str) -> list[list[str]]:
    """Rows of a CSV beside this file, header first, without the comment lines of its licence."""
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))


def other_side(expression: str) -> str:
    """The expression's name on the other side of the face: Left <-> Right, as in eyeBlinkLeft and jawRight."""
    if expression.endswith("Left"):
        return expression[:-4] + "Right"
    return expression[:-5] + "Left" if expression.endswith("Right") else expression


def load() -> Semilandmarks:
    """Read `semilandmarks.csv` and `expressions.csv` and fit the spline through them."""
    rows = read_table("semilandmarks.csv")[1:]
    numbers = np.array([[float(value) for value in row[1:]] for row in rows])
    chart = numbers[:, :3] / np.linalg.norm(numbers[:, :3], axis=1, keepdims=True)
    mean = numbers[:, 3:]
    labels = {label: number for number, row in enumerate(rows) for label in row[0].split()}
    expressions: dict[str, np.ndarray] = {}
    for name, row, *displacement in read_table("expressions.csv")[1:]:
        field = expressions.setdefault(name, np.zeros_like(mean))
        field[int(row)] = [float(value) for value in displacement]
        expressions.setdefault(other_side(name), np.zeros_like(mean))
    stack = np.stack([mean, *expressions.values()], -1)
    opposite = np.stack([mean, *(expressions[other_side(name)] for name in expressions)], -1) * MIRROR[:, None]
    side = chart[:, 0] > 0
    stack[~side] = (stack[~side] + opposite[~side]) / 2
    points = np.concatenate([chart, chart[side] * MIRROR])
    values = np.concatenate([stack, opposite[side]])
    splines = (ChartInterpolator(points, part) for part in (values.reshape(len(points), -1), values[:, :, 0]))
    return Semilandmarks(chart, mean, labels, expressions, *splines)
