"""Every check of the doctor can fail: each is made in an environment that is really broken in that
way, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tvm_practice.common import target
from tvm_practice.common.cuda import resources
from tvm_practice.doctor.gpu import _torch_runs_on
from tvm_practice.doctor.probes import SECONDS

ROOT = Path(__file__).resolve().parent.parent

ONE_CHECK = """
import json, sys
from dataclasses import asdict
{before}
from tvm_practice.doctor import gpu, machine
from tvm_practice.doctor.finding import CHECKS
(one,) = (check for check in CHECKS if check.name == {name!r})
print(json.dumps(asdict(one.finding({target!r}))))
"""


def examined(
    name: str,
    wanted: str = "cpu",
    root: Path = ROOT,
    before: str = "",
    path: Path | None = None,
    **env,
) -> dict[str, str]:
    """What one check finds. path: searched for modules before anything that is installed; before:
    statements to run first."""
    places = [str(place) for place in (path, root) if place]
    done = subprocess.run(
        [sys.executable, "-c", ONE_CHECK.format(name=name, target=wanted, before=before)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), **env},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_told(found: dict[str, str], state: str, *words: str) -> None:
    assert found["state"] == state, found
    assert found["fix"] and "\n" not in found["fix"]
    for word in words:
        assert word in found["sentence"], found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The course as a learner has it, to be broken."""
    shutil.copytree(
        ROOT / "tvm_practice", tmp_path / "tvm_practice", ignore=shutil.ignore_patterns("*.pyc")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def installed(folder: Path, package: str, version: str) -> Path:
    """A folder that, searched first, makes a package look as if that version were installed."""
    place = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return folder


def module(folder: Path, name: str, text: str) -> Path:
    """A folder that holds a module in place of an installed one."""
    place = folder / f"{name.replace('.', '/')}.py"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return folder


# ------------------------------------------------------------------------------- Python, packages


def test_a_python_that_the_packages_have_no_wheels_for(copy: Path) -> None:
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace(">=3.11,<3.15", ">=3.99"))
    assert_told(examined("Python", root=copy), "FAIL", ">=3.99")


def test_another_version_of_tvm(tmp_path: Path) -> None:
    path = installed(tmp_path, "apache-tvm", "0.25.0")
    assert_told(examined("packages", path=path), "FAIL", "apache-tvm is 0.25.0")


def test_a_package_that_is_not_installed(copy: Path) -> None:
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace('"click",', '"click", "not-there-at-all",'))
    assert_told(examined("packages", root=copy), "FAIL", "not-there-at-all is not installed")


def test_a_tvm_without_the_packages_that_its_searches_import(tmp_path: Path) -> None:
    path = installed(tmp_path, "cloudpickle", "0.0.1")
    tvm = installed(tmp_path, "apache-tvm", "0.27.0.post1") / "apache_tvm-0.27.0.post1.dist-info"
    with (tvm / "METADATA").open("a") as file:
        file.write("Provides-Extra: all\nRequires-Dist: cloudpickle>=1; extra == 'all'\n")
        file.write("Requires-Dist: not-there-at-all; extra == 'all'\n")
        file.write("Requires-Dist: not-asked-for; extra == 'other'\n")
    found = examined("packages", path=path)
    assert_told(found, "FAIL", "cloudpickle is 0.0.1", "not-there-at-all is not installed")
    assert "not-asked-for" not in found["sentence"]


def test_a_tvm_ffi_that_does_not_fit(tmp_path: Path) -> None:
    path = installed(tmp_path, "apache-tvm-ffi", "0.1.15")
    found = examined("tvm-ffi", path=path)
    assert_told(found, "FAIL", "0.1.15", "segmentation fault")
    assert "apache-tvm-ffi==0.1.14.post1" in found["fix"]


CRASHES = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [("import tvm", "SIGSEGV"), ("MetaSchedule", "SIGSEGV"), ("worker processes", "not start")],
)
def test_a_tvm_that_crashes_costs_the_check_and_not_the_doctor(
    name: str, told: str, tmp_path: Path
) -> None:
    assert_told(examined(name, path=module(tmp_path, "tvm", CRASHES)), "FAIL", told)


@pytest.mark.parametrize("name", ["torch", "xgboost"])
def test_a_library_that_cannot_be_imported(name: str, tmp_path: Path) -> None:
    path = module(tmp_path, name, "raise ImportError('libgomp.so.1 is missing')")
    assert_told(examined(name, path=path), "FAIL", "libgomp.so.1 is missing")


