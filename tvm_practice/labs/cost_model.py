"""Lab: inside the search.

    python -m tvm_practice.labs.cost_model                       run this lab
    python -m tvm_practice.labs.cost_model --hint cost_model.1   a nudge, when you are stuck

In phase 5 a model chose what to measure, and you gave it two lines. Here you build that model, and
the searches that ask it: what it sees of a schedule, what it is trained to say, how to walk through
a space by its advice, and how much of its advice to take. Four ways to spend the same number of
measurements are then compared:

    random        candidates drawn at random; no model
    annealing     walks that climb to what the model likes, and sometimes step down
    evolution     a population, changed and mixed; the model says who survives
    MetaSchedule  TVM's own tuner, which is evolution too, with TVM's own model

A single search tells you little, since each depends on luck. To compare searches you must run each
many times, and to measure thousands of schedules every time would take hours. So this lab comes
with a space that was measured to the last candidate (labs/data/README.md says how, and how to do it
again on your machine). To measure a candidate then means to look its time up, and so it is with its
features. Otherwise these are real searches; and since we know how good the best schedule is, we can
ask who finds it.
"""

import itertools
from collections.abc import Callable

import numpy as np
import xgboost
from tvm import ir, te
from tvm.s_tir import Schedule, meta_schedule
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate
from tvm.target import Target

from tvm_practice.common.exercise import exercise
from tvm_practice.common.measure import skip_tensor_intrinsics

skip_tensor_intrinsics()  # see phase 5: every TuneContext would import them, for 20 seconds

# ---------------------------------------------------------------------------------------- the space
#
# The task is a matmul of 256 x 256 x 256. Phase 5's space was written by somebody who knew what is
# good: in every one of its schedules the tile is in registers, and the columns are vectorized. This
# one knows less. It splits i, j, k in two, and leaves open how large the inner parts are, in which
# order they stand, and whether there is a buffer for the tile. Five knobs; most settings are bad.

SIDE = 256

KNOBS = {
    "order": ("ijk", "ikj", "jik", "jki", "kij", "kji"),  # of the inner loops
    "local": (False, True),  # accumulate the tile in a buffer of its own?
    "rows": (1, 2, 4, 8, 16, 32, 64),  # extent of the inner i
    "columns": (1, 2, 4, 8, 16, 32, 64, 128, 256),  # of the inner j
    "depth": (1, 2, 4, 8, 16, 32, 64),  # of the inner k
}


