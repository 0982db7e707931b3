"""Pictures, without a display: a figure to draw on, and saving it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def blank(width: float, height: float, **subplots: Any) -> tuple[Any, Any]:
    """(figure, axes) of `matplotlib.pyplot.subplots`, this many inches large."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained", **subplots)


def save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
