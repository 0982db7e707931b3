"""Proof of the simulator by mutation: whatever is broken in a reference's kernel, it is caught.

Each barrier is deleted in turn, indices are moved, loops run once more or less, fetches leave a
thread out. A mutant is caught if the simulator finds something, or if its result is wrong. Those
that survive are listed below, each with the reason why it is no mistake. What was tried and caught
is printed (`pytest -s`).
"""

from __future__ import annotations

import os
import re
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tvm_practice.common import exercise, verify
from tvm_practice.common.cuda.kernels import Kernel, kernels
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.verify import Wrong
from tvm_practice.experiments import attention, fused_gelu, tensor_cores

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator compiles with g++, which is not installed"
)

MOST_OF_A_KIND = 16  # about so many mutants; unrolled kernels have hundreds of indices


@dataclass
class Subject:
    """A reference's schedule at a small size, its inputs, and the right result.

    most: about how many mutants of a kind.
    """

    schedule: object
    inputs: list[np.ndarray]
    want: np.ndarray
    magnitude: np.ndarray
    terms: int
    most: int = MOST_OF_A_KIND


def references(lesson: str) -> dict[str, Callable]:
    return {known.id: exercise.body(known.id) for known in exercise.exercises_of(lesson)}


def of_ladder(rung: str) -> Subject:
    M, N, K = 64, 64, 48
    lesson = exercise.load_lesson("manual_schedule")
    each, width = ((4, 4), 4) if rung in ("2.8", "2.9") else ((1, 1), 1)
    tiling = lesson.Tiling(threads=(8, 8), each=each, depth=8, width=width)
    sch = lesson.matmul(M, N, K)
    for known in lesson.GPU_LADDER:
        lesson.climb_gpu(sch, known, exercise.body(known), tiling)
        if known == rung:
            break
    rng = np.random.default_rng(0)
    a, b = verify.random_array(rng, M, K), verify.random_array(rng, K, N)
    return Subject(sch, [a, b], *verify.matmul_reference(a, b), K)


def of_conv1d(rung: str) -> Subject:
    lesson = exercise.load_lesson("conv1d")
    sch = lesson.gpu_ladder(300, 9, references("conv1d"), count=32, each=2)[rung]
    rng = np.random.default_rng(0)
    d, w = verify.random_array(rng, 300), verify.random_array(rng, 9)
    wide = d.astype("float64")
    return Subject(sch, [d, w], np.convolve(wide, w), np.convolve(abs(wide), abs(w)), 9)


