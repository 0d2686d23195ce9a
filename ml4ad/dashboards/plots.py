"""Pictures for the screen, as plotly's JSON: plain dictionaries, sent as they are."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import lookup

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml4ad.pictures import COLOURS
from ml4ad.stack import Axis, Floats, HistogramStack

Figure = dict[str, Any]

#: Dark enough on white and light enough on black; told apart without colour by dash and width.
_DASHES = ("solid", "dash", "dot", "dashdot")
_MARGIN = {"l": 64, "r": 14, "t": 30, "b": 46}
_HEIGHT = 420


@dataclass(frozen=True)
class Shown:
    """One histogram with a name: values and errors per bin, ``(nx[, ny])``."""

    name: str
    axes: tuple[Axis, ...]
    values: Floats
    errors: Floats
    is_profile: bool = False

    @classmethod
    def of(cls, stack: HistogramStack, name: str) -> Shown:
        """All lumisections of a stack together; of three axes the projection to two."""
        if len(stack.axes) == 3:
            stack = stack.project("x", "y")
        total = stack.grouped([stack.ls_numbers]) if len(stack) else stack
        if not len(total):
            raise ValueError(f"{stack.me}, run {stack.run_number}: no lumisection to show")
        values = np.asarray(total.values()[0], dtype=np.float64)
        errors = np.sqrt(np.maximum(total.variances()[0], 0))
        return cls(name, stack.axes, values, errors, stack.is_profile)

    def scaled(self, factor: float) -> Shown:
        """The same, times a factor; a profile's means have no scale."""
        if self.is_profile:
            return self
        return Shown(self.name, self.axes, self.values * factor, self.errors * factor)

    @property
    def total(self) -> float:
        """Sum of all bins."""
        return float(np.nansum(self.values))


def packed(array: ArrayLike, dtype: str = "f8") -> dict[str, str]:
    """An array as plotly.js takes it without parsing numbers."""
    values = np.ascontiguousarray(np.asarray(array), dtype=f"<{dtype}")
    out = {"dtype": dtype, "bdata": base64.b64encode(values.tobytes()).decode()}
    if values.ndim == 2:
        out["shape"] = f"{values.shape[0]}, {values.shape[1]}"
    return out


def text_of(root_text: str) -> str:
    """Plotly's text for an axis title in ROOT's TLatex: Greek letters, sub- and superscripts.

    >>> text_of("#Delta#phi(#mu, E_{T}) [rad]")
    'Δφ(μ, E<sub>T</sub>) [rad]'
    """
    plain = root_text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    greek = re.sub(r"#([A-Za-z]+)", lambda m: _letter(m[1]) or m[0], plain)
    lowered = re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", greek)
    return re.sub(r"\^\{([^{}]*)\}", r"<sup>\1</sup>", lowered)


def _letter(name: str) -> str:
    """Greek letter of that name, "" for any other word."""
    spelled = name.upper().replace("LAMBDA", "LAMDA")
    try:
        return lookup(f"GREEK {'SMALL' if name.islower() else 'CAPITAL'} LETTER {spelled}")
    except KeyError:
        return ""


