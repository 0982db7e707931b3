"""What phase 4 shows: the graph before and after its passes, kernel by kernel, and what each stage
is worth: in time on the CPU, in launches and bytes on a GPU."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, picture, show, verify
from tvm_practice.common.cuda import resources
from tvm_practice.common.cuda.kernels import Kernel, by_default, kernels
from tvm_practice.common.cuda.resources import V100, Usage
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.graph import KERNEL, Graph, graph
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Runnable

SHAPES = {"CNN": (8, 3, 48, 64), "MLP": (8, 784)}
QUICK_ON_GPU = {"CNN": (2, 3, 24, 16), "MLP": (8, 784)}  # the simulator is patient, not fast
IMPORTED, FOLDED, FUSED = "as imported", "folded", "fused"
STAGES = (IMPORTED, FOLDED, FUSED)
DEFAULT, SCHEDULED = "default loops", "scheduled"
EAGER = "PyTorch, eager"
EXERCISES = ("4.1", "4.2", "4.3")
BATCHES = 3

# What a kernel of each class may be fused with, in the words of the lesson.
RULES = {
    "elementwise": "with producers and readers",
    "broadcast": "with producers and readers",
    "injective": "with injective producers and readers",
    "reduction": "with injective producers",
    "out-fusable": "with elementwise readers",
    "opaque": "with nothing",
}


@dataclass(frozen=True)
class Stage:
    """A model's module after some passes: its graph with the class of every kernel, the bytes that
    kernels keep inside, and the module as JSON; the last two with default loops and scheduled."""

    read: Graph
    inside: dict[str, int]
    module: dict[str, str]

    @property
    def kernels(self) -> int:
        return len(self.read.of_kind(KERNEL))


@dataclass(frozen=True)
class Story:
    """What became of one model. parts: for each kernel of the folded stage, the fused kernel that
    it became part of. results: for each batch the largest error, the largest error allowed, the
    largest error of eager PyTorch."""

    imported: Graph
    stages: dict[str, Stage]
    parts: list[str]
    results: tuple[tuple[float, float, float], ...]
    batch: np.ndarray
    want: np.ndarray
    allowed: np.ndarray
    flops: float


def run(session) -> None:
    with show.waiting("a graph by hand ..."):
        by_hand = session.call(by_hand_story, session.seed)
    show.heading("Worked: a graph by hand")
    show.say("`y = relu(x @ w)` as a Relax graph:")
    show.code(by_hand["graph"])
    show.say(
        "After `LegalizeOps` the same graph calls kernels, TensorIR functions that stand beside "
        "it "
        "in the module. The virtual machine ran it on random inputs: equal to NumPy within "
        "float32 "
        f"rounding ({by_hand['error']:.1e})."
    )
    show.code(by_hand["lowered"])

    whose = {known: session.whose(known) for known in EXERCISES}
    with show.waiting("both models, from PyTorch to results ..."):
        stories = {name: session.call(model_story, name, session.seed, whose) for name in SHAPES}
    cnn = stories["CNN"]

    session.exercise("4.1")
    show.say(
        f"The CNN as it comes from PyTorch, for batches of {SHAPES['CNN'][0]}: "
        f"{len(cnn.imported.steps)} operators, its parameters constants in the graph."
    )
    _show_graph(cnn.imported, "operator ")

    session.exercise("4.2")
    _show_passes(cnn)

    session.exercise("4.3")
    _show_results(stories)

    measured = {name: _time(session, name, story) for name, story in stories.items()}
    _answer(session, stories, measured)


# ---------------------------------------------------------------------------------------- on a GPU


@dataclass(frozen=True)
class Launch:
    """One launch on the GPU: the kernel, and of which call in the graph it is a part.

    read, written: bytes of the arrays in global memory that it takes and makes, each counted once.
    difference: the call's largest from the same function compiled for the CPU. usage: what NVIDIA's
    compiler gives it on a V100, None where that is missing.
    """

    call: str
    kernel: Kernel
    read: int
    written: int
    difference: float
    usage: Usage | None

    @property
    def bytes(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class OnGpu:
    """A model's module, run in the simulator: its launches in order, and its result's largest
    error, the largest allowed. inside: bytes that the kernels of one call hand each other through
    global memory."""

    launches: tuple[Launch, ...]
    error: float
    allowed: float
    inside: int

    @property
    def read(self) -> int:
        return sum(launch.read for launch in self.launches)

    @property
    def written(self) -> int:
        return sum(launch.written for launch in self.launches)

    @property
    def bytes(self) -> int:
        return self.read + self.written

    @property
    def threads(self) -> int:
        return sum(launch.kernel.blocks * launch.kernel.threads for launch in self.launches)

    @property
    def shared_bytes(self) -> int:
        return max(launch.kernel.shared_bytes for launch in self.launches)

    @property
    def registers(self) -> int | None:
        """Of a thread of the kernel that needs most, None without NVIDIA's compiler."""
        return max((one.usage.registers for one in self.launches if one.usage), default=None)


