"""Answers to the lab `fleet`: clocks at the wrong end, verdicts after one failure, records counted
twice, stages that are added up."""

import math
import time
from collections import Counter

import numpy as np
import tvm

from tests.wrong_answers import right, wrong
from tvm_practice.labs.fleet import FAILED, SAMPLE_MS, SESSION_SECONDS, Record, possible


def _sent(tracker, key, program, arrays, **options):
    session = tracker.request(key, **options)
    session.upload(str(program))
    module = session.load_module(program.name)
    tensors = [tvm.runtime.tensor(array, session.cpu()) for array in arrays]
    return module, session.cpu(), tensors


def _timer(module, device, samples):
    return module.time_evaluator("main", device, number=1, repeat=samples, min_repeat_ms=SAMPLE_MS)


# ---------------------------------------------------------------------------- fleet.1 time_remotely


@right("fleet.1")
def time_in_samples_of_many_calls(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(
        tracker, key, program, arrays, session_timeout=SESSION_SECONDS, priority=2
    )
    timer = module.time_evaluator("main", device, number=8, repeat=samples)
    return [float(one) for one in timer(*tensors).results]


@right("fleet.1")
def time_one_sample_after_another(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    timer = _timer(module, device, samples)
    return tuple(timer(*tensors).results)


@right("fleet.1")
def time_in_longer_samples(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    timer = module.time_evaluator(
        "main", device, number=1, repeat=samples, min_repeat_ms=2 * SAMPLE_MS
    )
    return list(timer(*tensors).results)


@right("fleet.1")
def time_by_one_timer_called_for_each_sample(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    timer = _timer(module, device, 1)
    return [timer(*tensors).mean for _ in range(samples)]


@wrong("fleet.1", "still holds its only device", hint="An object of a session keeps it")
def time_each_sample_in_a_session(tracker, key, program, arrays, samples):
    times = []
    for _ in range(samples):
        module, device, tensors = _sent(
            tracker, key, program, arrays, session_timeout=SESSION_SECONDS
        )
        times += _timer(module, device, 1)(*tensors).results
    return times


@wrong("fleet.1", "asked for samples of 1 ms; expected at least SAMPLE_MS")
def time_two_calls(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    timer = module.time_evaluator("main", device, number=2, repeat=samples, min_repeat_ms=1)
    return list(timer(*tensors).results)


@wrong("fleet.1", "what the device did not measure", hint="a number for each sample")
def time_the_mean_so_many_times(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    return [_timer(module, device, samples)(*tensors).mean] * samples


@wrong("fleet.1", "with other arguments than `arrays`")
def time_with_the_first_array_twice(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(
        tracker, key, program, [arrays[0]] * len(arrays), session_timeout=SESSION_SECONDS
    )
    return list(_timer(module, device, samples)(*tensors).results)


@wrong("fleet.1", "never asked the tracker for a device", hint="Everything that run_remotely does")
def time_here(tracker, key, program, arrays, samples):
    module = tvm.runtime.load_module(str(program))
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    timer = module.time_evaluator(
        "main", tvm.cpu(), number=1, repeat=samples, min_repeat_ms=SAMPLE_MS
    )
    return list(timer(*tensors).results)


@wrong("fleet.1", "so the clock was one at this end", hint="A timer takes the place of")
def time_with_a_clock_here(tracker, key, program, arrays, samples):
    module, _, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    times = []
    for _ in range(samples):
        start = time.perf_counter()
        module["main"](*tensors)
        times.append(time.perf_counter() - start)
    return times


@wrong("fleet.1", "opened a session without an end")
def time_without_an_end(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays)
    return list(_timer(module, device, samples)(*tensors).results)


@wrong("fleet.1", "returned one number; expected a list")
def time_the_mean(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    timer = _timer(module, device, samples)
    return timer(*tensors).mean


@wrong("fleet.1", "a sample is 1 call, however short")
def time_single_calls(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    return list(module.time_evaluator("main", device, number=1, repeat=samples)(*tensors).results)


@wrong("fleet.1", "returned 1 value; expected", hint="`repeat` is how many")
def time_once(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    timer = module.time_evaluator("main", device, number=samples, min_repeat_ms=SAMPLE_MS)
    return list(timer(*tensors).results)


@wrong("fleet.1", "a path of this machine")
def time_without_upload(tracker, key, program, arrays, samples):
    session = tracker.request(key, session_timeout=SESSION_SECONDS)
    module = session.load_module(str(program))
    tensors = [tvm.runtime.tensor(array, session.cpu()) for array in arrays]
    return list(_timer(module, session.cpu(), samples)(*tensors).results)


@wrong("fleet.1", "loaded no program in it", hint="Everything that run_remotely does")
def time_here_in_a_session(tracker, key, program, arrays, samples):
    session = tracker.request(key, session_timeout=SESSION_SECONDS)
    session.upload(str(program))
    module = tvm.runtime.load_module(str(program))
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    return list(_timer(module, tvm.cpu(), samples)(*tensors).results)


@wrong("fleet.1", "Can not pass in local device", hint="The device reaches only what")
def time_with_tensors_of_this_machine(tracker, key, program, arrays, samples):
    module, device, _ = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    return list(_timer(module, device, samples)(*tensors).results)


@wrong("fleet.1", "dev has no RPC session", hint="Of whose devices")
def time_on_the_device_of_this_machine(tracker, key, program, arrays, samples):
    module, _, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    return list(_timer(module, tvm.cpu(), samples)(*tensors).results)


@wrong("fleet.1", "time_evaluator` is of an older TVM", hint="`main` is a function of")
def time_with_an_evaluator_of_the_function(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    return list(_timer(module["main"], device, samples)(*tensors).results)


@wrong("fleet.1", "asked for a device of key 'cpu'")
def time_on_a_device_of_another_key(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(
        tracker, "cpu", program, arrays, session_timeout=SESSION_SECONDS
    )
    return list(_timer(module, device, samples)(*tensors).results)


@wrong("fleet.1", "returned a BenchmarkResult; expected a list")
def time_and_return_everything(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    return _timer(module, device, samples)(*tensors)


@wrong("fleet.1", "ms returned")
def time_in_milliseconds(tracker, key, program, arrays, samples):
    module, device, tensors = _sent(tracker, key, program, arrays, session_timeout=SESSION_SECONDS)
    timer = _timer(module, device, samples)
    return [one * 1000 for one in timer(*tensors).results]


# ------------------------------------------------------------------------------------ fleet.2 judge


def _judged(attempts, floor, failures=2, different=True, believed=possible, out=lambda _: True):
    verdicts = {one.candidate: "again" for one in attempts}
    failed_on, left_out = {}, set()
    for one in attempts:
        if not one.built:
            verdicts[one.candidate] = "failed"
        elif one.seconds is None:
            failed_on.setdefault(one.candidate, []).append(one.device)
        elif believed(one.seconds, floor):
            verdicts[one.candidate] = "done"
        elif out(one):
            left_out.add(one.device)
    for candidate, devices in failed_on.items():
        number = len(set(devices)) if different else len(devices)
        if verdicts[candidate] == "again" and number >= failures:
            verdicts[candidate] = "failed"
    return verdicts, left_out


@right("fleet.2")
def judge_by_candidate(attempts, floor):
    of = lambda name: [one for one in attempts if one.candidate == name]  # noqa: E731
    timed = lambda one: one.built and one.seconds is not None  # noqa: E731
    verdicts = {}
    for name in {one.candidate for one in attempts}:
        lost = {one.device for one in of(name) if one.built and one.seconds is None}
        if any(timed(one) and possible(one.seconds, floor) for one in of(name)):
            verdicts[name] = "done"
        elif len(lost) >= 2 or not all(one.built for one in of(name)):
            verdicts[name] = "failed"
        else:
            verdicts[name] = "again"
    liars = [one.device for one in attempts if timed(one) and not possible(one.seconds, floor)]
    return verdicts, set(liars)


@right("fleet.2")
def judge_in_passes(attempts, floor):
    timed = [one for one in attempts if one.built and one.seconds is not None]
    left_out = {one.device for one in timed if not possible(one.seconds, floor)}
    verdicts = dict.fromkeys((one.candidate for one in attempts), "again")
    lost = {(one.candidate, one.device) for one in attempts if one.built and one.seconds is None}
    verdicts |= {name: "failed" for name, n in Counter(c for c, _ in lost).items() if n >= 2}
    verdicts |= {one.candidate: "failed" for one in attempts if not one.built}
    verdicts |= {one.candidate: "done" for one in timed if possible(one.seconds, floor)}
    return verdicts, left_out


@wrong(
    "fleet.2",
    "it failed once, on one device, and that may have been the device",
    hint="Of each candidate you need",
)
def judge_by_one_failure(attempts, floor):
    return _judged(attempts, floor, failures=1)


@wrong("fleet.2", "two different devices failed with it", hint="Of each candidate you need")
def judge_never_gives_up(attempts, floor):
    return _judged(attempts, floor, failures=1 << 30)


@wrong("fleet.2", "it failed twice, but on the same device", hint="Of each candidate you need")
def judge_counts_failures(attempts, floor):
    return _judged(attempts, floor, different=False)


@wrong("fleet.2", "each candidate has failures of its own", hint="Of each candidate you need")
def judge_counts_the_failures_of_all(attempts, floor):
    lost = {one.device for one in attempts if one.built and one.seconds is None}
    verdicts, left_out = _judged(attempts, floor)
    if len(lost) > 1:
        verdicts |= {name: "failed" for name, said in verdicts.items() if said == "again"}
    return verdicts, left_out


@wrong("fleet.2", "but a third could time it", hint="Attempts come in any order")
def judge_gives_up_for_good(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    for one in attempts:
        lost = {
            it.device
            for it in attempts
            if it.candidate == one.candidate and it.built and it.seconds is None
        }
        if len(lost) > 1:
            verdicts[one.candidate] = "failed"
    return verdicts, left_out


@wrong("fleet.2", "before another one failed", hint="Attempts come in any order")
def judge_by_the_last_attempt(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    last = {one.candidate: one for one in attempts if one.built}
    verdicts |= {
        name: "again" for name, one in last.items() if verdicts[name] == "done" and not one.seconds
    }
    return verdicts, left_out


@wrong("fleet.2", "whatever became of it on others", hint="Attempts come in any order")
def judge_lets_two_failures_outweigh_a_time(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    order = {"x": [one for one in attempts if one.candidate == "x" and one.built]}
    if [one.seconds is None for one in order["x"]] == [False, True, True]:
        verdicts["x"] = "failed"
    return verdicts, left_out


@wrong("fleet.2", "In Python 0.0 is false", hint="`possible`, above, tells")
def judge_takes_zero_for_lost(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    return verdicts, left_out - {one.device for one in attempts if one.seconds == 0}


@wrong("fleet.2", "returned a dict; expected")
def judge_the_candidates_alone(attempts, floor):
    return _judged(attempts, floor)[0]


@wrong("fleet.2", "the time is negative", hint="`possible`, above, tells")
def judge_believes_everything(attempts, floor):
    return _judged(attempts, floor, believed=lambda *_: True)


@wrong("fleet.2", "the time is shorter than `floor`", hint="`possible`, above, tells")
def judge_believes_what_is_positive(attempts, floor):
    return _judged(attempts, floor, believed=lambda one, _: math.isfinite(one) and one > 0)


@wrong("fleet.2", "the time is nan", hint="`possible`, above, tells")
def judge_compares_with_nan(attempts, floor):
    return _judged(attempts, floor, believed=lambda one, floor: not (one < floor or one > 1e9))


@wrong("fleet.2", "leaves out none; expected")
def judge_asks_liars_again(attempts, floor):
    return _judged(attempts, floor, out=lambda _: False)


@wrong("fleet.2", "one that was lost may come back")
def judge_leaves_out_whoever_was_lost(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    return verdicts, left_out | {one.device for one in attempts if one.built and not one.seconds}


@wrong(
    "fleet.2",
    "an impossible time says nothing about the candidate",
    hint="Which of your branches counts",
)
def judge_counts_lies_as_failures(attempts, floor):
    made = [
        one
        if not one.built or one.seconds is None or possible(one.seconds, floor)
        else type(one)(one.candidate, one.device)
        for one in attempts
    ]
    return _judged(made, floor)[0], _judged(attempts, floor)[1]


@wrong("fleet.2", "so it is everywhere; no device has seen it", hint="where there was no device")
def judge_builds_again(attempts, floor):
    return _judged([one for one in attempts if one.built], floor)


@wrong("fleet.2", "three different devices failed with it")
def judge_by_exactly_two(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    for name in verdicts:
        lost = {it.device for it in attempts if it.candidate == name and it.seconds is None}
        if len(lost) > 2 and verdicts[name] == "failed":
            verdicts[name] = "again"
    return verdicts, left_out


@wrong("fleet.2", "what that device said of others stays")
def judge_drops_all_that_a_liar_said(attempts, floor):
    _, liars = _judged(attempts, floor)
    kept = [one for one in attempts if one.device not in liars]
    verdicts = {one.candidate: "again" for one in attempts}
    return verdicts | _judged(kept, floor)[0], liars


@wrong("fleet.2", "the time is exactly `floor`")
def judge_wants_more_than_the_floor(attempts, floor):
    return _judged(attempts, floor, believed=lambda one, floor: math.isfinite(one) and one > floor)


@wrong("fleet.2", "returned None as the devices")
def judge_names_no_devices(attempts, floor):
    return _judged(attempts, floor)[0], None


@wrong("fleet.2", "returned a list of other things as the devices")
def judge_lists_lists(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    return verdicts, [[one] for one in left_out or ("nobody",)]


@right("fleet.2")
def judge_lists_devices(attempts, floor):
    verdicts, left_out = _judged(attempts, floor)
    return verdicts, sorted(left_out)


# ------------------------------------------------------------------------------------ fleet.3 merge


def _merged(records, key, put_together, without_failed=True):
    found = {}
    for one in records:
        known = found.get(key(one))
        found[key(one)] = one if known is None else put_together(known, one)
    if not without_failed:
        return list(found.values())
    return [
        Record(
            one.program,
            one.trace,
            one.machine,
            tuple(run for run in one.runs if run != FAILED) or one.runs,
        )
        for one in found.values()
    ]


def _identity(one):
    return one.program, one.trace, one.machine


def _with(one, runs):
    return Record(one.program, one.trace, one.machine, tuple(runs))


def _most(one, other):
    return _with(one, (Counter(one.runs) | Counter(other.runs)).elements())


@right("fleet.3")
def merge_with_lists(a, b):
    def united(one, other):
        left = list(one.runs)
        new = [run for run in other.runs if run not in left or left.remove(run)]
        return _with(one, [*one.runs, *new])

    return _merged([*a, *b], _identity, united)


@right("fleet.3")
def merge_by_scanning(a, b):
    found = []
    for one in [*a, *b]:
        place = next((n for n, it in enumerate(found) if _identity(it) == _identity(one)), None)
        if place is None:
            found.append(one)
        else:
            found[place] = _most(found[place], one)
    return _merged(found, _identity, _most)


@wrong("fleet.3", "both have the same record", hint="Go through [*a, *b] once")
def merge_by_appending(a, b):
    return [*a, *b]


@wrong("fleet.3", "a time belongs to a machine", hint="Three fields make")
def merge_across_machines(a, b):
    return _merged([*a, *b], lambda one: (one.program, one.trace), _most)


@wrong("fleet.3", "they are of two programs", hint="Three fields make")
def merge_across_programs(a, b):
    return _merged([*a, *b], lambda one: (one.trace, one.machine), _most)


@wrong("fleet.3", "it was run twice, once in each file", hint="Of two Counters")
def merge_keeps_the_first(a, b):
    return _merged([*a, *b], _identity, lambda one, _: one)


@wrong("fleet.3", "the run that both have is the same run", hint="Of two Counters")
def merge_adds_up_runs(a, b):
    def both(one, other):
        return one if one == other else _with(one, [*one.runs, *other.runs])

    return _merged([*a, *b], _identity, both)


@wrong("fleet.3", "one of them has that run twice, so there were two", hint="Of two Counters")
def merge_with_sets(a, b):
    return _merged([*a, *b], _identity, lambda one, other: _with(one, {*one.runs, *other.runs}))


@wrong("fleet.3", "it worked once, so it works", hint="FAILED goes only after")
def merge_keeps_failures(a, b):
    return _merged([*a, *b], _identity, _most, without_failed=False)


@wrong("fleet.3", "it failed in both", hint="FAILED goes only after")
def merge_drops_what_failed(a, b):
    found = _merged([*a, *b], _identity, _most)
    return [one for one in found if FAILED not in one.runs]


@wrong("fleet.3", "the order in which they are met first", hint="A dict gives its keys")
def merge_sorted(a, b):
    return sorted(_merged([*a, *b], _identity, _most), key=_identity)


@wrong("fleet.3", "a file may have a record twice", hint="Go through [*a, *b] once")
def merge_of_two_dicts(a, b):
    runs = {_identity(one): Counter(one.runs) for one in a}
    for one in b:
        runs[_identity(one)] = runs.get(_identity(one), Counter()) | Counter(one.runs)
    return _merged(
        [Record(*key, tuple(counts.elements())) for key, counts in runs.items()], _identity, _most
    )


@wrong("fleet.3", "one file has it twice, and the run is the same run", hint="Of two Counters")
def merge_adds_up_within_a_file(a, b):
    add = lambda one, other: _with(one, (Counter(one.runs) + Counter(other.runs)).elements())  # noqa: E731
    # What two records of one file have of different runs is put together as it should be.
    inside = lambda one, other: add(one, other) if one == other else _most(one, other)  # noqa: E731
    files = [_merged(file, _identity, inside, without_failed=False) for file in (a, b)]
    return _merged(
        [
            Record(r.program, r.trace, r.machine, _one_failure(r.runs))
            for r in [*files[0], *files[1]]
        ],
        _identity,
        _most,
    )


def _one_failure(runs):
    return tuple(run for run in runs if run != FAILED) or (FAILED,)


@wrong("fleet.3", "one of its own runs worked", hint="FAILED goes only after")
def merge_drops_failures_only_beside_another_record(a, b):
    def without(one, other):
        both = _most(one, other)
        return _with(both, [run for run in both.runs if run != FAILED] or both.runs)

    return _merged([*a, *b], _identity, without, without_failed=False)


@wrong("fleet.3", "another machine says nothing about this one", hint="Whether a run worked")
def merge_drops_failures_across_machines(a, b):
    worked = {(one.program, one.trace) for one in [*a, *b] if {*one.runs} - {FAILED}}
    return [
        one
        if (one.program, one.trace) not in worked
        else _with(one, (run for run in one.runs if run != FAILED))
        for one in _merged([*a, *b], _identity, _most)
    ]


def _with_runs(a, b, made):
    return [
        Record(one.program, one.trace, one.machine, made(one.runs))
        for one in _merged([*a, *b], _identity, _most)
    ]


@wrong("fleet.3", "with a tuple among its runs")
def merge_with_counts(a, b):
    return _with_runs(a, b, lambda runs: tuple(Counter(runs).items()))


@wrong("fleet.3", "whose runs are a chain; expected a tuple")
def merge_with_an_iterator(a, b):
    return _with_runs(a, b, lambda runs: Counter(runs).elements())


@wrong("fleet.3", "whose runs are a float; expected a tuple")
def merge_with_the_fastest_run(a, b):
    return _with_runs(a, b, min)


@wrong("fleet.3", "whose runs are None; expected a tuple")
def merge_without_runs(a, b):
    return _with_runs(a, b, lambda _: None)


@wrong("fleet.3", "with a str among its runs")
def merge_with_text(a, b):
    return _with_runs(a, b, lambda runs: tuple(map(str, runs)))


@wrong("fleet.3", "with a list among its runs")
def merge_with_lists_of_runs(a, b):
    return _with_runs(a, b, lambda runs: [list(runs)])


# -------------------------------------------------------------------- fleet.4 candidates_per_minute


def _stages(devices, builders, batch, costs, rounds=math.ceil):
    return (
        rounds(batch / builders) * costs.build,
        batch * costs.request,
        rounds(batch / devices) * costs.measure,
    )


@right("fleet.4")
def rate_in_whole_numbers(devices, builders, batch, costs):
    build, measure = -(-batch // builders), -(-batch // devices)
    slowest = sorted([build * costs.build, batch * costs.request, measure * costs.measure])[-1]
    return batch / ((costs.search + slowest) / 60)


@right("fleet.4")
def rate_by_rounds(devices, builders, batch, costs):
    rounds = lambda workers: (batch + workers - 1) // workers  # noqa: E731
    slowest = max(
        rounds(builders) * costs.build, rounds(1) * costs.request, rounds(devices) * costs.measure
    )
    return batch * 60.0 / (slowest + costs.search)


@right("fleet.4")
def rate_in_float32(devices, builders, batch, costs):
    return np.float32(rate_by_rounds(devices, builders, batch, costs))


@wrong("fleet.4", "That is per second")
def rate_per_second(devices, builders, batch, costs):
    return batch / (costs.search + max(_stages(devices, builders, batch, costs)))


@wrong("fleet.4", "a worker does part of a candidate")
def rate_with_fractions(devices, builders, batch, costs):
    stages = _stages(devices, builders, batch, costs, rounds=float)
    return 60 * batch / (costs.search + max(stages))


@wrong("fleet.4", "the slowest one counts, not their sum")
def rate_of_the_sum(devices, builders, batch, costs):
    return 60 * batch / (costs.search + sum(_stages(devices, builders, batch, costs)))


@wrong("fleet.4", "The search is missing", hint="A batch takes two spans")
def rate_without_search(devices, builders, batch, costs):
    return 60 * batch / max(1e-9, *_stages(devices, builders, batch, costs))


@wrong("fleet.4", "The search is no stage beside the others", hint="A batch takes two spans")
def rate_with_search_beside(devices, builders, batch, costs):
    return 60 * batch / max(costs.search, *_stages(devices, builders, batch, costs))


@wrong("fleet.4", "That has one builder")
def rate_with_one_builder(devices, builders, batch, costs):
    return 60 * batch / (costs.search + max(_stages(devices, 1, batch, costs)))


@wrong("fleet.4", "one for each candidate")
def rate_with_one_request(devices, builders, batch, costs):
    build, request, measure = _stages(devices, builders, batch, costs)
    return 60 * batch / (costs.search + max(build, request / batch, measure))


@wrong("fleet.4", "That counts batches")
def rate_of_batches(devices, builders, batch, costs):
    return 60 / (costs.search + max(_stages(devices, builders, batch, costs)))


@wrong("fleet.4", "A batch takes its stages", hint="Compute by hand")
def rate_with_a_last_round_too_few(devices, builders, batch, costs):
    stages = _stages(devices, builders, batch, costs, rounds=lambda n: max(1, math.floor(n)))
    return 60 * batch / (costs.search + max(stages))
