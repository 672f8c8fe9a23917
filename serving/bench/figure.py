"""The picture of a measurement: latency against throughput, distributions, time by stage. Draws what its JSON says."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.bench import histogram
from serving.bench.captions import captions, short_labels
from serving.bench.server_side import STAGES

INCHES, DPI = (16, 9), 120
INK, PALE, GRID = "#1f2933", "#66737f", "#e3e8ec"
CASES = ("#2364aa", "#e4572e", "#2e933c", "#8b5fbf", "#c98a00", "#17869e")
OUTSIDE = "outside: HTTP, waiting for a core"
STAGE_COLOURS = {
    "queue": "#c9a227",
    "preprocess": "#7fb7be",
    "inference": "#2364aa",
    "postprocess": "#8b5fbf",
    OUTSIDE: "#c5ced6",
}
BINS = 70
BOXED: Any = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.9}
DRAWN = 5
"""Most distributions, and bars of stages."""


def pyplot() -> Any:
    """matplotlib, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as found

    return found


def picture(document: Mapping[str, Any]) -> bytes:
    """A PNG of 16 to 9."""
    plt = pyplot()
    style = {
        "font.family": "DejaVu Sans", "font.size": 12, "text.color": INK, "axes.labelcolor": INK,
        "axes.edgecolor": PALE, "xtick.color": PALE, "ytick.color": PALE,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True, "axes.titlesize": 13, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "legend.frameon": False,
    }  # fmt: skip
    with plt.rc_context(style):
        figure = plt.figure(figsize=INCHES, dpi=DPI)
        layout = figure.add_gridspec(
            2, 2, width_ratios=(1.15, 1), left=0.06, right=0.975, top=0.82, bottom=0.17, wspace=0.2, hspace=0.5
        )
        points = [point for point in document["points"] if point["requests"]]
        labels = short_labels(document["cases"])
        colours = _colours(plt, document, points)
        _curve(figure.add_subplot(layout[:, 0]), document, points, labels, colours)
        _distributions(figure.add_subplot(layout[0, 1]), points, labels, colours)
        _stack(figure.add_subplot(layout[1, 1]), points, labels)
        title, below, foot = captions(document)
        figure.text(0.06, 0.945, title, fontsize=21, fontweight="bold", va="center")
        figure.text(0.06, 0.9, below, fontsize=12, color=PALE, va="center")
        figure.text(0.06, 0.035, foot, fontsize=9.5, color=PALE, va="center")
        stream = io.BytesIO()
        figure.savefig(stream, format="png", facecolor="white")
        plt.close(figure)
    return stream.getvalue()


