"""Are the data whole? Every sample is read and judged, every set compared with the benchmarks.

Tolerances are set from what real sets hold (17,757 crops of AFLW, 3,462 frames of YouTube Faces, 300W-LP): wide enough
that none of theirs is called broken, narrow enough that labels of another picture, unit or convention are.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from mlanet_lib.data.sample import Sample
from mlanet_lib.data_check import inventory, overlap
from mlanet_lib.data_check.layouts import BENCHMARK, OTHER, TRAINING, Found
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.crops import Box

SMALLEST_PICTURE = 32
"""Pixels of the shorter side; the smallest real picture has 72."""
FLATTEST = 4.0
"""Standard deviation of the grey levels; the flattest real picture has 9."""
SMALLEST_FACE = 16
"""Pixels of the longer side of the landmarks' box; the smallest real face has 31."""
THINNEST = 0.1
"""Shorter by longer side of that box; 0.18 for the thinnest real one, a profile seen from above."""
OUTSIDE = 0.35
"""How far landmarks may leave the picture, in longer sides of their box. Of the real crops 2 % have points outside (a
chin or a forehead that was cut off), by at most 0.21."""
WIDEST_ANGLE = 180.0
"""Degrees; real yaws reach 168, faces that look away from the camera."""
FORGIVEN = {("aflw2000", "pose out of range"): "the head pose protocol leaves out every angle beyond 99 degrees"}
"""Faults of the published files, by layout and kind, that the protocols know how to pass over: said, but no trouble."""


@dataclass
class Report:
    """What `check` says of one data set.

    names: its samples. broken: kind of trouble -> samples, with the detail in brackets; failed: why the set as a whole
    cannot be read. repeated: groups of samples that are the same file. notes: lines to know. digests: sha256 of every
    picture's file, and portraits: its face, by sample, for comparisons.
    """

    found: Found
    names: list[str] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)
    failed: str | None = None
    repeated: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_broken: int = 0
    digests: dict[str, bytes] = field(default_factory=dict)
    portraits: dict[str, np.ndarray] = field(default_factory=dict)


class Shared(NamedTuple):
    """What a training set has in common with a benchmark: pairs of names. same_file: by the file's bytes; same_picture:
    by the registered faces, with their correlation; likeliest: the highest such pairs that are not; alike: how many of
    the training set look like one of the benchmark (`overlap.ALIKE`), and highest: the highest such correlation.
    compared: how many faces of either set could be compared."""

    training: Path
    benchmark: Path
    same_file: list[tuple[str, str]]
    same_picture: list[tuple[float, str, str]]
    likeliest: list[tuple[float, str, str]]
    alike: int
    highest: float | None
    compared: tuple[int, int]


def problems(sample: Sample, image: np.ndarray) -> list[str]:
    """What is wrong with one sample, whose picture is (H, W, 3) uint8: a line each, "kind: detail"; none: it is whole.

    Checked: the picture's size and contrast; that what is known is finite (points that were not annotated and angles
    that are not known may be NaN); angles within 180 degrees; weights within [0, 1]; a BFM fit of positive scale; a box
    of positive size that meets the picture; landmarks that span a face and do not leave the picture by more than
    `OUTSIDE` of it.
    """
    height, width = image.shape[:2]
    found = []
    if min(height, width) < SMALLEST_PICTURE:
        found.append(f"picture too small: {width} x {height}")
    elif image[::4, ::4].std(axis=(0, 1)).max() < FLATTEST:  # every 16th pixel tells as much
        found.append("picture of one colour")
    finite = {"landmarks": sample.landmarks, "nearness": sample.nearness, "confidence": sample.confidence}
    finite |= {"agreement": sample.agreement, "box": sample.box}
    if sample.bfm is not None:
        fit = sample.bfm
        finite["BFM fit"] = np.concatenate([fit.shape, fit.expression, fit.translation, [fit.scale]])
        if fit.scale <= 0:
            found.append(f"BFM fit's scale not positive: {fit.scale:g}")
    found += [f"{name} not finite" for name, value in finite.items() if value is not None and not _finite(value)]
    if sample.points21 is not None and np.isinf(sample.points21).any():
        found.append("points21 not finite")
    if sample.pose_degrees is not None:
        pose = np.asarray(sample.pose_degrees, np.float64)
        if np.isnan(pose).all():
            found.append("pose not finite")
        elif np.nanmax(np.abs(pose)) > WIDEST_ANGLE:
            found.append(f"pose out of range: {np.nanmax(np.abs(pose)):.0f} degrees")
    if sample.confidence is not None and not ((sample.confidence >= 0) & (sample.confidence <= 1)).all():
        found.append("confidence outside [0, 1]")
    if sample.landmarks is not None and _finite(sample.landmarks):
        found += _points(sample.landmarks, width, height)
    if sample.box is not None and _finite(sample.box):
        x, y, w, h = sample.box
        if min(w, h) <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
            found.append(f"box without area in the picture: {', '.join(f'{value:.0f}' for value in sample.box)}")
    return found


def _points(landmarks: np.ndarray, width: int, height: int) -> Iterator[str]:
    points = np.asarray(landmarks, np.float64)[:, :2]
    low, high = points.min(0), points.max(0)
    side, out = (high - low).max(), max(*-low, *(high - (width, height)))
    if side < SMALLEST_FACE:
        yield f"face too small: {side:.1f} pixels"
    elif (high - low).min() < THINNEST * side:
        yield f"landmarks span no face: {' x '.join(f'{length:.1f}' for length in high - low)} pixels"
    elif out > OUTSIDE * side:
        yield f"landmarks outside the picture: by {out:.0f} pixels"


