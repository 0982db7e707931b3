"""Lab: attention in one kernel.

    python -m tvm_practice.labs.attention --target cuda-sim    run this lesson, no GPU needed
    python -m tvm_practice.labs.attention --hint attention.1   a nudge, when you are stuck

Attention compares each of `length` queries with each of as many keys, and takes a weighted mean of
the values:

    S = Q @ K.T / sqrt(d)               scores: length x length
    P = exp(S) / sum of exp(S)          softmax, along each row
    O = P @ V

Q, K, V and O are length x d, with d as small as 64. S and P are length x length: with a length of
1024, sixteen times as large. Three kernels, one for each line, write S, read it, write P and read
it, and that traffic is most of their time. In one kernel S and P need not exist: a block of threads
takes some queries and goes over the keys piece by piece, and a piece of S lives in its processor.
FlashAttention (Dao and others, 2022) made that known.

What stands in the way is the softmax. Its sum runs over a whole row, and before the sum it needs
the row's highest score, since exp of anything above 88 overflows in float32; one subtracts the
highest first, which changes nothing in the quotient. The first exercise is about how to have both
after one pass, the others about the schedule.
"""

import math
from collections.abc import Callable

from tvm.s_tir import Schedule
from tvm.script import tirx as T

from tvm_practice.common.exercise import GPU, exercise

LOWEST = -3.0e38  # below any score: the highest of none
WIDTH = 4  # float32 numbers that a thread moves at once, 16 bytes

# --------------------------------------------------------------------------- 1 softmax in one pass
#
# Keep two numbers for a row, and let them be true of the scores seen so far:
#
#     highest    of them
#     total      the sum of exp(score - highest)
#
# Then a score comes, and there are two cases. If it is lower than `highest`, its own term is added.
# If it is higher, every term so far was made with the wrong `highest`: exp(score - old) should have
# been exp(score - new). But that is the same factor for all of them, whatever they were.


@exercise("attention.1", "Add a score to a running softmax", target=GPU)
def extend(highest, total, score) -> tuple:
    """(highest, total) of one score more, as TVM expressions: T.max, T.exp, arithmetic.

    highest, total: of the scores before, LOWEST and 0 if there are none. No exp may overflow.
    """
    # TODO(attention.1): about 3 lines, and no condition.
    raise NotImplementedError("attention.1 extend")


# ------------------------------------------------------------------------------------- the program
#
# te cannot say this: what it computes is defined once, by an expression, and here sums are
# corrected on the way. TensorIR can, and it has the right place. A reduction block has two parts:
# T.init says where its result starts, and the body adds to it. Usually it starts from zero. Here,
# at every piece of keys, it starts from what there was, times the factor by which that shrinks:
#
#     new          starts from highest              max with each score of the piece
#     total        starts from total * shrink       plus each exp(score - new)
#     O_local      starts from O_local * shrink     plus each exp(score - new) * V
#
# The blocks inside of "step" are one piece. Buffers made by T.sblock_alloc_buffer belong to the
# block they are made in; "scores" and "weighted" only hold one product each, so that a schedule of
# it sees nothing else.


