"""The text of an exercise in its lesson file: read, compared with how it was shipped, and replaced.

What is replaced is kept as a file first. How each exercise was shipped lies in originals/, copied
from the lessons by `python -m tvm_practice.common.answers`; a test holds the two together. Git
could tell it too, but not in a container without git, nor after an answer was committed.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tvm_practice.common.exercise import (
    LESSONS,
    PACKAGE,
    Exercise,
    Piece,
    catalogue,
    end_of_section,
    exercises_of,
    lesson_file,
    lesson_path,
    pieces,
    source,
)

ORIGINALS = PACKAGE / "originals"
FOLDER = PACKAGE.parent / ".tvm_practice"  # what this copy of the course keeps about its learner
BACKUPS = FOLDER / "backups"


class NotReplaced(Exception):
    """An exercise's text could not be replaced, and is as it was; the message says why."""


def texts(lesson: str) -> dict[str, str]:
    """The text of every exercise that stands in a lesson file, by its id, with its decorator."""
    return _texts(lesson, source(lesson))


def originals(lesson: str) -> dict[str, str]:
    """The text of every exercise of a lesson as it was shipped."""
    path = ORIGINALS / f"{lesson}.txt"
    return _texts(lesson, path.read_text(encoding="utf-8")) if path.exists() else {}


def text_of(exercise_id: str) -> str | None:
    """The exercise's text as it stands in its lesson now; None if it was deleted."""
    return texts(catalogue()[exercise_id].lesson).get(exercise_id)


def _texts(lesson: str, text: str) -> dict[str, str]:
    lines = text.splitlines()
    return {
        piece.exercise.id: "\n".join(lines[piece.first : piece.last]).rstrip()
        for piece in pieces(lesson, lines)
    }


def reference(known: Exercise) -> str:
    """The source of an exercise's reference, with what else of its file it uses; nothing is run."""
    path = PACKAGE / "solutions" / f"{known.lesson}.py"
    text = path.read_text(encoding="utf-8")
    body = ast.parse(text).body
    lines = text.splitlines()
    answers = {one.name for one in exercises_of(known.lesson)}
    wanted = {known.name}
    for node in reversed(body):  # what a statement uses stands above it
        if _named_by(node) & wanted:
            wanted |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    kept = [
        node
        for node in body
        if (names := _named_by(node) & wanted) and not (names & answers - {known.name})
    ]
    used = {name.id for node in kept for name in ast.walk(node) if isinstance(name, ast.Name)}
    imports = [line for node in body for line in _imports(node, used - _defined_in(known.lesson))]
    sources = ["\n".join(lines[_first_line(node) - 1 : node.end_lineno]) for node in kept]
    return "\n\n\n".join((["\n".join(imports)] if imports else []) + sources)


def _first_line(node: ast.stmt) -> int:
    """Where a statement starts, its decorators included."""
    return min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])


