"""Answers to the lab on attention: first attempts gone wrong, and right answers unlike the
reference."""

from tvm import tirx
from tvm.script import tirx as T

from tests.wrong_answers import right, wrong
from tvm_practice.common.exercise import load_lesson

lesson = load_lesson("attention")
WIDTH = lesson.WIDTH

# ----------------------------------------------------------------------------------------- 1 extend


@right("attention.1")
def extend_by_comparing(highest, total, score):
    higher = score > highest
    new = tirx.Select(higher, score, highest)
    return new, tirx.Select(higher, total * T.exp(highest - score) + 1, total + T.exp(score - new))


@right("attention.1")
def extend_by_two_factors(highest, total, score):
    new = T.max(score, highest)
    shrink, term = T.exp(highest - new), T.exp(score - new)
    return [new, term + shrink * total]


@wrong("attention.1", "The old total is kept as it is", hint="Follow two scores by hand")
def extend_without_correcting(highest, total, score):
    new = T.max(highest, score)
    return new, total + T.exp(score - new)


@wrong("attention.1", "The new term is 1 only where")
def extend_with_one_for_each_score(highest, total, score):
    new = T.max(highest, score)
    return new, total * T.exp(highest - new) + 1


@wrong("attention.1", "an exp overflows", hint="Every exponent must be 0")
def extend_upside_down(highest, total, score):
    new = T.max(highest, score)
    return new, total * T.exp(new - highest) + T.exp(score - new)


@wrong("attention.1", "the new highest is")
def extend_with_the_lowest(highest, total, score):
    new = T.min(highest, score)
    return new, total * T.exp(highest - new) + T.exp(score - new)


@wrong("attention.1", "own term is missing")
def extend_without_the_new_term(highest, total, score):
    new = T.max(highest, score)
    return new, total * T.exp(highest - new)


@wrong("attention.1", "should return the new highest and the new total")
def extend_with_the_total_alone(highest, total, score):
    new = T.max(highest, score)
    return total * T.exp(highest - new) + T.exp(score - new)


# ------------------------------------------------------------------------------------------ 2 fetch


def fetch_but(
    sch,
    threads,
    turn=True,
    names=("Q_load", "K_load", "V_load"),
    width=WIDTH,
    vectorize=True,
    y="threadIdx.y",
    x="threadIdx.x",
    exchanged=False,
    runs=False,
):
    """The reference, with one thing changed."""
    if turn:
        sch.transform_layout("K_load", ("write", 0), lambda j, k: (k, j))
    for name in names:
        piece = sch.fuse(*sch.get_loops(sch.get_sblock(name))[-2:])
        if exchanged:
            _, in_x, in_y, lane = sch.split(piece, [None, threads[1], threads[0], width])
        elif runs:
            in_y, in_x, _, lane = sch.split(piece, [*threads, None, width])
        else:
            _, in_y, in_x, lane = sch.split(piece, [None, *threads, width])
        if y:
            sch.bind(in_y, y)
        if x:
            sch.bind(in_x, x)
        if vectorize:
            sch.vectorize(lane)


@right("attention.2")
def fetch_with_the_layout_last(sch, threads):
    fetch_but(sch, threads, turn=False)
    sch.transform_layout(sch.get_sblock("K_load"), ("write", 0), lambda j, k: (k, j))


@right("attention.2")
def fetch_in_two_splits(sch, threads):
    sch.transform_layout("K_load", ("write", 0), lambda j, k: (k, j))
    for name in ("V_load", "K_load", "Q_load"):
        *_, i, j = sch.get_loops(sch.get_sblock(name))
        rest, lane = sch.split(sch.fuse(i, j), [None, WIDTH])
        rest, x = sch.split(rest, [None, threads[1]])
        _, y = sch.split(rest, [None, threads[0]])
        sch.vectorize(lane)
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")


@wrong("attention.2", "the loop nest is what it was before", hint="Which object do your primitives")
def fetch_nothing(sch, threads):
    sch.get_sblock("Q_load")


@wrong("attention.2", "transform_layout turns it round", hint="Three copies, each shared")
def fetch_without_turning_k(sch, threads):
    fetch_but(sch, threads, turn=False)


@wrong("attention.2", 'No loop of "V_load" is bound')
def fetch_q_and_k_only(sch, threads):
    fetch_but(sch, threads, names=("Q_load", "K_load"))


@wrong("attention.2", "is not shared out along threadIdx.y")
def fetch_along_x_only(sch, threads):
    fetch_but(sch, threads, y=None)


@wrong("attention.2", "expected WIDTH")
def fetch_without_vectors(sch, threads):
    fetch_but(sch, threads, vectorize=False)


@wrong("attention.2", "x is the inner one")
def fetch_with_x_outside(sch, threads):
    fetch_but(sch, threads, exchanged=True)


@wrong("attention.2", "Each thread copies a run of Q of its own")
def fetch_in_runs(sch, threads):
    fetch_but(sch, threads, runs=True)


# ---------------------------------------------------------------------------------------- 3 product


