# Vector addition and matmul as they were written for TVM 0.8 to 0.17. Never run; what is old in a
# line stands behind its `#:`.
# fmt: off
# ruff: noqa: E501
import numpy as np
import tvm
import tvm.testing
from tvm import te
from tvm.contrib import utils  #: tvm.contrib.utils

target = tvm.target.Target(target="llvm -mcpu=skylake-avx512", host="llvm")  #: "llvm -mcpu=skylake-avx512"
n = te.var("n")
A = te.placeholder((n,), name="A")
B = te.placeholder((n,), name="B")
C = te.compute(A.shape, lambda i: A[i] + B[i], name="C")

s = te.create_schedule(C.op)  #: te.create_schedule
outer, inner = s[C].split(C.op.axis[0], factor=64)  #: s[C].split, C.op.axis[0]
s[C].parallel(outer)  #: s[C].parallel
s[C].vectorize(inner)  #: s[C].vectorize
print(tvm.lower(s, [A, B, C], simple_mode=True))  #: tvm.lower
fadd = tvm.build(s, [A, B, C], target, name="myadd")  #: tvm.build

dev = tvm.device(target.kind.name, 0)
a = tvm.nd.array(np.random.uniform(size=1024).astype("float32"), dev)  #: tvm.nd.array
b = tvm.nd.array(np.random.uniform(size=1024).astype("float32"), dev)  #: tvm.nd.array
c = tvm.nd.array(np.zeros(1024, dtype="float32"), dev)  #: tvm.nd.array
fadd(a, b, c)
tvm.testing.assert_allclose(c.numpy(), a.asnumpy() + b.asnumpy())  #: a.asnumpy
words = "a line, in words"
print(words.split(","), [line.split(" ") for line in ["a b"]])
temp = utils.tempdir()  #: utils.tempdir
fadd.export_library(temp.relpath("myadd.so"))
print(fadd.get_source("asm"))  #: fadd.get_source

M = K = N = 1024
k = te.reduce_axis((0, K), "k")
A = te.placeholder((M, K), name="A")
B = te.placeholder((K, N), name="B")
packedB = te.compute((N // 32, K, 32), lambda x, y, z: B[y, x * 32 + z], name="packedB")
C = te.compute(
    (M, N),
    lambda m, n: te.sum(
        A[m, k] * packedB[n // 32, k, tvm.tir.indexmod(n, 32)],  #: tvm.tir.indexmod
        axis=k,
    ),
    name="C",
)
s = te.create_schedule(C.op)  #: te.create_schedule
CC = s.cache_write(C, "global")  #: s.cache_write
mo, no, mi, ni = s[C].tile(C.op.axis[0], C.op.axis[1], 32, 32)  #: s[C].tile, C.op.axis[0]
s[CC].compute_at(s[C], no)  #: s[CC].compute_at
mc, nc = s[CC].op.axis  #: s[CC].op.axis
(kaxis,) = s[CC].op.reduce_axis  #: s[CC].op.reduce_axis
ko, ki = s[CC].split(kaxis, nparts=256)  #: s[CC].split
s[CC].reorder(ko, mc, ki, nc)  #: s[CC].reorder
s[CC].unroll(ki)  #: s[CC].unroll
s[CC].pragma(ko, "auto_unroll_max_step", 16)  #: s[CC].pragma
stage = s[packedB]  #: s[packedB]
bigN, _, littleN = stage.op.axis  #: stage.op.axis
stage.vectorize(littleN)  #: stage.vectorize

func = tvm.build(s, [A, B, C], target=target, name="mmult")  #: tvm.build
evaluator = func.time_evaluator(func.entry_name, dev, number=10)  #: func.time_evaluator
assert tvm.get_global_func("runtime.GetDeviceAttr") is not None


def on_a_gpu(output):
    s = te.create_schedule(output.op)  #: te.create_schedule
    bx, tx = s[output].split(s[output].op.axis[0], factor=64)  #: s[output].split, s[output].op.axis[0]
    s[output].bind(bx, te.thread_axis("blockIdx.x"))  #: s[output].bind, te.thread_axis
    s[output].bind(tx, te.thread_axis("threadIdx.x"))  #: s[output].bind, te.thread_axis
    options = "cuda -arch=sm_70 -max_num_threads=512"  #: "cuda -arch=sm_70 -max_num_threads=512"
    with tvm.transform.PassContext(config={"tir.disable_vectorize": True}):  #: "tir.disable_vectorize"
        f = tvm.build(s, [output], options)  #: tvm.build
    return f.imported_modules[0].get_source()  #: f.imported_modules[0].get_source
