"""The simulator: what it says of a kernel that is wrong, and that right ones pass."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_kernels import beyond_the_stack, compile_for_ever, library_of, written
from tests.wrong_answers import answers_of
from tvm_practice.common import exercise, verify
from tvm_practice.common.cuda.kernels import NoKernel, kernels
from tvm_practice.common.cuda.simulate import DESCENDING, Finding, Simulated, simulated
from tvm_practice.common.exercise import GPU, REFERENCE, catalogue
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.verify import Wrong
from tvm_practice.common.worker import Worker, WorkerFailed, call
from tvm_practice.experiments import manual_schedule

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator compiles with g++, which is not installed"
)

SIZE = (64, 64, 48)
ANSWERS = Path(__file__).parent / "wrong_answers" / "manual_schedule.py"
# (exercise, "FILE.py:function") of every right answer beside the reference.
OTHERS = [
    (exercise_id, f"{ANSWERS}:{name}")
    for name, exercise_id, diagnosis in call(answers_of, "manual_schedule")
    if diagnosis is None and catalogue()[exercise_id].target == GPU
]


@pytest.fixture(scope="module")
def lesson():
    return exercise.load_lesson("manual_schedule")


def ladder(lesson, last: str, **others: str):
    """The schedule after a rung of the GPU's ladder, on small tiles; others: whose body of an
    exercise, if not the reference's."""
    sch = lesson.matmul(*SIZE)
    tiling = lesson.Tiling(threads=(8, 8), each=(1, 1), depth=8, width=1)
    if last in ("2.8", "2.9"):
        tiling = lesson.Tiling(threads=(8, 8), each=(4, 4), depth=8, width=4)
    for known in lesson.GPU_LADDER:
        lesson.climb_gpu(sch, known, exercise.body(known, others.get(known, REFERENCE)), tiling)
        if known == last:
            return sch
    raise AssertionError(last)