def run_gpu(session) -> None:
    """The stages of both models as kernels for a GPU, run in the simulator from input to result."""
    shapes = QUICK_ON_GPU if session.quick else SHAPES
    whose = _whose_on_gpu(session)
    with show.waiting("both models on the simulated GPU ..."):
        found = session.call(gpu_stories, shapes, session.seed, whose, seconds=900)
    show.heading("The models on a GPU")
    show.say(
        "Every kernel of the graph with TVM's default schedule for a GPU (dlight: rules for "
        "matmuls, convolutions among them, for reductions, and for whatever is left), as CUDA for "
        "a V100 (sm_70). The launches follow the graph, each run on the CPU thread by thread on "
        "what the launches before it wrote. Compared are every call's result, with the same "
        "function compiled for the CPU, and the model's, with PyTorch in float64."
    )
    _show_results_on_gpu(found)
    for name, stages in found.items():
        _show_launches(f"The {name}, {FUSED}, batches of {shapes[name][0]}", stages[FUSED])
    _show_stages_on_gpu(found)
    _answer_on_gpu(found)
    session.headline = (
        f"CNN: {len(found['CNN'][IMPORTED].launches)} launches to "
        f"{len(found['CNN'][FUSED].launches)}, verified in the simulator, not timed"
    )
    session.report["gpu"] = {
        name: {
            stage: {
                "launches": len(one.launches),
                "bytes_read": one.read,
                "bytes_written": one.written,
                "threads": one.threads,
                "shared_bytes": one.shared_bytes,
                "registers": one.registers,
                "verified": True,
            }
            for stage, one in stages.items()
        }
        for name, stages in found.items()
    }


def _whose_on_gpu(session) -> dict[str, str]:
    """Whose bodies to build on. They are the same on a CPU and a GPU: the CPU's run grades them in
    full, this one the learner's only."""
    whose = {}
    for known in exercise.exercises_of(session.lesson):
        whose[known.id] = session.whose(known.id)
        if session.options.solutions:
            show.heading(f"{known.id}  {known.title}  (reference)")
            continue
        outcome = session.grade(known.id, exercise.LEARNER)
        session.outcomes.append(outcome)
        show.heading(f"{known.id}  {known.title}", outcome.state)
        if outcome.state == "wrong":
            show.diagnosis(outcome.sentence)
        if outcome.state != "right":
            yours = "yours to write" if outcome.state == "todo" else "not right yet"
            show.line(
                f"  {known.place}: {yours} (--hint {known.id} helps). The reference stands in.",
                "dim",
            )
    return whose


def _show_results_on_gpu(found: dict[str, dict[str, OnGpu]]) -> None:
    show.table(
        ("model", "stage ", "calls compared", "launches", "largest error of the result", "allowed"),
        [
            (
                name,
                stage,
                str(len({launch.call for launch in one.launches})),
                str(len(one.launches)),
                f"{one.error:.1e}",
                f"{one.allowed:.1e}",
            )
            for name, stages in found.items()
            for stage, one in stages.items()
        ],
        _of_several_launches(found),
    )


def _of_several_launches(found: dict[str, dict[str, OnGpu]]) -> str:
    """Which calls are several kernels, as a caption; "" if none is."""
    every = [one.launches for stages in found.values() for one in stages.values()]
    counts = [Counter(launch.call for launch in launches) for launches in every]
    most = {call: count for each in counts for call, count in each.items() if count > 1}
    if not most:
        return ""
    told = ", ".join(f"{call} has {count}" for call, count in most.items())
    return f"A call is a launch for each of its kernels. Most have one, {told}."


def _show_launches(title: str, one: OnGpu) -> None:
    show.heading(title)
    show.table(
        ("call", "blocks x threads", "shared", "registers", "reads", "writes", "off the CPU's by"),
        [
            (
                launch.call,
                f"{launch.kernel.blocks:,} x {launch.kernel.threads}",
                size(launch.kernel.shared_bytes) if launch.kernel.shared_bytes else "-",
                str(launch.usage.registers) if launch.usage else "-",
                size(launch.read),
                size(launch.written),
                f"{launch.difference:.1g}",
            )
            for launch in one.launches
        ],
    )


def _show_stages_on_gpu(found: dict[str, dict[str, OnGpu]]) -> None:
    show.heading("What the passes leave to a GPU")
    show.table(
        ("", "launches", "reads", "writes", "threads", "shared", "registers", "time "),
        [
            (
                f"{name}, {stage}",
                str(len(one.launches)),
                size(one.read),
                size(one.written),
                f"{one.threads:,}",
                size(one.shared_bytes),
                "-" if one.registers is None else str(one.registers),
                "verified, not timed",
            )
            for name, stages in found.items()
            for stage, one in stages.items()
        ],
        "Reads, writes: the arrays in global memory that the launches are given, once for each "
        "launch; what a block reads again, the caches may have. Shared: of a block, the most; "
        "registers: of a thread, the most.",
    )
    if missing := resources.available():
        show.line(f"  {missing}", "dim")


