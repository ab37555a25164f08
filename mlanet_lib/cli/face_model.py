"""The verb `mlanet face-model`: build, convert and check face models. Heavy imports are in the actions."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlanet_lib.cli.options import a_path
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import check_target

if TYPE_CHECKING:
    from mlanet_lib.face_model import MorphableModel

DEFAULT = "data/face_models/ict.npz"
CONVERTER = "bfm2009"
NO_LONDON = (
    "--london FOLDER is missing: the skin is learned from the Face Research Lab London Set "
    "(doi.org/10.6084/m9.figshare.5047666, CC BY 4.0), a folder of 62 people's photos, NNN_neutral.jpg and "
    "NNN_smiling.jpg, with labels.npz, as mlanet_lib/face_sources/london.py has it. The built model comes with the "
    "data: dvc pull data.dvc"
)


def add_actions(actions: Any) -> None:
    """Add the actions to the subparsers of `face-model`."""
    verb = actions.add_parser("build", help="make the default face model again, of ICT-FaceKit and the London Set")
    verb.add_argument("--ict", type=a_path, metavar="FOLDER|ARCHIVE", help="FaceXModel (default: fetched, 417 MB; MIT)")
    verb.add_argument("--london", type=a_path, metavar="FOLDER", help="photos and labels.npz of the London Set")
    verb.add_argument("--out", type=a_path, default=Path(DEFAULT), metavar="FILE", help=f"(default: {DEFAULT})")
    verb.set_defaults(run=_build)
    verb = actions.add_parser("convert", help=f"another face model -> the project's format ({CONVERTER})")
    verb.add_argument("kind", metavar="KIND")
    verb.add_argument("source", type=a_path)
    verb.add_argument("--out", type=a_path, required=True, metavar="FILE")
    verb.set_defaults(run=_convert)
    verb = actions.add_parser("check", help="say what a face model, a folder or an archive of one holds or lacks")
    verb.add_argument("file", type=a_path, nargs="?", default=Path(DEFAULT), metavar="PATH")
    verb.set_defaults(run=_check)


def describe(model: "MorphableModel") -> str:
    """One line about a MorphableModel."""
    size = (model.mean.amax(0) - model.mean.amin(0)).tolist()
    return (
        f"{model.name}, {len(model.mean):,} vertices, {len(model.faces):,} faces, {model.n_identity} identity, "
        f"{model.n_expression} expression and {model.n_albedo} albedo modes, "
        f"{' x '.join(f'{side:.0f}' for side in size)} mm, fingerprint {model.fingerprint[:12]}"
    )


def _save(model: "MorphableModel", path: Path) -> None:
    model.save(path)
    print(f"{path}: {describe(model)}")


def _build(options: argparse.Namespace) -> None:
    check_target(options.out, [path for path in (options.ict, options.london) if path])
    if options.london is None:
        raise UserError(NO_LONDON)
    from mlanet_lib.face_sources import london
    from mlanet_lib.face_sources.ict import build, fetch

    london.read_folder(options.london)  # what is wrong with it is said before anything is fetched
    _save(build.build(options.ict or fetch.ict_facekit(), options.london), options.out)


def _convert(options: argparse.Namespace) -> None:
    if options.kind != CONVERTER:
        raise UserError(f"no converter for {options.kind!r} here; present: {CONVERTER}")
    check_target(options.out, [options.source])
    from mlanet_lib.face_sources.bfm2009 import convert

    _save(convert.convert(options.source, albedo_from=DEFAULT), options.out)


def _check(options: argparse.Namespace) -> int:
    path = options.file
    if not (path.is_file() or path.is_dir()):
        raise UserError(
            f"face model not found: {path}" if not path.exists() else f"{path}: neither a file nor a folder"
        )
    from mlanet_lib.face_model import MorphableModel
    from mlanet_lib.face_sources.bfm2009 import convert
    from mlanet_lib.face_sources.ict import facekit

    if path.suffix == ".npz":
        print(f"{path}: {describe(MorphableModel.load(path))}")
        return 0
    said = facekit.identify(path) or convert.identify(path)
    if said is None:
        raise UserError(f"{path}: no face model that is known here (.npz, ICT-FaceKit, BFM 2009)")
    usable = "whole" in said or ": complete" in said
    print(f"{path}: {said}", file=sys.stdout if usable else sys.stderr)
    return 0 if usable else 2
