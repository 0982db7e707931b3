"""The measured data set of the lab `cost_model`: every schedule of its search space, timed.

README.md beside this file says what the columns are, on which machine they were measured, and how
to measure them again; `python -m tvm_practice.labs.data` does it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

SHIPPED = Path(__file__).with_name("matmul_256.npz")
COMMAND = "python -m tvm_practice.labs.data"


@dataclass(frozen=True)
class Measurements:
    """Every candidate of one task and what was measured of it; row n of each array is candidate n.

    decisions: (candidates, knobs), places in the tuples of the lab's KNOBS.
    passes: (candidates, passes), seconds per call in each pass over all candidates; infinite if it
    failed.
    features: one (stores, 164) array a candidate, as ms.feature_extractor.PerStoreFeature gives it.
    recorded: name -> (runs, trials), the candidates that MetaSchedule asked for, in their order.
    about: the task, the machine and when.
    """

    decisions: np.ndarray
    passes: np.ndarray
    features: list[np.ndarray]
    recorded: dict[str, np.ndarray]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def complete(self) -> bool:
        """Is every candidate of the space there, and what MetaSchedule makes of them?"""
        space = math.prod(len(choices) for choices in self.about["knobs"].values())
        return len(self) == space and bool(self.recorded)

    @cached_property
    def seconds(self) -> np.ndarray:
        """Seconds per call of every candidate: the median of its passes."""
        return np.median(self.passes, axis=1)

    @cached_property
    def speed(self) -> np.ndarray:
        """GFLOP/s of every candidate; 0 if it failed."""
        return 2 * self.about["side"] ** 3 / self.seconds / 1e9

    @cached_property
    def spread(self) -> np.ndarray:
        """How far apart the quartiles of the passes are, as a share of the median."""
        low, high = np.quantile(self.passes, (0.25, 0.75), axis=1)
        return (high - low) / self.seconds


def load(path: Path = SHIPPED) -> Measurements:
    """Read a data set."""
    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    # Stored transposed, a feature a row: neighbours are then alike, and compress better.
    features = np.ascontiguousarray(stored["features"].T).astype("float32")
    passes = stored["passes"].astype(float)
    passes[~np.isfinite(passes).all(axis=1)] = np.inf
    about = json.loads(str(stored["about"]))
    return Measurements(
        stored["decisions"].astype(int),
        passes,
        np.split(features, np.cumsum(stored["stores"])[:-1]),
        {name: stored[name].astype(int) for name in about.get("recorded", {})},
        about,
    )


def save(path: Path, measurements: Measurements) -> None:
    """Write a data set, whole or not at all."""
    unfinished = path.with_suffix(".new.npz")
    np.savez_compressed(
        unfinished,
        decisions=measurements.decisions.astype("uint8"),
        passes=measurements.passes.astype("float32"),
        stores=np.array([len(rows) for rows in measurements.features], "uint8"),
        features=np.concatenate(measurements.features).T.astype("float16"),
        about=np.array(json.dumps(measurements.about, indent=1)),
        **{name: orders.astype("uint16") for name, orders in measurements.recorded.items()},
    )
    unfinished.replace(path)
