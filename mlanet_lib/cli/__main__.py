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
from typing import NoReturn

from mlanet_lib import __version__
from mlanet_lib.cli import data, evaluate, export, face_model, reconstruct, train
from mlanet_lib.errors import UserError, one_line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
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
    evaluate.add_actions(verb.add_subparsers(required=True, metavar="BENCHMARK"))

    verb = verbs.add_parser("train", help="train what params.yaml says, alone or under torchrun, accelerate launch")
    train.add_options(verb)

    verb = verbs.add_parser("export", help="a trained encoder -> one file for ONNX runtimes or torch.export")
    export.add_options(verb)

    verb = verbs.add_parser("face-model", help="build, convert or check a face model")
    face_model.add_actions(verb.add_subparsers(required=True, metavar="ACTION"))

    verb = verbs.add_parser("data", help="check that the data are here and whole; label photos of your own")
    data.add_actions(verb.add_subparsers(required=True, metavar="ACTION"))

    verb = verbs.add_parser("profile", help="embedded, open or paper: what params.yaml says")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    verb = actions.add_parser("use", help="write a profile into params.yaml")
    verb.add_argument("name")
    verb.add_argument("--force", action="store_true", help="drop edits made by hand")
    verb.set_defaults(run=_use_profile)
    actions.add_parser("list", help="the profiles there are").set_defaults(run=_list_profiles)
    return parser


def _use_profile(options: argparse.Namespace) -> int:
    from mlanet_lib.study.profiles import use_profile

    print(f"{use_profile(options.name, force=options.force)} is now the profile {options.name!r}")
    return 0


def _list_profiles(options: argparse.Namespace) -> int:
    from mlanet_lib.files.project import find_root, read_yaml
    from mlanet_lib.study.profiles import profile_names

    root = find_root()
    current = read_yaml(root / "params.yaml").get("profile")
    for name in profile_names(root):
        print(f"{name}{'   (in params.yaml)' if name == current else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