def _defined_in(lesson: str) -> set[str]:
    """What a lesson file has at hand already; nothing where it cannot be read."""
    try:
        body = ast.parse(source(lesson)).body
    except (SyntaxError, ValueError):
        return set()
    imported = {
        alias.asname or alias.name.partition(".")[0]
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return imported.union(*map(_named_by, body))


def _imports(node: ast.stmt, wanted: set[str]) -> list[str]:
    """An import statement cut down to the names that are wanted; none if it has none of them."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return []
    names = [one for one in node.names if (one.asname or one.name.partition(".")[0]) in wanted]
    if not names:
        return []
    cut = (
        ast.Import(names)
        if isinstance(node, ast.Import)
        else ast.ImportFrom(node.module, names, node.level)
    )
    return [ast.unparse(cut)]


def _named_by(node: ast.stmt) -> set[str]:
    """The names that a statement at the left margin defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {one.id for one in targets if isinstance(one, ast.Name)}
    return set()


# --------------------------------------------------------------------------------------- replacing


def reset(known: Exercise) -> Path | None:
    """Put an exercise's text back to how it was shipped; return the backup of what stood there,
    None if that was the original already."""
    shipped = originals(known.lesson).get(known.id)
    if shipped is None:
        raise NotReplaced(f"how {known.id} was shipped is not known: {shown(ORIGINALS)} lacks it.")
    if lost := _lost(known.lesson, shipped):
        raise NotReplaced(
            f"{lesson_file(known.lesson)} has lost more than {known.id}: nothing there defines "
            f"{' and '.join(lost)}, which it needs. Copy what you want to keep; then "
            f"`git checkout -- {lesson_file(known.lesson)}` gives back the whole file."
        )
    return replace(known, shipped)


def _lost(lesson: str, shipped: str) -> list[str]:
    """The names that an exercise as shipped takes from around it and that its lesson file lacks;
    none where Python cannot read the file, since the exercise may be the reason."""
    try:
        ast.parse(source(lesson))
    except (SyntaxError, ValueError):
        return []
    nodes = list(ast.walk(ast.parse(shipped)))
    used = {one.id: None for one in nodes if isinstance(one, ast.Name)}
    own = {one.arg for one in nodes if isinstance(one, ast.arg)}
    there = _defined_in(lesson) | own | set(dir(builtins))
    return [name for name in used if name not in there]


def replace(known: Exercise, text: str) -> Path | None:
    """Replace an exercise's text in its lesson file and leave every other byte as it is.

    Returns the backup, or None if the text was already there. Raises BrokenLesson if there is no
    lesson file.
    """
    source(known.lesson)  # a file that is gone is told before anything is read or kept
    path = lesson_path(known.lesson).resolve()
    try:
        # Whatever bytes an editor left there are kept, through surrogates.
        old = path.read_bytes().decode("utf-8", "surrogateescape")
        new, gone = _replaced(known, old, text)
        if new == old:
            return None
        backup = _keep(known, gone)
        write_whole(path, new.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise NotReplaced(
            f"{lesson_file(known.lesson)} is as it was: {error.strerror or error}"
            + (f" ({shown(Path(error.filename))})." if error.filename else ".")
        ) from None
    return backup


def _replaced(known: Exercise, old: str, text: str) -> tuple[str, str]:
    """The lesson file with an exercise's text replaced, and what stood there."""
    lines, kept = old.splitlines(), old.splitlines(keepends=True)
    newline = "\r\n" if kept and kept[0].endswith("\r\n") else "\n"
    fresh = [line + newline for line in text.rstrip().splitlines()]
    found = pieces(known.lesson, lines)
    here = [piece for piece in found if piece.exercise.id == known.id]
    if not here:
        place = _missing_place(known, found, len(lines))
        if place and not kept[place - 1].endswith(("\n", "\r")):
            kept[place - 1] += newline
        return "".join(kept[:place] + [newline] * 2 + fresh + [newline] * 2 + kept[place:]), ""
    piece = here[-1]  # of two, the one that Python would take

    def put(end: int) -> tuple[str, str]:
        while end > piece.first and not lines[end - 1].strip():
            end -= 1
        return "".join(kept[: piece.first] + fresh + kept[end:]), "".join(kept[piece.first : end])

    # A statement that slipped to the left margin is the exercise's too, if it is what Python cannot
    # read; a constant of the lesson that stands there is not.
    for end in (piece.last, end_of_section(lines, piece.last)):
        if _compiles(put(end)[0]):
            return put(end)
    return put(piece.last)


def _missing_place(known: Exercise, found: list[Piece], end: int) -> int:
    """The line before which an exercise belongs that is in its lesson no more: behind the one that
    was shipped before it."""
    order = list(originals(known.lesson))
    earlier = order[: order.index(known.id)] if known.id in order else order
    return max((piece.last for piece in found if piece.exercise.id in earlier), default=end)


def _compiles(text: str) -> bool:
    try:
        compile(
            text.removeprefix("\ufeff").encode("utf-8", "replace"), "", "exec", dont_inherit=True
        )
    except (SyntaxError, ValueError):
        return False
    return True


def _keep(known: Exercise, text: str) -> Path:
    """A new file with what stood in an exercise, before it goes."""
    BACKUPS.mkdir(parents=True, exist_ok=True)
    stem = f"{known.id}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        path = BACKUPS / f"{stem}{f'-{number}' if number > 1 else ''}.py"
        try:
            with open(path, "xb") as file:
                file.write(text.encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
            return path
        except FileExistsError:
            number += 1


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a machine that loses power, finds the old or the new one;
    who may read and write it stays as it was."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):
            before = path.stat()
            os.chmod(unfinished, before.st_mode & 0o7777)
            os.chown(unfinished, before.st_uid, before.st_gid)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def shown(path: Path) -> Path:
    """A path as a person would type it from where they are."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


# ----------------------------------------------------------------------------- for whoever adds one


def copy_originals() -> list[str]:
    """Copy the exercises of every lesson into originals/, as they stand now; return the ids of
    those that were left out, because they are no stubs."""
    ORIGINALS.mkdir(exist_ok=True)
    left_out = []
    for lesson in LESSONS:
        kept = originals(lesson)
        for known in exercises_of(lesson):
            text = text_of(known.id) or ""
            if f'raise NotImplementedError("{known.id} {known.name}")' in text:
                kept[known.id] = text
            else:
                left_out.append(known.id)
        content = "\n\n\n".join(
            kept[known.id] for known in exercises_of(lesson) if known.id in kept
        )
        write_whole(ORIGINALS / f"{lesson}.txt", (content + "\n").encode())
    return left_out


if __name__ == "__main__":
    if answered := copy_originals():
        sys.exit(f"answered, so left as they were: {', '.join(answered)}")
