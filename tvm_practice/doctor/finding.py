"""What a check of the doctor says, and the list of all checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm_practice.common.target import TARGETS

OK, WARN, FAIL, SKIPPED = "OK", "WARN", "FAIL", "not needed"


@dataclass(frozen=True)
class Finding:
    """name: of the check; state: OK, WARN (the course works, less well), FAIL (the target cannot be
    used) or SKIPPED; fix: what to do about it, in one line."""

    name: str
    state: str
    sentence: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """`examine(target)` returns (state, sentence, fix); targets: for which it matters."""

    name: str
    targets: tuple[str, ...]
    examine: Callable[[str], tuple[str, str, str]]

    def finding(self, target: str) -> Finding:
        if target not in self.targets:
            return Finding(
                self.name, SKIPPED, f"only --target {' or '.join(self.targets)} needs it"
            )
        try:
            return Finding(self.name, *self.examine(target))
        except Exception as error:  # a doctor who falls ill himself helps nobody
            sentence = f"could not be examined: {type(error).__name__}: {error}"
            return Finding(self.name, WARN, sentence, "Run doctor again; if it stays, report it.")


CHECKS: list[Check] = []


def check(name: str, targets: tuple[str, ...] = TARGETS) -> Callable[[Callable], Callable]:
    """Register a check; they are made in the order in which they are written."""

    def register(examine: Callable) -> Callable:
        CHECKS.append(Check(name, targets, examine))
        return examine

    return register