def _finite(value) -> bool:
    return bool(np.isfinite(np.asarray(value, np.float64)).all())


def check(found: Iterable[Found], workers: int = 2, progress: bool = False) -> list[Report]:
    """Read and judge everything in the sets, `workers` samples at a time; what is broken stands in the reports."""
    return [_check_set(one, workers, progress) for one in found]


def _check_set(found: Found, workers: int, progress: bool) -> Report:
    report = Report(found)
    try:
        if found.role == OTHER:
            report.notes += inventory.describe(found)
            report.names = [found.path.name]
            return report
        entries, report.notes = inventory.entries(found)
    except UserError as error:
        report.failed = _said(error, found.path)
        return report
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(entries), unit="", disable=not progress) as bar:
        bar.set_description(found.path.name)
        for name, troubles, digest, portrait in pool.map(_judged, entries):
            report.names.append(name)
            kinds = [re.sub(r" \((.*)\)$", r": \1", trouble).partition(": ") for trouble in troubles]
            report.n_broken += any((found.layout, kind) not in FORGIVEN for kind, _, _ in kinds)
            for kind, _, detail in kinds:
                report.broken.setdefault(kind, []).append(f"{name} ({detail})" if detail else name)
            if digest is not None:
                report.digests[name] = digest
            if portrait is not None:
                report.portraits[name] = portrait
            bar.update()
    if not entries:
        report.failed = "no samples"
    for layout, kind in FORGIVEN:
        if layout == found.layout and (names := report.broken.pop(kind, None)):
            report.notes.append(f"{len(names)} with {kind}, {FORGIVEN[layout, kind]}: {', '.join(names[:5])}")
    times = Counter(report.digests.values())
    groups: dict[bytes, list[str]] = {}
    for name, digest in report.digests.items():
        if times[digest] > 1:
            groups.setdefault(digest, []).append(name)
    report.repeated = list(groups.values())
    return report


def _judged(entry: "tuple[str, Callable]") -> tuple[str, list[str], bytes | None, np.ndarray | None]:
    name, load = entry
    digest = None
    try:
        sample, encoded, troubles = load()
        digest = hashlib.sha256(encoded).digest() if encoded is not None else None
        if sample is None:
            return name, troubles, digest, None
        image = sample.image()
        troubles = troubles + problems(sample, image)
    except UserError as error:
        return name, [_said(error, Path(name))], digest, None
    # faces that this project drew lack the detail that tells two of them apart: compared by file only
    return name, troubles, digest, overlap.portrait(image, _box(sample)) if sample.truth is None else None


def _box(sample: Sample) -> Box | None:
    try:
        return sample.crop()
    except UserError:  # nothing says where the face is, or its landmarks span no box
        return None


def _said(error: UserError, path: Path) -> str:
    """The error's text without the path that it begins with, so that the same trouble of many files reads the same."""
    text = re.sub(r"^\S+?(: '.*?')?(: |, (?=line))", "", " ".join(str(error).split()), count=1)
    return text.replace(path.stem, "*")


def leave_out(report: Report, names: Iterable[str]) -> None:
    """Take samples that the training leaves out from the comparison with benchmarks; unknown names are said."""
    names = set(names)
    for name in names:
        report.digests.pop(name, None)
        report.portraits.pop(name, None)
    unknown = len(names - set(report.names))
    report.notes.append(
        f"{len(names) - unknown} samples are left out (leave_out)" + f", {unknown} unknown" * bool(unknown)
    )


def shared(reports: list[Report], progress: bool = False) -> list[Shared]:
    """Every training set against every benchmark."""
    pairs = [(a, b) for a in reports for b in reports if (a.found.role, b.found.role) == (TRAINING, BENCHMARK)]
    return [_shared(training, benchmark, progress) for training, benchmark in pairs]


def _shared(training: Report, benchmark: Report, progress: bool) -> Shared:
    files: dict[bytes, list[str]] = {}
    for name, digest in benchmark.digests.items():
        files.setdefault(digest, []).append(name)
    same_file = [(name, other) for name, digest in training.digests.items() for other in files.get(digest, ())]
    ours, theirs = list(training.portraits), list(benchmark.portraits)
    compared = overlap.compare([*training.portraits.values()], [*benchmark.portraits.values()], progress)
    named = [(pair.correlation, ours[pair.training], theirs[pair.benchmark]) for pair in compared.registered]
    doubles = len(compared.doubles())
    return Shared(
        training.found.path,
        benchmark.found.path,
        same_file,
        named[:doubles],
        named[doubles : doubles + 3],
        sum(pair.correlation > overlap.ALIKE for pair in compared.alike),
        compared.alike[0].correlation if compared.alike else None,
        (len(ours), len(theirs)),
    )


def is_wrong(reports: list[Report], common: list[Shared]) -> bool:
    """Would the study be wrong: is a sample or a set broken, or a picture of a benchmark in a training set? Files that
    one set holds twice, and faces that only look alike, are said and are no fault."""
    return any(r.n_broken or r.failed for r in reports) or any(s.same_file or s.same_picture for s in common)
