"""Replay a schedule's trace one instruction at a time, and say what each did to the loop nest.

A trace is the list of primitives that made a schedule. Here its first n instructions are applied to
the program that it started from, for every n, and each program is compared with the one before.
Most instructions only ask for a block, for its loops, or for a random number; they are kept with
the next one that changes something.

`replay` needs TVM and runs in a worker process; what it returns is plain data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tvm_practice.common.loop_nest import Block, Loop, LoopNest, loop_nest
from tvm_practice.common.refusal import in_plain_words

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

MOST_INSTRUCTIONS = 2000
START = "start"
POSTPROC = "EnterPostproc"  # what follows it in a trace was done by MetaSchedule's postprocessors


class NoReplay(Exception):
    """A trace cannot be replayed; the message is one sentence that says why."""


@dataclass(frozen=True)
class Step:
    """One instruction that changed the program, and the program after it.

    number: 0 for the program that the trace starts from. instruction: its place in the trace,
    counted from 1. kind: its name in TVM, such as "Split". python: its line as TVM writes it, in
    which loops are l1, l2, ...; call: the same with the loops' own names and without what is a
    default. asked: the lines since the step before that changed nothing. tree: the nest as nested
    dicts, see `tree`. module: the program, as TVM's JSON. same_as: the number of an earlier step
    with the very same program, or None.
    """

    number: int
    instruction: int
    kind: str
    python: str
    call: str
    asked: tuple[str, ...]
    postprocessor: bool
    changes: tuple[str, ...]
    nest: LoopNest
    tree: list[dict[str, Any]]
    module: str
    same_as: int | None = None


@dataclass(frozen=True)
class Replay:
    """Every step, the program before the first among them, and the lines after the last."""

    steps: tuple[Step, ...]
    rest: tuple[str, ...] = field(default=())


def replay(start: tvm.IRModule, trace: Trace) -> Replay:
    """Apply ever longer beginnings of `trace` to `start`; raise NoReplay where TVM refuses one."""
    import tvm
    import tvm_ffi

    lines = _lines(trace)
    before = _beginning(start, trace, 0)
    seen = [(tvm_ffi.structural_hash(before.mod), before.mod)]
    nest, shape = _read(before.mod)
    json_of = tvm.ir.save_json
    first = Step(0, 0, START, "", "", (), False, (), nest, shape, json_of(before.mod))
    steps, asked, postprocessor = [first], [], False
    for number, (instruction, line) in enumerate(zip(trace.insts, lines, strict=True), 1):
        kind = str(instruction.kind.name)
        try:
            after = _beginning(start, trace, number)
        except Exception as error:
            raise NoReplay(
                f"instruction {number} of {len(lines)}, {_call(before, line)}, cannot be "
                f"replayed: {in_plain_words(error)}"
            ) from None
        postprocessor |= kind == POSTPROC
        digest = tvm_ffi.structural_hash(after.mod)
        if digest == seen[-1][0] and tvm_ffi.structural_equal(after.mod, seen[-1][1]):
            asked.append(line)
            before = after
            continue
        earlier = [
            place
            for place, (known, module) in enumerate(seen)
            if known == digest and tvm_ffi.structural_equal(after.mod, module)
        ]
        (old_nest, old_shape), (nest, shape) = (nest, shape), _read(after.mod)
        call = _call(before, line)
        changes = (
            changed(old_nest, nest, old_shape, shape)
            or _annotated(old_shape, shape)
            or _only_annotated(call, kind)
        )
        steps.append(
            Step(
                len(steps),
                number,
                kind,
                line,
                call,
                tuple(asked),
                postprocessor,
                changes,
                nest,
                shape,
                json_of(after.mod),
                earlier[0] if earlier else None,
            )
        )
        seen.append((digest, after.mod))
        asked, before = [], after
    return Replay(tuple(steps), tuple(asked))


def _beginning(start: tvm.IRModule, trace: Trace, number: int) -> Schedule:
    """A fresh schedule with the first `number` instructions applied."""
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    # Schedule(function) copies, Schedule(module) rewrites the module that it is given.
    alone = _names(start) == {"main"}
    sch = Schedule(start["main"] if alone else tvm.ir.load_json(tvm.ir.save_json(start)))
    decisions = dict(trace.decisions)
    some = trace.insts[:number]
    kept = {one: decisions[one] for one in some if one in decisions}
    Trace(some, kept).apply_to_schedule(sch, remove_postproc=False)
    return sch


def _names(module: tvm.IRModule) -> set[str]:
    return {str(variable.name_hint) for variable in module.functions}


def _lines(trace: Trace) -> list[str]:
    """What each instruction is in Python, one line of text each."""
    if len(trace.insts) > MOST_INSTRUCTIONS:
        raise NoReplay(f"the trace has {len(trace.insts)} instructions, too many to explain.")
    lines = [" ".join(str(line).split()) for line in trace.as_python()]
    if len(lines) != len(trace.insts):
        raise NoReplay("TVM writes this trace in another number of lines than it has instructions.")
    return lines


# ---------------------------------------------------------------------------- a primitive as a call

_DEFAULTS = re.compile(
    r", (?:preserve_unit_iters=True|preserve_unit_loops=False|disable_predication=False|index=-1"
    r"|pad_value=None|assume_injective_transform=False|func_name=\"main\")(?=[,)])"
)
_KEYWORDS = re.compile(
    r"(?<=[(, ])(?:loop|block|block_or_loop|factors|ann_key|ann_val|storage_scope|padding|index_map"
    r"|buffer|buffer_index|read_buffer_index|write_buffer_index|name|thread_axis|factor_axis"
    r"|tensor_intrin)=(?!=)"
)
_VARIABLE = re.compile(r"\b([blv])(\d+)\b")


def _call(sch: Schedule, line: str) -> str:
    """The line with every variable of the trace as what it stands for in `sch`: a loop's name, a
    block's, a number."""
    outputs = [value for instruction in sch.trace.insts for value in instruction.outputs]

    def name(found: re.Match) -> str:
        number = int(found[2])
        if number >= len(outputs):
            return found[0]
        try:
            meant = sch.get(outputs[number])
        except Exception:  # a place such as "inlined", or a loop that is gone
            return found[0]
        if found[1] == "l":
            return str(meant.loop_var.name)
        return str(meant.name_hint) if found[1] == "b" else str(meant)

    text = line.partition(" = sch.")[2]
    text = f"sch.{text}" if text else line
    text = _KEYWORDS.sub("", _DEFAULTS.sub("", text))
    return re.sub(r",(?=[)\]])", "", _VARIABLE.sub(name, text))


