"""Answers to phase 3: shared schedules, lost steps, means and minima, ratios upside down,
crossovers that do not hold."""

from statistics import mean, median

from tests.wrong_answers import right, wrong
from tvm_practice.schedule_analysis import Row, gflops

# ---------------------------------------------------------------------------------------------- 3.1


@wrong("3.1", "they are one schedule under 4 names", hint="A step changes the schedule")
def one_schedule_under_many_names(naive, steps):
    variants = {"naive": naive}
    for name, apply in steps.items():
        apply(naive)
        variants[name] = naive
    return variants


@wrong("3.1", "is a NoneType, not a Schedule")
def keeps_what_the_step_returns(naive, steps):
    variants = {"naive": naive.copy()}
    latest = naive
    for name, apply in steps.items():
        latest = latest.copy()
        variants[name] = apply(latest)
    return variants


@wrong("3.1", "changed the schedule it was given")
def changes_the_naive_schedule(naive, steps):
    variants = {"naive": naive.copy()}
    for name, apply in steps.items():
        apply(naive)
        variants[name] = naive.copy()
    return variants


@wrong(
    "3.1",
    "Each variant is the one before it with one step more",
    hint="Follow one schedule through",
)
def copies_before_the_step(naive, steps):
    variants = {"naive": naive.copy()}
    latest = naive.copy()
    for name, apply in steps.items():
        variants[name] = latest.copy()
        apply(latest)
    return variants


@wrong("3.1", "it builds on the variant before it")
def every_step_from_the_start(naive, steps):
    variants = {"naive": naive.copy()}
    for name, apply in steps.items():
        fresh = naive.copy()
        apply(fresh)
        variants[name] = fresh
    return variants


@wrong(
    "3.1", "returned the names ['tile', 'vectorize', 'parallel']", hint="Which variant has no step"
)
def forgets_the_naive_one(naive, steps):
    variants, latest = {}, naive
    for name, apply in steps.items():
        latest = latest.copy()
        apply(latest)
        variants[name] = latest
    return variants


@wrong("3.1", "'tile' and 'vectorize' are one and the same schedule")
def copies_only_once(naive, steps):
    variants = {"naive": naive}
    working = naive.copy()
    for name, apply in steps.items():
        apply(working)
        variants[name] = working
    return variants


@right("3.1")
def from_the_start_every_time(naive, steps):
    variants = {"naive": naive.copy()}
    names = list(steps)
    for count, name in enumerate(names, 1):
        sch = naive.copy()
        for earlier in names[:count]:
            steps[earlier](sch)
        variants[name] = sch
    return variants


@right("3.1")
def one_working_copy(naive, steps):
    working = naive.copy()
    variants = {"naive": working.copy()}
    for name in steps:
        steps[name](working)
        variants[name] = working.copy()
    return variants


# ---------------------------------------------------------------------------------------------- 3.2


def _rows(samples, flops, peak, typical=median, **changes):
    first = typical(next(iter(samples.values())))
    rows = []
    for name, seconds in samples.items():
        time = typical(seconds)
        rate = flops / time / 1e9
        fields = {
            "name": name,
            "milliseconds": time * 1e3,
            "gflops": rate,
            "speedup": first / time,
            "share": rate / peak,
        }
        fields |= {column: change(fields) for column, change in changes.items()}
        rows.append(Row(**fields))
    return rows


@wrong("3.2", "That is the mean", hint="One slow round out of many")
def means(samples, flops, peak_gflops):
    return _rows(samples, flops, peak_gflops, mean)


@wrong("3.2", "That is the fastest round")
def minima(samples, flops, peak_gflops):
    return _rows(samples, flops, peak_gflops, min)


@wrong("3.2", "That is seconds; the column is in milliseconds", hint="Write the unit beside each")
def seconds_as_milliseconds(samples, flops, peak_gflops):
    return _rows(samples, flops, peak_gflops, milliseconds=lambda f: f["milliseconds"] / 1e3)


@wrong("3.2", "That is FLOP/s; a GFLOP/s is 10^9 of them")
def plain_flops(samples, flops, peak_gflops):
    return _rows(samples, flops, peak_gflops, gflops=lambda f: f["gflops"] * 1e9)


