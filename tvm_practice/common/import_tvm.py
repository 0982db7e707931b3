"""Import TVM without torch, once, in the fork server that every worker process is forked from.

tvm_ffi imports torch if it is installed (a workaround for a symbol conflict on Windows). That makes
`import tvm` take five to eight seconds instead of two, in processes that have no use for torch. It
is hidden for the moment of the import.
"""

import sys

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