def product_but(
    sch,
    name,
    threads,
    deep,
    factor=-1,
    scope="local",
    at="ki",
    vectorize=True,
    unroll=("ki", "yi", "xi"),
    start="ko",
    order="y x ko ki yi xi",
    bind=("y", "x"),
    copied=True,
):
    """The reference, with one thing changed."""
    block = sch.get_sblock(name)
    *_, i, j, k = sch.get_loops(block)
    named = {}
    named["y"], named["yi"] = sch.split(i, [threads[0], None])
    named["x"], named["xi"] = sch.split(j, [threads[1], None])
    named["ko"], named["ki"] = sch.split(k, [None, deep])
    sch.reorder(*[named[loop] for loop in order.split()])
    for loop in bind:
        sch.bind(named[loop], f"threadIdx.{loop}")
    if copied:
        copy = sch.cache_read(block, factor % len(sch.get(block).reads), scope)
        sch.compute_at(copy, named[at])
        if vectorize:
            sch.vectorize(sch.get_loops(copy)[-1])
    for loop in unroll:
        sch.unroll(named[loop])
    if start:
        sch.decompose_reduction(block, named[start])


@right("attention.3")
def product_with_the_copy_last(sch, name, threads, deep):
    product_but(sch, name, threads, deep, copied=False, start=None)
    block = sch.get_sblock(name)
    *_, ki, _, _ = sch.get_loops(block)
    copy = sch.cache_read(block, {"S": 1, "O": 2}[name], "local")
    sch.compute_at(copy, ki)
    sch.vectorize(sch.get_loops(copy)[-1])
    sch.decompose_reduction(block, sch.get_loops(block)[-4])


@right("attention.3")
def product_with_an_unrolled_start(sch, name, threads, deep):
    product_but(sch, name, threads, deep)
    *_, i, j = sch.get_loops(sch.get_sblock(f"{name}_init"))
    sch.unroll(i)
    sch.unroll(j)


@wrong("attention.3", "the loop nest is what it was before", hint="Which object do your primitives")
def product_of_nothing(sch, name, threads, deep):
    sch.get_sblock(name)


@wrong("attention.3", "decompose_reduction(block, ko) puts it before ko")
def product_that_asks_every_time(sch, name, threads, deep):
    product_but(sch, name, threads, deep, start=None)


@wrong("attention.3", "reads K_shared itself", hint="For one ki a thread needs")
def product_without_a_copy(sch, name, threads, deep):
    product_but(sch, name, threads, deep, copied=False)


@wrong("attention.3", "is made outside of ki")
def product_copied_too_early(sch, name, threads, deep):
    product_but(sch, name, threads, deep, at="ko")


@wrong("attention.3", "4 times the loads")
def product_copied_for_every_row(sch, name, threads, deep):
    product_but(sch, name, threads, deep, at="yi")


@wrong("attention.3", "a number at a time (")
def product_with_a_scalar_copy(sch, name, threads, deep):
    product_but(sch, name, threads, deep, vectorize=False)


@wrong("attention.3", "Registers have no addresses")
def product_with_a_rolled_loop(sch, name, threads, deep):
    product_but(sch, name, threads, deep, unroll=("ki", "yi"))


@wrong("attention.3", "threads along y and", hint="Each thread has rows along")
def product_along_x_only(sch, name, threads, deep):
    product_but(sch, name, threads, deep, bind=("x",))


@wrong("attention.3", "expected y, x (bound), ko, ki, yi, xi")
def product_with_x_outside(sch, name, threads, deep):
    product_but(sch, name, threads, deep, order="x y ko ki yi xi")


# --------------------------------------------------------------------------------------- 4 own_rows


def rows_of(sch, name):
    return sch.get_loops(sch.get_sblock(name))[-lesson.ROWS[name]]


@right("attention.4")
def own_rows_by_their_count(sch, name, threads):
    rows = rows_of(sch, name)
    own = int(sch.get(rows).extent) // threads[0]
    outer, inner = sch.split(rows, [None, own])
    sch.unroll(inner)
    sch.bind(outer, "threadIdx.y")


@right("attention.4")
def own_rows_by_names(sch, name, threads):
    loops = sch.get_loops(sch.get_sblock(name))
    rows = loops[-2] if name in ("new", "total") else loops[-1]
    y, own = sch.split(rows, [threads[0], None])
    sch.bind(y, "threadIdx.y")
    sch.unroll(own)


@wrong("attention.4", "the loop nest is what it was before", hint="Which object do your primitives")
def own_rows_of_nothing(sch, name, threads):
    sch.get_sblock(name)


@wrong("attention.4", "in registers that no other can read", hint="A row belongs to the threads")
def own_rows_along_both_axes(sch, name, threads):
    y, x = sch.split(rows_of(sch, name), [threads[0], None])
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")


@wrong("attention.4", "each thread would keep the numbers of all")
def own_rows_only_unrolled(sch, name, threads):
    sch.unroll(rows_of(sch, name))


@wrong("attention.4", "registers become memory")
def own_rows_without_unrolling(sch, name, threads):
    y, _ = sch.split(rows_of(sch, name), [threads[0], None])
    sch.bind(y, "threadIdx.y")


@wrong("attention.4", "a thread's rows lie side by side")
def own_rows_far_apart(sch, name, threads):
    own, y = sch.split(rows_of(sch, name), [None, threads[0]])
    sch.unroll(own)
    sch.bind(y, "threadIdx.y")
