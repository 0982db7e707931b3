"""The simulator finds what it is there to find: every reference kernel passes, and every mutant of
it is caught."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.wrong_answers import answers_of
from tvm_practice.common import exercise, verify
from tvm_practice.common.cuda.kernels import Kernel, NoKernel, kernels
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
MOST_OF_A_KIND = 24  # mutants; the unrolled kernels have hundreds of indices


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


# ----------------------------------------------------------------------------------------- mutation


def without_each_barrier(source: str) -> list[str]:
    places = [found.span() for found in re.finditer(r"__syncthreads\(\);", source)]
    return [source[:first] + ";" + source[last:] for first, last in places]


def with_each_index_moved(source: str) -> list[str]:
    """A global or shared array's index, one further, for reads and writes alike."""
    places = [
        found.end()
        for found in re.finditer(r"\b(?:[ABC]|[AB]_shared)_ptr(?:\[| \+ )(?=[(\d])", source)
        if "__shared__" not in source[source.rfind("\n", 0, found.start()) : found.start()]
    ]
    step = max(1, len(places) // MOST_OF_A_KIND)
    return [f"{source[:place]}1 + {source[place:]}" for place in places[::step]]


def with_each_extent_changed(source: str) -> list[str]:
    """A loop that runs once more, and once less."""
    places = [found.span(1) for found in re.finditer(r"for \(int \w+ = 0; \w+ < (\d+);", source)]
    step = max(1, 2 * len(places) // MOST_OF_A_KIND)
    return [
        f"{source[:first]}{int(source[first:last]) + change}{source[last:]}"
        for first, last in places[::step]
        for change in (1, -1)
    ]


def with_each_fetch_shortened(source: str) -> list[str]:
    """A copy to shared memory that the last thread along x does not take part in."""
    places = [
        found.start(1)
        for found in re.finditer(
            r"^ *((?:\*\(float4\*\)\()?[AB]_shared_ptr(?:\[| \+ ).* =)", source, re.M
        )
    ]
    return [
        f"{source[:place]}if (((int)threadIdx.x) < blockDim.x - 1) {source[place:]}"
        for place in places
    ]


MUTATIONS = {
    "barrier": without_each_barrier,
    "index": with_each_index_moved,
    "extent": with_each_extent_changed,
    "fetch": with_each_fetch_shortened,
}


def mutants(kernel: Kernel) -> list[tuple[str, Kernel]]:
    """(kind, kernel), each under a name of its own, so that all compile as one library."""
    made = []
    for kind, mutate in MUTATIONS.items():
        for source in mutate(kernel.source):
            name = f"{kernel.name}_{len(made)}"
            source = re.sub(rf"\b{kernel.name}\b", name, source)
            made.append((kind, replace(kernel, name=name, source=source)))
    return made


def caught(mutant: Simulated, number: int) -> bool:
    """Whether the simulator, or the comparison with the right product, rejects a mutant."""
    arrays, want, magnitude = operands()
    known = dict(zip("ABC", arrays, strict=True))
    if isinstance(mutant._launch(number, known, 0, None, None), Finding):
        return True
    try:
        verify.assert_close(arrays[2], want, magnitude, SIZE[2], "C")
    except Wrong:
        return True
    return False


@pytest.mark.parametrize("rung", ["2.6", "2.7", "2.8", "2.9"])
def test_every_mutant_of_a_reference_is_caught(lesson, rung: str, record_property) -> None:
    sch = ladder(lesson, rung)
    (kernel,) = kernels(sch.mod)
    made = mutants(kernel)
    library = Simulated([mutant for _, mutant in made], loop_nest(sch.mod), "ABC")
    survived = [
        (kind, mutant.source)
        for number, (kind, mutant) in enumerate(made)
        if not caught(library, number)
    ]
    for kind in MUTATIONS:
        count = sum(one == kind for one, _ in made)
        alive = sum(one == kind for one, _ in survived)
        print(f"{rung}: {count - alive} of {count} mutants by {kind} caught")
    assert not survived, f"{len(survived)} of {len(made)} survive, the first by {survived[0][0]}"
    assert {"2.6": 0, "2.7": 2, "2.8": 2, "2.9": 3}[rung] == kernel.source.count("__syncthreads")


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
    found = mutant_of(lesson, "2.7", lambda source: without_each_barrier(source)[1])
    assert found.kind == "read after write"
    assert re.search(
        r'^In block \(0, 0\), thread \(\d, \d\) reads [AB]_shared\[\d+\] in the block "C", which '
        r'thread \(\d, \d\) writes in the block "[AB]_shared", and no barrier stands between',
        found.sentence,
    ), found.sentence
    assert "A barrier is missing after" in found.sentence


def test_a_missing_barrier_before_the_fetch_is_the_other_race(lesson) -> None:
    found = mutant_of(lesson, "2.7", lambda source: without_each_barrier(source)[0])
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
    found = mutant_of(lesson, "2.7", lambda source: with_each_fetch_shortened(source)[0])
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


def test_too_many_threads_for_a_block_are_refused(lesson) -> None:
    sch = lesson.matmul(*SIZE)
    exercise.body("2.6", REFERENCE)(sch, (64, 64), (1, 1))
    with pytest.raises(Wrong, match="4096 threads: a GPU launches 1024 at most"):
        simulated(sch.mod)