# ------------------------------------------------------------------------------- the nest as a tree


def tree(function: Any) -> list[dict[str, Any]]:
    """The loops and blocks of a PrimFunc as nested dicts that JSON can hold.

    A loop: "loop", "extent", "kind", "annotations", "body"; a block: "block", "guarded",
    "zeroes_first" (it sets its result before it adds to it), "annotations", "body" (what a block
    encloses that has blocks of its own; empty for most).
    """
    return list(_nodes(function.body))


def _nodes(statement: Any) -> Iterator[dict[str, Any]]:
    from tvm_practice.common.loop_nest import _LOOP_WORDS, _number

    kind = type(statement).__name__
    if kind == "For":
        word = _LOOP_WORDS.get(int(statement.kind), "serial")
        if statement.thread_binding is not None:
            word = str(statement.thread_binding.thread_tag)
        yield {
            "loop": str(statement.loop_var.name),
            "extent": _number(statement.extent),
            "kind": word,
            "annotations": _annotations(statement),
            "body": list(_nodes(statement.body)),
        }
    elif kind == "SeqStmt":
        for child in statement.seq:
            yield from _nodes(child)
    elif kind == "SBlockRealize":
        block = statement.block
        if str(block.name_hint) == "root" or not block.iter_vars:
            yield from _nodes(block.body)
            return
        yield {
            "block": str(block.name_hint),
            "guarded": str(statement.predicate) not in ("True", "T.bool(True)", "1"),
            "zeroes_first": block.init is not None,
            "annotations": _annotations(block),
            "body": list(_nodes(block.body)),
        }


def _annotations(node: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in dict(node.annotations or {}).items()}


def _read(module: tvm.IRModule) -> tuple[LoopNest, list[dict[str, Any]]]:
    function = main_of(module)
    return loop_nest(function), tree(function)


def main_of(module: tvm.IRModule) -> Any:
    """The function that is explained: "main", or the only one there is."""
    names = sorted(_names(module))
    if "main" in names:
        return module["main"]
    if len(names) != 1:
        raise NoReplay(f'the program has no function "main", only {", ".join(names) or "none"}.')
    return module[names[0]]


# ------------------------------------------------------------------------------------- what changed