def matmul(side: int) -> ir.IRModule:
    """C = A @ B for float32 matrices of side x side, with the default loops around the block
    "C"."""
    A = te.placeholder((side, side), name="A")
    B = te.placeholder((side, side), name="B")
    k = te.reduce_axis((0, side), name="k")
    C = te.compute((side, side), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return ir.IRModule({"main": te.create_prim_func([A, B, C])})


def write_schedule(
    sch: Schedule,
    order: str,
    local: bool,
    rows: int | None = None,
    columns: int | None = None,
    depth: int | None = None,
) -> None:
    """Schedule the matmul by the five knobs; a size that is None is sampled by TVM."""
    block = sch.get_sblock("C")
    outer, inner = {}, {}
    sizes = {"rows": rows, "columns": columns, "depth": depth}
    for loop, name, (knob, size) in zip(sch.get_loops(block), "ijk", sizes.items(), strict=True):
        decision = None if size is None else [int(sch.get(loop).extent) // size, size]
        factors = sch.sample_perfect_tile(
            loop, n=2, max_innermost_factor=KNOBS[knob][-1], decision=decision
        )
        outer[name], inner[name] = sch.split(loop, factors)
    sch.reorder(outer["i"], outer["j"], outer["k"], *(inner[name] for name in order))
    tile = sch.fuse(outer["i"], outer["j"])
    sch.parallel(tile)
    sch.annotate(tile, "pragma_auto_unroll_max_step", 64)  # unroll inner loops up to 64 statements
    sch.annotate(tile, "pragma_unroll_explicit", 1)
    if order[-1] == "j":  # only neighbours in memory are worth vectorizing
        sch.vectorize(inner["j"])
    if local:
        copy = sch.cache_write(block, 0, "local")
        sch.reverse_compute_at(copy, tile, preserve_unit_loops=True)
        *_, column = sch.get_loops(copy)
        sch.vectorize(column)
    sch.decompose_reduction(block, outer["k"])


# A candidate is five small numbers: the place of each knob's setting in its tuple. Many candidates
# are an array with a candidate a row. And each candidate has a number, its row in the array of all:

SHAPE = tuple(len(choices) for choices in KNOBS.values())
COUNT = int(np.prod(SHAPE))


def every_candidate() -> np.ndarray:
    """All combinations of the knobs, one a row."""
    return np.array(list(itertools.product(*(range(choices) for choices in SHAPE))))


def number_of(candidates: np.ndarray) -> np.ndarray:
    """The row of each candidate in `every_candidate()`."""
    return np.ravel_multi_index(tuple(candidates.T), SHAPE)


# ---------------------------------------------------------------------------- cost_model.1 features
#
# A model could learn from the five knobs. But then it would know nothing of another space or
# another task, and it would have to find out by itself that 8 rows of 32 columns and 16 rows of 16
# columns have much in common. TVM shows it what a schedule does instead. It looks at every
# statement that stores something (constants left out), and writes down 164 numbers about it, most
# of them logarithms, log2(x + 1):
#
#     57  the arithmetic: how many additions, multiplications, ... in all; how many iterations are
#         vectorized, unrolled, parallel
#     90  five buffers, 18 numbers each: bytes and cache lines touched, in all and different ones;
#         how often they are used again, how many iterations and how many bytes later; the stride.
#         The buffer with the most cache lines comes first.
#     10  arithmetic intensity (operations for each byte), from the innermost loop outwards
#      4  the memory that is allocated
#      3  the loops outside
#
# No compiler is needed for that, and no run: it is read off the loop nest, in milliseconds.


def store_features(sch: Schedule, target: Target) -> np.ndarray:
    """TVM's features of a schedule: 164 numbers for each of its stores, a store a row."""
    context = meta_schedule.TuneContext(sch.mod, target=target, num_threads=1)
    extractor = meta_schedule.feature_extractor.PerStoreFeature()
    (features,) = extractor.extract_from(context, [MeasureCandidate(sch, [])])
    return features.numpy()


# Without the buffer for the tile there is one such statement, C[i, j] += A[i, k] * B[k, j]. With it
# there is a second one, which copies the tile to C. A table for trees, however, needs rows of one
# length. So what is known of each store must be pooled: to numbers that exist for any number of
# stores and do not depend on their order. The mean is such a number:


def pool_mean(features: list[np.ndarray]) -> np.ndarray:
    """One row a candidate: for each feature its mean over the stores."""
    return np.stack([stores.mean(axis=0) for stores in features])


# But a mean hides the one store that takes all the time behind one that takes none. The largest
# value is that of the store that matters, mostly; and the sum also tells how many there are. Either
# serves better than the mean; take both. (MetaSchedule pools later: its model gives each store a
# score, and the scores are added up.)


@exercise("cost_model.1", "Pool the features of the stores")
def pool(features: list[np.ndarray]) -> np.ndarray:
    """One row a candidate: for each feature the largest value over its stores, then, after all
    those, for each feature the sum.

    features: an array of shape (stores, f) for each candidate; the number of stores differs from
    candidate to candidate. Returns an array of shape (candidates, 2 * f).
    """
    # TODO(cost_model.1): 2 or 3 lines.
    raise NotImplementedError("cost_model.1 pool")


# ----------------------------------------------------------------------------- cost_model.2 ranking
#
# The model is XGBoost: many small decision trees, each trained to correct the sum of those before.
# What should it be trained to say? The obvious answer is the time. Seconds range over a factor of a
# hundred here, so one takes the logarithm; and the larger the prediction, the better the candidate
# should be, hence the minus sign.

TREES = 60
PARAMETERS = {"max_depth": 6, "eta": 0.2, "nthread": 1}  # one thread is faster for so few rows


def train_on_time(features: np.ndarray, seconds: np.ndarray, seed: int) -> xgboost.Booster:
    """A model that predicts -log(seconds) of a row of features."""
    table = xgboost.DMatrix(features, label=-np.log(seconds))
    objective = {"objective": "reg:squarederror", "seed": seed}
    return xgboost.train({**PARAMETERS, **objective}, table, num_boost_round=TREES)


# A search never uses the time, though. It only asks which of two candidates is the better one. A
# ranking objective trains for just that: it takes pairs of candidates and corrects the trees where
# they put the worse one in front. XGBoost pairs each of the 32 that the model ranks highest at the
# moment with all others, so it does not waste trees on the order of the hopeless. The labels need
# not be times either; only their order counts, and the larger is the better. Usual is the speed
# relative to the fastest of them: 1 for that one, nearly 0 for the hopeless.
#
# Only candidates of the same task can be compared (a large matmul is not worse than a small one
# because it takes longer). Therefore XGBoost wants to know which rows belong together: groups, each
# given by its number of rows. We have one task, so one group.


@exercise("cost_model.2", "Train a ranker")
def train_ranker(features: np.ndarray, seconds: np.ndarray, seed: int) -> xgboost.Booster:
    """A model whose prediction is the higher, the better it ranks a row of features.

    features: (candidates, f). seconds: (candidates,), the measured times. Objective
    "rank:pairwise", labels the speed relative to the fastest candidate, all rows one group
    (`table.set_group([rows])`); PARAMETERS, the seed and TREES as above.
    """
    # TODO(cost_model.2): about 4 lines, like train_on_time.
    raise NotImplementedError("cost_model.2 train_ranker")


# --------------------------------------------------------------------------- cost_model.3 annealing
#
# Now the model can be asked. In this small space you could ask it about all candidates at once; a
# real space has millions, so it is searched. All searches need one thing, a step from a candidate
# to one nearby: one knob gets another setting.

Predict = Callable[[np.ndarray], np.ndarray]  # candidates, one a row -> a score for each


def mutate(candidates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy in which one knob of each candidate, any one, has another setting, any other."""
    mutated = candidates.copy()
    rows = np.arange(len(candidates))
    knob = rng.integers(len(SHAPE), size=len(candidates))
    choices = np.array(SHAPE)[knob]
    mutated[rows, knob] += rng.integers(1, choices)
    mutated[rows, knob] %= choices
    return mutated


# The simplest walk climbs: propose a step, and take it if the model likes it better. Many walks go
# at once, one a row, because a model predicts 100 rows in the time of one.


def climb_step(
    candidates: np.ndarray, scores: np.ndarray, predict: Predict, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One step of every walk, and the scores of where they stand afterwards."""
    proposed = mutate(candidates, rng)
    new_scores = predict(proposed)
    accepted = new_scores > scores
    return (
        np.where(accepted[:, None], proposed, candidates),
        np.where(accepted, new_scores, scores),
    )


# Such a walk ends on the first hill it meets: where every single change makes it worse, though two
# changes together would not. (Few rows want many columns, and many rows few: both give a tile that
# fits the registers, and on the way from one to the other it is too large or too small.) Simulated
# annealing therefore also steps down, now and then. A step that changes the score by d is accepted
# with probability
#
#     1 if d >= 0, else exp(d / temperature)
#
# At a high temperature nearly everything is accepted, and the walks roam. Then it is lowered, and
# they settle. The name is from metal, which becomes soft and regular if it cools slowly.


@exercise("cost_model.3", "Take a step of simulated annealing")
def anneal_step(
    candidates: np.ndarray,
    scores: np.ndarray,
    predict: Predict,
    temperature: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One step of every walk at this temperature, and the scores of where they stand afterwards.

    candidates: (walks, knobs); scores: (walks,), what `predict` says of them. Neither is changed.
    Each walk makes its own draw: `rng.random(walks)` is uniform in [0, 1), and below p with
    probability p.
    """
    # TODO(cost_model.3): about 7 lines, like climb_step.
    raise NotImplementedError("cost_model.3 anneal_step")


# A search returns everything that it came across, with its scores: what is to be done with that is
# another decision, the next one.

WALKS, STEPS = 32, 20
HOT, COLD = 1.0, 0.02  # times the spread of the scores, whose unit is the model's own

Found = tuple[np.ndarray, np.ndarray]  # candidates, one a row, and the score of each


def anneal(predict: Predict, good: np.ndarray, rng: np.random.Generator, step: Callable) -> Found:
    """Walk from the good candidates known so far, and from random ones, while the temperature falls
    by the same factor every step. `step` is anneal_step."""
    others = rng.integers(SHAPE, size=(WALKS - len(good), len(SHAPE)))
    candidates = np.concatenate([good, others])
    scores = predict(candidates)
    visited = [(candidates, scores)]
    for temperature in scores.std() * np.geomspace(HOT, COLD, STEPS):
        candidates, scores = step(candidates, scores, predict, temperature, rng)
        visited.append((candidates, scores))
    return np.concatenate([one for one, _ in visited]), np.concatenate([one for _, one in visited])


# Evolution is the other way. It keeps a population. In each generation, candidates have children:
# each knob from one of two parents, and then, mostly, a mutation. Parents and children together are
# ranked by the model, and the best of them live on. What annealing lacks is the mixture of two good
# candidates, which may be better than both; what evolution lacks is patience with the bad ones.

POPULATION, GENERATIONS = 32, 4


def evolve(predict: Predict, good: np.ndarray, rng: np.random.Generator) -> Found:
    """Breed from the good candidates known so far, and random ones."""
    others = rng.integers(SHAPE, size=(POPULATION - len(good), len(SHAPE)))
    population = np.concatenate([good, others])
    scores = predict(population)
    visited = [(population, scores)]
    for _ in range(GENERATIONS):
        mothers, fathers = (population[rng.integers(POPULATION, size=4 * POPULATION)] for _ in "mf")
        children = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)
        children = np.where(rng.random((len(children), 1)) < 0.8, mutate(children, rng), children)
        children = np.unique(children, axis=0)
        visited.append((children, predict(children)))
        everyone = [
            np.concatenate(pair) for pair in zip((population, scores), visited[-1], strict=True)
        ]
        survivors = np.argsort(-everyone[1], kind="stable")[:POPULATION]
        population, scores = everyone[0][survivors], everyone[1][survivors]
    return np.concatenate([one for one, _ in visited]), np.concatenate([one for _, one in visited])


# --------------------------------------------------------------------------- cost_model.4 the batch
#
# From what the search came across, a batch is chosen to be measured. Measurements come in batches
# because candidates can be built side by side, and because training takes time as well. Random
# search chooses like this:


def random_batch(measured: set[int], size: int, rng: np.random.Generator) -> list[int]:
    """The numbers of `size` candidates that have not been measured, drawn from the whole space."""
    return [int(one) for one in rng.permutation(COUNT) if int(one) not in measured][:size]


# With a model one would take the best-ranked. But the model knows only what was measured. It may be
# wrong about a corner of the space that nothing was measured in, and if it ranks that corner low,
# it will never find out. So a small share of every batch, epsilon, is drawn at random. That is
# called epsilon-greedy: greedy, but for a share of epsilon. It is the price of the model's
# education.


@exercise("cost_model.4", "Choose a batch, epsilon-greedily")
def choose_batch(
    found: np.ndarray,
    scores: np.ndarray,
    measured: set[int],
    size: int,
    epsilon: float,
    rng: np.random.Generator,
) -> list[int]:
    """The numbers of `size` different candidates, none of which has been measured.

    found: (n,) candidate numbers that a search came across, often the same one several times, some
    of them measured before; scores: (n,), what the model says of them. The best of them come first
    in the batch; but round(epsilon * size) places, and any that `found` cannot fill, go to random
    candidates of the whole space (random_batch), which come last.
    """
    # TODO(cost_model.4): about 6 lines.
    raise NotImplementedError("cost_model.4 choose_batch")


# --------------------------------------------------------------------------------- the whole search
#
# That is all. The loop is the one of phase 5: propose, measure, learn.

BATCH = 16
EPSILON = 0.2
KEPT = 16  # so many of the best measured candidates start the next search

Explore = Callable[[Predict, np.ndarray, np.random.Generator], Found]


def guided_search(
    features: np.ndarray,
    measure: Callable[[list[int]], np.ndarray],
    trials: int,
    explore: Explore,
    train: Callable,
    choose: Callable,
    seed: int,
) -> list[int]:
    """The numbers of the candidates that were measured, in their order.

    features: the pooled features of all candidates. (A real search has to compute them, for every
    candidate that it asks the model about.) measure: returns the seconds of candidates. explore:
    evolve, or anneal with its step. train, choose: train_ranker and choose_batch.
    """
    rng = np.random.default_rng(seed)
    space = every_candidate()
    order = random_batch(set(), BATCH, rng)  # nothing is known: the first batch is random
    seconds = measure(order)
    while len(order) < trials:
        model = train(features[order], seconds, seed)
        good = space[order][np.argsort(seconds)[:KEPT]]
        found, scores = explore(
            lambda some: model.inplace_predict(features[number_of(some)]),  # noqa: B023
            good,
            rng,
        )
        size = min(BATCH, trials - len(order))
        batch = choose(number_of(found), scores, set(order), size, EPSILON, rng)
        seconds = np.concatenate([seconds, measure(batch)])
        order += batch
    return order


# MetaSchedule gets the same space as twelve traces, one for each order with and without the buffer,
# in which the three sizes are sampled (that is what None is for in write_schedule). It never
# crosses from one trace to another.
#
# When you run this file, it shows how well the model ranks candidates that it never saw, and what
# it goes by; then how the four searches fare. Before you look: what does the model know that random
# search does not, and when is it worth its training time?
