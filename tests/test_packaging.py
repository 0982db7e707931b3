"""What stands around the course: its dependencies, the script that sets it up, its container, and
what CI runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES = PROJECT["project"]["dependencies"]
COMMANDS = {  # as the README gives them
    "native run": "./practice python -m tvm_practice.main",
    "native test": "./practice pytest",
    "container run": "docker compose run --rm tvm python -m tvm_practice.main",
    "container test": "docker compose run --rm tvm pytest",
}
IMPORTED_AS = {"apache-tvm": "tvm", "apache-tvm-ffi": "tvm_ffi"}


# ------------------------------------------------------------------------------------- dependencies


def test_versions_that_only_work_together_are_pinned() -> None:
    assert "apache-tvm[all]==0.27.0.post1" in DEPENDENCIES
    assert "apache-tvm-ffi==0.1.14.post1" in DEPENDENCIES


def test_every_package_that_the_course_imports_is_declared() -> None:
    names = [re.match(r"[\w.-]+", dependency)[0] for dependency in DEPENDENCIES]
    declared = {IMPORTED_AS.get(name, name) for name in names}
    imported: dict[str, str] = {}
    for path in (ROOT / "tvm_practice").rglob("*.py"):
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            imported.update((module.partition(".")[0], path.name) for module in modules)
    missing = imported.keys() - declared - sys.stdlib_module_names - {"tvm_practice"}
    assert not missing, {name: imported[name] for name in missing}


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text())
    except SyntaxError:  # a lesson file may be a learner's half-written answer
        return ast.Module([], [])


def test_resolution_is_the_same_on_every_machine_without_a_lock_file() -> None:
    assert re.match(r"\d{4}-\d\d-\d\d", PROJECT["tool"]["uv"]["exclude-newer"])
    assert "uv.lock" in (ROOT / ".gitignore").read_text().split()


# ----------------------------------------------------------------------------- the commands, and CI


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_readme_gives_the_command(command: str) -> None:
    assert command in (ROOT / "README.md").read_text()


def test_ci_runs_the_test_command_and_the_main_job() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    wanted = [COMMANDS["native test"], COMMANDS["native run"] + " --quick"]
    assert [line for line in lines if line in wanted] == wanted
    assert any("ruff format --check" in line for line in lines)
    assert any("ruff check" in line for line in lines)


# -------------------------------------------------------------------------- ./practice, where uv is


@pytest.fixture
def machine(tmp_path: Path):
    """A function that runs ./practice, in a project folder of its own, where only the given
    programs exist."""
    (tmp_path / "practice").write_text((ROOT / "practice").read_text())
    (tmp_path / "bin").mkdir()
    for name in ("dirname", "mkdir", "chmod"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def run(*arguments: str, **programs: str) -> subprocess.CompletedProcess[str]:
        for name, body in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        return subprocess.run(
            ["/bin/sh", str(tmp_path / "practice"), *arguments],
            env={"PATH": str(tmp_path / "bin")},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


UV = 'echo "$0" "$@"'
# Its "pip install --target FOLDER" leaves a uv in FOLDER/bin.
PYTHON = f"""
while [ "$1" != --target ]; do [ $# -gt 0 ] || exit 0; shift; done
mkdir -p "$2/bin"
echo '#!/bin/sh\n{UV}' > "$2/bin/uv"
chmod +x "$2/bin/uv"
"""


def test_practice_uses_the_uv_that_is_there(machine) -> None:
    done = machine("pytest", "-k", "a b", uv=UV)
    assert done.stdout.endswith("bin/uv run pytest -k a b\n"), done


def test_practice_tells_the_course_how_it_was_called(machine, tmp_path) -> None:
    done = machine("tvm-practice", uv='echo "$TVM_PRACTICE_COMMAND"')
    assert done.stdout == f"{tmp_path}/practice\n"


def test_practice_without_arguments_runs_the_course(machine) -> None:
    assert machine(uv=UV).stdout.endswith("uv run python -m tvm_practice.main\n")


def test_practice_fetches_uv_where_there_is_none(machine) -> None:
    broken = "exit 127"  # such as pyenv's shim of a program that another Python has
    done = machine("pytest", uv=broken, python3=PYTHON)
    assert done.stdout == ".uv/bin/uv run pytest\n", done
    again = machine("pytest", python3=broken)
    assert (again.stdout, again.stderr) == (".uv/bin/uv run pytest\n", ""), again


def test_practice_takes_the_python_that_has_pip(machine) -> None:
    assert machine("pytest", python3="exit 1", python=PYTHON).stdout == ".uv/bin/uv run pytest\n"


def test_practice_says_what_is_missing(machine) -> None:
    done = machine("pytest")
    assert done.returncode == 2
    assert re.fullmatch(r"practice: needs pip .* or uv\n", done.stderr), done


# ------------------------------------------------------------------------------------ the container


def test_the_image_needs_no_frontend_from_a_registry() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert not [line for line in lines if re.match(r"#\s*syntax\s*=", line, re.IGNORECASE)]
    assert "FROM python:3.12-slim-bookworm" in lines


def test_editing_a_source_rebuilds_nothing() -> None:
    copied = re.findall(r"^(?:COPY|ADD) (.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert [words for words in copied if "<<" not in words] == ["pyproject.toml ./"]


def test_the_compose_file_has_the_service() -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    service = services["tvm"]
    assert service["volumes"] == [".:/workspace"]
    assert {"NO_COLOR", "TVM_PRACTICE_TARGET"} <= service["environment"].keys()
    assert service["build"]["args"]["TORCH_INDEX_URL"] == "${TORCH_INDEX_URL:-}"


def test_the_fleet_is_on_a_network_of_its_own_and_publishes_nothing() -> None:
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["networks"] == {"fleet": {"internal": True}}
    for name in ("tracker", "device", "tuner"):
        service = compose["services"][name]
        assert service["networks"] == ["fleet"]
        assert not {"ports", "network_mode", "expose"} & service.keys()
        assert service["profiles"] == ["fleet"]  # never by `docker compose up` alone
    for name in ("tracker", "device"):  # which run what others send them
        assert compose["services"][name]["volumes"] == [".:/workspace:ro"]
    assert compose["services"]["device"]["hostname"]  # the same one in every record


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--tracker", "192.0.2.1:9190"), "none of them can connect to 127.0.0.1"),
        (("--tracker", "127.0.0.1:9190", "--key", "my board"), "'my board' is not one word"),
        (("--tracker", "nobody.invalid:1", "--trust-network"), "does nothing at 127.0.0.1"),
    ],
)
def test_a_device_that_nobody_could_use_is_not_offered(arguments, sentence: str) -> None:
    command = [sys.executable, "-m", "tvm_practice.fleet", "device", *arguments]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert refused.returncode == 2 and sentence in refused.stderr


def test_a_machine_without_a_gpu_never_trips_over_the_service_for_one() -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    service = services["tvm-cuda"]
    assert service["profiles"] == ["cuda"]
    assert service["build"]["args"]["EXTRAS"] in PROJECT["project"]["optional-dependencies"]
    assert "deploy" in service and "deploy" not in services["tvm"]


# ---------------------------------------------------------------------------------- what is tracked


@pytest.mark.skipif(
    os.environ.get("TVM_PRACTICE_AS_SHIPPED") != "1" or not shutil.which("git"),
    reason="for what is shipped, not for a learner's own files; the container has no git",
)
def test_nothing_of_one_machine_is_tracked() -> None:
    named = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(named, capture_output=True, text=True, check=True).stdout.split("\0")
    lock_files = [name for name in files if re.search(r"(\.lock|-lock\.(json|yaml))$", name)]
    assert not lock_files
    own_path = re.compile(r"(?<![\w.])/(root|work|Users|home/(?!learner)\w+|opt/(?!venv)\w+)/")
    registry = re.compile(r"pypi\.org|pythonhosted\.org|deb\.debian\.org|npmjs\.(org|com)")
    found = []
    for name in filter(None, files):
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; a file not there any more
            continue
        found += [
            f"{name}: {hit[0]}" for hit in (own_path.search(text), registry.search(text)) if hit
        ]
    assert not found
