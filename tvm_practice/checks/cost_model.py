"""What "done" means in the lab `cost_model`: pooled rows, a ranker that ranks, walks that step down
as often as they should, a batch that is greedy but for epsilon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import xgboost

from tvm_practice.checks import Trial, check
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.verify import Wrong

lesson = load_lesson("cost_model")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------- cost_model.1


@check(
    "cost_model.1",
    hints=(
        "pool_mean above, with two numbers for each feature in place of one.",
        "`stores.max(axis=0)` and `stores.sum(axis=0)` have one number for each feature; "
        "`np.concatenate([a, b])` puts one row behind another.",
        "`np.stack([np.concatenate([stores.max(axis=0), stores.sum(axis=0)]) for stores in "
        "features])`",
    ),
    told={
        (
            r"for each feature \(the|before the largest|side by side|is the mean|"
            r"largest magnitude|first store|above the other"
        ): (
            "Take two stores with three features each and write the answer down: which six "
            "numbers, in which order?"
        ),
        "rows of different|list' object|single numbers|one list of arrays|returned a list": (
            "Each entry of `features` has its own number of rows. What is made of one entry, and "
            "what of all the answers?"
        ),
    },
)
def pool(body: Callable, trial: Trial) -> None:
    for width in (5, 164):
        stores = [1, 3, 2, 1, 4, 2]
        features = [trial.rng.normal(size=(n, width)).astype("float32") for n in stores]
        given = [one.copy() for one in features]
        call = f"pool(...) of {len(stores)} candidates with {width} features a store"
        try:
            got = trial.call(body, features)
        except Wrong as error:
            told = str(error).rstrip(".")
            if "NumPy refuses: rows" not in told and "'list' object" not in told:
                raise
            raise Wrong(
                f"{told}. `features` is a list with an array for each candidate. These have "
                f"{', '.join(map(str, stores))} rows, one for each store, and {width} columns: "
                "taken over the rows (axis 0), all give rows of one length."
            ) from None
        if not isinstance(got, np.ndarray):
            raise Wrong(
                f"{call} returned {_kind(got)}; expected one array with a row for each candidate. "
                "np.stack makes one of a list of rows."
            )
        largest = np.stack([one.max(axis=0) for one in given])
        total = np.stack([one.sum(axis=0) for one in given])
        want = np.concatenate([largest, total], axis=1)
        _assert_shape_of_pooled(got, want, largest, total, call)
        if not np.allclose(got, want, rtol=1e-4, atol=1e-4):
            raise Wrong(f"{call}: {_about_pooled(got, given, largest, total)}")
        if any(not np.array_equal(a, b) for a, b in zip(features, given, strict=True)):
            raise Wrong(f"{call} changed the features that it was given; make new arrays.")


def _assert_shape_of_pooled(got, want, largest, total, call: str) -> None:
    if got.shape == want.shape:
        return
    if got.shape == largest.shape:
        half = "the largest values" if np.allclose(got, largest, atol=1e-4) else "something else"
        half = "the sums" if np.allclose(got, total, rtol=1e-4, atol=1e-4) else half
        raise Wrong(
            f"{call} returned one number for each feature ({half}), shape {got.shape}; expected "
            f"two, shape {want.shape}: the largest values, and behind them the sums."
        )
    if got.shape == (want.shape[0], 2, largest.shape[1]):
        raise Wrong(
            f"{call} returned shape {got.shape}: the two rows of a candidate lie one above the "
            f"other. Expected one behind the other, shape {want.shape}: np.concatenate."
        )
    raise Wrong(
        f"{call} returned shape {got.shape}; expected {want.shape}, a row for each candidate."
    )


def _about_pooled(got, features, largest, total) -> str:
    width = largest.shape[1]
    same = lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    first, second = got[:, :width], got[:, width:]
    if same(first, total) and same(second, largest):
        return "the sums stand before the largest values; expected the largest values first."
    if same(got[:, ::2], largest) and same(got[:, 1::2], total):
        return (
            "the largest value and the sum of each feature stand side by side; expected all the "
            "largest values first, then all the sums."
        )
    means = np.stack([one.mean(axis=0) for one in features])
    if same(first, largest) and same(second, means):
        return (
            "the second half is the mean over the stores; expected the sum, which also tells how "
            "many there are."
        )
    opening = np.stack([one[0] for one in features])
    if same(first, opening) and same(second, opening):
        return "only the first store of each candidate is in it; all its stores count."
    magnitudes = np.stack([np.abs(one).max(axis=0) for one in features])
    if same(first, magnitudes):
        return (
            "the first half is the largest magnitude; expected the largest value. (A feature may "
            "be negative.)"
        )
    if same(second, total):
        return "the second half is right, but the first is not the largest value of each feature."
    if same(first, largest):
        return "the first half is right, but the second is not the sum of each feature."
    return (
        "neither half is right; expected the largest value of each feature over the stores "
        "(axis 0), then the sum."
    )


# ------------------------------------------------------------------------------------- cost_model.2

ROWS = 160


@check(
    "cost_model.2",
    hints=(
        "train_on_time above, with another label, a group, and another objective.",
        "The label is `seconds.min() / seconds`, 1 for the fastest; `table.set_group([rows])` "
        "says that all the rows belong together.",
        "`table = xgboost.DMatrix(features, label=seconds.min() / seconds)`, "
        "`table.set_group([len(seconds)])`, then xgboost.train as above with "
        '`{"objective": "rank:pairwise", "seed": seed}`',
    ),
    told={
        "ranks the slowest": (
            "A ranker puts the highest label first. What is highest for the fastest candidate?"
        ),
        "reg:squarederror|expected TREES|max_depth": (
            "Compare what you pass to XGBoost with what the lesson names, one by one."
        ),
        "same score|2 groups": (
            "A ranker compares only what is in one group. Which candidates are to be compared?"
        ),
    },
)
def train_ranker(body: Callable, trial: Trial) -> None:
    features = trial.rng.normal(size=(2 * ROWS, 6)).astype("float32")
    seconds = 1e-4 * np.exp(1.5 * features[:, 0] - features[:, 1] + (features[:, 2] > 0.5))
    shown, hidden = slice(0, ROWS), slice(ROWS, None)
    call = f"train_ranker(...) with {ROWS} candidates"
    groups: list[list[int]] = []
    with _noting_groups(groups):
        model = trial.call(body, features[shown], seconds[shown], trial.seed)
    if not isinstance(model, xgboost.Booster):
        raise Wrong(
            f"{call} returned {_kind(model)}; expected the model itself, an xgboost.Booster."
        )
    learner = json.loads(model.save_config())["learner"]
    objective = learner["objective"]["name"]
    if objective != "rank:pairwise":
        raise Wrong(
            f"The objective of the model is {objective}; expected rank:pairwise, which corrects "
            "pairs in the wrong order and cares for nothing else."
        )
    if model.num_boosted_rounds() != lesson.TREES:
        raise Wrong(
            f"The model of {call} has {model.num_boosted_rounds()} trees; expected TREES, which is "
            f"{lesson.TREES}: num_boost_round=TREES."
        )
    scores = model.inplace_predict(features[hidden])
    _assert_ranks(scores, seconds[hidden], call)
    if several := [sizes for sizes in groups if len(sizes) > 1]:
        told = ", ".join(map(str, several[0][:4])) + (", ..." if len(several[0]) > 4 else "")
        raise Wrong(
            f"{call} trains with {len(several[0])} groups, of {told} rows; expected one. Rows in "
            "different groups are never compared, and all of these are candidates of one task: "
            "`table.set_group([len(seconds)])`."
        )
    booster = learner["gradient_booster"]["tree_train_param"]
    for name in ("max_depth", "eta"):
        if not np.isclose(float(booster[name]), lesson.PARAMETERS[name]):
            raise Wrong(
                f"The model of {call} was trained with {name} = {float(booster[name]):g}; expected "
                f"{lesson.PARAMETERS[name]}, from PARAMETERS."
            )


@contextmanager
def _noting_groups(groups: list[list[int]]) -> Iterator[None]:
    """Write down the sizes of the groups that any booster is trained with. A model keeps no trace
    of them."""
    update = xgboost.Booster.update

    def noting(self, dtrain, *arguments, **named):
        sizes = np.diff(dtrain.get_uint_info("group_ptr").astype(int)).tolist()
        if sizes not in groups:
            groups.append(sizes)
        return update(self, dtrain, *arguments, **named)

    xgboost.Booster.update = noting
    try:
        yield
    finally:
        xgboost.Booster.update = update


def _assert_ranks(scores: np.ndarray, seconds: np.ndarray, call: str) -> None:
    if np.ptp(scores) == 0:
        raise Wrong(
            f"The model of {call} gives all candidates the same score. A ranker learns from pairs "
            "within a group; if each row is a group of its own, or all labels are the same, there "
            "are none. All rows are one group: `table.set_group([len(seconds)])`."
        )
    correlation = rank_correlation(scores, -seconds)
    if correlation < -0.3:
        raise Wrong(
            f"The model of {call} ranks the slowest candidates highest: its rank correlation with "
            f"speed is {correlation:.2f}. The label must be the larger, the better the candidate, "
            "such as the speed relative to the fastest."
        )
    if correlation < 0.6:
        raise Wrong(
            f"The model of {call} has learned next to nothing: its rank correlation with the speed "
            f"of candidates that it never saw is {correlation:.2f}, where more than 0.6 can be "
            "had. Does each row have its own time in its label?"
        )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: 1 where a and b order everything alike, -1 where they order it the other way."""
    ranks = [np.argsort(np.argsort(one, kind="stable")) for one in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


# ------------------------------------------------------------------------------------- cost_model.3

MANY = 4000


@check(
    "cost_model.3",
    hints=(
        "climb_step above, with another rule for `accepted`.",
        "The probability is `np.exp(np.minimum(new_scores - scores, 0) / temperature)`: 1 for all "
        "that are no worse. Compare a draw for each walk with it.",
        "`change = np.minimum(new_scores - scores, 0)`, then "
        "`accepted = rng.random(len(candidates)) < np.exp(change / temperature)`; the rest is "
        "climb_step's.",
    ),
    told={
        (
            "never takes a step|temperature is left|divide by the temp|Better is higher|"
            "every step|comparison with|steps that improve"
        ): (
            "Put numbers in: a step that improves by 1, one that loses 1, at temperature 1 and at "
            "0.1. How likely should each be taken?"
        ),
        "old ones|what `predict` says|changed the arrays": (
            "Each walker stays or goes. What are its setting and its score in either case?"
        ),
        "one draw|only ever changed|some of the steps|took other steps|same in every call": (
            "Draws come from the generator that is given: one for each walker, over all knobs and "
            "all their settings."
        ),
    },
)
def anneal_step(body: Callable, trial: Trial) -> None:
    table = trial.rng.normal(size=lesson.COUNT)
    starts = trial.rng.integers(lesson.SHAPE, size=(MANY, len(lesson.SHAPE)))
    predict = lambda some: table[lesson.number_of(some)]  # noqa: E731
    before = predict(starts)
    walks = _step(body, trial, starts, before, predict, 1.0)
    _assert_bookkeeping(walks, starts, before, predict)
    moved = (walks[0] != starts).any(axis=1)
    knobs = (walks[0] != starts).sum(axis=1)
    if knobs.max() > 1:
        raise Wrong(
            f"After one step, a candidate of anneal_step(...) differs in {knobs.max()} knobs from "
            "where it stood; `mutate` changes one."
        )
    if not moved.any():
        raise Wrong("anneal_step(...) returned all candidates as they were; no walk took a step.")
    _assert_any_knob(walks[0], starts)
    _assert_draws_from_rng(body, trial, starts, before, predict)
    _assert_rates(body, trial)


def _assert_any_knob(candidates: np.ndarray, starts: np.ndarray) -> None:
    """`mutate` gives any knob any other setting, and with so many walks all of that is seen."""
    by = (candidates - starts) % lesson.SHAPE
    names = list(lesson.KNOBS)
    if still := [name for n, name in enumerate(names) if not by[:, n].any()]:
        changed = ", ".join(name for name in names if name not in still)
        raise Wrong(
            f"In {MANY} walks, anneal_step(...) only ever changed {changed}, never "
            f"{', '.join(still)}. A step may change any knob: propose it with `mutate`."
        )
    for n, name in enumerate(names):
        if len(set(by[:, n])) < lesson.SHAPE[n]:
            raise Wrong(
                f"In {MANY} walks, anneal_step(...) never took some of the steps that change "
                f"{name}. A step may give a knob any other setting: propose it with `mutate`."
            )


def _assert_draws_from_rng(body, trial: Trial, starts, scores, predict) -> None:
    seed = int(trial.rng.integers(1 << 30))
    one, same = (_step(body, trial, starts, scores, predict, 1.0, seed) for _ in range(2))
    if not np.array_equal(one[0], same[0]):
        raise Wrong(
            "anneal_step(...) was called twice with the same arguments, `rng` in the same state, "
            "and took other steps. It draws from somewhere else, such as np.random; with draws "
            "from `rng` alone a search can be repeated."
        )


def _step(body, trial: Trial, starts, scores, predict, temperature: float, seed: int | None = None):
    given = starts.copy(), scores.copy()
    rng = np.random.default_rng(trial.rng.integers(1 << 30) if seed is None else seed)
    got = trial.call(body, starts, scores, predict, temperature, rng)
    if not (isinstance(got, tuple | list) and len(got) == 2):
        raise Wrong(
            f"anneal_step(...) returned {_kind(got)}; expected two arrays: where the walks stand "
            "now, and the scores there."
        )
    candidates, new_scores = (np.asarray(one) for one in got)
    if candidates.shape != starts.shape or new_scores.shape != scores.shape:
        raise Wrong(
            f"anneal_step(...) returned arrays of shapes {candidates.shape} and "
            f"{new_scores.shape}; expected those it was given, {starts.shape} and {scores.shape}."
        )
    if not (np.array_equal(starts, given[0]) and np.array_equal(scores, given[1])):
        raise Wrong(
            "anneal_step(...) changed the arrays that it was given. The search keeps them: return "
            "new ones, as np.where does."
        )
    return candidates, new_scores


def _assert_bookkeeping(walks, starts, before, predict) -> None:
    candidates, scores = walks
    if np.allclose(scores, predict(candidates)):
        return
    if np.allclose(scores, before):
        raise Wrong(
            "anneal_step(...) returned new candidates with the scores of the old ones. Where a "
            "step was accepted, the score is the new one's."
        )
    raise Wrong(
        "The scores that anneal_step(...) returned are not what `predict` says of the candidates "
        "that it returned. Where a step was refused, both must stay as they were."
    )


def _assert_rates(body, trial: Trial) -> None:
    """From one candidate, every step changes the score by the same amount: count how many are
    taken."""
    start = trial.rng.integers(lesson.SHAPE)
    starts = np.tile(start, (MANY, 1))

    def rate(change: float, temperature: float) -> float:
        predict = lambda some: np.where((some == start).all(axis=1), 0.0, change)  # noqa: E731
        candidates, _ = _step(body, trial, starts, np.zeros(MANY), predict, temperature)
        return float((candidates != start).any(axis=1).mean())

    better = rate(0.7, 0.5)
    several = [rate(-1.0, 4.0) for _ in range(24)]
    if better < 1 and rate(-0.7, 0.5) == 1:
        raise Wrong(
            "anneal_step(...) takes every step that makes the score worse, and refuses some that "
            "make it better. Better is higher: the change is the new score minus the old one."
        )
    if all(one in (0.0, 1.0) for one in several) and len(set(several)) == 2:
        raise Wrong(
            f"In each call of anneal_step(...) either all of {MANY} walks take a step that makes "
            "the score worse, or none does: they share one draw. Each walk needs its own, "
            "`rng.random(len(candidates))`."
        )
    if better < 1:
        raise Wrong(
            f"anneal_step(...) takes only {better:.0%} of the steps that improve the score; "
            "expected all of them. (The probability is 1 wherever the change is not negative.)"
        )
    if 0 < several[0] < 1 and len(set(several)) == 1:
        raise Wrong(
            f"In {len(several)} calls of anneal_step(...), each with an `rng` of its own, the very "
            "same number of walks took a step that makes the score worse: the draws are the same "
            "in every call. Draw from `rng`."
        )
    _assert_rate(np.mean(several), rate)


def _assert_rate(got: float, rate: Callable[[float, float], float]) -> None:
    want = np.exp(-0.25)
    told = (
        f"Of steps that make the score worse by 1, at temperature 4, anneal_step(...) takes "
        f"{got:.0%}; expected {want:.0%}, exp(-1 / 4)."
    )
    if got == 0:
        raise Wrong(
            "anneal_step(...) never takes a step that makes the score worse. That is climbing; "
            f"annealing takes {want:.0%} of those that make it worse by 1, at temperature 4."
        )
    if got == 1:
        raise Wrong(f"{told} It takes every step, so the walk is random.")
    if abs(got - want) > 0.03:
        reasons = (
            (np.exp(-1.0), "That is exp(-1): the temperature is left out."),
            (np.exp(-4.0), "That is exp(-1 * 4): divide by the temperature."),
            (1 - want, "That is 1 - exp(-1 / 4): the comparison with the draw is the wrong way."),
            (0.5, "That is a coin's toss: the probability depends on the change."),
        )
        reason = next((why for value, why in reasons if abs(got - value) < 0.03), "")
        raise Wrong(f"{told} {reason}".rstrip())
    if (slight := rate(-0.2, 0.1)) > np.exp(-2) + 0.03 or slight < np.exp(-2) - 0.03:
        raise Wrong(
            f"Of steps that make the score worse by 0.2, at temperature 0.1, anneal_step(...) "
            f"takes {slight:.0%}; expected {np.exp(-2):.0%}, exp(-0.2 / 0.1)."
        )


# ------------------------------------------------------------------------------------- cost_model.4

SIZE = 11  # not the lesson's BATCH
FREE = 14  # candidates that are left near the end of a search


@check(
    "cost_model.4",
    hints=(
        "Sort what was found by its score, drop what is measured or there twice, cut; then let "
        "random_batch fill up.",
        "`np.argsort(-scores)` orders from the best down. `dict.fromkeys(some)` keeps the first of "
        "each, in order. Greedy places: `size - round(epsilon * size)`.",
        "`ranked = [int(one) for one in found[np.argsort(-scores)]]`, "
        "`fresh = [one for one in dict.fromkeys(ranked) if one not in measured]`, "
        "`batch = fresh[: size - round(epsilon * size)]`, and "
        "`random_batch(measured | set(batch), size - len(batch), rng)` behind it",
    ),
    told={
        "measured before|batch once|in the batch already": (
            "Two things may not be chosen: what was measured, and what is in the batch already. "
            "Where do you look?"
        ),
        "random places|best-ranked|what the search found|such places": (
            "With epsilon 0.25 and a batch of eight: how many places are random, and which "
            "candidates may they go to?"
        ),
    },
)
def choose_batch(body: Callable, trial: Trial) -> None:
    from_found = []
    for epsilon in (0.25, 0.0, 0.25, 1.0, 0.25):
        known = trial.rng.permutation(lesson.COUNT)[:120]
        scored = {int(one): score for one, score in zip(known, trial.rng.normal(size=120))}  # noqa: B905
        found = trial.rng.choice(known, size=400)
        scores = np.array([scored[int(one)] for one in found])
        best = sorted(set(map(int, found)), key=lambda one: -scored[one])
        measured = {*best[1:20:3], *map(int, trial.rng.integers(lesson.COUNT, size=30))}
        fresh = [one for one in best if one not in measured]
        greedy = SIZE - round(epsilon * SIZE)
        batch = _batch(body, trial, found, scores, measured, epsilon)
        call = f"choose_batch(..., size={SIZE}, epsilon={epsilon:g}, ...)"
        _assert_greedy(batch, fresh, greedy, scored, call)
        from_found += [one in scored for one in batch[greedy:]]
    if np.mean(from_found) > 0.5:
        raise Wrong(
            "The random places of choose_batch(...) are filled from what the search found. They "
            "are there for what the model would never propose: draw from the whole space, with "
            "random_batch."
        )
    _assert_fills_up(body, trial)
    _assert_finds_the_last(body, trial)
    batches = [_batch(body, trial, found, scores, measured, 0.25, seed=5) for _ in range(2)]
    if batches[0] != batches[1]:
        raise Wrong(
            "choose_batch(...) was called twice with the same arguments, `rng` in the same state, "
            "and chose other candidates. It draws from somewhere else, such as np.random; with "
            "draws from `rng` alone a search can be repeated."
        )


def _batch(
    body, trial: Trial, found, scores, measured, epsilon: float, seed: int | None = None
) -> list[int]:
    call = f"choose_batch(..., size={SIZE}, epsilon={epsilon:g}, ...)"
    known = set(measured)
    rng = np.random.default_rng(trial.rng.integers(1 << 30) if seed is None else seed)
    got = trial.call(body, found, scores, measured, SIZE, epsilon, rng)
    if not isinstance(got, list | np.ndarray | tuple):
        raise Wrong(f"{call} returned {_kind(got)}; expected a list of candidate numbers.")
    if measured != known:
        raise Wrong(
            f"{call} changed `measured`. What it chooses is not measured yet; make a new set, such "
            "as `measured | set(batch)`."
        )
    batch = [int(one) for one in got]
    if again := [one for one in batch if one in measured]:
        raise Wrong(
            f"The batch of {call} holds candidate {again[0]}, which was measured before. Measuring "
            "it again would teach the model nothing."
        )
    if twice := [one for one in batch if batch.count(one) > 1]:
        best = batch[: SIZE - round(epsilon * SIZE)]
        if len(set(best)) == len(best):
            raise Wrong(
                f"A random place of {call} went to candidate {twice[0]}, which is in the batch "
                "already. What the batch holds is to be left out of the draw, as what is measured: "
                "`measured | set(batch)`."
            )
        raise Wrong(
            f"The batch of {call} holds candidate {twice[0]} {batch.count(twice[0])} times. A "
            "search comes across the same candidate often; each may be in a batch once."
        )
    return batch


def _assert_greedy(batch, fresh, greedy: int, scored, call: str) -> None:
    if len(batch) != SIZE:
        reason = ""
        if len(batch) == greedy:
            reason = f" The {SIZE - greedy} random places are missing."
        elif len(batch) in (lesson.BATCH, greedy + lesson.BATCH):
            reason = f" {lesson.BATCH} is BATCH; how many are wanted is `size`, which may be less."
        raise Wrong(f"{call} returned {len(batch)} candidates; expected {SIZE}.{reason}")
    if batch[:greedy] == fresh[:greedy]:
        if greedy < SIZE and batch == fresh[:SIZE]:
            raise Wrong(
                f"All places of {call} went to the best-ranked candidates; expected "
                f"{SIZE - greedy} random ones among them, round(epsilon * size)."
            )
        return
    if greedy and batch[:greedy] == fresh[::-1][:greedy]:
        raise Wrong(
            f"{call} took the candidates with the lowest scores. The model's score is the higher, "
            "the better: sort by -scores."
        )
    if set(fresh[:greedy]) <= set(batch):
        raise Wrong(
            f"{call} chose the right candidates in another order; expected the {greedy} best-"
            "ranked first, from the best down, then the random ones."
        )
    matching = next((n for n in range(SIZE) if batch[n] != fresh[n]), SIZE)
    raise Wrong(
        f"The first {matching} places of {call} hold the best-ranked candidates that were not "
        f"measured, from the best down; expected {greedy} such places, size - "
        "round(epsilon * size)."
    )


def _assert_fills_up(body, trial: Trial) -> None:
    """A search that came across little: the rest of the batch is random."""
    fresh = [int(one) for one in trial.rng.permutation(lesson.COUNT)[:5]]
    measured = {(one + 1) % lesson.COUNT for one in fresh} - set(fresh)
    found = np.array([*fresh, *measured] * 2)
    batch = _batch(body, trial, found, -np.arange(len(found)) % len(set(found)) * -1.0, measured, 0)
    if len(batch) != SIZE:
        raise Wrong(
            f"With only {len(fresh)} candidates found that are not measured, choose_batch(..., "
            f"size={SIZE}, ...) returned {len(batch)}; expected {SIZE}. Random candidates fill the "
            "places that `found` cannot."
        )


def _assert_finds_the_last(body, trial: Trial) -> None:
    """Near the end of a search few candidates are free, and random numbers mostly hit others."""
    epsilon, greedy = 0.25, SIZE - round(0.25 * SIZE)
    for _ in range(4):
        free = [int(one) for one in trial.rng.permutation(lesson.COUNT)[:FREE]]
        measured = set(range(lesson.COUNT)) - set(free)
        ranked = free[: greedy + 2]
        others = trial.rng.choice(sorted(measured), size=20)
        found = trial.rng.permutation([*ranked, *ranked, *others])
        scored = {**{int(one): 0.5 for one in others}, **{one: -n for n, one in enumerate(ranked)}}
        scores = np.array([scored[int(one)] for one in found], float)
        batch = _batch(body, trial, found, scores, measured, epsilon)
        call = f"choose_batch(..., size={SIZE}, epsilon={epsilon:g}, ...)"
        if len(batch) != SIZE:
            raise Wrong(
                f"With only {FREE} candidates left that are not measured, {call} returned "
                f"{len(batch)}; expected {SIZE}. Draw the random ones from what is still free, as "
                "random_batch does: random numbers would mostly be measured ones."
            )
        if batch[:greedy] != ranked[:greedy]:
            raise Wrong(
                f"With only {FREE} candidates left that are not measured, {call} did not put the "
                f"{greedy} best-ranked of them first."
            )