@wrong("3.2", "twice as fast is a speed-up of 2, not of 0.5", hint="What should the figure be")
def speedup_upside_down(samples, flops, peak_gflops):
    return _rows(samples, flops, peak_gflops, speedup=lambda f: 1 / f["speedup"])


@wrong("3.2", "That is in percent")
def share_in_percent(samples, flops, peak_gflops):
    return _rows(samples, flops, peak_gflops, share=lambda f: 100 * f["share"])


@wrong("3.2", "the share is the rate over the peak")
def share_upside_down(samples, flops, peak_gflops):
    return _rows(samples, flops, peak_gflops, share=lambda f: 1 / f["share"])


@wrong("3.2", "in this order", hint="A dict remembers the order")
def sorted_by_speed(samples, flops, peak_gflops):
    return sorted(_rows(samples, flops, peak_gflops), key=lambda row: row.name)


@wrong("3.2", "returned dict; expected a list of Row")
def a_dictionary(samples, flops, peak_gflops):
    return {row.name: row for row in _rows(samples, flops, peak_gflops)}


@right("3.2")
def in_one_expression(samples, flops, peak_gflops):
    times = {name: median(seconds) for name, seconds in samples.items()}
    first, *_ = times.values()
    return [
        Row(
            name,
            1000 * time,
            flops / 1e9 / time,
            speedup=first / time,
            share=flops / time / (peak_gflops * 1e9),
        )
        for name, time in times.items()
    ]


@right("3.2")
def with_numpy_medians(samples, flops, peak_gflops):
    import numpy as np

    first = None
    rows = []
    for name in samples:
        time = float(np.median(samples[name]))
        first = first or time
        rate = gflops(samples[name], flops)
        rows.append(Row(name, time * 1e3, rate, first / time, rate / peak_gflops))
    return tuple(rows)


# ---------------------------------------------------------------------------------------------- 3.3


@wrong(
    "3.3",
    "That is the first size at which parallel wins, but it loses again later",
    hint="Play it through with win",
)
def first_win(sizes, serial, parallel):
    for size, one, many in zip(sizes, serial, parallel, strict=True):
        if median(many) < median(one):
            return size
    return None


@wrong("3.3", "That is the last size at which parallel does not win")
def last_loss(sizes, serial, parallel):
    found = None
    for size, one, many in zip(sizes, serial, parallel, strict=True):
        if median(many) >= median(one):
            found = size
    return found


@wrong("3.3", "compare medians, which do not mind", hint="One slow round must not decide")
def by_means(sizes, serial, parallel):
    found = None
    for size, one, many in zip(sizes, serial, parallel, strict=True):
        if mean(many) >= mean(one):
            found = None
        elif found is None:
            found = size
    return found


@wrong("3.3", "Equally long is not faster", hint="What do you answer where")
def equal_counts_as_faster(sizes, serial, parallel):
    found = None
    for size, one, many in zip(sizes, serial, parallel, strict=True):
        if median(many) > median(one):
            found = None
        elif found is None:
            found = size
    return found


@wrong("3.3", "expected one of the sizes, or None", hint="Who calls this wants to know")
def returns_the_index(sizes, serial, parallel):
    found = None
    for n, (one, many) in enumerate(zip(serial, parallel, strict=True)):
        if median(many) >= median(one):
            found = None
        elif found is None:
            found = n
    return found


@wrong("3.3", "TypeError")
def compares_whole_lists_with_a_number(sizes, serial, parallel):
    return next(
        size for size, one, many in zip(sizes, serial, parallel, strict=True) if many < 0.9 * one
    )


@right("3.3")
def from_the_largest_down(sizes, serial, parallel):
    found = None
    for size, one, many in reversed(list(zip(sizes, serial, parallel, strict=True))):
        if median(many) >= median(one):
            break
        found = size
    return found


@right("3.3")
def with_all_over_the_rest(sizes, serial, parallel):
    wins = [median(many) < median(one) for one, many in zip(serial, parallel, strict=True)]
    return next((size for n, size in enumerate(sizes) if all(wins[n:])), None)
