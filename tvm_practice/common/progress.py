"""What a learner has done so far: one small file, .tvm_practice/progress.json.

Of an answer it holds nothing that a person typed, only what became of it: the state when each
exercise was last graded, a digest of the text that was graded, and how many hints were shown; and
beside that the few words that were said to a key question. So it can be deleted at any time, and no
command needs it to work: what cannot be read or written costs a sentence.

The file is written whole or not at all, and the version before is kept beside it. A damaged file is
replaced by that one; a file of a newer version of the course is left alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tvm_practice.common import answers
from tvm_practice.common.command import typed
from tvm_practice.common.exercise import LESSONS, Exercise, exercises_of

FOLDER = answers.FOLDER
FILE = FOLDER / "progress.json"
BACKUP = FOLDER / "progress.before.json"
DAMAGED = FOLDER / "progress.damaged.json"
LOCK = FOLDER / "lock"
VERSION = 2  # 1 knew no words to key questions
LOCK_SECONDS = 5.0

RIGHT, WRONG, TODO = "right", "wrong", "todo"

# What `list` calls an exercise.
SOLVED = "solved"
LAST_WRONG = "wrong when last run"
CHANGED = "changed since it was run"
NOT_RUN = "not run yet"
TO_DO = "todo"


@dataclass(frozen=True)
class Record:
    """What became of one exercise.

    state and digest: of the text that was graded last; solved: when it was first right; hints: how
    many tiers were shown; runs: how often it was graded; advice: the hint for what the last run
    found, and advised: whether it was shown.
    """

    state: str = TODO
    digest: str = ""
    when: str = ""
    solved: str = ""
    hints: int = 0
    runs: int = 0
    advice: str = ""
    advised: bool = False


@dataclass
class Progress:
    """Every exercise's record, and what there is to say about the file it was read from.

    said: what was answered to key questions; writable: False where the file must not be replaced;
    damaged: where it must be.
    """

    records: dict[str, Record] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    writable: bool = True
    damaged: bool = False

    def of(self, exercise_id: str) -> Record:
        return self.records.get(exercise_id, Record())

    def state(self, exercise_id: str, text: str | None, original: str | None) -> str:
        """What `list` says of an exercise, from its record and from the text that is there now."""
        record = self.of(exercise_id)
        if text is None or (original is not None and _lines(text) == _lines(original)):
            return TO_DO
        if not record.runs:
            return NOT_RUN
        if record.digest != digest(text):
            return CHANGED
        return {RIGHT: SOLVED, WRONG: LAST_WRONG, TODO: TO_DO}[record.state]


def digest(text: str) -> str:
    """A short fingerprint of an exercise's text; blanks at the ends of its lines do not count."""
    return hashlib.sha256("\n".join(_lines(text)).encode(errors="replace")).hexdigest()[:16]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def states(progress: Progress) -> dict[str, tuple[Exercise, str]]:
    """Every exercise in the course's order, and what `list` says of it."""
    found = {}
    for lesson in LESSONS:
        texts, originals = answers.texts(lesson), answers.originals(lesson)
        for known in exercises_of(lesson):
            text, original = texts.get(known.id), originals.get(known.id)
            found[known.id] = (known, progress.state(known.id, text, original))
    return found


def following(lesson: str | None = None, right: Iterable[str] = ()) -> Exercise | None:
    """What is next, for every command: the first exercise of the course, or of a lesson, that is
    not solved; None when all are. right: those just found so, also where nothing is remembered."""
    for known, state in states(read()).values():
        if lesson in (None, known.lesson) and state != SOLVED and known.id not in right:
            return known
    return None


def told_next(known: Exercise | None) -> str:
    """What to do next, as every command says it; what is to be typed has a line of its own."""
    if known is None:
        return "Every exercise is solved."
    return f"Next: {known.id}  {known.title}, at {known.place}\n  {typed(f'run {known.id}')}"


# ----------------------------------------------------------------------------------------- reading


class _Damaged(Exception):
    """A file that does not hold a progress; the message says why."""


class _Newer(Exception):
    """A file that a newer version of the course wrote."""


def read() -> Progress:
    """The progress so far; whatever is wrong with its file is a sentence in `trouble`."""
    try:
        return _read(FILE)
    except FileNotFoundError:  # nothing done yet, or deleted on purpose: it is never missing
        return Progress()
    except _Newer as newer:
        told = f"{answers.shown(FILE)} {newer} It is left as it is."
        return Progress(trouble=told, writable=False)
    except OSError as error:
        reason = error.strerror or str(error)
        told = f"{answers.shown(FILE)} cannot be read: {reason}."
        return Progress(trouble=told, writable=False)
    except _Damaged as error:
        recovered = _read_backup()
        what = (
            "what is shown comes from its backup, which is one step older"
            if recovered is not None
            else "it has no backup, so every exercise counts as not run; "
            f"`{typed('run')}` grades them again"
        )
        told = f"{answers.shown(FILE)} is damaged ({error}): {what}."
        return replace(recovered or Progress(), trouble=told, damaged=True)