def _answer_on_gpu(found: dict[str, dict[str, OnGpu]]) -> None:
    cnn, mlp = found["CNN"], found["MLP"]
    before, folded, after = (cnn[stage] for stage in STAGES)
    spared = folded.bytes - after.bytes
    idle = [launch for launch in after.launches if launch.kernel.blocks < V100.sms]
    inside = (
        "Nothing of that went to an array inside the fused kernels, as it did with the CPU's "
        "default loops: the schedule applies bias and ReLU to a sum before it leaves its thread."
        if not after.inside
        else f"But {size(after.inside)} are handed on inside of calls, where the default schedule "
        "made several kernels of one."
    )
    show.question(
        "What does fusion save on a GPU?",
        [
            f"Launches: in this run the CNN's {len(before.launches)} became "
            f"{len(folded.launches)} by folding and {len(after.launches)} by fusing, the MLP's "
            f"{len(mlp[IMPORTED].launches)} became {len(mlp[FUSED].launches)}. A launch has a "
            "price however little it computes, and between two of them the GPU runs empty: the "
            "second waits until the first's last block is done.",
            f"And bytes: what a launch computes leaves the processor, because neither registers "
            f"nor shared memory outlive it. Fusing took {size(spared)} of the folded CNN's "
            f"{size(folded.bytes)} ({spared / folded.bytes:.0%}): {size(folded.read - after.read)} "
            f"not read, {size(folded.written - after.written)} not written. {inside} At a V100's "
            f"{V100.bandwidth / 1e9:,.0f} GB/s that is {show.seconds(spared / V100.bandwidth)} at "
            "least, by the data sheet; what it is worth, only a GPU tells.",
            "No schedule of a kernel could have saved them. And where launches are small, there "
            f"is little else to save: {len(idle)} of the fused CNN's {len(after.launches)} have "
            f"fewer blocks than a V100 has multiprocessors ({V100.sms}).",
        ],
    )


def _show_graph(read: Graph, column: str) -> None:
    show.table(
        ("value", column, "reads ", "shape ", "bytes"),
        [
            (
                step.result,
                step.name,
                ", ".join(step.inputs) or "-",
                " x ".join(map(str, step.shape)),
                size(step.bytes),
            )
            for step in read.steps
        ],
    )


def _show_passes(story: Story) -> None:
    show.say("The same model after the pipeline:")
    _show_graph(story.stages[FUSED].read, "kernel ")
    show.say(
        "What went where. TVM read the class of each kernel off its loops; it decides what fuses "
        "with what:"
    )
    show.table(
        ("kernel after folding", "class ", "may be fused ", "became part of "),
        [
            (
                step.name,
                step.fusion_class,
                RULES.get(step.fusion_class, "-"),
                part if part != step.name else "(alone)",
            )
            for step, part in zip(story.stages[FOLDED].read.steps, story.parts, strict=True)
        ],
    )
    before, folded, after = (story.stages[name] for name in STAGES)
    show.table(
        ("", "kernels", "bytes between them", "bytes inside, default loops", "inside, scheduled"),
        [
            (
                name,
                str(stage.kernels),
                size(stage.read.bytes_between),
                size(stage.inside[DEFAULT]),
                size(stage.inside[SCHEDULED]),
            )
            for name, stage in story.stages.items()
        ],
        "Inside: arrays that a kernel allocates for itself, registers not counted.",
    )
    show.say(
        f"Folding took {before.kernels - folded.kernels} kernels away, fusing another "
        f"{folded.kernels - after.kernels}. But mark the third column: what no longer flows "
        "between the fused kernels is now an array inside them. `FuseTIR` puts loops next to each "
        "other; to keep a value in a register from one to the other takes a schedule, and only "
        "now "
        "can one reach both."
    )


def _show_results(stories: dict[str, Story]) -> None:
    show.say("The results of the compiled models against the PyTorch models, computed in float64:")
    show.table(
        ("model", "batch", "largest error", "allowed", "eager PyTorch's own error"),
        [
            (name, str(number), f"{error:.1e}", f"{allowed:.1e}", f"{eager:.1e}")
            for name, story in stories.items()
            for number, (error, allowed, eager) in enumerate(story.results, 1)
        ],
        "Allowed: what rounding in float32 can add up to over the sums on the way.",
    )


