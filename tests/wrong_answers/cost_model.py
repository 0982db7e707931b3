"""Answers to the lab `cost_model`: pools that lose a store, rankers that rank backwards, walks that
never step down, batches with something in them twice."""

import numpy as np
import xgboost

from tests.wrong_answers import right, wrong
from tvm_practice.labs.cost_model import (
    BATCH,
    COUNT,
    PARAMETERS,
    SHAPE,
    TREES,
    mutate,
    random_batch,
)

# -------------------------------------------------------------------------------- cost_model.1 pool


@right("cost_model.1")
def pool_into_an_empty_array(features):
    width = features[0].shape[1]
    rows = np.empty((len(features), 2 * width), "float32")
    for row, stores in zip(rows, features, strict=True):
        row[:width] = stores.max(axis=0)
        row[width:] = stores.sum(axis=0)
    return rows


@right("cost_model.1")
def pool_halves_first(features):
    largest = np.array([np.amax(stores, 0) for stores in features])
    total = np.array([stores.T @ np.ones(len(stores)) for stores in features])
    return np.hstack([largest, total])


@wrong(
    "cost_model.1",
    "returned one number for each feature (the largest values)",
    hint="Take two stores with three",
)
def pool_only_the_largest(features):
    return np.stack([stores.max(axis=0) for stores in features])


@wrong("cost_model.1", "the sums stand before the largest values")
def pool_sums_first(features):
    return np.stack([np.concatenate([one.sum(axis=0), one.max(axis=0)]) for one in features])


@wrong("cost_model.1", "stand side by side")
def pool_side_by_side(features):
    return np.stack([np.stack([one.max(axis=0), one.sum(axis=0)], 1).ravel() for one in features])


@wrong("cost_model.1", "the second half is the mean")
def pool_the_mean(features):
    return np.stack([np.concatenate([one.max(axis=0), one.mean(axis=0)]) for one in features])


@wrong("cost_model.1", "only the first store")
def pool_the_first_store(features):
    return np.stack([np.concatenate([stores[0], stores[0]]) for stores in features])


@wrong("cost_model.1", "the first half is the largest magnitude")
def pool_magnitudes(features):
    return np.stack([np.concatenate([abs(one).max(axis=0), one.sum(axis=0)]) for one in features])


@wrong("cost_model.1", "lie one above the other")
def pool_stacked_rows(features):
    return np.stack([np.stack([stores.max(axis=0), stores.sum(axis=0)]) for stores in features])


@wrong("cost_model.1", "returned a list", hint="Each entry of `features`")
def pool_a_list(features):
    return [np.concatenate([stores.max(axis=0), stores.sum(axis=0)]) for stores in features]


@wrong("cost_model.1", "rows of different shapes cannot be stacked to one array. `features` is a")
def pool_flattened(features):
    return np.stack([stores.ravel() for stores in features])


@wrong("cost_model.1", "rows of different lengths do not make one array")
def pool_an_array_of_all(features):
    return np.array(features).max(axis=1)


@wrong("cost_model.1", "with axis=0 they have one for each column")
def pool_single_numbers(features):
    return np.stack([np.concatenate([stores.max(), stores.sum()]) for stores in features])


@wrong("cost_model.1", "concatenate takes one list of arrays")
def pool_two_arguments(features):
    return np.stack([np.concatenate(one.max(axis=0), one.sum(axis=0)) for one in features])


@wrong("cost_model.1", "'list' object has no attribute 'max'. `features` is a list")
def pool_the_list(features):
    return np.concatenate([features.max(axis=0), features.sum(axis=0)])


# ------------------------------------------------------------------------ cost_model.2 train_ranker


def trained(features, label, seed, group, objective="rank:pairwise", trees=TREES, **more):
    table = xgboost.DMatrix(features, label=label)
    if group is not None:
        table.set_group(group)
    parameters = {**PARAMETERS, "objective": objective, "seed": seed, **more}
    return xgboost.train(parameters, table, num_boost_round=trees)


@right("cost_model.2")
def ranker_by_speed(features, seconds, seed):
    return trained(features, 1 / seconds, seed, [len(features)])


@right("cost_model.2")
def ranker_with_query_numbers(features, seconds, seed):
    table = xgboost.DMatrix(features, label=min(seconds) / seconds, qid=np.zeros(len(seconds), int))
    parameters = PARAMETERS | {"objective": "rank:pairwise", "seed": seed}
    return xgboost.train(parameters, table, TREES)


