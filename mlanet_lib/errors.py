"""The one exception a user is meant to read, and any other as a line."""

import os
import re
import traceback

LONGEST = 1000  # characters: what a damaged file holds may be of any length
_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class UserError(Exception):
    """Something the user gave is wrong (a file, a parameter, a folder): its text is one clear line.

    The command line and the notebook runner print that line on stderr and exit with code 2. Whatever the text quotes
    of a file, it stays one line: see `printable`.
    """

    def __init__(self, text: object):
        super().__init__(printable(str(text)))


def printable(text: str) -> str:
    """The text as one line: a line break becomes a space, a control character its escape (`\\x1b`), and of more than
    `LONGEST` characters the middle is left out."""
    line = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], _BREAK.sub(" ", text.strip()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 4 :]}"


def one_line(error: BaseException) -> str:
    """An exception as one line for the user; for an unexpected one also its kind, and how to see the traceback."""
    if os.environ.get("MLANET_TRACEBACK"):
        traceback.print_exception(error)
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename!r}: {error.strerror}" if error.filename is not None else error.strerror)
    return printable(f"unexpected {type(error).__name__}: {error} (MLANET_TRACEBACK=1 shows where)")


def line_of(path: object, error: BaseException) -> str:
    """`one_line` of what is wrong with a file, with its path unless the line names it."""
    text, named = one_line(error), printable(str(path))
    return text if named in text else f"{named}: {text}"
