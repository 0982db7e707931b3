"""Answers to phase 5: tasks that state something else, spaces with nothing in them, searches that
do not learn."""

import random

from tvm import ir, te
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import TuneContext

from tests.wrong_answers import right, wrong
from tvm_practice.auto_tune import learn_from_records, next_batch, replay, search_space

# ---------------------------------------------------------------------------------- 5.1 matmul_task


def declared(M, N, K, dtype="float32", name="C", b_shape=None):
    A = te.placeholder((M, K), dtype=dtype, name="A")
    B = te.placeholder(b_shape or (K, N), dtype=dtype, name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name=name)
    return A, B, C


def stated(function, target, space, strategy, seed):
    return TuneContext(
        mod=ir.IRModule({"main": function}),
        target=target,
        space_generator=space,
        search_strategy=strategy,
        rand_state=seed,
    )


@right("5.1")
def task_of_a_function(M, N, K, target, space, strategy, seed):
    function = te.create_prim_func(list(declared(M, N, K)))
    return TuneContext(
        function,
        target=target,
        space_generator=space,
        search_strategy=strategy,
        task_name="matmul",
        rand_state=seed,
        num_threads=1,
    )


@right("5.1")
def task_of_a_schedule_without_schedule(M, N, K, target, space, strategy, seed):
    X = te.placeholder((M, K), name="left")
    Y = te.placeholder((K, N), name="right")
    r = te.reduce_axis((0, K), name="r")
    Z = te.compute((M, N), lambda a, b: te.sum(Y[r, b] * X[a, r], axis=r), name="C")
    mod = Schedule(te.create_prim_func([X, Y, Z])).mod
    return stated(mod["main"], target, space, strategy, seed)


@wrong("5.1", "returned a IRModule", hint="vector_add_task above passes")
def task_is_only_a_module(M, N, K, target, space, strategy, seed):
    return ir.IRModule({"main": te.create_prim_func(list(declared(M, N, K)))})


@wrong("5.1", "takes arguments of shapes", hint="te.create_prim_func takes the")
def task_with_b_transposed(M, N, K, target, space, strategy, seed):
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((N, K), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[j, k], axis=k), name="C")
    return stated(te.create_prim_func([A, B, C]), target, space, strategy, seed)


@wrong("5.1", "in the order A, B, C")
def task_with_output_first(M, N, K, target, space, strategy, seed):
    A, B, C = declared(M, N, K)
    return stated(te.create_prim_func([C, A, B]), target, space, strategy, seed)


@wrong("5.1", "scheduled already", hint="The program is the one of")
def task_scheduled_already(M, N, K, target, space, strategy, seed):
    sch = Schedule(te.create_prim_func(list(declared(M, N, K))))
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    sch.reorder(i, k, j)
    sch.parallel(i)
    return stated(sch.mod["main"], target, space, strategy, seed)


@wrong("5.1", "The target of")
def task_without_target(M, N, K, target, space, strategy, seed):
    function = te.create_prim_func(list(declared(M, N, K)))
    return TuneContext(function, space_generator=space, search_strategy=strategy, rand_state=seed)


@wrong("5.1", "does not hold the space")
def task_with_an_empty_space(M, N, K, target, space, strategy, seed):
    function = te.create_prim_func(list(declared(M, N, K)))
    return stated(function, target, search_space(lambda sch: None), strategy, seed)


@wrong("5.1", "does not hold the strategy")
def task_with_another_strategy(M, N, K, target, space, strategy, seed):
    function = te.create_prim_func(list(declared(M, N, K)))
    return stated(function, target, space, "replay-trace", seed)


@wrong("5.1", "a search could not be repeated")
def task_without_seed(M, N, K, target, space, strategy, seed):
    return stated(te.create_prim_func(list(declared(M, N, K))), target, space, strategy, 1)


@wrong("5.1", 'No block of the program is named "C"')
def task_with_a_nameless_block(M, N, K, target, space, strategy, seed):
    function = te.create_prim_func(list(declared(M, N, K, name="product")))
    return stated(function, target, space, strategy, seed)


@wrong("5.1", "expected float32")
def task_in_double(M, N, K, target, space, strategy, seed):
    function = te.create_prim_func(list(declared(M, N, K, dtype="float64")))
    return stated(function, target, space, strategy, seed)


@wrong("5.1", "elements of C are wrong")
def task_without_the_last_k(M, N, K, target, space, strategy, seed):
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K - 1), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return stated(te.create_prim_func([A, B, C]), target, space, strategy, seed)