def axis_of(axis: Axis, which: str) -> Figure:
    """Plotly's axis for one of a histogram, titled and labelled from the file."""
    low, high = float(axis.edges[0]), float(axis.edges[-1])
    title = text_of(axis.title) or f"{which} (untitled in the file)"
    out: Figure = {"title": {"text": title}, "range": [low, high], "automargin": True}
    if any(axis.labels):
        step = -(-axis.n_bins // 40)
        shown = [i for i in range(0, axis.n_bins, step) if axis.labels[i]]
        out["tickvals"] = axis.centers[shown].tolist()
        out["ticktext"] = [_short(axis.labels[i], 24) for i in shown]
        if which == "x":
            out["tickangle"] = -45
    return out


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def histograms(
    shown: Sequence[Shown],
    *,
    reference: Shown | None = None,
    ratio: bool = False,
    log: bool = False,
    unit: str = "Entries",
    height: int = _HEIGHT,
) -> Figure:
    """One-dimensional histograms over each other, below them each over the reference.

    Raises ValueError if there is none, or their binning differs.
    """
    every = [*([reference] if reference is not None else []), *shown]
    if not every:
        raise ValueError("no histogram to show")
    axis = every[0].axes[0]
    for one in every:
        if len(one.axes) != 1 or not one.axes[0].same_binning(axis):
            raise ValueError(
                f"{one.name} has other bins than {every[0].name}, and cannot be laid over it"
            )
    below = ratio and reference is not None
    data: list[Figure] = []
    if reference is not None:
        data += _steps(reference, "#8a9099", "solid", fill=True)
    for i, one in enumerate(shown):
        colour, dash = COLOURS[i % len(COLOURS)], _DASHES[i // len(COLOURS) % len(_DASHES)]
        data += _steps(one, colour, dash)
        if below and reference is not None:
            data.append(_quotient(one, reference, colour))
    wide = "" if axis.variable or axis.labels else f" / {axis.widths[0]:.4g}"
    x = axis_of(axis, "x")
    layout: Figure = {
        "height": height,
        "margin": _MARGIN,
        "uirevision": f"{axis!r} {log} {unit}",
        "showlegend": len(every) > 1,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "hovermode": "x",
        "xaxis": x | ({"anchor": "y2"} if below else {}),
        "yaxis": {
            "title": {"text": unit + ("" if every[0].is_profile else wide)},
            "type": "log" if log else "linear",
            "rangemode": "normal" if log or every[0].is_profile else "tozero",
            "domain": [0.32, 1] if below else [0, 1],
            "exponentformat": "power",
            "automargin": True,
        },
    }
    if below and reference is not None:
        layout["yaxis2"] = {
            "title": {"text": "over<br>reference"},
            "domain": [0, 0.26],
            "range": [0, 2],
            "automargin": True,
        }
        layout["shapes"] = [_level(1.0, "y2")]
    return {"data": data, "layout": layout}


def _steps(one: Shown, colour: str, dash: str, *, fill: bool = False) -> list[Figure]:
    """Points with errors in the middle of the bins, and steps from edge to edge."""
    axis = one.axes[0]
    points: Figure = {
        "type": "scatter",
        "mode": "markers",
        "name": one.name,
        "x": packed(axis.centers),
        "y": packed(one.values),
        "marker": {"color": colour, "size": 5 if one.is_profile else 1},
        "showlegend": one.is_profile,
        "legendgroup": one.name,
        "hovertemplate": "%{y:.5g}<extra>%{fullData.name}</extra>",
    }
    if one.is_profile or (axis.n_bins <= 200 and not fill):
        points["error_y"] = {"type": "data", "array": packed(one.errors)} | {
            "thickness": 0.8,
            "width": 0,
            "color": colour,
        }
    if one.is_profile:
        return [points]
    steps: Figure = {
        "type": "scatter",
        "mode": "lines",
        "name": one.name,
        "legendgroup": one.name,
        "x": packed(axis.edges),
        "y": packed(np.append(one.values, one.values[-1])),
        "line": {"color": colour, "width": 1.8, "dash": dash, "shape": "hv"},
        "hoverinfo": "skip",
    }
    if fill:
        steps |= {"fill": "tozeroy", "fillcolor": "rgba(138,144,153,0.25)"}
    return [steps, points]


def _quotient(one: Shown, reference: Shown, colour: str) -> Figure:
    with np.errstate(divide="ignore", invalid="ignore"):
        over = one.values / np.where(reference.values == 0, np.nan, reference.values)
        errors = one.errors / np.abs(np.where(reference.values == 0, np.nan, reference.values))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{one.name} over reference",
        "showlegend": False,
        "x": packed(one.axes[0].centers),
        "y": packed(over),
        "error_y": {"type": "data", "array": packed(errors), "thickness": 0.8, "width": 0},
        "marker": {"color": colour, "size": 4},
        "yaxis": "y2",
        "hovertemplate": "%{y:.4g}<extra></extra>",
    }


def _level(at: float, axis: str) -> Figure:
    line = {"color": "#8a9099", "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": at, "y1": at} | {
        "line": line
    }


def maps(
    shown: Sequence[Shown],
    *,
    log: bool = False,
    unit: str = "Entries",
    height: int = _HEIGHT,
    signed: Sequence[int] = (),
) -> Figure:
    """Two-dimensional histograms side by side; those numbered in ``signed`` around zero.

    Bins without entries stay blank. Raises ValueError if there is none, or one has one axis.
    """
    if not shown:
        raise ValueError("no histogram to show")
    gap = 0.09
    width = (1 - gap * (len(shown) - 1)) / len(shown)
    data: list[Figure] = []
    layout: Figure = {"height": height, "margin": _MARGIN | {"r": 60}, "annotations": []}
    layout["uirevision"] = f"{shown[0].axes!r} {len(shown)}"
    # What stands side by side is compared: one scale for all.
    most = max(
        (float(np.nanmax(one.values, initial=0)) for i, one in enumerate(shown) if i not in signed),
        default=0.0,
    )
    for i, one in enumerate(shown):
        if len(one.axes) != 2:
            raise ValueError(f"{one.name} has {len(one.axes)} axis, want two: show it by itself")
        left = i * (width + gap)
        suffix = "" if i == 0 else str(i + 1)
        data.append(_heat(one, suffix, left + width, log and i not in signed, unit, i in signed))
        if i not in signed and len(shown) > 1 and most > 0 and not (log or one.is_profile):
            data[-1] |= {"zmin": 0, "zmax": most}
        layout[f"xaxis{suffix}"] = axis_of(one.axes[0], "x") | {
            "domain": [left, left + width],
            "anchor": f"y{suffix}",
        }
        layout[f"yaxis{suffix}"] = axis_of(one.axes[1], "y") | {"anchor": f"x{suffix}"}
        layout["annotations"].append(
            {
                "text": one.name,
                "x": left,
                "y": 1,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
    return {"data": data, "layout": layout}


def _heat(one: Shown, suffix: str, right: float, log: bool, unit: str, signed: bool) -> Figure:
    values = one.values.copy()
    if not signed:
        values[values == 0] = np.nan
    title = unit
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log10(np.where(values > 0, values, np.nan))
        title = f"log<sub>10</sub> {unit.lower()}"
    trace: Figure = {
        "type": "heatmap",
        "name": one.name,
        "x": packed(one.axes[0].edges),
        "y": packed(one.axes[1].edges),
        "z": packed(values.T, "f4"),
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "colorscale": "Viridis",
        "hoverongaps": False,
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 10, "x": right}
        | {"xpad": 2, "len": 1},
        "hovertemplate": "x %{x}<br>y %{y}<br>%{z:.5g}<extra></extra>",
    }
    if signed:
        most = float(np.nanmax(np.abs(values), initial=1.0))
        trace |= {"colorscale": "RdBu", "reversescale": True, "zmin": -most, "zmax": most}
    return trace


def ls_map(stack: HistogramStack, *, by_area: bool, log: bool = False) -> Figure:
    """All lumisections of a one-dimensional stack: lumisection across, bins upwards.

    Raises ValueError for another number of axes, or no lumisection.
    """
    if len(stack.axes) != 1 or not len(stack):
        raise ValueError(
            f"{stack.me} has {len(stack.axes)} axes and {len(stack)} lumisections here: "
            "the map of lumisections wants one axis, and some"
        )
    first, last = int(stack.ls_numbers[0]), int(stack.ls_numbers[-1])
    values = np.full((last - first + 1, stack.axes[0].n_bins), np.nan)
    rows = stack.values().astype(np.float64)
    if by_area and not stack.is_profile:
        sums = rows.sum(axis=1, keepdims=True)
        rows = np.divide(rows, sums, out=np.full_like(rows, np.nan), where=sums > 0)
    values[stack.ls_numbers - first] = rows
    unit = "Mean" if stack.is_profile else "Fraction" if by_area else "Entries"
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(values > 0, np.log10(values), np.nan)
        unit = f"log<sub>10</sub> {unit.lower()}"
    trace = {
        "type": "heatmap",
        "x": packed(np.arange(first, last + 1), "i4"),
        "y": packed(stack.axes[0].edges),
        "z": packed(values.T, "f4"),
        "colorscale": "Viridis",
        "hoverongaps": False,
        "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 12},
        "hovertemplate": "LS %{x}<br>%{y}<br>%{z:.5g}<extra></extra>",
    }
    layout = {
        "height": _HEIGHT,
        "margin": _MARGIN,
        "uirevision": f"{stack.me} {stack.run_number}",
        "xaxis": {"title": {"text": "Lumisection"}, "range": [first - 0.5, last + 0.5]},
        "yaxis": axis_of(stack.axes[0], "y"),
    }
    return {"data": [trace], "layout": layout}


def trends(
    series: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    *,
    unit: str,
    beside: tuple[str, NDArray[Any], NDArray[Any]] | None = None,
    mark: tuple[float, float] | None = None,
    height: int = _HEIGHT,
) -> Figure:
    """Quantities over lumisections: name -> (numbers, values); ``beside`` with an axis of its own.

    ``mark`` shades lumisections from the first to the last.
    """
    data: list[Figure] = []
    for i, (name, (ls_numbers, values)) in enumerate(series.items()):
        data.append(
            {
                "type": "scattergl" if len(ls_numbers) > 3000 else "scatter",
                "mode": "markers",
                "name": name,
                "x": packed(ls_numbers, "i4"),
                "y": packed(values),
                "marker": {"color": COLOURS[i % len(COLOURS)], "size": 5, "symbol": i % 6},
                "hovertemplate": "LS %{x}: %{y:.5g}<extra>%{fullData.name}</extra>",
            }
        )
    layout: Figure = {
        "height": height,
        "margin": _MARGIN | ({"r": 64} if beside else {}),
        "uirevision": " ".join(series) + unit,
        "showlegend": len(series) > 1 or beside is not None,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": "Lumisection"}},
        "yaxis": {"title": {"text": text_of(unit)}, "automargin": True},
    }
    if beside is not None:
        name, ls_numbers, values = beside
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": packed(ls_numbers, "i4"),
                "y": packed(values),
                "line": {"color": "#8a9099", "width": 1.5, "dash": "dot"},
                "yaxis": "y2",
            }
        )
        layout["yaxis2"] = {"title": {"text": name}, "overlaying": "y", "side": "right"} | {
            "showgrid": False
        }
    if mark is not None:
        layout["shapes"] = [
            {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "x0": mark[0] - 0.5,
                "x1": mark[1] + 0.5,
                "line": {"width": 0},
                "fillcolor": "rgba(228,37,54,0.15)",
                "layer": "below",
            }
        ]
    return {"data": data, "layout": layout}