def changed(
    before: LoopNest,
    after: LoopNest,
    tree_before: Sequence[dict[str, Any]] = (),
    tree_after: Sequence[dict[str, Any]] = (),
) -> tuple[str, ...]:
    """What is different in `after`, a sentence for each difference, derived from the nests alone.
    Empty if nothing can be seen."""
    told: dict[str, list[str]] = {}  # by sentence: the blocks of which it is true
    pairs, told_of_blocks = _matched(before, after)
    around_before, around_after = _beside(tree_before), _beside(tree_after)
    steady = {new.name for old, new in pairs if old.loops == new.loops}
    for old, new in pairs:
        apart = around_before.get(old.name, {})
        nearer = {
            name: shared
            for name, shared in around_after.get(new.name, {}).items()
            if name in steady and shared > apart.get(name, 0)
        }
        for sentence in _block_changes(old, new, nearer):
            told.setdefault(sentence, []).append(new.name)
    several = len(after.blocks) > 1
    sentences = told_of_blocks + [
        f"{', '.join(dict.fromkeys(names))}: {sentence}" if several else sentence
        for sentence, names in told.items()
    ]
    sentences += _buffer_changes(before, after)
    if not sentences and before.lines != after.lines:
        old, new = ({line.text for line in nest.lines} for nest in (before, after))
        now = "; ".join(sorted(new - old)[:2])
        sentences.append(f"the statements are now {now}" if now else "lines stand in another order")
    return tuple(sentences)


def _annotated(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    """The annotations that came to loops and blocks, or went."""
    old, new = dict(_all_annotations(before)), dict(_all_annotations(after))
    came = [
        f"{where} annotated: {key} = {value}; the nest itself is the same"
        for (where, key), value in new.items()
        if old.get((where, key)) != value
    ]
    went = [
        f"{where} no longer annotated with {key}; the nest itself is the same"
        for where, key in old
        if (where, key) not in new
    ]
    return tuple(came + went)


def _all_annotations(nodes: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[str, str], str]]:
    for node in nodes:
        for key, value in node["annotations"].items():
            yield (node.get("loop") or node["block"], key), value
        yield from _all_annotations(node["body"])


def _only_annotated(call: str, kind: str) -> tuple[str, ...]:
    """What to say of an instruction that changed the program, but nothing of the nest: it annotated
    the root, which the nest does not show, most likely."""
    found = re.fullmatch(r"sch\.annotate\((.+?), \"(.+?)\", (.+)\)", call)
    if found:
        return (f"{found[1]} annotated: {found[2]} = {found[3]}; the nest itself is the same",)
    found = re.fullmatch(r"sch\.unannotate\((.+?), \"(.+?)\"\)", call)
    if found:
        return (f"{found[1]} no longer annotated with {found[2]}; the nest itself is the same",)
    return (f"nothing that the nest shows ({kind})",)


def _matched(before: LoopNest, after: LoopNest) -> tuple[list[tuple[Block, Block]], list[str]]:
    """The blocks that are in both, paired; and sentences about those that are not."""
    old = {block.name: block for block in before.blocks}
    new = {block.name: block for block in after.blocks}
    pairs = [(old[name], new[name]) for name in old if name in new]
    gone = [name for name in old if name not in new]
    come = [name for name in new if name not in old]
    sentences = []
    for name in list(gone):
        parts = [f"{name}_init", f"{name}_update"]
        if all(part in come for part in parts):
            gone.remove(name)
            come = [one for one in come if one not in parts]
            where = _outside(new[parts[0]], new[parts[1]])
            sentences.append(
                f"{name} taken apart: {parts[0]} sets the result{where}, {parts[1]} adds"
            )
            pairs.append((_without_init(old[name]), new[parts[1]]))
    for name in come:
        block = new[name]
        reads = ", ".join(dict.fromkeys(block.reads)) or "nothing"
        sentences.append(f"new block {name}: from {reads} to {block.stores_to} ({_extents(block)})")
    for name in gone:
        heirs = [
            block.name
            for old_one, block in pairs
            if old_one.reads != block.reads or old_one.stores_to != block.stores_to
        ]
        into = f", now computed in {', '.join(heirs)}" if heirs else ""
        sentences.append(f"block {name} is gone{into}")
    return pairs, sentences


def _without_init(block: Block) -> Block:
    return Block(**{**vars(block), "has_init": False})


def _outside(init: Block, update: Block) -> str:
    """Before which loop of the update the zeroing stands."""
    shared = _common(init.loops, update.loops)
    return f" before {update.loops[shared].name}" if shared < len(update.loops) else ""


