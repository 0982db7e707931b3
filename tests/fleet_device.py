"""A device that lies about its times: python tests/fleet_device.py LIE TRACKER_PORT PORT KEY.

LIE is what it makes of each time, such as "-1" or "time / 1000".
"""

import struct
import sys

import tvm_ffi

import tvm_practice.common.import_tvm  # noqa: F401 - without torch
from tvm_practice.common import fleet

EVALUATOR = "runtime.RPCTimeEvaluator"


def main(lie: str, tracker_port: str, port: str, key: str) -> None:
    honest = tvm_ffi.get_global_func(EVALUATOR)

    def evaluator(*arguments):
        timer = honest(*arguments)

        def lying(*given):
            packed = timer(*given)
            times = struct.unpack(f"@{len(packed) // 8}d", packed)
            return struct.pack(
                f"@{len(times)}d", *(eval(lie, {"time": one, "nan": float("nan")}) for one in times)
            )

        return tvm_ffi.convert(lying)

    tvm_ffi.register_global_func(EVALUATOR, evaluator, override=True)
    fleet.serve_device(("127.0.0.1", int(tracker_port)), key, "127.0.0.1", int(port), print)


if __name__ == "__main__":
    main(*sys.argv[1:])
