"""What "done" means in phase 5: the task is the right one, the space is a space, the search learns
and counts, the best is best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

from tvm import ir
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import Trace

from tvm_practice.checks import STARTS_AT_0, UNCHANGED, Trial, check
from tvm_practice.common import verify
from tvm_practice.common.accesses import written
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, LoopNest, loop_nest
from tvm_practice.common.measure import Measure, Measured, module_hash
from tvm_practice.common.records import FAILED_SECONDS
from tvm_practice.common.refusal import in_plain_words
from tvm_practice.common.target import build, cpu_target
from tvm_practice.common.verify import Wrong, a_or_an
from tvm_practice.common.worker import Failure

lesson = load_lesson("auto_tune")

Size = tuple[int, int, int]


def small_strategy() -> ms.SearchStrategy:
    """An evolution that is over in a moment."""
    return ms.search_strategy.EvolutionarySearch(
        population_size=16, init_min_unmeasured=8, genetic_num_iters=1
    )


def reference_task(size: Size, seed: int, strategy: ms.SearchStrategy | None = None):
    space = lesson.search_space(body_of("5.2"))
    return body_of("5.1")(*size, cpu_target(), space, strategy or small_strategy(), seed)


# ---------------------------------------------------------------------------------------------- 5.1


@check(
    "5.1",
    hints=(
        "vector_add_task above, with the matmul that you declared in exercise 1.1 in place of the "
        "addition.",
        (
            'A has shape (M, K), B has (K, N); `k = te.reduce_axis((0, K), name="k")` and a '
            "`te.sum` over `axis=k`. All five "
            "arguments of TuneContext are passed on."
        ),
        (
            '`C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")`, '
            "then "
            '`TuneContext(mod=ir.IRModule({"main": te.create_prim_func([A, B, C])}), '
            "target=target, space_generator=space, "
            "search_strategy=strategy, rand_state=seed)`"
        ),
    ),
    told={
        "expected a TuneContext|target of|does not hold|could not be repeated": (
            "vector_add_task above passes five things on. Count yours."
        ),
        "arguments of shapes|in the order A, B, C": (
            "te.create_prim_func takes the arguments of the function in their order. Which is it, "
            "and what shape has each?"
        ),
        (
            "scheduled already|No block of the program is named|expected float32|"
            "elements of C are wrong"
        ): (
            "The program is the one of exercise 1.1, as it is declared, untouched by any "
            "schedule. What is different in yours?"
        ),
    },
)
def matmul_task(body: Callable, trial: Trial) -> None:
    for M, N, K in ((17, 9, 33), (6, 31, 14)):
        seed = int(trial.rng.integers(1, 1 << 30))
        target, strategy = cpu_target(), small_strategy()
        space = lesson.search_space(lambda sch: None)
        call = f"matmul_task({M}, {N}, {K}, ...)"
        task = trial.call(body, M, N, K, target, space, strategy, seed)
        function = _stated_program(task, call)
        nest = loop_nest(function)
        trial.show(nest)
        _assert_states_matmul(function, nest, call, (M, N, K), trial)
        _assert_complete(task, call, target, space, strategy)
        same = body_of("5.1")(
            M, N, K, target, lesson.search_space(lambda sch: None), small_strategy(), seed
        )
        if int(task.rand_state) != int(same.rand_state):
            raise Wrong(
                f"{call} was given the seed {seed}, but the task's random state does not come "
                "from it, so a search could not be "
                "repeated. Pass rand_state=seed."
            )


def _stated_program(task: Any, call: str):
    if not isinstance(task, ms.TuneContext):
        raise Wrong(
            f"{call} returned {a_or_an(task)}; expected a TuneContext, which holds the program and "
            "all that the search needs."
        )
    if task.mod is None:
        raise Wrong(f"{call} returned a TuneContext without a program. Pass mod=...")
    names = [variable.name_hint for variable in task.mod.functions]
    if names != ["main"]:
        raise Wrong(f'The module of {call} has the functions {names}; expected one, named "main".')
    return task.mod["main"]


def _assert_states_matmul(function, nest: LoopNest, call: str, size: Size, trial: Trial) -> None:
    M, N, K = size
    shapes = [tuple(int(extent) for extent in buffer.shape) for buffer in function.params]
    wanted = [(M, K), (K, N), (M, N)]
    if shapes != wanted:
        reason = ""
        if sorted(shapes) == sorted(wanted):
            reason = " te.create_prim_func takes the arguments in the order A, B, C."
        raise Wrong(
            f"The program of {call} takes arguments of shapes {shapes}; expected A {wanted[0]}, B "
            f"{wanted[1]}, C {wanted[2]}.{reason}"
        )
    dtypes = {str(buffer.dtype) for buffer in function.params}
    if dtypes != {"float32"}:
        raise Wrong(
            f"The arguments of {call} are of type {', '.join(sorted(dtypes))}; expected float32."
        )
    a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
    want, magnitude = verify.matmul_reference(a, b)
    verify.assert_close(verify.run(build(function), (a, b), (M, N)), want, magnitude, K, "C")
    if nest.block("C") is None:
        raise Wrong(
            f'No block of the program is named "C", only {[block.name for block in nest.blocks]}. '
            "The space finds its block by "
            'this name: te.compute(..., name="C").'
        )
    loops = nest.block("C").loops
    if (
        len(nest.blocks) > 1
        or [loop.extent for loop in loops] != [M, N, K]
        or any(loop.kind != "serial" for loop in loops)
    ):
        raise Wrong(
            f"The program of {call} is right, but it is scheduled already. A task says only what "
            "to compute, with the default loops; how is "
            "what the search is to find."
        )


def _assert_complete(task, call: str, target, space, strategy) -> None:
    if task.target is None or str(task.target) != str(target):
        raise Wrong(
            f"The target of {call} is {task.target}; expected the one that was passed, {target}. "
            "Without it the search cannot know what to "
            "compile for."
        )
    if task.space_generator is None or not task.space_generator.same_as(space):
        raise Wrong(
            f"The TuneContext of {call} does not hold the space that was passed: "
            "space_generator=space."
        )
    if task.search_strategy is None or not task.search_strategy.same_as(strategy):
        raise Wrong(
            f"The TuneContext of {call} does not hold the strategy that was passed: "
            "search_strategy=strategy."
        )


# ---------------------------------------------------------------------------------------------- 5.2

DIVISIBLE: Size = (64, 96, 48)
ODD: Size = (21, 37, 11)
LARGE: Size = (512, 512, 512)
REPLAYS = 10
# 16 rows x 64 columns x 16 steps of k, the largest tile of the reference's space, and as much
# again.
MOST_UNROLLED = 2 * 16 * 64 * 16


@check(
    "5.2",
    hints=(
        "Write the schedule of phase 2 once more, and wherever it has a number, sample it instead.",
        (
            "`i0, i1, i2 = sch.split(i, sch.sample_perfect_tile(i, n=3, "
            "max_innermost_factor=16))`, the same for j, and in two for k. After the "
            'reorder: `copy = sch.cache_write(block, 0, "local")`, `sch.reverse_compute_at(copy, '
            "j1, preserve_unit_loops=True)`, and "
            "the last two of `sch.get_loops(copy)` are its row and column."
        ),
        (
            "After the splits: `sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)`; "
            "`sch.parallel(sch.fuse(i0, j0))`; `sch.unroll(k1)`; "
            "`sch.unroll(i2)`; `sch.vectorize(j2)`; the copy as in hint 2, `sch.unroll(row)`, "
            "`sch.vectorize(column)`; "
            "`sch.decompose_reduction(block, k0)`"
        ),
    ),
    told={
        **UNCHANGED,
        "left open|the same for every|not left to the search|No tile is sampled": (
            "A search can only choose what is sampled by the schedule itself. Which numbers of "
            "yours does Python choose?"
        ),
        "preserve_unit_loops": (
            "A candidate may have a tile of one row. What becomes of a loop with a single "
            "iteration when a block is moved, and which loops do you count on afterwards?"
        ),
        "on one thread|not the outermost": (
            "Threads are started wherever the loop is entered. Which loops can be one, outside of "
            "everything?"
        ),
        "by a test inside|zeroing would stand": STARTS_AT_0,
        "in memory for every k|larger than a register": (
            "A tile lies in registers while k runs, and leaves them before the next tile. Which "
            "two calls of phase 2 did that?"
        ),
        "no address|constant indices|not vectorized": (
            "Go through the loops of the tile and of its copy: rows are written out, columns are "
            "vectors. Which is neither?"
        ),
        "nothing was gained": ("What is to become of the inner part of k, which is small?"),
        "takes minutes": (
            "What is unrolled is written out. How large may a sampled factor be? "
            "sch.sample_perfect_tile has a word for it."
        ),
    },
)
def matmul_space(body: Callable, trial: Trial) -> None:
    with_body = _padded(DIVISIBLE)
    before = loop_nest(with_body.mod)
    trial.call(body, with_body)
    after = loop_nest(with_body.mod)
    trial.show(after, before)
    if after.lines == before.lines:
        raise Wrong(
            "matmul_space(sch) ran, but the loop nest is what it was before. Each primitive "
            "changes sch itself; was any called?"
        )
    _assert_loops_are_sampled(with_body.trace)
    replays = _replays(with_body.trace, DIVISIBLE)
    for sch in (with_body, *replays):
        _assert_structure(loop_nest(sch.mod))
    if len({module_hash(sch.mod) for sch in replays}) < 3:
        raise Wrong(
            f"{REPLAYS} random decisions made the same schedule almost every time. What is "
            "sampled must be what `split` is given: "
            "sch.get(...) of it, or int(...), is the number of this one time."
        )
    _assert_bounded(body, trial)
    for size in (DIVISIBLE, ODD):
        space = _padded(size)
        trial.call(body, space)
        for sch in _replays(space.trace, size)[:4]:
            _assert_multiplies(sch, size, trial)


def _padded(size: Size) -> Schedule:
    sch = Schedule(reference_task(size, 1).mod)
    lesson.pad(sch)
    return sch


def _is_sample(instruction) -> bool:
    return instruction.kind.name.startswith("Sample")


def _assert_loops_are_sampled(trace: Trace) -> None:
    """i, j and k are each split by factors that a sampling instruction made."""
    sampled = [output for one in trace.insts if _is_sample(one) for output in one.outputs]
    if not sampled:
        raise Wrong(
            "Nothing is left open: no sampling instruction was recorded. A number that Python "
            "computes or picks (random.choice, too) is "
            "decided once, for all candidates; use sch.sample_perfect_tile."
        )
    if all(one.kind.name != "SamplePerfectTile" for one in trace.insts):
        raise Wrong(
            "No tile is sampled by sch.sample_perfect_tile, the instruction that knows which "
            "factors a loop's extent has."
        )
    splits = [one for one in trace.insts if one.kind.name == "Split"]
    first = next(
        (one for one in trace.insts if one.kind.name == "GetLoops" and len(one.outputs) == 3), None
    )
    if first is None:
        return
    for name, loop in zip("ijk", first.outputs, strict=True):
        factors = [
            factor for one in splits if one.inputs[0].same_as(loop) for factor in one.inputs[1:]
        ]
        if not any(
            known.same_as(factor) for factor in factors for known in sampled if factor is not None
        ):
            numbers = [str(factor) for factor in factors if factor is not None]
            told = (
                f"split by {', '.join(numbers)}, the same for every candidate"
                if numbers
                else "not split"
            )
            raise Wrong(
                f"The tile of loop {name} is not left to the search: {name} is {told}. Give "
                "sch.split what sch.sample_perfect_tile returned."
            )


def _replays(trace: Trace, size: Size, number: int = REPLAYS) -> list[Schedule]:
    """The space's schedule made again with other decisions, as the search does it."""
    program = reference_task(size, 1).mod
    made = []
    for seed in range(1, number + 1):
        sch = Schedule(program, seed=seed)
        try:
            Trace(trace.insts, {}).apply_to_schedule(sch, remove_postproc=True)
        except Exception as error:
            raise Wrong(_cannot_replay(trace, error)) from error
        made.append(sch)
    return made


