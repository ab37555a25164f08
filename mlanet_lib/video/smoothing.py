"""A clip's numbers over time: the one-euro filter, and one identity out of many frames.

The one-euro filter (Casiez, Roussel, Vogel: 1 Euro Filter, CHI 2012) is a low pass whose cutoff frequency rises with
the speed, so that a still face does not tremble and a moving one does not trail. With T the time since the last frame:

    x_i' = a x_i + (1 - a) x_{i-1}',    a = 1 / (1 + 1 / (2 pi f T)),    f = f_min + beta |v_i'|

where v_i' is the same low pass, at 1 Hz, of v_i = (x_i - x_{i-1}') / T. For a whole clip, the mean of a forward and a
backward run has no delay, since one is late and the other early (`both_ways`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlanet_lib.geometry.camera import nearest_rotations

SPEED_CUTOFF = 1.0
"""Hz: the low pass of the speed, the paper's own value."""


class OneEuro(NamedTuple):
    """The filter's two numbers. min_cutoff: Hz, what a still face is smoothed with; beta: Hz for |v'| of one unit/s."""

    min_cutoff: float
    beta: float


Filter = Callable[..., np.ndarray]
"""`one_euro` or `both_ways`."""


def one_euro(times: np.ndarray, values: np.ndarray, euro: OneEuro, joint: bool = False) -> np.ndarray:
    """The filtered values (N, C), causal: row i knows rows 0 to i only.

    times: (N,) seconds, rising; values: (N, C). joint: the channels share one cutoff, by the length of their common
    speed, as the axes of a position must (else the result would depend on how the axes lie).
    """
    values = np.asarray(values, np.float64)
    filtered, speed = values.copy(), np.zeros(values.shape[1])
    for i in range(1, len(values)):
        step = times[i] - times[i - 1]
        speed += _share(SPEED_CUTOFF, step) * ((values[i] - filtered[i - 1]) / step - speed)
        size = float(np.linalg.norm(speed)) if joint else np.abs(speed)
        share = _share(euro.min_cutoff + euro.beta * size, step)
        filtered[i] = filtered[i - 1] + share * (values[i] - filtered[i - 1])
    return filtered


def _share(cutoff: float | np.ndarray, step: float) -> float | np.ndarray:
    """The new value's weight in a first-order low pass. cutoff: Hz; step: seconds."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


def both_ways(times: np.ndarray, values: np.ndarray, euro: OneEuro, joint: bool = False) -> np.ndarray:
    """The mean of the filter run forwards and run backwards, arguments as `one_euro`'s: no lag, for recorded clips."""
    backwards = one_euro(-np.asarray(times)[::-1], np.asarray(values)[::-1], euro, joint)[::-1]
    return (one_euro(times, values, euro, joint) + backwards) / 2


def smooth_rotations(times: np.ndarray, rotations: np.ndarray, euro: OneEuro, smooth: Filter = both_ways) -> np.ndarray:
    """Rotation matrices (N, 3, 3) smoothed: their nine numbers together, then the nearest rotation.

    The length of the nine numbers' change, over the root of 2, is the angle in radians where that is small: beta is Hz
    for a radian a second. smooth: `both_ways`, or `one_euro`.
    """
    nine = np.asarray(rotations, np.float64).reshape(-1, 9) / np.sqrt(2)
    return nearest_rotations(smooth(times, nine, euro, joint=True).reshape(-1, 3, 3))


def robust_mean(values: np.ndarray) -> np.ndarray:
    """The mean (C,) of rows (N, C) in which frames that are far off count less: Huber's, by reweighting.

    A row counts fully up to the median distance from the mean, and beyond in inverse proportion to its distance (not
    each coefficient alone: a frame is wrong as a whole).
    """
    values = np.asarray(values, np.float64)
    mean = np.median(values, axis=0)
    for _ in range(50):
        distance = np.linalg.norm(values - mean, axis=1)
        usual = np.median(distance)
        mean = np.average(values, axis=0, weights=usual / np.maximum(distance, usual) if usual > 0 else distance == 0)
    return mean
