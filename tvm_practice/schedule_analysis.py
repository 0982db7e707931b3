"""Phase 3: measuring schedules, or how to know that one is faster.

    python -m tvm_practice.schedule_analysis             run this lesson
    python -m tvm_practice.schedule_analysis --hint 3.1  a nudge, when you are stuck

A right schedule may still be slow, and nobody can tell by looking: you measure.
Measuring is easy to do badly. One run tells what the machine was busy with. The mean of ten is
moved by the one run in which a mail arrived. Two libraries in one process fight for the cores with
their threads. And a loop that is timed right after another may find its data in the cache.

So the measurements of this course are made like this (common/timing.py):

  - every competitor runs in a process of its own, with the same number of threads;
  - they run in rounds, A B C A B C: whatever slows the machine for a second slows all of them;
  - a sample is as many calls as last some hundredths of a second, after a few that do not count;
  - what is reported is the median over the rounds; what is compared are the ratios within each;
  - "faster" is said only if the ratios say so with 95% confidence. Else: cannot tell.

Your part is what comes before and after: to build what is compared, and to turn seconds into
statements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tvm.s_tir import Schedule

from tvm_practice.common.exercise import exercise

# ------------------------------------------------------------------------ worked: a fair comparison
#
# Seconds of one competitor, one number for each round, and what can be said about them:

ROUNDS = [2.41e-3, 2.38e-3, 2.40e-3, 9.87e-3, 2.39e-3]  # in the fourth round something else ran


def gflops(seconds: Sequence[float], flops: float) -> float:
    """The rate in GFLOP/s (10^9 floating-point operations per second) at the median of `seconds`.

    A matmul of M x N x K does 2 M N K operations: a multiplication and an addition for each i, j,
    k.
    """
    return flops / median(seconds) / 1e9


# For a 256 x 256 x 256 product, gflops(ROUNDS, 2 * 256**3) is 14.0. With the mean it would be 8.6,
# a number that this program never ran at.

# --------------------------------------------------------------------------------- 3.1 the variants
#
# Phase 2 changed one schedule, step by step. To compare the steps, all stages must exist side by
# side. A Schedule changes in place, so each variant needs a copy: `sch.copy()`. The variants of the
# ladder are cumulative: each one is a copy of the one before with one step more.


@exercise("3.1", "Build the variants")
def build_variants(
    naive: Schedule, steps: Mapping[str, Callable[[Schedule], None]]
) -> dict[str, Schedule]:
    """All variants by name: "naive", and for each step, in order, the variant before it with that
    step applied.

    naive: the schedule to start from; it must not be changed.
    steps: name of the step -> function that applies it to a schedule in place, such as {"tile":
    ..., "parallel": ...}. Returns {"naive": ..., "tile": ..., "parallel": ...}: independent
    schedules, in this order.
    """
    # TODO(3.1): about 5 lines.
    raise NotImplementedError("3.1 build_variants")


# ------------------------------------------------------------------------------------ 3.2 the table
#
# Four columns say most about a variant. Milliseconds, because that is what somebody waits for.
# GFLOP/s, because it can be compared between sizes. Speed-up over the first row, because that is
# what the schedule was worth. And the share of the machine's peak, because that is what is left to
# be gained: at 90% you are done, at 2% you have not begun.


@dataclass(frozen=True)
class Row:
    """One line of a comparison. share is a fraction of the peak: 0.5 for half of it."""

    name: str
    milliseconds: float
    gflops: float
    speedup: float
    share: float


@exercise("3.2", "From measurements to a comparison table")
def comparison_table(
    samples: Mapping[str, Sequence[float]], flops: float, peak_gflops: float
) -> list[Row]:
    """A Row for each competitor, in the order given, from medians.

    samples: name -> seconds per call, one number for each round. flops: operations of one call.
    peak_gflops: the machine's measured peak. The speed-up of a row is over the first one, as a
    ratio of medians; the first row's is 1.
    """
    # TODO(3.2): about 8 lines. gflops() above does a part of it.
    raise NotImplementedError("3.2 comparison_table")


# -------------------------------------------------------------------------------- 3.3 the crossover
#
# Threads are not free. Waking them and waiting for the last costs some microseconds, always. A
# small product is finished by one thread before the second is awake. From some size on, sharing
# pays, and it keeps paying: that size is the crossover. In measurements a single size may go
# against the trend, by noise or because its tiles divide badly; the crossover is where the parallel
# variant is faster from there on.


@exercise("3.3", "Find the crossover")
def crossover(
    sizes: Sequence[int],
    serial: Sequence[Sequence[float]],
    parallel: Sequence[Sequence[float]],
) -> int | None:
    """The smallest size from which on the parallel variant is faster, in the median, at every size
    measured; None if there is none.

    sizes: ascending. serial[n], parallel[n]: seconds per call at sizes[n], one number for each
    round.
    """
    # TODO(3.3): about 6 lines.
    raise NotImplementedError("3.3 crossover")


# When you run this file, it times the ladder against NumPy and torch, with your table, and looks
# for the crossover, with your function. Guess first: from what size on do two threads beat one at a
# matrix product? And what would move that point?
