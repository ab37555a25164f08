"""params.yaml as a file: where the project is, what the file says, and the profiles that rewrite it.

`params.yaml` is always the whole effective configuration. `profiles/embedded.yaml` is its committed text; every other
profile holds only what it changes of that, or of the profile that its key `base` names. Nothing heavy is imported
here: `params` gives the values their types.
"""

import difflib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from mlanet_lib.errors import UserError
from mlanet_lib.files import atomic_path

PARAMS_FILE = "params.yaml"
EMBEDDED = "embedded"


def find_root(start: str | Path | None = None) -> Path:
    """The project's folder: the one with params.yaml and dvc.yaml, at or above `start` (default: where we are).

    The environment variable MLANET_ROOT, where set, is believed instead. One rule for a shell, JupyterLab (which works
    in the notebook's folder), papermill (in the root) and nbval (in the folder of a copy). UserError if there is none.
    """
    told = os.environ.get("MLANET_ROOT")
    here = Path(start or Path.cwd()).resolve()
    candidates = [Path(told).resolve()] if told and start is None else [here, *here.parents]
    for folder in candidates:
        if (folder / PARAMS_FILE).is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"no mlanet project at or above {candidates[0]} (no {PARAMS_FILE} beside a dvc.yaml)")


def read_yaml(path: str | Path, keep_comments: bool = False) -> dict:
    """The mapping in a YAML 1.2 file (1e-4 is a number). UserError, with the line, if it is none."""
    path = Path(path)
    try:
        found = YAML(typ="rt" if keep_comments else "safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path.name}{line} is not YAML: {error.problem}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path.name} must hold names and values")
    return found


def walk(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of everything in nested mappings: the mappings themselves and what they hold."""
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from walk(value, f"{prefix}{key}.")


def merge(base: dict, changes: dict) -> dict:
    """`changes` over a copy of `base`, mapping by mapping; lists and single values are replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def nested(dotted: dict[str, object]) -> dict:
    """{"train.lr": 1} -> {"train": {"lr": 1}}."""
    result: dict = {}
    for key, value in dotted.items():
        *folders, last = key.split(".")
        place = result
        for name in folders:
            place = place.setdefault(name, {})
        place[last] = value
    return result


def unknown_key(where: str, key: str, known) -> UserError:
    """The error for a name that is not there, with the nearest one that is: `params.yaml: train.lrr is unknown...`.

    known: the names that are, dotted or not; the last parts are compared, those beside the missing one first.
    """
    folder, _, word = key.rpartition(".")
    beside = [name for name in known if name.rpartition(".")[0] in (folder, "")]
    close = difflib.get_close_matches(word, [name.rpartition(".")[2] for name in beside or known], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(beside or known)[:20])}"
    return UserError(f"{where}: {key} is unknown, {hint}")


def profile_names(root: str | Path) -> list[str]:
    """Names of the profiles in `root`/profiles."""
    return sorted(path.stem for path in (Path(root) / "profiles").glob("*.yaml"))


def profile_text(name: str, root: str | Path) -> str:
    """The whole params.yaml of a profile: embedded's text, its bases' values and its own put in, comments kept.

    A profile may change only what embedded has, except that it may name ablation variants of its own (a mapping whose
    embedded keys are free). UserError for an unknown profile, base or key.
    """
    folder = Path(root) / "profiles"
    layers = _layers(name, root)
    text = (folder / f"{EMBEDDED}.yaml").read_text(encoding="utf-8")
    if name == EMBEDDED:
        return text
    whole = read_yaml(folder / f"{EMBEDDED}.yaml", keep_comments=True)
    for layer, changes in layers:
        _put(whole, changes, f"profiles/{layer}.yaml", "")
    writer = YAML(typ="rt")
    writer.width, writer.preserve_quotes = 4096, True
    stream = io.StringIO()
    writer.dump(whole, stream)
    return stream.getvalue()


def _layers(name: str, root: str | Path, above: tuple[str, ...] = ()) -> list[tuple[str, dict]]:
    """(profile, what it changes) from the one that changes embedded to `name`, by `base`; `above` build on `name`."""
    where = f"profiles/{above[-1]}.yaml: " if above else ""
    if name not in profile_names(root):
        raise UserError(f"{where}no profile {name!r}; choose one of {', '.join(profile_names(root))}")
    if name in above:
        raise UserError(f"{where}base: {name} builds on itself")
    if name == EMBEDDED:
        return []
    changes = read_yaml(Path(root) / "profiles" / f"{name}.yaml", keep_comments=True)
    return [*_layers(changes.pop("base", EMBEDDED), root, (*above, name)), (name, changes)]


def _put(target: dict, changes: dict, where: str, prefix: str) -> None:
    """Write `changes` into a commented mapping in place; a mapping whose names are free is replaced whole."""
    for key, value in changes.items():
        dotted = f"{prefix}{key}"
        if key not in target:
            raise unknown_key(where, dotted, target)
        if isinstance(value, dict) and isinstance(target[key], dict) and dotted not in FREE_MAPPINGS:
            _put(target[key], value, where, f"{dotted}.")
        else:
            target[key] = value


def check_keys(values: dict, root: str | Path) -> None:
    """UserError for the first key of params.yaml that the embedded profile does not have: a typo, read before all else.

    Cheap, and without torch; `params.parse_params` checks types and ranges too. Nothing is checked where there are no
    profiles.
    """
    if EMBEDDED not in profile_names(root):
        return
    known = list(dict(walk(read_yaml(Path(root) / "profiles" / f"{EMBEDDED}.yaml"))))
    for key, _ in walk(values):
        if key not in known and not key.startswith(tuple(f"{mapping}." for mapping in FREE_MAPPINGS)):
            parent = key.rpartition(".")[0]
            raise unknown_key(PARAMS_FILE, key, [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent])


FREE_MAPPINGS = ("ablation.base", "ablation.variants", "data.sources")
"""Where names are the user's: a profile replaces these mappings whole."""


def use_profile(name: str, root: str | Path | None = None, force: bool = False) -> Path:
    """Make params.yaml the profile's, and return its path. `use_profile("embedded")` restores it byte for byte.

    Values edited by hand since the last profile would be lost: without `force` that is a UserError that names them.
    """
    root = Path(root) if root else find_root()
    text, path = profile_text(name, root), root / PARAMS_FILE
    if path.is_file() and not force and (edited := _edited_keys(root, path)):
        shown = ", ".join(edited[:5]) + (f" and {len(edited) - 5} more" if len(edited) > 5 else "")
        raise UserError(f"{PARAMS_FILE} was edited ({shown}); --force drops these edits")
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())
    return path


def _edited_keys(root: Path, path: Path) -> list[str]:
    """Dotted keys of params.yaml whose values are not those of the profile it names."""
    now = read_yaml(path)
    profile = now.get("profile")
    if profile not in profile_names(root):
        return ["profile"]
    was = dict(walk(YAML(typ="safe").load(profile_text(profile, root))))
    now = dict(walk(now))
    leaves = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
    return [key for key in leaves if not any(other.startswith(f"{key}.") for other in leaves)]


def parameter_keys(values: dict) -> dict[str, str]:
    """Name of a notebook parameter -> dotted key of params.yaml: `train_lr` is `train.lr`."""
    names: dict[str, str] = {}
    for key, _ in walk(values):
        names.setdefault(key.replace(".", "_"), key)
    return names
