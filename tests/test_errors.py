"""What a user is meant to read is one line, whatever a file made the message hold."""

import pickle

import pytest

from mlanet_lib.errors import LONGEST, UserError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a.png: too small", "a.png: too small"),
        ("two  spaces, Zoë, 日本, \U0001f600", "two  spaces, Zoë, 日本, \U0001f600"),
        ("one\n  two\r\nthree\u2028four\x85\n", "one two three four"),
        ("\x1b[31mred\x00\t\x7f", "\\x1b[31mred\\x00\\t\\x7f"),
        ("half of a pair \ud800", "half of a pair \\ud800"),
        (UserError("said\nbefore"), "said before"),
    ],
)
def test_a_message_is_one_line_that_can_be_printed(text, line):
    assert str(UserError(text)) == line
    assert str(pickle.loads(pickle.dumps(UserError(text)))) == line


def test_of_a_long_message_both_ends_stay():
    said = str(UserError(f"a.yaml: {'x' * 10**6} is not a number"))
    assert len(said) <= LONGEST and said.startswith("a.yaml: x") and said.endswith("x is not a number")