def _cannot_replay(trace: Trace, error: Exception) -> str:
    told = (
        "The schedule was made once, but with other decisions it cannot be made again, so "
        "the search would lose those candidates. "
    )
    if _drops_unit_loops(trace):
        return told + (
            "The copy was moved without preserve_unit_loops=True: a loop of extent 1 is dropped, "
            "and then sch.get_loops(copy) has fewer "
            "loops than were recorded."
        )
    return told + in_plain_words(error)


def _drops_unit_loops(trace: Trace) -> bool:
    moves = [one for one in trace.insts if one.kind.name in ("ReverseComputeAt", "ComputeAt")]
    return any(not int(one.attrs[0]) for one in moves)


def _assert_structure(nest: LoopNest) -> None:
    block = nest.computing("C") or nest.computing("C_pad")
    if block is None:
        raise Wrong('The block "C" (or "C_update") is gone; nothing is left that multiplies.')
    kinds = [loop.kind for loop in block.loops]
    if "parallel" not in kinds:
        raise Wrong(
            "No loop around the product is parallel: every candidate would run on one thread."
        )
    if kinds.index("parallel") > 0:
        raise Wrong(
            f"The parallel loop {block.loops[kinds.index('parallel')].name} is not the outermost "
            "one: the threads would be woken and waited "
            "for again and again."
        )
    if block.has_init:
        raise Wrong(
            "The tile is set to zero by a test inside the innermost loops. "
            "sch.decompose_reduction(block, k0), last, makes the zeroing a loop "
            "nest of its own."
        )
    if block.scope != "local":
        raise Wrong(
            f"The product adds to {block.stores_to} in memory for every k. A tile is kept in "
            "registers by "
            'sch.cache_write(block, 0, "local"), moved to where one tile is finished.'
        )
    if kinds[-1] != "vectorized":
        raise Wrong(f"The innermost loop {block.loops[-1].name} is {kinds[-1]}, not vectorized.")
    if block.strides[-1] != 1 and block.loops[-1].extent != 1:
        raise Wrong(
            f"The vectorized loop {block.loops[-1].name} does not run over neighbouring elements "
            "of C; that is j2."
        )
    _assert_register_tile(block)
    _assert_copy_out(nest, block)