# --------------------------------------------------------------------------------- 5.2 matmul_space


def tiled(sch, i_factors, j_factors, k_factors):
    """The loops in the order of the lesson, split by these factors."""
    block = sch.get_sblock("C")
    i, j, k = sch.get_loops(block)
    i0, i1, i2 = sch.split(i, i_factors(i))
    j0, j1, j2 = sch.split(j, j_factors(j))
    k0, k1 = sch.split(k, k_factors(k))
    sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
    return block, (i0, j0, i1, j1, k0, k1, i2, j2)


def sampled(sch, n, innermost):
    return lambda loop: sch.sample_perfect_tile(loop, n=n, max_innermost_factor=innermost)


def sampled_tiles(sch, rows=16, columns=64, steps=16):
    return tiled(sch, sampled(sch, 3, rows), sampled(sch, 3, columns), sampled(sch, 2, steps))


def kinds(sch, loops, parallel=True, unroll_k=True, unroll_rows=True, vectorize=True):
    i0, j0, _, _, _, k1, i2, j2 = loops
    if parallel:
        sch.parallel(sch.fuse(i0, j0))
    if unroll_k:
        sch.unroll(k1)
    if unroll_rows:
        sch.unroll(i2)
    if vectorize:
        sch.vectorize(j2)


def copy_out(sch, block, loop, keep=True, unroll=True):
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, loop, preserve_unit_loops=keep)
    *_, row, column = sch.get_loops(copy)
    if unroll:
        sch.unroll(row)
        sch.vectorize(column)


@right("5.2")
def space_without_a_copy_of_b(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@right("5.2")
def space_with_k_from_a_list_and_rows_parallel(sch):
    step = sch.sample_categorical([1, 2, 4], [0.4, 0.3, 0.3])
    block, loops = tiled(sch, sampled(sch, 3, 8), sampled(sch, 3, 32), lambda _: [None, step])
    i0, _, _, j1, k0, k1, i2, j2 = loops
    sch.parallel(i0)
    for loop in (k1, i2):
        sch.unroll(loop)
    sch.vectorize(j2)
    copy_out(sch, block, j1)
    sch.decompose_reduction(block, k0)


@right("5.2")
def space_with_b_copied_for_each_task(sch):
    block, loops = sampled_tiles(sch, 8, 32, 8)
    i0, j0, _, j1, k0, k1, i2, j2 = loops
    task = sch.fuse(i0, j0)
    sch.parallel(task)
    copy_out(sch, block, j1)
    panel = sch.cache_read(block, 1, "global")
    sch.compute_at(panel, task, preserve_unit_loops=True)
    sch.vectorize(j2)
    sch.unroll(i2)
    sch.unroll(k1)
    sch.decompose_reduction(block, k0)


@wrong("5.2", "the loop nest is what it was before", hint="Which object do your primitives")
def space_of_nothing(sch):
    sch.get_loops(sch.get_sblock("C"))


@wrong("5.2", "Nothing is left open", hint="A search can only choose")
def space_picked_by_python(sch):
    factors = [
        lambda _: [None, 2, random.choice([2, 4, 8])],
        lambda _: [None, 2, random.choice([8, 16, 32])],
        lambda _: [None, random.choice([1, 2, 4])],
    ]
    block, loops = tiled(sch, *factors)
    copy_out(sch, block, loops[3])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "the same for every candidate")
def space_with_the_decisions_taken_out(sch):
    def numbers(n, innermost):
        return lambda loop: [int(sch.get(one)) for one in sampled(sch, n, innermost)(loop)]

    block, loops = tiled(sch, numbers(3, 16), numbers(3, 64), numbers(2, 16))
    copy_out(sch, block, loops[3])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "The tile of loop k is not left to the search")
def space_with_a_fixed_k(sch):
    block, loops = tiled(sch, sampled(sch, 3, 16), sampled(sch, 3, 64), lambda _: [None, 4])
    copy_out(sch, block, loops[3])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "No tile is sampled by sch.sample_perfect_tile")
def space_of_lists_only(sch):
    def listed(n, values):
        return lambda _: (
            [None]
            + [
                sch.sample_categorical(values, [1 / len(values)] * len(values))
                for _ in range(n - 1)
            ]
        )

    block, loops = tiled(sch, listed(3, [2, 4, 8]), listed(3, [4, 8, 16]), listed(2, [1, 2, 4]))
    copy_out(sch, block, loops[3])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "without preserve_unit_loops=True", hint="A candidate may have a tile")
