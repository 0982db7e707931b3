"""Predict, then measure: who is asked, what is understood, and how a guess is judged."""

from __future__ import annotations

import sys

import pytest

from tests.learner import Learner
from tvm_practice.common import ask, guess
from tvm_practice.common.guess import Guess
from tvm_practice.common.timing import Comparison, Figure

NAMES = ("naive", "tiled", "packed")


def measured(**seconds: float) -> Comparison:
    """Eight rounds, in each of which the machine was another percent slower."""
    figures = {
        name: Figure(name, tuple(each * (1 + n / 100) for n in range(8)), 1, 1.0, 0.0, True)
        for name, each in seconds.items()
    }
    return Comparison(figures, {}, 8, 2)


SLOW_TO_FAST = measured(naive=100.0, tiled=20.0, packed=1.0)


def test_a_right_guess_is_told_so_with_its_factor() -> None:
    told = Guess(NAMES, "packed", 90.0).score(SLOW_TO_FAST)
    assert told.startswith("You said packed, and it is the fastest.")
    assert "you said 90.0x, measured 100x; a good guess." in told


def test_a_wrong_guess_is_told_what_wins_and_by_how_much() -> None:
    told = Guess(NAMES, "tiled", 50.0).score(SLOW_TO_FAST)
    assert "You said tiled; packed is 20x faster than tiled" in told
    assert "you said 50.0x, measured 5.00x; off by a factor of 10.0." in told


def test_what_the_samples_cannot_tell_apart_counts_as_right() -> None:
    noisy = Figure("tiled", (1.1, 0.9, 1.2, 0.8, 1.1, 0.9, 1.3, 0.95), 1, 1.0, 0.0, True)
    close = Comparison({**SLOW_TO_FAST.figures, "tiled": noisy}, {}, 8, 2)
    best = min(("tiled", "packed"), key=lambda name: close[name].median_s)
    other = {"tiled": "packed", "packed": "tiled"}[best]
    assert "so: right" in Guess(NAMES, other).score(close)


def test_a_guess_without_a_factor_is_judged_without_one() -> None:
    assert "measured" not in Guess(NAMES, "packed").score(SLOW_TO_FAST)


@pytest.mark.parametrize("missing", ["packed", "naive"])
def test_nothing_is_said_of_what_could_not_be_measured(missing: str) -> None:
    left = {name: figure for name, figure in SLOW_TO_FAST.figures.items() if name != missing}
    assert Guess(NAMES, "packed", 3.0).score(Comparison(left, {}, 8, 2)) == ""


@pytest.fixture
def typing(monkeypatch):
    """A function that sets what the person types, line by line; then the input ends."""

    def set_lines(*lines: str) -> None:
        left = list(lines)

        def one_line(_prompt: str) -> str:
            if not left:
                raise EOFError
            return left.pop(0)

        monkeypatch.setattr("builtins.input", one_line)

    return set_lines


@pytest.mark.parametrize(
    ("lines", "understood"),
    [
        (("3", "50"), Guess(NAMES, "packed", 50.0)),
        (("tiled", "2.5x"), Guess(NAMES, "tiled", 2.5)),
        (("Packed", ""), Guess(NAMES, "packed")),
        (("what?", "9", "2", "many", ""), Guess(NAMES, "tiled")),
        (("1",), Guess(NAMES, "naive")),
        (("3", "0"), Guess(NAMES, "packed")),
        (("",), None),
        ((), None),
    ],
)
def test_numbers_names_and_nothing_are_understood(typing, lines, understood) -> None:
    typing(*lines)
    assert guess.ask_for(NAMES, "the ladder") == understood


def test_in_a_pipe_nobody_is_asked() -> None:
    assert not ask.at_a_terminal()  # pytest has taken the output


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_at_a_terminal_a_phase_asks_first_scores_after_and_keeps_what_was_said(tmp_path) -> None:
    pexpect = pytest.importorskip("pexpect")
    learner = Learner(tmp_path / "course")
    options = ("--quick", "--solutions", "--seed", "1")
    with learner.at_terminal("run", "1", *options, TERM="dumb", CI=None) as phase:
        phase.expect("which is the fastest")
        phase.expect("Enter skips: ")
        phase.sendline("NumPy")
        phase.expect("How many times faster than default loops")
        phase.sendline("30")
        phase.expect("You said NumPy")
        phase.expect("Key question")
        phase.expect("Enter shows")
        phase.sendline("because\x1b[D")  # with an arrow key
        phase.expect("You said: because")
        phase.expect(pexpect.EOF)
    assert phase.exitstatus == 0
    told = learner.types("progress").stdout
    assert "Why does TVM separate what is computed from how?\n    because" in told
