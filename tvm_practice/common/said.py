"""What a learner answered to key questions, in their own words: .tvm_practice/answers.md.

A text file of its own, to read and to edit; every answer is added at its end, with its date, and
none is ever taken away. The course shows the last to each question.
"""

from __future__ import annotations

import re
from datetime import datetime

from tvm_practice.common import answers

FILE = answers.FOLDER / "answers.md"
_ENTRY = re.compile(r"^## (?P<question>.+)\n\s*(?P<words>(?:(?!## ).*(?:\n|$))*)", re.MULTILINE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d: ")


def latest() -> dict[str, str]:
    """The last words to each question, in the order in which they were first answered; none where
    there is no file, or none that can be read."""
    try:
        text = FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {
        found["question"].strip(): " ".join(_DATE.sub("", found["words"], count=1).split())
        for found in _ENTRY.finditer(text)
    }


def add(question: str, words: str) -> str:
    """Keep what was answered to a key question; return a sentence where that was not possible, ""
    if all is well."""
    try:
        FILE.parent.mkdir(exist_ok=True)
        with open(FILE, "a", encoding="utf-8", errors="replace") as file:
            file.write(f"\n## {question}\n\n{datetime.now():%Y-%m-%d}: {words}\n")
    except OSError as error:
        return (
            f"{answers.shown(FILE)} could not be written: {error.strerror or error}. What you said "
            "is not kept."
        )
    return ""
