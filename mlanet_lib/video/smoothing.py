"""A clip's numbers over time: the one-euro filter, one identity out of many frames, and the measures jitter and lag.

The one-euro filter (Casiez, Roussel, Vogel: 1 Euro Filter, CHI 2012) is a low pass whose cutoff frequency rises with
the speed, so that a still face does not tremble and a moving one does not trail. With T the time since the last frame:

    x_i' = a x_i + (1 - a) x_{i-1}',    a = 1 / (1 + 1 / (2 pi f T)),    f = f_min + beta |v_i'|

where v_i' is the same low pass, at 1 Hz, of v_i = (x_i - x_{i-1}') / T. Whoever has the whole clip runs it forwards and
backwards and takes the mean: what one direction is late, the other is early (`both_ways`).
"""

from typing import NamedTuple

import numpy as np

from mlanet_lib.geometry.alignment import nearest_rotations

SPEED_CUTOFF = 1.0
"""Hz: the low pass of the speed, the paper's own value."""


class OneEuro(NamedTuple):
    """The filter's two numbers. min_cutoff: Hz, what a still face is smoothed with; beta: Hz for |v'| of one unit/s."""

    min_cutoff: float
    beta: float


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
        size = np.linalg.norm(speed) if joint else np.abs(speed)
        share = _share(euro.min_cutoff + euro.beta * size, step)
        filtered[i] = filtered[i - 1] + share * (values[i] - filtered[i - 1])
    return filtered


def _share(cutoff, step: float):
    """The new value's weight in a first-order low pass. cutoff: Hz; step: seconds."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


def both_ways(times: np.ndarray, values: np.ndarray, euro: OneEuro, joint: bool = False) -> np.ndarray:
    """The mean of the filter run forwards and run backwards, arguments as `one_euro`'s: no lag, for recorded clips."""
    backwards = one_euro(-np.asarray(times)[::-1], np.asarray(values)[::-1], euro, joint)[::-1]
    return (one_euro(times, values, euro, joint) + backwards) / 2


def smooth_rotations(times: np.ndarray, rotations: np.ndarray, euro: OneEuro, smooth=both_ways) -> np.ndarray:
    """Rotation matrices (N, 3, 3) smoothed: their nine numbers together, then the nearest rotation.

    The length of the nine numbers' change, over the root of 2, is the angle in radians where that is small: beta is Hz
    for a radian a second. smooth: `both_ways`, or `one_euro`.
    """
    nine = np.asarray(rotations, np.float64).reshape(-1, 9) / np.sqrt(2)
    return nearest_rotations(smooth(times, nine, euro, joint=True).reshape(-1, 3, 3))


def robust_mean(values: np.ndarray, rounds: int = 50) -> np.ndarray:
    """The mean (C,) of rows (N, C) in which frames that are far off count less: Huber's, by reweighting.

    A row counts fully up to the median distance from the mean, and beyond in inverse proportion to its distance (not
    each coefficient alone: a frame is wrong as a whole).
    """
    values = np.asarray(values, np.float64)
    mean = np.median(values, axis=0)
    for _ in range(rounds):
        distance = np.linalg.norm(values - mean, axis=1)
        usual = np.median(distance)
        mean = np.average(values, axis=0, weights=usual / np.maximum(distance, usual) if usual > 0 else distance == 0)
    return mean


def jitter(values: np.ndarray) -> np.ndarray:
    """How much each channel of (N, C), N at least 3, trembles from frame to frame, in the channel's unit: (C,).

    The root mean square second difference over the root of 6: the standard deviation of independent noise of each
    frame, to which steady motion adds nothing and smooth motion next to nothing.
    """
    second = np.diff(np.asarray(values, np.float64), 2, axis=0)
    return np.sqrt((second**2).mean(0) / 6)


def lag(values: np.ndarray, truth: np.ndarray, fps: float, longest: float = 0.4) -> np.ndarray:
    """How late each channel of (N, C) follows the truth (N, C), in seconds: (C,), negative where it is early.

    The shift within +-`longest` seconds at which the two correlate best (Pearson's r of the rows that overlap), a
    parabola through the best shift and its neighbours giving fractions of a frame. NaN for a channel that is constant.
    """
    values, truth = np.asarray(values, np.float64), np.asarray(truth, np.float64)
    reach = min(round(longest * fps), len(values) - 3)
    shifts = np.arange(-reach, reach + 1)
    table = np.stack([_correlation(values[max(0, s) :], truth[max(0, -s) :]) for s in shifts])
    result = np.full(values.shape[1], np.nan)
    for channel in np.flatnonzero(np.isfinite(table).all(0)):
        row = table[:, channel]
        best = int(np.clip(row.argmax(), 1, len(row) - 2))
        before, peak, after = row[best - 1 : best + 2]
        bend = before - 2 * peak + after
        fraction = np.clip((before - after) / (2 * bend), -1, 1) if bend < 0 else 0.0
        result[channel] = (shifts[best] + fraction) / fps
    return result


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's r of each channel, over the rows that both have; NaN where one is constant."""
    count = min(len(one), len(other))
    one, other = (x[:count] - x[:count].mean(0) for x in (one, other))
    scale = np.sqrt((one**2).sum(0) * (other**2).sum(0))
    return np.divide((one * other).sum(0), scale, out=np.full(one.shape[1], np.nan), where=scale > 0)