def test_nccl_of_xgboost_beside_torchs(tmp_path: Path) -> None:
    path = installed(tmp_path, "nvidia-nccl-cu12", "2.21.5")
    installed(tmp_path, "nvidia-nccl-cu13", "2.30.7")
    assert_told(examined("xgboost", path=path), "WARN", "nvidia-nccl-cu12")


IN_PROBES = "import sys\nif any('probes' in word for word in sys.orig_argv):"


def test_torch_with_threads_of_its_own(tmp_path: Path) -> None:
    path = module(tmp_path, "sitecustomize", f"{IN_PROBES} import torch; torch.set_num_threads(7)")
    assert_told(examined("torch", path=path), "WARN", "7 threads")


def test_torch_that_comes_with_tvm(tmp_path: Path) -> None:
    path = module(tmp_path, "sitecustomize", f"{IN_PROBES} import torch")
    assert_told(examined("import tvm", path=path), "WARN", "torch is imported with it")


def test_a_cpu_that_llvm_does_not_know(tmp_path: Path) -> None:
    text = (
        "import tvm_practice.common.import_tvm, tvm\n"
        "tvm.target.codegen.llvm_get_system_cpu = lambda: 'generic'\n"
    )
    path = module(tmp_path, "sitecustomize", text)
    assert_told(examined("LLVM's CPU", path=path), "WARN", '"generic"')


# ------------------------------------------------------------------------------- the machine itself


@pytest.mark.parametrize("given", ["abc", "0", "-2", "1.5"])
def test_a_thread_count_that_is_none_is_not_passed_over(given: str) -> None:
    found = examined("threads", TVM_NUM_THREADS=given)
    assert_told(found, "WARN", f'"{given}"', "ignored")
    assert f"TVM_NUM_THREADS={target.physical_cores()}" in found["fix"]


def test_more_threads_than_cores() -> None:
    assert_told(examined("threads", TVM_NUM_THREADS="999"), "WARN", "999 on")


@pytest.mark.skipif(target.physical_cores() < 2, reason="needs two cores")
def test_fewer_threads_than_cores() -> None:
    assert_told(examined("threads", TVM_NUM_THREADS="1"), "WARN", "1 of")


ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux has what this needs")


@linux
def test_one_core_shows_no_parallelism() -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    assert_told(examined("cores", before=ONE_CORE), "WARN", "1 of")


@pytest.fixture
def crowd() -> Iterator[None]:
    """Three processes that never rest, on the core that ONE_CORE takes."""
    spin = f"{ONE_CORE}\nwhile True: pass"
    spinning = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(3)]
    yield
    for process in spinning:
        process.kill()
        process.wait()


@linux
@pytest.mark.parametrize(("name", "told"), [("load", "busy"), ("timing noise", "longer")])
def test_a_crowded_machine(name: str, told: str, crowd: None) -> None:
    assert_told(examined(name, before=ONE_CORE), "WARN", told)


def test_huge_pages_that_are_off(tmp_path: Path) -> None:
    place = tmp_path / "enabled"
    place.write_text("always madvise [never]\n")
    before = (
        f"import pathlib; from tvm_practice.doctor import machine as m; "
        f"m.HUGE_PAGES = pathlib.Path({str(place)!r})"
    )
    assert_told(examined("huge pages", before=before), "WARN", "off")


@linux
@pytest.mark.parametrize(("mib", "state"), [(200, "FAIL"), (2000, "WARN")])
def test_little_memory(mib: int, state: str, tmp_path: Path) -> None:
    text = Path("/proc/meminfo").read_text().splitlines()
    lines = [f"MemAvailable: {mib << 10} kB" if "MemAvail" in line else line for line in text]
    (tmp_path / "meminfo").write_text("\n".join(lines))
    shutil.copy("/proc/zoneinfo", tmp_path) if Path("/proc/zoneinfo").is_file() else None
    before = f"import tvm_practice.doctor.machine, psutil; psutil.PROCFS_PATH = {str(tmp_path)!r}"
    assert_told(examined("memory", before=before), state, "available")


@linux
def test_a_full_disk() -> None:
    """/proc is a file system with no space at all."""
    before = (
        "import pathlib; from tvm_practice.doctor import machine; "
        "machine.ROOT = pathlib.Path('/proc')"
    )
    assert_told(examined("disk", before=before), "FAIL", "0.00 GiB")


def test_a_file_where_reports_belong(copy: Path) -> None:
    (copy / "reports").write_text("")
    assert_told(examined("folders", root=copy), "FAIL", "reports is a file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anyway")
