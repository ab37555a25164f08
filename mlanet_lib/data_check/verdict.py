"""The reports of `check` as a table and lines of plain text, and as JSON."""

import os
from pathlib import Path

from mlanet_lib.data_check.check import Report, Shared, is_wrong
from mlanet_lib.data_check.layouts import LAYOUTS, OTHER
from mlanet_lib.data_check.overlap import ALIKE, SAME

SHOWN = 5
_HEAD = ("data set", "layout", "used for", "samples", "whole", "broken", "repeated")


def summary(reports: list[Report], common: list[Shared]) -> str:
    """The report as text; paths are given relative to the folder that all have in common."""
    root = Path(os.path.commonpath([report.found.path.absolute() for report in reports]))
    names = {report.found.path: _short(report.found.path, root) for report in reports}
    rows = [_HEAD, *(_row(report, names) for report in reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = [*[str.ljust] * 3, *[str.rjust] * (len(_HEAD) - 3)]
    lines = ["  ".join(put(cell, width) for put, cell, width in zip(pad, row, widths, strict=True)) for row in rows]
    for report in reports:
        name = names[report.found.path]
        lines += [f"{name}: {note}" for note in report.notes]
        lines += [f"{name}: BROKEN, {report.failed}"] if report.failed else []
        for kind, samples in sorted(report.broken.items(), key=lambda item: -len(item[1])):
            lines.append(f"{name}: {len(samples):,} broken, {kind}: {_few(samples)}")
        if report.repeated:
            groups = [" = ".join(group[:3]) for group in report.repeated]
            lines.append(f"{name}: {len(groups):,} files are there more than once: {_few(groups)}")
    for both in common:
        lines += _overlap(both, names)
    whole = "all whole" if all(report.known for report in reports) else "all that was looked into is whole"
    clean = f"{whole}, no picture of a benchmark in a training set"
    lines.append("WRONG: see above" if is_wrong(reports, common) else clean)
    return "\n".join(lines)


def as_json(reports: list[Report], common: list[Shared]) -> dict[str, object]:
    """Everything, with all names: to be written with `json.dump`."""
    return {
        "wrong": is_wrong(reports, common),
        "sets": [
            {
                "path": str(report.found.path),
                "layout": report.found.layout,
                "role": report.found.role,
                "samples": len(report.names),
                "whole": len(report.names) - report.n_broken,
                "broken": report.broken,
                "failed": report.failed,
                "repeated": report.repeated,
                "notes": report.notes,
            }
            for report in reports
        ],
        "overlap": [both._asdict() | {"training": str(both[0]), "benchmark": str(both[1])} for both in common],
        "thresholds": {"same_picture": SAME, "alike": ALIKE},
    }


def _row(report: Report, names: dict[Path, str]) -> tuple[str, ...]:
    count, repeated = len(report.names), sum(len(group) - 1 for group in report.repeated)
    whole = 0 if report.failed else count - report.n_broken
    numbers = (count, whole, report.n_broken or int(report.failed is not None), repeated)
    role = "" if report.found.role == OTHER else report.found.role
    return (names[report.found.path], LAYOUTS[report.found.layout][0], role, *(f"{number:,}" for number in numbers))


def _overlap(both: Shared, names: dict[Path, str]) -> list[str]:
    title = f"{names[both.training]} x {names[both.benchmark]}"
    lines = [f"{title}: {len(both.same_file):,} pictures are the same file{_listed(both.same_file)}"]
    if not all(both.compared):
        return [*lines, f"{title}: faces not compared (drawn ones, or none whose place is known)"]
    pairs, near = (
        [(f"{first} ~ {second}", f"{value:.3f}") for value, first, second in found]
        for found in (both.same_picture, both.likeliest)
    )
    return [
        *lines,
        f"{title}: {len(pairs):,} pairs are the same picture in another file (registered correlation above {SAME})"
        f"{_listed(pairs)}; the next {'are no doubles by that measure' if near else 'there is none'}{_listed(near)}",
        f"{title}: {both.alike:,} of {both.compared[0]:,} faces look like one of {both.compared[1]:,} (thumbnails' "
        f"correlation above {ALIKE}, highest {both.highest:.3f}): possible doubles, mostly chance, no fault by itself",
    ]


def _listed(pairs: list[tuple[str, str]]) -> str:
    return f": {_few([' '.join(pair) for pair in pairs])}" if pairs else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names):,})" if len(names) > SHOWN else "")


def _short(path: Path, root: Path) -> str:
    path = path.absolute()
    below = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return path.name if below == "." else below
