# A model from PyTorch through Relay to the graph executor, as it was written for TVM 0.8 to 0.17.
# Never run; what is old in a line stands behind its `#:`.
# fmt: off
# ruff: noqa: E501, I001
import numpy as np
import torch
import torchvision
import tvm
import tvm.relay.testing  #: tvm.relay.testing
from tvm import relay as r  #: tvm.relay
from tvm.contrib import graph_executor  #: tvm.contrib.graph_executor
from tvm.contrib.debugger.debug_executor import GraphModuleDebug  #: tvm.contrib.debugger.debug_executor.GraphModuleDebug
from tvm.contrib.download import download_testdata

path = download_testdata("https://example.org/cat.png", "cat.png", module="data")
model = torchvision.models.resnet18(pretrained=True).eval()
shape = [1, 3, 224, 224]
scripted = torch.jit.trace(model, torch.randn(shape)).eval()
mod, params = r.frontend.from_pytorch(scripted, [("input0", shape)])  #: r.frontend.from_pytorch

layouts = {"nn.conv2d": ["NHWC", "default"]}
seq = tvm.transform.Sequential(
    [
        r.transform.RemoveUnusedFunctions(),  #: r.transform.RemoveUnusedFunctions
        r.transform.ConvertLayout(layouts),  #: r.transform.ConvertLayout
        r.transform.FoldConstant(),  #: r.transform.FoldConstant
    ]
)
target = tvm.target.Target("llvm -mcpu=native -num-cores 4", host="llvm")  #: "llvm -mcpu=native -num-cores 4"
dev = tvm.cpu(0)
with tvm.transform.PassContext(opt_level=3, config={"relay.FuseOps.max_depth": 10}):  #: "relay.FuseOps.max_depth"
    mod = seq(mod)
    lib = r.build(mod, target=target, params=params)  #: r.build

m = graph_executor.GraphModule(lib["default"](dev))  #: graph_executor.GraphModule
image = np.zeros(shape, dtype="float32")
m.set_input("input0", tvm.nd.array(image))  #: m.set_input, tvm.nd.array
m.run()  #: m.run
output = m.get_output(0)  #: m.get_output
print(np.argmax(output.asnumpy()[0]))  #: output.asnumpy
print(m.benchmark(dev, number=10))  #: m.benchmark
debugger = GraphModuleDebug(lib, [dev], lib.graph_json, ".")  #: GraphModuleDebug
debugger.run()  #: debugger.run

x = r.var("x", shape=(1, 64), dtype="float32")  #: r.var
w = r.var("w", shape=(10, 64), dtype="float32")  #: r.var
dense = r.Function([x, w], r.nn.relu(r.nn.dense(x, w)))  #: r.Function, r.nn.relu, r.nn.dense
other = tvm.IRModule.from_expr(dense)
ex = r.create_executor("vm", mod=other, device=dev, target="llvm")  #: r.create_executor
torch.nn.Linear(2, 2).run = None


class CountOps(r.ExprVisitor):  #: r.ExprVisitor
    def visit_call(self, call):
        return super().visit_call(call)
