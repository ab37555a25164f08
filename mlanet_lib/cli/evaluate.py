"""The verbs `mlanet evaluate ...`: a benchmark's folder -> a table, and a JSON file. Heavy imports are in the runs."""

import argparse
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlanet_lib.cli import options as cli_options
from mlanet_lib.cli.options import a_count, a_path, an_angle, network_options
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import MARK, check_target


class Option(NamedTuple):
    """An argument of a verb: its name and the keywords for `add_argument`."""

    name: str
    settings: dict[str, Any]


class Verb(NamedTuple):
    """A benchmark: its name, one line of help, its options, and what runs it -> (summary, text)."""

    name: str
    help: str
    options: tuple[Option, ...]
    run: Callable[[Namespace], tuple[dict, str]]


def option(name: str, **settings: Any) -> Option:
    """An argument; a path unless a type is given."""
    return Option(name, settings if settings.keys() & {"type", "choices", "action"} else {"type": a_path, **settings})


def add_actions(actions: Any) -> None:
    """Add the benchmarks to the sub-parsers of `mlanet evaluate`."""
    for verb in VERBS:
        parser = actions.add_parser(verb.name, help=verb.help)
        for name, settings in verb.options:
            parser.add_argument(name, **settings)
        network_options(parser)
        parser.set_defaults(run=partial(_evaluate, verb.run))


def _evaluate(run: Callable[[Namespace], tuple[dict, str]], options: Namespace) -> int:
    """Run a benchmark, print its table, write its summary; that it can be written is checked before the work."""
    if options.json:
        given = [value for name, value in vars(options).items() if isinstance(value, Path) and name != "json"]
        given += [Path(path) for _, path in getattr(options, "other", [])] + [Path(options.weights)]
        check_target(options.json, given)
    summary, text = run(options)
    print(text)
    if options.json:
        from mlanet_lib.files.records import write_json

        write_json(options.json, {"generator": MARK, **summary})
        print(f"written: {options.json}")
    return 0


