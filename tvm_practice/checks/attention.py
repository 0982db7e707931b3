"""What "done" means in the lab on attention. Every schedule is finished with the references of the
steps after it and run in the simulator, on any machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from tvm_practice.checks import UNCHANGED, Trial, check, on_gpu
from tvm_practice.checks.on_gpu import X, Y
from tvm_practice.common import verify
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Loop
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong

lesson = load_lesson("attention")
WIDTH, DEEP = lesson.WIDTH, lesson.DEEP

# (heads, length, d, rows, columns) and the threads of a block.
CASES = (
    ((2, 96, 32, 32, 16), (8, 8)),
    ((1, 64, 32, 16, 32), (4, 8)),
)
SERIAL, VECTORIZED, UNROLLED = "serial", "vectorized", "unrolled"
KINDS = {0: SERIAL, 1: "parallel", 2: VECTORIZED, 3: UNROLLED}


def climbed(exercise_id: str, body: Callable, trial: Trial, case):
    """Climb to a step with references, and take it with `body`."""
    size, threads = case
    sch = lesson.attention(*size)
    lesson.begin(sch, threads)
    on_gpu.climbed(lesson, sch, exercise_id, body, trial, threads)
    return sch


def attention_reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """softmax(Q K^T / sqrt(d)) V in float64, and the size of what is rounded on the way to it."""
    q, k, v = (array.astype("float64") for array in (q, k, v))
    turned = k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    scores = q @ turned
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    # A rounded score moves exp of it by as much, in proportion.
    magnitude = (weights * (1 + np.abs(q) @ np.abs(turned))) @ np.abs(v)
    return weights @ v, magnitude


def assert_attends(sch, trial: Trial, case, done: str) -> Simulated:
    """Take the steps after `done` with references; the kernel computes attention."""
    (heads, length, d, _, _), threads = case
    on_gpu.finish(lesson, sch, done, threads)
    shape = (heads, length, d)
    q, k, v = (verify.random_array(trial.rng, *shape) for _ in range(3))
    q *= 3  # scores far apart: the highest changes, and what is left out of a row shows
    function = on_gpu.compiled(sch)
    got = verify.run(function, (q, k, v), shape)
    want, magnitude = attention_reference(q, k, v)
    writer = partial(function.written, "O")
    verify.assert_close(got, want, magnitude, length + d, "O", written=writer)
    return function


def own_loops(sch, name: str) -> list[tuple[str, int, str]]:
    """(name, extent, kind) of the loops around a block inside of the block that it stands in."""
    found = []
    for loop in map(sch.get, sch.get_loops(sch.get_sblock(name))):
        kind = KINDS.get(int(loop.kind), SERIAL)
        if loop.thread_binding is not None:
            kind = str(loop.thread_binding.thread_tag)
        found.append((loop.loop_var.name, int(loop.extent), kind))
    return found


def told(loops) -> str:
    return ", ".join(f"{name} ({extent}, {kind})" for name, extent, kind in loops) or "none"


def exists(sch, name: str) -> bool:
    try:
        sch.get_sblock(name)
    except Exception:
        return False
    return True


# ----------------------------------------------------------------------------------------- 1 extend


@check(
    "attention.1",
    hints=(
        "The new highest first. Then both the old total and the new term are relative to it.",
        "exp(score - old) times exp(old - new) is exp(score - new), for every score there was.",
        "new = T.max(highest, score); the total is total * T.exp(highest - new) + "
        "T.exp(score - new)",
    ),
    told={
        "as it is|new term|only where|own term": (
            "Follow two scores by hand, first 0 and then 5: the old total was made with the old "
            "highest. What must it be multiplied with?"
        ),
        "overflows|the new highest is": (
            "Every exponent must be 0 or less. Which of the two, the old highest or the new "
            "score, is the larger one?"
        ),
    },
)
def extend(body: Callable, trial: Trial) -> None:
    from tvm import te

    highest, total, score = _situations(trial)
    inputs = [te.placeholder(highest.shape, name=name) for name in ("highest", "total", "score")]
    answers = []

    def rule(number: int) -> Callable:
        def element(n):
            answer = trial.call(body, *(one[n] for one in inputs))
            if not isinstance(answer, tuple | list) or len(answer) != 2:
                raise Wrong(
                    f"extend(highest, total, score) should return the new highest and the new "
                    f"total; it returned {answer!r:.80}."
                )
            answers.append(answer)
            return answer[number]

        return element

    outputs = [te.compute(highest.shape, rule(n), name=f"new_{n}") for n in (0, 1)]
    function = build(te.create_prim_func([*inputs, *outputs]))
    got = verify.run_all(function, (highest, total, score), [(highest.shape, "float32")] * 2)
    _assert_extended(highest, total, score, *got)


def _situations(trial: Trial) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores below and above the highest, far from zero both ways, and the very first."""
    count = 64
    highest = trial.rng.normal(0, 3, count)
    score = trial.rng.normal(0, 3, count)
    total = trial.rng.uniform(1, 20, count)
    highest[:16] += 500
    score[:16] += 500
    highest[16:24] -= 500
    score[16:24] -= 500
    highest[24:28], total[24:28] = lesson.LOWEST, 0
    return tuple(one.astype("float32") for one in (highest, total, score))  # type: ignore


