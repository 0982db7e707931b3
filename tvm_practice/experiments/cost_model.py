"""What the lab `cost_model` shows: how well the model ranks what it never saw, what it goes by, and
how four searches spend the same number of measurements."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_practice.common import exercise, show
from tvm_practice.labs import data

TRIALS = 128
GOALS = (0.9, 0.95, 0.98, 0.99)
# The goal that the key question is answered for: few candidates of the space reach it.
GOAL = 0.99
SEEDS, QUICK_SEEDS, RANDOM_SEEDS = 40, 12, 400
SEEDS_PER_CALL = 10
TRAINING_SIZES = (16, 32, 64, 128, 256, 512)
SPLITS, QUICK_SPLITS, HELD_OUT = 6, 3, 1000
RANDOM, ANNEALING, EVOLUTION, METASCHEDULE = "random", "annealing", "evolution", "MetaSchedule"
AS_IT_COMES = "MetaSchedule, default"
ASK_ALL = "model, asked all"
ON_KNOBS = "evolution, knobs"
NEARLY_NOTHING = 0.001  # where the picture of the searches ends
COLORS = {
    RANDOM: "black",
    ANNEALING: "tab:orange",
    EVOLUTION: "tab:blue",
    METASCHEDULE: "tab:green",
    AS_IT_COMES: "tab:olive",
}
EXERCISES = ("cost_model.1", "cost_model.2", "cost_model.3", "cost_model.4")


def run(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    path, table = _data_set(session)
    _introduce(table)
    learned = _what_it_learned(session, path, whose)
    runs = _searches(session, path, table, learned.feature_seconds, whose)
    session.picture("searches", lambda path: draw_searches(path, runs, table))
    session.picture("model", lambda path: draw_model(path, learned))
    _key_question(session, table, learned, runs)


# ------------------------------------------------------------------------------------- the data set


def _data_set(session) -> tuple[Path, data.Measurements]:
    """This machine's measurements if there are any and they are whole, else those of the course."""
    own = session.records / data.SHIPPED.name
    if own.exists():
        table = data.load(own)
        if table.complete:
            return own, table
        show.line(f"  {own} is not whole: `{data.COMMAND}` goes on with it.", "yellow")
    return data.SHIPPED, data.load(data.SHIPPED)


def _introduce(table: data.Measurements) -> None:
    speed = table.speed
    show.heading(f"The data set: {table.about['task']}")
    machine = table.about["machine"]
    show.say(
        f"All {len(table):,} candidates of the space, measured on {table.about['measured']} "
        f"({machine['cpu']}, {machine['llvm_cpu']}, {machine['threads']} threads, TVM "
        f"{machine['tvm']}). What is compared below is how many measurements a search needs; the "
        "measurements themselves are looked up here."
    )
    quantiles = [f"{show.rate(np.quantile(speed, q))}" for q in (0, 0.25, 0.5, 0.75, 1)]
    show.table(("GFLOP/s: slowest", "a quarter", "half", "three quarters", "best"), [quantiles])
    shares = [f"{show.share(float((speed >= goal * speed.max()).mean()))}" for goal in GOALS]
    show.table(
        ("", *(f"{goal:.0%} of the best" for goal in GOALS)),
        [("candidates that reach", *shares)],
        f"Each time is the median of {table.passes.shape[1]} passes over all candidates; half of "
        f"the candidates spread by less than {np.median(table.spread):.1%}, and of the "
        f"fastest hundred by less than {np.median(table.spread[np.argsort(-speed)[:100]]):.1%}. "
        f"A candidate took {table.about['seconds_per_candidate']:.2f} s to build and time.",
    )


# ---------------------------------------------------------------------------------- what it learned


