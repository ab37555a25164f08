"""Allowed values of numbers: ranges, declared with the fields of a configuration, and limits of this machine.

    clip: Annotated[float, Range(0, 1e6, above=True)] = 5.0

Building such a dataclass checks its numbers: `__post_init__` calls `check_fields`. `params` adds the section that a
file has it in.
"""

import math
import os
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from mlanet_lib.errors import UserError


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, both included unless they are to be `above` low, `below` high."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def wrong(self, value: object, whole: bool) -> str | None:
        """What is wrong with a value, as "must be ...", or None. whole: it must be an integer."""
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            return f"must be a {'whole ' if whole else ''}number"
        number: Any = value
        inside = self.low <= number <= self.high and math.isfinite(number)
        if inside and not (self.above and number == self.low) and not (self.below and number == self.high):
            return None
        low, high = "above" if self.above else "at least", "below" if self.below else "at most"
        return f"must be {low} {self.low:,.10g} and {high} {self.high:,.10g}"


class FieldError(UserError, ValueError):
    """A field may not have its value: `NAME = VALUE: must be ...`. A ValueError too, which pydantic catches when it
    builds a dataclass, to say in which section that was."""


SHARE = Range(0, 1)
SEED = Range(0, 2**32 - 1)
COUNT = Range(1, 10**9)
COUNT_OR_NONE = Range(0, 10**9)
WEIGHT = Range(0, 1e6)


def check_fields(config: object) -> None:
    """UserError, naming field and range, unless every number of a dataclass lies in the `Range` its annotation says."""
    for name, hint in _hints(type(config)).items():  # type: ignore[arg-type]
        for kind, allowed, value in _numbers(hint, getattr(config, name)):
            if wrong := allowed.wrong(value, kind is int):
                raise FieldError(f"{name} = {repr(value)[:80]}: {wrong}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _numbers(hint: Any, value: Any) -> Iterator[tuple[type, Range, object]]:
    """(type, range, value) of the numbers that a field of this annotation holds: one, none (`| None`) or a tuple's."""
    if typing.get_origin(hint) is typing.Annotated:
        kind, *notes = typing.get_args(hint)
        yield from ((kind, note, value) for note in notes if isinstance(note, Range))
    elif typing.get_origin(hint) is tuple:
        for item in value:
            yield from _numbers(typing.get_args(hint)[0], item)
    elif value is not None:
        for option in typing.get_args(hint):
            yield from _numbers(option, value)


def memory() -> float:
    """Bytes of memory that this process may use: the machine's, or what its container allows; infinity if unknown."""
    found = [math.inf]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        file = Path("/sys/fs/cgroup") / name
        if file.is_file() and (text := file.read_text().strip()).isdigit():  # else "max"
            found.append(int(text))
    return min(found)


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_memory(needed: float, what: str, available: float | None = None) -> None:
    """UserError if `what` ("train.batch_size 100000 at network.image_size 96") needs more bytes than there are.

    available: bytes, where it is not this machine's `memory`. An estimate should be a little low: what works must
    never be refused.
    """
    available = memory() if available is None else available
    if needed > available:
        raise UserError(f"{what} needs about {_gigabytes(needed)} of memory, and there are {_gigabytes(available)}")


def check_processes(count: int, most: int, key: str, units: str) -> None:
    """UserError if `count` processes are more than `most` (of the `units`, "cores"), unless MLANET_PROCESSES says the
    same number: thousands of processes take a machine down, so the user must ask for them twice."""
    if count > most and os.environ.get("MLANET_PROCESSES") != str(count):
        raise UserError(
            f"{key} {count} is more than the {most} {units} here; if it is meant, set MLANET_PROCESSES={count} as well"
        )


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.0f} GB" if count >= 1e10 else f"{count / 1e9:.1f} GB"