def _assert_extended(highest, total, score, new, sums) -> None:
    wide = [one.astype("float64") for one in (highest, total, score)]
    best = np.maximum(wide[0], wide[2])
    shrink, term = np.exp(wide[0] - best), np.exp(wide[2] - best)
    want = wide[1] * shrink + term

    def situation(n: int) -> str:
        return f"highest = {highest[n]:.4g}, total = {total[n]:.4g} and score = {score[n]:.4g}"

    if len(off := np.flatnonzero(~np.isclose(new, best, rtol=1e-5))):
        n = int(off[0])
        raise Wrong(f"From {situation(n)} the new highest is {new[n]:.6g}; expected {best[n]:.6g}.")
    if len(off := np.flatnonzero(~np.isfinite(sums))):
        n = int(off[0])
        raise Wrong(
            f"From {situation(n)} the new total is {sums[n]}: an exp overflows. Only exp of what "
            "is 0 or less is safe: of a score minus the new highest."
        )
    off = np.flatnonzero(~np.isclose(sums, want, rtol=1e-4))
    if not len(off):
        return
    n = int(off[0])
    reason = ""
    with np.errstate(over="ignore", invalid="ignore"):
        for mistaken, sentence in (
            (wide[1] + term, "The old total is kept as it is, but its terms were made with the "
                             "old "
             "highest."),
            (wide[1] * shrink, "The new score's own term is missing."),
            (wide[1] * shrink + 1, "The new term is 1 only where the score is the highest."),
        ):  # fmt: skip
            if np.allclose(sums, mistaken, rtol=1e-4):
                reason = " " + sentence
                break
    raise Wrong(
        f"From {situation(n)} the new total is {sums[n]:.6g}; expected {want[n]:.6g}.{reason}"
    )


# ------------------------------------------------------------------------------------------ 2 fetch


@check(
    "attention.2",
    hints=(
        "The layout first; then 2.7's fetch for three blocks, in a loop over their names.",
        "`piece = sch.fuse(*sch.get_loops(sch.get_sblock(name))[-2:])`, and a split of it in "
        "four: rounds, threads[0], threads[1], WIDTH.",
        'sch.transform_layout("K_load", ("write", 0), lambda j, k: (k, j)); then for each name '
        "fuse, split by [None, *threads, WIDTH], bind the middle two, vectorize the last",
    ),
    told={
        **UNCHANGED,
        "turns it round|is bound|along threadIdx.y|expected WIDTH|inner one|a run of Q": (
            "Three copies, each shared out among all threads: y outside, x inside, then WIDTH "
            "neighbours at once. And one of them is read along the other dimension."
        ),
    },
)
def fetch(body: Callable, trial: Trial) -> None:
    for case in CASES:
        (_, _, d, _, columns), threads = case
        sch = climbed("attention.2", body, trial, case)
        copies = {}
        for name in ("Q_load", "K_load", "V_load"):
            loops = own_loops(sch, name)
            _assert_fetched(loops, name, threads)
            copies[name[0]] = [Loop(*loop) for loop in loops]
        shape = tuple(int(n) for n in sch.get(sch.get_sblock("K_load")).writes[0].source.shape)
        if shape != (d, columns):
            raise Wrong(
                f"K_shared is {shape[0]} x {shape[1]}; expected d x columns, {d} x {columns}. As "
                "it is, neighbouring threads read a column, and its elements lie in the same bank. "
                "transform_layout turns it round."
            )
        function = assert_attends(sch, trial, case, "attention.2")
        on_gpu.assert_side_by_side(sch, function, copies)