def test_a_folder_that_may_not_be_written(copy: Path) -> None:
    (copy / "reports").mkdir(mode=0o555)
    assert_told(examined("folders", root=copy), "FAIL", "reports is not writable")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may")
def test_the_folders_of_somebody_else() -> None:
    before = "import os; from tvm_practice.doctor import gpu, machine; os.setuid(65534)"
    assert_told(examined("folders", before=before), "FAIL", "reports is not writable")


def test_a_lesson_that_is_gone_and_one_that_lacks_an_exercise(copy: Path) -> None:
    (copy / "tvm_practice/labs/conv1d.py").unlink()
    lesson = copy / "tvm_practice/te_basics.py"
    lesson.write_text(lesson.read_text().replace('@exercise("1.2"', '# @exercise("1.2"'))
    found = examined("lessons", root=copy)
    assert_told(found, "FAIL", "conv1d.py is missing", "te_basics.py lacks 1.2")


def test_without_git(tmp_path: Path) -> None:
    assert_told(examined("git", PATH=str(tmp_path)), "WARN", "not found")


def test_a_terminal_without_the_signs_of_tables() -> None:
    assert_told(examined("terminal", PYTHONIOENCODING="ascii"), "WARN", "ascii")


def test_a_narrow_terminal() -> None:
    assert_told(examined("terminal", COLUMNS="40", PYTHONIOENCODING="utf-8"), "WARN", "40 columns")


# -------------------------------------------------------------------------------------------- GPUs


def test_without_gxx(tmp_path: Path) -> None:
    assert_told(examined("g++", "cuda-sim", PATH=str(tmp_path)), "FAIL", "not installed")
    found = examined("g++", "cpu", PATH=str(tmp_path))
    assert_told(found, "WARN", "not installed", "exercises, the first 2.6, are checked")


def test_a_gxx_that_does_not_work(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'error: no headers here' >&2\nexit 1\n")
    compiler.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    assert_told(examined("g++", "cuda-sim", PATH=path), "FAIL", "no headers here")


@pytest.mark.parametrize(("wanted", "state"), [("cuda-sim", "WARN"), ("cuda", "FAIL")])
def test_without_nvrtc(wanted: str, state: str, tmp_path: Path) -> None:
    path = installed(tmp_path, "nvidia-cuda-nvrtc-cu12", "12.9.86")  # and nothing of it is there
    found = examined("NVRTC 12", wanted, path=path)
    assert_told(found, state, "NVRTC 12", "nvidia-cuda-nvrtc-cu12")


@pytest.mark.skipif(resources.available() is None, reason="it is found")
def test_nvrtc_is_missed_where_it_is_not_installed() -> None:
    assert_told(examined("NVRTC 12", "cuda"), "FAIL")


def has_a_driver() -> bool:
    import ctypes

    try:
        ctypes.CDLL(target.DRIVER)
    except OSError:
        return False
    return True


without_gpu = pytest.mark.skipif(has_a_driver(), reason="NVIDIA's driver is installed here")


@without_gpu
@pytest.mark.parametrize("name", ["NVIDIA's driver", "TVM's CUDA", "device"])
def test_a_machine_without_a_gpu(name: str) -> None:
    found = examined(name, "cuda")
    assert_told(found, "FAIL")
    if name == "TVM's CUDA":
        assert "libcud" in found["sentence"]
    assert examined(name, "cpu")["state"] == "not needed"


DRIVER = """
extern "C" int cuInit(unsigned) {{ return {status}; }}
extern "C" int cuDriverGetVersion(int* version) {{ *version = {version}; return 0; }}
extern "C" int cuDeviceGetCount(int* count) {{ *count = {count}; return 0; }}
"""


@linux
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    ("library", "smi", "state", "told"),
    [
        ({"status": 100, "version": 13000, "count": 1}, "580.95.05", "FAIL", "error 100"),
        ({"status": 0, "version": 12080, "count": 1}, "570.10.01", "FAIL", "CUDA 12 at most"),
        ({"status": 0, "version": 13000, "count": 0}, "580.95.05", "FAIL", "no device"),
        ({"status": 0, "version": 13000, "count": 1}, "", "WARN", "nvidia-smi"),
        ({"status": 0, "version": 13000, "count": 1}, "580.95.05", "OK", "580.95.05, for CUDA 13"),
    ],
)
def test_what_a_driver_says_of_itself(
    library: dict, smi: str, state: str, told: str, tmp_path: Path
) -> None:
    """A library with the driver's name, as the loader finds it, stands in for one."""
    source = tmp_path / "driver.cc"
    source.write_text(DRIVER.format(**library))
    made = ["g++", "-shared", "-fPIC", str(source), "-o", str(tmp_path / target.DRIVER)]
    subprocess.run(made, check=True)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{smi}'\n")
    program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    found = examined("NVIDIA's driver", "cuda", PATH=path, LD_LIBRARY_PATH=str(tmp_path))
    assert found["state"] == state and told in found["sentence"], found
    assert bool(found["fix"]) == (state != "OK")


