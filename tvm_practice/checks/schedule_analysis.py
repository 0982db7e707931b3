"""What "done" means in phase 3: independent variants, medians and not means, and a crossover that
holds from there on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import mean, median

from tvm_practice.checks import Trial, check
from tvm_practice.common import verify
from tvm_practice.common.accesses import written
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong

lesson = load_lesson("schedule_analysis")

M, N, K = 16, 32, 24


def _naive():
    return load_lesson("manual_schedule").matmul(M, N, K)


def _loops(sch) -> list:
    return sch.get_loops(sch.get_sblock("C"))


def _tile(sch) -> None:
    i, j, k = _loops(sch)
    io, ii = sch.split(i, [None, 4])
    jo, ji = sch.split(j, [None, 8])
    sch.reorder(io, jo, k, ii, ji)


def _vectorize(sch) -> None:
    sch.vectorize(_loops(sch)[-1])


def _parallel(sch) -> None:
    sch.parallel(_loops(sch)[0])


@check(
    "3.1",
    hints=(
        "Walk through the steps, and keep the latest schedule in a variable.",
        "`naive.copy()` for the first; for each `name, apply in steps.items()`: copy the latest, "
        "apply the step to the copy, keep it.",
        "`latest = latest.copy(); apply(latest); variants[name] = latest`",
    ),
    told={
        (
            "one schedule under|one and the same schedule|is a NoneType|"
            "changed the schedule it was given"
        ): (
            "A step changes the schedule that it is given and returns nothing. How many schedules "
            "should there be in the end, and which call makes another one?"
        ),
        "one step more|builds on the variant": (
            "Follow one schedule through: what has been done to the one from which you take each "
            "copy?"
        ),
        "returned the names": ("Which variant has no step at all?"),
    },
)
def build_variants(body: Callable, trial: Trial) -> None:
    from tvm.s_tir import Schedule

    for steps in ({"tile": _tile, "vectorize": _vectorize, "parallel": _parallel}, {"tile": _tile}):
        naive = _naive()
        untouched = loop_nest(naive.mod)
        variants = trial.call(body, naive, _watched(steps))
        wanted = ["naive", *steps]
        call = f"build_variants(naive, {{{', '.join(steps)}}})"
        if not isinstance(variants, dict):
            raise Wrong(
                f"{call} returned {type(variants).__name__}; expected a dict of schedules by name."
            )
        if list(variants) != wanted:
            raise Wrong(
                f"{call} returned the names {list(variants)}; expected {wanted}, in this order."
            )
        stray = [name for name, sch in variants.items() if not isinstance(sch, Schedule)]
        if stray:
            raise Wrong(
                f"{call}: {stray[0]!r} is a {type(variants[stray[0]]).__name__}, not a Schedule. "
                "A step changes the schedule it is given "
                "and returns None."
            )
        expected, latest = {"naive": untouched}, _naive()
        for name, apply in steps.items():
            apply(latest)
            expected[name] = loop_nest(latest.mod)
        trial.show(loop_nest(variants[wanted[-1]].mod), untouched)
        nests = {name: loop_nest(sch.mod) for name, sch in variants.items()}
        if len(steps) > 1 and len({nest.text() for nest in nests.values()}) == 1:
            raise Wrong(
                f"All variants of {call} have the same loop nest: they are one schedule under "
                f"{len(variants)} names. "
                "A Schedule changes in place; give each variant a copy()."
            )
        names = list(variants)
        for first, second in pairwise(names):
            if variants[first] is variants[second]:
                raise Wrong(
                    f"{call}: {first!r} and {second!r} are one and the same schedule, so the "
                    "first has the steps of the second "
                    "too. Keep a copy() of each stage."
                )
        if loop_nest(naive.mod).text() != untouched.text():
            raise Wrong(
                f"{call} changed the schedule it was given. Apply the steps to copies of it."
            )
        for name in wanted:
            if nests[name].text() != expected[name].text():
                raise Wrong(
                    f"The variant {name!r} has the loops {nests[name].blocks[0].order()}; "
                    "expected "
                    f"{expected[name].blocks[0].order()}, with the kinds of all steps up to it. "
                    "Each variant is the one before "
                    "it with one step more."
                )
        # Independent: a change to one must not reach another.
        _unrelated_change(variants[wanted[0]])
        for name in wanted[1:]:
            if loop_nest(variants[name].mod).text() != expected[name].text():
                raise Wrong(
                    f"A change to 'naive' also changes {name!r}: they share a schedule. copy() "
                    "each."
                )
        a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
        last = variants[wanted[-1]].mod
        got = verify.run(build(last), (a, b), (M, N))
        want, magnitude = verify.matmul_reference(a, b)
        writer = partial(written, last, "C")
        verify.assert_close(got, want, magnitude, K, "C", written=writer)


def _watched(steps: dict[str, Callable]) -> dict[str, Callable]:
    """The steps, each of which refuses a schedule that lacks the steps before it."""
    latest, watched = _naive(), {}
    for name, apply in steps.items():
        expected = loop_nest(latest.mod)

        def refusing(sch, name=name, apply=apply, before=expected) -> None:
            got = loop_nest(sch.mod)
            if got.text() != before.text():
                raise Wrong(
                    f"The step {name!r} was given a schedule with the loops "
                    f"{got.blocks[0].order()}; it builds on the variant before it, "
                    f"with the loops {before.blocks[0].order()}."
                )
            apply(sch)

        watched[name] = refusing
        apply(latest)
    return watched


def _unrelated_change(sch) -> None:
    sch.annotate(_loops(sch)[0], "tvm_practice", 1)
    sch.unroll(_loops(sch)[-1])


@check(
    "3.2",
    hints=(
        "One loop over samples.items(), one Row each.",
        "median(seconds) gives the typical time; gflops(seconds, flops) the rate; the share is "
        "that rate over peak_gflops.",
        "`first = median(next(iter(samples.values())))`, then `Row(name, typical * 1e3, rate, "
        "first / typical, rate / peak_gflops)`",
    ),
    told={
        "That is the mean|fastest round": (
            "One slow round out of many says nothing about the program. Which figure is the one "
            "in the middle?"
        ),
        r"seconds; the column|10\^9 of them|in percent": (
            "Write the unit beside each figure, of what you have and of what the column wants. By "
            "which factor do they differ?"
        ),
        "upside_down|not of 0.5|rate over the peak": (
            "What should the figure be for a variant that is twice as good: 2 or a half? Put "
            "numbers in."
        ),
        "in this order": (
            "A dict remembers the order in which it was filled. Does your loop keep it?"
        ),
    },
)
def comparison_table(body: Callable, trial: Trial) -> None:
    for names in (("naive", "tiled", "packed"), ("z", "a")):
        samples = {}
        for name in names:
            typical = float(trial.rng.uniform(1e-4, 1e-1))
            rounds = [typical * float(trial.rng.uniform(0.97, 1.03)) for _ in range(8)]
            samples[name] = [*rounds[:3], typical * 40, *rounds[3:]]  # one round was disturbed
        flops, peak = float(trial.rng.uniform(1e6, 1e9)), float(trial.rng.uniform(50, 500))
        given = f"samples of {', '.join(names)}, flops={flops:.3g}, peak_gflops={peak:.4g}"
        call = f"comparison_table({given})"
        rows = trial.call(body, {name: list(taken) for name, taken in samples.items()}, flops, peak)
        if not isinstance(rows, list | tuple) or not all(
            isinstance(row, lesson.Row) for row in rows
        ):
            kinds = (
                type(rows).__name__
                if not isinstance(rows, list | tuple)
                else "other things than Row"
            )
            raise Wrong(f"{call} returned {kinds}; expected a list of Row.")
        if [row.name for row in rows] != list(names):
            raise Wrong(
                f"{call} has the rows {[row.name for row in rows]}; expected {list(names)}, in "
                "this order."
            )
        first = samples[names[0]]
        for row in rows:
            taken = samples[row.name]
            rate = flops / median(taken) / 1e9
            _expect(
                row.name,
                "milliseconds",
                row.milliseconds,
                median(taken) * 1e3,
                (
                    (
                        mean(taken) * 1e3,
                        "That is the mean; one disturbed round moved it. Take the median.",
                    ),
                    (
                        min(taken) * 1e3,
                        "That is the fastest round, which tells how lucky one round was. Take the "
                        "median.",
                    ),
                    (median(taken), "That is seconds; the column is in milliseconds."),
                    (median(taken) * 1e6, "That is microseconds; the column is in milliseconds."),
                ),
            )
            _expect(
                row.name,
                "gflops",
                row.gflops,
                rate,
                (
                    (rate * 1e9, "That is FLOP/s; a GFLOP/s is 10^9 of them."),
                    (rate * 1e3, "That is MFLOP/s; divide by 1e9."),
                    (rate / 1e3, "Divide the operations by seconds, not by milliseconds."),
                    (flops / mean(taken) / 1e9, "That is the rate at the mean; take the median."),
                    (
                        flops / min(taken) / 1e9,
                        "That is the rate of the fastest round; take the median.",
                    ),
                ),
            )
            speedup = median(first) / median(taken)
            _expect(
                row.name,
                "speedup",
                row.speedup,
                speedup,
                (
                    (
                        1 / speedup,
                        "That is upside down: twice as fast is a speed-up of 2, not of 0.5.",
                    ),
                    (mean(first) / mean(taken), "That is a ratio of means; take the medians."),
                ),
            )
            _expect(
                row.name,
                "share",
                row.share,
                rate / peak,
                (
                    (
                        100 * rate / peak,
                        "That is in percent; share is a fraction, 0.5 for half of the peak.",
                    ),
                    (peak / rate, "That is upside down: the share is the rate over the peak."),
                ),
            )


def _expect(
    name: str, column: str, got: float, want: float, mistakes: Sequence[tuple[float, str]]
) -> None:
    if _same(got, want):
        return
    reason = next((f" {sentence}" for value, sentence in mistakes if _same(got, value)), "")
    raise Wrong(f"Row {name!r}: {column} is {got!r}; expected {want:.6g}.{reason}")


def _same(got: float, want: float) -> bool:
    return isinstance(got, int | float) and abs(got - want) <= 1e-9 * abs(want)


@check(
    "3.3",
    hints=(
        "Go through the sizes and remember the first at which parallel is faster. What must "
        "happen when it is slower again?",
        "Compare median(parallel[n]) with median(serial[n]). Slower or equal at a size: forget "
        "what you remembered.",
        "`found = None`; in the loop: `if median(many) >= median(one): found = None`, `elif found "
        "is None: found = size`",
    ),
    told={
        "loses again later|does not win": (
            "Play it through with win, lose, win, win. From which size on is it never slower again?"
        ),
        "compare medians": (
            "One slow round must not decide. Which figure of a list does not move when its "
            "largest value grows?"
        ),
        "Equally long": ("What do you answer where both take just as long?"),
        "expected one of the sizes": (
            "Who calls this wants to know how large a problem must be, not where it stands in a "
            "list."
        ),
    },
)
def crossover(body: Callable, trial: Trial) -> None:
    sizes = [16, 24, 32, 48, 64, 96, 128]
    cases = (
        ("parallel wins from 48 on", [0.3, 0.5, 0.8, 1.2, 1.5, 1.8, 1.9], 48),
        ("parallel wins everywhere", [1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8], 16),
        ("parallel never wins", [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], None),
        (
            "parallel wins at 24, loses at 32 and 48, wins from 64 on",
            [0.3, 1.1, 0.8, 0.9, 1.4, 1.6, 1.9],
            64,
        ),
        ("parallel wins until 96 and loses at 128", [1.1, 1.2, 1.3, 1.4, 1.5, 1.4, 0.8], None),
        ("parallel wins only at the last size", [0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.1], 128),
        ("both take equally long until 64", [1.0, 1.0, 1.0, 1.0, 1.5, 1.6, 1.7], 64),
    )
    for told, speedups, want in cases:
        times = [1e-6 * (size / 16) ** 3 for size in sizes]
        serial = [[time] * 7 for time in times]
        parallel = [[time / gain] * 7 for time, gain in zip(times, speedups, strict=True)]
        for n, (one, many) in enumerate(zip(serial, parallel, strict=True)):
            # One disturbed round, of one variant at each size: a mean falls for it.
            (many if n % 2 == 0 else one)[int(trial.rng.integers(7))] *= 30
        arguments = (list(sizes), serial, parallel)
        got = trial.call(body, *arguments)
        if got is not None and got not in sizes:
            raise Wrong(
                f"Where {told}, crossover returned {got!r}; expected one of the sizes, or None."
            )
        if got != want:
            raise Wrong(
                f"Where {told}, crossover returned {got}; expected "
                f"{want}.{_reason(got, speedups, sizes, arguments)}"
            )


def _reason(got, speedups, sizes, arguments) -> str:
    winners = [size for size, gain in zip(sizes, speedups, strict=True) if gain > 1]
    losers = [size for size, gain in zip(sizes, speedups, strict=True) if gain <= 1]
    _, serial, parallel = arguments
    by_mean = [s for s, a, b in zip(sizes, serial, parallel, strict=True) if mean(b) < mean(a)]
    if winners and got == winners[0] and losers and losers[-1] > got:
        return (
            " That is the first size at which parallel wins, but it loses again later; the "
            "crossover holds from there on."
        )
    if losers and got == losers[-1]:
        return (
            " That is the last size at which parallel does not win; the crossover is the first at "
            "which it does for good."
        )
    if any(gain == 1 for gain in speedups) and got is not None:
        return " Equally long is not faster."
    if by_mean != winners:
        return " In one round of each something else ran; compare medians, which do not mind."
    return ""
