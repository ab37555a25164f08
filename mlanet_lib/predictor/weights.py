"""Finding weights and face models, and the defaults when none is named."""

from pathlib import Path

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.project import library_root
from mlanet_lib.network import checkpoint
from mlanet_lib.predictor.graph import ENDING, write_graph

SHIPPED, STANDARD = "weights", "ict"
FACE_MODELS = ("data/face_models", "licensed/face_models")
TRAINED_HERE = "outputs/train/best.safetensors"


def named_weights(weights: str | Path = "auto", root: Path | None = None) -> Path:
    """The checkpoint at a path, the shipped one of a name (`ict`), or for "auto" `find_weights`.

    UserError, with the names that there are, for a path or a name that is none.
    """
    if str(weights) == "auto":
        return find_weights(root)
    if Path(weights).is_file():
        return Path(weights)
    shipped = shipped_weights(root)
    if str(weights) in shipped:
        return shipped[str(weights)]
    raise UserError(f"checkpoint not found: {weights} (shipped, by name: {', '.join(shipped) or 'none here'})")


def find_weights(root: Path | None = None) -> Path:
    """The shipped weights whose face model is present, `ict` first; else those trained here; else shipped weights
    without a face model (loading them explains how to get it). A UserError says what to run."""
    root = root or library_root()
    shipped, trained = shipped_weights(root), root / TRAINED_HERE
    usable = [path for name, path in shipped.items() if any(p.is_file() for p in _face_model_paths(name, root))]
    if found := [*usable, *([trained] if trained.is_file() else []), *shipped.values()]:
        return found[0]
    pull = "dvc pull weights.dvc, or " if (root / "weights.dvc").is_file() else ""
    raise UserError(f"no weights here yet: run {pull}make repro, or name a checkpoint with --weights")


def shipped_weights(root: Path | None = None) -> dict[str, Path]:
    """Name -> path of the shipped weights, NAME.safetensors in `weights/`, NAME a face model's; the standard first."""
    paths = sorted(shipped_folder(root).glob("*.safetensors"))
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem != STANDARD)}


def shipped_folder(root: Path | None = None) -> Path:
    """The folder of the shipped weights and their graphs."""
    return (root or library_root()) / SHIPPED


def ship(source: str | Path = TRAINED_HERE, root: Path | None = None) -> Path:
    """Write a checkpoint's weights, in half precision, as the shipped ones of its face model, and its network's graph
    beside them (`graph`); return the weights' path."""
    root = root or library_root()
    source = root / source
    name = checkpoint.read_metadata(source)["face_model"]["name"]
    model = MorphableModel.load(find_face_model(name, root))
    network, _ = checkpoint.load_network(source, model)
    path = shipped_folder(root) / f"{name}.safetensors"
    checkpoint.export_weights(source, path)
    write_graph(network, path.with_suffix(ENDING))
    return path


def find_face_model(name: str, root: Path | None = None) -> Path:
    """Path of the face model called `name`: NAME.npz in the first of FACE_MODELS; UserError says what to run."""
    for path in _face_model_paths(name, root or library_root()):
        if path.is_file():
            return path
    advice = "nothing here makes it: name other weights, or train anew (make repro)"
    if name == STANDARD:
        advice = "run dvc pull data.dvc"
    elif name.startswith("bfm2009"):
        advice = "run mlanet face-model convert bfm2009"
    raise UserError(f"face model {name!r} is not here ({' or '.join(FACE_MODELS)}/{name}.npz): {advice}")


def _face_model_paths(name: str, root: Path) -> list[Path]:
    return [root / folder / f"{name}.npz" for folder in FACE_MODELS]
