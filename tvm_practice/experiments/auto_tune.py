"""What phase 5 shows: the space, the search as it goes, its winner against others, its price."""

from __future__ import annotations

import json
import logging
import math
import pickle
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import mean

from tvm_practice.common import exercise, fleet, picture, records, show
from tvm_practice.common.competitors import flops, libraries, runnable_matmul
from tvm_practice.common.cuda import facts, search_space
from tvm_practice.common.cuda.resources import V100, available
from tvm_practice.common.cuda.search_space import BALANCE, LIMITS, RULE, Known, Sample
from tvm_practice.common.loop_nest import LoopNest, loop_nest
from tvm_practice.common.measure import BUILD_SECONDS, RUN_SECONDS, Measure, Measured
from tvm_practice.common.target import threads
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Runnable
from tvm_practice.common.verify import Wrong
from tvm_practice.common.worker import Worker, WorkerFailed
from tvm_practice.experiments.manual_schedule import (
    GPU_MULTIPLES,
    GPU_RUNGS,
    gpu_schedule,
    make_hand,
    make_step,
)

QUICK_TRIALS, TRIALS = 64, 256
BATCH = 16
# MetaSchedule's own 512 are for thousands of trials; for these, they take longer than measuring.
POPULATION = 128
HAND_STEPS = ("2.1", "2.2", "2.3", "2.4", "2.5")
NAIVE, HAND, TUNED = "naive", "hand (phase 2)", "tuned"
SESSIONS = "sessions.jsonl"
GPU_QUICK_TRIALS, GPU_TRIALS = 12, 32
GPU_BEST, GPU_WORST = 5, 2  # rows of the table
BY_HAND = "by hand"
LOOK_SECONDS = 120.0
# The fastest of many measurements is partly the luckiest: these many run these many times more.
FINALISTS, FINAL_ROUNDS = 5, 5

Size = tuple[int, int, int]


def run(session) -> None:
    devices = _devices(session)
    whose = {known: session.exercise(known) for known in ("5.1", "5.2", "5.3", "5.4")}
    size = session.size(quick=512, full=1024)
    trials = session.options.trials or (QUICK_TRIALS if session.quick else TRIALS)
    with show.waiting("the search space ..."):
        plan = session.call(describe, size, whose, session.seed, devices)
    _introduce(plan, size, trials)
    folder = _folder(session, size, plan.key)
    done = _tune(session, folder, plan, size, trials, whose, devices)
    if not any(records.runs_of_records(folder)):
        show.line("  No candidate could be measured, so there is nothing to apply.", "yellow")
        session.headline = "no candidate could be measured"
        return
    if devices and not devices.machine.alike(session.call(fleet.here)):
        _tell_foreign(session, devices, folder, size)
        return
    with show.waiting("the steps of phase 2 ..."):
        whose |= {known: session.whose(known) for known in HAND_STEPS}
    measured = _compare(session, folder, size, whose)
    session.picture("tuning_curve", lambda path: draw_curve(path, folder, measured, size))
    _key_question(session, folder, plan, done, measured, whose, size)


def _devices(session) -> fleet.Devices | None:
    """The devices of the tracker that was asked for; None to measure here."""
    options = session.options
    if options.tracker is None:
        return None
    with show.waiting("the tracker ..."):
        key = options.key or fleet.KEY
        machine = fleet.first_machine(options.tracker, key)
    show.line(
        f"  Measured on the devices {key!r} of the tracker at "
        f"{fleet.shown(options.tracker)}: {machine.cpu}, {machine.llvm_cpu}, {machine.threads} "
        f"thread{'s' if machine.threads > 1 else ''} each.",
        "dim",
    )
    return fleet.Devices(options.tracker, key, machine)


def _tell_foreign(session, devices: fleet.Devices, folder: Path, size: Size) -> None:
    """Say what was found for a machine that is not this one, where nothing can be compared."""
    means = [mean(runs) for runs in records.runs_of_records(folder) if runs]
    best = _rate(min(means), size)
    show.line(
        f"  This machine is not of that kind: how the winner compares with the hand and the "
        f"libraries, only a {devices.machine.cpu} can tell. There it runs at {best} GFLOP/s.",
        "yellow",
    )
    session.headline = f"tuned for {devices.machine.cpu}: {best} GFLOP/s"


# --------------------------------------------------------------- the space of a GPU, without a GPU


@dataclass
class Looked:
    """What became of the samples that MetaSchedule accepts, and of the schedule by hand.

    known: by name, the best by RULE first. wrong: by name, what the simulator found. failed: by
    name, why one could not be looked at.
    """

    known: dict[str, Known] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def searched(self) -> list[Known]:
        return [one for name, one in self.known.items() if not name.endswith(BY_HAND)]

    @property
    def hand(self) -> int | None:
        """Its place, counted from 1."""
        names = [name.endswith(BY_HAND) for name in self.known]
        return names.index(True) + 1 if any(names) else None


