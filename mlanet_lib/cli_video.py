"""`mlanet reconstruct` of folders and videos: which of its arguments are photos and which are clips, and the clips."""

from argparse import ArgumentParser
from pathlib import Path

from mlanet_lib.errors import UserError


def add_options(verb: ArgumentParser) -> None:
    """What clips add to `mlanet reconstruct`."""
    verb.add_argument("--video", action="store_true", help="files are videos, folders the numbered frames of one")
    verb.add_argument("--fps", type=float, metavar="F", help="of the clips (default: a video's own, a folder's 25)")


def split(options) -> tuple[list[Path], list[Path]]:
    """The photos (those of folders among them) and the clips of `options.photos`, in order.

    A clip is what ends as a video does, and with --video everything. UserError: an option that does not fit, a folder
    without pictures, two whose files would have the same names.
    """
    from mlanet_lib.clip import VIDEOS, pictures_in

    photos, clips = [], []
    for path in options.photos:
        if options.video or (path.suffix.lower() in VIDEOS and not path.is_dir()):
            clips.append(path)
        else:
            photos += pictures_in(path) if path.is_dir() else [path]
    if clips and (options.cropped or options.texture == "photo"):
        raise UserError(f"--cropped and --texture are for photos, and {clips[0]} is a clip")
    if options.fps is not None and not clips:
        raise UserError("--fps is for clips: a video, or --video with a folder of numbered frames")
    names: dict[str, Path] = {}
    for path in photos + clips:
        if (other := names.setdefault(name_of(path), path)) is not path:
            raise UserError(f"{other} and {path} would write the same files ({name_of(path)}_0.glb): rename one")
    return photos, clips


def name_of(path: Path) -> str:
    """What a photo's or clip's files are called after: the stem, of a folder its name."""
    return path.resolve().name if path.is_dir() else path.stem


def reconstruct(path: Path, predictor, options) -> None:
    """One clip to its files in `options.out`, and a line about them."""
    from tqdm.auto import tqdm

    from mlanet_lib.clip import Clip
    from mlanet_lib.video_files import reconstruct_clip

    clip, name = Clip.open(path, options.fps), name_of(path)
    faces = reconstruct_clip(clip, predictor, options.out, name, options.backend)
    found = ", ".join(f"face {face.id} in {len(face.frames)} frames" for face in faces)
    tqdm.write(f"{name}: {found} -> {options.out / name}.csv .json _overlay.mp4")