def space_that_drops_unit_loops(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3], keep=False)
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "every candidate would run on one thread", hint="Threads are started wherever")
def space_on_one_thread(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops, parallel=False)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "is not the outermost one")
def space_with_inner_threads(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops, parallel=False)
    sch.parallel(loops[2])
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "by a test inside the innermost loops", hint="Each sum starts at 0 once")
def space_not_decomposed(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops)


@wrong("5.2", "in memory for every k", hint="A tile lies in registers")
def space_without_registers(sch):
    block, loops = sampled_tiles(sch)
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "not vectorized", hint="Go through the loops of the")
def space_without_vectors(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops, vectorize=False)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "A register has no address")
def space_with_rows_not_unrolled(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops, unroll_rows=False)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "nothing was gained by cutting it", hint="What is to become of the")
def space_with_k_cut_for_nothing(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops, unroll_k=False)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "it must have constant indices too")
def space_with_a_plain_copy(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3], unroll=False)
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "larger than a register tile")
def space_that_copies_out_late(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[2])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "compiling it takes minutes", hint="What is unrolled is written")
def space_without_bounds(sch):
    block, loops = sampled_tiles(sch, 512, 512, 512)
    copy_out(sch, block, loops[3])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[4])


@wrong("5.2", "zeroing would stand")
def space_that_zeroes_inside_of_k(sch):
    block, loops = sampled_tiles(sch)
    copy_out(sch, block, loops[3])
    kinds(sch, loops)
    sch.decompose_reduction(block, loops[5])


# ----------------------------------------------------------------------------------------- 5.3 tune


@right("5.3")
def tune_with_a_warm_up_of_one(task, database, measure, trials, batch):
    model = ms.cost_model.XGBModel(num_warmup_samples=1, num_tuning_cores=1)
    learn_from_records(model, task, database)
    task.pre_tuning(
        max_trials=trials - len(database),
        num_trials_per_iter=batch,
        design_spaces=task.generate_design_space(),
        database=database,
        cost_model=model,
    )
    while True:
        candidates = next_batch(task, measure)
        if not candidates:
            break
        results = measure(candidates)
        task.notify_runner_results(candidates, results)
        model.update(task, candidates, results)
    task.post_tuning()
    return model


@right("5.3")
def tune_without_helpers(task, database, measure, trials, batch):
    model = ms.cost_model.XGBModel(num_warmup_samples=batch)
    for record in database.get_all_tuning_records():
        result = ms.runner.RunnerResult(record.run_secs, None)
        model.update(task, [record.as_measure_candidate()], [result])
    task.pre_tuning(trials - len(database), batch, database=database, cost_model=model)
    while len(database) < trials:
        candidates = task.generate_measure_candidates()
        if candidates is None:
            break
        fresh = measure.fresh(candidates)
        if fresh:
            results = measure(fresh)
            model.update(task, fresh, results)
            task.notify_runner_results(fresh, results)
    task.post_tuning()
    return model


def searched(task, database, measure, trials, batch, model, shown=True, updated=True, told=True):
    """The search, with single parts of it left out."""
    if shown:
        learn_from_records(model, task, database)
    task.pre_tuning(trials, batch, database=database, cost_model=model)
    while candidates := next_batch(task, measure):
        results = measure(candidates)
        if updated:
            model.update(task, candidates, results)
        if told:
            task.notify_runner_results(candidates, results)
    task.post_tuning()
    return model


def early_model(batch):
    return ms.cost_model.XGBModel(num_warmup_samples=batch, num_tuning_cores=1)


@wrong("5.3", "was guided by a RandomModel", hint="Which model guides the search")
def tune_at_random(task, database, measure, trials, batch):
    left = trials - len(database)
    return searched(
        task, database, measure, left, batch, ms.cost_model.RandomModel(), updated=False
    )


@wrong("5.3", "never trained XGBoost")
def tune_without_learning(task, database, measure, trials, batch):
    left = trials - len(database)
    return searched(task, database, measure, left, batch, early_model(batch), updated=False)


@wrong("5.3", "the search never asked it")
def tune_with_the_default_warm_up(task, database, measure, trials, batch):
    model = ms.cost_model.XGBModel(num_tuning_cores=1)
    return searched(task, database, measure, trials - len(database), batch, model)


@wrong("5.3", "but not the 5 of the earlier one", hint="The database may hold records")
def tune_from_scratch_each_time(task, database, measure, trials, batch):
    left = trials - len(database)
    return searched(task, database, measure, left, batch, early_model(batch), shown=False)


