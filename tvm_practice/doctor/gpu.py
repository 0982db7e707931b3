"""The checks of --target cuda-sim and --target cuda, each after those that it builds on."""

from __future__ import annotations

import re
import shutil
import subprocess

from tvm_practice.common import target
from tvm_practice.common.exercise import GPU, catalogue
from tvm_practice.doctor import probes
from tvm_practice.doctor.finding import FAIL, OK, WARN, check
from tvm_practice.doctor.machine import INSTALL, Told  # whose checks come first

SIM, CUDA = ("cuda-sim",), ("cuda",)
BRANCH = 580  # of NVIDIA's driver: the first for CUDA 13, and the last for a V100
OLDEST = 70
LAST_OF_BRANCH = 72  # Volta: architectures that branch 580 is the last for
EXTRA = '"./practice --extra cuda true" brings it.'


def _arch_number(arch: str) -> int:
    return int(re.sub(r"\D", "", arch) or 0)


@check("g++")
def compiler(wanted: str) -> Told:
    fix = "On Debian and Ubuntu: apt-get install g++"
    if shutil.which("g++") is None:
        numbers = [known for known, one in catalogue().items() if one.target == GPU]
        sentence = (
            f"g++ is not installed: {len(numbers)} exercises, the first {numbers[0]}, are checked "
            "by running their CUDA code on the CPU, and need it to compile that"
        )
        return WARN if wanted == "cpu" else FAIL, sentence, fix
    if wanted == "cpu":
        return OK, "found; the exercises for a GPU are checked with it", ""
    try:
        told = probes.ask("simulator")
    except probes.Died as died:
        if "g++" not in str(died):
            fix = "Look at the checks of TVM above; if they are OK, report it."
        return FAIL, f"a kernel cannot be simulated: {died}", fix
    if not told["right"]:
        return FAIL, "a simulated kernel gives a wrong result", "Report it, with `g++ --version`."
    return OK, "compiles a kernel for the CPU, which gives the right result", ""


@check("NVRTC 12", SIM + CUDA)
def nvrtc(wanted: str) -> Told:
    state = FAIL if wanted == "cuda" else WARN  # the simulator works without it
    fix = f'"./practice --extra {wanted} true" installs it; 13 has no sm_70 any more.'
    try:
        told = probes.ask("nvrtc")
    except probes.Died as died:
        return state, f"a kernel cannot be compiled: {died}", fix
    if "missing" in told:
        return state, told["missing"].partition(". ")[0], fix
    return OK, f"compiles for {' and '.join(told['archs'])}, with its headers", ""


@check("NVIDIA's driver", CUDA)
def driver(_: str) -> Told:
    fix = (
        f"Install NVIDIA's driver, branch {BRANCH} for a V100 (its last), {BRANCH} or later else; "
        "in a container, NVIDIA's container toolkit and --gpus all."
    )
    try:
        told = probes.ask("driver")
    except probes.Died as died:
        return FAIL, f"{target.DRIVER} does not load: {died}", fix
    if told["status"]:
        return FAIL, f"{target.DRIVER} is here, but does not start (error {told['status']})", fix
    if told["cuda"] < 13:
        sentence = f"it supports CUDA {told['cuda']} at most, TVM's wheel is linked with 13"
        return FAIL, sentence, fix
    if not told["devices"]:
        fix = f"Look at CUDA_VISIBLE_DEVICES; after branch {BRANCH}, drivers know no V100."
        return FAIL, "it lists no device", fix
    version = smi_version()
    if version is None:
        sentence = f"for CUDA {told['cuda']}; nvidia-smi is not here to tell its version"
        return WARN, sentence, "In a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    return OK, f"{version}, for CUDA {told['cuda']}", ""


def smi_version() -> str | None:
    """The driver's version by nvidia-smi, such as "580.95.05"."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"\d+(?:\.\d+)+", told.strip())
    return found[0] if found else None


@check("CUDA runtime", CUDA)
def runtime(_: str) -> Told:
    try:
        probes.ask("runtime")
    except probes.Died as died:
        return FAIL, f"{target.RUNTIME} does not load: {died}", EXTRA
    return OK, f"{target.RUNTIME} loads", ""


@check("TVM's CUDA", CUDA)
def tvm_cuda(_: str) -> Told:
    try:
        told = probes.ask("tvm_cuda")
    except probes.Died as died:
        return FAIL, f"TVM with CUDA does not start: {died}", EXTRA
    if not told["enabled"]:
        fix = "Mend the driver and the CUDA runtime first; TVM is silent when they are missing."
        return FAIL, f"TVM runs without CUDA: {told['reason']}", fix
    return OK, "libtvm_runtime_cuda.so is loaded", ""


def _device() -> dict | None:
    try:
        return probes.ask("tvm_cuda").get("device")
    except probes.Died:
        return None


@check("device", CUDA)
def device(_: str) -> Told:
    found = _device()
    if found is None:
        return FAIL, "TVM sees no GPU", "Look at `nvidia-smi` and CUDA_VISIBLE_DEVICES."
    arch = _arch_number(found["arch"])
    told = f"{found['name']}, {found['arch']}, {found['memory_bytes'] / 2**30:.0f} GiB"
    if arch < OLDEST:
        fix = "A GPU of compute capability 7.0 (V100) or later; --target cuda-sim needs none."
        return FAIL, f"{told}: too old", fix
    return OK, told, ""


@check("torch's CUDA", CUDA)
def torch_cuda(_: str) -> Told:
    """The competitors on a device are torch's; without them, the lessons still run."""
    found = _device()
    try:
        told = probes.ask("torch_cuda" if found else "torch")
    except probes.Died as died:
        return WARN, f"torch cannot be asked: {died}", INSTALL
    old = found is not None and _arch_number(found["arch"]) <= LAST_OF_BRANCH
    index = "TORCH_CUDA_INDEX_URL" if old else "the index of its CUDA builds"
    fix = f"Install torch from {'its builds for CUDA 12.6' if old else index} (see README)."
    if not told["cuda"]:
        return WARN, "torch is built without CUDA: there will be no cuBLAS to compare with", fix
    if found and not _torch_runs_on(found["arch"], told["archs"]):
        archs = ", ".join(told["archs"]) or "no device"
        return WARN, f"torch for CUDA {told['cuda']} has code for {archs} only", fix
    return OK, f"built for CUDA {told['cuda']}", ""


def _torch_runs_on(arch: str, built: list[str]) -> bool:
    """Whether one of torch's architectures serves a device: code of the same major version and no
    later minor one, or of an earlier PTX."""
    here = _arch_number(arch)
    return any(
        (name.startswith("sm_") and number // 10 == here // 10 and number <= here)
        or (name.startswith("compute_") and number <= here)
        for name in built
        if (number := _arch_number(name))
    )
