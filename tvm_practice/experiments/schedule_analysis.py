"""What phase 3 shows: the ladder against NumPy and torch in the learner's own table, and where
threads begin to pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tvm_practice.common import exercise, show
from tvm_practice.common.competitors import libraries, runnable_matmul
from tvm_practice.common.cuda import facts
from tvm_practice.common.cuda.facts import Facts
from tvm_practice.common.target import register_tile
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Runnable
from tvm_practice.experiments.manual_schedule import GPU_MULTIPLES, GPU_RUNGS, gpu_facts, make_step

# Multiples of every register tile, so that no size has a copy for padding in it.
QUICK_SIZES = (32, 64, 96, 128, 192, 256)
SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 384)
STEP_NAMES = {
    "2.1": "tiled",
    "2.2": "+ vectorized",
    "2.3": "+ parallel",
    "2.4": "+ register tile",
    "2.5": "+ packed",
}
BEST = "+ packed"

# Rungs of the GPU's ladder and variants of them: (rung, what `gpu_variant` changes in it).
GPU_VARIANTS = {
    "threads, x along columns": ("2.6", ""),
    "threads, x along rows": ("2.6", "swap"),
    "fetch 4 floats at once": ("2.8", ""),
    "fetch 1 float at once": ("2.8", "narrow"),
    "A_shared, rows spread": ("2.9", ""),
    "A_shared, rows of 16 words": ("2.8", ""),
}
GPU_PAIRS = (
    (
        ("threads, x along columns", "threads, x along rows"),
        "The threads of a warp along a column: each element of B and C is in another sector, of "
        "which it uses 4 bytes of 32. The same product asks for {times} the bytes. (Along the "
        "columns not all is used either: the threads of a row ask for one element of A, {of_a} of "
        "the sector that moves for it. From 2.7 on whole sectors are fetched.)",
    ),
    (
        ("fetch 4 floats at once", "fetch 1 float at once"),
        "The bytes are the same, but it takes {more} as many requests of a warp to fetch A and B. "
        "(If the bank rounds differ, it is because the average has more requests of one round in "
        "it.)",
    ),
    (
        ("A_shared, rows spread", "A_shared, rows of 16 words"),
        "Rows of 16 words put the two rows of threads of a warp into one bank. The padding costs a "
        "quarter more shared memory for A, and takes the second round of its loads away.",
    ),
)
LAST = "A_shared, rows spread"
OWNER = {exercise.LEARNER: "yours", exercise.REFERENCE: "reference"}


def run(session) -> None:
    whose = {known: session.exercise(known) for known in ("3.1", "3.2", "3.3")}
    with show.waiting("the steps of phase 2 ..."):
        whose |= {known: session.whose(known) for known in STEP_NAMES}
    _compare(session, whose)
    _crossover(session, whose)


def run_gpu(session) -> None:
    """What can be said of GPU schedules without a clock: how warps touch memory, rung by rung and
    for schedules with one thing changed."""
    size = session.size(quick=1024, full=2048, multiples=GPU_MULTIPLES)
    with show.waiting("the steps of phase 2 ..."):
        whose = {known: session.whose(known) for known in GPU_RUNGS}
    show.heading("What a warp asks of memory")
    show.say(
        "A warp's 32 threads execute a load together. Global memory moves sectors of 32 bytes: the "
        "fewer the 32 addresses touch, the better. Shared memory has 32 banks of 4 bytes: words of "
        "one bank are delivered one after the other. Both follow from the addresses, and these the "
        "simulator knows; so here each access of each kernel is judged without a GPU. The variants "
        "differ from a rung of phase 2 in one thing."
    )
    found = {}
    for name in GPU_VARIANTS:
        with show.waiting(f"{name} ..."):
            found[name] = session.call(gpu_variant, name, size, tuple(whose.items()), session.seed)
    for pair, sentence in GPU_PAIRS:
        first_of_all = pair == GPU_PAIRS[0][0]
        facts.table({name: found[name] for name in pair}, legend=first_of_all)
        first, second = (found[name] for name in pair)
        show.say(
            sentence.format(
                times=show.times(second.read_per_flop / first.read_per_flop),
                more=show.times(_fetches(second) / _fetches(first)),
                of_a=f"{_used_of_a(first):.0%}",
            )
        )
    accesses = [
        (
            one.array,
            "write" if one.write else "read",
            f"{one.width} B",
            f"{one.requests:,}",
            f"{one.sectors / one.requests:.3g}" if one.sectors else "-",
            f"{one.efficiency:.0%}" if one.sectors else "-",
            f"{one.ways:.3g}" if one.shared else "-",
        )
        for one in found[LAST].patterns[0]
    ]
    show.heading("Every access of the last rung, of one block")
    show.table(
        ("array", "", "a thread", "requests of warps", "sectors each", "used", "bank rounds"),
        accesses,
        _about_rounds(found[LAST]),
    )
    session.headline = f"{len(found)} kernels verified, their accesses counted, not timed"
    session.report["gpu"] = {
        name: {
            "bytes_read_per_flop": one.read_per_flop,
            "coalescing": one.coalescing,
            "bank_rounds": one.bank_rounds,
            "requests": one.requests,
        }
        for name, one in found.items()
    }
    wrong_way, right_way = found["threads, x along rows"], found["threads, x along columns"]
    show.question(
        "Which index should threadIdx.x be, and why?",
        [
            f"The one whose neighbours lie side by side. Along the columns, "
            f"{right_way.coalescing:.0%} of the bytes that move are used; along the rows "
            f"{wrong_way.coalescing:.0%}, and the same product asks for "
            f"{show.times(wrong_way.read_per_flop / right_way.read_per_flop)} the bytes.",
            "What is not seen here: what the caches keep, and how much of it all hides behind "
            "arithmetic. That takes a GPU and a clock.",
        ],
    )


def _about_rounds(of: Facts) -> str:
    """Why the tables of schedules tell less than two rounds where an access takes two."""
    shared = [one for one in of.patterns[0] if one.shared]
    slow = [one for one in shared if one.ways > 1]
    if not slow or of.bank_rounds is None:
        return ""
    told = " and ".join(
        f"{one.requests:,} {'stores to' if one.write else 'loads of'} {one.array} take "
        f"{one.ways:.3g}"
        for one in slow
    )
    total = sum(one.requests for one in shared)
    return (
        f"Of the {total:,} requests to shared memory, {told} rounds. The table above has the "
        f"average of them all, {of.bank_rounds:.3g}. Rows are spread for the loads, of which there "
        "are more."
    )


def _used_of_a(of: Facts) -> float:
    """Of what moves for A, the share that was asked for."""
    return next(one.efficiency for one in of.patterns[0] if one.array == "A")


def _fetches(of: Facts) -> int:
    """Requests of warps that read A and B."""
    return sum(one.requests for one in of.patterns[0] if one.array in ("A", "B"))


def _compare(session, whose: dict[str, str]) -> None:
    M, N, K = session.size(quick=512, full=1024)
    show.heading(f"The variants against the libraries, {M} x {N} x {K}, float32")
    common = {"M": M, "N": N, "K": K, "seed": session.seed, "whose": whose}
    names = ["naive", *STEP_NAMES.values()]
    candidates = [Candidate(name, make_variant, {**common, "variant": name}) for name in names]
    others = libraries(M, N, K, session.seed)
    measured = session.compare([PEAK_FMA, *candidates, *others], what="variants and libraries")
    shown = [name for name in (*names, *(other.name for other in others)) if name in measured]
    samples = {name: list(measured[name].samples) for name in shown}
    owners = {name: OWNER[whose[known]] for known, name in STEP_NAMES.items()}
    rows = session.call(
        table_rows, whose["3.2"], samples, measured[shown[0]].flops, measured.peak_gflops
    )
    show.table(
        ("variant", "step ", "ms", "GFLOP/s", "speed-up", "of FMA peak", "spread"),
        [
            (
                row["name"],
                owners.get(row["name"], "-"),
                f"{row['milliseconds']:.4g}",
                show.rate(row["gflops"]),
                show.times(row["speedup"]),
                show.share(row["share"]),
                f"{measured[row['name']].spread:.0%}",
            )
            for row in rows
        ],
        f"The table: {OWNER[whose['3.2']]}. FMA peak of {measured.threads} threads in the same "
        f"rounds: {show.rate(measured.peak_gflops)} GFLOP/s. "
        f"Up to {measured.rounds} paired rounds, every competitor {measured.threads} threads, "
        "in a process of its own, verified.",
    )
    if BEST in measured:
        for other in others:
            if other.name in measured:
                show.line("  " + measured.verdict(BEST, other.name).sentence() + ".")
        session.headline = _headline(measured)
    session.picture("variants", lambda path: draw_variants(path, measured, shown, (M, N, K)))
    session.report["size"] = (M, N, K)
    session.report["peaks"] = {"fma_gflops": measured.peak_gflops}
    session.report["results"] = measured.as_json()


def _headline(measured: Comparison) -> str:
    told = []
    for name in ("NumPy", "torch"):
        if name in measured:
            verdict = measured.verdict(BEST, name)
            word = (
                verdict.word
                if verdict.word == "cannot tell"
                else f"{_times(verdict)} {verdict.word}"
            )
            told.append(f"{name}: {word}")
    return f"packed against {', '.join(told)}" if told else ""


def _times(verdict) -> str:
    return show.times(verdict.ratio if verdict.word == "faster" else 1 / verdict.ratio)


def _crossover(session, whose: dict[str, str]) -> None:
    sizes = QUICK_SIZES if session.quick else SIZES
    show.heading("Where threads begin to pay")
    serial, parallel = [], []
    with show.waiting("serial against parallel ..."):
        pairs = [
            session.compare(
                [
                    Candidate("serial", make_step, _at(size, session.seed, ("2.1", "2.2"))),
                    Candidate(
                        "parallel", make_step, _at(size, session.seed, ("2.1", "2.2", "2.3"))
                    ),
                ],
                what=f"serial against parallel at {size}",
                predict=False,
            )
            for size in sizes
        ]
    for pair in pairs:
        serial.append(list(pair["serial"].samples))
        parallel.append(list(pair["parallel"].samples))
    found = session.call(find_crossover, whose["3.3"], list(sizes), serial, parallel)
    show.table(
        ("N x N x N", "serial", "parallel", "speed-up", "verdict "),
        [
            (
                str(size),
                show.seconds(pair["serial"].median_s),
                show.seconds(pair["parallel"].median_s),
                show.times(pair.verdict("parallel", "serial").ratio),
                pair.verdict("parallel", "serial").word,
            )
            for size, pair in zip(sizes, pairs, strict=True)
        ],
        "Tiled and vectorized, without and with the parallel outer loop; the reference's steps.",
    )
    session.picture("crossover", lambda path: draw_crossover(path, sizes, pairs, found))
    session.report["crossover"] = {
        "size": found,
        "sizes": sizes,
        "serial_s": [pair["serial"].median_s for pair in pairs],
        "parallel_s": [pair["parallel"].median_s for pair in pairs],
    }
    _answer(session, sizes, pairs, found)


def _answer(session, sizes, pairs: list[Comparison], found: int | None) -> None:
    smallest, largest = pairs[0], pairs[-1]
    extra = smallest["parallel"].median_s - smallest["serial"].median_s
    threads = largest.threads
    answer = []
    if found is None:
        answer.append(
            f"In this run sharing the work among {threads} thread(s) did not pay at any size up "
            f"to {sizes[-1]}."
        )
    else:
        at = pairs[list(sizes).index(found)]
        answer.append(
            f"In this run: from {found} x {found} x {found} on, where one thread takes "
            f"{show.seconds(at['serial'].median_s)}."
        )
    if extra > 0:
        answer.append(
            f"Why: waking {threads} threads and waiting for the last has a price that does not "
            f"depend on the size. At {sizes[0]} it shows nearly alone: the "
            f"parallel variant takes {show.seconds(extra)} longer than "
            f"{show.seconds(smallest['serial'].median_s)} of work. The work grows with "
            "the cube of the size, the price stays."
        )
        gain = largest.verdict("parallel", "serial")
        at_largest = f"at {sizes[-1]} the speed-up is {show.times(gain.ratio)} of {threads}"
        if gain.word == "faster" and gain.ratio > 0.75 * threads:
            answer[-1] += f" So {at_largest} possible."
        else:
            answer.append(
                f"But {at_largest} possible, less than that explains: the threads share what lies "
                "beyond their own caches, or another program took a core. Run it again to see "
                "whether it stays."
            )
    answer.append(
        "So the faster the serial code is, the later threads pay: a better schedule makes the "
        "work cheaper, and waking a thread "
        "costs what it did."
    )
    show.question("At what size does parallelization start helping, and why?", answer)


def gpu_variant(name: str, size: tuple[int, int, int], whose: Any, seed: int) -> Facts:
    """A variant of GPU_VARIANTS: the phase's rung with one thing changed."""
    rung, change = GPU_VARIANTS[name]
    lesson = exercise.load_lesson("manual_schedule")
    tiling = lesson.ONE_EACH if rung == "2.6" else lesson.TILE_EACH
    if change == "narrow":
        tiling = replace(tiling, width=1)

    def schedule(size: tuple[int, int, int]):
        sch = lesson.matmul(*size)
        for known, owner in whose:
            body = exercise.body(known, owner)
            lesson.climb_gpu(sch, known, bind_the_other_way if change == "swap" else body, tiling)
            if known == rung:
                return sch
        raise KeyError(rung)

    return gpu_facts(schedule, size, seed)