def run_gpu(session) -> None:
    """MetaSchedule's own space for CUDA: sampled, verified in the simulator, and ranked by what can
    be known without a clock."""
    size = session.size(quick=1024, full=2048, multiples=GPU_MULTIPLES)
    wanted = session.options.trials or (GPU_QUICK_TRIALS if session.quick else GPU_TRIALS)
    with show.waiting(f"the search space, and samples until {wanted} are accepted ..."):
        trace, choices, samples = session.call(
            sample_gpu, size, wanted, session.seed, seconds=60 + 10 * wanted
        )
    _introduce_gpu(size, trace, choices)
    accepted = [one for one in samples if one.accepted]
    _tell_refused(samples, accepted, wanted)
    looked = _look(session, size, accepted)
    _tell_looked(looked, size)
    if looked.searched:
        session.picture("gpu_candidates", lambda path: draw_gpu(path, looked, samples, size))
    session.report |= {"size": size, "gpu": _gpu_report(samples, looked)}
    right = len(looked.searched)
    session.headline = f"{right} of {len(samples)} samples verified in the simulator, not timed"
    if looked.wrong:
        session.headline += f", {len(looked.wrong)} wrong"
    _gpu_question(session, samples, accepted, looked)


def _introduce_gpu(size: Size, trace: str, choices: list[tuple[str, int]]) -> None:
    show.heading("MetaSchedule's own space for CUDA, for {} x {} x {}".format(*size))
    show.say(
        "For a CPU this lesson takes a space of yours; here it is the one that MetaSchedule's own "
        "rules derive. They visit the blocks in post-order and apply what fits: here multi-level "
        "tiling, with C in registers and A and B through shared memory. The trace, without the "
        "decisions, which are what is open, and without the lines that split and reorder loops:"
    )
    show.code(trace)
    show.say(
        "i and j are each a product of five: blocks, virtual threads, threads, and two loops of "
        "one thread; k is one of three. The postprocessors then bind the copies to the block's "
        "threads (`cooperative_fetch`) and unroll."
    )
    show.table(("sampled", "choices"), [(what, f"{number:,}") for what, number in choices])
    number = math.prod(number for _, number in choices)
    show.say(f"In all {number:,} combinations, most of which break a limit.")


def _tell_refused(samples: Sequence[Sample], accepted: Sequence[Sample], wanted: int) -> None:
    refused = len(samples) - len(accepted)
    show.heading(f"{len(samples)} samples: {len(accepted)} accepted, {refused} refused")
    count = Counter(reason for one in samples for reason in one.reasons)
    alone = Counter(one.reasons[0] for one in samples if len(one.reasons) == 1)
    show.table(
        ("limit that is broken", "samples", "this one alone"),
        [(limit, str(count[limit]), str(alone[limit])) for limit in LIMITS],
        f"{refused} refused by MetaSchedule before anything is compiled; one may break two limits.",
    )
    if odd := sum(not one.accepted and not one.reasons for one in samples):
        show.line(f"  {odd} were refused and break none of these limits.", "yellow")
    if len(accepted) < wanted:
        show.line(
            f"  {len(accepted)} instead of {wanted}: for this size hardly any sample is accepted.",
            "yellow",
        )


def _look(session, size: Size, accepted: Sequence[Sample]) -> Looked:
    looked, found = Looked(), []
    with show.progress("in the simulator", len(accepted) + 1) as bar:
        for sample, answer in _answers(size, session.seed, accepted):
            name = "x".join(map(str, sample.tile)) if sample else BY_HAND
            show.advance(bar, name)
            unique = f"{name}, seed {sample.seed}" if sample else name
            match answer:
                case Known():
                    found.append((name, answer))
                case Wrong():
                    looked.wrong[unique] = str(answer)
                case WorkerFailed() if answer.failure.kind == "timeout":
                    looked.failed[unique] = f"it took longer than {LOOK_SECONDS:.0f} s"
                case WorkerFailed():
                    looked.failed[unique] = str(answer)
    found.sort(key=lambda one: one[1].rank)
    looked.known = {f"{place}. {name}": one for place, (name, one) in enumerate(found, 1)}
    return looked


def _answers(
    size: Size, seed: int, accepted: Sequence[Sample]
) -> Iterator[tuple[Sample | None, Known | Wrong | WorkerFailed]]:
    """Each sample, and None for the schedule by hand, with what a worker says of it, as it comes;
    as many workers as threads. A worker that fails is replaced."""
    left = deque([None, *accepted])
    with ExitStack() as workers:
        busy: dict[Connection, tuple[Worker, Sample | None, float]] = {}

        def give(worker: Worker | None = None) -> None:
            if not left:
                return
            worker = worker or workers.enter_context(Worker(look_in_worker, size, seed))
            sample = left.popleft()
            worker.connection.send(sample)
            busy[worker.connection] = (worker, sample, time.monotonic() + LOOK_SECONDS)

        for _ in range(threads()):
            give()
        while busy:
            next_limit = min(limit for _, _, limit in busy.values())
            ready = wait(list(busy), max(0.0, next_limit - time.monotonic()))
            late = [one for one, (*_, limit) in busy.items() if limit <= time.monotonic()]
            for connection in ready or late:
                worker, sample, _ = busy.pop(connection)
                try:
                    answer = worker.answer(0.0)
                    give(worker)
                except WorkerFailed as error:
                    answer = error
                    give()
                yield sample, answer


