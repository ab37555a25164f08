"""Are the data whole? Every sample is read and judged, every set compared with the benchmarks.

Tolerances are set from what real sets hold (17,757 crops of AFLW, 3,462 frames of YouTube Faces, 300W-LP): wide enough
to pass all of these, narrow enough to reject labels of another picture, unit or convention.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from mlanet_lib.data.sample import Sample
from mlanet_lib.data_check import inventory, overlap
from mlanet_lib.data_check.inventory import Entry, Trouble, said
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
    """The result of `check` for one data set.

    names: its samples. broken: kind of trouble -> samples, with the detail in brackets; n_broken: how many samples;
    failed: why the set as a whole cannot be read; known: its layout has a reader. repeated: groups of samples that are
    the same file. notes: lines to know. digests: sha256 of every picture's file, and portraits: its face, by sample,
    for comparisons.
    """

    found: Found
    names: list[str] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)
    failed: str | None = None
    known: bool = True
    repeated: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_broken: int = 0
    digests: dict[str, bytes] = field(default_factory=dict)
    portraits: dict[str, np.ndarray] = field(default_factory=dict)


class Shared(NamedTuple):
    """Pictures that a training set shares with a benchmark: pairs of names. same_file: by the file's bytes;
    same_picture: by the registered faces, with their correlation; likeliest: the highest such pairs that are not;
    alike: how many of the training set look like one of the benchmark (`overlap.ALIKE`), and highest: the highest such
    correlation. compared: how many faces of either set could be compared."""

    training: Path
    benchmark: Path
    same_file: list[tuple[str, str]]
    same_picture: list[tuple[float, str, str]]
    likeliest: list[tuple[float, str, str]]
    alike: int
    highest: float | None
    compared: tuple[int, int]


def problems(sample: Sample, image: np.ndarray) -> list[Trouble]:
    """The problems of one sample, whose picture is (H, W, 3) uint8; none if it is sound.

    Checked: the picture's size and contrast; that what is known is finite (points that were not annotated and angles
    that are not known may be NaN); angles within 180 degrees; weights within [0, 1]; a BFM fit of positive scale; a box
    of positive size that meets the picture; landmarks that span a face and do not leave the picture by more than
    `OUTSIDE` of it.
    """
    height, width = image.shape[:2]
    return [*_of_picture(image), *_of_numbers(sample), *_of_place(sample, width, height)]


def _of_picture(image: np.ndarray) -> Iterator[Trouble]:
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_PICTURE:
        yield Trouble("picture too small", f"{width} x {height}")
    elif image[::4, ::4].std(axis=(0, 1)).max() < FLATTEST:  # every 16th pixel tells as much
        yield Trouble("picture of one colour")


def _of_numbers(sample: Sample) -> Iterator[Trouble]:
    if (fit := sample.bfm) is not None:
        if fit.scale <= 0:
            yield Trouble("BFM fit's scale not positive", f"{fit.scale:g}")
        if not all(map(_finite, (fit.shape, fit.expression, fit.translation, fit.scale))):
            yield Trouble("BFM fit not finite")
    for name in ("landmarks", "nearness", "confidence", "agreement", "box"):
        value = getattr(sample, name)
        if value is not None and not _finite(value):
            yield Trouble(f"{name} not finite")
    if sample.points21 is not None and np.isinf(sample.points21).any():
        yield Trouble("points21 not finite")
    if sample.pose_degrees is not None:
        pose = np.asarray(sample.pose_degrees, np.float64)
        if np.isnan(pose).all():
            yield Trouble("pose not finite")
        elif (widest := np.nanmax(np.abs(pose))) > WIDEST_ANGLE:
            yield Trouble("pose out of range", f"{widest:.0f} degrees")
    if sample.confidence is not None and not ((sample.confidence >= 0) & (sample.confidence <= 1)).all():
        yield Trouble("confidence outside [0, 1]")


def _of_place(sample: Sample, width: int, height: int) -> Iterator[Trouble]:
    if sample.landmarks is not None and _finite(sample.landmarks):
        points = np.asarray(sample.landmarks, np.float64)[:, :2]
        low, high = points.min(0), points.max(0)
        side, out = (high - low).max(), max(*-low, *(high - (width, height)))
        if side < SMALLEST_FACE:
            yield Trouble("face too small", f"{side:.1f} pixels")
        elif (high - low).min() < THINNEST * side:
            yield Trouble("landmarks span no face", f"{' x '.join(f'{length:.1f}' for length in high - low)} pixels")
        elif out > OUTSIDE * side:
            yield Trouble("landmarks outside the picture", f"by {out:.0f} pixels")
    if sample.box is not None and _finite(sample.box):
        x, y, w, h = sample.box
        if min(w, h) <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
            yield Trouble("box without area in the picture", ", ".join(f"{value:.0f}" for value in sample.box))


def _finite(value: object) -> bool:
    return bool(np.isfinite(np.asarray(value, np.float64)).all())


def check(found: Iterable[Found], workers: int = 2, progress: bool = False) -> list[Report]:
    """Read and judge everything in the sets, `workers` samples at a time; what is broken stands in the reports."""
    return [_check_set(one, workers, progress) for one in found]


def _check_set(found: Found, workers: int, progress: bool) -> Report:
    report = Report(found)
    try:
        if found.role == OTHER:
            report.notes, report.names = inventory.describe(found), [found.path.name]
            return report
        if found.layout not in inventory.READERS:
            report.notes, report.known = ["NOT LOOKED INTO, mlanet data check has no reader for this layout"], False
            return report
        entries, report.notes = inventory.entries(found)
    except UserError as error:
        report.failed = said(error, found.path.name)
        return report
    forgiven: dict[str, list[str]] = {}
    files: dict[bytes, list[str]] = {}
    with ThreadPoolExecutor(workers) as pool:
        judged = pool.map(_judge, entries)
        for one in tqdm(judged, found.path.name, len(entries), unit="", disable=not progress):
            report.names.append(one.name)
            for trouble in one.troubles:
                group = forgiven if (found.layout, trouble.kind) in FORGIVEN else report.broken
                group.setdefault(trouble.kind, []).append(trouble.of(one.name))
            report.n_broken += any((found.layout, trouble.kind) not in FORGIVEN for trouble in one.troubles)
            if one.digest is not None:
                report.digests[one.name] = one.digest
                files.setdefault(one.digest, []).append(one.name)
            if one.portrait is not None:
                report.portraits[one.name] = one.portrait
    report.failed = None if entries else "no samples"
    for kind, names in forgiven.items():
        why = FORGIVEN[found.layout, kind]
        report.notes.append(f"{len(names)} with {kind}, {why}: {', '.join(names[:5])}")
    report.repeated = [names for names in files.values() if len(names) > 1]
    return report


class _Judged(NamedTuple):
    name: str
    troubles: Sequence[Trouble]
    digest: bytes | None = None
    portrait: np.ndarray | None = None


def _judge(entry: Entry) -> _Judged:
    digest = None
    try:
        sample, content, troubles = entry.load()
        digest = None if content is None else hashlib.sha256(content).digest()
        if sample is None:
            return _Judged(entry.name, troubles, digest)
        image = sample.image()
        troubles = [*troubles, *problems(sample, image)]
    except UserError as error:
        return _Judged(entry.name, [Trouble.parsed(said(error, entry.name))], digest)
    # faces that this project drew lack the detail that tells two of them apart: compared by file only
    portrait = overlap.portrait(image, _box(sample)) if sample.truth is None else None
    return _Judged(entry.name, troubles, digest, portrait)


def _box(sample: Sample) -> Box | None:
    try:
        return sample.crop()
    except UserError:  # nothing says where the face is, or its landmarks span no box
        return None


def leave_out(report: Report, names: Iterable[str]) -> None:
    """Remove samples that the training leaves out from the comparison with benchmarks; unknown names are reported."""
    names = set(names)
    for name in names:
        report.digests.pop(name, None)
        report.portraits.pop(name, None)
    unknown = len(names - set(report.names))
    more = f", {unknown} unknown" if unknown else ""
    report.notes.append(f"{len(names) - unknown} samples are left out (leave_out){more}")


def shared(reports: list[Report], progress: bool = False) -> list[Shared]:
    """Every training set against every benchmark."""
    pairs = [(a, b) for a in reports for b in reports if (a.found.role, b.found.role) == (TRAINING, BENCHMARK)]
    return [_shared(training, benchmark, progress) for training, benchmark in pairs]


def _shared(training: Report, benchmark: Report, progress: bool) -> Shared:
    files: dict[bytes, list[str]] = {}
    for name, digest in benchmark.digests.items():
        files.setdefault(digest, []).append(name)
    ours, theirs = list(training.portraits), list(benchmark.portraits)
    compared = overlap.compare([*training.portraits.values()], [*benchmark.portraits.values()], progress)
    named = [(pair.correlation, ours[pair.training], theirs[pair.benchmark]) for pair in compared.registered]
    doubles = len(compared.doubles())
    return Shared(
        training.found.path,
        benchmark.found.path,
        [(name, other) for name, digest in training.digests.items() for other in files.get(digest, ())],
        named[:doubles],
        named[doubles : doubles + 3],
        sum(pair.correlation > overlap.ALIKE for pair in compared.alike),
        compared.alike[0].correlation if compared.alike else None,
        (len(ours), len(theirs)),
    )


def is_wrong(reports: list[Report], common: list[Shared]) -> bool:
    """Would the study be wrong: is a sample or a set broken, or a picture of a benchmark in a training set? Files that
    one set holds twice, and faces that only look similar, are reported but are not errors."""
    return any(r.n_broken or r.failed for r in reports) or any(s.same_file or s.same_picture for s in common)