@dataclass(frozen=True)
class Learned:
    """How well models of several kinds rank held-out candidates, and by what.

    correlations: kind -> (training sizes, splits, 2), over all candidates and among the fastest
    fifth. picked: (training sizes, splits), the median speed of the 16 that the ranker likes best,
    relative to the fastest. seconds: (training sizes, splits), how long training the ranker took.
    gains: feature -> share of the gain. feature_seconds: what the features of one candidate take.
    """

    correlations: dict[str, np.ndarray]
    picked: np.ndarray
    seconds: np.ndarray
    gains: dict[str, float]
    feature_seconds: float


RANKER, TIME, KNOBS_ONLY = "ranker", "time", "knobs"


def _what_it_learned(session, path: Path, whose: dict[str, str]) -> Learned:
    splits = QUICK_SPLITS if session.quick else SPLITS
    with show.waiting("training on some candidates, ranking others ..."):
        learned = session.call(learn, path, whose, session.seed, splits)
    show.heading("Rank correlation on candidates that the model never saw")
    medians = {kind: np.median(values, axis=1) for kind, values in learned.correlations.items()}
    rows = [
        (
            str(size),
            *(f"{medians[kind][n, part]:.2f}" for part in (0, 1) for kind in medians),
            f"{np.median(learned.picked[n]):.0%}",
        )
        for n, size in enumerate(TRAINING_SIZES)
    ]
    columns = [f"{kind}, {part}" for part in ("all", "top") for kind in medians]
    show.table(
        ("trained on", *columns, "its 16 best"),
        rows,
        f"1 is the right order, 0 is chance. Medians of {splits} random choices of what to train "
        f"on; {HELD_OUT} others are ranked (all), and the fastest fifth of those (top). "
        f'"{RANKER}" is train_ranker, "{TIME}" train_on_time, "{KNOBS_ONLY}" a ranker that sees '
        "the five knobs instead of the features. Last column: the median speed of the 16 that the "
        "ranker puts first, relative to the best of all.",
    )
    (ranker_all, ranker_top), (time_all, time_top) = (medians[one][-1] for one in (RANKER, TIME))
    if time_all > ranker_all and ranker_top > time_top:
        show.say(
            f"With {TRAINING_SIZES[-1]} candidates the model of the time orders the whole space "
            f"better ({time_all:.2f} against {ranker_all:.2f}), the ranker the fastest fifth "
            f"({ranker_top:.2f} against {time_top:.2f}): it spends its trees on the top, and a "
            "search needs no more."
        )
    _show_features(learned)
    session.report["model"] = {
        "training_sizes": TRAINING_SIZES,
        "rank_correlation": {
            kind: {"all": value[..., 0].tolist(), "fastest_fifth": value[..., 1].tolist()}
            for kind, value in learned.correlations.items()
        },
        "speed_of_its_16_best": learned.picked.tolist(),
        "training_seconds": learned.seconds.tolist(),
        "gains": learned.gains,
        "feature_seconds": learned.feature_seconds,
    }
    return learned


def _show_features(learned: Learned) -> None:
    show.heading("What the model goes by")
    best = sorted(learned.gains.items(), key=lambda one: -one[1])[:8]
    show.table(
        ("feature", "share of the trees' gain"),
        [(name, show.share(gain)) for name, gain in best],
        f"Rankers trained on {TRAINING_SIZES[-1]} candidates. Features that tell the same share "
        "their gain by chance. Buffers are in the order of the cache lines they touch, most first.",
    )


# ------------------------------------------------------------------------------------- the searches