def _colours(plt: Any, document: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> list[Any]:
    """One a point: by case, or by load where there is one case."""
    labels = [case["label"] for case in document["cases"]]
    if len(labels) > 1:
        return [CASES[labels.index(point["case"]) % len(CASES)] for point in points]
    shades = plt.get_cmap("viridis")(np.linspace(0.08, 0.8, max(1, len(points))))
    order = np.argsort(np.argsort([point["throughput"] for point in points]))
    return [shades[i] for i in order]


def _curve(
    axes: Any, document: Mapping[str, Any], points: Any, labels: Mapping[str, str], colours: Sequence[Any]
) -> None:
    """p50 and p99 over throughput, a line for each case and kind of load."""
    rows = any(point["batch"] > 1 for point in points)
    quantity = "rows_per_s" if rows else "throughput"
    axes.set_title("Latency against throughput")
    axes.set_xlabel("rows / s" if rows else "requests / s")
    axes.set_ylabel("latency, ms (log)")
    axes.set_yscale("log")
    several = len(labels) > 1
    for number, label in enumerate(labels):
        for kind, mark in (("closed", "o"), ("open", "D")):
            own = sorted(
                (i for i, p in enumerate(points) if p["case"] == label and p["load"]["kind"] == kind),
                key=lambda i: points[i]["load"]["amount"],
            )
            if not own:
                continue
            x = [points[i][quantity] for i in own]
            line = CASES[number % len(CASES)] if several else PALE
            for percentile, dash in (("p99", "-"), ("p50", ":")):
                y = [points[i]["latency_ms"][percentile] for i in own]
                loop = "" if len({p["load"]["kind"] for p in points}) == 1 else f", {kind} loop"
                name = f"{labels[label]}, {percentile}{loop}" if several else f"{percentile}{loop}"
                axes.plot(x, y, dash, color=line, linewidth=2, zorder=2, label=name, marker=mark, markersize=0.1)
                for i, one, other in zip(own, x, y, strict=True):
                    filled = colours[i] if percentile == "p99" else "white"
                    axes.plot([one], [other], mark, color=colours[i], markerfacecolor=filled, markersize=9, zorder=3)
            for i, one in zip(own, x, strict=True):
                at = (one, points[i]["latency_ms"]["p99"])
                if not several or number == 0:
                    axes.annotate(
                        points[i]["load"]["label"],
                        at,
                        (0, 11),
                        textcoords="offset points",
                        ha="center",
                        fontsize=10.5,
                        color=INK,
                    )
    for search in document["searches"]:
        axes.axhline(search["target_p99_ms"], color="#c1121f", linewidth=1.2, linestyle="--")
        axes.annotate(
            f"target p99 {search['target_p99_ms']:g} ms",
            (0.01, search["target_p99_ms"]),
            xycoords=("axes fraction", "data"),
            va="bottom",
            color="#c1121f",
            fontsize=10,
        )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlim(left=0, right=1.12 * max([point[quantity] for point in points], default=1))
    axes.margins(y=0.15)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", fontsize=10.5)


def _distributions(
    axes: Any, points: Sequence[Mapping[str, Any]], labels: Mapping[str, str], colours: Sequence[Any]
) -> None:
    """How often which latency occurred, with p99 as a line."""
    axes.set_xlabel("latency, ms (log)")
    axes.set_ylabel("share of requests")
    axes.set_xscale("log")
    several = len(labels) > 1
    chosen = drawn(points, several)
    axes.set_title(f"Distribution of latencies{_at(points, chosen, several)} (dashed: p99)")
    tops = [points[i]["latency_ms"]["p99.9"] for i in chosen]
    every = [histogram.bins_ms(histogram.decoded(points[i]["histogram"])) for i in chosen]
    edges = np.geomspace(0.8 * min((v[0][0] for v in every), default=0.1), 1.5 * max(tops, default=1), BINS)
    for i, (values, counts) in zip(chosen, every, strict=True):
        share, _ = np.histogram(values, edges, weights=np.asarray(counts, float) / sum(counts))
        name = labels[points[i]["case"]] if several else points[i]["load"]["label"]
        axes.stairs(share, edges, color=colours[i], fill=True, alpha=0.25)
        axes.stairs(share, edges, color=colours[i], linewidth=1.6, label=name)
        axes.axvline(points[i]["latency_ms"]["p99"], color=colours[i], linewidth=1.2, linestyle="--")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    if chosen and not several:  # the colours of cases are in the legend of the first panel
        axes.legend(loc="upper center", fontsize=10, ncols=len(chosen), handlelength=1, columnspacing=1.2, **BOXED)


def _at(points: Sequence[Mapping[str, Any]], chosen: Sequence[int], several: bool) -> str:
    """Under which load, if several cases are drawn under one."""
    loads = {points[i]["load"]["label"] for i in chosen}
    return f", {loads.pop()}" if several and len(loads) == 1 else ""


def drawn(points: Sequence[Mapping[str, Any]], several: bool) -> list[int]:
    """Which points have their distribution drawn: of one case some; of several the largest load of each."""
    if not several:
        step = max(1, -(-len(points) // DRAWN))
        return list(range(len(points)))[::-1][::step][::-1]
    largest: dict[str, int] = {}
    for i, point in enumerate(points):
        largest[point["case"]] = i
    return list(largest.values())[:DRAWN]


def _stack(axes: Any, points: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> None:
    """Where the mean request spent its time."""
    several = len(labels) > 1
    chosen = drawn(points, several)
    axes.set_title(f"Where the time goes{_at(points, chosen, several)}: mean of a request")
    known = [points[i] for i in chosen if points[i]["server"]["stages_ms"]]
    if not known:
        axes.set_axis_off()
        axes.text(0, 0.5, "The server has no metrics of its stages.", color=PALE, transform=axes.transAxes)
        return
    at = np.arange(len(known))[::-1]
    left = np.zeros(len(known))
    parts = [stages(point) for point in known]
    total = max(sum(part.values()) for part in parts)
    for stage, colour in STAGE_COLOURS.items():
        widths = np.array([part.get(stage, 0.0) for part in parts])
        if widths.any():
            axes.barh(at, widths, left=left, height=0.62, color=colour, label=stage, edgecolor="white")
            for y, start, width in zip(at, left, widths, strict=True):
                if width > 0.07 * total:
                    dark = stage in ("inference", "postprocess")
                    axes.text(
                        start + width / 2,
                        y,
                        f"{width:.3g}",
                        ha="center",
                        va="center",
                        fontsize=10,
                        color="white" if dark else INK,
                    )
            left += widths
    names = [point["load"]["label"] for point in known]
    if several:
        names = [_folded(labels[point["case"]]) for point in known]
    axes.set_yticks(at, names, color=INK, fontsize=10 if several else 10.5)
    axes.set_xlabel("ms")
    axes.grid(axis="y", visible=False)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.45, -0.45),
        ncols=len(STAGE_COLOURS),
        fontsize=10,
        handlelength=1,
        columnspacing=1.1,
    )


def _folded(label: str) -> str:
    """In two lines, if it is long."""
    if len(label) <= 14:
        return label
    middle = min(
        (i for i, c in enumerate(label) if c in " /:-"), key=lambda i: abs(i - len(label) // 2), default=len(label) // 2
    )
    return f"{label[: middle + 1]}\n{label[middle + 1 :]}"


def stages(point: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds by stage; what the client saw beyond the server's own is transport."""
    told = point["server"]["stages_ms"]
    found = {stage: told[stage] for stage in STAGES if stage in told}
    found[OUTSIDE] = max(0.0, (point["latency_ms"]["mean"] or 0.0) - sum(found.values()))
    return found
