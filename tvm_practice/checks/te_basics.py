"""What "done" means in phase 1: the declared expression computes the right numbers, at shapes that
show a swapped index.

Each exercise is called with fixed shapes, all of them small and no two extents alike, and with a
larger one that is drawn anew in every run: a constant that happens to fit the fixed shapes does not
fit that one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tvm_practice.checks import Trial, check
from tvm_practice.common import verify
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong

if TYPE_CHECKING:
    from tvm import te, tirx

Mistakes = Sequence[tuple[np.ndarray, str]]

# What TVM or Python says (the source line included) when a rule is not what te.compute can use, and
# what it means here.
_SAYINGS = (
    (
        r"reducer\(\) missing 1 required positional argument: 'axis'",
        (
            "te.sum, te.max and te.min of one expression reduce it, and must be told over what: "
            "axis=k, a te.reduce_axis."
        ),
    ),
    (
        r"'axis' is an invalid keyword argument|unexpected keyword argument 'axis'",
        (
            "That is Python's own function. The one that makes a reduction is te.sum, te.max or "
            "te.min."
        ),
    ),
    (
        r"unsupported operand type\(s\) for \+: '\w+' and 'str'",
        "axis= takes what te.reduce_axis returned, not its name.",
    ),
    (
        r"`[^`]*(?<![\w.])(?:max|min)\(.*Cannot use and / or / not",
        (
            "Python's max and min compare now, while the element is still a symbol: te.max and "
            "te.min make an expression."
        ),
    ),
    (
        r"`[^`]*\b(?:and|or|not)\b.*Cannot use and / or / not",
        (
            "Python's `and`, `or` and `not` want a truth value now, while the index is still a "
            "symbol: te.all and te.any make an expression."
        ),
    ),
    (
        r"`[^`]*(?<!\w)if\b.*Cannot use and / or / not",
        (
            "Python's `if` decides now, while the index is still a symbol: te.if_then_else makes "
            "an expression that decides for every element."
        ),
    ),
    (
        r"Cannot use and / or / not",
        (
            "Python wants a truth value here (`if`, `and`, max, or a chain such as 0 < i < n), "
            "while the index is still a symbol: te.all, te.any, te.max and te.if_then_else make "
            "expressions."
        ),
    ),
    (
        r"Reductions are only allowed at the top level",
        (
            "A te.sum or te.max over an axis must be all that a rule returns. Give it a "
            "te.compute "
            "of its own, and read that in the next stage."
        ),
    ),
    (
        r"<lambda>\(\) missing \d+ required positional",
        (
            "A rule is called with one index for each dimension of the shape. A reduction axis is "
            "declared outside, and is no argument of it."
        ),
    ),
    (
        r"unsupported operand type\(s\) for @",
        (
            "A whole product is not an operation of TE: give the rule of one element, C[i, j], to "
            "te.compute."
        ),
    ),
    (r"dom need to be Range", "te.reduce_axis takes a pair, (0, n), as its first argument."),
    (
        r"te\.Placeholder\(.*Expected `ir.PrimType` but got `int`",
        "te.placeholder takes the whole shape as its first argument, a tuple: (rows, columns).",
    ),
    (
        r"but got `(?:te\.Tensor|Array\[index \d+: (?:te\.Tensor|ffi\.OpaquePyObject)\])`",
        (
            "A rule is about one element: index every tensor in it fully, as in A[i, k], without "
            "slices."
        ),
    ),
    (
        r"Need to provide \d+ index in tensor",
        "A tensor is read with as many indices as it has dimensions.",
    ),
    (
        r"does not support argument 0 of type TensorSlice|must be real number, not \w+",
        (
            "NumPy's and Python's functions want numbers, and an element is still a symbol: "
            "te.exp, te.log, te.sqrt make expressions."
        ),
    ),
    (
        r"does not support item assignment",
        "A tensor is not filled in: te.compute describes its elements.",
    ),
    (
        r"missing 1 required positional argument: 'f'",
        "te.if_then_else takes a condition and both values.",
    ),
    (
        r"MatchesCode\(DLDataTypeCode::kDLInt",
        "`//` divides integers; these are float32, so write `/`.",
    ),
)

# Hints for what several exercises may be told.
_RETURNED = {
    r"expected the list|the order is|returned \d tensors|returned tensors named|whose element": (
        "The docstring ends with the tensors that are to be returned: `return` a list of just "
        "those, inputs first. A stage between them is found from the output."
    ),
}
_PYTHON = {
    "compare now|decides now|truth value|functions want numbers": (
        "Python runs your rule once, to write an expression down; it never sees a number. What "
        "decides for each element must be part of that expression."
    ),
}
_UNROLLED = {
    "Python's loop wrote": (
        "A Python `for` is a loop of the program that writes the expression. What in row_sum above "
        "makes a loop of the program that is written?"
    ),
}


@dataclass(frozen=True)
class Declared:
    """What a body returned: the inputs, every te.compute on the way to the output (which is the
    last), and their PrimFunc.
    """

    call: str
    inputs: tuple[te.Tensor, ...]
    stages: tuple[te.Tensor, ...]
    function: tirx.PrimFunc

    @property
    def reductions(self) -> list[tuple[te.Tensor, tirx.IterVar]]:
        return [(stage, axis) for stage in self.stages for axis in stage.op.reduce_axis]

    def compile(self) -> Callable[..., dict[str, np.ndarray]]:
        """A function that computes every stage and returns them by name, the output last.

        The stages become outputs too. So they lie between guard zones like the output, and a check
        can look at them.
        """
        from tvm import te

        shown = [stage for stage in self.stages if _numpy_has(stage.dtype)]
        names = [stage.op.name for stage in shown]
        # Of several stages with one name, the last has it.
        keys = [f"{name}_{n}" if name in names[n:] else name for n, name in enumerate(names, 1)]
        outputs = [(_shape(stage), str(stage.dtype)) for stage in shown]
        try:
            built = build(te.create_prim_func([*self.inputs, *shown]))
        except Exception as error:
            raise Wrong(
                f"TVM could not compile what {self.call} returned: {_reason(error)}"
            ) from None

        def compute(*arrays: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(keys, verify.run_all(built, arrays, outputs), strict=True))

        return compute

    def operations(self) -> list[str]:
        """The kinds of all nodes of all rules: "Add", "Or", "Select", "prim.if_then_else", ..."""
        import tvm_ffi
        from tvm import ir

        found: list[str] = []

        def note(node: ir.Expr) -> None:
            found.append(node.op.name if isinstance(node, ir.Call) else type(node).__name__)

        for stage in self.stages:
            for expression in stage.op.body:
                tvm_ffi.structural_walk(expression, (ir.Expr, note))
        return found

    def outside(self) -> str:
        """Which index runs beyond what it indexes; "" if TVM finds none."""
        return " ".join(read.sentence for read in verify.reads_outside(self.function))

    @contextmanager
    def explained(
        self, mistakes: Mistakes, *reasons: Callable[[], str], before: str = ""
    ) -> Iterator[None]:
        """Add to what is wrong with the numbers where it comes from: the first reason that has
        something to say.

        mistakes: what assert_close knows of; where one of them is the explanation, there is nothing
        to add. before: how the input was special.
        """
        try:
            yield
        except Wrong as error:
            text = str(error)
            if not any(sentence in text for _, sentence in mistakes):
                reason = next(filter(None, (find() for find in (*reasons, self.outside))), "")
                text = f"{text} {reason}".strip()
            raise Wrong(f"In {self.call}, {before}{text}") from None


def declared(
    body: Callable, trial: Trial, sizes: Sequence[int], shapes: dict[str, tuple[int, ...]]
) -> Declared:
    """Call the body; raise Wrong unless it returns tensors of these names, shapes and dtype float32
    that can be computed.
    """
    from tvm import te

    call = f"{body.__name__}({', '.join(map(str, sizes))})"
    try:
        tensors = trial.call(body, *sizes)
    except Wrong as error:
        raise Wrong(f"{call} failed. {_explained(str(error))}") from error
    _assert_returned(tensors, call, shapes)
    *inputs, output = tensors
    stages = _stages(output)
    for tensor in inputs:
        if not isinstance(tensor.op, te.PlaceholderOp):
            raise Wrong(f"In {call}, {tensor.op.name} is computed; it is an input: te.placeholder.")
    if not stages:
        raise Wrong(
            f"In {call}, {output.op.name} is a te.placeholder, so nothing computes it: it takes a "
            "te.compute."
        )
    for stage in stages:
        _assert_computable(stage, inputs, call)
    try:
        function = te.create_prim_func(list(tensors))
        trial.show(loop_nest(function))
    except Exception as error:
        raise Wrong(
            f"TVM could not make a function of what {call} returned: {_reason(error)}"
        ) from None
    return Declared(call, tuple(inputs), tuple(stages), function)


def _assert_returned(tensors: object, call: str, shapes: dict[str, tuple[int, ...]]) -> None:
    from tvm import te

    wanted = f"[{', '.join(shapes)}]"
    if tensors is None:
        raise Wrong(f"{call} returned None; expected the list {wanted}. Is the `return` missing?")
    if isinstance(tensors, te.Tensor):
        raise Wrong(
            f"{call} returned one tensor, {tensors.op.name}; expected the list {wanted}: the "
            "inputs too, since they become the function's arguments."
        )
    if not isinstance(tensors, list | tuple):
        raise Wrong(f"{call} returned {_a(tensors)}; expected the list {wanted} of tensors.")
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, te.Tensor):
            raise Wrong(
                f"{call} returned a list whose element {position} is {_a(tensor)}; expected the "
                f"tensors {wanted}. te.placeholder and te.compute make tensors."
            )
    names = [tensor.op.name for tensor in tensors]
    told = f"[{', '.join(names)}]"
    if sorted(names) == sorted(shapes) and names != list(shapes):
        raise Wrong(f"{call} returned {told}: the right tensors, but the order is {wanted}.")
    if len(names) != len(shapes):
        raise Wrong(
            f"{call} returned {len(names)} tensors, {told}; expected {len(shapes)}, {wanted}: "
            "every input and the output, and no stage between them."
        )
    for tensor, (name, shape) in zip(tensors, shapes.items(), strict=True):
        if tensor.op.name != name:
            unnamed = tensor.op.name in ("compute", "placeholder")
            raise Wrong(
                f"{call} returned tensors named {told}; expected {wanted}, since later steps find "
                "them by name." + (f' Is name="{name}" missing?' if unnamed else "")
            )
        if not all(hasattr(extent, "value") for extent in tensor.shape):
            raise Wrong(
                f"In {call}, {name} has a symbolic shape, {tensor.shape}; expected {shape}."
            )
        got = _shape(tensor)
        if got != shape:
            hint = ""
            if len(got) == len(shape) and sorted(got) == sorted(shape):
                hint = " Two extents are swapped."
            elif len(got) != len(shape):
                hint = " The shape, and the rule's arguments, have one index for each dimension."
            raise Wrong(f"In {call}, {name} has shape {got}; expected {shape}.{hint}")
        if tensor.dtype != "float32":
            raise Wrong(
                f"In {call}, {name} has dtype {tensor.dtype}; expected float32, which is what "
                "te.placeholder makes unless told otherwise."
            )


def _assert_computable(stage: te.Tensor, inputs: Sequence[te.Tensor], call: str) -> None:
    """Raise Wrong where a rule returned nothing, reads an input that is not in the list, or uses an
    axis it does not have.
    """
    import tvm_ffi
    from tvm import te, tirx

    name = stage.op.name
    for tensor in stage.op.input_tensors:
        known = any(tensor.same_as(listed) for listed in inputs)
        if isinstance(tensor.op, te.PlaceholderOp) and not known:
            raise Wrong(
                f"In {call}, {name} reads a te.placeholder named {tensor.op.name} that is not in "
                "the returned list; each input must be declared once, read, and returned."
            )
    if any(expression is None for expression in stage.op.body):
        raise Wrong(f"In {call}, the rule of {name} returned None. Is its `return` missing?")
    if hidden := _index_as_a_number(stage):
        raise Wrong(
            f"In {call}, the rule of {name} names {hidden} as its axis, but {hidden} is an "
            "argument of that rule, which hides an axis of the same name outside. te.sum only adds "
            f"the number {hidden} then, te.max takes the larger of two, and nothing runs. Give the "
            "axis a name that no argument of the rule has."
        )
    own = {axis.var for axis in (*stage.op.axis, *stage.op.reduce_axis)}
    used: dict[tirx.Var, None] = {}
    for expression in stage.op.body:
        tvm_ffi.structural_walk(expression, (tirx.Var, lambda variable: used.setdefault(variable)))
        tvm_ffi.structural_walk(expression, (tirx.Let, lambda let: own.add(let.var)))
        if isinstance(expression, tirx.Reduce):
            own.update((*expression.combiner.lhs, *expression.combiner.rhs))
    for variable in used:
        if variable in own:
            continue
        if not stage.op.reduce_axis:
            raise Wrong(
                f"In {call}, the rule of {name} uses {variable.name}, but nothing runs "
                f"{variable.name}: it is no index of {name}, and no te.sum or te.max with "
                f"axis={variable.name} reduces over it."
            )
        reduced = ", ".join(axis.var.name for axis in stage.op.reduce_axis)
        raise Wrong(
            f"In {call}, the rule of {name} reads at {variable.name}, but reduces over another "
            f"axis, {reduced}. Each call of te.reduce_axis makes a new one: declare it once, "
            "before the rule, and use it for the indices and for axis=."
        )


def _index_as_a_number(stage: te.Tensor) -> str:
    """The index of a stage that its rule computes with, as with the elements; "" if there is none.

    No exercise does. It is what te.sum and te.max make of axis=j where j is no te.reduce_axis.
    """
    import tvm_ffi
    from tvm import tirx

    indices = {axis.var: axis.var.name for axis in stage.op.axis}
    found: list[str] = []
    for expression in stage.op.body:
        tvm_ffi.structural_walk(
            expression, (tirx.Cast, lambda cast: found.append(indices.get(cast.value, "")))
        )
    return next(filter(None, found), "")


def _stages(output: te.Tensor) -> list[te.Tensor]:
    """Every te.compute that the output depends on, in an order in which they can be computed; the
    output is the last.
    """
    from tvm import te

    found: list[te.Tensor] = []

    def visit(tensor: te.Tensor) -> None:
        if isinstance(tensor.op, te.PlaceholderOp) or any(tensor.same_as(known) for known in found):
            return
        for read in tensor.op.input_tensors:
            visit(read)
        found.append(tensor)

    visit(output)
    return found


def _shape(tensor: te.Tensor) -> tuple[int, ...]:
    return tuple(int(extent) for extent in tensor.shape)


def _numpy_has(dtype: object) -> bool:
    """Whether NumPy has the dtype: not bfloat16, and none of the narrow ones."""
    try:
        return np.dtype(str(dtype)).kind in "biuf"
    except TypeError:
        return False


def _a(value: object) -> str:
    """The type of a value with its article: "a dict", "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _explained(text: str) -> str:
    for pattern, saying in _SAYINGS:
        if re.search(pattern, text, re.DOTALL):
            return f"{_without_metadata(text)}. {saying}"
    return _without_metadata(text)