def _time(session, name: str, story: Story) -> Comparison:
    common = {
        "batch": story.batch,
        "want": story.want,
        "allowed": story.allowed,
        "flops": story.flops,
    }
    candidates = [
        PEAK_FMA,
        Candidate(EAGER, make_eager, {**common, "name": name, "seed": session.seed}),
    ]
    for stage in STAGES:
        for loops in (DEFAULT, SCHEDULED):
            if not (session.quick and stage == FOLDED and loops == DEFAULT):
                module = {"module": story.stages[stage].module[loops]}
                candidates.append(
                    Candidate(f"{stage}, {loops}", make_compiled, {**common, **module})
                )
    measured = session.compare(candidates, what=f"the {name}")
    rows = []
    for candidate in candidates[1:]:
        if candidate.name in measured:
            figure = measured[candidate.name]
            stage = story.stages.get(candidate.name.partition(",")[0])
            against = "-" if candidate.name == EAGER else _against_eager(measured, candidate.name)
            rows.append(
                (
                    candidate.name,
                    str(stage.kernels) if stage else "-",
                    show.seconds(figure.median_s),
                    f"{figure.spread:.0%}",
                    show.rate(figure.gflops),
                    show.share(measured.share_of_peak(candidate.name)),
                    against,
                )
            )
    show.heading(f"The {name} in time, batches of {len(story.batch)}")
    show.table(
        ("", "kernels", "time", "spread", "GFLOP/s", "of FMA peak", "against eager"),
        rows,
        f"FMA peak of {measured.threads} threads, measured in the same rounds: "
        f"{show.rate(measured.peak_gflops)} GFLOP/s. {measured.rounds} paired rounds, every "
        f"competitor in a process of its own with {measured.threads} threads, its result verified.",
    )
    for first, second in (
        (f"{FOLDED}, {SCHEDULED}", f"{IMPORTED}, {SCHEDULED}"),
        (f"{FUSED}, {SCHEDULED}", f"{FOLDED}, {SCHEDULED}"),
    ):
        if first in measured and second in measured:
            show.line("  " + measured.verdict(first, second).sentence() + ".")
    session.report.setdefault("results", []).extend(
        {"model": name, **result} for result in measured.as_json()
    )
    session.report.setdefault("peaks", {"fma_gflops": measured.peak_gflops})
    session.report.setdefault("graphs", {})[name] = {
        stage: {"kernels": one.kernels, "bytes_between": one.read.bytes_between}
        for stage, one in story.stages.items()
    }
    return measured


def _against_eager(measured: Comparison, name: str) -> str:
    return measured.verdict(name, EAGER).short() if EAGER in measured else "-"


def _answer(session, stories: dict[str, Story], measured: dict[str, Comparison]) -> None:
    cnn, timed = stories["CNN"], measured["CNN"]
    session.picture("graph", lambda path: draw_graph(path, cnn, timed))
    before, after = cnn.stages[IMPORTED], cnn.stages[FUSED]
    best, plain = f"{FUSED}, {SCHEDULED}", f"{FUSED}, {DEFAULT}"
    answer = [
        (
            "A schedule rewrites the loops of one kernel. It cannot remove the kernel, it cannot "
            "reach into the next one, and it does not know that an input is the same at every "
            "call. Graph passes can: in this run the CNN's batch norms went into the "
            "convolutions' "
            "weights, a transposition of weights was done once and for all, a kernel that nobody "
            "needed is gone, and biases and ReLUs moved into the kernels before them. "
            f"{before.kernels} kernels became {after.kernels}, and "
            f"{size(before.read.bytes_between)} between them became "
            f"{size(after.read.bytes_between)}."
        )
    ]
    gains = [
        f"the {name} as imported took {show.seconds(one[f'{IMPORTED}, {SCHEDULED}'].median_s)}, "
        f"fused {show.seconds(one[best].median_s)} "
        f"({one.verdict(best, f'{IMPORTED}, {SCHEDULED}').short()})"
        for name, one in measured.items()
        if best in one and f"{IMPORTED}, {SCHEDULED}" in one
    ]
    if gains:
        answer.append(
            f"What that is worth, with the same schedule for every kernel: {'; '.join(gains)}."
        )
    if plain in timed and best in timed and EAGER in timed:
        answer.append(
            f"But passes alone make no fast code: {timed.verdict(plain, EAGER).sentence()}. Each "
            "of "
            "PyTorch's operators is a library kernel with threads and vectors, while these loops "
            "use one thread and sum into memory. With the steps of phase 2 on every kernel, "
            f"{timed.verdict(best, EAGER).sentence()}. Graph passes decide what the kernels are, "
            "schedules how they run."
        )
        against = timed.verdict(best, EAGER).short()
        session.headline = (
            f"CNN: {before.kernels} kernels to {after.kernels}; compiled, "
            f"{against} {'from' if against == 'cannot tell' else 'than'} eager PyTorch"
        )
    show.question("What can graph passes do that no operator schedule can?", answer)