def _read_backup() -> Progress | None:
    try:
        return _read(BACKUP)
    except (OSError, _Damaged, _Newer):
        return None


def _read(path: Path) -> Progress:
    """What a file holds. Fields that this version does not know are dropped."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _Damaged("it is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        raise _Damaged("it names no version")
    if content["version"] > VERSION:
        raise _Newer(
            f"was written by a newer version of the course (its format is {content['version']}, "
            f"this one knows {VERSION})."
        )
    exercises, said = content.get("exercises"), content.get("said", {})
    if not isinstance(exercises, dict):
        raise _Damaged("it lists no exercises")
    if not isinstance(said, dict) or not all(isinstance(one, str) for one in said.values()):
        raise _Damaged("what was said to a key question is no text")
    return Progress({known: _record(known, given) for known, given in exercises.items()}, said)


def _record(exercise_id: str, given: Any) -> Record:
    if not isinstance(given, dict):
        raise _Damaged(f"its entry for {exercise_id} is not one")
    kept = {one.name: given[one.name] for one in fields(Record) if one.name in given}
    for name, value in kept.items():
        wanted = type(getattr(Record(), name))
        if type(value) is not wanted or (wanted is int and value < 0):
            raise _Damaged(f"its entry for {exercise_id} has {name} {value!r}")
    record = Record(**kept)
    if record.state not in (RIGHT, WRONG, TODO):
        raise _Damaged(f"its entry for {exercise_id} has state {record.state!r}")
    return record


# ----------------------------------------------------------------------------------------- writing


def update(change: Callable[[Progress], None]) -> str:
    """Read the progress, change it and write it, alone among all processes; return a sentence where
    that was not possible, "" if all is well."""
    try:
        FOLDER.mkdir(exist_ok=True)
        with _locked():
            progress = read()
            if not progress.writable:
                return progress.trouble
            before = dict(progress.records), dict(progress.said)
            change(progress)
            if progress.damaged:
                answers.write_whole(DAMAGED, FILE.read_bytes())
                progress.trouble += f" The damaged file is kept as {answers.shown(DAMAGED)}."
            if progress.damaged or (progress.records, progress.said) != before:
                _write(progress)
            return progress.trouble
    except TimeoutError as error:
        return str(error)
    except OSError as error:
        return (
            f"{answers.shown(FILE)} could not be written: {error.strerror or error}. Everything "
            "works all the same; it is only not remembered."
        )


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock file; the operating system lets go of it when a process ends, however it
    ends."""
    with open(LOCK, "a") as file:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(
                        f"Another process has held {answers.shown(LOCK)} for more than "
                        f"{LOCK_SECONDS:.0f} seconds, so this result was not remembered."
                    ) from None
                time.sleep(0.02)
        yield


def _write(progress: Progress) -> None:
    """Replace the file, and keep the one that was there as the backup, if it is a good one."""
    content = {
        "version": VERSION,
        "exercises": {known: asdict(record) for known, record in progress.records.items()},
        "said": progress.said,
    }
    if not progress.damaged:
        with suppress(FileNotFoundError):
            answers.write_whole(BACKUP, FILE.read_bytes())
    answers.write_whole(FILE, (json.dumps(content, indent=1) + "\n").encode())


def graded(exercise_id: str, state: str, text: str | None, advice: str = "") -> str:
    """Remember the state in which an exercise's text was found, and the hint for what is wrong with
    it; returns update's sentence."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")

    def change(progress: Progress) -> None:
        old = progress.of(exercise_id)
        progress.records[exercise_id] = replace(
            old,
            state=state,
            digest=digest(text or ""),
            when=now,
            solved=old.solved or (now if state == RIGHT else ""),
            runs=old.runs + 1,
            advice=advice,
            advised=old.advised and advice == old.advice,
        )

    return update(change)


def hinted(exercise_id: str, tiers: int) -> str:
    """Remember that the hints up to a tier were shown, and the one for what the last run found, if
    there is one; returns update's sentence."""

    def change(progress: Progress) -> None:
        old = progress.of(exercise_id)
        progress.records[exercise_id] = replace(
            old, hints=max(old.hints, tiers), advised=bool(old.advice)
        )

    return update(change)


def said(question: str, words: str) -> str:
    """Remember what was answered to a key question, the last time that it was; returns update's
    sentence."""
    return update(lambda progress: progress.said.update({question: words}))