def _tell_looked(looked: Looked, size: Size) -> None:
    for name, sentence in looked.wrong.items():
        show.line(f"  WRONG: {name}: {sentence}", "bold red")
    for name, sentence in looked.failed.items():
        show.line(f"  {name} could not be looked at: {sentence}", "yellow")
    if not looked.known:
        show.line("  Nothing could be verified, so there is nothing to rank.", "yellow")
        return
    show.heading(f"{len(looked.known)} schedules ranked by what is known without a device")
    # Spills and occupancy are NVRTC's to tell.
    rules = [rule for number, rule in enumerate(RULE) if available() is None or number in (1, 2)]
    show.say(
        "By the first of these in which two schedules differ:\n\n"
        + "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, 1))
    )
    names = list(looked.known)
    last = max(GPU_BEST, len(names) - GPU_WORST)
    shown = [*names[:GPU_BEST], *names[last:]]
    if looked.hand and names[looked.hand - 1] not in shown:
        shown.insert(GPU_BEST, names[looked.hand - 1])
    facts.table(
        {name: looked.known[name] for name in shown},
        "Named by a block's tile of C and its piece of k; the best and the worst, and, by hand, "
        "phase 2's reference after 2.9. Each was run in the simulator, thread by thread, as a "
        "product of a few such tiles, and its result verified; blocks, and what the compiler says, "
        "are those of {} x {} x {}.".format(*size),
    )


def _gpu_report(samples: Sequence[Sample], looked: Looked) -> dict:
    return {
        "samples": len(samples),
        "accepted": sum(one.accepted for one in samples),
        "refused": dict(Counter(reason for one in samples for reason in one.reasons)),
        "wrong": looked.wrong,
        "failed": looked.failed,
        "ranked": {
            name: {
                "grid": one.kernels[0].grid,
                "block": one.kernels[0].block,
                "shared_bytes": one.kernels[0].shared_bytes,
                "global_read_per_flop": one.read_per_flop,
                "coalescing": one.coalescing,
                "bank_rounds": one.bank_rounds,
                "registers": [told.usage.registers for (told,) in one.reports],
                "spilled_bytes": one.spilled if one.reports else None,
                "occupancy": one.occupancy if one.reports else None,
                "verified": one.verified,
            }
            for name, one in looked.known.items()
        },
    }


def _gpu_question(
    session, samples: Sequence[Sample], accepted: Sequence[Sample], looked: Looked
) -> None:
    ones = looked.searched
    left = [one for one in ones if not (one.spilled or not one.fills or one.memory_bound)]
    compiled = available() is None
    spilled = f"{sum(one.spilled > 0 for one in ones)} spill registers, " if compiled else ""
    ruled = (
        f"{len(samples) - len(accepted)} of {len(samples)} samples break a limit: what a block "
        "cannot have, no GPU starts, and with less than a warp some of its lanes do nothing. Of "
        f"the {len(ones)} that are verified, {spilled}"
        f"{sum(not one.fills for one in ones)} leave some of a V100's {V100.sms} SMs without a "
        f"block, and {sum(one.memory_bound for one in ones)} ask of memory more than the "
        f"{BALANCE:.2g} bytes that it brings for each operation."
    )
    if left:
        ruled += f" {len(left)} of them {'has' if len(left) == 1 else 'have'} none of these faults."
    else:
        ruled += " Each has at least one of these faults."
    if looked.wrong:
        ruled += f" And {len(looked.wrong)} gave a wrong result, which no speed makes up for."
    unknown = (
        "Which of two schedules is faster. The rule puts one fault above another, which is an "
        "opinion; how many of the bytes come from a cache, what hides behind arithmetic, how the "
        "scheduler of an SM chooses among its warps, and what a spill really costs, only a device "
        "tells."
    )
    if looked.hand:
        unknown += (
            f" The schedule by hand has place {looked.hand} of {len(looked.known)}: by the rule, "
            "not by a clock."
        )
    device = (
        "With times from a device, such a sample would be the first batch: the cost model of 5.3 "
        "would learn from it, evolution would change the decisions of the fastest, every later "
        "batch would be better aimed, and the records of 5.4 would hold for that GPU and size."
    )
    session.question(
        "What can be ruled out without measuring, and what cannot?",
        [
            f"**Ruled out.** {ruled}",
            f"**Not known.** {unknown}",
            "**No search took place**, because nothing was measured: these schedules were drawn at "
            f"random, and what ran is verified, not timed. {device}",
        ],
    )


# -------------------------------------------------------------------------------- before the search


@dataclass(frozen=True)
class Plan:
    """What is known of a search before it starts.

    module: the workload, pickled, since the terminal's process has no TVM.
    """

    key: str
    module: bytes
    choices: tuple[tuple[str, int], ...]
    locations: int
    naive: LoopNest

    @property
    def schedules(self) -> int:
        return math.prod(number for _, number in self.choices)


def _introduce(plan: Plan, size: Size, trials: int) -> None:
    show.heading("The space, for {} x {} x {}".format(*size))
    show.table(("sampled", "choices"), [(what, f"{number:,}") for what, number in plan.choices])
    where = ", each with several places for a copy" if plan.locations else ""
    show.say(
        f"In all {plan.schedules:,} combinations{where}. The search measures {trials} schedules, "
        f"in batches of {BATCH}."
    )


def _folder(session, size: Size, key: str) -> Path:
    """Where the records of this search are kept; a temporary folder if it cannot be written."""
    name = "matmul-{}x{}x{}".format(*size)
    try:
        folder = session.records / f"{name}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SESSIONS).open("a").close()
        return folder
    except OSError as error:
        where = error.filename or "the records"
        show.line(
            f"  {where} cannot be written ({error.strerror}); the records of this run will be "
            "lost.",
            "yellow",
        )
        return Path(tempfile.mkdtemp(prefix="tvm_practice_records_"))


# --------------------------------------------------------------------------------------- the search


@dataclass
class Done:
    """What one run of the search has done so far."""

    before: int
    seconds: float = 0.0
    measured: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    best: float = math.inf
    events: Counter[tuple[str, str]] = field(default_factory=Counter)  # (device, what it did)
    last_said: dict[tuple[str, str], str] = field(default_factory=dict)  # of such an event
    finished: bool = False
    gains: dict[str, float] = field(default_factory=dict)


