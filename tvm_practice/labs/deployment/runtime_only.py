"""A process that has TVM's runtime and no compiler, as a machine would on which a model is
deployed.

    python -m tvm_practice.labs.deployment.runtime_only WHOSE LIBRARY FACTS OUTPUT INPUT ...

It runs somebody's answer to deploy.3 on the arrays in the files INPUT. Of TVM it has
libtvm_runtime.so and the package tvm_ffi. The package tvm is kept out: a lesson may import it, but
whoever uses a name of it is told that it is not there. torch is kept out as well, which tvm_ffi
would import where it finds it.
"""

import sys
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ABSENT = ("tvm", "torch")


class Absent(ModuleType):
    """A package that is not on this machine: it may be imported, and not used."""

    __path__: tuple = ()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")

    def __call__(self, *_, **__):
        package = self.__name__.partition(".")[0]
        raise ImportError(f"{self.__name__} is of the package {package}, which is not here")


class KeptOut(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in ABSENT else None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


def load_runtime():
    """Load libtvm_runtime.so, which registers what a library needs, and return tvm_ffi."""
    import ctypes
    from importlib import metadata

    sys.modules["torch"] = None  # tvm_ffi would import it
    import tvm_ffi

    del sys.modules["torch"]
    runtime = metadata.distribution("apache-tvm").locate_file("tvm/lib/libtvm_runtime.so")
    ctypes.CDLL(str(runtime), ctypes.RTLD_GLOBAL)
    return tvm_ffi


def main(whose: str, library: str, facts: str, output: str, *inputs: str) -> None:
    import json

    import numpy as np

    tvm_ffi = load_runtime()
    sys.meta_path.insert(0, KeptOut())
    from tvm_practice.common import exercise

    body = exercise.body("deploy.3", whose)
    loaded = []
    load = tvm_ffi.load_module
    tvm_ffi.load_module = lambda *given, **more: loaded.append(given) or load(*given, **more)
    told = {"raised": "", "loaded": 0}
    try:
        results = body(library, [np.load(path) for path in inputs])
        told |= {"returned": _kind(results)}
        if told["returned"] == "arrays":
            np.savez(output, *results)
    except NotImplementedError:
        told["raised"] = "NotImplementedError"
    except Exception as error:
        from tvm_practice.checks import _told

        told["raised"] = _told(error, body)
    told["loaded"] = len(loaded)
    told["libraries"] = []
    with suppress(OSError), open("/proc/self/maps") as maps:  # only Linux tells
        told["libraries"] = sorted({line.split()[-1] for line in maps if ".so" in line})
    with open(facts, "w") as file:
        json.dump(told, file)


def _kind(results) -> str:
    import numpy as np

    if not isinstance(results, list | tuple):
        return type(results).__name__
    other = next((one for one in results if not isinstance(one, np.ndarray)), None)
    return "arrays" if other is None else f"a list of {type(other).__name__}"


if __name__ == "__main__":
    main(*sys.argv[1:])
