"""The verb `mlanet face-model`: build, fetch, convert and check face models. Heavy imports are in the actions."""

import sys
from pathlib import Path

from mlanet_lib.cli_options import a_path
from mlanet_lib.errors import UserError
from mlanet_lib.outputs import check_target

ANTHROPOMETRIC = "data/face_models/anthropometric.npz"
LICENSED = Path("licensed/face_models")
CONVERTERS = ("ict_facekit", "bfm2009")


def add_actions(actions) -> None:
    """Add the actions to the subparsers of `face-model`."""
    verb = actions.add_parser("build", help="write the anthropometric face model (needs no download)")
    verb.add_argument("--out", type=a_path, default=Path(ANTHROPOMETRIC), metavar="FILE")
    verb.set_defaults(run=_build)
    verb = actions.add_parser("fetch", help="ICT-FaceKit's face model (MIT, 417 MB): download, check, convert")
    verb.add_argument("kind", choices=("ict",), metavar="KIND", help="ict")
    verb.add_argument("--from", dest="source", type=a_path, metavar="FOLDER|ARCHIVE", help="a copy: no download")
    verb.add_argument("--cut", choices=("face", "narrow", "head"), default="face", help="how much of the head")
    verb.add_argument("--jawline", choices=("substitute", "multipie"), default="substitute", help="points 0-16")
    verb.add_argument("--out", type=a_path, metavar="FILE", help=f"(default: {LICENSED}/ict_facekit.npz)")
    verb.set_defaults(run=_fetch)
    verb = actions.add_parser("convert", help=f"another face model -> the project's format ({', '.join(CONVERTERS)})")
    verb.add_argument("kind", metavar="KIND")
    verb.add_argument("source", type=a_path)
    verb.add_argument("--out", type=a_path, required=True, metavar="FILE")
    verb.set_defaults(run=_convert)
    verb = actions.add_parser("check", help="say what a face model, a folder or an archive of one holds or lacks")
    verb.add_argument("file", type=a_path, nargs="?", default=Path(ANTHROPOMETRIC), metavar="PATH")
    verb.set_defaults(run=_check)


def describe(model) -> str:
    """One line about a MorphableModel."""
    size = (model.mean.amax(0) - model.mean.amin(0)).tolist()
    return (
        f"{model.name}, {len(model.mean):,} vertices, {len(model.faces):,} faces, {model.n_identity} identity, "
        f"{model.n_expression} expression and {model.n_albedo} albedo modes, "
        f"{' x '.join(f'{side:.0f}' for side in size)} mm, fingerprint {model.fingerprint[:12]}"
    )


def _save(model, path: Path) -> None:
    model.save(path)
    print(f"{path}: {describe(model)}")


def _build(options) -> None:
    check_target(options.out)
    from mlanet_lib.face_models import anthropometric

    _save(anthropometric.build(), options.out)


def _fetch(options) -> None:
    check_target(options.out or LICENSED / "ict_facekit.npz", [options.source] if options.source else ())
    from mlanet_lib import fetch
    from mlanet_lib.face_models import ict_facekit

    found = ict_facekit.read(options.source or fetch.ict_facekit())
    if changed := found.changed():
        print(f"mlanet: note: not as published: {', '.join(changed)}", file=sys.stderr)
    model = ict_facekit.convert(found, options.cut, options.jawline)
    _save(model, options.out or LICENSED / f"{model.name}.npz")
    print("ICT-FaceKit has no albedo: it is carried over from the anthropometric model.")


def _convert(options) -> None:
    if options.kind not in CONVERTERS:
        raise UserError(f"no converter for {options.kind!r} here; present: {', '.join(CONVERTERS)}")
    check_target(options.out, [options.source])
    from importlib import import_module

    _save(import_module(f"mlanet_lib.face_models.{options.kind}").convert(options.source), options.out)


def _check(options) -> int:
    path = options.file
    if not (path.is_file() or path.is_dir()):
        raise UserError(
            f"face model not found: {path}" if not path.exists() else f"{path}: neither a file nor a folder"
        )
    from mlanet_lib.face_model import MorphableModel
    from mlanet_lib.face_models import bfm2009, ict_facekit

    if path.suffix == ".npz":
        said = describe(MorphableModel.load(path))
    elif not (said := ict_facekit.identify(path) or bfm2009.identify(path)):
        raise UserError(f"{path}: no face model that is known here (.npz, ICT-FaceKit, BFM 2009)")
    elif "whole" not in said and ": complete" not in said:
        print(f"{path}: {said}", file=sys.stderr)
        return 2
    print(f"{path}: {said}")
    return 0