@dataclass(frozen=True)
class Runs:
    """Many runs of one search.

    curves: (runs, trials), the best speed so far relative to the best of all. overhead: seconds
    that a run costs besides measuring: searching, training, and the features of every candidate
    that the model is asked about. asked: how many those are, None where it is not known.
    """

    curves: np.ndarray
    overhead: float = 0.0
    asked: int | None = 0

    @property
    def a_trial(self) -> float:
        """Seconds that a trial costs besides measuring."""
        return self.overhead / self.curves.shape[1]

    def trials_to(self, goal: float) -> np.ndarray:
        """The number of trials after which each run has reached a goal; infinity if it has not."""
        reached = self.curves >= goal
        return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def _searches(session, path, table, feature_seconds: float, whose) -> dict[str, Runs]:
    trials = min(session.options.trials or TRIALS, len(table) // 2)
    seeds = [session.seed + n for n in range(QUICK_SEEDS if session.quick else SEEDS)]
    parts = [seeds[n : n + SEEDS_PER_CALL] for n in range(0, len(seeds), SEEDS_PER_CALL)]
    rng = np.random.default_rng(session.seed)
    runs = {
        RANDOM: _runs(table, [rng.permutation(len(table)) for _ in range(RANDOM_SEEDS)], trials)
    }
    guided = (ANNEALING, EVOLUTION, ASK_ALL, ON_KNOBS)
    with show.progress("searching", len(guided) * len(parts)) as bar:
        for name in guided:
            done = []
            for part in parts:
                done += session.call(search, path, name, part, trials, whose)
                show.advance(bar, name)
            seconds, asked = np.median([one[1:] for one in done], axis=0)
            overhead = float(seconds + asked * feature_seconds)
            runs[name] = _runs(table, [one[0] for one in done], trials, overhead, int(asked))
    for name, recorded in ((METASCHEDULE, "metaschedule"), (AS_IT_COMES, "metaschedule_default")):
        if recorded in table.recorded:
            seconds = table.about["recorded"][recorded]["seconds_per_run"]
            seconds *= min(1, trials / table.recorded[recorded].shape[1])
            runs[name] = _runs(table, table.recorded[recorded], trials, seconds, None)
    _show_searches(runs, trials, feature_seconds)
    session.report["searches"] = {
        name: {
            "runs": len(one.curves),
            "overhead_seconds": one.overhead,
            "asked_about": one.asked,
            "median_trials": {str(goal): _finite(_median(one.trials_to(goal))) for goal in GOALS},
            "best_so_far_quartiles": np.quantile(one.curves, (0.25, 0.5, 0.75), axis=0).tolist(),
        }
        for name, one in runs.items()
    }
    return runs


def _runs(table, orders, trials: int, overhead: float = 0.0, asked: int | None = 0) -> Runs:
    speeds = table.speed[np.array([list(order)[:trials] for order in orders])]
    return Runs(np.maximum.accumulate(speeds, axis=1) / table.speed.max(), overhead, asked)


def _median(values: np.ndarray) -> float:
    """The middle value, the upper one of two: infinity minus infinity is no number."""
    return float(np.sort(values)[len(values) // 2])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _trials(values: np.ndarray, most: int) -> str:
    middle = _median(values)
    return f"{middle:.0f}" if math.isfinite(middle) else f"> {most}"


def _show_searches(runs: dict[str, Runs], trials: int, feature_seconds: float) -> None:
    show.heading("Trials until a share of the best speed is reached")
    rows = [
        (
            name,
            str(len(one.curves)),
            *(_trials(one.trials_to(goal), one.curves.shape[1]) for goal in GOALS),
            fewer_or_more(one.trials_to(GOAL), runs[RANDOM].trials_to(GOAL))
            if name != RANDOM
            else "-",
            f"{np.median(one.curves[:, -1]):.1%}",
            "-" if one.asked is None else f"{one.asked:,}",
            show.seconds(one.a_trial) if one.a_trial else "-",
        )
        for name, one in runs.items()
    ]
    last = f"after {trials}"
    show.table(
        (
            "search",
            "runs",
            *(f"{goal:.0%}" for goal in GOALS),
            f"to {GOAL:.0%} ",
            last,
            "asked about",
            "a trial costs",
        ),
        rows,
        "Medians over the runs, which differ in their seed. The word tells whether the runs take "
        f"fewer trials to {GOAL:.0%} than those of random search (rank-sum test, 95% confidence). "
        "Asked about: of how many candidates the model was asked what it thinks. What a trial "
        "costs besides measuring: searching, "
        f"training, and {show.seconds(feature_seconds)} for the features of each of those "
        "(measured in this run; this lab has them in its file, a search has not).",
    )
    show.say(
        f"The first three ran just now, and so did two that are there to explain them: "
        f'"{ASK_ALL}" is no search (in so small a space the model can be asked about every '
        "candidate), and shows what is the model's fault and what the search's; "
        f'"{ON_KNOBS}" has a model that sees the five knobs instead of the features. '
        f"{METASCHEDULE} is recorded: real runs of TVM's tuner on the same table of times, with a "
        f'model that predicts from the first batch on, as in phase 5. "{AS_IT_COMES}" predicts at '
        "random for its first 100 results."
    )


def fewer_or_more(a: np.ndarray, b: np.ndarray) -> str:
    """ "fewer" if the values of a are mostly below those of b, "more" if above, by the rank-sum
    test (Mann and Whitney's) at 95%."""
    below = (a[:, None] < b[None, :]).sum() + 0.5 * (a[:, None] == b[None, :]).sum()
    middle = len(a) * len(b) / 2
    deviation = math.sqrt(len(a) * len(b) * (len(a) + len(b) + 1) / 12)
    if abs(below - middle) < 1.96 * deviation:
        return "cannot tell"
    return "fewer" if below > middle else "more"


# --------------------------------------------------------------------------------- the key question


def _key_question(session, table: data.Measurements, learned: Learned, runs) -> None:
    session.question(
        "What does the model know that random search does not, and when is it worth its training "
        "time?",
        [_what_it_knows(table, learned), _what_it_saves(table, runs), _when(table, runs)],
    )
    own = {name: runs[name] for name in (ANNEALING, EVOLUTION)}
    name = min(own, key=lambda one: _median(own[one].trials_to(GOAL)))
    session.headline = (
        f"{GOAL:.0%} of the best: {name} {_trials(own[name].trials_to(GOAL), TRIALS)} trials, "
        f"random {_trials(runs[RANDOM].trials_to(GOAL), TRIALS)}"
    )


def _what_it_knows(table: data.Measurements, learned: Learned) -> str:
    n = TRAINING_SIZES.index(64)
    everywhere, top = np.median(learned.correlations[RANKER][n], axis=0)
    typical = float(np.median(table.speed) / table.speed.max())
    name, gain = max(learned.gains.items(), key=lambda one: one[1])
    return (
        f"It knows that schedules with like features run alike. With {TRAINING_SIZES[n]} "
        f"measurements, its rank correlation on candidates that it never saw is {everywhere:.2f}, "
        f"but {top:.2f} among the fastest fifth: it tells good from bad long before it tells best "
        f"from good. That is enough to stop measuring bad ones. A candidate drawn at random runs "
        f"at {typical:.0%} of the best speed (median); of the 16 that the model puts first, the "
        f"median runs at {np.median(learned.picked[n]):.0%}. What it goes by most is "
        f'"{name}" ({gain:.0%} of the gain).'
    )


def _what_it_saves(table: data.Measurements, runs: dict[str, Runs]) -> str:
    told = []
    for goal in GOALS:
        share = float((table.speed >= goal * table.speed.max()).mean())
        random = runs[RANDOM].trials_to(goal)
        verdicts = [
            f"{name} {_trials(runs[name].trials_to(goal), runs[name].curves.shape[1])} "
            f"({fewer_or_more(runs[name].trials_to(goal), random)})"
            for name in (ANNEALING, EVOLUTION, METASCHEDULE)
            if name in runs
        ]
        told.append(
            f"- {goal:.0%} of the best, which {share:.1%} of the candidates reach: random "
            f"{_trials(random, runs[RANDOM].curves.shape[1])} trials; " + ", ".join(verdicts)
        )
    return "\n".join(told)


def _when(table: data.Measurements, runs: dict[str, Runs]) -> str:
    price = table.about["seconds_per_candidate"]
    random = _median(runs[RANDOM].trials_to(GOAL))
    if not math.isfinite(random):
        return f"Random search did not reach {GOAL:.0%} in most runs, so there is no price of it."
    told = [
        f"A measurement cost {price:.2f} s when this data set was made (build and time), so to "
        f"{GOAL:.0%} random search takes {random * price:.1f} s."
    ]
    worth = []
    for name in (ANNEALING, EVOLUTION, METASCHEDULE):
        if name not in runs:
            continue
        one = runs[name]
        needed = _median(one.trials_to(GOAL))
        if fewer_or_more(one.trials_to(GOAL), runs[RANDOM].trials_to(GOAL)) != "fewer":
            told.append(
                f"{name[0].upper()}{name[1:]} spends {show.seconds(one.a_trial)} more on each "
                "trial, and cannot be shown to need fewer."
            )
            continue
        told.append(
            f"{name[0].upper()}{name[1:]} spends {show.seconds(one.a_trial)} more on each trial "
            f"and takes {needed * (price + one.a_trial):.1f} s; it pays where a measurement costs "
            f"more than {show.seconds(needed * one.a_trial / (random - needed))}."
        )
        worth.append(needed * (price + one.a_trial) < random * price)
    told.append(
        "So a model is worth its time where good schedules are rare and a measurement is dear: a "
        "large operator, a model with a hundred of them, a phone at the other end of a cable. "
        + (
            "Here, it is. "
            if all(worth) and worth
            else "Here, it is a close thing. "
            if any(worth)
            else "Here, it is not. "
        )
        + "Where one candidate in twenty is good enough, throw dice."
    )
    on_knobs, on_features = (runs[name].trials_to(GOAL) for name in (ON_KNOBS, EVOLUTION))
    if fewer_or_more(on_knobs, on_features) != "more":
        told.append(
            "And here the five knobs would have done as well as the features, for nothing: they "
            "are exactly what this space varies. But they mean nothing in another space, and where "
            "rules write the schedules there are none; the features are the same 164 everywhere."
        )
    return " ".join(told)


# -------------------------------------------------------------------------------------- in a worker


@functools.cache
def _loaded(path: Path, whose_pool: str):
    """The lab, the measurements, and the pooled features of all candidates."""
    lab = exercise.load_lesson("cost_model")
    table = data.load(path)
    return lab, table, exercise.body("cost_model.1", whose_pool)(table.features)


def learn(path: Path, whose: dict[str, str], seed: int, splits: int) -> Learned:
    """Train each kind of model on random candidates of several numbers, and rank others by it."""
    lab, table, features = _loaded(path, whose["cost_model.1"])
    ranker = exercise.body("cost_model.2", whose["cost_model.2"])
    kinds = {
        RANKER: (ranker, features),
        TIME: (lab.train_on_time, features),
        KNOBS_ONLY: (ranker, table.decisions.astype("float32")),
    }
    shape = (len(TRAINING_SIZES), splits)
    correlations = {kind: np.zeros((*shape, 2)) for kind in kinds}
    picked, took = np.zeros(shape), np.zeros(shape)
    gains = np.zeros(features.shape[1])
    for split in range(splits):
        shuffled = np.random.default_rng(seed + split).permutation(len(table))
        hidden = shuffled[-HELD_OUT:]
        fastest = np.argsort(table.seconds[hidden])[: HELD_OUT // 5]
        for n, size in enumerate(TRAINING_SIZES):
            shown = shuffled[:size]
            for kind, (train, rows) in kinds.items():
                start = time.perf_counter()
                model = train(rows[shown], table.seconds[shown], seed)
                elapsed = time.perf_counter() - start
                scores = model.inplace_predict(rows[hidden])
                speed = table.speed[hidden]
                correlations[kind][n, split] = (
                    rank_correlation(scores, speed),
                    rank_correlation(scores[fastest], speed[fastest]),
                )
                if kind == RANKER:
                    took[n, split] = elapsed
                    best = speed[np.argsort(-scores)[:16]]
                    picked[n, split] = np.median(best) / table.speed.max()
                    if size == TRAINING_SIZES[-1]:
                        gains += _gains(model, len(gains))
    named = _named(gains / splits)
    return Learned(correlations, picked, took, named, _seconds_of_features(lab, table))


def _seconds_of_features(lab, table: data.Measurements, number: int = 24) -> float:
    """What it takes to write one schedule and read its features off."""
    from tvm.s_tir import Schedule

    from tvm_practice.common.target import cpu_target

    module, took = lab.matmul(lab.SIDE), []
    for candidate in table.decisions[:: len(table) // number]:
        start = time.perf_counter()
        sch = Schedule(module["main"])
        knobs = zip(candidate, lab.KNOBS.values(), strict=True)
        lab.write_schedule(sch, *(choices[place] for place, choices in knobs))
        lab.store_features(sch, cpu_target())
        took.append(time.perf_counter() - start)
    return float(np.median(took))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: the correlation of the ranks; 0 where one of them is the same for all."""
    ranks = [np.argsort(np.argsort(one, kind="stable"), kind="stable") for one in (a, b)]
    return 0.0 if np.ptp(a) == 0 else float(np.corrcoef(*ranks)[0, 1])


def _gains(model, number: int) -> np.ndarray:
    gains = model.get_score(importance_type="total_gain")
    return np.array([gains.get(f"f{n}", 0.0) for n in range(number)])


def _named(gains: np.ndarray) -> dict[str, float]:
    """Shares of the gain by the features' names, the two halves of `pool` added up."""
    names = feature_names()
    both = gains.reshape(2, len(names)).sum(axis=0) / max(gains.sum(), 1e-30)
    return {name: float(gain) for name, gain in zip(names, both, strict=True) if gain > 0}


def search(path: Path, name: str, seeds: list[int], trials: int, whose) -> list:
    """One guided search for each seed: the candidates in their order, the seconds it took, and of
    how many candidates the model needed the features."""
    lab, table, features = _loaded(path, whose["cost_model.1"])
    explorers = {
        ANNEALING: functools.partial(
            lab.anneal, step=exercise.body("cost_model.3", whose["cost_model.3"])
        ),
        EVOLUTION: lab.evolve,
        ON_KNOBS: lab.evolve,
        ASK_ALL: lambda predict, good, rng: (table.decisions, predict(table.decisions)),
    }
    rows = table.decisions.astype("float32") if name == ON_KNOBS else features
    train = exercise.body("cost_model.2", whose["cost_model.2"])
    choose = exercise.body("cost_model.4", whose["cost_model.4"])
    done = []
    for seed in seeds:
        asked: set[int] = set()

        def explore(predict, good, rng, asked=asked):
            def noting(candidates):
                asked.update(lab.number_of(candidates).tolist())
                return predict(candidates)

            return explorers[name](noting, good, rng)

        start = time.perf_counter()
        order = lab.guided_search(
            rows, lambda some: table.seconds[some], trials, explore, train, choose, seed
        )
        elapsed = time.perf_counter() - start
        done.append((order, elapsed, 0 if name == ON_KNOBS else len(asked)))
    return done


# ---------------------------------------------------------------------------- names of the features


def feature_names() -> list[str]:
    """The 164 features of a store, in the order of TVM's per_store_feature.cc."""
    arithmetic = ("multiply-adds", "additions", "multiplications", "divisions", "comparisons")
    arithmetic += ("function calls", "other calls")
    names = [f"float {what}" for what in arithmetic] + [f"integer {what}" for what in arithmetic]
    names += ["boolean operations", "selects"]
    places = ("none", "inner spatial", "middle spatial", "outer spatial", "inner reduction")
    places += ("middle reduction", "outer reduction", "mixed")
    for kind in ("vectorized", "unrolled", "parallel"):
        names += [f"{kind} loops: number", f"{kind} loops: product of extents"]
        names += [f"{kind} loops: extent of the innermost"]
        names += [f"{kind} loops: place is {place}" for place in places]
    names += ["is GPU", *(f"{axis} extent" for axis in ("blockIdx.x", "blockIdx.y", "blockIdx.z"))]
    names += [f"{axis} extent" for axis in ("threadIdx.x", "threadIdx.y", "threadIdx.z", "vthread")]
    for buffer in range(1, 6):
        access = ("is read", "is written", "is read and written")
        touched = ("bytes touched", "different bytes touched", "cache lines touched")
        touched += ("different cache lines touched",)
        reuse = ("reused by a loop", "reused by another access", "not reused")
        reuse += ("iterations until reuse", "bytes until reuse", "number of reuses")
        per_reuse = tuple(f"{what} per reuse" for what in touched)
        names += [f"buffer {buffer}: {what}" for what in (*access, *touched, *reuse, *per_reuse)]
        names += [f"buffer {buffer}: innermost stride"]
    names += [f"arithmetic intensity at {tenth}/10 of the work" for tenth in range(1, 11)]
    names += ["bytes allocated", "bytes allocated times loops outside"]
    names += ["loops outside the allocation", "loops inside the allocation"]
    return [*names, "iterations of all loops", "number of loops", "limit of automatic unrolling"]


# ----------------------------------------------------------------------------------------- pictures


def draw_searches(path: Path, runs: dict[str, Runs], table: data.Measurements) -> None:
    """The best so far of each search: the median over its runs, and the middle half as a band."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9.5, 5.6), layout="constrained")
    for name, color in COLORS.items():
        if name not in runs:
            continue
        behind = np.maximum(1 - runs[name].curves, NEARLY_NOTHING)
        low, middle, high = np.quantile(behind, (0.25, 0.5, 0.75), axis=0)
        trials = np.arange(1, behind.shape[1] + 1)
        style = "--" if name == AS_IT_COMES else "-"
        label = f"{name} ({len(behind)} runs)"
        axis.plot(trials, middle, color=color, linestyle=style, linewidth=2, label=label)
        if name != AS_IT_COMES:
            axis.fill_between(trials, low, high, color=color, alpha=0.12, linewidth=0)
    # How far behind the best, on a logarithmic scale: the last percent is as long a way as the
    # first.
    axis.set_yscale("log")
    axis.set_ylim(0.5, NEARLY_NOTHING)
    ticks = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
    axis.set_yticks(ticks, [f"{1 - tick:.1%}".replace(".0%", "%") for tick in ticks])
    axis.set_yticks([], minor=True)
    axis.grid(axis="y", linewidth=0.4)
    axis.set_xlabel("schedules measured (the first 16 are random in every search)")
    axis.set_ylabel("best so far, share of the best of all")
    axis.set_title(f"{table.about['task']}: medians, and the middle half of the runs")
    axis.legend(loc="upper left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_model(path: Path, learned: Learned) -> None:
    """Rank correlation against the size of the training set, and the features that gain most."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    for kind, color in zip(learned.correlations, ("tab:blue", "tab:red", "tab:gray"), strict=True):
        for part, style in ((0, "-"), (1, "--")):
            values = learned.correlations[kind][..., part]
            label = f"{kind}, {('all', 'fastest fifth')[part]}"
            left.plot(TRAINING_SIZES, np.median(values, 1), style, color=color, label=label)
            low, high = values.min(axis=1), values.max(axis=1)
            left.fill_between(TRAINING_SIZES, low, high, color=color, alpha=0.1, linewidth=0)
    left.set_xscale("log", base=2)
    left.set_xticks(TRAINING_SIZES, [str(size) for size in TRAINING_SIZES])
    left.set_xlabel("candidates trained on")
    left.set_ylabel("rank correlation with speed, held out")
    left.axhline(0, color="black", linewidth=0.6)
    left.legend(fontsize=8)
    best = sorted(learned.gains.items(), key=lambda one: one[1])[-12:]
    right.barh([name for name, _ in best], [100 * gain for _, gain in best], color="tab:blue")
    right.set_xlabel("% of the gain of the ranker's trees")
    figure.savefig(path, dpi=110)
    plt.close(figure)