@right("cost_model.2")
def ranker_tree_by_tree(features, seconds, seed):
    table = xgboost.DMatrix(features, label=-np.log(seconds) + 20, group=[len(seconds)])
    parameters = {**PARAMETERS, "objective": "rank:pairwise", "seed": seed}
    model = xgboost.Booster(parameters, [table])
    for number in range(TREES):
        model.update(table, number)
    return model


@wrong("cost_model.2", "ranks the slowest candidates highest", hint="A ranker puts the highest")
def ranker_of_seconds(features, seconds, seed):
    return trained(features, seconds, seed, [len(seconds)])


@wrong(
    "cost_model.2",
    "The objective of the model is reg:squarederror",
    hint="Compare what you pass to",
)
def ranker_that_is_a_regression(features, seconds, seed):
    return trained(features, seconds.min() / seconds, seed, None, "reg:squarederror")


@wrong("cost_model.2", "gives all candidates the same score", hint="A ranker compares only what")
def ranker_with_a_group_for_each_row(features, seconds, seed):
    return trained(features, seconds.min() / seconds, seed, [1] * len(seconds))


@wrong("cost_model.2", "expected TREES")
def ranker_of_ten_trees(features, seconds, seed):
    return trained(features, seconds.min() / seconds, seed, [len(seconds)], trees=10)


@wrong("cost_model.2", "returned a ndarray; expected the model itself")
def ranker_that_predicts(features, seconds, seed):
    label = seconds.min() / seconds
    return trained(features, label, seed, [len(seconds)]).inplace_predict(features)


@wrong("cost_model.2", "has learned next to nothing")
def ranker_of_sorted_times(features, seconds, seed):
    return trained(features, np.sort(seconds.min() / seconds), seed, [len(seconds)])


@wrong("cost_model.2", "trains with 2 groups")
def ranker_of_two_groups(features, seconds, seed):
    half = len(seconds) // 2
    label = seconds.min() / seconds
    return trained(features, label, seed, [half, len(seconds) - half])


@wrong("cost_model.2", "was trained with max_depth = 2")
def ranker_of_stumps(features, seconds, seed):
    return trained(features, seconds.min() / seconds, seed, [len(seconds)], max_depth=2)


# ------------------------------------------------------------------------- cost_model.3 anneal_step


def accepted_where(accepted, proposed, new_scores, candidates, scores):
    return (
        np.where(accepted[:, None], proposed, candidates),
        np.where(accepted, new_scores, scores),
    )


