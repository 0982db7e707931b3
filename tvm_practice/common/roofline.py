"""Pictures of a bench: rooflines, and bars. Both are drawn from its JSON alone.

A roofline (Williams, Waterman & Patterson 2009) has the arithmetic intensity of a kernel across,
operations per byte that must come from memory, and its speed upwards. Below the ridge the slope of
the memory bandwidth is the limit, beyond it the FMA peak. A better schedule moves a point straight
up: the intensity is that of the problem, every input read once and every output written once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_practice.common import picture, show, timing

Result = dict[str, Any]

HAND, TUNED = "hand", "tuned"
# name: marker, color
LIBRARIES = {
    "NumPy": ("s", "#7f7f7f"),
    "torch": ("^", "#a0522d"),
    "torch.compile": ("v", "#d9a066"),
}
TUNED_STYLE = ("D", "#8e44ad")
PEAKS = {peak.name for peak in timing.PEAKS} | set(timing.ONE_THREAD)
ROOF, ONE_THREAD = "#c0392b", "#e59866"
HAND_COLOR, PATH_COLOR, TEXT_COLOR = "#111111", "#b8b8b8", "#333333"
# Columns of points nearer than this factor in intensity are drawn side by side.
NEAREST = 1.2


def draw_all(folder: Path, report: dict[str, Any]) -> list[Path]:
    """A roofline for every workload of the report, as roofline-<workload>.png in `folder`; none for
    searches, whose winners are all the same matmul."""
    paths = []
    searched = {one["workload"] for one in report.get("searches", [])}
    for workload in dict.fromkeys(one["workload"] for one in report["results"]):
        if workload in searched:
            continue
        path = folder / f"roofline-{workload}.png"
        if draw_roofline(path, report, workload):
            paths.append(path)
    return paths


def competitors(report: dict[str, Any], workload: str) -> dict[tuple[int, ...], list[Result]]:
    """The results of a workload by size, without the machine's peaks."""
    found: dict[tuple[int, ...], list[Result]] = {}
    for one in report["results"]:
        if one["workload"] == workload and one["competitor"] not in PEAKS:
            found.setdefault(tuple(one["size"]), []).append(one)
    return found


def is_step(name: str) -> bool:
    return name not in LIBRARIES and name != TUNED


def draw_roofline(path: Path, report: dict[str, Any], workload: str) -> bool:
    """Every competitor at every size under the measured roofs, and below it the same as shares of
    what limits each size; return whether there was anything to draw."""
    columns = {
        size: results
        for size, results in competitors(report, workload).items()
        if results[0].get("intensity")
    }
    peaks = report["peaks"]
    if not columns or "fma_gflops" not in peaks or bandwidth(peaks) is None:
        return False
    columns = dict(sorted(columns.items(), key=lambda item: item[1][0]["intensity"]))
    steps = _names_in_order(columns.values(), is_step)
    others = _names_in_order(columns.values(), lambda name: not is_step(name))
    styles = {**_ladder_styles(steps), **{name: _style(name) for name in others}}
    machine = report["machine"]
    figure, (above, below) = picture.blank(10.5, 9.2, nrows=2, height_ratios=(1.5, 1))
    _draw_columns(above, columns, peaks, styles)
    _draw_shares(below, columns, [*steps, *others], styles)
    for axis in (above, below):
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    below.legend(
        handles=[_handle(name, styles) for name in [*reversed(steps), *others]],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=9,
        labelspacing=0.55,
    )
    figure.suptitle(
        f"{workload}: every variant under this machine's measured roofs\n"
        f"{machine['cpu']} ({machine['llvm_cpu']}), {machine['threads']} threads",
        fontsize=11.5,
    )
    picture.save(figure, path)
    return True


def _draw_columns(axis, columns, peaks: dict[str, Any], styles: dict[str, Any]) -> None:
    places = _side_by_side([results[0]["intensity"] for results in columns.values()])
    left, right, bottom, top = _limits(places, columns.values(), peaks)
    axis.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    axis.grid(True, which="major", color="#ececec", linewidth=0.8)
    _draw_roofs(axis, peaks, places, left, right)
    for place, (size, results) in zip(places, columns.items(), strict=True):
        ladder = [one for one in results if is_step(one["competitor"])]
        axis.plot([place] * len(ladder), [one["gflops"] for one in ladder], color=PATH_COLOR)
        _draw_limit(axis, place, results)
        beside = place
        for one in results:
            if not is_step(one["competitor"]):
                beside *= 1.045
            _mark(axis, beside, one["gflops"], one["competitor"], styles, 0.85)
        axis.annotate(
            _size_text(size),
            (place, max(peaks["fma_gflops"], *(one["gflops"] for one in results))),
            (0, 10),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90,
            fontsize=8.5,
            color=TEXT_COLOR,
        )
    axis.set_xlabel("arithmetic intensity: FLOP per byte of compulsory traffic")
    axis.set_ylabel("GFLOP/s, median")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(lambda value, _: f"{value:g}")
        one.set_minor_formatter(lambda *_: "")


