"""MetaSchedule's own search on the measured data set: its evolution and its model, real; only its
runner looks the times up.

A run takes 10 to 20 seconds, nearly all of them in the search itself, so the runs are recorded with
the data set.
"""

from __future__ import annotations

import time

import numpy as np

from tvm_practice.common import exercise, target

TRIALS, BATCH, RUNS = 128, 16, 20
# As in phase 5: the default of 512 is for thousands of trials.
POPULATION = 128
# After how many results its model predicts: after a batch, as in phase 5, or as it comes.
WARM_UPS = {"metaschedule": BATCH, "metaschedule_default": 100}


def every_space(sch):
    """The lab's space as traces: one for each order, with and without the buffer."""
    lab = exercise.load_lesson("cost_model")
    spaces = []
    for order in lab.KNOBS["order"]:
        for local in lab.KNOBS["local"]:
            space = sch.copy()
            lab.write_schedule(space, order, local)
            spaces.append(space)
    return spaces


def number_of(sch) -> int:
    """The candidate that a schedule of one of these traces is."""
    lab = exercise.load_lesson("cost_model")
    _, _, *inner = sch.get_loops(sch.get_sblock("C_update"))  # behind the fused i and j, and k
    extents = {sch.get(loop).loop_var.name[0]: int(sch.get(loop).extent) for loop in inner}
    local = any(one.kind.name == "CacheWrite" for one in sch.trace.insts)
    settings = ("".join(extents), local, *(extents[name] for name in "ijk"))
    places = [choices.index(one) for one, choices in zip(settings, lab.KNOBS.values(), strict=True)]
    return int(lab.number_of(np.array([places]))[0])


def run_metaschedule(seconds: np.ndarray, warm_up: int, seed: int) -> tuple[list[int], float]:
    """The candidates in the order in which MetaSchedule asked for them, and how long it took.

    seconds: what its runner looks up, the time of every candidate of the space.
    """
    from tvm.s_tir import meta_schedule as ms

    lab = exercise.load_lesson("cost_model")
    np.random.seed(seed)  # what the model predicts before it has learned anything
    module = lab.matmul(lab.SIDE)
    task = ms.TuneContext(
        mod=module,
        target=target.cpu_target(),
        space_generator=ms.space_generator.ScheduleFn(
            every_space,
            sch_rules=[],
            postprocs=[],
            mutator_probs={ms.mutator.MutateTileSize(): 1.0},
        ),
        search_strategy=ms.search_strategy.EvolutionarySearch(population_size=POPULATION),
        rand_state=seed + 1,
        num_threads=1,
    )
    database = ms.database.MemoryDatabase()
    workload = database.commit_workload(module)
    model = ms.cost_model.XGBModel(num_warmup_samples=warm_up, num_tuning_cores=1)
    start = time.perf_counter()
    # Twice as many as are wanted, since it may propose one again.
    task.pre_tuning(2 * TRIALS, BATCH, database=database, cost_model=model)
    order: dict[int, None] = {}
    while len(order) < TRIALS and (proposed := task.generate_measure_candidates()) is not None:
        fresh = {number_of(one.sch): one for one in proposed}
        fresh = {number: one for number, one in fresh.items() if number not in order}
        order |= dict.fromkeys(fresh)
        results = []
        for number, candidate in fresh.items():
            time_of_it = [float(seconds[number])]
            record = ms.database.TuningRecord(
                candidate.sch.trace, workload, time_of_it, task.target, candidate.args_info
            )
            database.commit_tuning_record(record)
            results.append(ms.runner.RunnerResult(time_of_it, None))
        model.update(task, list(fresh.values()), results)
        task.notify_runner_results(list(fresh.values()), results)
    task.post_tuning()
    return list(order)[:TRIALS], time.perf_counter() - start