def _reason(error: Exception) -> str:
    text = " ".join(_without_metadata(str(error)).split())
    return text if len(text) <= 400 else text[:400] + " ..."


def _without_metadata(text: str) -> str:
    return re.sub(
        r"\s*# Metadata omitted\..*?method to show it\.", "", text, flags=re.DOTALL
    ).strip()


def _range_of(axis: tirx.IterVar) -> tuple[int, int]:
    """(first, end) of an axis, as te.reduce_axis was given them."""
    return int(axis.dom.min), int(axis.dom.min) + int(axis.dom.extent)


def _wrong_range(answer: Declared, wanted: str, sizes: dict[str, int]) -> str:
    """A sentence about a reduction axis that does not run over all of the size called `wanted`; ""
    if there is none.
    """
    for stage, axis in answer.reductions:
        first, end = _range_of(axis)
        if (first, end) == (0, sizes[wanted]):
            continue
        other = next((name for name, size in sizes.items() if (first, end) == (0, size)), None)
        told = (
            f"The reduction axis {axis.var.name} of {stage.op.name} runs over range({first}, {end})"
        )
        expected = f"expected (0, {wanted}), which is range(0, {sizes[wanted]})"
        if other is not None:
            return f"{told}, that is {other}; {expected}."
        hint = "It starts at 0." if first else "The end of a range is not included."
        return f"{told}; {expected}. {hint}"
    return ""