def bind_the_other_way(sch, threads: tuple[int, int], each: tuple[int, int]) -> None:
    """2.6 with x along the rows and y along the columns."""
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    by, tx, yi = sch.split(i, [None, threads[0], each[0]])
    bx, ty, xi = sch.split(j, [None, threads[1], each[1]])
    sch.reorder(by, bx, ty, tx, k, yi, xi)
    axes = ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")
    for loop, axis in zip((by, bx, ty, tx), axes, strict=True):
        sch.bind(loop, axis)


def _at(size: int, seed: int, steps: tuple[str, ...]) -> dict[str, Any]:
    return {
        "M": size,
        "N": size,
        "K": size,
        "seed": seed,
        "steps": tuple((known, exercise.REFERENCE) for known in steps),
    }


# ---------------------------------------------------------------------------------- run in a worker


def make_variant(
    M: int, N: int, K: int, seed: int, whose: dict[str, str], variant: str
) -> Runnable:
    """One of the variants that exercise 3.1 builds from the steps of phase 2, verified."""
    ladder = exercise.load_lesson("manual_schedule")

    def applying(known: str):
        def apply(sch) -> None:
            ladder.climb(sch, known, exercise.body(known, whose[known]), *register_tile(M, N))

        return apply

    steps = {name: applying(known) for known, name in STEP_NAMES.items()}
    variants = exercise.body("3.1", whose["3.1"])(ladder.matmul(M, N, K), steps)
    return runnable_matmul(variants[variant], M, N, K, seed)