def _assert_register_tile(block: Block) -> None:
    reductions = [place for place, axis in enumerate(block.axes) if axis == "R"]
    inside = range(reductions[0] + 1, len(block.loops))
    for place in inside:
        loop = block.loops[place]
        if loop.kind in ("unrolled", "vectorized"):
            continue
        if place in reductions:
            raise Wrong(
                f"k is cut in two, but its inner part {loop.name} is {loop.kind}: nothing was "
                "gained by cutting it. Unroll it."
            )
        raise Wrong(
            f"Loop {loop.name} runs over rows of the tile inside of k, and is {loop.kind}. A "
            "register has no address: it must be unrolled, "
            "so that every row of the tile has a name."
        )


def _assert_copy_out(nest: LoopNest, block: Block) -> None:
    copy = next(
        (one for one in nest.blocks if block.stores_to in one.reads and one.name != block.name),
        None,
    )
    if copy is None:
        raise Wrong(f"Nothing copies {block.stores_to} out to C.")
    shared = sum(1 for a, b in zip(copy.loops, block.loops, strict=False) if a.name == b.name)
    outside = next(place for place, axis in enumerate(block.axes) if axis == "R")
    if shared < outside:
        raise Wrong(
            f"The copy {copy.name} stands in {shared} of the {outside} loops around k: it waits "
            "until more than one tile is finished, so the buffer "
            f"{block.stores_to} is larger than a register tile. Move it to j1, the loop just "
            "outside of k0."
        )
    left = [loop for loop in copy.loops[shared:] if loop.kind not in ("unrolled", "vectorized")]
    if left:
        raise Wrong(
            f"Loop {left[0].name} of the copy {copy.name} is {left[0].kind}. The copy reads "
            "registers, so it must have constant indices too: row "
            "unrolled, column vectorized."
        )