def _drawn(trial: Trial, *least: int) -> tuple[int, ...]:
    """One extent for each argument, up to 40 larger than it, drawn anew in every run."""
    return tuple(int(size + trial.rng.integers(0, 40)) for size in least)


@check(
    "1.1",
    hints=(
        (
            "Look at row_sum above: same three parts, with two placeholders and one more index in "
            "the rule."
        ),
        (
            '`te.reduce_axis((0, K), name="k")` first; then the rule of `te.compute((M, N), ...)` '
            "takes i and j and returns a `te.sum` of a product over `axis=k`."
        ),
        '`C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")`',
    ),
    told={
        "which hides an axis": (
            "The rule has three names to tell apart. Two count the rows and columns of C and are "
            "its arguments; the third is declared above it and must be called otherwise."
        ),
        "makes a new one": (
            "Count the calls of te.reduce_axis in your answer. One is enough, on a line of its "
            "own: what it returns is what stands in both reads and in axis=."
        ),
        "nothing runs|must be told over what|what te.reduce_axis returned|Python's own function": (
            "row_sum above reduces too. What stands around its A[i, j], and what is the second "
            "argument there?"
        ),
        "is no argument of it|one index for each dimension": (
            "Which names does the shape (M, N) give to the rule, and which one comes from "
            "outside? row_sum above has both kinds."
        ),
        "Are two indices swapped": (
            "Write each shape beside its read: A is (M, K), B is (K, N). An index that runs over "
            "K belongs where K stands."
        ),
        "Two extents are swapped": (
            "te.compute hands the rule its indices in the order of the shape. C has M rows: which "
            "extent comes first?"
        ),
        r"expected \(0, K\)": (
            "The axis takes a pair (first, end), as in Python's range. Which of M, N and K is the "
            "extent that A and B share?"
        ),
        "must be all that a rule returns": (
            "Is there anything around te.sum in your rule? The sum alone is the whole of C here."
        ),
        "the terms are products|largest of the products": (
            "Write C[0, 0] out by hand for K = 2. Which sign stands within a term, and which one "
            "between two?"
        ),
        **_UNROLLED,
        **_RETURNED,
    },
)
def matmul(body: Callable, trial: Trial) -> None:
    for sizes in ((17, 9, 33), (6, 31, 14), _drawn(trial, 20, 70, 140)):
        _matmul_at(body, trial, *sizes)