def size(count: int) -> str:
    """A number of bytes with its unit."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


# ---------------------------------------------------------------------------------- run in a worker


def by_hand_story(seed: int) -> dict[str, Any]:
    """The worked graph as text, before and after lowering, and its error on random inputs."""
    lesson = exercise.load_lesson("relay_import")
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(shape).astype("float32") for shape in ((4, 7), (7, 5)))
    got = lesson.run_linear_relu(x, w)
    error = float(np.abs(got - np.maximum(x.astype("float64") @ w, 0)).max())
    if not error < 1e-5:
        raise RuntimeError(f"the worked example is wrong by {error}")
    module = lesson.linear_relu(4, 7, 5)
    return {
        "graph": _text(module["main"]),
        "lowered": _text(lesson.lower(module)["main"]),
        "error": error,
    }


def _text(function) -> str:
    script = function.script()
    return script[script.index("@R.function") :].replace("R.Tensor", "Tensor")


def model_story(name: str, seed: int, whose: dict[str, str]) -> Story:
    """Take a model through the three exercises, and keep what is to be shown and timed."""
    import torch
    from torch import nn

    from tvm_practice.checks.relay_import import expected
    from tvm_practice.common.target import cpu_target

    lesson = exercise.load_lesson("relay_import")
    import_model, optimize, compile_and_run = (
        exercise.body(known, whose[known]) for known in EXERCISES
    )
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal(SHAPES[name]).astype("float32") for _ in range(BATCHES)]
    model = lesson.pretend_trained(getattr(lesson, name), seed)
    imported = import_model(model, torch.from_numpy(batches[0]))
    modules = _modules(lesson, imported, optimize)
    stages = {stage: _stage(lesson, module) for stage, module in modules.items()}

    flops = 0.0

    def count(layer, _, output) -> None:
        nonlocal flops
        flops += 2.0 * output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    wanted = []
    for batch, got in zip(
        batches, compile_and_run(modules[FUSED], batches, cpu_target()), strict=True
    ):
        want, magnitude, terms = expected(model, batch)
        flops = 0.0
        with torch.inference_mode():
            eager = model.eval()(torch.from_numpy(batch)).numpy()
        wanted.append((want, verify.tolerance(magnitude, terms), got, eager))
    return Story(
        imported=graph(imported),
        stages=stages,
        parts=parts(
            *([step.name for step in stages[stage].read.steps] for stage in (FOLDED, FUSED))
        ),
        results=tuple(
            (
                float(np.abs(got - want).max()),
                float(allowed.max()),
                float(np.abs(eager - want).max()),
            )
            for want, allowed, got, eager in wanted
        ),
        batch=batches[0],
        want=wanted[0][0],
        allowed=wanted[0][1],
        flops=flops,
    )


def _modules(lesson, imported, optimize) -> dict[str, Any]:
    """The module of each stage."""
    import tvm
    from tvm.relax import transform

    to_fold = [
        transform.FoldBatchnormToConv2D(),
        transform.LegalizeOps(),
        transform.FoldConstant(),
        transform.DeadCodeElimination(),
    ]
    return {
        IMPORTED: lesson.lower(imported),
        FOLDED: tvm.transform.Sequential(to_fold)(imported),
        FUSED: optimize(imported),
    }


def _stage(lesson, module) -> Stage:
    import tvm

    scheduled = lesson.schedule_kernels(module)
    loops = {DEFAULT: module, SCHEDULED: scheduled}
    return Stage(
        graph(tvm.relax.transform.AnnotateTIROpPattern()(module)),
        {name: _bytes_inside(one) for name, one in loops.items()},
        {name: tvm.ir.save_json(one) for name, one in loops.items()},
    )


def _bytes_inside(module) -> int:
    """Bytes of the arrays in memory that the kernels allocate for themselves."""
    total = 0
    for step in graph(module).of_kind(KERNEL):
        for _, shape, scope in loop_nest(module[step.name]).buffers:
            if scope in ("", "global"):
                total += 4 * int(np.prod(shape))
    return total


def parts(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """For each kernel of a chain, the fused kernel it became part of. FuseOps names a group
    "fused_" and its members."""
    found: list[str] = []
    for name in after:
        rest = list(before[len(found) :])
        for length in range(1, len(rest) + 1):
            members = "_".join(rest[:length])
            if name in (members, f"fused_{members}"):
                found += [name] * length
                break
    return found + ["-"] * (len(before) - len(found))


def gpu_stories(
    shapes: dict[str, tuple[int, ...]], seed: int, whose: dict[str, str]
) -> dict[str, dict[str, OnGpu]]:
    """Take the models through the exercises, and every stage of them through the simulator. Raises
    Wrong if a call's or a model's result is not right."""
    import torch

    from tvm_practice.checks.relay_import import expected
    from tvm_practice.common.target import cpu_target

    lesson = exercise.load_lesson("relay_import")
    import_model, optimize, compile_and_run = (
        exercise.body(known, whose[known]) for known in EXERCISES
    )
    rng = np.random.default_rng(seed)
    batches = {name: verify.random_array(rng, *shape) for name, shape in shapes.items()}
    models = {name: lesson.pretend_trained(getattr(lesson, name), seed) for name in shapes}
    modules = {}
    for name, model in models.items():
        imported = import_model(model, torch.from_numpy(batches[name]))
        modules[name] = _modules(lesson, imported, optimize)
    functions = OnBoth([module for of_model in modules.values() for module in of_model.values()])
    stories: dict[str, dict[str, OnGpu]] = {}
    for name, batch in batches.items():
        want = expected(models[name], batch)
        (on_cpu,) = compile_and_run(modules[name][FUSED], [batch], cpu_target())
        verify.assert_close(on_cpu, *want, f"the {name}'s result on the CPU")
        stories[name] = {
            stage: _on_gpu(f"the {name}'s result, {stage},", module, batch, want, functions)
            for stage, module in modules[name].items()
        }
    return stories


def _on_gpu(
    what: str,
    module: Any,
    batch: np.ndarray,
    expected: tuple[np.ndarray, np.ndarray, int],
    functions: OnBoth,
) -> OnGpu:
    want, magnitude, terms = expected
    got, launches, inside = run_on_gpu(module, batch, functions)
    verify.assert_close(got, want, magnitude, terms, what)
    allowed = float(verify.tolerance(magnitude, terms).max())
    return OnGpu(tuple(launches), float(np.abs(got - want).max()), allowed, inside)


class OnBoth:
    """The TensorIR functions of some modules for the CPU, with default loops, and for the simulated
    GPU; what stands in several modules is compiled once.

    schedule: takes a function to a module with kernels.
    """

    def __init__(self, modules: Iterable[Any], schedule: Callable[[Any], Any] = by_default) -> None:
        import tvm
        from tvm import tirx

        from tvm_practice.common.target import cpu_target, threads

        functions = {
            _key(function): function
            for module in modules
            for function in module.functions.values()
            if isinstance(function, tirx.PrimFunc)
        }
        with ThreadPoolExecutor(threads()) as compilers:  # g++ needs nothing of this process
            simulators = []
            for function in functions.values():
                # A pass may write into what it is given: the CPU gets the function, the GPU a copy.
                scheduled = schedule(_copy(function))
                made = kernels(scheduled)
                names = [buffer.name for buffer in scheduled["main"].params]
                simulators.append(compilers.submit(Simulated, made, loop_nest(scheduled), names))
            named = {
                f"kernel_{number}": function.with_attr("global_symbol", f"kernel_{number}")
                for number, function in enumerate(functions.values())
            }
            on_cpu = tvm.compile(tvm.IRModule(named), target=cpu_target()).jit()
            self.known = {
                key: (on_cpu[name], simulator.result())
                for key, name, simulator in zip(functions, named, simulators, strict=True)
            }

    @cached_property
    def usages(self) -> dict[Kernel, Usage]:
        return _usages([kernel for _, library in self.known.values() for kernel in library.kernels])

    def __call__(self, function: Any) -> tuple[Callable[..., None], Simulated]:
        return self.known[_key(function)]


def _key(function: Any) -> int:
    import tvm_ffi

    return tvm_ffi.structural_hash(_plain(function))


def _plain(function: Any) -> Any:
    """A kernel of a graph as a function that stands alone."""
    return function.without_attr("op_pattern").with_attr("global_symbol", "main")


def _copy(function: Any) -> Any:
    import tvm
    from tvm.script import from_source

    function, names = _plain(function), {buffer.name for buffer in function.params}
    if len(names) < len(function.params):
        # Two outputs of batch norm have one name, and the simulator knows arrays by their names.
        # The printer tells them apart.
        return from_source(function.script())
    return tvm.ir.load_json(tvm.ir.save_json(function))


def _usages(made: Sequence[Kernel]) -> dict[Kernel, Usage]:
    """What NVIDIA's compiler gives each kernel on a V100, empty where it is missing. It reads
    CUDA's headers each time, so it is called once for many kernels, by names that differ."""
    if resources.available():
        return {}
    usages: dict[Kernel, Usage] = {}
    for preamble in {kernel.preamble for kernel in made}:
        alike = [kernel for kernel in made if kernel.preamble == preamble]
        sources = [
            re.sub(rf"\b{kernel.name}\(", f"kernel_{number}(", kernel.source, count=1)
            for number, kernel in enumerate(alike)
        ]
        told = resources.compile("\n".join([preamble, *sources]), V100.arch)
        by_name = {usage.kernel: usage for usage in told}
        usages |= {kernel: by_name[f"kernel_{number}"] for number, kernel in enumerate(alike)}
    return usages


