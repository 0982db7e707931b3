"""Phase 5: searching for a schedule, instead of writing one.

    python -m tvm_practice.auto_tune              run this lesson; --trials N measures N schedules
    python -m tvm_practice.auto_tune --hint 5.1   a nudge, when you are stuck

In phase 2 the tile filled the registers, 8 x 32 on some CPUs, for a reason. Would 6 x 48 be better?
Should k be unrolled by 2, or by 8? On another CPU, at another size, the answer differs, and nobody
can compute it: caches, ports, prefetchers and the compiler below all have a say. But you can
measure. A tuner does just that, thousands of times if it must. It needs four things:

    a task      what is to be computed, at which size, for which machine                       5.1
    a space     all the schedules that may be tried: a schedule with its numbers left open     5.2
    a search    what to try next, given what was measured so far                               5.3
    records     every schedule that was measured and its time; the best one is applied         5.4

TVM has had three tuners. AutoTVM (2018) searched over templates: schedules written by hand with
knobs in them. Ansor, also called auto_scheduler (2020), derived the templates itself, from rules.
Both left TVM in version 0.20. MetaSchedule (2022) is their successor and the tuner of today's TVM:
it has Ansor's rules, and it also takes a template of yours. This lesson uses one of yours, because
then you see what is searched.
"""

from tvm import ir, te
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import Database, TuneContext
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate, SearchStrategy
from tvm.s_tir.meta_schedule.space_generator import ScheduleFn, SpaceGenerator
from tvm.target import Target

from tvm_practice.common.exercise import exercise
from tvm_practice.common.measure import Measure, skip_tensor_intrinsics

# Every ms.TuneContext imports the tensor instructions of all GPUs that TVM knows, which takes 20
# seconds and is of no use to a CPU.
skip_tensor_intrinsics()

# ------------------------------------------------------------------------------------- 5.1 the task
#
# A task is a program with its default loops, and a target. The sizes are numbers: what is best for
# 512 is not best for 500, so each size is a task of its own. In MetaSchedule a task lives in a
# TuneContext, together with all that a search for it needs: the space, the strategy that picks from
# it, and the seed of its random choices.
#
# The target matters twice. The compiler generates code for it; and records are only worth something
# on the machine they were measured on. (It should say "num-cores", which MetaSchedule's own rules
# ask for; this course's does.)


def vector_add_task(
    n: int, target: Target, space: SpaceGenerator, strategy: SearchStrategy, seed: int
) -> TuneContext:
    """The task "add two float32 vectors of length n on `target`"."""
    A = te.placeholder((n,), name="A")
    B = te.placeholder((n,), name="B")
    C = te.compute((n,), lambda i: A[i] + B[i], name="C")
    return TuneContext(
        mod=ir.IRModule({"main": te.create_prim_func([A, B, C])}),
        target=target,
        space_generator=space,
        search_strategy=strategy,
        rand_state=seed,
    )


@exercise("5.1", "State the task")
def matmul_task(
    M: int,
    N: int,
    K: int,
    target: Target,
    space: SpaceGenerator,
    strategy: SearchStrategy,
    seed: int,
) -> TuneContext:
    """The task "C = A @ B in float32 on `target`"; A is M x K, B is K x N.

    The function's arguments are A, B, C in this order; the block that computes C is named "C". No
    schedule: only what.
    """
    # TODO(5.1): about 11 lines, like vector_add_task.
    raise NotImplementedError("5.1 matmul_task")


# ------------------------------------------------------------------------------------ 5.2 the space
#
# A schedule of phase 2 with its numbers left open is a space of schedules. Three instructions leave
# something open:
#
#     sch.sample_perfect_tile(loop, n=3, max_innermost_factor=16)
#         n factors whose product is the loop's extent, the last at most 16
#     sch.sample_categorical([1, 2, 4], [0.5, 0.25, 0.25])
#         one of these, with these probabilities
#     sch.sample_compute_location(block)
#         a loop that `block` may be computed at
#
# What they return is not a number. It is a variable that stands for one, and `split` takes it as it
# would take a number. Here is the space of all schedules of a vector addition in three loops,
# threads outside and lanes inside:


def vector_add_space(sch: Schedule) -> None:
    """Threads, vectors, lanes: how many of each is left to the search."""
    (i,) = sch.get_loops(sch.get_sblock("C"))
    factors = sch.sample_perfect_tile(i, n=3, max_innermost_factor=64)
    piece, _, lane = sch.split(i, factors)
    sch.parallel(piece)
    sch.vectorize(lane)


# This function runs only once. While it runs, the Schedule writes down every instruction, sampled
# ones too, with what was decided for them this time: that is its trace. From then on the search
# works on the trace. It changes decisions and replays the instructions; your Python is not asked
# again. Two things follow:
#
#   - What Python decides, by random.choice or from `sch.get(lane).extent`, is decided once, for all
#     candidates. Only what is sampled can be searched.
#   - The replay must find the loops it expects, whatever the factors are. compute_at and
#     reverse_compute_at drop loops of extent 1 unless told otherwise, and then "the second loop of
#     the copy" is another loop for another decision. Tell them otherwise:
#     `sch.reverse_compute_at(copy, loop, preserve_unit_loops=True)`.
#
# A perfect tile has factors that divide the extent, and 509, a prime, has none to offer. Therefore
# the space starts like the ladder of phase 2, by rounding the sides up to sizes that have divisors.


def pad(sch: Schedule) -> None:
    """Round i, j, k up to multiples of 8, 32 and 4, with zeros; where they are, nothing changes."""
    sch.pad_einsum(sch.get_sblock("C"), [8, 32, 4])
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if sch.get(block).name_hint != "C":
            row, _ = sch.get_loops(block)
            sch.parallel(row)


@exercise("5.2", "Write the search space")
def matmul_space(sch: Schedule) -> None:
    """A space of register-tiled, vectorized, parallel matmuls; every tile size is left open.

    sch: the padded matmul with its default loops i, j, k around the block "C". It is changed in
    place, by the ladder of phase 2 with open numbers:

    - sample perfect tiles: i and j in three (between threads, between register tiles, within
      one), k in two; bound the innermost factors (about 16 for i, 64 for j, 16 for k), since all
      of them will be unrolled or vectorized together;
    - order the loops i0, j0, i1, j1, k0, k1, i2, j2;
    - a "local" write cache of the block, computed at j1 with preserve_unit_loops=True, its copy
      unrolled and vectorized;
    - i0 and j0 fused and parallel; j2 vectorized; k1 and i2 unrolled;
    - the reduction decomposed at k0, last.

    You may leave more open. The reference also makes a copy of B, `sch.cache_read(block, 1,
    "global")`, at a sampled location: a loop, or before all loops, or nowhere.
    """
    # TODO(5.2): about 16 lines.
    raise NotImplementedError("5.2 matmul_space")


# How the search changes decisions is up to mutators, each with a probability. The two below
# exchange a factor between two parts of a tile, and move a block to another location. (MetaSchedule
# would add postprocessors, which rewrite annotations such as "parallelize as you see fit". This
# space says everything itself.)


def search_space(schedule) -> ScheduleFn:
    """The space that `schedule(sch)` describes for the padded matmul."""

    def padded(sch: Schedule) -> None:
        pad(sch)
        schedule(sch)

    mutators = {ms.mutator.MutateTileSize(): 0.9, ms.mutator.MutateComputeLocation(): 0.1}
    return ScheduleFn(padded, sch_rules=[], postprocs=[], mutator_probs=mutators)


# ----------------------------------------------------------------------------------- 5.3 the search
#
# Your space holds tens of thousands of schedules. Measuring one takes a fraction of a second;
# predicting one takes a millisecond. So the search keeps a model that predicts, and measures only
# what the model thinks is good:
#
#     1. propose    evolution: from random schedules and the best measured ones, breed a
#                   population. For a few generations mutate them, those more often that the model
#                   finds promising. Hand out the best of all, and a few random ones, so that a
#                   wrong model is found out.
#     2. measure    build and time that batch, here, on this machine.
#     3. learn      train the model on everything measured so far. Then 1 again.
#
# The model is XGBoost: decision trees, each of which corrects the error of those before. It never
# sees your schedule, nor does it know what a matmul is. It sees 164 numbers for every statement
# that stores something: how many multiplications and additions, how many iterations are vectorized,
# unrolled, parallel, and for each buffer how many bytes and cache lines are touched at each loop,
# how often they are used again and how far apart. What it learns to predict is speed relative to
# the best schedule so far: 1 is as good as that. It need not be right about the time, only about
# which of two schedules is the better one.
#
# Here is the loop with a model that knows nothing and predicts at random: evolution without
# selection. `measure` takes candidates, builds and times each in a process of its own (one that
# crashes or hangs costs only itself), writes its record to the database at once, and returns one
# result for each.