def _matmul_at(body: Callable, trial: Trial, M: int, N: int, K: int) -> None:
    answer = declared(body, trial, (M, N, K), {"A": (M, K), "B": (K, N), "C": (M, N)})
    compute = answer.compile()
    a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
    want, magnitude = verify.matmul_reference(a, b)
    largest = (a[:, :, None] * b[None]).max(1)
    mistakes = (
        (
            a.sum(1)[:, None] + b.sum(0),
            "That is the sum of A[i, k] + B[k, j]; the terms are products.",
        ),
        (largest, "That is the largest of the products, not their sum."),
        (
            np.broadcast_to(want[0], want.shape),
            "Every row is row 0 of the product: A's first index is i.",
        ),
        (
            np.broadcast_to(want.sum(0), want.shape),
            "That is summed over the rows of A too: only k is reduced.",
        ),
    )
    with answer.explained(mistakes, lambda: _wrong_range(answer, "K", {"M": M, "N": N, "K": K})):
        verify.assert_close(compute(a, b)["C"], want, magnitude, K, "C", mistakes)
    if not answer.reductions:
        raise Wrong(
            f"The numbers are right, but nothing is reduced: Python's loop wrote all {K} terms of "
            "each element out, which no schedule can take apart. Declare te.reduce_axis((0, K)) "
            "and let te.sum run over it."
        )
    reduced = [axis.var.name for axis in answer.stages[-1].op.reduce_axis]
    if not reduced:
        raise Wrong(
            f"The numbers are right, but it is {answer.reductions[0][0].op.name} that sums, and C "
            "only reads it; expected te.sum in C's own rule: a schedule looks for the loops i, j "
            "and k around C."
        )
    if reduced != ["k"]:
        raise Wrong(
            f"The numbers are right, but C reduces over [{', '.join(reduced)}]; expected one "
            "axis, "
            "named k. Schedules find it by "
            'its name: te.reduce_axis((0, K), name="k").'
        )