def _tune(
    session,
    folder: Path,
    plan: Plan,
    size: Size,
    trials: int,
    whose,
    devices: fleet.Devices | None,
) -> Done:
    show.heading("The search")
    if damage := records.repair(folder, plan.module):
        show.line(f"  {damage}", "yellow")
    earlier = records.runs_of_records(folder)
    done = Done(len(earlier), best=min((mean(runs) for runs in earlier if runs), default=math.inf))
    if earlier:
        show.line(
            f"  {len(earlier)} schedules were measured by earlier runs (best "
            f"{_rate(done.best, size)} GFLOP/s); "
            + (
                "the search goes on from there."
                if len(earlier) < trials
                else "nothing is left to measure."
            )
        )
    if len(earlier) >= trials:
        show.line(
            f"  --trials N with N above {len(earlier)} searches on; a new start: delete {folder}"
        )
        return done
    arguments = (size, whose, session.seed, trials, folder, devices)
    start = time.monotonic()
    try:
        with (
            show.progress(_progress(done, size), trials) as bar,
            Worker(tune_in_worker, *arguments) as worker,
        ):
            bar.update(bar.task_ids[0], completed=len(earlier))
            while not done.finished:
                match worker.answer(silent_seconds(size)):
                    case Measured() as one:
                        _count(done, one)
                        show.advance(bar, _progress(done, size))
                        if not show.console.is_terminal and done.measured % BATCH == 0:
                            _plain_progress(done, size, trials, time.monotonic() - start)
                    case fleet.Event() as event:
                        done.events[event.device, event.kind] += 1
                        done.last_said[event.device, event.kind] = event.sentence
                    case gains:
                        done.gains, done.finished = gains, True
    except KeyboardInterrupt:
        show.line(
            f"\n  Stopped after {done.before + done.measured} of {trials} schedules, best "
            f"{_rate(done.best, size)} GFLOP/s. Every "
            f"record is kept in {folder}; the same command goes on from there."
        )
        raise
    except WorkerFailed as error:
        reason, colon, rest = error.failure.sentence.partition(": ")
        if not colon or reason != fleet.NoDevice.__name__:
            raise
        raise fleet.NoDevice(f"{rest}; the same command goes on from there.") from None
    finally:
        done.seconds = time.monotonic() - start
        _note_session(folder, done)
        for (device, kind), number in sorted(done.events.items()):
            times = "" if number == 1 else f" ({number} times)"
            said = done.last_said[device, kind].rstrip(".")
            show.line(f"  device {device} {kind}{times}{f': {said}' if said else ''}.", "yellow")
    if show.console.is_terminal or done.measured % BATCH:
        _plain_progress(done, size, trials, done.seconds)
    means = [mean(runs) for runs in records.runs_of_records(folder) if runs and len(runs) > 1]
    if means:
        show.line(
            f"  The best {min(len(means), FINALISTS)} ran {FINAL_ROUNDS} more rounds: the fastest "
            "of many measurements is partly "
            f"the luckiest. The winner's mean is {_rate(min(means), size)} GFLOP/s."
        )
    for sentence, number in done.failures.most_common():
        show.line(f"  {number} of them failed: {sentence}.", "yellow")
    if done.before + done.measured < trials:
        show.line("  The search had nothing new to propose before that: the space is exhausted.")
    show.line(f"  records: {folder}", "dim")
    return done


def _count(done: Done, one: Measured) -> None:
    done.measured += 1
    if one.failure is not None:
        done.failures[one.failure.sentence] += 1
    elif one.seconds is not None:
        done.best = min(done.best, one.seconds)


def _rate(seconds: float, size: Size) -> str:
    return show.rate(flops(*size) / seconds / 1e9) if math.isfinite(seconds) else "-"


def _progress(done: Done, size: Size) -> str:
    failed = done.failures.total()
    return f"best {_rate(done.best, size)} GFLOP/s" + (f", {failed} failed" if failed else "")


def _plain_progress(done: Done, size: Size, trials: int, seconds: float) -> None:
    show.line(
        f"  {done.before + done.measured} of {trials} measured, {_progress(done, size)}, "
        f"{seconds:.0f} s"
    )


def _note_session(folder: Path, done: Done) -> None:
    """Keep what this run cost: a later one may have nothing left to measure, and is asked for the
    price all the same."""
    note = {
        "seconds": round(done.seconds, 2),
        "measured": done.measured,
        "failed": done.failures.total(),
    }
    try:
        with (folder / SESSIONS).open("a") as file:
            file.write(json.dumps(note) + "\n")
    except OSError:
        pass


def _price(folder: Path) -> tuple[float, int]:
    """(seconds, schedules measured) of all runs of this search that are on record."""
    seconds, measured = 0.0, 0
    for line in (folder / SESSIONS).read_text(errors="replace").splitlines():
        try:
            note = json.loads(line)
            seconds, measured = seconds + note["seconds"], measured + note["measured"]
        except (ValueError, KeyError, TypeError):
            continue
    return seconds, measured


# --------------------------------------------------------------------------------------- afterwards