@right("cost_model.3")
def anneal_better_or_by_chance(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    better = new_scores >= scores
    with np.errstate(over="ignore"):
        chance = rng.random(len(scores)) < np.exp((new_scores - scores) / temperature)
    return accepted_where(better | chance, proposed, new_scores, candidates, scores)


@right("cost_model.3")
def anneal_walk_by_walk(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    said = predict(proposed)
    candidates, scores = candidates.copy(), scores.copy()
    for n in range(len(scores)):
        change = said[n] - scores[n]
        if change >= 0 or np.log(rng.random()) < change / temperature:
            candidates[n], scores[n] = proposed[n], said[n]
    return candidates, scores


@right("cost_model.3")
def anneal_that_returns_a_list(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    accepted = rng.random(len(scores)) < np.exp(np.minimum(new_scores - scores, 0) / temperature)
    return list(accepted_where(accepted, proposed, new_scores, candidates, scores))


@wrong(
    "cost_model.3",
    "never takes a step that makes the score worse",
    hint="Put numbers in: a step that",
)
def anneal_that_climbs(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    return accepted_where(new_scores > scores, proposed, new_scores, candidates, scores)


def annealed(candidates, scores, predict, rng, probability):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    accepted = rng.random(len(scores)) < probability(new_scores - scores)
    return accepted_where(accepted, proposed, new_scores, candidates, scores)


@wrong("cost_model.3", "the temperature is left out")
def anneal_without_temperature(candidates, scores, predict, temperature, rng):
    return annealed(candidates, scores, predict, rng, lambda d: np.exp(np.minimum(d, 0)))


@wrong("cost_model.3", "divide by the temperature")
def anneal_times_temperature(candidates, scores, predict, temperature, rng):
    by = lambda d: np.exp(np.minimum(d, 0) * temperature)  # noqa: E731
    return annealed(candidates, scores, predict, rng, by)


@wrong("cost_model.3", "Better is higher")
def anneal_downwards(candidates, scores, predict, temperature, rng):
    by = lambda d: np.exp(np.minimum(-d, 0) / temperature)  # noqa: E731
    return annealed(candidates, scores, predict, rng, by)


@wrong("cost_model.3", "the comparison with the draw is the wrong way")
def anneal_against_the_draw(candidates, scores, predict, temperature, rng):
    by = lambda d: np.where(d >= 0, 1, 1 - np.exp(np.minimum(d, 0) / temperature))  # noqa: E731
    return annealed(candidates, scores, predict, rng, by)


@wrong("cost_model.3", "of the steps that improve the score")
def anneal_above_the_draw(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    accepted = rng.random(len(scores)) > np.exp(np.minimum(new_scores - scores, 0) / temperature)
    return accepted_where(accepted, proposed, new_scores, candidates, scores)


@wrong("cost_model.3", "they share one draw", hint="Draws come from the generator")
def anneal_with_one_draw(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    accepted = rng.random() < np.exp(np.minimum(new_scores - scores, 0) / temperature)
    return accepted_where(accepted, proposed, new_scores, candidates, scores)


@wrong("cost_model.3", "with the scores of the old ones", hint="Each walker stays or goes")
def anneal_with_old_scores(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    change = np.minimum(predict(proposed) - scores, 0)
    accepted = rng.random(len(scores)) < np.exp(change / temperature)
    return np.where(accepted[:, None], proposed, candidates), scores


@wrong("cost_model.3", "are not what `predict` says")
def anneal_with_all_new_scores(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    accepted = rng.random(len(scores)) < np.exp(np.minimum(new_scores - scores, 0) / temperature)
    return np.where(accepted[:, None], proposed, candidates), new_scores


@wrong("cost_model.3", "changed the arrays that it was given")
def anneal_in_place(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    accepted = rng.random(len(scores)) < np.exp(np.minimum(new_scores - scores, 0) / temperature)
    candidates[accepted], scores[accepted] = proposed[accepted], new_scores[accepted]
    return candidates, scores


@wrong("cost_model.3", "It takes every step")
def anneal_without_refusing(candidates, scores, predict, temperature, rng):
    proposed = mutate(candidates, rng)
    return proposed, predict(proposed)


def proposing(propose, draw, candidates, scores, predict, temperature):
    proposed = propose(candidates)
    new_scores = predict(proposed)
    accepted = draw(len(scores)) < np.exp(np.minimum(new_scores - scores, 0) / temperature)
    return accepted_where(accepted, proposed, new_scores, candidates, scores)


@wrong("cost_model.3", "only ever changed order")
def anneal_of_the_first_knob(candidates, scores, predict, temperature, rng):
    def propose(candidates):
        proposed = candidates.copy()
        proposed[:, 0] += rng.integers(1, SHAPE[0], size=len(candidates))
        proposed[:, 0] %= SHAPE[0]
        return proposed

    return proposing(propose, rng.random, candidates, scores, predict, temperature)


@wrong("cost_model.3", "never took some of the steps that change order")
def anneal_to_the_next_setting(candidates, scores, predict, temperature, rng):
    def propose(candidates):
        proposed = candidates.copy()
        knob = rng.integers(len(SHAPE), size=len(candidates))
        proposed[np.arange(len(candidates)), knob] += 1
        return proposed % SHAPE

    return proposing(propose, rng.random, candidates, scores, predict, temperature)


@wrong("cost_model.3", "`rng` in the same state, and took other steps")
def anneal_by_unseeded_draws(candidates, scores, predict, temperature, rng):
    propose = lambda some: mutate(some, rng)  # noqa: E731
    return proposing(propose, np.random.random, candidates, scores, predict, temperature)


@wrong("cost_model.3", "the draws are the same in every call")
def anneal_by_the_same_draws(candidates, scores, predict, temperature, rng):
    propose = lambda some: mutate(some, rng)  # noqa: E731
    draw = np.random.default_rng(0).random
    return proposing(propose, draw, candidates, scores, predict, temperature)


# ------------------------------------------------------------------------ cost_model.4 choose_batch


@right("cost_model.4")
def batch_one_by_one(found, scores, measured, size, epsilon, rng):
    batch = []
    for one in found[np.argsort(-scores)].tolist():
        if len(batch) == size - round(epsilon * size):
            break
        if one not in measured and one not in batch:
            batch.append(one)
    while len(batch) < size:
        one = int(rng.integers(COUNT))
        if one not in measured and one not in batch:
            batch.append(one)
    return batch


@right("cost_model.4")
def batch_of_unique_numbers(found, scores, measured, size, epsilon, rng):
    numbers, first = np.unique(found, return_index=True)
    ranked = numbers[np.argsort(-scores[first], kind="stable")]
    fresh = ranked[~np.isin(ranked, list(measured))][: size - round(epsilon * size)]
    rest = random_batch({*measured, *map(int, fresh)}, size - len(fresh), rng)
    return np.concatenate([fresh, np.array(rest, int)])


def fresh_of(found, scores, measured):
    ranked = found[np.argsort(-scores)].tolist()
    return [one for one in dict.fromkeys(ranked) if one not in measured]


@wrong("cost_model.4", "which was measured before", hint="Two things may not be chosen")
def batch_with_measured_ones(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, set())[: size - round(epsilon * size)]
    return batch + random_batch(measured | set(batch), size - len(batch), rng)


@wrong("cost_model.4", "each may be in a batch once")
def batch_with_repetitions(found, scores, measured, size, epsilon, rng):
    ranked = [one for one in found[np.argsort(-scores)].tolist() if one not in measured]
    batch = ranked[: size - round(epsilon * size)]
    return batch + random_batch(measured | set(batch), size - len(batch), rng)


@wrong("cost_model.4", "with the lowest scores")
def batch_of_the_worst(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, -scores, measured)[: size - round(epsilon * size)]
    return batch + random_batch(measured | set(batch), size - len(batch), rng)


@wrong("cost_model.4", "random places are missing", hint="With epsilon 0.25 and a batch")
def batch_without_random_ones(found, scores, measured, size, epsilon, rng):
    return fresh_of(found, scores, measured)[: size - round(epsilon * size)]


@wrong("cost_model.4", "went to the best-ranked candidates")
def batch_only_greedy(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[:size]
    return batch + random_batch(measured | set(batch), size - len(batch), rng)


@wrong("cost_model.4", "are filled from what the search found")
def batch_random_among_found(found, scores, measured, size, epsilon, rng):
    fresh = fresh_of(found, scores, measured)
    greedy = size - round(epsilon * size)
    batch, rest = fresh[:greedy], fresh[greedy:]
    batch += [int(one) for one in rng.permutation(rest)[: size - greedy]]
    return batch + random_batch(measured | set(batch), size - len(batch), rng)


@wrong("cost_model.4", "changed `measured`")
def batch_that_notes_itself(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[: size - round(epsilon * size)]
    measured |= set(batch)
    return batch + random_batch(measured, size - len(batch), rng)


@wrong("cost_model.4", "fill the places that `found` cannot")
def batch_that_stays_short(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[: size - round(epsilon * size)]
    return batch + random_batch(measured | set(batch), round(epsilon * size), rng)


@wrong("cost_model.4", "expected 8 such places")
def batch_with_epsilon_turned_round(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[: round(epsilon * size)]
    return batch + random_batch(measured | set(batch), size - len(batch), rng)


@wrong("cost_model.4", "is BATCH")
def batch_of_the_lessons_size(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[: size - round(epsilon * size)]
    return batch + random_batch(measured | set(batch), BATCH - len(batch), rng)


@wrong("cost_model.4", "Draw the random ones from what is still free")
def batch_of_random_numbers_that_happen_to_be_free(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[: size - round(epsilon * size)]
    drawn = rng.choice(COUNT, size=4 * size, replace=False).tolist()
    free = [one for one in drawn if one not in measured and one not in batch]
    return batch + free[: size - len(batch)]


@wrong("cost_model.4", "which is in the batch already")
def batch_that_draws_its_best_again(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[: size - round(epsilon * size)]
    return batch + random_batch(measured, size - len(batch), rng)


@wrong("cost_model.4", "`rng` in the same state, and chose other candidates")
def batch_from_a_generator_of_its_own(found, scores, measured, size, epsilon, rng):
    batch = fresh_of(found, scores, measured)[: size - round(epsilon * size)]
    another = np.random.default_rng()
    return batch + random_batch(measured | set(batch), size - len(batch), another)
