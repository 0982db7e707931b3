"""The simulator: what it says of a kernel that is wrong, and that right ones pass."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.wrong_answers import answers_of
from tvm_practice.common import exercise, verify
from tvm_practice.common.cuda.kernels import NoKernel, kernels
from tvm_practice.common.cuda.simulate import DESCENDING, Finding, Simulated, simulated
from tvm_practice.common.exercise import GPU, REFERENCE, catalogue
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.verify import Wrong
from tvm_practice.common.worker import call
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
