"""Reference answers to phase 5: a task, a space, a search and its best record."""

from tvm import ir, te
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import Database, TuneContext
from tvm.s_tir.meta_schedule.search_strategy import SearchStrategy
from tvm.s_tir.meta_schedule.space_generator import SpaceGenerator
from tvm.target import Target

from tvm_practice.auto_tune import learn_from_records, next_batch, replay
from tvm_practice.common.measure import Measure


def matmul_task(
    M: int,
    N: int,
    K: int,
    target: Target,
    space: SpaceGenerator,
    strategy: SearchStrategy,
    seed: int,
) -> TuneContext:
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return TuneContext(
        mod=ir.IRModule({"main": te.create_prim_func([A, B, C])}),
        target=target,
        space_generator=space,
        search_strategy=strategy,
        rand_state=seed,
    )


def matmul_space(sch: Schedule) -> None:
    block = sch.get_sblock("C")
    i, j, k = sch.get_loops(block)
    i0, i1, i2 = sch.split(i, sch.sample_perfect_tile(i, n=3, max_innermost_factor=16))
    j0, j1, j2 = sch.split(j, sch.sample_perfect_tile(j, n=3, max_innermost_factor=64))
    k0, k1 = sch.split(k, sch.sample_perfect_tile(k, n=2, max_innermost_factor=16))
    sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
    sch.parallel(sch.fuse(i0, j0))
    sch.unroll(k1)
    sch.unroll(i2)
    sch.vectorize(j2)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, j1, preserve_unit_loops=True)
    *_, row, column = sch.get_loops(copy)
    sch.unroll(row)
    sch.vectorize(column)
    panel = sch.cache_read(block, 1, "global")
    sch.compute_at(panel, sch.sample_compute_location(panel), preserve_unit_loops=True)
    sch.decompose_reduction(block, k0)


def tune(
    task: TuneContext, database: Database, measure: Measure, trials: int, batch: int
) -> ms.CostModel:
    model = ms.cost_model.XGBModel(num_warmup_samples=batch, num_tuning_cores=1)
    learn_from_records(model, task, database)
    task.pre_tuning(trials - len(database), batch, database=database, cost_model=model)
    while candidates := next_batch(task, measure):
        results = measure(candidates)
        model.update(task, candidates, results)
        task.notify_runner_results(candidates, results)
    task.post_tuning()
    return model


def best_schedule(database: Database, module: ir.IRModule) -> Schedule | None:
    if not database.has_workload(module):
        return None
    fastest = database.get_top_k(database.commit_workload(module), 1)
    return replay(fastest[0]) if fastest else None