def _compare(session, folder: Path, size: Size, whose: dict[str, str]) -> Comparison:
    M, N, K = size
    show.heading(f"The winner against the others, {M} x {N} x {K}, float32")
    common = {"M": M, "N": N, "K": K, "seed": session.seed}
    hand = tuple((known, whose[known]) for known in HAND_STEPS)
    candidates = [
        PEAK_FMA,
        Candidate(NAIVE, make_step, {**common, "steps": ()}),
        Candidate(HAND, make_step, {**common, "steps": hand}),
        *libraries(M, N, K, session.seed),
        Candidate(TUNED, make_tuned, {**common, "whose": whose, "folder": folder}),
    ]
    measured = session.compare(candidates, what="the winner and the others")
    names = [one.name for one in candidates[1:] if one.name in measured]
    show.table(
        ("matmul", "time", "GFLOP/s", "of FMA peak", "spread", "against tuned "),
        [
            (
                name,
                show.seconds(measured[name].median_s),
                show.rate(measured[name].gflops),
                show.share(measured.share_of_peak(name)),
                f"{measured[name].spread:.0%}",
                _against(measured, name),
            )
            for name in names
        ],
        f"FMA peak of {measured.threads} threads in the same rounds: "
        f"{show.rate(measured.peak_gflops)} GFLOP/s. Medians of {measured.rounds} "
        f"paired rounds, every competitor {measured.threads} threads, in a process of its own, "
        "verified.",
    )
    show.line(f"  hand: {_whose_hand(whose)}.", "dim")
    session.report |= {
        "size": size,
        "peaks": {"fma_gflops": measured.peak_gflops},
        "results": measured.as_json(),
    }
    return measured


def _whose_hand(whose: dict[str, str]) -> str:
    yours = [known for known in HAND_STEPS if whose[known] == exercise.LEARNER]
    if not yours:
        return "every step of the ladder is the reference's"
    if len(yours) == len(HAND_STEPS):
        return "every step of the ladder is yours"
    return f"your {', '.join(yours)}; the reference's other steps"


def _against(measured: Comparison, name: str) -> str:
    if name == TUNED or TUNED not in measured:
        return "-"
    return measured.verdict(name, TUNED).short()


def _key_question(session, folder, plan: Plan, done: Done, measured, whose, size: Size) -> None:
    seconds, tried = _price(folder)
    times = [runs and runs[0] for runs in records.runs_of_records(folder)]
    failed = sum(one is None for one in times)
    session.report["search"] = {
        "trials": len(times),
        "failed": failed,
        "seconds": seconds,
        "schedules_in_space": plan.schedules,
        "trials_s": times,
        "model_gains": done.gains,
        "records": str(folder),
    }
    if TUNED not in measured:
        session.headline = "the best record could not be timed"
        return
    with show.waiting("the winning schedule ..."):
        nest = session.call(winning_nest, size, whose, session.seed, folder)
    show.heading("What the search found")
    show.nest(nest, plan.naive)
    session.headline = _headline(measured)
    answer = _why(measured, nest, plan, len(times))
    answer += _learning(done, times, size)
    answer.append(_cost(measured, seconds, tried))
    session.question("Why does search often beat the hand, and what does it cost?", answer)


def _headline(measured: Comparison) -> str:
    tuned = measured[TUNED]
    share = show.share(measured.share_of_peak(TUNED))
    told = f"tuned: {show.rate(tuned.gflops)} GFLOP/s, {share} of FMA peak"
    if HAND in measured:
        verdict = measured.verdict(TUNED, HAND)
        joint = "from" if verdict.word == "cannot tell" else "than"
        told += f", {verdict.short()} {joint} the hand"
    return told


def _why(measured: Comparison, nest: LoopNest, plan: Plan, tried: int) -> list[str]:
    if HAND not in measured:
        return []
    verdict = measured.verdict(TUNED, HAND)
    chosen = _shape(nest)
    answer = [
        (
            f"In this run: {verdict.sentence()}. The hand is one schedule, chosen by a rule (a "
            f"tile that fills the registers). The search tried {tried} in a space of "
            f"{plan.schedules:,} tilings, and its winner has {chosen}."
        )
    ]
    if verdict.word == "faster":
        answer.append(
            "It beats the hand because it needs no reasons: it tries what nobody would write "
            "down, and a measurement contains everything that a rule leaves out, from the caches "
            "to what the compiler makes of the loops."
        )
    elif verdict.word == "slower":
        answer.append(
            "Here the hand won. A search finds only what is in its space, and only as much of "
            "that as its trials allow: more trials (--trials), or an idea of the hand that the "
            "space lacks, would be the next step."
        )
    else:
        answer.append(
            "At this noise they cannot be told apart. The hand took somebody who knows the "
            "registers and caches of this CPU; the search took a space and some time. On another "
            "CPU or size the hand's rule may not hold; the search is simply run again."
        )
    return answer


def _shape(nest: LoopNest) -> str:
    block = nest.computing("C")
    if block is None:
        return "the loops shown above"
    extents: dict[str, list[str]] = {}
    for loop in block.loops:
        extents.setdefault(loop.kind, []).append(str(loop.extent))
    words = {
        "parallel": "a parallel loop of {}",
        "unrolled": "unrolled loops of {}",
        "vectorized": "a vector loop of {}",
    }
    told = [
        text.format(" and ".join(extents[kind])) for kind, text in words.items() if kind in extents
    ]
    copies = [
        name for name, _, _ in nest.buffers if name.startswith("B") and name.endswith("_global")
    ]
    return ", ".join(told) + (", and a copy of B" if copies else ", and no copy of B")


