"""params.yaml as a file, and the profiles that rewrite it.

`params.yaml` is always the whole effective configuration. `profiles/embedded.yaml` is its committed text; every other
profile holds only what it changes of that, or of the profile that its key `base` names. Nothing heavy is imported
here: `params` gives the values their types.
"""

import difflib
import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import cast

from ruamel.yaml import YAML

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path, check_name
from mlanet_lib.files.project import PARAMS_FILE, find_root, parse_yaml, read_yaml

EMBEDDED = "embedded"


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
            if not isinstance(place, dict):
                raise UserError(f"{key} and a value for all of {key.rpartition('.')[0]} exclude each other")
        place[last] = value
    return result


def unknown_key(where: str, key: str, known: Collection[str]) -> UserError:
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

    A profile may change only keys that embedded has, except that it may name ablation variants of its own (a mapping
    whose embedded keys are free). UserError for an unknown profile, base or key.
    """
    folder = Path(root) / "profiles"
    layers = _layers(name, root)
    known = read_yaml(folder / f"{EMBEDDED}.yaml")
    if name == EMBEDDED:
        return (folder / f"{EMBEDDED}.yaml").read_text(encoding="utf-8")
    whole = read_yaml(folder / f"{EMBEDDED}.yaml", keep_comments=True)
    for layer, changes in layers:
        check_forms(changes, known, f"profiles/{layer}.yaml")
        _put(whole, changes, "")
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


def _put(target: dict, changes: dict, prefix: str) -> None:
    """Write `changes` into a commented mapping in place; a mapping whose names are free is replaced whole."""
    for key, value in changes.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and dotted not in FREE_MAPPINGS:
            _put(target[key], value, f"{dotted}.")
        else:
            target[key] = value


def check_keys(values: dict, root: str | Path) -> None:
    """`check_forms` of params.yaml beside the embedded profile: misspelt keys are reported before all other errors.

    Cheap, and without torch; `params.parse_params` checks types and ranges too. Nothing is checked where there are no
    profiles.
    """
    if EMBEDDED in profile_names(root):
        check_forms(values, read_yaml(Path(root) / "profiles" / f"{EMBEDDED}.yaml"), PARAMS_FILE)


def check_forms(values: dict, known: dict, where: str) -> None:
    """UserError for the first key of `values` that is not in `known` (the embedded profile's), or whose value has
    another form there: a mapping, a list, text, a number; and for a name of the user's that cannot be a file's.
    """
    study = {name: known.get(name, {}) for name in ("network", "train")}
    _check_forms(values, known, where, "", {"ablation.base": study, "ablation.variants": study})


def _check_forms(values: dict, known: dict, where: str, prefix: str, studies: dict[str, dict]) -> None:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in known:
            raise unknown_key(where, dotted, known)
        if not _alike(value, known[key]):
            raise UserError(f"{where}: {dotted} must be {_form(known[key])}, not {_form(value)}")
        inner = studies.get(dotted, known[key])
        if dotted in NAMED_BY_USERS:
            for name, one in value.items():
                check_name(name, f"{where}: {dotted}:")
                if isinstance(one, dict) == (dotted == "benchmark.others"):
                    raise UserError(f"{where}: {dotted}.{name} must be {_form('' if isinstance(one, dict) else {})}")
                if dotted in studies:
                    _check_forms(one, inner, where, f"{dotted}.{name}.", {})
        elif isinstance(value, dict):
            _check_forms(value, inner, where, f"{dotted}.", studies)


def _alike(value: object, known: object) -> bool:
    """Whether a value may stand where the embedded profile has `known`; where that is null any single value may."""
    if known is None:
        return not isinstance(value, dict | list)
    if isinstance(value, list) and isinstance(known, list):
        return not known or all(_alike(item, known[0]) for item in value)
    return _form(value) == _form(known) or (_form(value), _form(known)) == ("a whole number", "a number")


def _form(value: object) -> str:
    """What a value is, in words."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    names |= {dict: "names and values", type(None): "null"}
    return next(text for kind, text in names.items() if isinstance(value, kind))


NAMED_BY_USERS = ("ablation.variants", "benchmark.others", "data.sources")
"""Mappings whose names are the user's, and become names of files."""
FREE_MAPPINGS = ("ablation.base", *NAMED_BY_USERS)
"""What a profile replaces whole."""


def use_profile(name: str, root: str | Path | None = None, force: bool = False) -> Path:
    """Make params.yaml the profile's, and return its path. `use_profile("embedded")` restores it byte for byte.

    Values edited by hand since the last profile would be lost: without `force` that is a UserError that names them.
    """
    root = Path(root) if root else find_root()
    text, path = profile_text(name, root), root / PARAMS_FILE
    check_keys(_values_of(text, name), root)  # what is written can be read
    if path.is_file() and not force and (edited := _edited_keys(root, path)):
        shown = ", ".join(edited[:5]) + (f" and {len(edited) - 5} more" if len(edited) > 5 else "")
        raise UserError(f"{PARAMS_FILE} was edited ({shown}); --force drops these edits")
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())
    return path


def _values_of(text: str, name: str) -> dict:
    return cast(dict, parse_yaml(text, f"profiles/{name}.yaml"))  # embedded.yaml's mapping, with other values


def _edited_keys(root: Path, path: Path) -> list[str]:
    """Dotted keys of params.yaml whose values are not those of the profile it names."""
    now = read_yaml(path)
    profile = now.get("profile")
    if profile not in profile_names(root):
        return ["profile"]
    was = dict(walk(_values_of(profile_text(profile, root), profile)))
    now = dict(walk(now))
    leaves = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
    return [key for key in leaves if not any(other.startswith(f"{key}.") for other in leaves)]


def parameter_keys(values: dict) -> dict[str, str]:
    """Name of a notebook parameter -> dotted key of params.yaml: `train_lr` is `train.lr`."""
    names: dict[str, str] = {}
    for key, _ in walk(values):
        names.setdefault(key.replace(".", "_"), key)
    return names