def pull(observed: Shown, expected: Shown, n_references: int) -> Shown:
    """Difference in units of its error, bin by bin; 0 where both are empty.

    The error of counts is that of the expectation, and of the ``n_references`` lumisections that it
    comes from; of a profile the observed mean's.
    """
    if observed.is_profile:
        errors = observed.errors
    else:
        errors = np.sqrt(np.maximum(expected.values, 1) * (1 + 1 / max(n_references, 1)))
    difference = observed.values - expected.values
    safe = np.where((errors > 0) & np.isfinite(errors), errors, np.inf)
    return Shown("difference / error", observed.axes, np.nan_to_num(difference / safe), safe * 0)


def compared(
    observed: Shown,
    expected: Shown,
    *,
    n_references: int,
    box: Sequence[tuple[float, float]] = (),
    height: int = 300,
) -> Figure:
    """A histogram with what was expected, and the difference; ``box`` (a range per axis) marked."""
    off = pull(observed, expected, n_references)
    line = {"color": "#e42536", "width": 2}
    if len(observed.axes) == 2:
        figure = maps([observed, expected, off], height=height, signed=[2])
        marks = [
            {"type": "rect", "xref": f"x{suffix}", "yref": f"y{suffix}", "line": line}
            | {"x0": box[0][0], "x1": box[0][1], "y0": box[1][0], "y1": box[1][1]}
            for suffix in ("", "2", "3")
            if len(box) == 2
        ]
        figure["layout"]["shapes"] = marks
        return figure
    figure = histograms([observed], reference=expected, height=height)
    axis = observed.axes[0]
    figure["data"].append(
        {
            "type": "bar",
            "name": off.name,
            "showlegend": False,
            "x": packed(axis.centers),
            "width": packed(axis.widths),
            "y": packed(off.values),
            "yaxis": "y2",
            "marker": {"color": "#5790fc", "line": {"width": 0}},
            "hovertemplate": "%{y:.3g}<extra></extra>",
        }
    )
    layout = figure["layout"]
    layout["xaxis"]["anchor"] = "y2"
    layout["yaxis"]["domain"] = [0.38, 1]
    layout["yaxis2"] = {"title": {"text": "difference<br>/ error"}, "domain": [0, 0.3]} | {
        "automargin": True
    }
    layout["shapes"] = [
        {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "x0": low, "x1": high}
        | {"fillcolor": "rgba(228,37,54,0.15)", "line": line | {"width": 1}, "layer": "below"}
        for low, high in box[:1]
    ]
    return figure


