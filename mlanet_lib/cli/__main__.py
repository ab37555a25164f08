"""The command `mlanet`. What is heavy is imported by the verb that needs it, so that `mlanet --help` is quick.

Wrong input is one line on stderr and exit code 2, and leaves nothing half-written.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlanet_lib import __version__
from mlanet_lib.cli import data, export, face_model, reconstruct, train
from mlanet_lib.cli import options as cli_options
from mlanet_lib.cli.options import a_count, a_path, an_angle, network_options
from mlanet_lib.errors import UserError, one_line
from mlanet_lib.files.outputs import MARK, check_target


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0, 2 for wrong input, 130 after Ctrl-C, 143 after SIGTERM).

    Whatever goes wrong is one line on stderr; with MLANET_TRACEBACK set in the environment, where it arose, too.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or a file that knows ASCII only
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminable():
            options = build_parser().parse_args(arguments)
            _check_working_directory()
            code = options.run(options) or 0
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        print("mlanet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        _drop_stdout()
        return 0
    except Exception as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # processes that train together say it once a machine
            print(f"mlanet: {one_line(error)}", file=sys.stderr)
        _drop_unwritable()
        return 2


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that what it was writing is removed; exit code 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError("the working directory is not there any more: cd to one that is") from error


def _drop_unwritable() -> None:
    """What cannot be printed (a full disk) is not tried again when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    parser = _Parser(prog="mlanet", description="3D faces from single photos: reconstruct, evaluate, build the data.")
    parser.add_argument("--version", action="version", version=f"mlanet {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    verb = verbs.add_parser("reconstruct", help="photos -> meshes (GLB, OBJ) and parameters of every face; videos")
    reconstruct.add_options(verb)

    verb = verbs.add_parser("evaluate", help="a benchmark folder -> metrics in their published protocol")
    sets = verb.add_subparsers(required=True, metavar="BENCHMARK")
    verb = sets.add_parser("aflw2000", help="photos with .mat files in AFLW2000-3D's layout")
    verb.add_argument("folder", type=a_path)
    verb.add_argument("--json", required=True, type=a_path, metavar="OUT")
    verb.add_argument("--box", choices=("truth", "detector"), default="truth", help="where the crop comes from")
    verb.add_argument("--limit", type=a_count, metavar="N", help="the first N photos only")
    verb.add_argument("--labels", choices=("original", "reannotated"), default="original", help="which 68 points")
    verb.add_argument("--reannotated", type=a_path, metavar="FILE", help="3DDFA's AFLW2000-3D-Reannotated.pts68.npy")
    verb.add_argument("--names", type=a_path, metavar="FILE", help="the photos of its rows, a name a line")
    verb.add_argument("--bfm", type=a_path, metavar="FOLDER", help="Model_Shape.mat, Model_Exp.mat: dense errors too")
    verb.add_argument(
        "--other",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=NPZ",
        help="a system's points: names, landmarks68",
    )
    network_options(verb)
    verb.set_defaults(run=_evaluate_aflw2000)
    verb = sets.add_parser("florence", help="scans in MICC Florence's layout, in Deng's form or PRNet's")
    verb.add_argument("folder", type=a_path)
    verb.add_argument("--json", required=True, type=a_path, metavar="OUT")
    verb.add_argument("--form", choices=("deng", "prnet"), default="deng", help="not comparable (docs/protocols.md)")
    verb.add_argument("--yaw", type=an_angle, nargs="+", metavar="DEG", help="PRNet's grid (default: -80 -40 0 40 80)")
    verb.add_argument("--pitch", type=an_angle, nargs="+", metavar="DEG", help="PRNet's grid (default: -15 0 20 25)")
    verb.add_argument("--limit", type=a_count, metavar="N", help="the first N subjects only")
    network_options(verb)
    verb.set_defaults(run=_evaluate_florence)
    verb = sets.add_parser("scan", help="one textured head scan, drawn at several yaws, in Deng's form")
    verb.add_argument("obj", type=a_path)
    verb.add_argument("--texture", type=a_path, metavar="PICTURE", help="default: what the OBJ's .mtl names")
    verb.add_argument("--landmarks", required=True, type=a_path, metavar="JSON", help="points of the scan, in its unit")
    verb.add_argument("--unit", choices=("mm", "cm", "m"), default="mm", help="of the scan's lengths (default: mm)")
    verb.add_argument("--json", required=True, type=a_path, metavar="OUT")
    verb.add_argument("--yaw", type=an_angle, nargs="+", default=[-60, -30, 0, 30, 60], metavar="DEG")
    verb.add_argument("--pitch", type=an_angle, nargs="+", default=[0], metavar="DEG")
    verb.add_argument("--flat", action="store_true", help="draw the texture as it is: it holds its light already")
    network_options(verb)
    verb.set_defaults(run=_evaluate_scan)
    verb = sets.add_parser("identity", help="does the identity change with a smile, or with a turn of the head?")
    verb.add_argument("folder", type=a_path, help="photos named PERSON_anything.jpg, of two people or more")
    verb.add_argument("--json", type=a_path, metavar="OUT")
    verb.add_argument("--scan", type=a_path, metavar="OBJ", help="a textured head scan, turned beside synthetic heads")
    verb.add_argument("--texture", type=a_path, metavar="PICTURE", help="default: what the OBJ's .mtl names")
    verb.add_argument("--landmarks", type=a_path, metavar="JSON", help="points of the scan, in its unit")
    verb.add_argument("--unit", choices=("mm", "cm", "m"), default="mm", help="of the scan's lengths (default: mm)")
    network_options(verb)
    verb.set_defaults(run=_evaluate_identity)
    verb = sets.add_parser("likeness", help="does the face look like the person? portraits with points placed by hand")
    verb.add_argument("folder", type=a_path, help="NNN_neutral.jpg, NNN_smiling.jpg and labels.npz (data/portraits)")
    verb.add_argument("--json", type=a_path, metavar="OUT")
    network_options(verb)
    verb.set_defaults(run=_evaluate_likeness)
    verb = sets.add_parser("robustness", help="error by covered share and by expression, on aflw2000's photos")
    verb.add_argument("folder", type=a_path)
    verb.add_argument("--json", type=a_path, metavar="OUT")
    verb.add_argument("--limit", type=a_count, metavar="N", help="the first N photos only")
    network_options(verb)
    verb.set_defaults(run=_evaluate_robustness)

    verb = verbs.add_parser("train", help="train what params.yaml says, alone or under torchrun, accelerate launch")
    train.add_options(verb)

    verb = verbs.add_parser("export", help="a trained encoder -> one file for ONNX runtimes or torch.export")
    export.add_options(verb)

    verb = verbs.add_parser("face-model", help="build, convert or check a face model")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    face_model.add_actions(actions)

    verb = verbs.add_parser("data", help="check that the data are here and whole")
    data.add_actions(verb.add_subparsers(required=True, metavar="ACTION"))

    verb = verbs.add_parser("profile", help="embedded, open or paper: what params.yaml says")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    verb = actions.add_parser("use", help="write a profile into params.yaml")
    verb.add_argument("name")
    verb.add_argument("--force", action="store_true", help="drop edits made by hand")
    verb.set_defaults(run=_use_profile)
    actions.add_parser("list", help="the profiles there are").set_defaults(run=_list_profiles)
    return parser


def _named(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NPZ")
    return name, path


def _check_json(options) -> None:
    """The JSON can be written, and is none of the files and folders that are read."""
    given = [value for name, value in vars(options).items() if isinstance(value, Path) and name != "json"]
    given += [Path(path) for _, path in getattr(options, "other", [])] + [Path(options.weights)]
    check_target(options.json, given)


def _write_json(path: Path, result) -> None:
    from mlanet_lib.files.records import write_json

    write_json(path, {"generator": MARK, **result.summary})
    print(f"written: {path}")


def _evaluate_aflw2000(options) -> int:
    _check_json(options)
    from mlanet_lib.evaluation import sparse
    from mlanet_lib.face_sources.bfm2009.raw import RawBfm

    bfm = RawBfm.load(options.bfm) if options.bfm else None
    predictor = cli_options.load_predictor(options)
    result = sparse.evaluate_aflw2000(
        options.folder,
        predictor,
        box=options.box,
        limit=options.limit,
        labels=options.labels,
        reannotated=options.reannotated,
        names=options.names,
        bfm=bfm,
        others=options.other,
    )
    print(sparse.summary(result))
    _write_json(options.json, result)
    return 0


def _evaluate_florence(options) -> int:
    _check_json(options)
    grid = {name: getattr(options, name) for name in ("yaw", "pitch") if getattr(options, name)}
    if grid and options.form == "deng":
        raise UserError("--yaw and --pitch belong to --form prnet: Deng's form takes the folder's pictures")
    from mlanet_lib.evaluation import florence

    forms = {"deng": "evaluate_florence", "prnet": "evaluate_florence_prnet"}
    evaluate = getattr(florence, forms[options.form])
    result = evaluate(options.folder, cli_options.load_predictor(options), limit=options.limit, **grid)
    print(florence.summary_text(result))
    _write_json(options.json, result)
    return 0


def _evaluate_scan(options) -> int:
    _check_json(options)
    from mlanet_lib.data.sets.scans import read_scan
    from mlanet_lib.evaluation import scans

    scan = read_scan(options.obj, options.landmarks, options.unit, options.texture)
    grid = {"yaw": options.yaw, "pitch": options.pitch}
    result = scans.evaluate_scan(
        scan, cli_options.load_predictor(options), options.obj.name, lit=not options.flat, **grid
    )
    print(scans.summary_text(result))
    _write_json(options.json, result)
    return 0


def _evaluate_identity(options) -> int:
    if options.json:
        _check_json(options)
    if (options.scan is None) != (options.landmarks is None) or (options.texture and not options.scan):
        raise UserError("--scan OBJ and --landmarks JSON go together, and --texture with both")
    from mlanet_lib.data.sets.scans import read_scan
    from mlanet_lib.evaluation import identity

    scan, name = None, ""
    if options.scan:
        scan = read_scan(options.scan, options.landmarks, options.unit, options.texture)
        name = options.scan.name
    result = identity.evaluate_identity(options.folder, cli_options.load_predictor(options), scan, name)
    print(identity.summary_text(result))
    if options.json:
        _write_json(options.json, result)
        return 0


def _evaluate_likeness(options) -> int:
    if options.json:
        _check_json(options)
    from mlanet_lib.evaluation import likeness

    result = likeness.evaluate_likeness(options.folder, cli_options.load_predictor(options))
    print(likeness.summary_text(result))
    if options.json:
        _write_json(options.json, result)
    return 0


def _evaluate_robustness(options) -> int:
    if options.json:
        _check_json(options)
    from mlanet_lib.evaluation import robustness

    result = robustness.evaluate_robustness(options.folder, cli_options.load_predictor(options), limit=options.limit)
    print(robustness.summary_text(result))
    if options.json:
        _write_json(options.json, result)
        return 0


def _use_profile(options) -> int:
    from mlanet_lib.study.profiles import use_profile

    print(f"{use_profile(options.name, force=options.force)} is now the profile {options.name!r}")
    return 0


def _list_profiles(options) -> int:
    from mlanet_lib.files.project import find_root, read_yaml
    from mlanet_lib.study.profiles import profile_names

    root = find_root()
    current = read_yaml(root / "params.yaml").get("profile")
    for name in profile_names(root):
        print(f"{name}{'   (in params.yaml)' if name == current else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