def bandwidth(peaks: dict[str, Any], suffix: str = "") -> float | None:
    """Bytes per second, in 1e9, of the roof's slope: a read sum's, or a triad's where there is
    none, as on a GPU; None where neither was measured."""
    return peaks.get(f"read_gbytes{suffix}", peaks.get(f"triad_gbytes{suffix}"))


def _limits(places, columns, peaks: dict[str, Any]) -> tuple[float, float, float, float]:
    """The ranges of both axes: every point, the ridge, and room for the sizes above the roof."""
    ridge = peaks["fma_gflops"] / bandwidth(peaks)
    slowest = min(one["gflops"] for results in columns for one in results)
    bottom = min(slowest / 1.6, peaks["fma_gflops"] / 100)
    highest = max(one["gflops"] for results in columns for one in results)
    highest = max(highest, peaks["fma_gflops"])
    top = highest * (highest / bottom) ** 0.34
    return min(*places, ridge / 4) / 3.2, max(*places, ridge) * 1.7, bottom, top


def _draw_roofs(axis, peaks: dict[str, Any], places, left: float, right: float) -> None:
    """The slope of the bandwidth and the FMA peak, at one thread and at all."""
    kinds = [("", ROOF, f"{peaks['threads']} threads"), ("_one_thread", ONE_THREAD, "1 thread")]
    word = "read"
    if gpu := peaks.get("gpu"):
        kinds, word = [("", ROOF, gpu)], "triad"
    elif peaks["threads"] == 1:
        kinds = kinds[1:]
    for suffix, color, threads in kinds:
        fma, read = peaks.get(f"fma_gflops{suffix}"), bandwidth(peaks, suffix)
        if fma is None or read is None:
            continue
        if suffix == "":  # all threads can do what one can; less is noise
            read = max(read, peaks.get("read_gbytes_one_thread", 0.0))
        ridge = fma / read
        axis.plot([left, ridge, right], [left * read, fma, fma], color=color, linewidth=1.8)
        axis.annotate(
            f"{show.rate(fma)} GFLOP/s\nFMA, {threads}",
            (right, fma),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=color,
            annotation_clip=False,
        )
        middle = _middle_of_widest_gap([left, *(one for one in places if one < ridge), ridge])
        below = suffix != ""
        axis.text(
            middle,
            middle * read * (0.9 if below else 1.11),
            f"{word}, {threads}: {show.rate(read)} GB/s",
            rotation=math.degrees(math.atan2(middle * read, middle)),
            rotation_mode="anchor",
            transform_rotates_text=True,
            ha="center",
            va="top" if below else "bottom",
            fontsize=8.5,
            color=color,
        )


def _middle_of_widest_gap(stops: Sequence[float]) -> float:
    """On a logarithmic axis."""
    gaps = [(high / low, math.sqrt(low * high)) for low, high in itertools.pairwise(stops)]
    return max(gaps)[1]


