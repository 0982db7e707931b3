# How TVM 0.4 to 0.6 were used: all of it in one module, TOPI beside it. Never run; what is old in a
# line stands behind its `#:`.
# fmt: off
# ruff: noqa: E501
import numpy as np
import topi  #: topi
import tvm
from topi.util import get_const_tuple  #: topi.util.get_const_tuple

n = tvm.var("n")  #: tvm.var
A = tvm.placeholder((n, 64), name="A")  #: tvm.placeholder
B = tvm.placeholder((64, 64), name="B", dtype="float32")  #: tvm.placeholder
k = tvm.reduce_axis((0, 64), name="k")  #: tvm.reduce_axis
C = tvm.compute((n, 64), lambda i, j: tvm.sum(A[i, k] * B[k, j], axis=k), name="C")  #: tvm.compute, tvm.sum
D = tvm.compute(C.shape, lambda i, j: tvm.if_then_else(C[i, j] > tvm.const(0, "float32"), tvm.exp(C[i, j]), tvm.min_value("float32")))  #: tvm.compute, tvm.if_then_else, tvm.const, tvm.exp, tvm.min_value
E = topi.nn.relu(D)
s = tvm.create_schedule(E.op)  #: tvm.create_schedule
i, j = E.op.axis  #: E.op.axis
io, ii = s[E].split(i, factor=8)  #: s[E].split
s[E].reorder(  #: s[E].reorder
    io, j, ii
)
s[C].vectorize(C.op.axis[1])  #: s[C].vectorize, C.op.axis[1]
assert isinstance(C, tvm.tensor.Tensor)  #: tvm.tensor.Tensor
print(get_const_tuple(C.shape), s.stages)  #: get_const_tuple, s.stages
with tvm.build_config(auto_unroll_max_step=16, unroll_explicit=True):  #: tvm.build_config
    print(tvm.lower(s, [A, B, E], simple_mode=True))  #: tvm.lower
    fadd = tvm.build(s, [A, B, E], "cuda", target_host="llvm", name="fadd")  #: tvm.build, target_host=
fadd.save("fadd.o")  #: fadd.save
fadd.imported_modules[0].save("fadd.ptx")  #: fadd.imported_modules[0].save
again = tvm.module.load("fadd.so")  #: tvm.module.load
ctx = tvm.context("cuda", 0)  #: tvm.context
e = tvm.nd.array(np.zeros((8, 64), "float32"), ctx)  #: tvm.nd.array
print(e.asnumpy())  #: e.asnumpy
ib = tvm.ir_builder.create()  #: tvm.ir_builder.create
ib.emit(tvm.call_extern("int32", "reset", C.op.output(0)))  #: tvm.call_extern
node = tvm.make.For(i, 0, 8, tvm.stmt.For.Serial, 0, tvm.expr.IntImm("int32", 1))  #: tvm.make.For, tvm.stmt.For.Serial, tvm.expr.IntImm
tvm.ir_pass.PostOrderVisit(node, print)  #: tvm.ir_pass.PostOrderVisit
tvm.register_intrin_rule("cuda", "exp", lambda op: op)  #: tvm.register_intrin_rule
target = tvm.target.current_target()  #: tvm.target.current_target
outside = {"C": "tile"}
print(outside["C"].split("i"), np.sum(np.zeros(3)), np.exp(1.0))