def run_on_gpu(
    module: Any, batch: np.ndarray, functions: OnBoth
) -> tuple[np.ndarray, list[Launch], int]:
    """Run a module's "main" call by call in the simulator; the result, the launches, and the bytes
    that are handed on inside of a call. Raises Wrong if the result of a call is not that of the
    same function on the CPU."""
    from tvm import ir, relax

    main = module["main"]
    values: dict[Any, Any] = {main.params[0]: batch}
    launches: list[Launch] = []
    inside = 0

    def value(expression) -> Any:
        match expression:
            case ir.Constant():
                return expression.value.numpy()
            case relax.Tuple():
                return tuple(map(value, expression.fields))
            case relax.TupleGetItem():
                return value(expression.tuple_value)[expression.index]
        return values[expression]

    for block in main.body.blocks:
        for binding in block.bindings:
            call, made = binding.value, binding.var.ty
            if not isinstance(call, relax.Call):
                values[binding.var] = value(call)
                continue
            if getattr(call.op, "name", "") != "relax.call_tir":
                raise RuntimeError(f"{call.op} is no call of a kernel")
            name, inputs = call.args[0].name_hint, value(call.args[1])
            kinds = list(made.fields) if hasattr(made, "fields") else [made]
            outputs = [(tuple(int(n) for n in one.shape), str(one.dtype)) for one in kinds]
            on_cpu, on_gpu = functions(module[name])
            want = verify.run_all(on_cpu, inputs, outputs)
            got = verify.run_all(on_gpu, inputs, outputs)
            terms = _terms(module[name])
            for number, (one, other) in enumerate(zip(got, want, strict=True), 1):
                what = f"{name}'s result" + (f" {number}" if len(got) > 1 else "")
                # Partial sums of terms of either sign grow as the results do: the largest of them
                # is the magnitude.
                magnitude = np.full(other.shape, np.abs(other).max())
                verify.assert_close(one, other.astype("float64"), magnitude, terms, what)
            difference = max(
                float(np.abs(one - other).max()) for one, other in zip(got, want, strict=True)
            )
            arrays = [*inputs, *got]
            launches += _launches(name, on_gpu, len(inputs), arrays, difference, functions.usages)
            values[binding.var] = tuple(got) if hasattr(made, "fields") else got[0]
            inside += sum(_between(on_gpu).values())
    return value(main.body.body), launches, inside