#: Steps of the alarm map's colours in one power of ten of p.
STEPS = 4
_MOST_POWERS = 12


#: Pixels of the alarm map that are not its rows, and most of it.
_AROUND, _MOST_HIGH = 86, 600
#: Pixels between a frame and what it is around, of rows that are as thin as a line.
_APART = 4
#: Dark on the map's light colours, whatever the page's are.
_FRAME = "#1b1f24"
_ALARM = "#b3122a"


def _map_height(n_rows: int) -> int:
    return int(min(_MOST_HIGH, max(190, 9 * n_rows + _AROUND + 4)))


def _padding(n_rows: int) -> float:
    """Rows that a frame is away from the row that it is around."""
    pixels = (_map_height(n_rows) - _AROUND) / n_rows
    return max(0.0, (_APART - pixels / 2) / pixels)


def cell_mark(row: int, first_ls: int, last_ls: int, n_rows: int) -> Figure:
    """A frame around lumisections of one of the rows of the alarm map, which stay in sight."""
    off = 0.5 + _padding(n_rows)
    return {"type": "rect", "xref": "x", "yref": "y", "x0": first_ls - 0.5, "x1": last_ls + 0.5} | {
        "y0": row - off,
        "y1": row + off,
        "line": {"color": _FRAME, "width": 2},
    }