def _named(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NPZ")
    return name, path


def _aflw2000(options: Namespace) -> tuple[dict, str]:
    if (options.labels == "reannotated") != (options.reannotated is not None):
        raise UserError("labels are one of original, reannotated, the second with a file of them and the first without")
    from mlanet_lib.evaluation import sparse
    from mlanet_lib.evaluation.labels import Reannotated
    from mlanet_lib.face_sources.bfm2009.raw import RawBfm

    bfm = RawBfm.load(options.bfm) if options.bfm else None
    labels = Reannotated(options.reannotated, options.names) if options.reannotated else None
    given = {"box": options.box, "limit": options.limit, "others": options.other}
    predictor = cli_options.load_predictor(options)
    summary = sparse.evaluate_aflw2000(options.folder, predictor, reannotated=labels, bfm=bfm, **given).summary
    return summary, sparse.summary_text(summary)


def _florence(options: Namespace) -> tuple[dict, str]:
    grid = {name: getattr(options, name) for name in ("yaw", "pitch") if getattr(options, name)}
    if grid and options.form == "deng":
        raise UserError("--yaw and --pitch belong to --form prnet: Deng's form takes the folder's pictures")
    from mlanet_lib.evaluation import florence

    predictor = cli_options.load_predictor(options)
    if options.form == "deng":
        result = florence.evaluate_florence(options.folder, predictor, options.limit)
    else:
        result = florence.evaluate_florence_prnet(options.folder, predictor, limit=options.limit, **grid)
    return result.summary, florence.summary_text(result.summary)


def _scan(options: Namespace) -> tuple[dict, str]:
    from mlanet_lib.data.sets.scans import read_scan
    from mlanet_lib.evaluation import scans

    scan = read_scan(options.obj, options.landmarks, options.unit, options.texture)
    predictor = cli_options.load_predictor(options)
    grid = {"yaw": options.yaw, "pitch": options.pitch}
    summary = scans.evaluate_scan(scan, predictor, options.obj.name, lit=not options.flat, **grid)
    return summary, scans.summary_text(summary)


def _identity(options: Namespace) -> tuple[dict, str]:
    if (options.scan is None) != (options.landmarks is None) or (options.texture and not options.scan):
        raise UserError("--scan OBJ and --landmarks JSON go together, and --texture with both")
    from mlanet_lib.data.sets.scans import read_scan
    from mlanet_lib.evaluation import identity

    scan, name = None, ""
    if options.scan:
        scan = read_scan(options.scan, options.landmarks, options.unit, options.texture)
        name = options.scan.name
    summary = identity.evaluate_identity(options.folder, cli_options.load_predictor(options), scan, name)
    return summary, identity.summary_text(summary)


def _likeness(options: Namespace) -> tuple[dict, str]:
    from mlanet_lib.evaluation import likeness

    summary = likeness.evaluate_likeness(options.folder, cli_options.load_predictor(options)).summary
    return summary, likeness.summary_text(summary)


def _robustness(options: Namespace) -> tuple[dict, str]:
    from mlanet_lib.evaluation import robustness

    summary = robustness.evaluate_robustness(options.folder, cli_options.load_predictor(options), options.limit)
    return summary, robustness.summary_text(summary)


FOLDER = option("folder")
JSON, MAY_JSON = option("--json", required=True, metavar="OUT"), option("--json", metavar="OUT")
PHOTOS = option("--limit", type=a_count, metavar="N", help="the first N photos only")
TEXTURE = option("--texture", metavar="PICTURE", help="default: what the OBJ's .mtl names")
UNIT = option("--unit", choices=("mm", "cm", "m"), default="mm", help="of the scan's lengths (default: mm)")
POINTS = "a system's points: names, landmarks68"
AFLW2000 = (
    FOLDER,
    JSON,
    option("--box", choices=("truth", "detector"), default="truth", help="where the crop comes from"),
    PHOTOS,
    option("--labels", choices=("original", "reannotated"), default="original", help="which 68 points"),
    option("--reannotated", metavar="FILE", help="3DDFA's AFLW2000-3D-Reannotated.pts68.npy"),
    option("--names", metavar="FILE", help="the photos of its rows, a name a line"),
    option("--bfm", metavar="FOLDER", help="Model_Shape.mat, Model_Exp.mat: dense errors too"),
    option("--other", type=_named, action="append", default=[], metavar="NAME=NPZ", help=POINTS),
)
FLORENCE = (
    FOLDER,
    JSON,
    option("--form", choices=("deng", "prnet"), default="deng", help="not comparable (docs/protocols.md)"),
    option("--yaw", type=an_angle, nargs="+", metavar="DEG", help="PRNet's grid (default: -80 -40 0 40 80)"),
    option("--pitch", type=an_angle, nargs="+", metavar="DEG", help="PRNet's grid (default: -15 0 20 25)"),
    option("--limit", type=a_count, metavar="N", help="the first N subjects only"),
)
SCAN = (
    option("obj"),
    TEXTURE,
    option("--landmarks", required=True, metavar="JSON", help="points of the scan, in its unit"),
    UNIT,
    JSON,
    option("--yaw", type=an_angle, nargs="+", default=[-60, -30, 0, 30, 60], metavar="DEG"),
    option("--pitch", type=an_angle, nargs="+", default=[0], metavar="DEG"),
    option("--flat", action="store_true", help="draw the texture as it is: it holds its light already"),
)
IDENTITY = (
    option("folder", help="photos named PERSON_anything.jpg, of two people or more"),
    MAY_JSON,
    option("--scan", metavar="OBJ", help="a textured head scan, turned beside synthetic heads"),
    TEXTURE,
    option("--landmarks", metavar="JSON", help="points of the scan, in its unit"),
    UNIT,
)
LIKENESS = option("folder", help="NNN_neutral.jpg, NNN_smiling.jpg and labels.npz (data/portraits)"), MAY_JSON
ROBUSTNESS = FOLDER, MAY_JSON, PHOTOS
VERBS = (
    Verb("aflw2000", "photos with .mat files in AFLW2000-3D's layout", AFLW2000, _aflw2000),
    Verb("florence", "scans in MICC Florence's layout, in Deng's form or PRNet's", FLORENCE, _florence),
    Verb("scan", "one textured head scan, drawn at several yaws, in Deng's form", SCAN, _scan),
    Verb("identity", "does the identity change with a smile, or with a turn of the head?", IDENTITY, _identity),
    Verb("likeness", "does the face look like the person? portraits with points placed by hand", LIKENESS, _likeness),
    Verb("robustness", "error by covered share and by expression, on aflw2000's photos", ROBUSTNESS, _robustness),
)