@check(
    "1.2",
    hints=(
        "Two te.compute calls; the second reads the tensor that the first returned.",
        "Column j of X gets bias[j]: the row index is simply not used. ReLU is `te.max(..., 0.0)`.",
        (
            '`biased = te.compute((M, N), lambda i, j: X[i, j] + bias[j], name="biased")`, then '
            "`Y "
            '= te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")`'
        ),
    ),
    told={
        (
            "before the bias was added|the bias is not added|It holds Y already|"
            "does all the work|one stage only|no stage is named"
        ): (
            "Two stages with one job each: the first knows nothing of ReLU, the second nothing of "
            "bias. Which tensor does each of yours read?"
        ),
        "into bias|bias has shape|got bias|index it with j|as many indices as it has": (
            "How many elements has bias? Which of i and j takes that many values?"
        ),
        "ReLU keeps|ReLU makes 0|ReLU is missing": (
            "Put -2 and then 3 into your second rule by hand. ReLU gives 0 and 3."
        ),
        **_PYTHON,
        "each row's maximum|must be told over what": (
            "te.max has two uses: the larger of two values, and the largest along an axis. How "
            "many values does ReLU look at?"
        ),
        **_RETURNED,
    },
)
def bias_relu(body: Callable, trial: Trial) -> None:
    for sizes in ((13, 7), (5, 18), _drawn(trial, 30, 90)):
        _bias_relu_at(body, trial, *sizes)


def _bias_relu_at(body: Callable, trial: Trial, M: int, N: int) -> None:
    answer = declared(body, trial, (M, N), {"X": (M, N), "bias": (N,), "Y": (M, N)})
    compute = answer.compile()
    # Ten times the standard deviation: a ceiling such as ReLU6's must show.
    x, bias = (10 * verify.random_array(trial.rng, *shape) for shape in ((M, N), (N,)))
    added = x + bias.astype("float64")
    magnitude = np.abs(x) + np.abs(bias)
    want = np.maximum(added, 0)
    columns = np.resize(bias, M)[:, None]
    row_maximum = np.broadcast_to(added.max(1, keepdims=True), want.shape)
    mistakes = (
        (np.maximum(x, 0) + bias, "ReLU was applied before the bias was added."),
        (np.minimum(added, 0), "That is the minimum with 0: ReLU keeps what is positive."),
        (added, "The bias is added, but negative values are still there: ReLU is missing."),
        (np.abs(added), "That is the absolute value: ReLU makes 0 of what is negative."),
        (np.maximum(x, 0), "ReLU is applied, but the bias is not added."),
        (np.maximum(x - bias, 0), "The bias is subtracted; it is to be added."),
        (np.maximum(x * bias, 0), "X is multiplied by the bias; it is to be added."),
        (np.maximum(x + bias[0], 0), "Every column got bias[0]: column j gets bias[j]."),
        (np.maximum(x + columns, 0), "bias has one element for each column: index it with j."),
        (
            row_maximum,
            "That is each row's maximum: te.max(a, b) compares two values, with axis= it reduces.",
        ),
    )
    with answer.explained(mistakes):
        stages = compute(x, bias)
        verify.assert_close(stages["Y"], want, magnitude, 1, "Y", mistakes)
    _assert_biased(stages, x, added, magnitude)


def _assert_biased(
    stages: dict[str, np.ndarray], x: np.ndarray, added: np.ndarray, magnitude: np.ndarray
) -> None:
    names = list(stages)[:-1]
    if not names:
        raise Wrong(
            "The numbers are right, but there is one stage only. Give the biased values a "
            "te.compute of their own: that a compiler may fuse two stages is a later lesson, and "
            "needs two."
        )
    if "biased" not in names:
        raise Wrong(
            'The numbers are right, but no stage is named "biased"; before Y there is '
            f"{', '.join(names)}."
        )
    mistakes = (
        (np.maximum(added, 0), "It holds Y already, and Y only copies it: ReLU belongs into Y."),
        (x, "It is a copy of X, and Y does all the work: the bias is added in the first stage."),
    )
    try:
        verify.assert_close(stages["biased"], added, magnitude, 1, "biased", mistakes)
    except Wrong as error:
        raise Wrong(f"Y is right, but the stage named biased is not X + bias: {error}") from None


