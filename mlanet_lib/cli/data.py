"""The verbs `mlanet data ...`."""

import os
import sys
from pathlib import Path

from mlanet_lib.cli.options import a_path
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import MARK, check_target


def add_actions(actions) -> None:
    """Add the actions of `mlanet data` to its sub-parsers."""
    verb = actions.add_parser("check", help="samples, face models, weights: whole? a benchmark in a training set?")
    verb.add_argument("paths", nargs="*", type=a_path, metavar="PATH", help="folders or files (default: params.yaml's)")
    verb.add_argument("--json", type=a_path, metavar="OUT", help="everything, with all names")
    verb.set_defaults(run=_check)


def _check(options) -> int:
    import json

    from mlanet_lib.data_check import check, verdict
    from mlanet_lib.data_check.layouts import find_sets
    from mlanet_lib.files.atomic import atomic_path

    if options.json:
        check_target(options.json, options.paths)
    if options.paths:
        found, params = [one for path in options.paths for one in find_sets(path)], None
    else:
        found, params = _project_data()
    bars = sys.stderr.isatty()
    reports = check.check(dict.fromkeys(found), workers=os.cpu_count() or 1, progress=bars)
    for source in params.data.sources.values() if params else ():
        for report in reports:
            if report.found.path == Path(source.path) and source.leave_out:
                check.leave_out(report, source.leave_out)
    common = check.shared(reports, progress=bars)
    print(verdict.summary(reports, common))
    if options.json:
        with atomic_path(options.json) as temporary:
            temporary.write_text(
                json.dumps({"generator": MARK, **verdict.as_json(reports, common)}, indent=1) + "\n", encoding="utf-8"
            )
        print(f"written: {options.json}")
    if check.is_wrong(reports, common):
        return 1
    if params and params.data.sources:
        _write_manifest(params, bars)
    return 0


def _project_data() -> tuple[list, object]:
    """What params.yaml names, its paths and data.sources, with the face model and the weights, and the parameters; says
    what is missing. Works in the project's root from then on."""
    from mlanet_lib.data_check.layouts import BENCHMARK, TRAINING, find_sets
    from mlanet_lib.face_model import MorphableModel
    from mlanet_lib.files.project import PARAMS_FILE, find_root
    from mlanet_lib.predictor.weights import find_weights
    from mlanet_lib.study.params import load_params

    os.chdir(find_root())
    params = load_params(PARAMS_FILE)
    path = Path(params.face_model.path)
    if not path.is_file():
        raise UserError(f"face model {path} is not here: run dvc pull data.dvc (or make repro)")
    MorphableModel.load(path)  # without it nothing else is of use: refused, not reported
    named = [(name, source.path, TRAINING) for name, source in params.data.sources.items()]
    named += [(name, getattr(params.paths, name), BENCHMARK) for name in ("aflw2000", "florence")]
    if not params.data.sources:  # else they hold the sources' pictures again
        named.append(("training", params.paths.training, None))
    found = find_sets(path)
    for name, place, role in named:
        if Path(place).exists():
            found += [one for one in find_sets(place, role) if one not in found]
        elif name in params.data.sources:
            raise UserError(f"{place} is not here: put the data of source {name} there (README.md, Real data)")
        else:
            print(f"{name}: {place} is not here yet (dvc repro makes it, or you put it there)")
    try:
        found += find_sets(find_weights(Path.cwd()))
    except UserError as error:
        print(f"weights: {error}")
    return found, params


def _write_manifest(params, bars: bool) -> None:
    from mlanet_lib.data import manifest

    folders = {name: source.path for name, source in params.data.sources.items()}
    for name, entry in manifest.write(params.paths.manifest, folders, bars).items():
        print(f"{name}: {entry['files']:,} files, {entry['bytes'] / 1e6:,.0f} MB, sha256 {entry['sha256'][:12]}")
    print(f"written: {params.paths.manifest}; dvc repro can run")