def test_without_the_cuda_runtime(tmp_path: Path) -> None:
    path = installed(tmp_path, "nvidia-cuda-runtime", "13.2.86")  # and nothing of it is there
    found = examined("CUDA runtime", "cuda", path=path)
    if found["state"] == "OK":
        pytest.skip("the loader finds the runtime elsewhere")
    assert_told(found, "FAIL", target.RUNTIME)


def test_a_torch_without_cuda(tmp_path: Path) -> None:
    text = (
        "from numpy import ones\n__version__ = '2'\ndef get_num_threads(): return 2\n"
        "class version: cuda = None\nclass cuda: get_arch_list = list\n"
    )
    found = examined("torch's CUDA", "cuda", path=module(tmp_path, "torch", text))
    assert_told(found, "WARN", "without CUDA")


@pytest.mark.parametrize(
    ("arch", "built", "runs"),
    [
        ("sm_70", ["sm_75", "sm_80", "sm_90", "compute_120"], False),  # for CUDA 13
        ("sm_70", ["sm_50", "sm_60", "sm_70", "sm_90"], True),  # for CUDA 12.6
        ("sm_89", ["sm_80", "sm_90"], True),
        ("sm_90", ["sm_80", "compute_80"], True),
        ("sm_120", ["sm_90", "sm_100"], False),
        ("sm_70", [], False),
    ],
)
def test_which_devices_a_build_of_torch_serves(arch: str, built: list[str], runs: bool) -> None:
    assert _torch_runs_on(arch, built) == runs


# -------------------------------------------------------------------------------------- the command


def doctor(*arguments: str, root: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_practice.doctor", *arguments],
        env={**os.environ, "PYTHONPATH": str(root), **env},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
    )


def test_the_whole_of_it_on_this_machine_changes_nothing(copy: Path) -> None:
    def files() -> set[Path]:
        return {place for place in copy.rglob("*") if "__pycache__" not in place.parts}

    before = files()
    done = doctor(root=copy, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1]
    states = [line[:10].strip() for line in done.stdout.splitlines()]
    assert states.count("FAIL") == 0 and states.count("OK") > 10
    assert "not needed" in states
    assert "NVRTC 12: only --target cuda-sim or cuda needs it" in done.stdout
    assert "Nothing is in the way of --target cpu." in done.stdout
    assert "\x1b" not in done.stdout and not done.stderr
    assert files() == before


@without_gpu
def test_a_gpu_that_is_not_there_fails_its_own_target_and_no_other() -> None:
    done = doctor("--target", "cuda", "--json")
    assert done.returncode == 1, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert found["NVIDIA's driver"]["state"] == found["device"]["state"] == "FAIL"
    assert found["g++"]["state"] == "OK"
    assert all(one["fix"] for one in found.values() if one["state"] in ("FAIL", "WARN"))


def test_a_target_that_does_not_exist() -> None:
    done = doctor("--target", "tpu")
    assert done.returncode == 2 and "cuda-sim" in done.stderr and not done.stdout
    assert doctor(TVM_PRACTICE_TARGET="tpu").returncode == 2


def test_in_a_narrow_terminal_it_is_a_table_in_full(tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "tvm_practice.doctor"],
        cwd=str(ROOT),
        dimensions=(50, 60),
        encoding="utf-8",
        timeout=3 * SECONDS,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm", "TVM_NUM_THREADS": "abc"},
    )
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", terminal.before)
    assert "┃ check" in shown and "60 columns" in shown
    assert max(map(len, shown[shown.index("┏") :].splitlines())) <= 60
    assert "Worth a look: " in shown and '"abc"' in shown


def test_an_interrupted_doctor_says_so() -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "tvm_practice", "doctor"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert "load:" in started.stdout.readline()
    os.killpg(started.pid, signal.SIGINT)
    _, told = started.communicate(timeout=30)
    assert (started.returncode, told.strip()) == (130, "Interrupted.")