def _assert_bounded(body: Callable, trial: Trial) -> None:
    """No candidate at a large size is unrolled into more than a compiler can take."""
    space = _padded(LARGE)
    trial.call(body, space)
    for sch in _replays(space.trace, LARGE, 20):
        block = loop_nest(sch.mod).computing("C")
        written_out = prod(
            loop.extent for loop in block.loops if loop.kind in ("unrolled", "vectorized")
        )
        if written_out > MOST_UNROLLED:
            extents = ", ".join(
                f"{loop.name} {loop.extent}"
                for loop in block.loops
                if loop.kind in ("unrolled", "vectorized")
            )
            reason = (
                "Bound the innermost factors with max_innermost_factor, and unroll only the "
                "innermost parts."
            )
            if _drops_unit_loops(space.trace):
                reason = (
                    "Without preserve_unit_loops=True a loop of extent 1 is dropped, and the loop "
                    "recorded in its place, a large one, is "
                    "unrolled instead."
                )
            raise Wrong(
                f"At 512 x 512 x 512 one candidate writes out {written_out:,} multiplications "
                f"({extents}); compiling it takes minutes. {reason}"
            )


def _assert_multiplies(sch: Schedule, size: Size, trial: Trial) -> None:
    M, N, K = size
    a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
    try:
        function = build(sch.mod)
    except Exception as error:
        raise Wrong(
            f"A candidate of this space does not compile: {in_plain_words(error)}"
        ) from None
    want, magnitude = verify.matmul_reference(a, b)
    got = verify.run(function, (a, b), (M, N))
    what = f"C (a candidate at {M} x {N} x {K})"
    writer = partial(written, sch.mod, "C")
    verify.assert_close(got, want, magnitude, K + 4, what, written=writer)


