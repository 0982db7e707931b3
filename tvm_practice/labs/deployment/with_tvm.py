"""Run a library with all of TVM loaded, as the lessons do: `with_tvm.py LIBRARY INPUT.npy
OUTPUT.npy`."""

import sys

import numpy as np

sys.modules["torch"] = None  # tvm_ffi would import it, and TVM be charged for it
import tvm  # noqa: E402
from tvm import relax  # noqa: E402

if __name__ == "__main__":
    library, given, result = sys.argv[1:]
    machine = relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
    np.save(result, machine["main"](tvm.runtime.tensor(np.load(given))).numpy())
