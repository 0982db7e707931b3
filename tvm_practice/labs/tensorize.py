"""Lab: a loop nest becomes one instruction.

    python -m tvm_practice.labs.tensorize                       run this lesson
    python -m tvm_practice.labs.tensorize --hint tensorize.1    a nudge, when you are stuck

Quantized networks multiply small integers: activations 0 to 255, weights -128 to 127, sums of 32
bits. CPUs have an instruction for just that. In each of its lanes (16 with AVX-512) it multiplies
four bytes by four bytes, adds the four products, and adds that to a 32-bit sum: 64 multiplications
where a float32 multiply-add has 16.

    vpdpbusd    sums[i] += a[4 i] * b[4 i] + a[4 i + 1] * b[4 i + 1] + ... + a[4 i + 3] * b[4 i + 3]

A compiler finds it in a loop nest by luck, if at all; when you run this file you see which
instruction it takes instead. So you say where it is: you describe in TensorIR what the instruction
computes, arrange the program until it has a loop nest that computes the same, and ask TVM to put
one in the place of the other. TVM compares the two and refuses if they differ. This is
tensorization, and the same three steps reach the matrix units of GPUs.
"""

from tvm import te, tirx
from tvm.s_tir import Schedule, TensorIntrin
from tvm.script import tirx as T

from tvm_practice.common.exercise import exercise
from tvm_practice.common.target import cpu_has, slabs_for, vector_unit

# ---------------------------------------------------------------------------------- the instruction
#
# What the CPUs call it, by the feature that says that they have it: the lanes, and LLVM's name. All
# of them add exactly, in 32 bits. The x86 instruction of the same kind that is older, vpmaddubsw,
# does not: it adds two products in 16 bits, and a sum such as 2 * 255 * 127 = 64770 becomes 32767,
# the largest number there. A program with it runs, and is wrong where the bytes are large. Where
# this file finds none of these instructions, it says so and times nothing.

INSTRUCTIONS = {
    "avx512vnni": (16, "llvm.x86.avx512.vpdpbusd.512"),
    "avxvnni": (8, "llvm.x86.avx512.vpdpbusd.256"),
    "i8mm": (4, "llvm.aarch64.neon.usdot.v4i32.v16i8"),
}


def instruction() -> tuple[int, str] | None:
    """(lanes, LLVM's name) of this CPU's instruction, None if it has none."""
    return next((known for feature, known in INSTRUCTIONS.items() if cpu_has(feature)), None)


def implementation(lanes: int, name: str) -> tirx.PrimFunc:
    """C[0:lanes] += the instruction, on A's four bytes and B's lanes x 4.

    A's four bytes are the same for all lanes: seen as one 32-bit number they are broadcast, and
    then seen as bytes again. (TVM's own version of this, dot_16x4_vnni, leaves A and B 32-bit
    numbers, 16 of them, as older LLVMs wanted. The wheel's LLVM wants 64 bytes, and rejects it:
    "Call parameter type does not match function signature".)
    """
    bytes_ = f"int8x{4 * lanes}"
    sums = f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def call(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(name),
                C.vload([0], dtype=sums),
                T.reinterpret(
                    T.broadcast(T.reinterpret(A.vload([0], "uint8x4"), dtype="int32"), lanes),
                    dtype=bytes_,
                ),
                B.vload([0, 0], dtype=bytes_),
                dtype=sums,
            )

    return call


# -------------------------------------------------------------------------------- 1 the description
#
# A description is a function of its own in TensorIR, and says two things: which parts of which
# buffers it reads and writes, and with which loops. Here is one for a simpler instruction, the
# multiply-add of `lanes` floats, sums[i] += a[i] * b, where b is one number for all lanes:


def multiply_add(lanes: int) -> tirx.PrimFunc:
    """C[i] += A[i] * B[0] for `lanes` floats."""

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((lanes,), "float32", offset_factor=1),
        B: T.Buffer((1,), "float32", offset_factor=1),
        C: T.Buffer((lanes,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:lanes], B[0:1])
            T.writes(C[0:lanes])
            for i in range(lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    C[vi] = C[vi] + A[vi] * B[0]

    return description


# `offset_factor=1` says that each buffer may begin anywhere in a larger one; scope "local" that the
# sums are in registers. A loop of the result is bound to an axis by T.axis.spatial, a loop that is
# summed over by T.axis.reduce. The widening of a byte to 32 bits is T.cast(x, "int32"); it has to
# be there, since a sum of bytes would be a byte.
#
# TVM compares the description with the program word for word: A times B is not B times A to it.


@exercise("tensorize.1", "Say what the instruction computes")
def dot_product(lanes: int) -> tirx.PrimFunc:
    """C[i] += sum over the four k of A[k] * B[i, k], as TensorIR.

    A: 4 uint8, the same for all lanes. B: lanes x 4 int8. C: `lanes` int32, in scope "local". All
    with offset_factor=1, in this order. The loops are i around k.
    """
    # TODO(tensorize.1): about 14 lines, like `multiply_add` with a loop more.
    raise NotImplementedError("tensorize.1 dot_product")


# -------------------------------------------------------------------------------------- the program
#
# A quantized product, and its loops as in phase 2: slabs for the threads, panels, tiles of rows;
# then ko and, within a tile, the rows, the vectors of a row, the lanes of a vector, and four k.


def matmul(M: int, N: int, K: int) -> Schedule:
    """C = A @ B for uint8 A (M x K), int8 B (K x N), int32 C, with the default loops."""
    A = te.placeholder((M, K), "uint8", name="A")
    B = te.placeholder((K, N), "int8", name="B")
    k = te.reduce_axis((0, K), name="k")

    def rule(i, j):
        return te.sum(A[i, k].astype("int32") * B[k, j].astype("int32"), axis=k)

    return Schedule(te.create_prim_func([A, B, te.compute((M, N), rule, name="C")]))


def tile_of(M: int, N: int, lanes: int) -> tuple[int, int]:
    """(rows, vectors) of a register tile. Both divide the matrix, so that nothing has to be padded;
    beside the sums, the registers hold the vectors of B and one of A."""
    vectors = 2 if N % (2 * lanes) == 0 else 1
    _, registers = vector_unit()
    most = (registers - 1 - vectors) // vectors
    return max(rows for rows in range(1, most + 1) if M % rows == 0), vectors


def tile(sch: Schedule, rows: int, vectors: int, lanes: int) -> None:
    """Loops slab (parallel), jo, io, ko, ii, jv (both unrolled), lane, four around the block "C",
    which keeps its tile in registers. M, N, K are multiples of rows, vectors * lanes and 4."""
    block = sch.get_sblock("C")
    i, j, k = sch.get_loops(block)
    slabs = slabs_for(int(sch.get(i).extent) // rows)
    slab, io, ii = sch.split(i, [slabs, None, rows])
    jo, jv, lane = sch.split(j, [None, vectors, lanes])
    ko, four = sch.split(k, [None, 4])
    sch.reorder(slab, jo, io, ko, ii, jv, lane, four)
    sch.parallel(slab)
    sch.unroll(ii)
    sch.unroll(jv)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, io)
    *_, row, column = sch.get_loops(copy)
    vector, part = sch.split(column, [None, lanes])
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(part)


# ------------------------------------------------------------------------------------- 2 the layout
#
# The instruction reads 4 x lanes bytes of B in one piece. In B itself the four k of a column lie a
# row apart. So B is packed, as in 2.5, but with four rows woven together: for each panel and each
# group of four k, all the columns, and for each of them its four values.
#
#     B_global[jo, k // 4, j % columns, k % 4]
#
# A needs nothing: its four values of a row lie side by side.


@exercise("tensorize.2", "Weave four rows of B together")
def pack(sch: Schedule, columns: int) -> None:
    """Copy B to B_global[j // columns, k // 4, j % columns, k % 4], before the product starts.

    sch: as `tile` leaves it, with the block "C" (not yet decomposed: it reads A and B, which is
    number 1). The copy's loops are to be panel (parallel), k // 4, column, k % 4.
    """
    # TODO(tensorize.2): about 8 lines.
    raise NotImplementedError("tensorize.2 pack")


# -------------------------------------------------------------------------------------- 3 tensorize
#
# A description and an implementation are registered under a name:


def register(lanes: int, name: str, description: tirx.PrimFunc) -> str:
    """Register the instruction, and return the name to give to `sch.tensorize`."""
    known_as = f"tvm_practice.dot_{lanes}x4"
    TensorIntrin.register(known_as, description, implementation(lanes, name), override=True)
    return known_as


# `sch.tensorize(loop, name)` takes a loop, compares it and everything inside of it with the
# description, and replaces it. The description only adds to C. The block "C" also sets it to zero
# when k is 0, so that has to be taken apart first; and the zeroing's lanes want to be vectorized,
# which nobody else will do.


@exercise("tensorize.3", "Put the instruction in the place of the loops")
def tensorize(sch: Schedule, name: str) -> None:
    """Zero the tile before ko, with vectorized lanes; replace the loops lane and four by `name`.

    sch: as tensorize.2 leaves it, loops slab, jo, io, ko, ii, jv, lane, four around the block "C".
    name: what `register` returned.
    """
    # TODO(tensorize.3): about 5 lines.
    raise NotImplementedError("tensorize.3 tensorize")


# When you run this file, it times the program against the float32 product of phase 2. Before you
# look: the instruction does four times as many multiplications. What else is four times smaller?
