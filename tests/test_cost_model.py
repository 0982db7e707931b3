"""The data set of the lab `cost_model`: it is what its README says, and can be made again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tvm_practice.common import exercise
from tvm_practice.common.worker import call
from tvm_practice.experiments import cost_model as experiment
from tvm_practice.labs import data
from tvm_practice.labs.data import measure, metaschedule

README = Path(data.__file__).with_name("README.md").read_text()


@pytest.fixture(scope="module")
def table() -> data.Measurements:
    return data.load()


def test_the_shipped_data_set_is_small_whole_and_plausible(table) -> None:
    assert data.SHIPPED.stat().st_size < 1_500_000
    assert len(table) >= 1000 and table.complete
    assert len(np.unique(table.decisions, axis=0)) == len(table)
    assert np.isfinite(table.passes).all() and (table.passes > 0).all()
    assert all(rows.shape[1] == 164 for rows in table.features)
    for orders in table.recorded.values():
        assert len(orders) >= 5
        assert all(len(set(order)) == len(order) for order in orders.tolist())


def test_its_readme_describes_it(table) -> None:
    assert f"{len(table):,} candidates" in README and data.COMMAND in README
    with np.load(data.SHIPPED) as file:
        assert re.findall(r"^\| `(\w+)`", README, re.M) == file.files[:4] + file.files[5:] + [
            "about"
        ]
    machine = table.about["machine"]
    assert machine["cpu"] in README and machine["llvm_cpu"] in README and machine["tvm"] in README
    assert table.about["measured"] in README


def _space_agrees() -> tuple[bool, list[np.ndarray], list[int], dict]:
    from tvm.s_tir import Schedule

    from tvm_practice.common.target import cpu_target

    lab = exercise.load_lesson("cost_model")
    candidates = lab.every_candidate()
    table = data.load()
    agrees = np.array_equal(candidates, table.decisions)
    features, numbers = [], []
    for number in range(0, len(candidates), 499):
        sch = Schedule(lab.matmul(lab.SIDE)["main"])
        knobs = zip(candidates[number], lab.KNOBS.values(), strict=True)
        lab.write_schedule(sch, *(choices[place] for place, choices in knobs))
        features.append(lab.store_features(sch, cpu_target()))
        numbers.append(metaschedule.number_of(sch))
    return agrees, features, numbers, {name: list(one) for name, one in lab.KNOBS.items()}


def test_it_belongs_to_the_space_of_the_lab(table) -> None:
    """Rows, features and MetaSchedule's candidates are numbered as the lab numbers them."""
    agrees, features, numbers, knobs = call(_space_agrees)
    assert agrees and knobs == table.about["knobs"]
    assert numbers == list(range(0, len(table), 499))
    for number, rows in zip(numbers, features, strict=True):
        assert np.allclose(table.features[number], rows, atol=0.02), number


def test_metaschedule_searches_the_table(table) -> None:
    order, seconds = call(_short_metaschedule)
    assert len(order) == len(set(order)) == 32 and seconds > 0
    assert max(order) < len(table)


def _short_metaschedule() -> tuple[list[int], float]:
    metaschedule.TRIALS = 32
    return metaschedule.run_metaschedule(data.load().seconds, 16, 0)


def test_a_few_candidates_can_be_measured_again(tmp_path, table) -> None:
    path, some = tmp_path / "again.npz", [tuple(map(int, one)) for one in table.decisions[3::1200]]
    measure.measure_all(path, some, {}, {**call(measure.task), "measured": "today"})
    again = data.load(path)
    assert not again.complete and sorted(measure.finished(path)) == sorted(some)
    assert np.isfinite(again.passes).all()
    assert again.about["knobs"] == table.about["knobs"]


def test_every_feature_has_a_name_of_its_own() -> None:
    names = experiment.feature_names()
    assert len(names) == len(set(names)) == 164
    assert (names[16], names[49], names[57]) == (
        "vectorized loops: number",
        "is GPU",
        "buffer 1: is read",
    )


def test_the_names_fit_what_the_features_are(table) -> None:
    names = experiment.feature_names()
    tiles = [
        2**16 // (2 ** int(rows) * 2 ** int(columns)) for *_, rows, columns, _ in table.decisions
    ]
    product = names.index("parallel loops: product of extents")
    got = np.array([rows[0, product] for rows in table.features])
    assert np.allclose(
        got[np.array(tiles) > 1], np.log2(np.array(tiles)[np.array(tiles) > 1] + 1.0), atol=0.02
    )


def test_fewer_or_more_tells_what_it_can() -> None:
    rng = np.random.default_rng(0)
    told = [
        experiment.fewer_or_more(rng.integers(1, 100, 40), rng.integers(1, 100, 400))
        for _ in range(400)
    ]
    assert told.count("cannot tell") / len(told) > 0.92
    few, many = rng.integers(1, 50, 40), rng.integers(1, 100, 400)
    assert experiment.fewer_or_more(few, many) == "fewer"
    assert experiment.fewer_or_more(many, few) == "more"
    never = np.full(40, np.inf)
    assert experiment.fewer_or_more(never, never) == "cannot tell"