def attention(heads: int, length: int, d: int, rows: int, columns: int) -> Schedule:
    """Q, K, V to O, all heads x length x d, in float32, with the default loops.

    A block takes `rows` queries of one head, and `columns` keys and values at a time.
    """
    pieces = length // columns
    scale = 1 / math.sqrt(d)

    @T.prim_func(s_tir=True)
    def main(
        Q: T.Buffer((heads, length, d), "float32"),
        K: T.Buffer((heads, length, d), "float32"),
        V: T.Buffer((heads, length, d), "float32"),
        O: T.Buffer((heads, length, d), "float32"),  # noqa: E741
    ) -> None:
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for head, tile in T.grid(heads, length // rows):
            with T.sblock("attend"):
                h, q = T.axis.remap("SS", [head, tile])
                T.reads(
                    Q[h, q * rows : q * rows + rows, 0:d], K[h, 0:length, 0:d], V[h, 0:length, 0:d]
                )
                T.writes(O[h, q * rows : q * rows + rows, 0:d])
                Q_shared = T.sblock_alloc_buffer((rows, d), "float32", scope="shared")
                highest = T.sblock_alloc_buffer((rows,), "float32", scope="local")
                total = T.sblock_alloc_buffer((rows,), "float32", scope="local")
                O_local = T.sblock_alloc_buffer((rows, d), "float32", scope="local")
                for i, k in T.grid(rows, d):
                    with T.sblock("Q_load"):
                        vi, vk = T.axis.remap("SS", [i, k])
                        Q_shared[vi, vk] = Q[h, q * rows + vi, vk] * T.float32(scale)
                for i in range(rows):
                    with T.sblock("start"):
                        vi = T.axis.spatial(rows, i)
                        highest[vi] = T.float32(LOWEST)
                        total[vi] = T.float32(0)
                for i, c in T.grid(rows, d):
                    with T.sblock("O_zero"):
                        vi, vc = T.axis.remap("SS", [i, c])
                        O_local[vi, vc] = T.float32(0)
                for piece in range(pieces):
                    with T.sblock("step"):
                        p = T.axis.reduce(pieces, piece)
                        T.reads(
                            *(Q_shared[0:rows, 0:d], O_local[0:rows, 0:d]),
                            *(highest[0:rows], total[0:rows]),
                            K[h, p * columns : p * columns + columns, 0:d],
                            V[h, p * columns : p * columns + columns, 0:d],
                        )
                        T.writes(highest[0:rows], total[0:rows], O_local[0:rows, 0:d])
                        K_shared = T.sblock_alloc_buffer((columns, d), "float32", scope="shared")
                        V_shared = T.sblock_alloc_buffer((columns, d), "float32", scope="shared")
                        S_local = T.sblock_alloc_buffer((rows, columns), "float32", scope="local")
                        S_shared = T.sblock_alloc_buffer((rows, columns), "float32", scope="shared")
                        P_shared = T.sblock_alloc_buffer((rows, columns), "float32", scope="shared")
                        new = T.sblock_alloc_buffer((rows,), "float32", scope="local")
                        shrink = T.sblock_alloc_buffer((rows,), "float32", scope="local")
                        for j, k in T.grid(columns, d):
                            with T.sblock("K_load"):
                                vj, vk = T.axis.remap("SS", [j, k])
                                K_shared[vj, vk] = K[h, p * columns + vj, vk]
                        for j, c in T.grid(columns, d):
                            with T.sblock("V_load"):
                                vj, vc = T.axis.remap("SS", [j, c])
                                V_shared[vj, vc] = V[h, p * columns + vj, vc]
                        with T.sblock("scores"):
                            for i, j, k in T.grid(rows, columns, d):
                                with T.sblock("S"):
                                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                                    with T.init():
                                        S_local[vi, vj] = T.float32(0)
                                    S_local[vi, vj] += Q_shared[vi, vk] * K_shared[vj, vk]
                        for i, j in T.grid(rows, columns):
                            with T.sblock("S_store"):
                                vi, vj = T.axis.remap("SS", [i, j])
                                S_shared[vi, vj] = S_local[vi, vj]
                        for i, j in T.grid(rows, columns):
                            with T.sblock("new"):
                                vi, vj = T.axis.remap("SR", [i, j])
                                with T.init():
                                    new[vi] = highest[vi]
                                new[vi] = T.max(new[vi], S_shared[vi, vj])
                        for i in range(rows):
                            with T.sblock("shrink"):
                                vi = T.axis.spatial(rows, i)
                                shrink[vi] = T.exp(highest[vi] - new[vi])
                        for i, j in T.grid(rows, columns):
                            with T.sblock("P"):
                                vi, vj = T.axis.remap("SS", [i, j])
                                P_shared[vi, vj] = T.exp(S_local[vi, vj] - new[vi])
                        for i, j in T.grid(rows, columns):
                            with T.sblock("total"):
                                vi, vj = T.axis.remap("SR", [i, j])
                                with T.init():
                                    total[vi] = total[vi] * shrink[vi]
                                total[vi] += P_shared[vi, vj]
                        for i in range(rows):
                            with T.sblock("keep"):
                                vi = T.axis.spatial(rows, i)
                                highest[vi] = new[vi]
                        with T.sblock("weighted"):
                            for i, c, j in T.grid(rows, d, columns):
                                with T.sblock("O"):
                                    vi, vc, vj = T.axis.remap("SSR", [i, c, j])
                                    with T.init():
                                        O_local[vi, vc] = O_local[vi, vc] * shrink[vi]
                                    O_local[vi, vc] += P_shared[vi, vj] * V_shared[vj, vc]
                for i, c in T.grid(rows, d):
                    with T.sblock("O_store"):
                        vi, vc = T.axis.remap("SS", [i, c])
                        O[h, q * rows + vi, vc] = O_local[vi, vc] / total[vi]

    return Schedule(main)


# ------------------------------------------------------------------------------ blocks and threads
#
# The two outer loops are the blocks of the grid. Inside, every step is taken by all threads of a
# block together, and each has its own tile of everything that is `rows` high: a few rows, and a few
# columns. What one thread computes from another's tile goes through shared memory, and TVM puts the
# barriers there. Worked: the steps that compute element by element.

ELEMENTS = ("O_zero", "S_store", "P", "O_store")


def own_tile(sch: Schedule, name: str, threads: tuple[int, int]) -> None:
    """Give each thread a tile of the block's last two loops."""
    *_, i, j = sch.get_loops(sch.get_sblock(name))
    y, yi = sch.split(i, [threads[0], None])
    x, xi = sch.split(j, [threads[1], None])
    sch.reorder(y, x, yi, xi)
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    sch.unroll(yi)
    sch.vectorize(xi)


def begin(sch: Schedule, threads: tuple[int, int]) -> None:
    """Bind the blocks of the grid, and share out what is done element by element."""
    head, tile = sch.get_loops(sch.get_sblock("attend"))
    sch.bind(head, "blockIdx.y")
    sch.bind(tile, "blockIdx.x")
    for name in ELEMENTS:
        own_tile(sch, name, threads)


# ---------------------------------------------------------------------------------------- 2 fetch
#
# Q, K and V are fetched as in 2.7: all threads, neighbours to neighbours, 16 bytes each. One thing
# is different with K. In the product S[i, j] += Q[i, k] * K[j, k] neighbouring threads have
# neighbouring j, and so they read a column of K_shared, rows of d = 64 words apart: all in the same
# bank, one after the other. K_shared has to lie the other way round, K_shared[k, j].
#
# `sch.transform_layout("K_load", ("write", 0), lambda j, k: (k, j))` does that: it changes the
# buffer that the block writes, and everyone who reads it. The loops of the block stay as they are,
# and so its stores now meet in a bank instead. But an element is stored once, and read for every
# row of the tile.


@exercise("attention.2", "Fetch Q, K and V, and turn K round", target=GPU)
def fetch(sch: Schedule, threads: tuple[int, int]) -> None:
    """Let the last two loops of "Q_load", "K_load" and "V_load" be shared out, WIDTH elements to a
    thread, vectorized; and K_shared be d x columns.

    sch: as `begin` leaves it.
    """
    # TODO(attention.2): about 7 lines.
    raise NotImplementedError("attention.2 fetch")


# ------------------------------------------------------------------------------------- 3 products
#
# Both products are 2.8: a tile of the result for each thread, in registers (S_local and O_local are
# that already), and a copy of a row's part of the right factor, read 16 bytes at once. The loops
# are to be y, x (bound), ko, ki, yi, xi. The reduction starts before ko, whatever it starts from:
# decompose_reduction does not mind that it is no zero.


@exercise("attention.3", "Share out a product", target=GPU)
def product(sch: Schedule, name: str, threads: tuple[int, int], deep: int) -> None:
    """Give each thread a tile of the block `name`, "S" or "O", and split its reduction by `deep`.

    The right factor is the last of what the block reads: copy it to "local" inside of ki, with its
    last loop vectorized. Unroll ki, yi, xi. sch: as attention.2 leaves it.
    """
    # TODO(attention.3): about 14 lines; len(sch.get(block).reads) tells the factor's number.
    raise NotImplementedError("attention.3 product")


# ----------------------------------------------------------------------------------------- 4 rows
#
# What is left has one number for each row: highest, new, shrink, total. They are "local", in the
# registers of the threads; but a row has a whole line of threads, threadIdx.x, and each of them
# needs its numbers. So all of them compute them, the same ones, each for itself. That is more work,
# and no waiting: one of them alone would have the others wait, and then fetch the result from it.

# The blocks, and where their loop over rows stands, counted from the inside.
ROWS = {"start": 1, "new": 2, "shrink": 1, "total": 2, "keep": 1}


@exercise("attention.4", "Give each thread the numbers of its rows", target=GPU)
def own_rows(sch: Schedule, name: str, threads: tuple[int, int]) -> None:
    """Share out the rows of the block `name` along threadIdx.y, as `own_tile` does, and unroll a
    thread's own.

    name: a block of ROWS; its last loops are the rows, or the rows and the columns of a piece.
    """
    # TODO(attention.4): about 4 lines.
    raise NotImplementedError("attention.4 own_rows")


PRODUCTS = ("S", "O")
DEEP = 4

STEPS = {"attention.2": "fetch", "attention.3": "products", "attention.4": "rows"}


def climb(sch: Schedule, exercise_id: str, step: Callable, threads: tuple[int, int]) -> None:
    """Take one step; `step` is a body of the exercise."""
    if exercise_id == "attention.2":
        step(sch, threads)
    elif exercise_id == "attention.3":
        for name in PRODUCTS:
            step(sch, name, threads, DEEP)
    else:
        for name in ROWS:
            step(sch, name, threads)


# When you run this file, it counts the bytes that the kernel asks of global memory. Before you
# look: how often does it read K, and what decides that?