def next_batch(task: TuneContext, measure: Measure) -> list[MeasureCandidate]:
    """What the search proposes next and nobody has measured yet; empty when it is at its end."""
    while (candidates := task.generate_measure_candidates()) is not None:
        if fresh := measure.fresh(candidates):
            return fresh
    return []


def tune_blindly(
    task: TuneContext, database: Database, measure: Measure, trials: int, batch: int
) -> ms.CostModel:
    """Measure until `database` holds `trials` records, `batch` at a time; learn nothing."""
    model = ms.cost_model.RandomModel()
    task.pre_tuning(trials - len(database), batch, database=database, cost_model=model)
    while candidates := next_batch(task, measure):
        results = measure(candidates)
        task.notify_runner_results(candidates, results)  # the search counts what was measured
    task.post_tuning()
    return model


# With a model that learns, three things are to be added. The right model: `ms.cost_model.XGBModel`.
# It predicts at random until it has seen `num_warmup_samples` results; the default of 100 is more
# than a short run will ever measure, so give it one batch. (`num_tuning_cores=1` trains it on one
# thread, which is faster for so few results.) Then the learning, after each batch:
# `model.update(task, candidates, results)`. And a run that continues an earlier one should know
# what that one learned: this is worked out for you here.


def learn_from_records(model: ms.CostModel, task: TuneContext, database: Database) -> None:
    """Show the model all records of the database, as if they had just been measured."""
    records = database.get_all_tuning_records()
    if records:
        candidates = [record.as_measure_candidate() for record in records]
        results = [ms.runner.RunnerResult(record.run_secs, None) for record in records]
        model.update(task, candidates, results)


@exercise("5.3", "Search with a cost model that learns")
def tune(
    task: TuneContext, database: Database, measure: Measure, trials: int, batch: int
) -> ms.CostModel:
    """Measure until `database` holds `trials` records, `batch` at a time; return the model.

    The model is XGBoost. It starts from the records that the database already holds, and guides the
    search from the first `batch` results on.
    """
    # TODO(5.3): about 9 lines, like tune_blindly.
    raise NotImplementedError("5.3 tune")


# TVM has all this in one call, ms.tune_tir(mod, target, work_dir, max_trials_global=64, space=...),
# and for a whole model in ms.relax_integration.tune_relax. Know two things when you use them. Their
# model predicts at random for the first 100 results. And their builder allows a candidate 30
# seconds, of which importing the tensor instructions takes most: give it a build function of your
# own, ms.builder.LocalBuilder(f_build=...).

# ---------------------------------------------------------------------------------- 5.4 the records
#
# A record is a line of JSON: the trace with its decisions, and the seconds of each run. A database
# holds the records of many workloads (a workload is a program, whatever it is called). A candidate
# that failed has a record too, with the time 1e10, so that nobody tries it again.
#
#     database.has_workload(module)              is there anything about this program?
#     workload = database.commit_workload(module)
#     database.get_top_k(workload, 3)            its three fastest records by mean time, failed
#                                                ones left out
#     database.get_all_tuning_records()          everything, of all workloads, failed ones too
#
# No program was kept, and none is needed. A trace replayed on the default loops makes the schedule
# again:


def replay(record: ms.database.TuningRecord) -> Schedule:
    """The schedule that was measured, made again from its trace."""
    sch = Schedule(record.workload.mod)
    record.trace.apply_to_schedule(sch, remove_postproc=False)
    return sch


@exercise("5.4", "Apply the best record")
def best_schedule(database: Database, module: ir.IRModule) -> Schedule | None:
    """The fastest schedule the database knows for the program `module`; None if none works."""
    # TODO(5.4): about 4 lines.
    raise NotImplementedError("5.4 best_schedule")


# One warning. The fastest of many noisy measurements is partly the luckiest. So when the search is
# over, this phase runs the five best again and adds those times to their records; and the figures
# it shows in the end are measured anew, in paired rounds with the others.
#
# When you run this file, ask yourself: why does search often beat the hand, and what does it cost?