def _assert_fetched(loops, name: str, threads: tuple[int, int]) -> None:
    bound = {kind: extent for _, extent, kind in loops if kind in (X, Y)}
    if not bound:
        raise Wrong(
            f'No loop of "{name}" is bound to threads: each of them would fetch the whole piece. '
            f"Its loops are {told(loops[-4:])}."
        )
    if missing := {X, Y} - bound.keys():
        raise Wrong(
            f'"{name}" is not shared out along {" and ".join(sorted(missing))}: threads that '
            "differ only there fetch the same."
        )
    if (bound[Y], bound[X]) != threads:
        raise Wrong(
            f'"{name}" is shared out to {bound[Y]} x {bound[X]} threads; a block has {threads[0]} '
            f"x {threads[1]}."
        )
    if loops[-1][2] != VECTORIZED or loops[-1][1] != WIDTH:
        raise Wrong(
            f'The last loop of "{name}" is {told(loops[-1:])}; expected WIDTH = {WIDTH} '
            "neighbours, vectorized, for 16 bytes at once."
        )
    kinds = [kind for _, _, kind in loops]
    if kinds.index(X) < kinds.index(Y):
        raise Wrong(
            f'In "{name}" threadIdx.x stands outside of threadIdx.y, so that neighbouring threads '
            "fetch far apart places. x is the inner one."
        )


# ---------------------------------------------------------------------------------------- 3 product


@check(
    "attention.3",
    hints=(
        "2.8 in one go: split three loops, reorder, bind two, copy the right factor, unroll, "
        "decompose.",
        '`copy = sch.cache_read(block, len(sch.get(block).reads) - 1, "local")`, compute_at(copy, '
        "ki), vectorize its last loop; decompose_reduction(block, ko) comes last.",
        "y, yi = sch.split(i, [threads[0], None]); x, xi = sch.split(j, [threads[1], None]); ko, "
        "ki = sch.split(k, [None, deep]); reorder(y, x, ko, ki, yi, xi)",
    ),
    told={
        **UNCHANGED,
        "reads K_shared itself|made outside of ki|times the loads|at a time": (
            "For one ki a thread needs a few numbers of each factor. Copy these and no more, each "
            "in one access where they are neighbours."
        ),
        "y, x|y and": (
            "Each thread has rows along y and columns along x, and runs through all of k itself."
        ),
    },
)
def product(body: Callable, trial: Trial) -> None:
    for case in CASES:
        _, threads = case
        sch = climbed("attention.3", body, trial, case)
        for name, factor in zip(lesson.PRODUCTS, ("K_shared", "V_shared"), strict=True):
            _assert_shared_out(sch, name, threads)
            _assert_factor(sch, name, factor)
        assert_attends(sch, trial, case, "attention.3")


def _assert_shared_out(sch, name: str, threads: tuple[int, int]) -> None:
    if not exists(sch, f"{name}_init"):
        raise Wrong(
            f'Where "{name}" starts from is still asked at every step of its reduction: '
            "decompose_reduction(block, ko) puts it before ko."
        )
    loops = own_loops(sch, f"{name}_update")
    bound = {kind: extent for _, extent, kind in loops if kind in (X, Y)}
    if bound != {Y: threads[0], X: threads[1]}:
        raise Wrong(
            f'The loops around "{name}" are {told(loops)}; expected {threads[0]} threads along y '
            f"and {threads[1]} along x."
        )
    last = loops[-6:]
    if [kind for _, _, kind in last[:3]] != [Y, X, SERIAL]:
        raise Wrong(
            f'The loops around "{name}" are {told(last)}; expected y, x (bound), ko, ki, yi, xi.'
        )
    if last[3][1] != DEEP:
        raise Wrong(f"ki of {name} is {last[3][1]} deep; expected deep, {DEEP}.")
    if rolled := [loop for loop in last[3:] if loop[2] != UNROLLED]:
        raise Wrong(
            f"Loop {rolled[0][0]} of {name} is {rolled[0][2]}. Registers have no addresses: ki, "
            "yi and xi are to be unrolled."
        )
    init = own_loops(sch, f"{name}_init")
    if [kind for _, _, kind in init[-4:-2]] != [Y, X]:
        raise Wrong(
            f'The start of "{name}" has the loops {told(init)}: it stands inside of the reduction '
            "and would start anew in the middle. decompose_reduction takes ko."
        )


