"""The command `mlanet`. What is heavy is imported by the verb that needs it, so that `mlanet --help` is quick.

Wrong input is one line on stderr and exit code 2, and leaves nothing half-written.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mlanet_lib import __version__
from mlanet_lib.errors import UserError

ANTHROPOMETRIC = "data/face_models/anthropometric.npz"
CONVERTERS = ("ict_facekit", "bfm2009")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0, 2 for wrong input, 130 after Ctrl-C)."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"mlanet: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlanet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    parser = _Parser(prog="mlanet", description="3D faces from single photos: reconstruct, evaluate, build the data.")
    parser.add_argument("--version", action="version", version=f"mlanet {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    verb = verbs.add_parser("reconstruct", help="photos -> meshes (GLB, OBJ), overlay and parameters of every face")
    verb.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    verb.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for STEM_0.glb, STEM_0.obj, ...")
    verb.add_argument("--texture", choices=("albedo", "photo"), default="albedo", help="what colours the mesh")
    verb.add_argument("--cropped", action="store_true", help="the photos are face crops already: no detector")
    _network_options(verb)
    verb.set_defaults(run=_reconstruct)

    verb = verbs.add_parser("evaluate", help="a benchmark folder -> metrics in their published protocol")
    sets = verb.add_subparsers(required=True, metavar="BENCHMARK")
    verb = sets.add_parser("aflw2000", help="photos with .mat files in AFLW2000-3D's layout")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--json", required=True, type=Path, metavar="OUT")
    verb.add_argument("--box", choices=("truth", "detector"), default="truth", help="where the crop comes from")
    verb.add_argument("--limit", type=int, metavar="N", help="the first N photos only")
    _network_options(verb)
    verb.set_defaults(run=_evaluate_aflw2000)

    verb = verbs.add_parser("face-model", help="build, convert or check a face model file")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    verb = actions.add_parser("build", help="write the anthropometric face model (needs no download)")
    verb.add_argument("--out", type=Path, default=Path(ANTHROPOMETRIC), metavar="FILE")
    verb.set_defaults(run=_build_face_model)
    verb = actions.add_parser("convert", help=f"another face model -> the project's format ({', '.join(CONVERTERS)})")
    verb.add_argument("kind", metavar="KIND")
    verb.add_argument("source", type=Path)
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")
    verb.set_defaults(run=_convert_face_model)
    verb = actions.add_parser("check", help="say what a face model file holds, or what is wrong with it")
    verb.add_argument("file", type=Path, nargs="?", default=Path(ANTHROPOMETRIC))
    verb.set_defaults(run=_check_face_model)

    verb = verbs.add_parser("data", help="check that the data are here and whole")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("check", help="face model, benchmark folders, weights").set_defaults(run=_check_data)

    verb = verbs.add_parser("profile", help="embedded, open or paper: what params.yaml says")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    verb = actions.add_parser("use", help="write a profile into params.yaml")
    verb.add_argument("name")
    verb.add_argument("--force", action="store_true", help="drop edits made by hand")
    verb.set_defaults(run=_use_profile)
    actions.add_parser("list", help="the profiles there are").set_defaults(run=_list_profiles)
    return parser


def _network_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--weights", default="auto", metavar="W", help="a checkpoint (default: the shipped one)")
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    verb.add_argument("--backend", default="auto", help="rasterizer (default: the best one here)")


def _reconstruct(options) -> int:
    stems: dict[str, Path] = {}
    for photo in options.photos:
        if (other := stems.setdefault(photo.stem, photo)) is not photo:
            raise UserError(f"{other} and {photo} would write the same files ({photo.stem}_0.glb): rename one")
    _check_writable(options.out)
    predictor = _predictor(options)
    from tqdm.auto import tqdm

    failed = 0
    for photo in tqdm(options.photos, unit="photo", disable=len(options.photos) == 1 or not sys.stderr.isatty()):
        try:
            _reconstruct_one(photo, predictor, options)
        except UserError as error:  # the other photos still get their meshes
            tqdm.write(f"mlanet: {' '.join(str(error).split())}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


def _reconstruct_one(photo: Path, predictor, options) -> None:
    from tqdm.auto import tqdm

    from mlanet_lib.datasets.sample import Box
    from mlanet_lib.detector import read_photo
    from mlanet_lib.export import albedo_texture, photo_texture, write_face

    image = read_photo(photo)
    height, width = image.shape[:2]
    faces = predictor.faces(image, [Box(0, 0, width, height)] if options.cropped else None)
    if not faces:
        raise UserError(f"{photo}: no face found")
    for number, face in enumerate(faces):
        stem = f"{photo.stem}_{number}"
        if options.texture == "photo":
            texture = photo_texture(predictor.model, face.parameters, predictor.sharp_crop(image, face))
        else:
            texture = albedo_texture(predictor.model, face.parameters, backend=options.backend)
        record = {"photo": photo.name, "photo_size": [width, height], **predictor.record(face)}
        overlay = predictor.overlay(image, face, options.backend)
        write_face(options.out, stem, predictor.model, face.parameters, record, overlay, texture)
        pose = ", ".join(f"{axis} {value:+.0f}°" for axis, value in face.pose_degrees.items())
        tqdm.write(
            f"{photo.name}: face {number} -> {options.out / stem}.glb .obj .png .json ({pose}, score {face.score:.2f})"
        )


def _evaluate_aflw2000(options) -> int:
    _check_writable(options.json.parent)
    from mlanet_lib import evaluation

    predictor = _predictor(options)
    result = evaluation.evaluate_aflw2000(options.folder, predictor, box=options.box, limit=options.limit)
    evaluation.write_json(options.json, result)
    print(evaluation.summary(result))
    print(f"written: {options.json}")
    return 0


def _predictor(options):
    import torch

    from mlanet_lib.predictor import Predictor
    from mlanet_lib.rasterizer import choose

    try:
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {options.device!r} is not to be had here: {str(error).splitlines()[0]}") from error
    choose(options.backend, torch.device("cpu"))
    return Predictor.load(options.weights, device)


def _check_writable(folder: Path) -> None:
    """UserError unless files can be made in `folder`, or the folder itself in its nearest parent. Writes nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot write into {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {folder}: {existing} is read-only")


def _build_face_model(options) -> int:
    _check_writable(options.out.parent)
    from mlanet_lib.face_models import anthropometric

    model = anthropometric.build()
    model.save(options.out)
    print(f"{options.out}: {_describe(model)}")
    return 0


def _convert_face_model(options) -> int:
    present = [kind for kind in CONVERTERS if find_spec(f"mlanet_lib.face_models.{kind}")]
    if options.kind not in present:
        raise UserError(f"no converter for {options.kind!r} here; present: {', '.join(present) or 'none'}")
    _check_writable(options.out.parent)
    from importlib import import_module

    model = import_module(f"mlanet_lib.face_models.{options.kind}").convert(options.source)
    model.save(options.out)
    print(f"{options.out}: {_describe(model)}")
    return 0


def _check_face_model(options) -> int:
    from mlanet_lib.face_model import MorphableModel

    print(f"{options.file}: {_describe(MorphableModel.load(options.file))}")
    return 0


def _describe(model) -> str:
    size = (model.mean.amax(0) - model.mean.amin(0)).tolist()
    return (
        f"{model.name}, {len(model.mean):,} vertices, {len(model.faces):,} faces, {model.n_identity} identity, "
        f"{model.n_expression} expression and {model.n_albedo} albedo modes, "
        f"{' x '.join(f'{side:.0f}' for side in size)} mm, fingerprint {model.fingerprint[:12]}"
    )


def _check_data(options) -> int:
    from mlanet_lib.face_model import MorphableModel
    from mlanet_lib.params import load_params
    from mlanet_lib.predictor import find_weights
    from mlanet_lib.profiles import find_root

    root = find_root()
    params = load_params(root / "params.yaml")
    path = root / params.face_model.path
    if not path.is_file():
        raise UserError(f"face model {params.face_model.path} is not here: run dvc pull data.dvc (or make repro)")
    print(f"face model   {params.face_model.path}: {_describe(MorphableModel.load(path))}")
    for name in ("training", "aflw2000", "florence"):
        folder = root / getattr(params.paths, name)
        files = sum(1 for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
        state = f"{files:,} files" if files else "not here yet (dvc repro makes it)"
        print(f"{name:12} {getattr(params.paths, name)}: {state}")
    try:
        print(f"weights      {find_weights(root).relative_to(root)}")
    except UserError as error:
        print(f"weights      {error}")
    return 0


def _use_profile(options) -> int:
    from mlanet_lib.profiles import use_profile

    print(f"{use_profile(options.name, force=options.force)} is now the profile {options.name!r}")
    return 0


def _list_profiles(options) -> int:
    from mlanet_lib.profiles import find_root, profile_names, read_yaml

    root = find_root()
    current = read_yaml(root / "params.yaml").get("profile")
    for name in profile_names(root):
        print(f"{name}{'   (in params.yaml)' if name == current else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
