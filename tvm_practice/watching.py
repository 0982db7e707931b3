"""`tvm-practice watch`: an exercise is checked again each time its file is saved.

The file system tells of a save (watchfiles, on folders, so that an editor that saves by renaming is
seen too). Where a container mount swallows that, the files are looked at every second all the same:
what counts is whether an exercise's text changed, and so which one of a file is meant. They are
also looked at while a check runs: what was saved since is checked instead.
"""

from __future__ import annotations

import linecache
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from tvm_practice import commands, running
from tvm_practice.commands import COMMANDS, NEXT, WHAT_OR_NEXT
from tvm_practice.common import answers, progress, show, worker
from tvm_practice.common.exercise import (
    LESSONS,
    BrokenLesson,
    Exercise,
    catalogue,
    gone,
    lesson_file,
    lesson_path,
)
from tvm_practice.common.status import INTERRUPTED

POLL_MS = 300  # between two looks with --poll
LOOK_MS = 1000  # between two looks where events should tell
PATIENCE = 1.5  # seconds for which a file may be away in the middle of a save


@dataclass(frozen=True)
class Seen:
    """A lesson file as it was last looked at: what tells whether it was written since, and its
    exercises."""

    stamp: tuple[int, int, int]
    texts: dict[str, str]


def look(lesson: str, before: Seen | None = None) -> Seen | None:
    """A lesson file as it is now: `before` itself if nobody wrote it, None while there is none, as
    in the middle of a save."""
    try:
        status = lesson_path(lesson).stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if before is not None and stamp == before.stamp:
            return before
        if not status.st_size:  # an editor that empties the file before it writes it
            return None
        return Seen(stamp, answers.texts(lesson))
    except (OSError, BrokenLesson):
        return None


def meant(lesson: str, before: Seen, now: Seen, current: Exercise) -> list[str]:
    """The exercises that a save is about: those whose text changed. If none did, the current one,
    if it is in this file: it may use what changed around it, or is simply to be checked again."""
    changed = [
        known for known, text in now.texts.items() if not _same(text, before.texts.get(known))
    ]
    if changed:
        return changed
    return [current.id] if current.lesson == lesson else []


def _same(text: str, before: str | None) -> bool:
    return before is not None and progress.digest(text) == progress.digest(before)


class Saved(BaseException):
    """The person saved again while a check ran; `about` are the exercises that it is about. No
    error, so nothing on the way takes it for one."""

    def __init__(self, about: list[str]) -> None:
        self.about = about


class Files:
    """The lesson files that are watched."""

    def __init__(self, lessons: Sequence[str], only: Exercise | None) -> None:
        self.only = only
        self.seen = {lesson: look(lesson) for lesson in lessons}
        self.missing: dict[str, float] = {}  # since when
        self.told: set[str] = set()  # those that were said to be missing

    @property
    def folders(self) -> list[Path]:
        return sorted({lesson_path(lesson).parent for lesson in self.seen})

    def saved(self, current: Exercise) -> list[str]:
        """The exercises that were saved since this was last asked; current: the one in hand."""
        about = []
        for lesson, before in self.seen.items():
            now = look(lesson, before)
            if now is None:
                self._miss(lesson)
                continue
            back = self._found(lesson)
            if now is before and not back:
                continue
            self.seen[lesson] = now
            about += meant(lesson, before or now, now, current)
        return [one for one in about if self.only is None or one == self.only.id]

    def _miss(self, lesson: str) -> None:
        """Say that a file is not there; not at once, since a save may take it away for a moment."""
        since = self.missing.setdefault(lesson, time.monotonic())
        if lesson not in self.told and time.monotonic() - since > PATIENCE:
            self.told.add(lesson)
            empty = f"{lesson_file(lesson)} is empty, or cannot be read."
            show.line(empty if lesson_path(lesson).exists() else gone(lesson), "yellow")

    def _found(self, lesson: str) -> bool:
        """Whether a file is back that was said to be missing."""
        self.missing.pop(lesson, None)
        if lesson not in self.told:
            return False
        self.told.remove(lesson)
        show.line(f"{lesson_file(lesson)} is back.", "dim")
        return True


def _check_all(files: Files, ids: list[str]) -> Exercise:
    """Check these exercises, and whatever is saved meanwhile before the rest; return the last."""
    left = list(ids)
    while left:
        catalogue.cache_clear()  # the lines have moved
        linecache.clearcache()
        known = catalogue()[left[0]]

        def look_for_saves(known: Exercise = known) -> None:
            if about := files.saved(known):
                raise Saved(about)

        try:
            with worker.looking(look_for_saves):
                _check(known)
            left.pop(0)
        except Saved as saved:
            show.line(f"Saved again: the check of {known.id} was stopped.", "dim")
            left = [*saved.about, *(one for one in left if one not in saved.about)]
            _say_when(catalogue()[left[0]])
    return known


@click.command("watch", short_help=COMMANDS["watch"][1])
@WHAT_OR_NEXT
@click.option(
    "--poll",
    is_flag=True,
    help="Look at the files three times a second, where saves are noticed late: a folder mounted "
    "into a container or over a network.",
)
def watch(what: Exercise | str, poll: bool) -> int:
    """Check an exercise now, and again whenever its file is saved. With ID: that one only. Without,
    or with a LESSON: the first that is not solved, and after that whichever you change, there or
    anywhere. It never goes on by itself.

    Ctrl-C ends it, with status 130 like every command that was interrupted.

    \b
    Examples:
      tvm-practice watch
      tvm-practice watch 2.1
      tvm-practice watch --poll
    """
    import watchfiles

    current = commands.one_of(what)
    only = what if isinstance(what, Exercise) else None
    try:
        # They are read before the first check takes its time.
        files = Files(LESSONS if what == NEXT else [current.lesson], only)
        current = _check_all(files, [current.id])
        _wait_for(current)
        for _ in watchfiles.watch(
            *files.folders,
            watch_filter=lambda _, path: Path(path).suffix == ".py",
            debounce=200,
            recursive=False,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            force_polling=True if poll else None,
            poll_delay_ms=POLL_MS,
        ):
            if about := files.saved(current):
                _say_when(current)
                current = _check_all(files, about)
                _wait_for(current)
    except KeyboardInterrupt:
        click.echo("\nWatching ended.")
    return INTERRUPTED


def _say_when(known: Exercise) -> None:
    show.console.rule(f"{time.strftime('%H:%M:%S')}  {lesson_file(known.lesson)}")


def _check(known: Exercise) -> None:
    try:
        running.check(known)
    except commands.Refused as refused:
        show.line(refused.message, "yellow")
    except BrokenLesson as broken:
        show.line(str(broken), "yellow")


def _wait_for(known: Exercise) -> None:
    show.line(f"\nwaiting for a save of {lesson_file(known.lesson)} (Ctrl-C ends this)", "dim")