def operands(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """A, B and a C that holds NaN; the product; the magnitude of its terms."""
    M, N, K = SIZE
    rng = np.random.default_rng(seed)
    a, b = verify.random_array(rng, M, K), verify.random_array(rng, K, N)
    return [a, b, np.full((M, N), np.nan, "float32")], *verify.matmul_reference(a, b)


def without_barrier(source: str, number: int) -> str:
    """The source without one of its barriers."""
    first, last = list(re.finditer(r"__syncthreads\(\);", source))[number].span()
    return f"{source[:first]};{source[last:]}"


def test_an_element_is_traced_to_the_thread_that_wrote_it(lesson) -> None:
    M, N, _ = SIZE
    for rung, (rows, columns) in (("2.6", (8, 8)), ("2.8", (32, 32))):
        run = simulated(ladder(lesson, rung).mod)
        run(*operands()[0])
        each = rows // 8
        for i, j in ((0, 0), (M - 1, N - 1), (37, 10)):
            block, thread = (j // columns, i // rows), (j % columns // each, i % rows // each)
            assert (
                run.written("C", (i, j)) == f"It was written by thread {thread} of block {block}."
            )


def test_an_element_that_no_thread_writes_is_told(lesson) -> None:
    (kernel,) = kernels(ladder(lesson, "2.6").mod)
    source = kernel.source.replace("{\n", "{\n  if (((int)blockIdx.x) == 1) return;\n", 1)
    run = Simulated([replace(kernel, source=source)], loop_nest(ladder(lesson, "2.6").mod), "ABC")
    given, want, magnitude = operands()
    run(*given)
    with pytest.raises(Wrong, match=r"C\[0, 8\] = nan, expected .*\. No thread writes C\[0, 8\]\."):
        verify.assert_close(
            given[2], want, magnitude, SIZE[2], "C", (), lambda at: run.written("C", at)
        )


# ------------------------------------------------------------------------------------ its sentences


def mutant_of(lesson, rung: str, change) -> Finding:
    """What the simulator says of a rung's kernel after a change of its source."""
    sch = ladder(lesson, rung)
    (kernel,) = kernels(sch.mod)
    changed = replace(kernel, source=change(kernel.source))
    assert changed.source != kernel.source
    found = Simulated([changed], loop_nest(sch.mod), "ABC").run(operands()[0])
    assert found is not None
    return found


def test_a_missing_barrier_after_the_fetch_is_a_race_between_two_blocks(lesson) -> None:
    found = mutant_of(lesson, "2.7", lambda source: without_barrier(source, 1))
    assert found.kind == "read after write"
    assert re.search(
        r'^In block \(0, 0\), thread \(\d, \d\) reads [AB]_shared\[\d+\] in the block "C", which '
        r'thread \(\d, \d\) writes in the block "[AB]_shared", and no barrier stands between',
        found.sentence,
    ), found.sentence
    assert "A barrier is missing after" in found.sentence


def test_a_missing_barrier_before_the_fetch_is_the_other_race(lesson) -> None:
    found = mutant_of(lesson, "2.7", lambda source: without_barrier(source, 0))
    assert found.kind == "overwritten"
    assert "A barrier is missing before" in found.sentence


def test_a_barrier_under_a_condition_is_a_divergence(lesson) -> None:
    found = mutant_of(
        lesson,
        "2.7",
        lambda source: f"{source.rstrip()[:-1]}  if (((int)threadIdx.x) < 3) __syncthreads();\n}}",
    )
    assert found.kind == "divergence"
    assert found.sentence.startswith(
        "In block (0, 0), 24 threads wait at a barrier, and 40 have returned: they will wait"
    )


def test_an_index_outside_names_the_array_and_its_size(lesson) -> None:
    found = mutant_of(lesson, "2.6", lambda source: source.replace("A_ptr[", "A_ptr[4000 + "))
    assert found.kind == "outside"
    assert f"A has {SIZE[0] * SIZE[2]} elements" in found.sentence
    assert 'in the block "C"' in found.sentence


def test_a_short_fetch_is_shared_memory_that_nobody_wrote(lesson) -> None:
    found = mutant_of(
        lesson,
        "2.7",
        lambda source: re.sub(
            r"^( *)(A_shared_ptr\[)", r"\1if (((int)threadIdx.x) < 7) \2", source, flags=re.M
        ),
    )
    assert found.kind == "unwritten"
    assert "bring all that is read?" in found.sentence


def test_a_vector_at_an_odd_address_is_misaligned(lesson) -> None:
    found = mutant_of(
        lesson,
        "2.8",
        lambda source: source.replace("*(float4*)(A_ptr + ", "*(float4*)(A_ptr + 1 + "),
    )
    assert found.kind == "misaligned"


# ------------------------------------------------------------------- kernels that no schedule makes

LOWER_HALF = "if (((int)threadIdx.x) < 16)"
# By name: the body of a kernel of 32 threads, unless LAUNCHES says more, with arrays A and B of 64.
BODIES = {
    "a shuffle in a branch": f"{LOWER_HALF} B_ptr[t] = __shfl_down_sync(~0u, A_ptr[t], 8, 32);",
    "a shuffle after a return": """\
  if (((int)threadIdx.x) >= 16) return;
  B_ptr[t] = __shfl_xor_sync(0xffffffff, A_ptr[t], 16, 32);""",
    "a shuffle in both branches": f"""\
  {LOWER_HALF} B_ptr[t] = __shfl_xor_sync(~0u, A_ptr[t], 16, 32);
  else B_ptr[t] = __shfl_xor_sync(~0u, -A_ptr[t], 16, 32);""",
    "a shuffle and a barrier": f"""\
  {LOWER_HALF} B_ptr[t] = __shfl_xor_sync(~0u, A_ptr[t], 1, 32);
  else __syncthreads();""",
    "a shuffle outside of its mask": "B_ptr[t] = __shfl_xor_sync(0xffff, A_ptr[t], 1, 32);",
    "a barrier of the warp in both branches": f"{LOWER_HALF} __syncwarp(); else __syncwarp();",
    "a barrier in both branches": f"""\
  {LOWER_HALF}
    __syncthreads();
  else
    __syncthreads();""",
    "memory through a shuffle": """\
  __shared__ float S_ptr[32];
  S_ptr[t] = A_ptr[t];
  B_ptr[t] = __shfl_xor_sync(~0u, A_ptr[t], 1, 32);
  B_ptr[t] += S_ptr[31 - t];""",
    "memory through half a warp": """\
  __shared__ float S_ptr[32];
  S_ptr[t] = A_ptr[t];
  if (((int)threadIdx.x) < 16) __syncwarp(0xffff); else __syncwarp(0xffff0000);
  B_ptr[t] = S_ptr[31 - t];""",
    "blocks that read of each other": """\
  if (((int)blockIdx.x) == 0) B_ptr[t] = A_ptr[t];
  else B_ptr[32 + t] = B_ptr[t];""",
    "blocks that read of each other, the other way": """\
  if (((int)blockIdx.x) == 1) B_ptr[t] = A_ptr[t];
  else B_ptr[32 + t] = B_ptr[t];""",
    "blocks that write the same": "B_ptr[t] = A_ptr[t];",
    "all write one": "B_ptr[0] = A_ptr[t];",
    # Right ones.
    "halves with masks of their own": """\
  unsigned mask = ((int)threadIdx.x) < 16 ? 0xffff : 0xffff0000;
  if (((int)threadIdx.x) < 16) B_ptr[t] = __shfl_xor_sync(mask, A_ptr[t], 1, 32);
  else B_ptr[t] = __shfl_xor_sync(mask, -A_ptr[t], 1, 32);""",
    "halves that wait for themselves": """\
  __shared__ float S_ptr[32];
  S_ptr[t] = A_ptr[t];
  if (((int)threadIdx.x) < 16) __syncwarp(0xffff); else __syncwarp(0xffff0000);
  B_ptr[t] = S_ptr[t ^ 15];""",
    "those who are there": f"""\
  B_ptr[t] = 0;
  {LOWER_HALF} B_ptr[t] = __shfl_up_sync(__activemask(), A_ptr[t], 2, 32);""",
    "what a lane that is away gives": f"""\
  B_ptr[t] = 0;
  {LOWER_HALF} B_ptr[t] = __shfl_down_sync(__activemask(), A_ptr[t], 2, 32);""",
    "doubles": """\
  __shared__ double S_ptr[32];
  S_ptr[t] = A_ptr[t];
  __syncthreads();
  B_ptr[t] = (float)S_ptr[31 - t];""",
    "a quarter MiB of its own": """\
  float many[65536];
  for (int i = 0; i < 65536; ++i) many[i] = A_ptr[t] + (float)(i % 7);
  __syncthreads();
  B_ptr[t] = many[((int)A_ptr[t]) + 60000];""",
}
LAUNCHES = {
    **dict.fromkeys([name for name in BODIES if name.startswith("blocks")], ((2, 1, 1), 32)),
    "all write one": ((1, 1, 1), 64),
    "a quarter MiB of its own": ((1, 1, 1), 64),
}


@pytest.fixture(scope="module")
def bodies() -> Simulated:
    launches = [LAUNCHES.get(name, ((1, 1, 1), 32)) for name in BODIES]
    return library_of(
        *(
            written(body, grid, (threads, 1, 1), number)
            for number, (body, (grid, threads)) in enumerate(
                zip(BODIES.values(), launches, strict=True)
            )
        )
    )


def of_body(bodies: Simulated, name: str, order: int = 0) -> tuple[Finding | None, np.ndarray]:
    a, b = np.arange(64, dtype="f4"), np.full(64, np.nan, "f4")
    return bodies.run([a, b], order, only=list(BODIES).index(name)), b


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("a shuffle in a branch", "16 others have returned"),
        ("a shuffle after a return", "16 others have returned"),
        ("a shuffle in both branches", "16 others are at another place (line 4 "),
        ("a shuffle and a barrier", "16 others wait at a barrier of the block (line 4 "),
    ],
)
def test_a_shuffle_to_which_not_all_come_is_found(bodies, name: str, where: str) -> None:
    found, _ = of_body(bodies, name)
    assert found is not None
    assert found.sentence.startswith(
        "In block 0, 16 threads of a warp wait for each other at a shuffle (line "
    )
    assert where in found.sentence
    assert "All threads that its mask names must come to the same place" in found.sentence