def _assert_factor(sch, name: str, factor: str) -> None:
    block = sch.get(sch.get_sblock(f"{name}_update"))
    reads = [region.source for region in block.reads]
    if factor in [one.name for one in reads]:
        raise Wrong(
            f'"{name}" reads {factor} itself, a number at a time and for every row anew. Copy it '
            "to "
            '"local": cache_read(block, number, "local").'
        )
    copy = next((one for one in reads if one.name.startswith(factor)), None)
    if copy is None or copy.scope() != "local":
        raise Wrong(f'The copy of {factor} is not in "local" memory, the registers of a thread.')
    loops = own_loops(sch, copy.name)
    around = [loop for loop, _, _ in own_loops(sch, f"{name}_update")]
    if around[-3] not in [loop for loop, _, _ in loops]:
        raise Wrong(
            f"The copy of {factor} is made outside of ki: it takes all k of a step "
            "at once. compute_at(copy, ki)."
        )
    if inside := [loop for loop in around[-2:] if loop in [name for name, _, _ in loops]]:
        rows = own_loops(sch, f"{name}_update")[-2][1]
        raise Wrong(
            f"The copy of {factor} is made inside of {inside[-1]}, anew for each of a thread's "
            f"{rows} rows, which all need the same numbers: {rows} times the loads. "
            "compute_at(copy, ki)."
        )
    if loops[-1][2] != VECTORIZED:
        raise Wrong(
            f"The copy of {factor} is made a number at a time ({told(loops[-1:])}); vectorize its "
            "last loop for one load of 16 bytes."
        )


# --------------------------------------------------------------------------------------- 4 own_rows


@check(
    "attention.4",
    hints=(
        "Only one thread axis is bound. The other one's threads all do the same.",
        "The loop is `sch.get_loops(sch.get_sblock(name))[-ROWS[name]]`; a thread's rows lie side "
        "by side, as in own_tile.",
        'y, own = sch.split(rows, [threads[0], None]); bind y to "threadIdx.y"; unroll own',
    ),
    told={
        **UNCHANGED,
        "no other can read|numbers of all|side by side": (
            "A row belongs to the threads of one y. Which loop over rows is theirs to share, and "
            "which part of it stays with a thread?"
        ),
    },
)
def own_rows(body: Callable, trial: Trial) -> None:
    for case in CASES:
        (_, _, _, rows, columns), threads = case
        sch = climbed("attention.4", body, trial, case)
        for name, place in lesson.ROWS.items():
            loops = own_loops(sch, name)
            own = loops[-place - 1 :]
            bound = {kind: extent for _, extent, kind in loops if kind in (X, Y)}
            if X in bound:
                raise Wrong(
                    f'A loop of "{name}" is bound to threadIdx.x. Then each thread along x has '
                    "the "
                    "numbers of some rows, in registers that no other can read, and all of them "
                    "need them."
                )
            if Y not in bound:
                raise Wrong(
                    f'No loop of "{name}" is bound to threadIdx.y: each thread would keep the '
                    f"numbers of all {rows} rows. The loops are {told(loops[-3:])}."
                )
            if bound[Y] != threads[0]:
                raise Wrong(
                    f'"{name}" is shared out to {bound[Y]} threads; expected {threads[0]} along y.'
                )
            if place == 2 and (loops[-1][1] != columns or loops[-1][2] != SERIAL):
                raise Wrong(
                    f'The loops of "{name}" are {told(own)}: the columns are no rows. The loop to '
                    "split is the one before."
                )
            if own[0][2] != Y:
                raise Wrong(
                    f'The loops of "{name}" are {told(own)}; the bound one is to be the outer: a '
                    "thread's rows lie side by side, as own_tile has them."
                )
            if own[1][2] != UNROLLED:
                raise Wrong(
                    f'A thread\'s own rows in "{name}" are {own[1][2]}: with an index that is '
                    "only known when the program runs, registers become memory. Unroll them."
                )
        assert_attends(sch, trial, case, "attention.4")
