# Relay as a program used it that deploys a model, from TVM 0.6 to 0.16. Never run; what is old in a
# line stands behind its `#:`.
# fmt: off
# ruff: noqa: C408, E501, I001, SIM105
import tvm
from tvm import autotvm, relay  #: tvm.autotvm, tvm.relay
from tvm.contrib import graph_runtime, pipeline_executor  #: tvm.contrib.graph_runtime, tvm.contrib.pipeline_executor
from tvm.relay import transform  #: tvm.relay.transform

x = relay.var("x", relay.TensorType((1, 16), "float32"))  #: relay.var, relay.TensorType
half = relay.cast(relay.transpose(x), "float16")  #: relay.cast, relay.transpose
sum_ = relay.add(half, relay.const(1.0, "float16"))  #: relay.add, relay.const
mod = relay.Module.from_expr(relay.Function([x], sum_))  #: relay.Module.from_expr, relay.Function
passes = transform.Sequential([transform.PrintIR(), transform.SimplifyInference()])  #: transform.Sequential, transform.PrintIR, transform.SimplifyInference


@relay.transform.function_pass(opt_level=1)  #: relay.transform.function_pass
def nothing(function, mod, ctx):
    return function


tasks = autotvm.task.extract_from_program(mod["main"], {}, target="cuda", target_host="llvm")  #: autotvm.task.extract_from_program, target_host=
print(autotvm.callback.progress_bar(10))  #: autotvm.callback.progress_bar
with relay.build_config(opt_level=3):  #: relay.build_config
    graph, lib, params = relay.build_module.build(mod, "cuda", target_host="llvm", params={})  #: relay.build_module.build, target_host=
with tvm.transform.PassContext(config={"relay.backend.use_auto_scheduler": True, "tir.UnrollLoop": {}}):  #: "relay.backend.use_auto_scheduler", "tir.UnrollLoop"
    executor = relay.build_module.create_executor("graph", mod, tvm.cpu(0))  #: relay.build_module.create_executor
module = graph_runtime.create(graph, lib, tvm.cpu(0))  #: graph_runtime.create
module.load_params(relay.save_param_dict(params))  #: module.load_params, relay.save_param_dict
module.set_input("x", 0)  #: module.set_input
timer = module.module.time_evaluator("run", tvm.cpu(0), number=1)  #: module.module.time_evaluator
try:
    pipeline_executor.build(None)  #: pipeline_executor.build
except tvm.TVMError:  #: tvm.TVMError
    pass


def tune(target_host=None):
    return target_host


print(tune(target_host="mine"), dict(target_host=1))
