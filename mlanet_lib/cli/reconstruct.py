"""`mlanet reconstruct`: photos, folders of them and clips -> files. What is heavy is imported where it is needed."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mlanet_lib.cli import options as cli_options
from mlanet_lib.cli.options import a_count, a_path, network_options
from mlanet_lib.errors import UserError, line_of
from mlanet_lib.files.atomic import check_writable
from mlanet_lib.files.outputs import Task, check_text, is_own, may_replace, others_in, plan

if TYPE_CHECKING:
    from mlanet_lib.predictor.bulk import Settings
    from mlanet_lib.predictor.predictor import Predictor


def add_options(verb: ArgumentParser) -> None:
    """The options of `mlanet reconstruct`."""
    verb.add_argument("photos", nargs="+", type=a_path, metavar="PHOTO|FOLDER|VIDEO")
    verb.add_argument("--out", required=True, type=a_path, metavar="DIR", help="folder for STEM_0.glb, STEM_0.obj, ...")
    verb.add_argument("--texture", choices=("albedo", "photo"), default="albedo", help="what colours the mesh")
    verb.add_argument("--cropped", action="store_true", help="the photos are face crops already: no detector")
    verb.add_argument("--overwrite", action="store_true", help="replace files in DIR that mlanet did not write, too")
    verb.add_argument("--video", action="store_true", help="files are videos, folders the numbered frames of one")
    verb.add_argument("--fps", type=float, metavar="F", help="of the clips (default: a video's own, a folder's 25)")
    verb.add_argument("--jobs", type=a_count, metavar="N", help="photos in N processes, but for those that are done")
    network_options(verb)
    verb.set_defaults(run=reconstruct)


def reconstruct(options: Namespace) -> int:
    """Write the files of every photo and clip; each failure is one line, and the exit code is then 2."""
    photos, clips, wrong = split(options)
    check_writable(options.out)
    tasks = plan(photos, clips, options.out, options.overwrite)
    if options.jobs:
        return _in_processes(tasks, options, wrong)
    if tasks:
        predictor = cli_options.load_predictor(options)
    for path, error in wrong:
        _say_of(path, error)
    failed = len(wrong)
    for task in tqdm(tasks, unit="file", disable=len(photos) < 2 or not sys.stderr.isatty()):
        try:
            if task.clip:
                _clip(task, predictor, options)
            else:
                _photo(task, predictor, options)
        except Exception as error:  # the others still get their files
            _say_of(task.source, error)
            failed += 1
    return 2 if failed else 0


def _in_processes(tasks: Sequence[Task], options: Namespace, wrong: Sequence[tuple[Path, Exception]]) -> int:
    """Photos in `options.jobs` processes; what is done already is skipped."""
    from mlanet_lib.predictor import bulk

    for path, error in wrong:
        _say_of(path, error)
    failed, done, written = len(wrong), 0, 0
    found = bulk.run(tasks, _settings(options), options.jobs) if tasks else iter(())
    for outcome in tqdm(found, total=len(tasks), unit="photo", disable=not sys.stderr.isatty()):
        for line in outcome.said:
            tqdm.write(line)
        for line in outcome.notes:
            tqdm.write(line, file=sys.stderr)
        if outcome.error:
            tqdm.write(f"mlanet: {outcome.error}", file=sys.stderr)
        failed, done, written = failed + bool(outcome.error), done + outcome.skipped, written + outcome.faces
    print(f"{written:,} faces written, {done:,} photos were done already, {failed:,} failed")
    return 2 if failed else 0


def _say_of(path: Path, error: Exception) -> None:
    tqdm.write(f"mlanet: {line_of(path, error)}", file=sys.stderr)


def _settings(options: Namespace) -> "Settings":
    from mlanet_lib.predictor.bulk import Settings

    names = ("texture", "cropped", "overwrite", "weights", "mirrored", "fitted", "device", "backend")
    return Settings(str(options.out), **{name: getattr(options, name) for name in names})


def _photo(task: Task, predictor: "Predictor", options: Namespace) -> None:
    """One photo to the files of its faces in `options.out`, and a line about each."""
    from mlanet_lib.predictor.bulk import one_photo

    outcome = one_photo(task, predictor, _settings(options))
    for line in outcome.notes:
        tqdm.write(line, file=sys.stderr)
    for line in outcome.said:
        tqdm.write(line)


def split(options: Namespace) -> tuple[list[Path], list[Path], list[tuple[Path, Exception]]]:
    """The photos (those of folders among them) and the clips of `options.photos`, in order, and what cannot be looked
    at: a folder without pictures, or that may not be read.

    A clip is a file with a video's ending; with --video, everything is. UserError: an option that does not fit.
    """
    from mlanet_lib.video.clip import VIDEOS

    photos: list[Path] = []
    clips: list[Path] = []
    wrong: list[tuple[Path, Exception]] = []
    for path in options.photos:
        try:
            if options.video or (path.suffix.lower() in VIDEOS and not path.is_dir()):
                clips.append(path)
            else:
                photos += others_in(path) if path.is_dir() else [path]
        except (UserError, OSError) as error:
            wrong.append((path, error))
    if clips and (options.cropped or options.texture == "photo"):
        raise UserError(f"--cropped and --texture are for photos, and {clips[0]} is a clip")
    if clips and options.jobs:
        raise UserError(f"--jobs is for photos, and {clips[0]} is a clip")
    if options.fps is not None and not clips:
        raise UserError("--fps is for clips: a video, or --video with a folder of numbered frames")
    return photos, clips, wrong


def _clip(task: Task, predictor: "Predictor", options: Namespace) -> None:
    """One clip to its files in `options.out`, and a line about them."""
    from mlanet_lib.video.clip import Clip
    from mlanet_lib.video.output import reconstruct_clip

    check_text(task.source)
    if is_own(task.source):
        raise UserError(f"{task.source}: mlanet wrote this, it is no clip")
    clip, name = Clip.open(task.source, options.fps), task.name
    judge = None if options.overwrite else may_replace
    faces = reconstruct_clip(clip, predictor, options.out, name, options.backend, judge)
    found = ", ".join(f"face {face.id} in {len(face.frames)} frames" for face in faces)
    tqdm.write(f"{name}: {found} -> {options.out / name}.csv .json _overlay.mp4")
