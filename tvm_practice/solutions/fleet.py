"""Reference answers to the lab on a fleet of machines that measure."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm.rpc.client import TrackerSession

from tvm_practice.labs.fleet import (
    FAILED,
    SAMPLE_MS,
    SESSION_SECONDS,
    Attempt,
    Costs,
    Record,
    possible,
)


def time_remotely(
    tracker: TrackerSession, key: str, program: Path, arrays: Sequence[np.ndarray], samples: int
) -> list[float]:
    session = tracker.request(key, session_timeout=SESSION_SECONDS)
    session.upload(str(program))
    module = session.load_module(program.name)
    device = session.cpu()
    tensors = [tvm.runtime.tensor(array, device) for array in arrays]
    timer = module.time_evaluator("main", device, number=1, repeat=samples, min_repeat_ms=SAMPLE_MS)
    return list(timer(*tensors).results)


def judge(attempts: Sequence[Attempt], floor: float) -> tuple[dict[str, str], set[str]]:
    verdicts = {attempt.candidate: "again" for attempt in attempts}
    failed_on: dict[str, set[str]] = {}
    left_out = set()
    for attempt in attempts:
        if not attempt.built:
            verdicts[attempt.candidate] = "failed"
        elif attempt.seconds is None:
            failed_on.setdefault(attempt.candidate, set()).add(attempt.device)
        elif possible(attempt.seconds, floor):
            verdicts[attempt.candidate] = "done"
        else:
            left_out.add(attempt.device)
    for candidate, devices in failed_on.items():
        if verdicts[candidate] == "again" and len(devices) > 1:
            verdicts[candidate] = "failed"
    return verdicts, left_out


def merge(a: Sequence[Record], b: Sequence[Record]) -> list[Record]:
    runs: dict[tuple[str, str, str], Counter[float]] = {}
    for record in [*a, *b]:
        identity = (record.program, record.trace, record.machine)
        runs[identity] = runs.get(identity, Counter()) | Counter(record.runs)
    merged = []
    for identity, counts in runs.items():
        if any(run != FAILED for run in counts):
            del counts[FAILED]
        merged.append(Record(*identity, tuple(counts.elements())))
    return merged


def candidates_per_minute(devices: int, builders: int, batch: int, costs: Costs) -> float:
    stages = (
        math.ceil(batch / builders) * costs.build,
        batch * costs.request,
        math.ceil(batch / devices) * costs.measure,
    )
    return 60 * batch / (costs.search + max(stages))
