"""Reference answers to phase 3."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from tvm.s_tir import Schedule

from tvm_practice.schedule_analysis import Row, gflops


def build_variants(
    naive: Schedule, steps: Mapping[str, Callable[[Schedule], None]]
) -> dict[str, Schedule]:
    variants = {"naive": naive.copy()}
    latest = naive
    for name, apply in steps.items():
        latest = latest.copy()
        apply(latest)
        variants[name] = latest
    return variants


def comparison_table(
    samples: Mapping[str, Sequence[float]], flops: float, peak_gflops: float
) -> list[Row]:
    first = median(next(iter(samples.values())))
    rows = []
    for name, seconds in samples.items():
        rate = gflops(seconds, flops)
        typical = median(seconds)
        rows.append(Row(name, typical * 1e3, rate, first / typical, rate / peak_gflops))
    return rows


def crossover(
    sizes: Sequence[int],
    serial: Sequence[Sequence[float]],
    parallel: Sequence[Sequence[float]],
) -> int | None:
    found = None
    for size, one, many in zip(sizes, serial, parallel, strict=True):
        if median(many) >= median(one):
            found = None
        elif found is None:
            found = size
    return found
