"""What verbs of the command line share: types of options (argparse says what is wrong, and ends with code 2), and the
options that say which network reads the pictures."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlanet_lib.predictor.predictor import Predictor


def a_path(text: str) -> Path:
    """A path; an empty one, which would mean the current folder, is refused."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty path")
    if "\0" in text:
        raise argparse.ArgumentTypeError("a path with a null character")
    return Path(text)


def a_count(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def an_angle(text: str) -> float:
    """Degrees from -90 to 90: what shows a face."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -90 <= value <= 90:
        raise argparse.ArgumentTypeError(f"{text!r} is no angle from -90 to 90 degrees")
    return value


def network_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that `load_predictor` reads."""
    verb.add_argument("--weights", default="auto", metavar="W", help="path or shipped name (default: ict)")
    verb.add_argument("--mirrored", action="store_true", help="mean over crop and mirror image: nearer, half as fast")
    verb.add_argument(
        "--fit", dest="fitted", action="store_true", help="fit each face to its photo: nearer to the person, slower"
    )
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, auto (default: cpu)")
    verb.add_argument("--backend", default="auto", help="rasterizer (default: the best one here)")


def load_predictor(options: argparse.Namespace) -> "Predictor":
    """The `Predictor` that the options name, on an available device."""
    import torch

    from mlanet_lib.geometry.device import usable_device
    from mlanet_lib.predictor.predictor import Predictor
    from mlanet_lib.rasterizer import choose

    device = usable_device(options.device)
    choose(options.backend, torch.device("cpu"))
    return Predictor.load(options.weights, device, mirrored=options.mirrored, fitted=options.fitted)
