"""The verbs `mlanet data ...`."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlanet_lib.cli.options import a_count, a_path, load_predictor, network_options
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import MARK, check_target

if TYPE_CHECKING:
    from mlanet_lib.data_check.layouts import Found
    from mlanet_lib.study.params import Params


def add_actions(actions: Any) -> None:
    """Add the actions of `mlanet data` to its sub-parsers."""
    verb = actions.add_parser("check", help="samples, face models, weights: whole? a benchmark in a training set?")
    verb.add_argument("paths", nargs="*", type=a_path, metavar="PATH", help="folders or files (default: params.yaml's)")
    verb.add_argument("--json", type=a_path, metavar="OUT", help="everything, with all names")
    verb.set_defaults(run=_check)
    verb = actions.add_parser("annotate", help="a folder of photos -> crops and 68 points that a training reads")
    verb.add_argument("folder", type=a_path, metavar="FOLDER", help="photos, also in the folders below it")
    verb.add_argument("--out", type=a_path, required=True, metavar="DIR/labels.npz", help="images.zip goes beside it")
    verb.add_argument("--points", choices=("auto", "dlib", "network"), default="auto", help="what finds the 68 points")
    verb.add_argument("--size", type=a_count, default=256, metavar="PX", help="largest side of a crop (default: 256)")
    network_options(verb)
    verb.set_defaults(run=_annotate)


def _annotate(options: argparse.Namespace) -> None:
    from mlanet_lib.data.annotate import annotate
    from mlanet_lib.predictor.annotator import INSTALL, RESEARCH, DlibPoints, FaceAnnotator

    points = None if options.points == "network" else DlibPoints.load()
    if options.points == "dlib" and points is None:
        raise UserError(f"dlib's 68-point predictor is not installed: {INSTALL}")
    annotator = FaceAnnotator(load_predictor(options), points, options.size)
    said = RESEARCH if points else f"the network's own points are taken; dlib's, of people's labels: {INSTALL}"
    print(f"note: {said}", file=sys.stderr)
    counts = annotate(options.folder, options.out, annotator, sys.stderr.isatty())
    print(
        f"{counts.faces:,} faces of {counts.photos:,} photos ({counts.left_out:,} without one) -> {options.out}, "
        f"{options.out.with_name('images.zip')}\ndata.sources: {{layout: crops, path: {options.out.parent}, "
        f"points: {annotator.definition}}}"
    )


def _check(options: argparse.Namespace) -> int:
    from mlanet_lib.data import manifest
    from mlanet_lib.data_check import check, verdict
    from mlanet_lib.data_check.layouts import find_sets
    from mlanet_lib.files.records import write_json

    if options.json:
        check_target(options.json, options.paths)
    params = None if options.paths else _project_params()
    if params and params.data.sources and Path(params.paths.manifest).resolve() == manifest.NO_PHOTOS.resolve():
        raise UserError(f"{manifest.NO_PHOTOS} is for no photos at all: set paths.manifest to licensed/manifest.json")
    found = _project_data(params) if params else [one for path in options.paths for one in find_sets(path)]
    sources, bars = params.data.sources if params else {}, sys.stderr.isatty()
    reports = check.check(dict.fromkeys(found), os.cpu_count() or 1, bars)
    for source in sources.values():
        for report in reports:
            if source.leave_out and report.found.path == Path(source.path):
                check.leave_out(report, source.leave_out)
    common = check.shared(reports, bars)
    print(verdict.summary(reports, common))
    if options.json:
        write_json(options.json, {"generator": MARK, **verdict.as_json(reports, common)})
        print(f"written: {options.json}")
    if check.is_wrong(reports, common):
        return 1
    if params and sources:
        folders = {name: source.path for name, source in sources.items()}
        for name, entry in manifest.write(params.paths.manifest, folders, bars).items():
            print(f"{name}: {entry['files']:,} files, {entry['bytes'] / 1e6:,.0f} MB, sha256 {entry['sha256'][:12]}")
        print(f"written: {params.paths.manifest}; dvc repro can run")
    return 0


def _project_params() -> "Params":
    """What params.yaml says. Works in the project's root from then on."""
    from mlanet_lib.files.project import PARAMS_FILE, find_root
    from mlanet_lib.study.params import load_params

    os.chdir(find_root())
    return load_params(PARAMS_FILE)


def _project_data(params: "Params") -> "list[Found]":
    """What params.yaml names, its paths and data.sources, with the face model and the weights; says what is missing."""
    from mlanet_lib.data_check.layouts import BENCHMARK, TRAINING, find_sets
    from mlanet_lib.face_model import MorphableModel
    from mlanet_lib.predictor.weights import find_weights
    from mlanet_lib.predictor.yunet import detector_file

    path = Path(params.face_model.path)
    if not path.is_file():
        raise UserError(f"face model {path} is not here: run dvc pull data.dvc (or make repro)")
    MorphableModel.load(path)  # without it nothing else is of use: refused, not reported
    sources = params.data.sources
    named: list[tuple[str, str, str | None]] = [(name, source.path, TRAINING) for name, source in sources.items()]
    named += [("aflw2000", params.paths.aflw2000, BENCHMARK), ("florence", params.paths.florence, BENCHMARK)]
    if not sources:  # else they hold the sources' pictures again
        named.append(("training", params.paths.training, None))
    found = find_sets(path)
    for name, place, role in named:
        if Path(place).exists():
            found += [one for one in find_sets(place, role) if one not in found]
        elif name in sources:
            raise UserError(f"{place} is not here: put the data of source {name} there (docs/data.md)")
        else:
            print(f"{name}: {place} is not here yet (dvc repro makes it, or you put it there)")
    for name, file in (("weights", lambda: find_weights(Path.cwd())), ("face detector", detector_file)):
        try:
            found += find_sets(file())
        except UserError as error:
            print(f"{name}: {error}")
    return found
