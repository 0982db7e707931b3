"""Import TVM without torch, once, in the fork server that every worker process is forked from.

On a machine with a GPU, the CUDA runtime has to be there before: TVM would go without it, and not
say so.

tvm_ffi imports torch if it is installed (a workaround for a symbol conflict on Windows). That makes
`import tvm` take five to eight seconds instead of two, in processes that have no use for torch. It
is hidden for the moment of the import.
"""

import ctypes
import sys
from contextlib import suppress

from tvm_practice.common.target import DRIVER, load_cuda_runtime

with suppress(OSError):
    ctypes.CDLL(DRIVER)
    load_cuda_runtime()

_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    import tvm
    import tvm.s_tir
    import tvm.te
    import tvm.topi  # noqa: F401
finally:
    if _hidden:
        del sys.modules["torch"]