@wrong("5.3", "were left to measure", hint="Count what the database holds")
def tune_without_counting_what_is_there(task, database, measure, trials, batch):
    return searched(task, database, measure, trials, batch, early_model(batch))


@wrong("5.3", "candidates at once; batch is")
def tune_in_one_batch(task, database, measure, trials, batch):
    left = trials - len(database)
    return searched(task, database, measure, left, trials, early_model(batch))


@wrong("5.3", "did not end the search", hint="tune_blindly above opens")
def tune_left_open(task, database, measure, trials, batch):
    model = early_model(batch)
    learn_from_records(model, task, database)
    task.pre_tuning(trials - len(database), batch, database=database, cost_model=model)
    while candidates := next_batch(task, measure):
        results = measure(candidates)
        model.update(task, candidates, results)
        task.notify_runner_results(candidates, results)
    return model


@wrong("5.3", "returned None; expected the model", hint="Who calls this asks the model")
def tune_returning_nothing(task, database, measure, trials, batch):
    searched(task, database, measure, trials - len(database), batch, early_model(batch))


@wrong("5.3", "expected 12, so that the database holds 12")
def tune_only_one_batch(task, database, measure, trials, batch):
    model = early_model(batch)
    learn_from_records(model, task, database)
    task.pre_tuning(trials - len(database), batch, database=database, cost_model=model)
    if candidates := next_batch(task, measure):
        results = measure(candidates)
        model.update(task, candidates, results)
        task.notify_runner_results(candidates, results)
    task.post_tuning()
    return model


@wrong("5.3", "some of them twice")
def tune_learning_from_everything_again(task, database, measure, trials, batch):
    model = early_model(batch)
    task.pre_tuning(trials - len(database), batch, database=database, cost_model=model)
    while candidates := next_batch(task, measure):
        results = measure(candidates)
        learn_from_records(model, task, database)
        task.notify_runner_results(candidates, results)
    task.post_tuning()
    return model


# -------------------------------------------------------------------------------- 5.4 best_schedule


def mean(record) -> float:
    return sum(float(run) for run in record.run_secs) / len(record.run_secs)


def of_this_program(database, module) -> list:
    workload = database.commit_workload(module)
    return [
        record
        for record in database.get_all_tuning_records()
        if record.workload.same_as(workload) and mean(record) < 1e9
    ]


@right("5.4")
def best_by_query(database, module):
    return database.query(module, None, kind="schedule") if database.has_workload(module) else None


@right("5.4")
def best_by_own_comparison(database, module):
    records = of_this_program(database, module)
    return replay(min(records, key=mean)) if records else None


@wrong("5.4", "expected a Schedule. `replay` makes one", hint="A record holds what was decided")
def best_record_only(database, module):
    records = of_this_program(database, module)
    return min(records, key=mean) if records else None


@wrong("5.4", "the trace of the record was not applied")
def best_without_its_trace(database, module):
    return Schedule(module)


@wrong("5.4", "the slowest record", hint="Records are compared by what")
def best_is_slowest(database, module):
    records = of_this_program(database, module)
    return replay(max(records, key=mean)) if records else None


@wrong("5.4", "that was measured first")
def best_is_first(database, module):
    records = of_this_program(database, module)
    firsts = [record for record in records if abs(mean(record) - 5e-3) < 1e-6]
    return replay(firsts[0]) if firsts else None


@wrong("5.4", "the shortest single run")
def best_is_luckiest(database, module):
    records = of_this_program(database, module)
    return replay(min(records, key=lambda one: min(map(float, one.run_secs)))) if records else None


@wrong("5.4", "another program's record", hint="A database may hold records")
def best_of_all_programs(database, module):
    records = database.get_all_tuning_records()
    return replay(min(records, key=mean)) if records else None


@wrong("5.4", "was empty, and best_schedule failed", hint="What is there to return when")
def best_of_nothing(database, module):
    return replay(database.get_top_k(database.commit_workload(module), 1)[0])


@wrong("5.4", "and best_schedule returned a schedule")
def best_may_have_failed(database, module):
    workload = database.commit_workload(module)
    records = [
        record for record in database.get_all_tuning_records() if record.workload.same_as(workload)
    ]
    return replay(min(records, key=mean)) if records else None


@wrong("5.4", "the second best record")
def best_but_one(database, module):
    records = database.get_top_k(database.commit_workload(module), 2)
    return replay(records[-1]) if records else None
