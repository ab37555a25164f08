"""The 68 points: which label sets define them, which are twins, and points spread evenly over a surface."""

import numpy as np

N_LANDMARKS = 68
JAW = 17
"""The first so many of the 68 points are the jaw's."""
LABEL_SETS = ("3ddfa", "ibug")
"""Definitions of the 68 points, by who labels photos so: 3DDFA's (300W-LP, AFLW2000-3D: the jaw stays on the surface of
the head) and iBUG's (300-W: placed by hand in the picture; the jaw follows the outline)."""


def landmark_twins() -> np.ndarray:
    """(68,) for each Multi-PIE point the one on the other side of the face."""
    twins = np.arange(68)
    for first, last in ((0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67)):
        twins[first : last + 1] = np.arange(last, first - 1, -1)
    for right, left in {36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46}.items():
        twins[right], twins[left] = left, right
    return twins


def farthest_points(points: np.ndarray, n: int) -> np.ndarray:
    """Greedy farthest-point order (Gonzalez 1985), starting at the point farthest along z (the nose)."""
    columns = np.ascontiguousarray(points.T)
    order = np.empty(n, np.int64)
    distance = np.full(len(points), np.inf)
    chosen = int(points[:, 2].argmax())
    for i in range(n):
        order[i] = chosen
        distance = np.minimum(distance, ((columns - columns[:, chosen, None]) ** 2).sum(0))
        chosen = int(distance.argmax())
    return order