def test_a_shuffle_by_lanes_outside_of_its_mask_is_found(bodies) -> None:
    found, _ = of_body(bodies, "a shuffle outside of its mask")
    assert found is not None
    assert "16 of them are not in the mask" in found.sentence


def test_a_barrier_of_the_warp_at_which_its_threads_part_is_found(bodies) -> None:
    found, _ = of_body(bodies, "a barrier of the warp in both branches")
    assert found is not None
    assert "at a barrier of the warp" in found.sentence
    assert "16 others are at another place" in found.sentence


def test_halves_of_a_block_at_two_barriers_are_found(bodies) -> None:
    found, _ = of_body(bodies, "a barrier in both branches")
    assert found is not None
    assert re.match(
        r"In block 0, 16 threads wait at one barrier \(line 6 of .*\) and 16 at another \(line 4 ",
        found.sentence,
    ), found.sentence
    assert "must come to the same barrier" in found.sentence


@pytest.mark.parametrize("name", ["memory through a shuffle", "memory through half a warp"])
def test_only_a_barrier_of_the_warp_orders_its_memory(bodies, name: str) -> None:
    found, _ = of_body(bodies, name)
    assert found is not None
    assert found.kind == "read after write"
    assert "Before Volta a warp ran in step" in found.sentence


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("halves with masks of their own", [(lane ^ 1) * (1, -1)[lane > 15] for lane in range(32)]),
        ("halves that wait for themselves", [lane ^ 15 for lane in range(32)]),
        ("those who are there", [max(lane - 2, lane % 2 if lane < 2 else 0) for lane in range(16)]),
        ("what a lane that is away gives", [*range(2, 16), np.nan, np.nan]),
        ("doubles", [31 - lane for lane in range(32)]),
        ("a quarter MiB of its own", [lane + (lane + 60000) % 7 for lane in range(64)]),
    ],
)
def test_what_cuda_allows_passes_with_its_result(bodies, name: str, expected: list[float]) -> None:
    for order in (0, DESCENDING, 3):
        found, got = of_body(bodies, name, order)
        assert found is None, found
        np.testing.assert_array_equal(got[: len(expected)], np.array(expected, "f4"))


