"""Lab: tensor cores, where a warp multiplies tiles.

    python -m tvm_practice.labs.tensor_cores --target cuda-sim      run this lesson, no GPU needed
    python -m tvm_practice.labs.tensor_cores --hint tensor_cores.1  a nudge, when you are stuck

A processor of a V100 has 64 units that multiply and add float32 numbers, and eight tensor cores.
Each of these multiplies two 4 x 4 matrices of float16 in a cycle and adds the product to a matrix
of float32: 64 multiplications where a float32 unit does one. Eight times as many in all, if the
program asks for them; a loop over numbers never does.

CUDA offers them by five functions (its name for them is WMMA, warp matrix multiply-accumulate). It
is always a whole warp that calls one, its 32 threads together, and the operands are tiles of
16 x 16:

    fill_fragment       set a tile of sums to zero
    load_matrix_sync    fetch a tile of A, or one of B
    mma_sync            sums += A's tile @ B's tile
    store_matrix_sync   store a tile of sums

A tile lies in the registers of all 32 threads, eight numbers of a sum in each. Which thread has
which is not told; it is called a fragment, and no other code may look inside. So the schedule
has to deal in tiles from beginning to end: blocks of tiles, copies of tiles, and then each loop
over the inside of a tile becomes one of the five, by tensorization, as in the lab on the CPU's
instruction.

The sums lose nothing by the short numbers: a product of two float16 has 22 binary digits, and a
float32 has room for 24. What is lost was lost before, when A and B became float16.
"""

from dataclasses import dataclass

from tvm import te, tirx
from tvm.s_tir import Schedule, TensorIntrin
from tvm.s_tir.schedule import SBlockRV
from tvm.script import tirx as T

from tvm_practice.common.exercise import GPU, exercise

EDGE = 16  # rows and columns of a tile
WARP = 32  # threads of a warp


def matmul(M: int, N: int, K: int) -> Schedule:
    """C = A @ B for float16 A (M x K) and B (K x N), float32 C, with the default loops."""
    A = te.placeholder((M, K), "float16", name="A")
    B = te.placeholder((K, N), "float16", name="B")
    k = te.reduce_axis((0, K), name="k")

    def rule(i, j):
        return te.sum(A[i, k].astype("float32") * B[k, j].astype("float32"), axis=k)

    return Schedule(te.create_prim_func([A, B, te.compute((M, N), rule, name="C")]))