# ---------------------------------------------------------------------------------------------- 5.3


class Pretended(Measure):
    """Measures nothing: a candidate's time follows from its loops. Every fifth candidate fails.
    Keeps count."""

    def __init__(self, database, module, allowed: int, batch: int) -> None:
        super().__init__(database, module, cpu_target())
        self.allowed, self.batch = allowed, batch
        self.taken: list[float] = []
        self.calls = 0

    def __call__(self, candidates):
        self.calls += 1
        if len(candidates) > self.batch:
            raise Wrong(
                f"measure was given {len(candidates)} candidates at once; batch is {self.batch}. "
                "The model learns between batches: the second "
                "argument of pre_tuning is the size of one."
            )
        if len(self.taken) + len(candidates) > self.allowed:
            raise Wrong(
                f"{len(self.taken) + len(candidates)} candidates were measured; only "
                f"{self.allowed} were left to measure. "
                "The first argument of pre_tuning is how many (trials, less what the database "
                "holds), and the search counts them by "
                "task.notify_runner_results."
            )
        return super().__call__(candidates)

    def _measured(self, candidates) -> Iterator[tuple[int, Measured]]:
        for place, candidate in enumerate(candidates):
            failed = len(self.taken) % 5 == 3
            seconds = _pretended_seconds(loop_nest(candidate.sch.mod).computing("C"))
            self.taken.append(FAILED_SECONDS if failed else seconds)
            failure = Failure("died", "it crashed")
            yield place, Measured(None, failure) if failed else Measured(seconds)


def _pretended_seconds(block: Block) -> float:
    extents = [loop.extent for loop in block.loops]
    return 1e-3 * (1 + abs(extents[-1] - 16) / 16 + abs(extents[-2] - 8) / 8 + len(extents) / 100)


