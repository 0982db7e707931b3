"""Predict, then measure: what a person expects of a timing, asked before it runs, and judged by it.

A guess that was made is remembered better than a table that was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_practice.common import ask, show
from tvm_practice.common.timing import Comparison

NEAR = 1.5  # within this factor, a guess of "how many times" is a good one


@dataclass(frozen=True)
class Guess:
    """The one of `names` that somebody expects to be the fastest, and how many times faster than
    the first of them; None where that was not said."""

    names: tuple[str, ...]
    fastest: str
    times: float | None = None

    def score(self, measured: Comparison) -> str:
        """What the measurement says of it; "" if what the guess is about could not be measured."""
        among = [name for name in self.names if name in measured]
        first = self.names[0]
        if self.fastest not in among or first not in among:
            return ""
        best = min(among, key=lambda name: measured[name].median_s)
        verdict = measured.verdict(best, self.fastest)
        if best == self.fastest:
            words = f"You said {self.fastest}, and it is the fastest."
        elif verdict.word == "cannot tell":
            words = f"You said {self.fastest}; the samples cannot tell {best} from it, so: right."
        else:
            words = f"You said {self.fastest}; {verdict.sentence()}."
        if self.times is None:
            return words
        ratio = measured.verdict(self.fastest, first).ratio
        off = max(self.times / ratio, ratio / self.times)
        judged = "a good guess" if off <= NEAR else f"off by a factor of {off:.1f}"
        return (
            f"{words} {self.fastest} against {first}: you said {show.times(self.times)}, measured "
            f"{show.times(ratio)}; {judged}."
        )


def ask_for(names: Sequence[str], what: str) -> Guess | None:
    """Ask which of the competitors wins, and by how much over the first; None if it is skipped."""
    show.heading(f"Before the timing of {what}: which is the fastest?")
    for number, name in enumerate(names, 1):
        show.line(f"  {number:2}  {name}")
    numbers = [str(number) for number in range(1, len(names) + 1)]
    by_word = dict(zip([*numbers, *map(str.lower, names)], [*names, *names], strict=True))
    form = "(?i:" + "|".join(map(re.escape, by_word)) + ")"
    typed = ask.line(f"1 to {len(names)}, Enter skips: ", form)
    if not typed:
        return None
    fastest = by_word[typed.lower()]
    if fastest == names[0]:
        return Guess(tuple(names), fastest)
    factor = ask.line(f"How many times faster than {names[0]}? Enter skips: ", r"\d+(\.\d*)?x?")
    return Guess(tuple(names), fastest, float(factor.rstrip("x") or 0) or None)