@dataclass(frozen=True)
class Tiling:
    """How the tiles are dealt out.

    warps: of a block, along i and along j. each: tiles of C that a warp computes, along i and j.
    depth: tiles along k that are fetched at a time.
    """

    warps: tuple[int, int]
    each: tuple[int, int]
    depth: int

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of C that a block computes, and how far along k it goes at a time."""
        rows, columns = (n * own * EDGE for n, own in zip(self.warps, self.each, strict=True))
        return rows, columns, self.depth * EDGE


# 128 x 128 elements of C for a block of eight warps. M, N and K have to be multiples of .block.
V100 = Tiling(warps=(2, 4), each=(4, 2), depth=2)


# ------------------------------------------------------------------------------ 1 tiles and warps
#
# The loops are to be these, and the last three are what one mma_sync does:
#
#     for by, bx:                     a block
#         for warp:                   one of its warps, warps[0] x warps[1]
#             for ko, ki:             `depth` tiles along k at a time, one after the other
#                 for fi, fj:         the warp's own tiles of C, each[0] x each[1]
#                     for it, jt, kt:     the inside of a tile, 16 x 16 x 16
#
# Bind by, bx and warp, to "threadIdx.y" this last one: "threadIdx.x" is kept for the 32 threads of
# a warp, and no loop here is theirs. They get something to do in step 3. Whether the warps are
# counted row by row or column by column changes nothing: each has its own tiles either way, and
# what they share, they all fetch together.
#
# One primitive is new. `sch.blockize(it)` wraps it and all inside of it as one block, "C_o" here,
# that reads and writes tiles. From then on "C_o" can be copied for and moved around as a whole, and
# what a primitive sees of it are tiles; the block "C" is inside, untouched, until step 4.
#
# Worked, on something smaller: a copy whose two loops run over elements is made to run over tiles.


def over_tiles(sch: Schedule, copy: SBlockRV) -> None:
    """Split the last two loops of a copy into loops over tiles, and inside of them, over a tile."""
    *_, i, j = sch.get_loops(copy)
    fi, it = sch.split(i, [None, EDGE])
    fj, jt = sch.split(j, [None, EDGE])
    sch.reorder(fi, fj, it, jt)


@exercise("tensor_cores.1", "Deal out tiles to warps", target=GPU)
def tile(sch: Schedule, warps: tuple[int, int], each: tuple[int, int], depth: int) -> None:
    """Loops by, bx, warp (bound), ko, ki, fi, fj around a block "C_o" of 16 x 16 x 16.

    sch: the matmul with its default loops i, j, k around the block "C". Tile rows of C belong to
    by, then to the warp's row, then to fi; columns to bx, the warp's column, fj.
    """
    # TODO(tensor_cores.1): about 11 lines; sch.fuse makes one loop of the warps' two.
    raise NotImplementedError("tensor_cores.1 tile")


# ------------------------------------------------------------------------------------ 2 fragments
#
# Fragments are memory to TVM, in three scopes of their own: "wmma.matrix_a", "wmma.matrix_b" and
# "wmma.accumulator", the sums. What "local" was to a thread in 2.8 they are to a warp, and they are
# used in the same way: the sums stay for all of k, and the tiles of A and B for one ki, in which
# each is used for several multiplications. A warp with 4 x 2 tiles of C loads 4 + 2 tiles for 8
# multiplications, where one with a single tile loads 2 for 1.


@exercise("tensor_cores.2", "Keep tiles in fragments", target=GPU)
def fragments(sch: Schedule) -> None:
    """Copy what "C_o" reads to fragments inside ki, add up in fragments inside warp, and let the
    three copies run over tiles.

    sch: as tensor_cores.1 leaves it; "C_o" reads A and B, numbers 0 and 1.
    """
    # TODO(tensor_cores.2): about 8 lines; `over_tiles` is at hand.
    raise NotImplementedError("tensor_cores.2 fragments")


# ----------------------------------------------------------------------------------- 3 the fetch
#
# Each tile is now fetched from global memory by every warp that needs it. Step 2.7's answer holds:
# the block fetches a piece of A and one of B for each ko, all of its threads together, into shared
# memory, and the fragments are loaded from there. The blocks that load the fragments are called
# "A_wmma.matrix_a" and "B_wmma.matrix_b"; each reads one thing, number 0, and that is what gets a
# copy. A thread moves 16 bytes at once, which now are 8 numbers. And here are the 32 threads of a
# warp: threadIdx.x.
#
# Two rows of a piece of A, 32 numbers wide, lie 64 bytes apart, and that is half the 128 bytes of
# the 32 banks: rows 0, 2, 4, ... begin in the same bank. Where a fragment is loaded in portions of
# 16 bytes from eight rows at a time, four of them queue. (So `ldmatrix` loads, from sm_75 on. What
# a V100 does NVIDIA does not say; take it as a model, whose rounds are counted below.) The cure is
# the one before 2.9: rows a little further apart. `sch.storage_align(copy, 0, axis=0, factor=32,
# offset=8)` makes the distance of two rows 8 more than a multiple of 32 numbers; 8 because rows
# have to begin at multiples of 16 bytes, both for a copy that moves 16 bytes at once and for
# load_matrix_sync.


def bank_rounds(stride: int) -> int:
    """How many rounds the banks need for 16 bytes of each of eight rows, `stride` float16 apart."""
    banks = [row * stride // 2 % 32 for row in range(8)]
    return max(banks.count(bank) for bank in banks)


@exercise("tensor_cores.3", "Fetch pieces for the whole block", target=GPU)
def share(sch: Schedule) -> None:
    """Copy what the fragments are loaded from to shared memory inside ko: the warps along
    threadIdx.y, the 32 threads of each along threadIdx.x, 8 neighbours vectorized, rows 8 numbers
    more than a multiple of 32 apart.

    sch: as tensor_cores.2 leaves it.
    """
    # TODO(tensor_cores.3): about 10 lines; `sch.get(warp).extent` is the number of warps.
    raise NotImplementedError("tensor_cores.3 share")


# ---------------------------------------------------------------------------- the five instructions
#
# For each, what it computes, as loops that TVM can look for in the program, and the call that
# replaces them. TVM has these and many more in tvm.s_tir.tensor_intrin.cuda, where importing it
# parses all of them, for seconds; they are worth reading once. offset_factor=16 says that a tile
# begins at a multiple of 16 numbers; `stride` is how far apart its rows are.


def number(tile, stride):
    """Which fragment a tile is. A scope holds an array of them, counted row by row."""
    row, column = tile.elem_offset // stride // EDGE, tile.elem_offset % stride // EDGE
    return row * (stride // EDGE) + column


def copy_of_a_tile(dtype: str, source: str, destination: str) -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((EDGE, EDGE), dtype, offset_factor=EDGE, scope=source),
        C: T.Buffer((EDGE, EDGE), dtype, offset_factor=EDGE, scope=destination),
    ) -> None:
        with T.sblock("root"):
            T.reads(A[0:EDGE, 0:EDGE])
            T.writes(C[0:EDGE, 0:EDGE])
            for i, j in T.grid(EDGE, EDGE):
                with T.sblock("copy"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = A[vi, vj]

    return description


def load(scope: str) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    @T.prim_func(s_tir=True)
    def call(a: T.handle, c: T.handle) -> None:
        rows = T.int32()
        stride = T.int32()
        A = T.match_buffer(
            a, (EDGE, EDGE), "float16", strides=[rows, 1], offset_factor=EDGE, scope="shared"
        )
        C = T.match_buffer(
            c, (EDGE, EDGE), "float16", strides=[stride, 1], offset_factor=EDGE, scope=scope
        )
        with T.sblock("root"):
            T.reads(A[0:EDGE, 0:EDGE])
            T.writes(C[0:EDGE, 0:EDGE])
            T.tvm_load_matrix_sync(
                *(C.data, EDGE, EDGE, EDGE, number(C, stride)),
                *(A.access_ptr("r", ptr_type="float16"), rows, "row_major"),
                dtype="void",
            )

    return copy_of_a_tile("float16", "shared", scope), call


def store() -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    scope = "wmma.accumulator"

    @T.prim_func(s_tir=True)
    def call(a: T.handle, c: T.handle) -> None:
        rows = T.int32()
        stride = T.int32()
        A = T.match_buffer(
            a, (EDGE, EDGE), "float32", strides=[stride, 1], offset_factor=EDGE, scope=scope
        )
        C = T.match_buffer(
            c, (EDGE, EDGE), "float32", strides=[rows, 1], offset_factor=EDGE, scope="global"
        )
        with T.sblock("root"):
            T.reads(A[0:EDGE, 0:EDGE])
            T.writes(C[0:EDGE, 0:EDGE])
            T.tvm_store_matrix_sync(
                *(A.data, EDGE, EDGE, EDGE, number(A, stride)),
                *(C.access_ptr("w", ptr_type="float32"), rows, "row_major"),
                dtype="void",
            )

    return copy_of_a_tile("float32", scope, "global"), call


def fill() -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    scope = "wmma.accumulator"

    @T.prim_func(s_tir=True)
    def description(
        C: T.Buffer((EDGE, EDGE), "float32", offset_factor=EDGE, scope=scope),
    ) -> None:
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:EDGE, 0:EDGE])
            for i, j in T.grid(EDGE, EDGE):
                with T.sblock("zero"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = T.float32(0)

    @T.prim_func(s_tir=True)
    def call(c: T.handle) -> None:
        stride = T.int32()
        C = T.match_buffer(
            c, (EDGE, EDGE), "float32", strides=[stride, 1], offset_factor=EDGE, scope=scope
        )
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:EDGE, 0:EDGE])
            T.tvm_fill_fragment(
                *(C.data, EDGE, EDGE, EDGE, number(C, stride)), T.float32(0), dtype="void"
            )

    return description, call


def multiply() -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    a_scope, b_scope, c_scope = "wmma.matrix_a", "wmma.matrix_b", "wmma.accumulator"

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((EDGE, EDGE), "float16", offset_factor=EDGE, scope=a_scope),
        B: T.Buffer((EDGE, EDGE), "float16", offset_factor=EDGE, scope=b_scope),
        C: T.Buffer((EDGE, EDGE), "float32", offset_factor=EDGE, scope=c_scope),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:EDGE, 0:EDGE], A[0:EDGE, 0:EDGE], B[0:EDGE, 0:EDGE])
            T.writes(C[0:EDGE, 0:EDGE])
            for i, j, k in T.grid(EDGE, EDGE, EDGE):
                with T.sblock("multiply"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "float32") * T.cast(
                        B[vk, vj], "float32"
                    )

    @T.prim_func(s_tir=True)
    def call(a: T.handle, b: T.handle, c: T.handle) -> None:
        of_a = T.int32()
        of_b = T.int32()
        of_c = T.int32()
        A = T.match_buffer(
            a, (EDGE, EDGE), "float16", strides=[of_a, 1], offset_factor=EDGE, scope=a_scope
        )
        B = T.match_buffer(
            b, (EDGE, EDGE), "float16", strides=[of_b, 1], offset_factor=EDGE, scope=b_scope
        )
        C = T.match_buffer(
            c, (EDGE, EDGE), "float32", strides=[of_c, 1], offset_factor=EDGE, scope=c_scope
        )
        with T.sblock("root"):
            T.reads(C[0:EDGE, 0:EDGE], A[0:EDGE, 0:EDGE], B[0:EDGE, 0:EDGE])
            T.writes(C[0:EDGE, 0:EDGE])
            T.tvm_mma_sync(
                *(C.data, number(C, of_c), A.data, number(A, of_a)),
                *(B.data, number(B, of_b), C.data, number(C, of_c)),
                dtype="void",
            )

    return description, call


def register() -> dict[str, str]:
    """Register the five, and return their names for `sch.tensorize` by what they do."""
    made = {
        "fill": fill(),
        "load_a": load("wmma.matrix_a"),
        "load_b": load("wmma.matrix_b"),
        "multiply": multiply(),
        "store": store(),
    }
    for name, (description, call) in made.items():
        TensorIntrin.register(f"tvm_practice.wmma_{name}", description, call, override=True)
    return {name: f"tvm_practice.wmma_{name}" for name in made}


# ------------------------------------------------------------------------------------ 4 tensorize
#
# `sch.tensorize(loop, name)` replaces a loop, with all inside of it, by an instruction that does
# the same. The worked one is the zeroing. It is still part of the multiplication, "if k is 0";
# decompose_reduction takes it out, as a block of its own in front of ko, "C_init". The last two of
# its loops are the inside of a tile.


def tensorize_zeroing(sch: Schedule, fill: str) -> None:
    """Zero the warp's tiles of sums before ko, each by one instruction."""
    block = sch.get_sblock("C_o")
    _, _, _, ko, _, _, _ = sch.get_loops(block)
    sch.decompose_reduction(block, ko)
    *_, it, _ = sch.get_loops(sch.get_sblock("C_init"))
    sch.tensorize(it, fill)


