"""Pictures in: one reader for photos and for data sets, and the pictures of a folder.

Grey becomes three equal channels, transparency is laid over white, 16-bit and float values are scaled to bytes. Of
Pillow's readers only those of `_FORMATS` are used: none that runs another program, as that of EPS does.
"""

import io
import re
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from mlanet_lib.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif", ".heic", ".heif")
"""Ends of pictures' names, in small letters. HEIC needs a plug-in for Pillow: without it the file is refused."""
MINIMUM_PHOTO = 16
LARGEST = 40_000_000
"""Pixels of a picture; beyond that it is refused: some forms need 20 bytes a pixel while they are read, 1 GB."""
LARGEST_PLAIN = 100_000_000
"""The same for JPEG and PNG without palette and transparency, which need less."""
LARGEST_REDUCED = {"JPEG": 256_000_000, "MPO": 256_000_000, "PNG": 150_000_000}
"""The same for photos of these, which are read smaller (the largest sensors of phones have 200 million)."""
LARGEST_PHOTO = 50_000_000
"""Pixels that a photo is read with; a larger one is halved until it has no more."""

_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation, what shows the picture upright."""
_BACK = {_UPRIGHT[6]: _UPRIGHT[8], _UPRIGHT[8]: _UPRIGHT[6]}
_ON_ITS_SIDE = {_UPRIGHT[code] for code in (5, 6, 7, 8)}
_BYTE, _SHORT = 255.0, 65535.0
_BOUND = threading.Lock()  # held while Pillow's own bound, a global, is another one


def read_photo(source: str | Path | np.ndarray | Image.Image) -> np.ndarray:
    """A photo as RGB uint8 (H,W,3), upright by its EXIF orientation; a very large one smaller: see `read_reduced`."""
    return read_reduced(source)[0]


class Reduced(NamedTuple):
    """A photo as it was read: pixels (H,W,3) uint8; factor: how many of the photo's own pixels one of these is wide,
    1, 2, 4, ...; size: the photo's own width and height, upright."""

    pixels: np.ndarray
    factor: int
    size: tuple[int, int]


def read_reduced(source: str | Path | np.ndarray | Image.Image) -> Reduced:
    """A photo as RGB uint8 (H,W,3), upright, and how much smaller than the photo itself that is.

    source: a path, a PIL image, or an array (H,W), (H,W,1), (H,W,3) or (H,W,4), uint8, uint16 or float in [0,1]. A
    point p of the result lies at p times `factor` in the photo. A file of more than `LARGEST_PHOTO` pixels is
    read smaller. UserError, with the file's name, where there is none, it is no picture, it has too many pixels
    (`LARGEST` and the bounds beside it), or fewer than 16 on a side.
    """
    name = "photo"
    if isinstance(source, np.ndarray):
        pixels = _to_rgb(source)
        photo = Reduced(pixels, 1, pixels.shape[1::-1])
    elif isinstance(source, Image.Image):
        photo = _decoded(lambda: nullcontext(source), name, True, LARGEST_PHOTO)
    else:
        path = Path(source)
        name = str(path)
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is no regular file"
            raise UserError(f"not a photo: {path} {what}" if path.exists() else f"no such photo: {path}")
        photo = _decoded(lambda: _opened(path), name, True, LARGEST_PHOTO)
    if min(photo.size) < MINIMUM_PHOTO:
        raise UserError(f"{name}: {photo.size[0]}x{photo.size[1]} pixels are too small to hold a face")
    return photo


def read_image(path: str | Path, upright: bool = True) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 RGB, with all its pixels.

    upright: turn the picture as its EXIF orientation says (labels of data sets refer to the stored pixels: False
    there). A missing, truncated or foreign file, or one of too many pixels, is a UserError that names it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such picture")
    return _decoded(lambda: _opened(path), str(path), upright)[0]


def decode_image(content: bytes, name: str, upright: bool = True) -> np.ndarray:
    """`read_image` of a file's content; `name` stands in the UserError."""
    return _decoded(lambda: _opened(io.BytesIO(content)), name, upright)[0]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder by name, numbers in names by value (2 before 10); none: UserError."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()]
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise UserError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    return sorted(found, key=lambda path: re.sub(r"\d+", lambda digits: digits[0].zfill(20), path.name))