def _terms(function: Any) -> int:
    """How many roundings reach an element of a function's result: one for each block, and for each
    step of a reduction."""
    from tvm import tirx
    from tvm.s_tir import Schedule

    sch = Schedule(function.with_attr("global_symbol", "main"))
    total = 0
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        steps = [
            int(axis.dom.extent)
            for axis in sch.get(block).iter_vars
            if axis.iter_type == tirx.IterVar.CommReduce
        ]
        total += int(np.prod(steps, dtype=int))
    return total


def _launches(
    call: str,
    library: Simulated,
    inputs: int,
    arrays: Sequence[np.ndarray],
    difference: float,
    usages: dict[Kernel, Usage],
) -> list[Launch]:
    """A call's launches. The first `inputs` of its arrays are only read; any other is written by
    the first kernel that is given it, and read by the ones after."""
    bytes_of = dict(zip(library.parameters, (array.nbytes for array in arrays), strict=True))
    exists = set(library.parameters[:inputs])
    bytes_of |= _between(library)
    launches = []
    for kernel in library.kernels:
        given = set(kernel.parameters)
        launches.append(
            Launch(
                call,
                kernel,
                sum(bytes_of[name] for name in given & exists),
                sum(bytes_of[name] for name in given - exists),
                difference,
                usages.get(kernel),
            )
        )
        exists |= given
    return launches


def _between(library: Simulated) -> dict[str, int]:
    """Bytes of the arrays that a function's kernels keep in global memory for one another."""
    given = {name for kernel in library.kernels for name in kernel.parameters}
    return {
        name: 4 * int(np.prod(shape)) for name, shape, _ in library.nest.buffers if name in given
    }


def make_compiled(
    module: str, batch: np.ndarray, want: np.ndarray, allowed: np.ndarray, flops: float
) -> Runnable:
    """A module, compiled for this CPU and run on the virtual machine."""
    import tvm
    from tvm import relax

    from tvm_practice.common.target import cpu_target

    executable = tvm.compile(tvm.ir.load_json(module), target=cpu_target())
    function = relax.VirtualMachine(executable, tvm.cpu())["main"]
    x = tvm.runtime.tensor(batch)
    _verify(function(x).numpy(), want, allowed)
    return Runnable(lambda: function(x), flops=flops, verified=True)


