# AutoTVM and Ansor, as they were written for TVM 0.8 to 0.17. Never run; what is old in a line
# stands behind its `#:`.
# fmt: off
# ruff: noqa: E501
import logging
import sys

import tvm
from tvm import auto_scheduler, autotvm, te  #: tvm.auto_scheduler, tvm.autotvm
from tvm.autotvm.tuner import XGBTuner  #: tvm.autotvm.tuner.XGBTuner

logging.getLogger("autotvm").addHandler(logging.StreamHandler(sys.stdout))


@autotvm.template("tutorial/matmul")  #: autotvm.template
def matmul(N, L, M, dtype):
    A = te.placeholder((N, L), name="A", dtype=dtype)
    B = te.placeholder((L, M), name="B", dtype=dtype)
    k = te.reduce_axis((0, L), name="k")
    C = te.compute((N, M), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    s = te.create_schedule(C.op)  #: te.create_schedule
    y, x = s[C].op.axis  #: s[C].op.axis
    k = s[C].op.reduce_axis[0]  #: s[C].op.reduce_axis[0]
    cfg = autotvm.get_config()  #: autotvm.get_config
    cfg.define_split("tile_y", y, num_outputs=2)  #: cfg.define_split
    cfg.define_knob("unroll", [0, 16])  #: cfg.define_knob
    yo, yi = cfg["tile_y"].apply(s, C, y)  #: cfg['tile_y'].apply
    s[C].reorder(yo, k, yi, x)  #: s[C].reorder
    return s, [A, B, C]


task = autotvm.task.create("tutorial/matmul", args=(512, 512, 512, "float32"), target="llvm")  #: autotvm.task.create
measure_option = autotvm.measure_option(builder="local", runner=autotvm.LocalRunner(number=5))  #: autotvm.measure_option, autotvm.LocalRunner
tuner = XGBTuner(task)  #: XGBTuner
tuner.tune(  #: tuner.tune
    n_trial=10,
    measure_option=measure_option,
    callbacks=[autotvm.callback.log_to_file("matmul.log")],  #: autotvm.callback.log_to_file
)
with autotvm.apply_history_best("matmul.log"), tvm.target.Target("llvm"):  #: autotvm.apply_history_best
    s, arg_bufs = matmul(512, 512, 512, "float32")
    func = tvm.build(s, arg_bufs)  #: tvm.build


@auto_scheduler.register_workload  #: auto_scheduler.register_workload
def matmul_add(N, L, M, dtype):
    A = te.placeholder((N, L), name="A", dtype=dtype)
    return [A, te.compute((N, L), lambda i, j: A[i, j] + 1.0, name="out")]


task = tvm.auto_scheduler.SearchTask(func=matmul_add, args=(8, 8, 8, "float32"), target="llvm")  #: tvm.auto_scheduler.SearchTask
print(task.compute_dag)  #: task.compute_dag
tune_option = auto_scheduler.TuningOptions(  #: auto_scheduler.TuningOptions
    num_measure_trials=10,
    measure_callbacks=[auto_scheduler.RecordToFile("log.json")],  #: auto_scheduler.RecordToFile
    verbose=2,
)
task.tune(tune_option)  #: task.tune
sch, args = task.apply_best("log.json")  #: task.apply_best
print(tvm.lower(sch, args, simple_mode=True))  #: tvm.lower
print(task.print_best("log.json"))  #: task.print_best
sys.stdout.write(" ".join(["tune", "llvm", "cuda"]))
