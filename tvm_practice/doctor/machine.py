"""The checks that every target needs: Python, packages, processor, memory, folders, terminal."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tvm_practice.common import answers, target
from tvm_practice.common.exercise import LESSONS, PACKAGE, lesson_file, lesson_path
from tvm_practice.doctor import probes
from tvm_practice.doctor.finding import FAIL, OK, WARN, check

ROOT = PACKAGE.parent
GIB = 1 << 30
INSTALL = '"./practice true" installs what pyproject.toml names.'
CROWDED = 0.25  # cores that other programs may keep busy before a time is in doubt
NOISE = 0.10
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
Told = tuple[str, str, str]


@cache
def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@check("Python")
def python(_: str) -> Told:
    wanted = _project()["requires-python"]
    here = platform.python_version()
    if not SpecifierSet(wanted).contains(here, prereleases=True):
        return FAIL, f"{here}, and the packages have wheels for {wanted}", "uv python install 3.12"
    return OK, here, ""


def _required() -> Iterator[Requirement]:
    """Every requirement of pyproject.toml, and those of the extras it names: a TVM without its
    extra `all` is installed, and MetaSchedule fails."""
    for text in _project()["dependencies"]:
        wanted = Requirement(text)
        yield wanted
        for more in metadata.requires(wanted.name) or [] if _version(wanted.name) else []:
            of_extra = Requirement(more)
            if of_extra.marker and any(
                of_extra.marker.evaluate({"extra": extra})
                and not of_extra.marker.evaluate({"extra": ""})
                for extra in wanted.extras
            ):
                yield of_extra


@check("packages")
def packages(_: str) -> Told:
    """What is required, but the pair that has its own check."""
    wrong = []
    for wanted in _required():
        if wanted.name == "apache-tvm-ffi":
            continue
        here = _version(wanted.name)
        if here is None:
            wrong.append(f"{wanted.name} is not installed")
        elif not wanted.specifier.contains(here, prereleases=True):
            wrong.append(f"{wanted.name} is {here}, not {wanted.specifier}")
    if wrong:
        return FAIL, "; ".join(wrong), INSTALL
    return OK, f"as pyproject.toml asks; TVM {_version('apache-tvm')}", ""


@check("tvm-ffi")
def ffi(_: str) -> Told:
    wanted = next(
        requirement
        for text in _project()["dependencies"]
        if (requirement := Requirement(text)).name == "apache-tvm-ffi"
    )
    here = _version(wanted.name)
    fix = f'pip install "{wanted}"; "./practice true" does it too.'
    if here is None or not wanted.specifier.contains(here, prereleases=True):
        return (
            FAIL,
            f"{here or 'not installed'}, not {wanted.specifier}: another is not binary compatible "
            "with this TVM, and MetaSchedule dies of a segmentation fault",
            fix,
        )
    return OK, f"{here}, the one that fits", ""


@check("import tvm")
def import_tvm(_: str) -> Told:
    try:
        told = probes.ask("tvm")
    except probes.Died as died:
        return FAIL, f"TVM cannot be imported: {died}", INSTALL
    if told["torch"]:
        fix = "Something imports torch at start (a sitecustomize or a .pth file?); remove it."
        return WARN, f"{told['seconds']:.1f} s, because torch is imported with it", fix
    if told["seconds"] > 6:
        fix = "A slow disk or a busy machine; run doctor again when it is idle."
        return WARN, f"{told['seconds']:.1f} s, which every command will take to start", fix
    return OK, f"{told['seconds']:.1f} s, without torch; LLVM {told['llvm']}", ""


@check("MetaSchedule")
def metaschedule(_: str) -> Told:
    try:
        probes.ask("metaschedule")
    except probes.Died as died:
        return FAIL, f"a search cannot save its records: {died}", INSTALL
    return OK, "saves and loads a program", ""


@check("worker processes")
def workers(_: str) -> Told:
    try:
        told = probes.ask("workers")
    except probes.Died as died:
        fix = "Look at TMPDIR (sockets need a short path), `ulimit -u` and the container's limits."
        return FAIL, f"a process for an exercise does not start: {died}", fix
    return OK, f"the first after {told['first']:.1f} s, the next after {told['next']:.2f} s", ""


@check("LLVM's CPU")
def llvm_cpu(_: str) -> Told:
    try:
        name = probes.ask("tvm")["cpu"]
    except probes.Died:
        return WARN, "unknown while TVM cannot be imported", INSTALL
    if name in ("", "generic", "native", "x86-64"):
        return (
            WARN,
            f'LLVM knows this processor only as "{name}": code will not use its vector units',
            'Name it in {"kind": "llvm", "mcpu": ...}; in a virtual machine, pass the CPU through.',
        )
    return OK, f'{name}, asked of LLVM ("native" would mean a generic one)', ""


def started_with(variable: str) -> str | None:
    """An environment variable as this process was given it: the package sets some of its own."""
    try:
        return psutil.Process().environ().get(variable)
    except (psutil.Error, OSError):
        return os.environ.get(variable)


@check("threads")
def threads(_: str) -> Told:
    cores, given = target.physical_cores(), started_with("TVM_NUM_THREADS")
    unset = "unset TVM_NUM_THREADS, or set it to the physical cores: "
    if given and not (given.isdigit() and int(given) > 0):
        return (
            WARN,
            f'TVM_NUM_THREADS is "{given}", which is no count and is ignored; {cores} are used',
            f"{unset}TVM_NUM_THREADS={cores}",
        )
    count = target.threads()
    if count > cores:
        sentence = f"{count} on {cores} physical cores: they take turns, and times are worse"
        return WARN, sentence, f"{unset}TVM_NUM_THREADS={cores}"
    if count < cores:
        sentence = f"{count} of {cores} physical cores, as TVM_NUM_THREADS says"
        return WARN, sentence, f"{unset}TVM_NUM_THREADS={cores}"
    try:
        used = probes.ask("tvm")["threads"]
    except probes.Died:
        used = count
    if used != count:
        fix = f"Set TVM_NUM_THREADS={cores} before TVM is imported."
        return WARN, f"TVM starts {used} threads on {cores} physical cores", fix
    return OK, f"{count}, one for each physical core", ""


@check("cores")
def cores(_: str) -> Told:
    here = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    usable = target.physical_cores()
    if usable == 1:
        fix = "Give the container or virtual machine two or more (docker: --cpus)."
        return WARN, f"1 of {here} may be used: `parallel` will show nothing", fix
    cut = ", the rest is withheld by affinity or a container's quota" if usable < here else ""
    return OK, f"{usable} of {here} physical ones{cut}", ""


@check("load")
def load(_: str) -> Told:
    busy = psutil.cpu_percent(interval=0.5) / 100 * (psutil.cpu_count() or 1)
    if busy > CROWDED:
        sentence = f"other programs keep {busy:.1f} cores busy: times will be worse and uncertain"
        return WARN, sentence, "Close what runs beside the course, or run it again later."
    return OK, f"{busy:.1f} cores busy with other programs", ""


@check("timing noise")
def noise(_: str) -> Told:
    samples = []
    for _round in range(31):
        started = time.perf_counter()
        sum(range(200_000))
        samples.append(time.perf_counter() - started)
    apart = statistics.median(samples) / min(samples) - 1
    if apart > NOISE:
        sentence = f"the same work takes {apart:.0%} longer at the median than at best"
        return WARN, sentence, "Plug a laptop in, stop other programs, fix the clock frequency."
    return OK, f"the same work takes {apart:.0%} longer at the median than at best", ""


@check("huge pages")
def huge_pages(_: str) -> Told:
    if not HUGE_PAGES.is_file():
        return OK, "this system does not say", ""
    chosen = HUGE_PAGES.read_text().partition("[")[2].partition("]")[0]
    if chosen == "never":
        sentence = "off: large matrices cost more misses of the address cache (TLB)"
        return WARN, sentence, f"echo madvise | sudo tee {HUGE_PAGES}"
    return OK, chosen, ""


@check("memory")
def memory(_: str) -> Told:
    free = psutil.virtual_memory().available / GIB
    sentence = f"{free:.1f} GiB available"
    fix = "Close other programs, or give the container or virtual machine more."
    if free < 4:
        return FAIL if free < 1 else WARN, f"{sentence}; torch and TVM take 2 to 4", fix
    return OK, sentence, ""


@check("disk")
def disk(_: str) -> Told:
    here = {place: shutil.disk_usage(place).free for place in (ROOT, Path(tempfile.gettempdir()))}
    place, free = min(here.items(), key=lambda item: item[1])
    if free < GIB:
        sentence = f"{free / GIB:.2f} GiB left at {place}; records, pictures and builds need 1"
        return FAIL if free < GIB // 10 else WARN, sentence, f"Delete something at {place}."
    return OK, f"{free / GIB:.0f} GiB left", ""


@check("folders")
def folders(_: str) -> Told:
    """Read-only itself: it asks whether it might write, and writes nothing."""
    bad = []
    for name in ("reports", "records", answers.FOLDER.name, "tvm_practice"):
        place = ROOT / name
        if place.exists() and not place.is_dir():
            bad.append(f"{name} is a file where a folder belongs")
        elif not os.access(place if place.exists() else ROOT, os.W_OK | os.X_OK):
            bad.append(f"{name} is not writable")
    if bad:
        sentence = "; ".join(bad)
        return FAIL, sentence, f"Move the file away, or make yourself the owner of {ROOT}."
    return OK, "reports, records and progress can be written", ""


@check("lessons")
def lessons(_: str) -> Told:
    wrong, count = [], 0
    for lesson in LESSONS:
        shipped = answers.originals(lesson)
        count += len(shipped)
        if not lesson_path(lesson).is_file():
            wrong.append(f"{lesson_file(lesson)} is missing")
            continue
        gone = [known for known in shipped if known not in answers.texts(lesson)]
        if gone:
            wrong.append(f"{lesson_file(lesson)} lacks {', '.join(gone)}")
        elif not shipped:
            wrong.append(f"how {lesson} was shipped is not in originals/")
    if wrong:
        fix = "`git checkout -p tvm_practice/` brings back what you choose."
        return FAIL, "; ".join(wrong), fix
    return OK, f"{count} exercises in {len(LESSONS)} lessons", ""


@check("torch")
def torch(_: str) -> Told:
    try:
        told = probes.ask("torch")
    except probes.Died as died:
        return FAIL, f"cannot be imported: {died}", INSTALL
    if told["threads"] != target.threads():
        sentence = f"{told['version']}, with {told['threads']} threads where TVM has "
        fix = f"unset OMP_NUM_THREADS and MKL_NUM_THREADS, or set them to {target.threads()}."
        return WARN, f"{sentence}{target.threads()}: no fair comparison", fix
    build = f"built for CUDA {told['cuda']}" if told["cuda"] else "built for the CPU"
    return OK, f"{told['version']}, {build}, {told['threads']} threads", ""


@check("xgboost")
def xgboost(_: str) -> Told:
    try:
        told = probes.ask("xgboost")
    except probes.Died as died:
        return FAIL, f"a search's cost model cannot be trained: {died}", INSTALL
    old, new = _version("nvidia-nccl-cu12"), _version("nvidia-nccl-cu13")
    if old and new:
        sentence = "it brought nvidia-nccl-cu12, which overwrites files of torch's nvidia-nccl-cu13"
        fix = "pip uninstall nvidia-nccl-cu12, then pip install --force-reinstall nvidia-nccl-cu13"
        return WARN, sentence, fix
    return OK, told["version"], ""


@check("git")
def git(_: str) -> Told:
    if shutil.which("git") is None:
        sentence = "not found; only where doctor or a lesson names a git command is it missed"
        return WARN, sentence, "On Debian and Ubuntu: apt-get install git"
    return OK, "found", ""


@check("terminal")
def terminal(_: str) -> Told:
    out = sys.__stdout__ or sys.stdout  # a spinner stands in for sys.stdout while it turns
    encoding = (out.encoding or "unknown").lower()
    if encoding.replace("-", "") != "utf8":
        sentence = f"the output is encoded as {encoding}: lines and signs of tables may be lost"
        return WARN, sentence, "export LANG=C.UTF-8 PYTHONIOENCODING=utf-8"
    if out.isatty() or "COLUMNS" in os.environ:
        width = shutil.get_terminal_size().columns
        if width < 80:
            sentence = f"{width} columns: tables and loop nests are folded"
            return WARN, sentence, "Make the window 80 columns wide or more, or unset COLUMNS."
        return OK, f"{width} columns, {encoding}", ""
    return OK, f"no terminal: plain text, {encoding}", ""
