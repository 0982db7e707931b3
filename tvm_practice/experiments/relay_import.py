"""What phase 4 shows: the graph before and after its passes, kernel by kernel, and what each stage
is worth in time."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, picture, show
from tvm_practice.common.graph import KERNEL, Graph, graph
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Runnable

SHAPES = {"CNN": (8, 3, 48, 64), "MLP": (8, 784)}
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
    import tvm
    from torch import nn
    from tvm.relax import transform

    from tvm_practice.checks.relay_import import expected
    from tvm_practice.common.target import cpu_target
    from tvm_practice.common.verify import tolerance

    lesson = exercise.load_lesson("relay_import")
    import_model, optimize, compile_and_run = (
        exercise.body(known, whose[known]) for known in EXERCISES
    )
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal(SHAPES[name]).astype("float32") for _ in range(BATCHES)]
    model = lesson.pretend_trained(getattr(lesson, name), seed)
    imported = import_model(model, torch.from_numpy(batches[0]))
    to_fold = [
        transform.FoldBatchnormToConv2D(),
        transform.LegalizeOps(),
        transform.FoldConstant(),
        transform.DeadCodeElimination(),
    ]
    folded = tvm.transform.Sequential(to_fold)(imported)
    fused = optimize(imported)
    modules = {IMPORTED: lesson.lower(imported), FOLDED: folded, FUSED: fused}
    stages = {stage: _stage(lesson, module) for stage, module in modules.items()}

    flops = 0.0

    def count(layer, _, output) -> None:
        nonlocal flops
        flops += 2.0 * output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    wanted = []
    for batch, got in zip(batches, compile_and_run(fused, batches, cpu_target()), strict=True):
        want, magnitude, terms = expected(model, batch)
        flops = 0.0
        with torch.inference_mode():
            eager = model.eval()(torch.from_numpy(batch)).numpy()
        wanted.append((want, tolerance(magnitude, terms), got, eager))
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
    from tvm_practice.common.loop_nest import loop_nest

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
