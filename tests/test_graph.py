"""What common.graph reports of a Relax module: what the checks of graph passes believe, and what
learners see."""

from __future__ import annotations

from tvm_practice.common.graph import KERNEL, OPERATOR, SUBGRAPH, Graph, graph
from tvm_practice.common.worker import call

# The functions below run in a worker, which has TVM; the graphs come back as plain data.


def _branching(passes: tuple[str, ...]) -> Graph:
    """y = relu(x @ w') + x @ w', where w' = transpose(w) for a constant w, next to a sum that
    nobody reads."""
    import numpy as np
    import tvm
    from tvm import relax

    x = relax.Var("x", relax.TensorType((3, 4), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            weights = builder.emit(relax.op.permute_dims(relax.const(np.ones((5, 4), "float32"))))
            product = builder.emit(relax.op.matmul(x, weights))
            positive = builder.emit(relax.op.nn.relu(product))
            pair = builder.emit(relax.Tuple([positive, product]))
            y = builder.emit_output(relax.op.add(relax.TupleGetItem(pair, 0), product))
        builder.emit_func_output(y)
    steps = [getattr(relax.transform, name)() for name in passes]
    return graph(tvm.transform.Sequential(steps)(builder.get()))


def test_a_graph_tells_what_is_called_on_what() -> None:
    read = call(_branching, ())
    assert [step.name for step in read.steps] == ["permute_dims", "matmul", "nn.relu", "add"]
    assert {step.kind for step in read.steps} == {OPERATOR}
    assert read.inputs == (("x", (3, 4), "float32"),)
    assert read.result == ("v4", (3, 5), "float32")
    assert not read.returns_tuple
    assert read.steps[0].inputs == ("const 5 x 4",)
    assert [step.inputs for step in read.steps[1:]] == [("x", "v1"), ("v2",), ("v3", "v2")]
    assert [step.name for step in read.readers("v2")] == ["nn.relu", "add"]


def test_only_what_depends_on_no_input_is_constant() -> None:
    read = call(_branching, ("LegalizeOps",))
    assert [step.constant_only for step in read.steps] == [True, False, False, False]
    assert {step.kind for step in read.steps} == {KERNEL}


def test_bytes_between_are_those_of_every_result_but_the_last() -> None:
    read = call(_branching, ())
    assert read.bytes_between == 4 * (4 * 5 + 3 * 5 + 3 * 5)


def test_classes_and_groups_are_told_as_passes_leave_them() -> None:
    plain, classes = (call(_branching, ("LegalizeOps", *more)) for more in ((), _CLASSES))
    assert {step.fusion_class for step in plain.steps} == {"-"}
    assert [step.fusion_class for step in classes.steps] == [
        "injective",
        "out-fusable",
        "elementwise",
        "elementwise",
    ]
    grouped = call(_branching, ("LegalizeOps", "FoldConstant", *_CLASSES, "FuseOps"))
    assert SUBGRAPH in {step.kind for step in grouped.steps}


_CLASSES = ("AnnotateTIROpPattern",)