def _learning(done: Done, times: list[float | None], size: Size) -> list[str]:
    """How the batches got better, and what the model looked at."""
    batches = [times[n : n + BATCH] for n in range(0, len(times) - BATCH + 1, BATCH)]
    if len(batches) < 2:
        return []
    medians = [
        sorted(flops(*size) / one / 1e9 if one else 0.0 for one in batch)[len(batch) // 2]
        for batch in (batches[0], batches[-1])
    ]
    told = (
        f"The first {BATCH} schedules were picked at random; the median of them ran at "
        f"{show.rate(medians[0])} GFLOP/s. Of the last {BATCH}, "
        f"picked by the model, it was {show.rate(medians[1])}."
    )
    if done.gains:
        name, gain = max(done.gains.items(), key=lambda item: item[1])
        told += f" Most of what the model's trees go by ({gain:.0%} of their gain) is {name}."
    return [told]


def _cost(measured: Comparison, seconds: float, tried: int) -> str:
    tuned = measured[TUNED].median_s
    if not tried:
        return "What it cost is not on record: the folder's sessions.jsonl is gone."
    told = [f"The price: {seconds:.0f} s for {tried} schedules, {seconds / tried:.2f} s each."]
    for name in (NAIVE, HAND):
        if name in measured and measured.verdict(TUNED, name).word == "faster":
            saved = measured[name].median_s - tuned
            told.append(
                f"Against {name} each call saves {show.seconds(saved)}: the search is paid back "
                f"after {seconds / saved:,.0f} calls."
            )
    told.append(
        "The result holds for this CPU, this size and this thread count; each other one is "
        "searched anew."
    )
    return " ".join(told)


# ---------------------------------------------------------------------------------- run in a worker


def make_task(size: Size, whose: dict[str, str], seed: int, devices: fleet.Devices | None = None):
    """The lesson's search for this size as a TuneContext, from the bodies of 5.1 and 5.2."""
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.target import cpu_target

    lesson = exercise.load_lesson("auto_tune")
    space = lesson.search_space(exercise.body("5.2", whose["5.2"]))
    strategy = ms.search_strategy.EvolutionarySearch(population_size=POPULATION)
    target = devices.machine.target() if devices else cpu_target()
    return exercise.body("5.1", whose["5.1"])(*size, target, space, strategy, seed)


def describe(
    size: Size, whose: dict[str, str], seed: int, devices: fleet.Devices | None = None
) -> Plan:
    task = make_task(size, whose, seed, devices)
    (space, *_) = task.generate_design_space()
    machine = (devices.machine.cpu, devices.machine.threads) if devices else ()
    return Plan(
        key=records.key_of(task, *machine),
        module=pickle.dumps(task.mod),
        choices=tuple(_choices(space)),
        locations=sum(one.kind.name == "SampleComputeLocation" for one in space.trace.insts),
        naive=loop_nest(task.mod),
    )


def _choices(sch) -> list[tuple[str, int]]:
    """What a space samples and how many values each can take. (How many locations there are depends
    on the rest.)"""
    found = []
    decisions = sch.trace.decisions
    for instruction in sch.trace.insts:
        if instruction.kind.name == "SamplePerfectTile":
            extent = math.prod(int(factor) for factor in decisions[instruction])
            parts, innermost = (int(attribute) for attribute in instruction.attrs)
            what = f"{extent} as a product of {parts}"
            found.append((what, _perfect_tiles(extent, parts, innermost)))
        elif instruction.kind.name == "SampleCategorical":
            values = list(instruction.attrs[0])
            found.append((f"one of {', '.join(str(value) for value in values)}", len(values)))
    return found


def _perfect_tiles(extent: int, parts: int, innermost: int) -> int:
    """In how many ways an extent is a product of `parts` factors, the last at most `innermost` (-1:
    any)."""

    def ways(left: int, number: int) -> int:
        if number == 1:
            return 1
        return sum(ways(left // one, number - 1) for one in range(1, left + 1) if left % one == 0)

    last = [
        one
        for one in range(1, extent + 1)
        if extent % one == 0 and (one <= innermost or innermost <= 0)
    ]
    return sum(ways(extent // one, parts - 1) for one in last)


def tune_in_worker(
    connection: Connection,
    size: Size,
    whose: dict[str, str],
    seed: int,
    trials: int,
    folder: Path,
    devices: fleet.Devices | None = None,
) -> None:
    """Search until the folder holds `trials` records; send each Measured, what devices did wrong,
    at the end what the model's trees gained by."""
    import numpy as np

    # MetaSchedule and XGBoost tell at length what they do; that goes beside the records.
    logger = logging.getLogger("tvm.s_tir.meta_schedule")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(folder / "search.log"))
    np.random.seed(seed)  # what the model predicts before it has learned anything
    task = make_task(size, whose, seed, devices)
    database = records.open_database(folder, task.mod)

    def tell(one: Measured | fleet.Event) -> None:
        connection.send(("returned", one))

    arguments = (database, task.mod, task.target, tell)
    batch = BATCH
    if devices is None:
        measure = Measure(*arguments, run_seconds=run_seconds(size))
    else:
        measure = fleet.Fleet(
            *arguments,
            run_seconds=run_seconds(size),
            devices=devices,
            floor_seconds=flops(*size) / devices.machine.most_flops,
            happened=tell,
            remove=lambda places: records.remove(folder, places),
        )
        batch = max(BATCH, 2 * measure.width)  # at the end of a batch, devices wait for each other
    model = exercise.body("5.3", whose["5.3"])(task, database, measure, trials, batch)
    run_finalists_again(folder, task.mod, measure)
    if isinstance(measure, fleet.Fleet):
        measure.withdraw()
    connection.send(("returned", model_gains(model)))


def sample_gpu(
    size: Size, wanted: int, seed: int
) -> tuple[str, list[tuple[str, int]], list[Sample]]:
    """MetaSchedule's space for CUDA: its trace, shortened, its choices, and samples of it."""
    space, generator = search_space.design_space(size)
    samples = search_space.draw_valid(size, wanted, seed, space, generator)
    return search_space.shown_trace(space), _choices(space), samples


def look_in_worker(connection: Connection, size: Size, seed: int) -> None:
    """Answer each sample, or None for the schedule by hand, with what is known of it, or with the
    Wrong that the simulator raises."""
    space, generator = search_space.design_space(size)
    while True:
        sample = connection.recv()
        try:
            if sample is None:
                known = by_hand(size, seed)
            else:
                known = search_space.look_at(sample, space, generator, seed)
        except Wrong as wrong:
            known = wrong
        connection.send(("returned", known))


def by_hand(size: Size, seed: int) -> Known:
    """What is known of the last rung of phase 2's ladder for a GPU, the reference's."""
    lesson = exercise.load_lesson("manual_schedule")
    steps = tuple((known, exercise.REFERENCE) for known in GPU_RUNGS)
    *_, last = GPU_RUNGS
    tile = lesson.fits(lesson.TILE_EACH)
    small = tuple(min(search_space.TILES * one, side) for one, side in zip(tile, size, strict=True))
    schedules = (gpu_schedule(last, one, steps) for one in (size, small))
    return search_space.look(*schedules, size, small, seed)


def run_seconds(size: Size) -> float:
    """How long timing one candidate may take: ten seconds, or where that is more, three calls at 20
    GFLOP/s."""
    return max(RUN_SECONDS, 3 * flops(*size) / 20e9)


def silent_seconds(size: Size) -> float:
    """The longest that the search says nothing: a whole batch, or the finals, to every limit."""
    return 120 + BATCH * BUILD_SECONDS + FINALISTS * FINAL_ROUNDS * run_seconds(size)


def run_finalists_again(folder: Path, module, measure: Measure) -> None:
    """Give the records with the best mean more runs, in paired rounds, and so a better mean."""
    runs = records.runs_of_records(folder)
    working = [place for place, taken in enumerate(runs) if taken]
    finalists = sorted(working, key=lambda place: mean(runs[place]))[:FINALISTS]
    candidates = records.candidates_at(folder, finalists, module)
    more = measure.again(candidates, FINAL_ROUNDS)
    records.add_runs(folder, dict(zip(finalists, more, strict=True)))


# The 164 features of a store, in MetaSchedule's order: what they tell and how many they are.
FEATURES = (
    ("the arithmetic and the kinds of the loops (vectorized, unrolled, parallel)", 57),
    ("which bytes of which buffer each loop touches, and how often again", 90),
    ("arithmetic intensity at each loop", 10),
    ("what is allocated where", 4),
    ("the loops outside", 3),
)


def model_gains(model) -> dict[str, float]:
    """The share of the gain of all splits in the model's trees, by group of features; empty if
    there is no such model."""
    booster = getattr(model, "booster", None)
    if booster is None:
        return {}
    gains = booster.get_score(importance_type="total_gain")
    shares, first = {}, 0
    for name, number in FEATURES:
        shares[name] = sum(gains.get(f"f{n}", 0.0) for n in range(first, first + number))
        first += number
    total = sum(shares.values())
    return {name: gain / total for name, gain in shares.items()} if total else {}


def best(size: Size, whose: dict[str, str], seed: int, folder: Path):
    """The schedule that the body of 5.4 finds in the folder's records."""
    task = make_task(size, whose, seed)
    database = records.open_database(folder, task.mod)
    return exercise.body("5.4", whose["5.4"])(database, task.mod)


def make_tuned(M: int, N: int, K: int, seed: int, whose: dict[str, str], folder: Path) -> Runnable:
    return runnable_matmul(best((M, N, K), whose, seed, folder), M, N, K, seed)


def winning_nest(size: Size, whose: dict[str, str], seed: int, folder: Path) -> LoopNest:
    return loop_nest(best(size, whose, seed, folder).mod)


# -------------------------------------------------------------------------- searches, for the bench

# What the bench measures: whole searches from nothing, several of each length, since luck has its
# part in each; the winners then run against the best schedule written by hand.
SIZES = ((512, 512, 512),)
QUICK_SIZES = ((64, 64, 64),)
SEARCHES = {QUICK_TRIALS: 5, TRIALS: 3}  # so many trials, so many seeds
QUICK_SEARCHES = {16: 2}


def searches(size: Size) -> list[tuple[int, int]]:
    """(trials, seed) of every search that is made at a size."""
    plan = QUICK_SEARCHES if size in QUICK_SIZES else SEARCHES
    return [(trials, seed) for trials, seeds in plan.items() for seed in range(1, seeds + 1)]


def _search_folder(size: Size, trials: int, seed: int) -> Path:
    root = exercise.PACKAGE.parent / "records" / "bench_search"
    return root / f"{'x'.join(map(str, size))}-{trials}-seed{seed}"


def prepare(size: Size, told: Callable[[str], None]) -> list[dict[str, float]]:
    """Make every search of a size, from nothing; what each took. `told` is given its name."""
    found = []
    whose = dict.fromkeys(("5.1", "5.2", "5.3", "5.4"), exercise.REFERENCE)
    for trials, seed in searches(size):
        told(f"{trials} trials, seed {seed}")
        folder = _search_folder(size, trials, seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start, measured = time.monotonic(), []
        with Worker(tune_in_worker, size, whose, seed, trials, folder) as worker:
            while isinstance(one := worker.answer(silent_seconds(size)), Measured):
                measured.append(one)
        found.append(
            {
                "trials": trials,
                "seed": seed,
                "seconds": round(time.monotonic() - start, 2),
                "measured": len(measured),
                "failed": sum(one.failure is not None for one in measured),
            }
        )
    return found


def competitors(size: Size, seed: int) -> list[Candidate]:
    """The winner of every search, the best schedule by hand, and the libraries."""
    common = dict(zip("MNK", size, strict=True), seed=seed)
    whose = dict.fromkeys(("5.1", "5.2", "5.3", "5.4"), exercise.REFERENCE)
    winners = [
        Candidate(
            f"{trials} trials, seed {number}",
            make_tuned,
            {**common, "whose": whose, "folder": _search_folder(size, trials, number)},
        )
        for trials, number in searches(size)
    ]
    return [*winners, Candidate("hand", make_hand, common), *libraries(*size, seed)]


# ------------------------------------------------------------------------------------------ picture


def draw_curve(path: Path, folder: Path, measured: Comparison, size: Size) -> None:
    """Every schedule that was measured, the best so far, and the others as horizontal lines."""
    times = [runs and runs[0] for runs in records.runs_of_records(folder)]
    rates = [flops(*size) / one / 1e9 if one else None for one in times]
    best_so_far, best_rate = [], 0.0
    for rate in rates:
        best_rate = max(best_rate, rate or 0.0)
        best_so_far.append(best_rate)
    trials = range(1, len(rates) + 1)
    figure, axis = picture.blank(8, 4.8)
    working = [(n, rate) for n, rate in zip(trials, rates, strict=True) if rate is not None]
    axis.scatter(*zip(*working, strict=True), s=14, color="tab:blue", alpha=0.6, label="a schedule")
    if failed := [n for n, rate in zip(trials, rates, strict=True) if rate is None]:
        axis.scatter(failed, [0] * len(failed), marker="x", color="tab:red", label="failed")
    axis.step(trials, best_so_far, where="post", color="tab:blue", linewidth=2, label="best so far")
    lines = ((HAND, "tab:green"), ("NumPy", "tab:gray"), ("torch", "tab:brown"), (NAIVE, "black"))
    for name, color in lines:
        if name in measured:
            label = f"{name}: {show.rate(measured[name].gflops)}"
            axis.axhline(
                measured[name].gflops, color=color, linestyle="-", linewidth=1, label=label
            )
    if not math.isnan(measured.peak_gflops):
        label = f"FMA peak: {show.rate(measured.peak_gflops)}"
        axis.axhline(measured.peak_gflops, color="tab:red", linestyle="--", label=label)
    axis.set_xlabel(f"schedules measured (batches of {BATCH}; the first is random)")
    axis.set_ylabel("GFLOP/s")
    axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])
    axis.set_title(
        "Search for a matmul {} x {} x {}, float32, {} threads".format(*size, measured.threads)
    )
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    picture.save(figure, path)


def draw_gpu(path: Path, looked: Looked, samples: Sequence[Sample], size: Size) -> None:
    """Every verified candidate: what it asks of memory, and its occupancy; beside it, how many were
    refused."""
    figure, (axis, bars) = picture.blank(10, 4.6, ncols=2, width_ratios=(3, 1))
    compiled = available() is None
    groups = (
        (
            "no spill, every SM has a block" if compiled else "every SM has a block",
            "tab:green",
            "o",
            lambda one: not one.spilled and one.fills,
        ),
        (
            "some SMs have no block",
            "tab:orange",
            "s",
            lambda one: not one.spilled and not one.fills,
        ),
        ("spills registers", "tab:red", "x", lambda one: one.spilled),
    )

    def height(one: Known) -> float:
        return one.occupancy * 100 if compiled else one.coalescing * 100

    for label, color, marker, belongs in groups:
        if those := [one for one in looked.searched if belongs(one)]:
            axis.scatter(
                [one.read_per_flop for one in those],
                [height(one) for one in those],
                color=color,
                marker=marker,
                label=f"{label}: {len(those)}",
            )
    if looked.hand:
        hand = list(looked.known.values())[looked.hand - 1]
        axis.scatter(
            [hand.read_per_flop], [height(hand)], marker="*", s=160, color="black", label="by hand"
        )
    axis.axvline(
        BALANCE, color="tab:gray", linestyle="--", linewidth=1, label="V100: memory = arithmetic"
    )
    axis.set_xscale("log")
    axis.set_xlabel("bytes read from global memory for each operation (less is better)")
    axis.set_ylabel("occupancy, %" if compiled else "share of the bytes that is used, %")
    axis.set_ylim(0, 105)
    axis.set_title("Candidates for {} x {} x {}: verified, not timed".format(*size))
    axis.legend(fontsize=8)
    count = Counter(reason for one in samples for reason in one.reasons)
    names = ("accepted", "< 32 threads", "> 1024 threads", "> 48 KiB shared")
    values = [sum(one.accepted for one in samples), *(count[limit] for limit in LIMITS)]
    drawn = bars.bar(names, values, color=("tab:green", *["tab:gray"] * 3))
    bars.bar_label(drawn)
    bars.margins(y=0.08)
    bars.tick_params(axis="x", rotation=60)
    bars.set_title(f"{len(samples)} samples")
    picture.save(figure, path)
