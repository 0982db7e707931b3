"""Which tests prove the course itself, at length: they are left out unless asked for.

`pytest` runs what a learner needs, in minutes; `pytest -m slow -n 2` the rest, in two processes.
What measures times is not among them: it has to be alone on the machine.
"""

from __future__ import annotations

import os

import pytest

# pytest-xdist sets COLUMNS, and what goes into a pipe would fold; ./practice and uv set the others,
# and commands would be printed in another form.
for name in ("COLUMNS", "TVM_PRACTICE_COMMAND", "UV_RUN_RECURSION_DEPTH"):
    os.environ.pop(name, None)

SLOW_FILES = {
    "test_answers.py": "every wrong answer gets its diagnosis",
    "test_bench.py": "the bench, through its command",
    "test_commands.py": "the commands of a learner, right and wrong",
    "test_command_line.py": "phases and labs through their commands",
    "test_cost_model.py": "searches over a whole space of schedules",
    "test_cuda_device.py": "what a GPU would run, in the simulator",
    "test_deploy.py": "models as libraries, in processes without a compiler",
    "test_doctor.py": "every finding of the doctor, on a machine broken for it",
    "test_exercise_pages.py": "the pages of the exercises, made again",
    "test_explain.py": "schedules replayed primitive by primitive",
    "test_fleet.py": "devices that crash, hang and lie, as real processes",
    "test_first_hour.py": "the first hour, played again",
    "test_gpu_machine.py": "faults of the machine while a GPU exercise is graded",
    "test_gpu_models.py": "whole models on the simulated GPU",
    "test_gpu_mutation.py": "mutants of every GPU kernel",
    "test_gpu_references.py": "every GPU kernel through NVIDIA's compiler",
    "test_gpu_search.py": "a sample of MetaSchedule's space for a GPU",
    "test_guides.py": "every block of the guide, executed",
    "test_isolation.py": "bodies that hang, crash, or eat memory",
    "test_old_names.py": "every line of the table of old names, executed",
    "test_report.py": "the page of a run",
    "test_report_page.py": "the page in a browser",
    "test_search.py": "tuning runs, interrupted and gone on with",
    "test_watch.py": "what is graded when a file is saved",
    "test_whole_models.py": "ResNet-18 tuned for moments, stopped, and gone on with",
    "test_whole_course.py": "a learner from the first to the last exercise",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: proves the course itself; takes minutes")


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker("slow")
