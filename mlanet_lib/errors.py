"""The one exception a user is meant to read, and any other as a line."""

import os
import traceback


class UserError(Exception):
    """Something the user gave is wrong (a file, a parameter, a folder): its text is one clear line.

    The command line and the notebook runner print that line on stderr and exit with code 2.
    """


def one_line(error: BaseException) -> str:
    """An exception as one line for the user; of one that nobody foresaw also its kind, and how to see where it was."""
    if isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{os.fspath(error.filename)!r}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = f"unexpected {type(error).__name__}: {error} (MLANET_TRACEBACK=1 shows where)"
    if os.environ.get("MLANET_TRACEBACK"):
        traceback.print_exception(error)
    return " ".join(text.split())