@check(
    "1.3",
    hints=(
        (
            "Four te.compute calls: two of them reduce and have shape (M,), two are elementwise "
            "and have shape (M, N)."
        ),
        (
            "`te.max(X[i, j], axis=j)` reduces with a reduction axis j that you declare before; "
            "the sum needs a reduction axis of its own. Inside an elementwise stage, i and j are "
            "just the lambda's arguments."
        ),
        (
            "`highest = te.compute((M,), lambda i: te.max(X[i, j1], axis=j1))`, `e = "
            "te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i]))`, then `total` with a "
            "second axis, then `Y`."
        ),
    ),
    told={
        "which hides an axis": (
            "Give the reduction axis a name that no argument of a lambda has, such as j_max, and "
            "say it where the reduced index stands and in axis=."
        ),
        "nothing runs": (
            "Only a stage that reduces has a reduction axis. What are the indices of an "
            "elementwise stage, and who gives it them?"
        ),
        "must be all that a rule returns": (
            "Four sentences, four stages: the largest of each row, the exponentials, their sum, "
            "the quotient. Which of yours does two things?"
        ),
        r"index `\w+` into \w+ runs": (
            "A stage of shape (M,) has one value for each row. Which of i and j counts rows?"
        ),
        "columns add up|that of each column|sum of its column|maximum of each column": (
            "In a reduction one index stays and one goes. Which of the two is the argument of "
            "your rule, and which is the axis?"
        ),
        "All elements together|whole matrix": (
            "One value for each row: what is the shape of a stage that holds M values, and what "
            "does its rule leave alone?"
        ),
        r"without its last element|expected \(0, N\)": (
            "The axis takes a pair (first, end), as in Python's range, made of the argument N."
        ),
        "subtract it in|exponent is reversed": (
            "At the largest element of a row the exponent must be 0, and below 0 everywhere else. "
            "What is it in yours?"
        ),
        "No stage holds the maximum|must be the maximum|each row and 0": (
            "exp(89) is too large for float32. Which number may be subtracted from a whole row "
            "without changing a quotient, so that no exponent is above 0?"
        ),
        "division by the row's sum|the row's sum; divide|divisor is the sum of X": (
            "What must the elements of one row of Y add up to? Divide by what they add up to now."
        ),
        "the sum is not|numerator is not shifted": (
            "Numerator and sum are made of the same numbers. How many of your stages call te.exp? "
            "One is enough, if both read it."
        ),
        "te.exp is missing|powers are of 2|logarithm": (
            "Write one element of Y as a formula, without the shift: e to the power of X[i, j], "
            "over a sum of such powers."
        ),
        **_UNROLLED,
        **_PYTHON,
        **_RETURNED,
    },
)
def softmax(body: Callable, trial: Trial) -> None:
    for sizes in ((6, 11), (19, 4), _drawn(trial, 20, 110)):
        _softmax_at(body, trial, *sizes)


def _softmax_at(body: Callable, trial: Trial, M: int, N: int) -> None:
    answer = declared(body, trial, (M, N), {"X": (M, N), "Y": (M, N)})
    compute = answer.compile()
    small = verify.random_array(trial.rng, M, N)
    _assert_softmax(answer, compute, small)
    for large, what in _large_values(trial, small):
        _assert_softmax(
            answer, compute, large, f"the softmax is right for small values, but not {what}: "
        )
    if not answer.reductions:
        raise Wrong(
            f"The numbers are right, but nothing is reduced: Python's loop wrote all {N} elements "
            "of a row out. Use te.max and te.sum with axis=."
        )


def _assert_softmax(answer: Declared, compute: Callable, x: np.ndarray, when: str = "") -> None:
    """Raise Wrong unless the stages end in the softmax of x; `when` says how this x differs from
    one before.
    """
    M, N = x.shape
    wide = x.astype("float64")
    shifted = wide - wide.max(1, keepdims=True)
    e = np.exp(shifted)
    want = e / e.sum(1, keepdims=True)
    # The exponent's error is relative to |x - max|, and expf is good to a few units in the last
    # place.
    magnitude = want * (4 + np.abs(shifted))
    mistakes = () if when else _softmax_mistakes(wide)
    stages: dict[str, np.ndarray] = {}
    with answer.explained(
        mistakes,
        lambda: _wrong_shift(stages, x) if when else "",
        lambda: _wrong_range(answer, "N", {"M": M, "N": N}),
        lambda: _no_shift(stages, x) if when else "",
        before=when,
    ):
        stages |= compute(x)
        got = stages["Y"]
        if np.isnan(got).any():
            where = [int(i) for i in np.argwhere(np.isnan(got))[0]]
            raise Wrong(
                f"{int(np.isnan(got).sum())} of {got.size} elements of Y are not a number, the "
                f"first at {where}: te.exp overflowed to inf, or it underflowed to 0 for all of a "
                "row, and inf / inf and 0 / 0 are not numbers."
            )
        verify.assert_close(got, want, magnitude, N + 4, "Y", mistakes)