@contextmanager
def _watched_xgboost() -> Iterator[list[tuple[str, int]]]:
    """What happens to XGBoost, in order: ("train", rows) and ("predict", rows). Training is cut
    short.

    A training predicts its own rows, round by round; that is not asking the model, and is left out.
    """
    import xgboost

    events: list[tuple[str, int]] = []
    train, predict = xgboost.train, xgboost.Booster.predict
    training = False

    def watched_train(parameters, data, num_boost_round=10, **others):
        nonlocal training
        events.append(("train", data.num_row()))
        training = True
        few = {**parameters, "nthread": 1}
        booster = train(few, data, num_boost_round=min(num_boost_round, 4), **others)
        training = False
        return booster

    def watched_predict(booster, data, *arguments, **others):
        if not training:
            events.append(("predict", data.num_row()))
        return predict(booster, data, *arguments, **others)

    xgboost.train, xgboost.Booster.predict = watched_train, watched_predict
    try:
        yield events
    finally:
        xgboost.train, xgboost.Booster.predict = train, predict


@check(
    "5.3",
    hints=(
        "tune_blindly, with another model, and with learning at two places: before the search, "
        "and after each batch.",
        (
            "`ms.cost_model.XGBModel(num_warmup_samples=batch)`; `learn_from_records(model, task, "
            "database)` before pre_tuning; "
            "`model.update(task, candidates, results)` once a batch is measured."
        ),
        (
            "`model = ms.cost_model.XGBModel(num_warmup_samples=batch)`, "
            "`learn_from_records(model, task, database)`, pre_tuning as above, "
            "in the loop `results = measure(candidates)`, `model.update(task, candidates, "
            "results)`, "
            "`task.notify_runner_results(candidates, results)`; then `task.post_tuning()` and "
            "`return model`"
        ),
    ),
    told={
        "guided by|never trained|never asked it": (
            "Which model guides the search, when does it learn for the first time, and from how "
            "many measurements on is it asked?"
        ),
        "of the earlier one|some of them twice": (
            "The database may hold records of an earlier run. Which call learns from those, and "
            "how often must it be made?"
        ),
        r"were left to measure|at once; batch|measured \d+ candidates; expected": (
            "Count what the database holds before each batch: when is the search done, and how "
            "many may the next batch have?"
        ),
        "end the search": (
            "tune_blindly above opens the search and closes it. Which call is the last?"
        ),
        "returned None": ("Who calls this asks the model afterwards."),
    },
)
def tune(body: Callable, trial: Trial) -> None:
    batch, size = 4, (64, 96, 48)
    seed = int(trial.rng.integers(1, 1 << 30))
    for kept, trials in ((0, 12), (5, 13), (5, 5)):
        task = reference_task(size, seed)
        database = ms.database.MemoryDatabase()
        earlier = _earlier_records(database, task.mod, kept, seed)
        measure = Pretended(database, task.mod, trials - kept, batch)
        call = (
            f"tune(task, database, measure, {trials}, {batch}) with {kept} records in the database"
        )
        with _watched_xgboost() as events:
            model = trial.call(body, task, database, measure, trials, batch)
        if len(measure.taken) < trials - kept:
            raise Wrong(
                f"{call} measured {len(measure.taken)} candidates; expected {trials - kept}, so "
                f"that the database holds {trials}."
            )
        if kept < trials:
            _assert_guided(model, events, measure, earlier, call)
        if _left_open(task):
            raise Wrong(
                f"{call} did not end the search: task.post_tuning() comes after the loop, or the "
                "task cannot be searched again."
            )


def _earlier_records(database, module, number: int, seed: int) -> list[float]:
    """Put `number` records of an earlier run into the database; return their times."""
    if not number:
        return []
    earlier = reference_task((64, 96, 48), seed + 1, ms.search_strategy.ReplayTrace())
    measure = Pretended(database, module, number, number)
    earlier.pre_tuning(4 * number, 4 * number)
    measure(measure.fresh(earlier.generate_measure_candidates())[:number])
    return measure.taken