def _opened(source: Path | BinaryIO) -> Image.Image:
    Image.init()
    with _BOUND, warnings.catch_warnings():  # Pillow's own bound is lower than those that `_decoded` holds it to
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max(LARGEST_REDUCED.values())
        try:
            return Image.open(source, formats=[name for name in _FORMATS if name in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = bound


def _decoded(
    opened: Callable[[], AbstractContextManager[Image.Image]], name: str, upright: bool, most: int | None = None
) -> Reduced:
    """The picture that `opened` returns, reduced to `most` pixels."""
    try:
        with opened() as picture:
            largest = _largest(picture, most is not None)
            if (pixels := picture.width * picture.height) > largest:
                raise UserError(f"{pixels / 1e6:.0f} million pixels are more than {largest // 1_000_000}: reduce it")
            turn = _turn(picture, upright)
            reduced = 1
            while most and pixels > most * reduced**2:
                reduced *= 2
            width, height = picture.size
            if reduced > 1:  # JPEG is decoded smaller at once; any other form, or a factor beyond 8, afterwards
                picture.draft(None, (max(1, width // reduced), max(1, height // reduced)))
            picture.load()
            if (left := reduced // max(1, round(width / picture.width))) > 1:
                picture = picture.reduce(left)
            if turn is not None:
                picture = picture.transpose(turn)
            return Reduced(_rgb(picture), reduced, (height, width) if turn in _ON_ITS_SIDE else (width, height))
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{name}: not a readable picture ({_unread(name)})") from error
    except Exception as error:  # Pillow's readers raise whatever the broken bytes lead them to
        raise UserError(f"{name}: not a readable picture ({str(error) or type(error).__name__})") from error


def _turn(picture: Image.Image, upright: bool) -> Image.Transpose | None:
    """How to turn the decoded picture to be upright, or to be as stored; None: not at all."""
    turn = _UPRIGHT.get(_orientation(picture) or 1)
    if picture.format == "TIFF" and turn is not None:  # Pillow turns these itself, and turns them only
        return None if upright else _BACK.get(turn, turn)
    return turn if upright else None


def _largest(picture: Image.Image, reduced: bool) -> int:
    """How many pixels a picture of this form may have, read smaller or whole."""
    if picture.format not in LARGEST_REDUCED or picture.mode not in ("L", "RGB", "CMYK"):
        return LARGEST
    return LARGEST_REDUCED[picture.format] if reduced else LARGEST_PLAIN


def _unread(name: str) -> str:
    if name.lower().endswith((".heic", ".heif", ".avif", ".jp2")):
        return f"the Pillow here does not read {name.rpartition('.')[2].upper()}: convert it to JPEG or PNG"
    return "of no form that is known here"


def _orientation(picture: Image.Image) -> int | None:
    """EXIF's orientation, whatever is wrong with the other tags; None if it cannot be read."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a tag that cannot be read is no reason to refuse the picture
        return None


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):  # 16 bits a pixel, or floats; Pillow's own conversion would clip at 255
        values = np.nan_to_num(np.asarray(picture).astype(np.float32), posinf=np.inf)
        return _to_rgb(np.clip(values / _white(picture.mode, float(values.min()), float(values.max())), 0, 1))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _white(mode: str, least: float, largest: float) -> float:
    """The value of white: 65535 if the format has 16 bits, else the one of 1 (floats), 255 and 65535 that `largest`
    exceeds by no more than half (resampling overshoots). UserError if the values use less than a 16th of that, as 12
    bits in 16 do: such a picture would turn out black without a warning."""
    whites = (_SHORT,) if mode.startswith("I;16") else (1.0, _BYTE, _SHORT) if mode == "F" else (_BYTE, _SHORT)
    white = next((white for white in whites if largest <= 1.5 * white), None)
    if white is None or (0 < largest < white / 16) or least < -white / 2:
        known = " or ".join(f"{value:g}" for value in whites)
        raise UserError(f"values from {least:.6g} to {largest:.6g}, where white is {known}: scale them")
    return white


def _to_rgb(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(f"a photo array is (H,W), (H,W,3) or (H,W,4), not {array.shape}")
    if array.dtype == np.uint16:
        array = (array / 257.0).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating) or not (np.nanmin(array) >= 0 and np.nanmax(array) <= 1):
            raise UserError("a photo array is uint8, uint16, or float within [0,1]")
        array = (np.nan_to_num(array) * 255).round().astype(np.uint8)
    if array.shape[2] == 4:
        alpha = array[..., 3:] / 255.0
        array = (array[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array)
