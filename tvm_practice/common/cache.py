"""A simulated cache: set-associative, the least recently used line out first, one level behind the
other.

Enough to say which of two orders misses less, and why. It knows nothing of prefetching, of writing
back or of time. `tests/test_cache.py` holds it against an exact count on random traces, and its
word on which order is better against measured times.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FLOAT = 4  # bytes
SYSTEM = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Level:
    """One cache: line n of memory may lie in any of the `ways` places of set n % `sets`."""

    name: str
    line_bytes: int
    sets: int
    ways: int

    @property
    def lines(self) -> int:
        return self.sets * self.ways

    @property
    def bytes(self) -> int:
        return self.lines * self.line_bytes


class Hierarchy:
    """Levels, the nearest first. A line that one lacks is asked of the next, and kept by both."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self._sets = [[OrderedDict() for _ in range(level.sets)] for level in levels]

    def touch(self, line: int) -> int:
        """Read or write a line; return the number of levels that lacked it: 0 for a hit in the
        first, len(levels) where memory had to deliver it."""
        for missed, (level, sets) in enumerate(zip(self.levels, self._sets, strict=True)):
            kept = sets[line % level.sets]
            if line in kept:
                kept.move_to_end(line)
                return missed
            kept[line] = None
            if len(kept) > level.ways:
                kept.popitem(last=False)
        return len(self.levels)

    def holder(self, line: int) -> int:
        """The first level that holds a line, len(levels) for memory; nothing is touched."""
        for place, (level, sets) in enumerate(zip(self.levels, self._sets, strict=True)):
            if line in sets[line % level.sets]:
                return place
        return len(self.levels)


def misses(lines: Iterable[int], levels: Sequence[Level]) -> tuple[int, ...]:
    """How many touches of a trace each level misses."""
    hierarchy = Hierarchy(levels)
    found = [0] * (len(levels) + 1)
    for line in lines:
        found[hierarchy.touch(line)] += 1
    return tuple(sum(found[place + 1 :]) for place in range(len(levels)))


# -------------------------------------------------------------------------- this machine's, smaller


@cache
def machine_levels() -> tuple[Level, Level]:
    """The first two levels of data cache of one core, as far as the system tells; else 32 KiB and
    1 MiB, 8 ways each, in lines of 64 bytes."""
    found = {1: Level("L1", 64, 64, 8), 2: Level("L2", 64, 2048, 8)}
    for folder in SYSTEM.glob("index*"):
        try:
            told = {
                name.name: name.read_text().strip() for name in folder.iterdir() if name.is_file()
            }
            number, size = int(told["level"]), re.fullmatch(r"(\d+)K", told["size"])
            line, ways = int(told["coherency_line_size"]), int(told["ways_of_associativity"])
        except (OSError, ValueError, KeyError):
            continue
        if told["type"] != "Instruction" and number in found and size and line and ways:
            sets = max(1, int(size[1]) * 1024 // line // ways)
            found[number] = Level(f"L{number}", line, sets, ways)
    return found[1], found[2]


SMALL_LINE = 4 * FLOAT
SMALL_WAYS = 4


def scaled(levels: Sequence[Level], side: int, real_side: int) -> tuple[Level, Level]:
    """Caches that are to matrices of side x side what `levels` are to real_side x real_side.

    The first holds a line of as large a share of a matrix's rows, the second as large a share of a
    whole matrix; both in powers of two. A line is 4 floats, so that a small matrix has several in a
    row.
    """
    first, second = levels
    rows = first.lines * side / real_side
    whole = second.bytes / (FLOAT * real_side**2) * (FLOAT * side**2) / SMALL_LINE
    return (
        Level(first.name, SMALL_LINE, _sets(rows), SMALL_WAYS),
        Level(second.name, SMALL_LINE, _sets(max(whole, 2 * rows)), SMALL_WAYS),
    )


def _sets(lines: float) -> int:
    return 2 ** max(0, round(math.log2(lines / SMALL_WAYS)))
