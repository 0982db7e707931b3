"""Reference answers to the lab `cost_model`: pooled features, a ranker, annealing, a batch."""

from collections.abc import Callable

import numpy as np
import xgboost

from tvm_practice.labs.cost_model import PARAMETERS, TREES, mutate, random_batch

Predict = Callable[[np.ndarray], np.ndarray]


def pool(features: list[np.ndarray]) -> np.ndarray:
    return np.stack(
        [np.concatenate([stores.max(axis=0), stores.sum(axis=0)]) for stores in features]
    )


def train_ranker(features: np.ndarray, seconds: np.ndarray, seed: int) -> xgboost.Booster:
    table = xgboost.DMatrix(features, label=seconds.min() / seconds)
    table.set_group([len(seconds)])
    objective = {"objective": "rank:pairwise", "seed": seed}
    return xgboost.train({**PARAMETERS, **objective}, table, num_boost_round=TREES)


def anneal_step(
    candidates: np.ndarray,
    scores: np.ndarray,
    predict: Predict,
    temperature: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    change = np.minimum(new_scores - scores, 0)
    accepted = rng.random(len(candidates)) < np.exp(change / temperature)
    return (
        np.where(accepted[:, None], proposed, candidates),
        np.where(accepted, new_scores, scores),
    )


def choose_batch(
    found: np.ndarray,
    scores: np.ndarray,
    measured: set[int],
    size: int,
    epsilon: float,
    rng: np.random.Generator,
) -> list[int]:
    ranked = [int(one) for one in found[np.argsort(-scores)]]
    fresh = [one for one in dict.fromkeys(ranked) if one not in measured]
    batch = fresh[: size - round(epsilon * size)]
    return batch + random_batch(measured | set(batch), size - len(batch), rng)
