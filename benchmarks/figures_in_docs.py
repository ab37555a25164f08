"""Fill in the numbers of README.md, MODEL_CARD.md and docs/*.md from the metrics files: `make figures`.

    python benchmarks/figures_in_docs.py [--check]      --check writes nothing and lists what is stale

A number in the text is a marker with the path of a value and a Python format:

    <!--figure aflw2000.sparse_nme.balanced_mean .2f-->4.85<!---->

The path begins with the name of a metrics file: outputs/metrics/NAME.json (the embedded study) or
docs/metrics/NAME.json (the shipped weights). A whole table is made by one of `TABLES`, from one or more files:

    <!--table nme aflw2000-->
    ...
    <!--end-->
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "outputs" / "metrics", ROOT / "docs" / "metrics")
FIGURE = re.compile(r"(<!--figure (?P<path>[^>]+?) (?P<format>[^\s>]+?)-->)(?P<now>.*?)(<!---->)")
TABLE = re.compile(r"(<!--table (?P<kind>\w+) (?P<names>[\w ]+)-->\n)(?P<now>.*?)(<!--end-->)", re.S)


def documents() -> list[Path]:
    """The Markdown files that may hold such numbers."""
    return [ROOT / "README.md", ROOT / "MODEL_CARD.md", *sorted((ROOT / "docs").glob("*.md"))]


def metrics(name: str) -> dict:
    """The content of NAME.json. SystemExit: there is no such file."""
    for folder in FOLDERS:
        if (path := folder / f"{name}.json").is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    sys.exit(f"no metrics {name}.json in {' or '.join(str(folder.relative_to(ROOT)) for folder in FOLDERS)}")


def value(path: str) -> float | str:
    """The value at `path`: the file's name, then keys and positions in lists, joined by dots."""
    name, *keys = path.split(".")
    found = metrics(name)
    for key in keys:
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, ValueError):
            sys.exit(f"{path}: there is no {key!r} in {name}.json")
    return found


def nme_table(name: str) -> list[str]:
    """The weights, other systems and baselines of an AFLW2000-3D evaluation, and the paired differences."""
    data = metrics(name)
    own = {"sparse_nme": data["sparse_nme"], "pose_mae": data["pose_mae"], "uses_the_truth": False}
    systems = {data["weights"]: own, **data["others"], **data["baselines"]}
    lines = [
        "| NME % | 0-30° | 30-60° | 60-90° | balanced | all photos | pose error, degrees | turn, degrees "
        "| weights minus this |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, entry in systems.items():
        nme, pose = entry["sparse_nme"], entry["pose_mae"]
        keys = ("bin_0_30", "bin_30_60", "bin_60_90", "balanced_mean", "image_mean")
        cells = [f"{nme[key]:.2f}" for key in keys]
        cells += ["-" if pose is None else f"{pose[key]:.2f}" for key in ("mean", "geodesic")]
        if "difference" in entry:
            d = entry["difference"]["sparse_nme"]
            cells.append(f"{d['difference']:+.2f} ({d['low']:+.2f} to {d['high']:+.2f}), {d['verdict']}")
        else:
            low, high = data["intervals"]["balanced_mean"]
            cells[3] += f" ({low:.2f} to {high:.2f})"
            cells.append("-")
        lines.append(f"| {label}{' *' if entry['uses_the_truth'] else ''} | {' | '.join(cells)} |")
    synthetic = data.get("vertex_error") is not None  # the true shape is known of synthetic faces alone
    shown = "synthetic faces" if synthetic else f"photos, {data['labels']} labels"
    means = "Balanced is the mean of the three bins of yaw; differences are of this mean"
    return [*lines, "", f"{data['images']} {shown}. {means}. Ranges are 95 % intervals. \\* is given the true pose."]


def likeness_table(*names: str) -> list[str]:
    """A row for each likeness evaluation."""
    lines = [
        "| | proportions: r | slope (95 %) | closed mouths drawn open | mouth error, mm | skin L\\*: slope "
        "| ITA error, degrees | identity: rank-1 (chance) | recognised |",
        "|---|---|---|---|---|---|---|---|---|",
        "| best possible | 1 | 1 | 0 | 0 | 1 | 0 | 1 | 1 |",
    ]
    for name in names:
        data = metrics(name)
        shape, mouths, skin, identity = (data[key] for key in ("proportions", "closed_mouths", "skin", "identity"))
        low, high = shape["intervals"]["slope"]
        cells = (
            f"{shape['r']:.2f}",
            f"{shape['slope']:.2f} ({low:.2f} to {high:.2f})",
            f"{mouths['drawn_open']} of {mouths['closed']}",
            f"{mouths['error_mm']:.1f}",
            f"{skin['lightness']['slope']:.2f}",
            f"{skin['ita_error']:.1f}",
            f"{identity['sd']['rank_1']:.2f} ({identity['sd']['chance']:.2f})",
            f"{data['recognisable']['rank_1']:.2f}" if data["recognisable"]["run"] else "not run",
        )
        name, _, how = data["weights"].partition(" ")
        fitted = ", fitted" if "fitted to the photo" in how else ""
        lines.append(f"| {data['people']} people, `{name}`{fitted} | {' | '.join(cells)} |")
    return lines


TABLES: dict[str, Callable[..., list[str]]] = {"nme": nme_table, "likeness": likeness_table}


def fill(text: str) -> tuple[str, list[str]]:
    """The text with today's numbers, and the markers whose number was another."""
    stale = []

    def replaced(found: re.Match, new: str) -> str:
        if new != found["now"]:
            stale.append(found[1].strip())
        return found[1] + new + found[found.lastindex]

    def figure(found: re.Match) -> str:
        return replaced(found, format(value(found["path"]), found["format"]))

    def table(found: re.Match) -> str:
        return replaced(found, "\n".join(TABLES[found["kind"]](*found["names"].split())) + "\n")

    return TABLE.sub(table, FIGURE.sub(figure, text)), stale


def main(check: bool = False) -> int:
    """Fill all documents, or only check them; returns the exit code, 1 if a check finds something stale."""
    wrong = 0
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after, stale = fill(before)
        for marker in stale:
            print(f"{path.relative_to(ROOT)}: {'stale' if check else 'filled'}: {marker}")
        wrong += len(stale)
        if not check and after != before:
            path.write_text(after, encoding="utf-8")
    return int(check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