def table_rows(
    whose: str, samples: dict[str, list[float]], flops: float, peak: float
) -> list[dict[str, Any]]:
    """The rows of exercise 3.2 as plain dictionaries."""
    return [vars(row) for row in exercise.body("3.2", whose)(samples, flops, peak)]


def find_crossover(whose: str, sizes: list[int], serial: list, parallel: list) -> int | None:
    return exercise.body("3.3", whose)(sizes, serial, parallel)


# ----------------------------------------------------------------------------------------- pictures


def draw_variants(
    path: Path, measured: Comparison, names: list[str], size: tuple[int, int, int]
) -> None:
    """GFLOP/s of every variant and library as bars with their quartiles, below the FMA peak."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 0.45 * len(names) + 1.4), layout="constrained")
    for place, name in enumerate(names):
        one = measured[name]
        fast, slow = (one.flops / seconds / 1e9 for seconds in one.quartiles_s)
        color = "tab:blue" if name not in ("NumPy", "torch") else "tab:gray"
        error = [[max(0.0, one.gflops - slow)], [max(0.0, fast - one.gflops)]]
        axis.barh(place, one.gflops, color=color, xerr=error, ecolor="black", capsize=3)
        axis.text(one.gflops, place, f"  {show.rate(one.gflops)}", va="center", fontsize=9)
    axis.axvline(measured.peak_gflops, color="tab:red", linestyle="--")
    axis.text(
        measured.peak_gflops, -0.75, "measured FMA peak ", color="tab:red", ha="right", fontsize=9
    )
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -1.1)
    axis.set_xlim(0, measured.peak_gflops * 1.12)
    axis.set_xlabel(
        f"GFLOP/s, median with quartiles of {measured.rounds} rounds, {measured.threads} threads"
    )
    axis.set_title("Matmul {} x {} x {}, float32".format(*size))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_crossover(path: Path, sizes, pairs: list[Comparison], found: int | None) -> None:
    """Median seconds of the serial and the parallel variant over the size, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, color in (("serial", "tab:orange"), ("parallel", "tab:blue")):
        medians = [pair[name].median_s * 1e6 for pair in pairs]
        low = [pair[name].quartiles_s[0] * 1e6 for pair in pairs]
        high = [pair[name].quartiles_s[1] * 1e6 for pair in pairs]
        axis.plot(sizes, medians, marker="o", color=color, label=name)
        axis.fill_between(sizes, low, high, color=color, alpha=0.2)
    if found is not None:
        axis.axvline(found, color="black", linestyle=":", label=f"crossover: {found}")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel("N of an N x N x N product")
    axis.set_ylabel("microseconds per call, median and quartiles")
    axis.set_title(f"Tiled and vectorized, 1 thread against {pairs[0].threads}")
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