def _alarm_lines(alarms: NDArray[np.bool_], first_ls: int) -> Figure:
    """Lines over lumisections that alarm, ``(n_mes, n_ls)``: as thick where rows are thin."""
    padded = np.zeros((alarms.shape[0], alarms.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = alarms
    steps = np.diff(padded, axis=1)
    rows, begins = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    x = np.stack([begins - 0.5, ends - 0.5, np.full(len(rows), np.nan)], axis=1) + first_ls
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": packed(x.ravel(), "f4"),
        "y": packed(np.repeat(rows, 3), "i4"),
        "line": {"color": _ALARM, "width": 3},
        "marker": {"color": _ALARM, "size": 4, "symbol": "square"},
        "hoverinfo": "skip",
    }


def alarm_map(
    mes: Sequence[str],
    ls_numbers: NDArray[Any],
    log_p: Floats,
    codes: NDArray[np.uint8],
    words: Mapping[int, str],
    log_alpha: float,
) -> Figure:
    """Elements down, lumisections across; colour is significance, grey is not assessed.

    Elements of a subsystem (the first folder) stand together, with a line between subsystems. Where
    rows are thinner than the eye sees, alarms are drawn over them.

    ``log_p`` (natural) and ``codes`` are ``(n_mes, n_ls)``; ``words`` says what codes mean. What
    alarms stands out by lightness, not by hue alone.
    """
    powers = np.clip(-np.nan_to_num(log_p) / np.log(10), 0, _MOST_POWERS)
    cells = np.where(codes == 0, np.rint(powers * STEPS), -codes.astype(np.int16))
    first, last = int(ls_numbers[0]), int(ls_numbers[-1])
    across = np.full((len(mes), last - first + 1), -1, dtype=np.int8)
    across[:, ls_numbers - first] = cells
    most, limit = _MOST_POWERS * STEPS, min(-log_alpha / np.log(10), _MOST_POWERS - 1) * STEPS
    low = -max(words, default=1)
    scale = [
        *((low, "#9aa1aa"), (-0.5, "#9aa1aa"), (-0.5, "#dfeaf7"), (limit * 0.6, "#cfe0f3")),
        *((limit, "#9fc3e8"), (limit, "#f89c20"), ((limit + most) / 2, "#c4302b")),
        (most, "#4a0d3a"),
    ]
    ticks = [low / 2, limit / 2, limit, most]
    texts = [
        "not assessed",
        "quiet",
        f"alarm: 10<sup>{-limit / STEPS:.1f}</sup>",
        f"10<sup>-{_MOST_POWERS}</sup>",
    ]
    trace: Figure = {
        "type": "heatmap",
        "x": packed(np.arange(first, last + 1), "i4"),
        "z": packed(across, "i1"),
        "zmin": low,
        "zmax": most,
        "colorscale": [[(at - low) / (most - low), colour] for at, colour in scale],
        "colorbar": {"thickness": 10, "tickvals": ticks, "ticktext": texts, "len": 1}
        | {
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
            "x": 0.5,
            "tickangle": 0,
            "ypad": 2,
        },
        "hoverinfo": "none",
        "ygap": 1 if len(mes) <= 60 else 0,
    }
    data = [trace]
    off = _padding(len(mes))
    edge = 1.3 * off  # a frame around the first row is seen whole
    if off:
        data.append(_alarm_lines(across >= limit, first))
    subsystems = [me.split("/", 1)[0] for me in mes]
    borders = [i for i in range(1, len(mes)) if subsystems[i] != subsystems[i - 1]]
    layout: Figure = {
        "height": _map_height(len(mes)),
        "margin": {"l": 200, "r": 12, "t": 46, "b": 40},
        "uirevision": f"{len(mes)} {mes[0]}",
        "xaxis": {"title": {"text": "Lumisection"}, "range": [first - 0.5, last + 0.5]},
        "yaxis": {
            "range": [len(mes) - 0.5 + edge, -0.5 - edge],
            "tickfont": {"size": 10},
            "showgrid": False,
        },
        "shapes": [
            {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1}
            | {"y0": at - 0.5, "y1": at - 0.5, "line": {"color": "#7b838d", "width": 1}}
            for at in borders
        ],
        # The browser names as many rows as there is room for, and those that are zoomed to.
        "meta": {"words": {str(code): text for code, text in words.items()}, "rows": list(mes)},
        "showlegend": False,
    }
    return {"data": data, "layout": layout}
