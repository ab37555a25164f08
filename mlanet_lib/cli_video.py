"""`mlanet reconstruct` of folders and videos: which of its arguments are photos and which are clips, and the clips."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from mlanet_lib.errors import UserError
from mlanet_lib.outputs import Task, is_own


def add_options(verb: ArgumentParser) -> None:
    """What clips add to `mlanet reconstruct`."""
    verb.add_argument("--video", action="store_true", help="files are videos, folders the numbered frames of one")
    verb.add_argument("--fps", type=float, metavar="F", help="of the clips (default: a video's own, a folder's 25)")


def split(options) -> tuple[list[Path], list[Path], list[tuple[Path, Exception]]]:
    """The photos (those of folders among them) and the clips of `options.photos`, in order, and what cannot be looked
    at: a folder without pictures, or that may not be read.

    A clip is what ends as a video does, and with --video everything. UserError: an option that does not fit.
    """
    from mlanet_lib.clip import VIDEOS

    photos, clips, wrong = [], [], []
    for path in options.photos:
        try:
            if options.video or (path.suffix.lower() in VIDEOS and not path.is_dir()):
                clips.append(path)
            else:
                photos += _photos_in(path) if path.is_dir() else [path]
        except (UserError, OSError) as error:
            wrong.append((path, error))
    if clips and (options.cropped or options.texture == "photo"):
        raise UserError(f"--cropped and --texture are for photos, and {clips[0]} is a clip")
    if options.fps is not None and not clips:
        raise UserError("--fps is for clips: a video, or --video with a folder of numbered frames")
    return photos, clips, wrong


def _photos_in(folder: Path) -> list[Path]:
    """The pictures of a folder but for those that mlanet wrote, which are counted on stderr."""
    from mlanet_lib.pictures import pictures_in

    found = pictures_in(folder)
    photos = [path for path in found if not is_own(path)]
    if not photos:
        raise UserError(f"{folder} holds no pictures but those that mlanet wrote")
    if own := len(found) - len(photos):
        print(f"note: {folder}: {own} pictures that mlanet wrote are left out", file=sys.stderr)
    return photos


def reconstruct(task: Task, predictor, options) -> None:
    """One clip to its files in `options.out`, and a line about them."""
    from tqdm.auto import tqdm

    from mlanet_lib.clip import Clip
    from mlanet_lib.video_files import reconstruct_clip

    clip, name = Clip.open(task.source, options.fps), task.name
    may_replace = None if options.overwrite else is_own
    faces = reconstruct_clip(clip, predictor, options.out, name, options.backend, may_replace)
    found = ", ".join(f"face {face.id} in {len(face.frames)} frames" for face in faces)
    tqdm.write(f"{name}: {found} -> {options.out / name}.csv .json _overlay.mp4")
