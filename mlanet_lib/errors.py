"""The one exception a user is meant to read."""

import re

LONGEST = 1000  # characters: what a damaged file holds may be of any length
_BREAK, _UNPRINTABLE = (
    re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*"),
    re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]"),
)


class UserError(Exception):
    """Something the user gave is wrong (a file, a parameter, a folder): its text is one clear line.

    The command line and the notebook runner print that line on stderr and exit with code 2. Whatever the text quotes
    of a file, it stays one line: a line break becomes a space, a control character its escape (`\\x1b`), and of a text
    beyond `LONGEST` characters the middle is left out.
    """

    def __init__(self, text: object):
        line = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], _BREAK.sub(" ", str(text).strip()))
        if len(line) > LONGEST:
            line = f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 4 :]}"
        super().__init__(line)