@pytest.mark.parametrize("name", [name for name in BODIES if name.startswith("blocks")])
def test_a_race_between_blocks_is_not_for_a_barrier_to_mend(bodies, name: str) -> None:
    found, _ = of_body(bodies, name)
    assert found is not None
    assert "of block 0" in found.sentence
    assert "blocks run in any order, and none can wait for another" in found.sentence
    assert "barrier" not in found.sentence
    way_out = "one thread's to write" if name.endswith("same") else "a kernel of its own"
    assert way_out in found.sentence


def test_a_seed_gives_the_same_order_again_and_others_another(bodies) -> None:
    once = [of_body(bodies, "all write one", seed)[0] for seed in range(2, 10)]
    again = [of_body(bodies, "all write one", seed)[0] for seed in reversed(range(2, 10))]
    assert once == again[::-1]
    assert len({found.sentence for found in once}) > 1


def test_a_thread_cannot_write_into_the_stack_of_another() -> None:
    with pytest.raises(WorkerFailed, match="SIGSEGV"):
        call(beyond_the_stack)


# ------------------------------------------------------------------- what is left on the disk


@pytest.mark.parametrize("how", ["a time limit", "Ctrl-C"])
def test_a_worker_that_is_stopped_while_it_compiles_leaves_nothing(
    tmp_path, monkeypatch, how: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = WorkerFailed if how == "a time limit" else KeyboardInterrupt
    with pytest.raises(ended), Worker(compile_for_ever) as worker:
        until = time.monotonic() + 60
        while not {"tvm-practice-cuda-", "cc"} <= {
            re.match("tvm-practice-cuda-|cc|", path.name)[0] for path in tmp_path.rglob("*")
        }:
            assert time.monotonic() < until, sorted(tmp_path.rglob("*"))
            time.sleep(0.002)
        if how == "Ctrl-C":
            raise KeyboardInterrupt
        worker.answer(0)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------- launches


@pytest.mark.parametrize("rung", ["2.6", "2.7", "2.8", "2.9"])
def test_a_reference_gives_the_product_in_any_order_of_its_threads(lesson, rung: str) -> None:
    library = simulated(ladder(lesson, rung).mod)
    for order in (0, DESCENDING, 7):
        arrays, want, magnitude = operands()
        assert library.run(arrays, order) is None
        verify.assert_close(arrays[2], want, magnitude, SIZE[2], "C")


@pytest.mark.parametrize(
    ("exercise_id", "answer"), OTHERS, ids=lambda text: text.rpartition(":")[2]
)
def test_another_right_answer_fits_between_the_references(lesson, exercise_id, answer) -> None:
    arrays, want, magnitude = operands()
    assert simulated(ladder(lesson, "2.9", **{exercise_id: answer}).mod).run(arrays) is None
    verify.assert_close(arrays[2], want, magnitude, SIZE[2], "C")


def test_some_blocks_alone_write_their_own_elements(lesson) -> None:
    arrays, *_ = operands()
    library = simulated(ladder(lesson, "2.8").mod)  # tiles of 32 x 32
    assert library.run(arrays, blocks=[1]) is None
    written = ~np.isnan(arrays[2])
    assert written[:32, 32:].all()
    assert written.sum() == 32 * 32


def test_the_command_line_takes_the_multiples_that_the_lesson_needs(lesson) -> None:
    assert lesson.fits(lesson.TILE_EACH) == manual_schedule.GPU_MULTIPLES


def test_a_function_without_threads_is_no_kernel(lesson) -> None:
    with pytest.raises(NoKernel, match="no loop is bound"):
        kernels(lesson.matmul(*SIZE).mod)


def test_loops_around_the_bound_ones_would_run_on_the_cpu(lesson) -> None:
    sch = lesson.matmul(*SIZE)
    *_, k = sch.get_loops(sch.get_sblock("C"))
    sch.bind(k, "threadIdx.x")
    with pytest.raises(NoKernel, match="start the kernel anew for each iteration"):
        kernels(sch.mod)


def test_a_thread_axis_that_does_not_exist_is_no_kernel(lesson) -> None:
    sch = lesson.matmul(*SIZE)
    sch.bind(sch.get_loops(sch.get_sblock("C"))[0], "threadIdx.w")
    with pytest.raises(NoKernel, match=r"no thread axis 'threadIdx\.w'"):
        kernels(sch.mod)


def shared_sum(lesson, K: int):
    """The product with k shared out among the threads of a block, one block for each element."""
    sch = lesson.matmul(8, 8, K)
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    for loop, axis in ((i, "blockIdx.x"), (j, "blockIdx.y"), (k, "threadIdx.x")):
        sch.bind(loop, axis)
    return simulated(sch.mod)


def test_threads_that_share_a_sum_by_shuffles_are_simulated(lesson) -> None:
    rng = np.random.default_rng(0)
    a, b = verify.random_array(rng, 8, 64), verify.random_array(rng, 64, 8)
    library = shared_sum(lesson, 64)
    assert "__shfl_down_sync" in library.kernels[0].source
    got = verify.run(library, (a, b), (8, 8))
    verify.assert_close(got, *verify.matmul_reference(a, b), 64, "C")


def test_a_program_that_relies_on_a_warp_in_step_is_told_so(lesson) -> None:
    """TVM 0.27's own code for a sum over 48 threads does: its last steps have no barriers."""
    found = shared_sum(lesson, 48).run(
        [np.ones((8, 48), "f4"), np.ones((48, 8), "f4"), np.zeros((8, 8), "f4")]
    )
    assert found is not None
    assert "Before Volta a warp ran in step" in found.sentence


def test_too_many_threads_for_a_block_are_refused(lesson) -> None:
    sch = lesson.matmul(*SIZE)
    exercise.body("2.6", REFERENCE)(sch, (64, 64), (1, 1))
    with pytest.raises(Wrong, match="4096 threads: a GPU launches 1024 at most"):
        simulated(sch.mod)


@pytest.mark.parametrize(
    ("axis", "extent", "most"),
    [("blockIdx.y", 70_000, "65,535"), ("blockIdx.z", 65_536, "65,535"), ("threadIdx.z", 65, "64")],
)
def test_no_axis_is_longer_than_a_gpu_launches(lesson, axis: str, extent: int, most: str) -> None:
    sch = lesson.vector_add(extent)
    sch.bind(sch.get_loops(sch.get_sblock("C"))[0], axis)
    for make in (simulated, lambda function: kernels(function)):
        with pytest.raises(Wrong, match=rf"{extent:,} along {axis}: a GPU launches {most} at most"):
            make(sch.mod)


def test_the_longest_axis_that_a_gpu_launches_is_accepted(lesson) -> None:
    sch = lesson.vector_add(65_535)
    sch.bind(sch.get_loops(sch.get_sblock("C"))[0], "blockIdx.y")
    assert kernels(sch.mod)[0].grid == (1, 65_535, 1)


@pytest.mark.parametrize("lanes", [8, 16])
def test_a_thread_loads_16_bytes_at_once_at_most(lesson, lanes: int) -> None:
    sch = lesson.vector_add(64 * lanes)
    (i,) = sch.get_loops(sch.get_sblock("C"))
    blocks, threads, vector = sch.split(i, [None, 32, lanes])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")
    sch.vectorize(vector)
    told = rf"Loop i_2 is vectorized over {lanes} numbers of 4 bytes\. .*split the loop by 4 and"
    with pytest.raises(Wrong, match=told):
        kernels(sch.mod)


def copied_by_each_thread(lesson, K: int):
    """The product with a copy of a row of A, K elements, among each thread's own."""
    sch = lesson.matmul(8, 32, K)
    block = sch.get_sblock("C")
    i, j, _ = sch.get_loops(block)
    copy = sch.cache_read(block, 0, "local")
    sch.compute_at(copy, j)
    sch.bind(i, "blockIdx.x")
    sch.bind(j, "threadIdx.x")
    return sch


def test_a_thread_may_have_a_quarter_mib_of_its_own_and_no_more_than_half(lesson) -> None:
    library = simulated(copied_by_each_thread(lesson, 1 << 16).mod)
    assert library.kernels[0].local_bytes == 1 << 18
    rng = np.random.default_rng(0)
    a, b = verify.random_array(rng, 8, 1 << 16), verify.random_array(rng, 1 << 16, 32)
    out = np.full((8, 32), np.nan, "f4")
    assert library.run([a, b, out], blocks=[5]) is None
    want, magnitude = verify.matmul_reference(a, b)
    verify.assert_close(out[5], want[5], magnitude[5], 1 << 16, "C")
    with pytest.raises(Wrong, match="of a thread take 524,292 bytes; a GPU gives it 524,288"):
        simulated(copied_by_each_thread(lesson, (1 << 17) + 1).mod)


def test_what_lies_between_two_kernels_may_be_integers() -> None:
    from tvm import te
    from tvm.s_tir import Schedule

    A = te.placeholder((64,), name="A")
    positive = te.compute((64,), lambda i: (A[i] > 0).astype("int32"), name="positive")
    C = te.compute((64,), lambda i: positive[63 - i].astype("float32"), name="C")
    sch = Schedule(te.create_prim_func([A, C]))
    for name in ("positive", "C"):
        (i,) = sch.get_loops(sch.get_sblock(name))
        sch.bind(i, "threadIdx.x")
    a = np.linspace(-1, 1, 64, dtype="f4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        got = verify.run(simulated(sch.mod), (a,), (64,))
    np.testing.assert_array_equal(got, (a > 0)[::-1])


def test_a_type_of_unknown_size_is_told_by_its_name() -> None:
    with pytest.raises(NoKernel, match="size of CUDA's type 'quaternion' is not known"):
        library_of(written("  quaternion own[4];"))