def _assert_guided(model, events, measure: Pretended, earlier: list[float], call: str) -> None:
    trainings = [rows for event, rows in events if event == "train"]
    if not trainings:
        if isinstance(model, ms.cost_model.RandomModel):
            raise Wrong(
                f"{call} was guided by a RandomModel, which cannot learn. The model of this "
                "exercise is ms.cost_model.XGBModel."
            )
        raise Wrong(
            f"{call} never trained XGBoost: after each batch, model.update(task, candidates, "
            "results) tells the model what was measured."
        )
    if model is None:
        raise Wrong(f"{call} returned None; expected the model.")
    if not isinstance(model, ms.cost_model.XGBModel):
        raise Wrong(
            f"{call} returned {a_or_an(model)}; expected the XGBModel that guided the search."
        )
    known, results = model.data_size, len(earlier) + len(measure.taken)
    if known < results:
        if earlier and known == len(measure.taken):
            raise Wrong(
                f"{call}: the model knows the {known} results of this run, but not the "
                f"{len(earlier)} of the earlier one. "
                "learn_from_records(model, task, database) comes before the search."
            )
        raise Wrong(
            f"{call}: {results} results were there to learn from; the model was told {known} of "
            "them. Update it after every batch."
        )
    if known > results:
        raise Wrong(
            f"{call}: {results} results were there to learn from, but the model was told {known}: "
            "some of them twice."
        )
    _assert_asked_by_search(events, measure, results, call)


def _assert_asked_by_search(events, measure: Pretended, results: int, call: str) -> None:
    """Before each training, update() predicts the new batch, to validate; the search predicts whole
    populations."""
    per_candidate = max(rows for event, rows in events if event == "train") / results
    if not any(
        event == "predict" and asked > 2 * measure.batch * per_candidate for event, asked in events
    ):
        raise Wrong(
            f"{call} trained XGBoost, but the search never asked it. Either it was not passed on "
            "(pre_tuning(..., cost_model=model)), or it "
            "still predicted at random: until it has seen num_warmup_samples results, 100 by "
            "default. One batch is enough to start with."
        )


def _left_open(task) -> bool:
    try:
        task.post_tuning()
    except Exception:
        return False
    return True


# ---------------------------------------------------------------------------------------------- 5.4


@check(
    "5.4",
    hints=(
        (
            "The database sorts for you: one of the calls above returns only working records of "
            "one workload, fastest first. And "
            "`replay` makes the schedule."
        ),
        (
            "`database.get_top_k(workload, 1)` returns a list with the fastest record, or an "
            "empty list. The workload of a module comes from "
            "`database.commit_workload(module)`; ask `database.has_workload(module)` before."
        ),
        "`fastest = database.get_top_k(database.commit_workload(module), 1)`, then `return "
        "replay(fastest[0]) if fastest else None`",
    ),
    told={
        "trace of the record|expected a Schedule": (
            "A record holds what was decided, no program. What of the lesson makes a schedule of "
            "one?"
        ),
        "slowest|measured first|shortest single|second best": (
            "Records are compared by what they took on the whole. Which call of the database "
            "sorts them?"
        ),
        "another program's": (
            "A database may hold records of several programs. Which of its calls knows to which "
            "one a record belongs?"
        ),
        "was empty|a candidate that failed": (
            "What is there to return when nothing was measured, or nothing worked?"
        ),
    },
)
def best_schedule(body: Callable, trial: Trial) -> None:
    size, other = (64, 96, 48), (32, 32, 16)
    task = reference_task(size, 1)
    candidates = _distinct_candidates(size, 7)
    for best_place in (2, 4):
        database = ms.database.MemoryDatabase()
        planted = _plant(database, task.mod, candidates, best_place)
        smaller = reference_task(other, 1)
        _commit(database, smaller.mod, _distinct_candidates(other, 1)[0], [1e-6])
        _assert_best(body, trial, database, task.mod, planted)
    _assert_none(body, trial, task, candidates)


