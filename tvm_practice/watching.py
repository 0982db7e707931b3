"""`tvm-practice watch`: an exercise is checked again each time its file is saved.

The file system tells of a save (watchfiles, on folders, so that an editor that saves by renaming is
seen too). Where a container mount swallows that, the files are looked at every second all the same:
what counts is whether an exercise's text changed, and so which one of a file is meant. They are
also looked at while a check runs: what was saved since is checked instead.
"""

from __future__ import annotations

import linecache
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from tvm_practice import commands, running
from tvm_practice.commands import COMMANDS, THIS_OR_NEXT
from tvm_practice.common import answers, progress, show
from tvm_practice.common.exercise import (
    LESSONS,
    Exercise,
    catalogue,
    lesson_file,
    lesson_path,
)
from tvm_practice.common.status import INTERRUPTED

POLL_MS = 300  # between two looks with --poll
LOOK_MS = 1000  # between two looks where events should tell


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
    except OSError:
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


def saves(
    seen: dict[str, Seen | None], poll: bool, only: Exercise | None, current: list[Exercise]
) -> Iterator[list[str]]:
    """The exercises that each save is about, for ever. seen: the lessons as they were at first;
    current[0]: the exercise in hand."""
    import watchfiles

    folders = sorted({lesson_path(lesson).parent for lesson in seen})
    for _ in watchfiles.watch(
        *folders,
        watch_filter=lambda _, path: Path(path).suffix == ".py",
        debounce=200,
        recursive=False,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        force_polling=True if poll else None,
        poll_delay_ms=POLL_MS,
    ):
        for lesson, before in seen.items():
            now = look(lesson, before)
            if now is None or now is before:
                continue
            seen[lesson] = now
            if before is None:
                continue
            about = meant(lesson, before, now, current[0])
            if about := [one for one in about if only is None or one == only.id]:
                yield about


@click.command("watch", short_help=COMMANDS["watch"][1])
@THIS_OR_NEXT
@click.option(
    "--poll",
    is_flag=True,
    help="Look at the files three times a second, where saves are noticed late: a folder mounted "
    "into a container or over a network.",
)
def watch(known: Exercise | None, poll: bool) -> int:
    """Check an exercise now, and again whenever its file is saved. With ID: that one only. Without:
    the first that is not solved, and after that whichever you change. It never goes on by itself.

    Ctrl-C ends it, with status 130 like every command that was interrupted.

    \b
    Examples:
      tvm-practice watch
      tvm-practice watch 2.1
      tvm-practice watch --poll
    """
    current = [commands.given_or_next(known)]
    try:
        lessons = [known.lesson] if known else LESSONS
        seen = {lesson: look(lesson) for lesson in lessons}  # before the first check takes its time
        _check(current[0])
        _wait_for(current[0])
        for about in saves(seen, poll, known, current):
            catalogue.cache_clear()  # the lines have moved
            linecache.clearcache()
            for one in about:
                current[0] = catalogue()[one]
                show.console.rule(f"{time.strftime('%H:%M:%S')}  {lesson_file(current[0].lesson)}")
                _check(current[0])
            _wait_for(current[0])
    except KeyboardInterrupt:
        click.echo("\nWatching ended.")
    return INTERRUPTED


def _check(known: Exercise) -> None:
    try:
        running.check(known)
    except commands.Refused as refused:
        show.line(refused.message, "yellow")


def _wait_for(known: Exercise) -> None:
    show.line(f"\nwaiting for a save of {lesson_file(known.lesson)} (Ctrl-C ends this)", "dim")