def make_eager(
    name: str, seed: int, batch: np.ndarray, want: np.ndarray, allowed: np.ndarray, flops: float
) -> Runnable:
    """The PyTorch model, operator by operator."""
    import torch

    from tvm_practice.common.target import threads

    torch.set_num_threads(threads())
    lesson = exercise.load_lesson("relay_import")
    model = lesson.pretend_trained(getattr(lesson, name), seed).eval()
    x = torch.from_numpy(batch)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)

    _verify(call().numpy(), want, allowed)
    return Runnable(call, flops=flops, verified=True)


def _verify(got: np.ndarray, want: np.ndarray, allowed: np.ndarray) -> None:
    if not (np.abs(got - want) <= allowed).all():
        raise RuntimeError("its result is wrong")


# ----------------------------------------------------------------------------------------- pictures

COLORS = {
    "elementwise": "#cfe8cf",
    "broadcast": "#cfe8cf",
    "injective": "#e4eec0",
    "reduction": "#f3dcb5",
    "out-fusable": "#bcd4ee",
    "-": "#e3e3e3",
}


def draw_graph(path: Path, story: Story, timed: Comparison) -> None:
    """The kernels of the three stages side by side, a box for each and the bytes it hands on. What
    reads constants only stands aside, and what became of a kernel stands on its right."""
    from matplotlib.patches import FancyBboxPatch, Patch

    columns = place(story)
    height = max(top + span for column in columns for top, span in column) + 0.4
    figure, axis = picture.blank(11, 0.6 * height + 1)
    for number, (stage, column) in enumerate(zip(STAGES, columns, strict=True)):
        left, read = 3 * number, story.stages[stage].read
        rows = {step.result: row for step, row in zip(read.steps, column, strict=True)}
        for step, (top, span) in zip(read.steps, column, strict=True):
            x, width = (left + 1.2, 0.9) if step.constant_only else (left, 2.1)
            color = COLORS.get(step.fusion_class, COLORS["-"])
            axis.add_patch(
                FancyBboxPatch(
                    (x, top + 0.04), width, span - 0.42,
                    boxstyle="round,pad=0.03", facecolor=color, edgecolor="black",
                )
            )  # fmt: skip
            label = (
                re.sub(r"_(?=add|relu|divide|multiply)", "\n", step.name) if span > 1 else step.name
            )
            axis.text(
                x + width / 2, top + span / 2 - 0.17, label, ha="center", va="center", fontsize=9
            )
            start = top + span - 0.34
            for reader in read.readers(step.result):
                arrow = x + 0.5 * width if step.constant_only else left + 0.55
                end = rows[reader.result][0]
                axis.annotate("", (arrow, end), (arrow, start), arrowprops={"arrowstyle": "->"})
                axis.text(arrow + 0.06, start + 0.17, size(step.bytes), fontsize=7.5, va="center")
            if not read.readers(step.result) and step.result != read.result[0]:
                axis.text(
                    x, start + 0.17, f"{size(step.bytes)}, never read", fontsize=7.5, va="center"
                )
        name = f"{stage}, {SCHEDULED}"
        took = f", {show.seconds(timed[name].median_s)}" if name in timed else ""
        axis.text(
            left + 1.05, -0.5,
            f"{stage}: {len(read.steps)} kernels{took}\n{size(read.bytes_between)} between them",
            ha="center", va="center", fontsize=10, weight="bold",
        )  # fmt: skip
    used = {step.fusion_class for stage in story.stages.values() for step in stage.read.steps}
    handles = [
        Patch(facecolor=color, edgecolor="black", label=kind)
        for kind, color in COLORS.items()
        if kind in used
    ]
    axis.legend(handles=handles, loc="upper right", fontsize=8, title="class", framealpha=1)
    axis.set_xlim(-0.2, 9.4)
    axis.set_ylim(height, -1)
    axis.axis("off")
    axis.set_title("The CNN's kernels after importing, folding and fusing")
    picture.save(figure, path)


def place(story: Story) -> list[list[tuple[int, int]]]:
    """(first row, number of rows) of each kernel of each stage, so that what became of a kernel
    stands beside it."""
    imported, folded, fused = (
        [step.name for step in one.read.steps] for one in story.stages.values()
    )
    rows: list[int] = []  # of the folded kernels, beside the imported ones
    same = difflib.SequenceMatcher(None, _stems(imported), _stems(folded), autojunk=False)
    for _, a, _, b, b_end in same.get_opcodes():
        rows += [max(a, rows[-1] + 1 if rows else 0) + n for n in range(b_end - b)]
    last = []
    for number, name in enumerate(fused):
        covered = [row for row, part in zip(rows, story.parts, strict=True) if part == name]
        top = covered[0] if covered else number
        last.append((top, covered[-1] - top + 1 if covered else 1))
    return [[(row, 1) for row in range(len(imported))], [(row, 1) for row in rows], last]


def _stems(names: list[str]) -> list[str]:
    """Kernel names without the number that LegalizeOps adds to tell one from another."""
    return [re.sub(r"\d+$", "", name) for name in names]