def _distinct_candidates(size: Size, number: int) -> list:
    task = reference_task(size, 5, ms.search_strategy.ReplayTrace())
    task.pre_tuning(8 * number, 8 * number)
    first = {module_hash(one.sch.mod): one for one in task.generate_measure_candidates()}
    return list(first.values())[:number]


def _commit(database, module, candidate, runs: list[float]) -> None:
    workload = database.commit_workload(module)
    database.commit_tuning_record(
        ms.database.TuningRecord(
            candidate.sch.trace, workload, runs, cpu_target(), candidate.args_info
        )
    )


def _plant(database, module, candidates, best_place: int) -> dict[str, ir.IRModule]:
    """Seven records, the best one in the midst; what each would be picked for, and its program."""
    runs: dict[str, list[float]] = {
        "the record that was measured first": [5e-3, 5e-3, 5e-3],
        "the slowest record": [9e-3, 9e-3, 9e-3],
        "the record with the shortest single run; its other runs are slow, and its mean is not "
        "the best": [
            1e-4,
            9e-3,
            8e-3,
        ],
        "a record of a candidate that failed (its time is 1e10)": [FAILED_SECONDS],
        "the second best record": [3e-3, 3e-3, 3e-3],
        "the record that was measured last": [4e-3, 4e-3, 4e-3],
    }
    order = list(runs.items())
    order.insert(best_place, ("best", [2e-3, 2.1e-3, 1.9e-3]))
    for (_, seconds), candidate in zip(order, candidates, strict=True):
        _commit(database, module, candidate, seconds)
    return {what: one.sch.mod for (what, _), one in zip(order, candidates, strict=True)}


def _assert_best(
    body: Callable, trial: Trial, database, module, planted: dict[str, ir.IRModule]
) -> None:
    call = "best_schedule(database, module)"
    sch = trial.call(body, database, module)
    if sch is None:
        raise Wrong(
            f"{call} returned None, though the database holds six working records of this program."
        )
    if isinstance(sch, ms.database.TuningRecord | Trace):
        raise Wrong(
            f"{call} returned {a_or_an(sch)}; expected a Schedule. `replay` makes one of a record."
        )
    if not isinstance(sch, Schedule):
        raise Wrong(f"{call} returned {a_or_an(sch)}; expected a Schedule.")
    if module_hash(sch.mod) == module_hash(module):
        raise Wrong(f"{call} returned the default loops: the trace of the record was not applied.")
    shape = [int(extent) for extent in sch.mod["main"].params[2].shape]
    if shape != [int(extent) for extent in module["main"].params[2].shape]:
        raise Wrong(
            f"{call} returned a schedule for a C of {shape[0]} x {shape[1]}, another program's "
            "record: it is faster because it has less to do. "
            "get_all_tuning_records returns the records of all workloads."
        )
    for what, program in planted.items():
        if module_hash(program) == module_hash(sch.mod):
            if what == "best":
                return
            raise Wrong(
                f"{call} returned the schedule of {what}. The fastest by mean time is another one."
            )
    raise Wrong(f"{call} returned a schedule that no record of the database describes.")


def _assert_none(body: Callable, trial: Trial, task, candidates) -> None:
    empty, failed = ms.database.MemoryDatabase(), ms.database.MemoryDatabase()
    _commit(failed, task.mod, candidates[0], [FAILED_SECONDS])
    for database, told in (
        (empty, "The database was empty"),
        (failed, "The only record was of a candidate that failed (its time is 1e10)"),
    ):
        try:
            made = trial.call(body, database, task.mod)
        except Wrong as error:
            raise Wrong(f"{told}, and best_schedule failed; expected None. {error}") from error
        if made is not None:
            returned = "a schedule" if isinstance(made, Schedule) else a_or_an(made)
            raise Wrong(f"{told}, and best_schedule returned {returned}; expected None.")