def _common(first: Sequence[Loop], second: Sequence[Loop]) -> int:
    """How many loops, from the outermost inwards, are the same in both."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def _extents(block: Block) -> str:
    if not block.loops:
        return "no loops"
    names, extents = " x ".join(one.name for one in block.loops), _sides(block.loops)
    return f"loops {names}: {extents}"


def _sides(loops: Sequence[Loop]) -> str:
    return " x ".join(str(loop.extent) for loop in loops)


def _beside(nodes: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """For each block, how many loops it shares with each other block."""
    paths: dict[str, list[int]] = {}

    def walk(some: Sequence[dict[str, Any]], path: list[int]) -> None:
        for node in some:
            if "block" in node:
                paths[node["block"]] = path
            walk(node["body"], [*path, id(node)] if "loop" in node else path)

    walk(nodes, [])
    return {
        name: {
            other: sum(1 for a, b in zip(path, theirs, strict=False) if a == b)
            for other, theirs in paths.items()
            if other != name
        }
        for name, path in paths.items()
    }


def _block_changes(old: Block, new: Block, nearer: dict[str, int]) -> Iterator[str]:
    """`nearer`: the blocks whose loops are as before, but more of which are now around this one
    too, and how many."""
    if nearer and old.loops != new.loops:
        host = max(nearer, key=lambda name: nearer[name])
        own = new.loops[nearer[host] :]
        left = f", its own loops {' x '.join(loop.name for loop in own)}: {_sides(own)}"
        yield f"moved into loop {new.loops[nearer[host] - 1].name} of {host}{left if own else ''}"
    else:
        yield from _loop_changes(old, new)
    if new.guarded != old.guarded:
        yield "under a guard now" if new.guarded else "no guard any more"
    if new.has_init != old.has_init:
        yield "sets its result first" if new.has_init else "no longer sets its result first"
    if new.stores_to != old.stores_to:
        yield f"writes {new.stores_to} instead of {old.stores_to}"
    came = [name for name in dict.fromkeys(new.reads) if name not in old.reads]
    went = [name for name in dict.fromkeys(old.reads) if name not in new.reads]
    if came or went:
        instead = f" instead of {', '.join(went)}" if went else ""
        yield f"reads {', '.join(came)}{instead}" if came else f"reads {', '.join(went)} no more"


def _loop_changes(old: Block, new: Block) -> Iterator[str]:
    """Splits, fusions, extents, kinds and the order of the loops of one block."""
    names_old, names_new = [one.name for one in old.loops], [one.name for one in new.loops]
    left = [loop for loop in old.loops if loop.name not in names_new]
    fresh = [loop for loop in new.loops if loop.name not in names_old]
    for loop in list(left):
        parts = [one for one in fresh if re.fullmatch(rf"{re.escape(loop.name)}_\d+", one.name)]
        if not parts:
            continue
        left.remove(loop)
        fresh = [one for one in fresh if one not in parts]
        over = _product(parts) - loop.extent if isinstance(loop.extent, int) else 0
        more = f": {over} more than {loop.extent}" if over > 0 else ""
        listed = " x ".join(one.name for one in parts)
        yield f"{loop.name} split into {listed} ({_sides(parts)}{more})"
    for loop in list(fresh):
        if loop.name.endswith("_fused"):
            parts = [one for one in left if one.name in loop.name]
            if parts and _product(parts) == loop.extent:
                fresh.remove(loop)
                left = [one for one in left if one not in parts]
                listed = ", ".join(one.name for one in parts)
                yield f"{listed} fused into {loop.name} ({loop.extent})"
    if left or fresh:
        gone = ", ".join(f"{one.name} ({one.extent})" for one in left)
        come = ", ".join(f"{one.name} ({one.extent})" for one in fresh)
        if left and fresh:
            yield f"loops {gone} replaced by {come}"
        else:
            yield f"loops {gone} are gone" if left else f"new loops {come}"
    for loop in new.loops:
        if names_old.count(loop.name) != 1 or names_new.count(loop.name) != 1:
            continue
        earlier = old.loops[names_old.index(loop.name)]
        if earlier.extent != loop.extent:
            yield f"{loop.name} runs to {loop.extent} instead of {earlier.extent}"
        if earlier.kind != loop.kind:
            bound = "." in loop.kind
            yield f"{loop.name} {'bound to ' if bound else ''}{_word(loop.kind)}"
    stayed_old = [name for name in names_old if name in names_new]
    stayed_new = [name for name in names_new if name in names_old]
    if stayed_old != stayed_new:
        yield f"order now {new.order()}"


def _word(kind: str) -> str:
    return "serial again" if kind == "serial" else kind


def _product(loops: Sequence[Loop]) -> int:
    return math.prod(loop.extent if isinstance(loop.extent, int) else 0 for loop in loops)


def _buffer_changes(before: LoopNest, after: LoopNest) -> Iterator[str]:
    old = {name: (shape, scope) for name, shape, scope in before.buffers}
    new = {name: (shape, scope) for name, shape, scope in after.buffers}
    for name, (shape, scope) in new.items():
        text = f"{name}[{', '.join(map(str, shape))}]"
        if name not in old:
            where = f" in {scope}" if scope not in ("", "global") else ""
            yield f"new buffer {text}{where}"
            continue
        if old[name][0] != shape:
            yield f"buffer {text} was [{', '.join(map(str, old[name][0]))}]"
        if old[name][1] != scope:
            yield f"buffer {name} is kept in {scope or 'global'}, not {old[name][1] or 'global'}"
    for name in old:
        if name not in new:
            yield f"buffer {name} is gone"