# Four are left: the block "C" inside of "C_o", and the three copies, whose blocks are called
# "A_wmma.matrix_a", "B_wmma.matrix_b" and, for the sums, "C_wmma.accumulator".


@exercise("tensor_cores.4", "Replace the inside of each tile", target=GPU)
def tensorize(sch: Schedule, instructions: dict[str, str]) -> None:
    """Replace the inside of the tiles in the four other blocks by "load_a", "load_b", "multiply"
    and "store", all keys of `instructions`.

    sch: as `tensorize_zeroing` leaves it, after tensor_cores.3.
    """
    # TODO(tensor_cores.4): about 7 lines.
    raise NotImplementedError("tensor_cores.4 tensorize")


STEPS = {
    "tensor_cores.1": "tiles",
    "tensor_cores.2": "fragments",
    "tensor_cores.3": "shared memory",
    "tensor_cores.4": "instructions",
}


def climb(sch: Schedule, exercise_id: str, step, tiling: Tiling = V100) -> None:
    """Take one step; `step` is a body of the exercise."""
    if exercise_id == "tensor_cores.1":
        step(sch, tiling.warps, tiling.each, tiling.depth)
    elif exercise_id == "tensor_cores.4":
        instructions = register()
        tensorize_zeroing(sch, instructions["fill"])
        step(sch, instructions)
    else:
        step(sch)


# When you run this file, it counts what the tensor cores ask of memory. Before you look: if
# multiplying takes an eighth of the time, what else has to be eight times as fast, or be asked for
# an eighth?