def _draw_limit(axis, place: float, results: Sequence[Result]) -> None:
    """A dash at what limits this size, as the same rounds had it: beyond the slope where part of
    what is read again and again stays in the caches."""
    limits = [one["gflops"] / share for one in results if (share := _share(one))]
    if not limits:
        return
    axis.plot(place, max(limits), marker="_", markersize=17, markeredgewidth=2.2, color=ROOF)
    rates = [one["bandwidth_roof_gbytes"] for one in results if "bandwidth_roof_gbytes" in one]
    if rates:
        axis.annotate(
            f"as many bytes,\nonly moved:\n{show.rate(rates[0])} GB/s",
            (place, max(limits)),
            (-13, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=ROOF,
        )


def _share(result: Result) -> float | None:
    """The share of what limits a result."""
    bandwidth = result["bound"] == "bandwidth"
    return result["share_of_bandwidth"] if bandwidth else result["share_of_peak"]


def _draw_shares(axis, columns, names: Sequence[str], styles: dict[str, Any]) -> None:
    """For each size its competitors from left to right, as shares of its limit."""
    step = 0.8 / max(1, len(names) - 1)
    offsets = {name: -0.4 + step * n for n, name in enumerate(names)}
    ticks = []
    for number, (size, results) in enumerate(columns.items()):
        shown = [one for one in results if _share(one)]
        ladder = [one for one in shown if is_step(one["competitor"])]
        axis.plot(
            [number + offsets[one["competitor"]] for one in ladder],
            [_share(one) for one in ladder],
            color=PATH_COLOR,
        )
        for one in shown:
            name = one["competitor"]
            _mark(axis, number + offsets[name], _share(one), name, styles, 1.0)
            if name == HAND:
                axis.annotate(
                    f"{_share(one):.0%}",
                    (number + offsets[name], max(1.0, _share(one))),  # clear of the limit's line
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    fontweight="bold",
                )
        limit = (
            "bandwidth" if any(one["bound"] == "bandwidth" for one in shown) else "float32 FMA peak"
        )
        ticks.append(f"{_size_text(size)}\n{limit}")
        if number % 2:
            axis.axvspan(number - 0.5, number + 0.5, color="#f5f5f5", linewidth=0)
    axis.axhline(1, color=ROOF, linewidth=1.8)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylim(0, max(1.18, 1.08 * axis.get_ylim()[1]))
    axis.set_xticks(range(len(columns)), ticks, fontsize=8.5)
    axis.tick_params(axis="x", length=0)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_ylabel("share of the limit named below")
    axis.grid(True, axis="y", color="#e0e0e0", linewidth=0.8)


def _mark(axis, x: float, y: float, name: str, styles: dict[str, Any], scale: float) -> None:
    marker, color = styles[name]
    axis.plot(
        x,
        y,
        marker=marker,
        markersize=(14 if name == HAND else 7.5) * scale,
        color=color,
        markeredgecolor="white",
        markeredgewidth=0.7,
        zorder=5 if name == HAND else 4,
    )


def _handle(name: str, styles: dict[str, Any]):
    from matplotlib.lines import Line2D

    marker, color = styles[name]
    return Line2D(
        [],
        [],
        linestyle="-" if is_step(name) else "",
        color=PATH_COLOR,
        marker=marker,
        markersize=13 if name == HAND else 7.5,
        markerfacecolor=color,
        markeredgecolor="white",
        label=name,
    )


def _size_text(size: Sequence[int]) -> str:
    if len(size) == 3 and len(set(size)) == 1:
        return f"${size[0]}^3$"
    return " x ".join(map(str, size))


def _style(name: str) -> tuple[str, str]:
    return TUNED_STYLE if name == TUNED else LIBRARIES[name]


def _names_in_order(columns, wanted) -> list[str]:
    names = (one["competitor"] for results in columns for one in results)
    return list(dict.fromkeys(name for name in names if wanted(name)))


def _ladder_styles(steps: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """From dark to bright along the ladder; "hand" is a black star."""
    from matplotlib import colormaps

    climbed = [name for name in steps if name != HAND]
    last = max(1, len(climbed) - 1)
    shades = [colormaps["viridis"](0.08 + 0.82 * n / last) for n in range(len(climbed))]
    styles = {name: ("o", shade) for name, shade in zip(climbed, shades, strict=True)}
    return {**styles, HAND: ("*", HAND_COLOR)}


def _side_by_side(true: Sequence[float]) -> list[float]:
    """Where to draw columns of these intensities, in ascending order: where they are, but at least
    a factor NEAREST apart; what must move, moves evenly to both sides."""
    logs, nearest = [math.log(one) for one in true], math.log(NEAREST)
    groups: list[list[float]] = []
    for one in logs:
        groups.append([one])
        while (
            len(groups) > 1
            and _span(groups[-2], nearest)[1] + nearest > _span(groups[-1], nearest)[0]
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = []
    for group in groups:
        first, _ = _span(group, nearest)
        places += [math.exp(first + n * nearest) for n in range(len(group))]
    return places


def _span(group: Sequence[float], nearest: float) -> tuple[float, float]:
    """The first and the last place of a group whose columns stand `nearest` apart."""
    center, half = sum(group) / len(group), (len(group) - 1) * nearest / 2
    return center - half, center + half


def draw_bars(path: Path, report: dict[str, Any], workload: str, size: Sequence[int]) -> None:
    """GFLOP/s of every competitor at one size as bars with their quartiles, below the FMA peak."""
    results = competitors(report, workload)[tuple(size)]
    names = [one["competitor"] for one in results]
    styles = {**_ladder_styles([name for name in names if is_step(name)]), TUNED: TUNED_STYLE}
    styles |= LIBRARIES
    peak = max(one["gflops"] / one["share_of_peak"] for one in results)
    figure, axis = picture.blank(8, 0.45 * len(results) + 1.4)
    for place, one in enumerate(results):
        work = one["gflops"] * one["median_s"]
        fast, slow = (work / seconds for seconds in one["quartiles_s"])
        _, color = styles[one["competitor"]]
        error = [[max(0.0, one["gflops"] - slow)], [max(0.0, fast - one["gflops"])]]
        axis.barh(place, one["gflops"], color=color, xerr=error, ecolor="#e67e22", capsize=3)
        axis.annotate(
            show.rate(one["gflops"]),
            (max(fast, one["gflops"]), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axis.axvline(peak, color=ROOF, linestyle="--", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.text(peak, -0.75, "measured FMA peak ", color=ROOF, ha="right", fontsize=9)
    axis.set_yticks(range(len(results)), names)
    axis.set_ylim(len(results) - 0.4, -1.1)
    axis.set_xlim(0, peak * 1.12)
    threads = report["machine"]["threads"]
    axis.set_xlabel(
        f"GFLOP/s, median with quartiles of {report['rounds']} rounds, {threads} threads"
    )
    axis.set_title(f"{workload} {' x '.join(map(str, size))}")
    picture.save(figure, path)