def of_depthwise(rung: str) -> Subject:
    lesson = exercise.load_lesson("depthwise_conv2d")
    B, C, H, W, K = shape = (2, 3, 9, 34, 5)
    sch = lesson.ladder(shape, references("depthwise_conv2d"))[rung]
    rng = np.random.default_rng(0)
    x, f = verify.random_array(rng, B, C, H, W), verify.random_array(rng, C, K, K)
    around = ((0, 0), (0, 0), (K // 2, K // 2), (K // 2, K // 2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, around), (K, K), (2, 3))
    return Subject(
        sch,
        [x, f],
        np.einsum("bchwij,cij->bchw", windows.astype("float64"), f),
        np.einsum("bchwij,cij->bchw", abs(windows).astype("float64"), abs(f)),
        K * K,
    )


def of_fused_gelu() -> Subject:
    from tvm_practice.checks.fused_gelu import ladder_on_gpu

    M, N, K = 64, 96, 16
    sch = ladder_on_gpu(M, N, K, (8, 8))
    exercise.body("fused_gelu.5")(sch)
    a, b, bias = fused_gelu.inputs(M, N, K, 0)
    product, magnitude = verify.matmul_reference(a, b)
    x = product + bias
    want = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return Subject(sch, [a, b, bias], want, 1.2 * (magnitude + abs(bias)) + 1, K, 3)


def of_tensor_cores() -> Subject:
    lesson = exercise.load_lesson("tensor_cores")
    shape = ((2, 2), (2, 1))
    rows, columns, deep = lesson.Tiling(*shape, tensor_cores.DEPTH).block
    M, N, K = size = (2 * rows, columns, 2 * deep)
    whose = dict.fromkeys(references("tensor_cores"), REFERENCE)
    rng = np.random.default_rng(0)
    a = verify.random_array(rng, M, K, dtype="float16")
    b = verify.random_array(rng, K, N, dtype="float16")
    sch = tensor_cores.schedule(size, whose, shape)
    return Subject(sch, [a, b], *verify.matmul_reference(a, b), K)


def of_attention() -> Subject:
    from tvm_practice.checks.attention import attention_reference

    whose = dict.fromkeys(references("attention"), REFERENCE)
    rows, columns = attention.TILES[0]
    length = 3 * columns
    rng = np.random.default_rng(0)
    q, k, v = (verify.random_array(rng, 1, length, attention.D) for _ in range(3))
    sch = attention.schedule(1, length, rows, columns, whose)
    return Subject(sch, [q, k, v], *attention_reference(q, k, v), length + attention.D, 6)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{
        f"matmul {rung}": lambda rung=rung: of_ladder(rung) for rung in ("2.6", "2.7", "2.8", "2.9")
    },
    **{
        f"conv1d {rung}": lambda rung=rung: of_conv1d(rung)
        for rung in ("threads", "memory", "unrolled")
    },
    **{
        f"depthwise {rung}": lambda rung=rung: of_depthwise(rung)
        for rung in ("2-D threads", "outer fusion", "shared tile", "registers")
    },
    "fused_gelu": of_fused_gelu,
    "tensor_cores": of_tensor_cores,
    "attention": of_attention,
}


# ------------------------------------------------------------------------------------- mutations


def without_each_barrier(kernel: Kernel, most: int) -> list[str]:
    source = kernel.source
    places = [found.span() for found in re.finditer(r"__syncthreads\(\);", source)]
    return [f"{source[:first]};{source[last:]}" for first, last in places]


def with_indices_moved(kernel: Kernel, most: int) -> list[str]:
    """An index of a global or shared array, one further, for reads and writes alike."""
    source = kernel.source
    names = "|".join([*kernel.parameters, *(array.name for array in kernel.shared)])
    places = [
        found.end()
        for found in re.finditer(rf"\b(?:{names})_ptr(?:\[| \+ )(?=[(\d\w])", source)
        if "__shared__" not in source[source.rfind("\n", 0, found.start()) : found.start()]
    ]
    return [f"{source[:place]}1 + {source[place:]}" for place in _some(places, most)]


def with_extents_changed(kernel: Kernel, most: int) -> list[str]:
    """A loop that runs once more, and once less."""
    source = kernel.source
    places = [found.span(1) for found in re.finditer(r"for \(int \w+ = 0; \w+ < (\d+);", source)]
    return [
        f"{source[:first]}{int(source[first:last]) + change}{source[last:]}"
        for first, last in _some(places, most)
        for change in (1, -1)
    ]


def with_fetches_shortened(kernel: Kernel, most: int) -> list[str]:
    """A copy to shared memory that the last thread along x does not take part in."""
    source = kernel.source
    names = "|".join(array.name for array in kernel.shared) or "nothing"
    filled = rf"^ *((?:\*\(float4\*\)\()?(?:{names})_ptr(?:\[| \+ ).* =)"
    places = [found.start(1) for found in re.finditer(filled, source, re.M)]
    condition = "if (((int)threadIdx.x) < blockDim.x - 1) "
    return [f"{source[:place]}{condition}{source[place:]}" for place in _some(places, most)]


def _some(places: list, most: int) -> list:
    return places[:: max(1, len(places) // most)]


MUTATIONS = {
    "barrier": without_each_barrier,
    "index": with_indices_moved,
    "extent": with_extents_changed,
    "fetch": with_fetches_shortened,
}


def mutants(kernel: Kernel, most: int) -> list[tuple[str, Kernel]]:
    """(kind, kernel), each under a name of its own, so that all compile as one library."""
    made = []
    for kind, mutate in MUTATIONS.items():
        for source in mutate(kernel, most):
            name = f"{kernel.name}_{len(made)}"
            source = re.sub(rf"\b{kernel.name}\b", name, source)
            made.append((kind, replace(kernel, name=name, source=source)))
    return made


# By subject and kind of mutation, the mutants that are no mistakes, as `changed` tells them, and
# why. Of a barrier or an index none is.
_GUARDED = "the loop's body asks whether it has anything to do, and in the last round it has not"
_NO_TAP = "there are 9 taps: the last of 32 threads has none to fetch"
_OF_CONV1D = {
    "extent": {
        "for (int ax0_0 = 0; ax0_0 < 4; ++ax0_0) { int cse_v1 = (ax0_0 * 4);": _GUARDED,
    },
    "fetch": {
        "if (((int)threadIdx.x) < blockDim.x - 1) "
        "W_shared_ptr[((int)threadIdx.x)] = W_ptr[((int)threadIdx.x)]; }": _NO_TAP,
    },
}
_OF_SHARED_TILE = {
    "extent": {
        "for (int ax0_ax1_fused_0 = 0; ax0_ax1_fused_0 < 7; ++ax0_ax1_fused_0) { "
        "int cse_v4 = ((ax0_ax1_fused_0 * 8) + (((int)threadIdx.x) >> 2));": _GUARDED,
    },
}
_CANCELS = "whatever is taken for the highest score so far cancels out in the end: that is the idea"
SURVIVORS: dict[str, dict[str, dict[str, str]]] = {
    "conv1d memory": _OF_CONV1D,
    "conv1d unrolled": _OF_CONV1D,
    "depthwise 2-D threads": {
        "extent": {"for (int w_0 = 0; w_0 < 3; ++w_0) { for (int r = 0; r < 5; ++r) {": _GUARDED},
    },
    "depthwise shared tile": _OF_SHARED_TILE,
    "depthwise registers": _OF_SHARED_TILE,
    "attention": {
        "extent": {
            "for (int j = 0; j < 33; ++j) { if (j == 0) {": _CANCELS,
            "for (int j = 0; j < 31; ++j) { if (j == 0) {": _CANCELS,
        },
    },
}


SURVIVED, CAUGHT, FAILED = 0, 1, 2


def caught(library: Simulated, number: int, subject: Subject) -> bool:
    """In a process of its own: a mutant may write over the simulator's stack, and a crash is told
    as well. But an exception is the fault of this test, and catches nothing."""
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            status = CAUGHT if _caught(library, number, subject) else SURVIVED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        return True
    status = os.WEXITSTATUS(ended)
    assert status in (SURVIVED, CAUGHT), f"running mutant {number} failed: status {status}"
    return status == CAUGHT


def _caught(library: Simulated, number: int, subject: Subject) -> bool:
    out = np.full(subject.want.shape, np.nan, "float32")
    arrays = [np.array(one) for one in subject.inputs] + [out]
    if library.run(arrays, only=number) is not None:
        return True
    try:
        verify.assert_close(out, subject.want, subject.magnitude, subject.terms, "the result")
    except Wrong:
        return True
    return False


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_mutant_of_a_reference_is_caught(name: str) -> None:
    subject = SUBJECTS[name]()
    module = subject.schedule.mod
    (kernel,) = kernels(module)
    parameters = [buffer.name for buffer in module["main"].params]
    whole = Simulated([kernel], loop_nest(module), parameters)
    assert not caught(whole, 0, subject), "the reference itself is rejected"
    made = mutants(kernel, subject.most)
    library = Simulated([mutant for _, mutant in made], loop_nest(module), parameters)
    alive = [
        (kind, changed(mutant, kernel))
        for number, (kind, mutant) in enumerate(made)
        if not caught(library, number, subject)
    ]
    told = []
    for kind in MUTATIONS:
        count = sum(one == kind for one, _ in made)
        lived = sum(one == kind for one, _ in alive)
        told.append(f"{count - lived} of {count} by {kind}")
    print(f"{name}: caught {', '.join(told)}")
    known = SURVIVORS.get(name, {})
    unknown = [(kind, text) for kind, text in alive if text not in known.get(kind, {})]
    assert not unknown, f"{len(unknown)} of {len(made)} survive, and nobody has said why"


def changed(mutant: Kernel, kernel: Kernel) -> str:
    """What a mutation has done to a kernel: the line that it has changed, and the next."""
    both = zip(
        mutant.source.replace(mutant.name, kernel.name).splitlines(),
        kernel.source.splitlines(),
        strict=True,
    )
    lines = [now.strip() for now, _ in both]
    number = next(
        number
        for number, (now, was) in enumerate(zip(lines, kernel.source.splitlines(), strict=True))
        if now != was.strip()
    )
    return " ".join(lines[number : number + 2])


def test_an_exception_of_this_test_catches_no_mutant() -> None:
    class Broken:
        def run(self, *_: object, **__: object) -> None:
            raise ZeroDivisionError

    subject = Subject(None, [], np.zeros(1), np.ones(1), 1)
    with pytest.raises(AssertionError, match="running mutant 0 failed"):
        caught(Broken(), 0, subject)
