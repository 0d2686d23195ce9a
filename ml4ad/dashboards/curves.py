"""Pictures of how files come in, and of what models do; as `plots`, plotly's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ml4ad.dashboards.plots import Figure, packed
from ml4ad.pictures import COLOURS
from ml4ad.stack import Floats

_MARGIN = {"l": 64, "r": 14, "t": 30, "b": 46}
_GREY = "#8a9099"
_ALARM = "#e42536"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_LEGEND = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
#: No power of ten of p is told apart beyond.
_MOST_POWERS = 16.0


def hourly(begins: Sequence[str], values: ArrayLike, *, unit: str, height: int = 190) -> Figure:
    """One bar per hour, which begins at ``begins`` (ISO 8601, UTC)."""
    bars: Figure = {
        "type": "bar",
        "x": list(begins),
        "xperiod": 3_600_000,
        "xperiodalignment": "middle",
        "y": packed(values),
        "marker": {"color": COLOURS[0]},
        "hovertemplate": "%{x|%d %b %H:00}: %{y:.4g}<extra></extra>",
    }
    layout: Figure = {
        "height": height,
        "margin": _MARGIN | {"t": 8},
        "xaxis": {"title": {"text": "Hour (UTC)"}, "type": "date", "tickformat": "%H:00"},
        "yaxis": {"title": {"text": unit}, "rangemode": "tozero", "automargin": True},
        "bargap": 0.15,
    }
    return {"data": [bars], "layout": layout}


def significances(log_p: Floats, log_alpha: float, *, height: int = 330) -> Figure:
    """How often p is how small, of scored pairs of element and lumisection, and by chance.

    ``log_p`` (natural) may hold NaN; on good lumisections bars follow the grey steps, and few are
    right of the red line, where the model alarms.
    """
    powers = np.minimum(-log_p[np.isfinite(log_p)] / np.log(10), _MOST_POWERS)
    edges = np.linspace(0, _MOST_POWERS, 65)
    counts, _ = np.histogram(powers, edges)
    expected = len(powers) * -np.diff(10.0**-edges)
    data: list[Figure] = [
        {
            "type": "bar",
            "name": "observed",
            "x": packed((edges[:-1] + edges[1:]) / 2),
            "width": packed(np.diff(edges)),
            "y": packed(counts),
            "marker": {"color": COLOURS[0], "line": {"width": 0}},
            "hovertemplate": "%{y} at %{x:.2f}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "by chance, if all is good",
            "x": packed(edges),
            "y": packed(np.append(expected, expected[-1])),
            "line": {"color": _GREY, "width": 2, "shape": "hv"},
            "hoverinfo": "skip",
        },
    ]
    at = -log_alpha / np.log(10)
    most = np.log10(max(counts.max(initial=1), 1)) + 0.3
    last = max(float(powers.max(initial=0)), at) + 1
    layout = {
        "height": height,
        "margin": _MARGIN,
        "legend": _LEGEND,
        "bargap": 0,
        "xaxis": {"title": {"text": "-log<sub>10</sub> p"}, "range": [0, last]},
        "yaxis": {"title": {"text": "Pairs of element and LS / 0.25"}, "type": "log"}
        | {"range": [-0.5, most], "automargin": True, "exponentformat": "power"},
        "shapes": [_upright(at)],
        "annotations": [_beside(at, "alarm")],
    }
    return {"data": data, "layout": layout}


def scores(values: Floats, threshold: float | None, *, height: int = 330) -> Figure:
    """Distribution of the scores of one element; the score at which it alarms is marked."""
    kept = values[np.isfinite(values)]
    ends = [float(kept.min(initial=0)), float(kept.max(initial=1))]
    if threshold is not None and np.isfinite(threshold):
        ends = [min(ends[0], threshold), max(ends[1], threshold)]
    counts, edges = np.histogram(kept, np.linspace(ends[0], ends[1] + 1e-9, 61))
    bars = {
        "type": "bar",
        "x": packed((edges[:-1] + edges[1:]) / 2),
        "width": packed(np.diff(edges)),
        "y": packed(counts),
        "marker": {"color": COLOURS[0], "line": {"width": 0}},
        "hovertemplate": "%{y} at %{x:.4g}<extra></extra>",
    }
    layout: Figure = {
        "height": height,
        "margin": _MARGIN,
        "bargap": 0,
        "xaxis": {"title": {"text": "Score (no unit; high is strange)"}},
        "yaxis": {"title": {"text": "Lumisections"}, "type": "log", "automargin": True}
        | {"exponentformat": "power"},
    }
    if threshold is not None and np.isfinite(threshold):
        layout["shapes"], layout["annotations"] = (
            [_upright(threshold)],
            [_beside(threshold, "alarm")],
        )
    return {"data": [bars], "layout": layout}


def roc(curves: Mapping[str, Sequence[Sequence[float]]], *, height: int = 330) -> Figure:
    """Share of faults that one lumisection gives away, against that of good ones taken for bad."""
    data = []
    for i, (name, (false, true)) in enumerate(curves.items()):
        line = {"color": COLOURS[i % len(COLOURS)], "width": 2, "shape": "hv"}
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                # A logarithmic axis has no place for zero.
                "x": packed(np.maximum(np.asarray(false, dtype=np.float64), 1e-5)),
                "y": packed(true),
                "line": line | {"dash": _DASHES[i % len(_DASHES)]},
                "hovertemplate": "false %{x:.3g}: true %{y:.3f}<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        "height": height,
        "margin": _MARGIN,
        "legend": _LEGEND,
        "showlegend": True,
        "xaxis": {"title": {"text": "False positive rate of single lumisections"}, "type": "log"}
        | {"exponentformat": "power", "range": [-4, 0]},
        "yaxis": {"title": {"text": "True positive rate"}, "range": [-0.02, 1.02]},
    }
    return {"data": data, "layout": layout}


def found_within(faults: Mapping[str, Mapping[str, float]], *, height: int = 330) -> Figure:
    """Share of the faults, by kind, that are found within 1, 3 and 6 lumisections."""
    names = list(faults)
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": f"within {n} LS",
            "y": names,
            "x": packed([faults[name][f"found_in_{n}"] for name in names]),
            # Told apart by lightness, too.
            "marker": {"color": colour},
            "hovertemplate": "%{x:.0%}<extra>%{fullData.name}</extra>",
        }
        for n, colour in ((1, "#1f5fbf"), (3, "#6fa3e6"), (6, "#c3daf7"))
    ]
    layout = {
        "height": height,
        "margin": _MARGIN | {"l": 150},
        "legend": _LEGEND | {"traceorder": "normal"},
        "barmode": "group",
        "xaxis": {"title": {"text": "Share of faults found, at the rate of alarms as set"}}
        | {"range": [0, 1.02], "tickformat": ".0%"},
        "yaxis": {"autorange": "reversed", "automargin": True, "title": {"text": "Fault"}},
    }
    return {"data": data, "layout": layout}


def alarms_by_run(
    run_numbers: Sequence[int], nominal: ArrayLike, realised: ArrayLike, *, height: int = 300
) -> Figure:
    """Alarms of each run, beside those that chance alone would give."""
    names = [str(run) for run in run_numbers]
    data = [
        {
            "type": "bar",
            "name": "realised",
            "x": names,
            "y": packed(realised),
            "marker": {"color": COLOURS[0]},
            "hovertemplate": "%{y}<extra>realised</extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "nominal",
            "x": names,
            "y": packed(nominal),
            "marker": {"color": _ALARM, "symbol": "line-ew-open", "size": 18},
            "hovertemplate": "%{y:.3g}<extra>nominal</extra>",
        },
    ]
    layout = {
        "height": height,
        "margin": _MARGIN,
        "legend": _LEGEND,
        "xaxis": {"title": {"text": "Run"}, "type": "category"},
        "yaxis": {"title": {"text": "Alarms (pairs of element and LS)"}, "rangemode": "tozero"}
        | {"automargin": True},
    }
    return {"data": data, "layout": layout}


def against(
    names: tuple[str, str],
    log_p: tuple[Floats, Floats],
    log_alphas: tuple[float, float],
    ls_numbers: ArrayLike,
    *,
    height: int = 330,
) -> Figure:
    """One lumisection a point: how strange it is to one model, and to the other."""
    powers = [np.minimum(-own / np.log(10), _MOST_POWERS) for own in log_p]
    points: Figure = {
        "type": "scatter",
        "mode": "markers",
        "x": packed(powers[0]),
        "y": packed(powers[1]),
        "customdata": np.asarray(ls_numbers).tolist(),
        "marker": {"color": COLOURS[0], "size": 6, "opacity": 0.7},
        "hovertemplate": "LS %{customdata}: %{x:.2f}, %{y:.2f}<extra></extra>",
    }
    first, second = (-own / np.log(10) for own in log_alphas)
    line = {"color": _ALARM, "width": 1, "dash": "dash"}
    flat = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": second, "y1": second}
    layout: Figure = {
        "height": height,
        "margin": _MARGIN | {"t": 10},
        "xaxis": {"title": {"text": f"-log<sub>10</sub> p of {names[0]}"}},
        "yaxis": {"title": {"text": f"-log<sub>10</sub> p of {names[1]}"}, "automargin": True},
        "shapes": [_upright(first) | {"line": line}, flat | {"line": line}],
    }
    return {"data": [points], "layout": layout}


#: State of a lumisection -> colour; told apart by lightness, too.
_STATES = {"outside": "#e4e7eb", "not assessed": "#9aa1aa", "good": "#6fa3e6", "bad": "#7a0f2e"}


def certified(states: pd.DataFrame) -> Figure:
    """State of every lumisection, runs down; ``states`` as `verdict.Certificate` has them."""
    runs = sorted(states["run_number"].unique().tolist())
    first, last = int(states["ls_number"].min()), int(states["ls_number"].max())
    cells = np.full((len(runs), last - first + 1), np.nan)
    codes = states["state"].map({name: i for i, name in enumerate(_STATES)})
    at = np.searchsorted(runs, states["run_number"]), states["ls_number"] - first
    cells[at] = codes
    n = len(_STATES)
    scale = [[(i + k) / n, colour] for i, colour in enumerate(_STATES.values()) for k in (0, 1)]
    trace: Figure = {
        "type": "heatmap",
        "x": packed(np.arange(first, last + 1), "i4"),
        "y": [str(run) for run in runs],
        "z": packed(cells, "f4"),
        "zmin": -0.5,
        "zmax": n - 0.5,
        "colorscale": scale,
        "colorbar": {"tickvals": list(range(n)), "ticktext": list(_STATES), "thickness": 10},
        "hoverongaps": False,
        "hovertemplate": "run %{y}, LS %{x}<extra></extra>",
        "ygap": 2,
    }
    layout = {
        "height": int(min(420, 110 + 26 * len(runs))),
        "margin": _MARGIN | {"l": 80, "t": 8},
        "xaxis": {"title": {"text": "Lumisection"}},
        "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": "Run"}},
    }
    return {"data": [trace], "layout": layout}


def _upright(at: float) -> dict[str, Any]:
    line = {"color": _ALARM, "width": 1.5, "dash": "dash"}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": at, "x1": at, "line": line}


def _beside(at: float, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "x": at,
        "yref": "paper",
        "y": 1,
        "xanchor": "left",
        "showarrow": False,
    } | {"font": {"color": _ALARM}}
