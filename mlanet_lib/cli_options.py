"""Types of the command line's options: argparse says the line, and ends with code 2."""

import argparse
from pathlib import Path


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