def _large_values(trial: Trial, small: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """Inputs on which te.exp overflows, or all of a row underflows, unless each row's own maximum
    is subtracted.
    """
    M, N = small.shape
    yield small + np.float32(1000), "for values around +1000"
    yield small - np.float32(1000), "for values around -1000"
    levels = np.linspace(-1000, 1000, M, dtype="float32")[:, None]
    yield small + levels, "when the rows are far apart, from around -1000 to around +1000"
    # A peak in the first column, in the last, and then anywhere.
    peaks = np.concatenate(([0, N - 1], trial.rng.integers(0, N, M - 2)))
    spread = small.copy()
    spread[np.arange(M), peaks] += np.float32(500)
    yield spread, "when one value of a row is 500 above the others"


def _holder(stages: dict[str, np.ndarray], wanted: np.ndarray) -> str | None:
    """The stage that holds these values, whatever its shape."""
    for name, array in stages.items():
        if array.size == wanted.size and np.allclose(array.reshape(-1), wanted.reshape(-1)):
            return name
    return None


def _wrong_shift(stages: dict[str, np.ndarray], x: np.ndarray) -> str:
    """What stands in for the maximum of each row; "" if that is there, or if nothing is known.

    x: the input from which the stages were computed.
    """
    if _holder(stages, x.max(1)):
        return ""
    known = (
        (
            x.max(0),
            "the maximum of each column; it must be each row's own: reduce over j, along a row.",
        ),
        (x.max(keepdims=True), "the maximum of the whole matrix; it must be each row's own."),
        (x.mean(1), "the mean of each row; it must be the maximum, or te.exp can still overflow."),
        (x.sum(1), "the sum of each row's values; it must be the maximum."),
        (
            x.min(1),
            "the minimum of each row; it must be the maximum, or te.exp can still overflow.",
        ),
        (
            x[:, :-1].max(1),
            "the maximum of each row without its last element: the axis ends too early.",
        ),
        (
            np.maximum(x.max(1), 0),
            "the maximum of each row and 0; a row of negative values needs its own.",
        ),
    )
    for wanted, told in known:
        if name := _holder(stages, wanted):
            return f"Stage {name} holds {told}"
    return ""


def _no_shift(stages: dict[str, np.ndarray], x: np.ndarray) -> str:
    if name := _holder(stages, x.max(1)):
        return (
            f"Stage {name} holds each row's maximum: subtract it in the argument of every te.exp."
        )
    return (
        "No stage holds the maximum of each row: subtract it before te.exp, so that the largest "
        "exponent is 0."
    )


def _softmax_mistakes(x: np.ndarray) -> Mistakes:
    shifted = x - x.max(1, keepdims=True)
    e, plain = np.exp(shifted), np.exp(x)
    total = e.sum(1, keepdims=True)
    by_column = np.exp(x - x.max(0))
    powers, reversed_sign = np.exp2(shifted), np.exp(-shifted)
    return (
        (e, "The rows do not add up to 1: the division by the row's sum is missing."),
        (plain, "That is te.exp of X alone: the division by the row's sum is missing."),
        (by_column / by_column.sum(0), "The columns add up to 1: reduce over j, along a row."),
        (
            by_column / by_column.sum(1, keepdims=True),
            "The maximum is that of each column; each row needs its own.",
        ),
        (
            e / e.sum(0),
            "Each element is divided by the sum of its column; it must be that of its row.",
        ),
        (np.log(e / total), "That is the logarithm of the softmax."),
        (e / e.sum(), "All elements together add up to 1: each row needs its own sum."),
        (plain / total, "The sum is of shifted exponentials, the numerator is not shifted."),
        (
            e / plain.sum(1, keepdims=True),
            "The numerator is shifted by the maximum, the sum is not.",
        ),
        (e * total, "The exponentials are multiplied by the row's sum; divide."),
        (
            e / x.sum(1, keepdims=True),
            "The divisor is the sum of X; it must be that of the exponentials.",
        ),
        (shifted / shifted.sum(1, keepdims=True), "te.exp is missing."),
        (
            reversed_sign / reversed_sign.sum(1, keepdims=True),
            "The sign of the exponent is reversed: it is X minus the maximum.",
        ),
        (powers / powers.sum(1, keepdims=True), "The powers are of 2; te.exp is e to the power."),
    )


@check(
    "1.4",
    hints=(
        "shift_right above guards its left end; do the same at both ends.",
        "Two te.if_then_else: A[i - 1] where i > 0, A[i + 1] where i < n - 1, else 0.0.",
        (
            "`te.if_then_else(i > 0, A[i - 1], 0.0) + A[i] + te.if_then_else(i < n - 1, A[i + 1], "
            "0.0)`, divided by 3.0"
        ),
    ),
    told={
        **_PYTHON,
        "te.any holds|wrong way round": (
            "te.if_then_else(condition, then, else): the read stands in `then`. So the condition "
            "says when the neighbour exists."
        ),
        "Select computes both": ("Which function guards the read in shift_right above?"),
        "No te.if_then_else guards": (
            "For which i is there no A[i - 1]? shift_right above answers that; now ask it for A[i "
            "+ 1]."
        ),
        "this one needs its own": (
            "One end is done. At the other, which read leaves the array, and for which single i?"
        ),
        r"one element too many|is missing from B\[": (
            "Try i = 0, 1, n - 2 and n - 1 by hand in both conditions: each neighbour is missing "
            "for one of them only."
        ),
        r"index `[^`]+` into (?!A\b)\w+ runs": (
            "Where does A[0] lie in your padded stage? Its neighbours lie one before and one "
            "after it, and the stage must be long enough for both."
        ),
        "Outside, A counts|The ends are|number of neighbours that exist": (
            "Write B[0] out: the same sum of three, of which one is 0, and the same division."
        ),
        "divided by|divide by 3|division by 3|divides integers": (
            "An average of three: one sum in parentheses, divided once."
        ),
        "is missing from the sum": ("Count the terms of your sum: before, here, after."),
        "B has shape": (
            "B has as many elements as A: at the ends a neighbour is missing, not the average."
        ),
        **_RETURNED,
    },
)
def stencil(body: Callable, trial: Trial) -> None:
    for n in (23, 2, 1, *_drawn(trial, 80)):
        _stencil_at(body, trial, n)


def _stencil_at(body: Callable, trial: Trial, n: int) -> None:
    answer = declared(body, trial, (n,), {"A": (n,), "B": (n,)})
    compute = answer.compile()
    a = verify.random_array(trial.rng, n)
    wide = a.astype("float64")
    left, right = np.pad(wide, 1)[:-2], np.pad(wide, 1)[2:]
    want = (left + wide + right) / 3
    magnitude = (np.abs(left) + np.abs(wide) + np.abs(right)) / 3
    mistakes = _stencil_mistakes(wide, left, right)
    with answer.explained(mistakes, lambda: _unguarded(answer)):
        verify.assert_close(compute(a)["B"], want, magnitude, 4, "B", mistakes)
    if "Select" in answer.operations() and (outside := answer.outside()):
        raise Wrong(
            f"The numbers are right, but it reads outside: {outside} Select computes both of its "
            "values and then takes one; te.if_then_else computes only the one it takes, so it "
            "guards."
        )


def _stencil_mistakes(a: np.ndarray, left: np.ndarray, right: np.ndarray) -> Mistakes:
    total, n = left + a + right, len(a)
    edge, wrapped = (np.pad(a, 1, mode=mode) for mode in ("edge", "wrap"))
    neighbours = np.pad(np.ones(n), 1)
    copied, zeroed = total / 3, total / 3
    copied[[0, -1]], zeroed[[0, -1]] = a[[0, -1]], 0
    late, early = left.copy(), right.copy()
    late[1:2], early[-2:-1] = 0, 0
    return (
        (total, "The division by 3 is missing."),
        (left + a + right / 3, "Only the last term is divided by 3: the sum needs parentheses."),
        (total / 2, "The sum is divided by 2; it has three terms."),
        (total * 0.33, "0.33 is not a third: divide by 3.0."),
        (total * 0.333, "0.333 is not a third: divide by 3.0."),
        (total * 0.3333, "0.3333 is not a third: divide by 3.0."),
        ((left + right) / 3, "A[i] itself is missing from the sum."),
        ((left + a) / 3, "The right neighbour, A[i + 1], is missing from the sum."),
        ((a + right) / 3, "The left neighbour, A[i - 1], is missing from the sum."),
        (
            (late + a + right) / 3,
            "A[0] is missing from B[1]: the left neighbour exists from i = 1 on, i > 0.",
        ),
        (
            (left + a + early) / 3,
            (
                "A[n - 1] is missing from B[n - 2]: the right neighbour exists up to i = n - 2, i "
                "< n - 1."
            ),
        ),
        ((edge[:-2] + a + edge[2:]) / 3, "Outside, A counts as 0, not as its nearest element."),
        ((wrapped[:-2] + a + wrapped[2:]) / 3, "Outside, A counts as 0; it does not wrap around."),
        (
            total / (neighbours[:-2] + 1 + neighbours[2:]),
            "Divide by 3 at the ends too, not by the number of neighbours that exist.",
        ),
        (
            copied,
            "The ends are copied from A; they too are averages, with 0 for the missing neighbour.",
        ),
        (zeroed, "The ends are 0; only the neighbour outside counts as 0."),
    )


def _unguarded(answer: Declared) -> str:
    """Which index into A is not kept inside, and why, as far as the rules' conditions tell; ""
    where none is.
    """
    outside = verify.reads_outside(answer.function)
    if not outside or any(read.tensor != "A" for read in outside):
        return ""
    operations = answer.operations()
    guards = operations.count("prim.if_then_else")
    if "Or" in operations:
        why = "te.any holds where one of its conditions holds; te.all holds where all of them do."
    elif not guards:
        why = (
            "No te.if_then_else guards it. (Multiplying by 0 is no guard. And a Python `if`, even "
            "with ==, is decided once, when the rule is written down, not for every i.)"
        )
    elif all(read.lowest == read.highest for read in outside):
        why = "The condition is the wrong way round: it reads a neighbour only where there is none."
    elif guards == 1:
        why = "The other neighbour is guarded by a te.if_then_else; this one needs its own."
    else:
        why = (
            "A condition lets one element too many through: A[i - 1] exists where i > 0, A[i + 1] "
            "where i < n - 1."
        )
    return f"{answer.outside()} {why}"
