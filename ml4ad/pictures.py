"""Figures: mplhep for paper and report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml4ad import trends
from ml4ad.stack import Axis, HistogramStack

if TYPE_CHECKING:
    import hist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that colour-blind people can tell apart, in the order of CMS's recommendation.
#: Source: M. Petroff, arXiv 2107.02270 (the six-colour cycle).
COLOURS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd")


def draw(
    what: HistogramStack | hist.Hist,
    ls_number: int | None = None,
    *,
    ax: Axes | None = None,
    label: str | None = None,
    log: bool = False,
    normalise: str | None = None,
    title: str | None = None,
) -> Figure:
    """Figure of one histogram in the CMS style, axes titled and labelled from the file.

    ``what`` is a ``hist.Hist``, or a stack: lumisection ``ls_number`` of it, or all together. One
    axis is drawn as steps with errors (a profile as points), two as a colour map, three as their
    x-y projection. ``normalise="area"`` divides by the sum. ``ax`` draws into existing axes instead
    of a new figure. Raises KeyError if the lumisection is not in the stack, ValueError for another
    normalisation.
    """
    if normalise not in (None, "area"):
        raise ValueError(f"normalise={normalise!r}, want None or 'area'")
    histogram, axes, heading = _one_histogram(what, ls_number)
    with _cms_style():
        target = ax if ax is not None else _figure().subplots()
        if len(axes) == 1:
            _steps(target, histogram, axes[0], label=label, normalise=normalise, log=log)
        else:
            _map(target, histogram, axes, normalise=normalise, log=log)
        _head(target, heading if title is None else title)
        return target.figure  # type: ignore[return-value]


def overlay(
    histograms: Mapping[str, HistogramStack | hist.Hist],
    *,
    normalise: str | None = "area",
    ratio: bool = True,
    log: bool = False,
    title: str | None = None,
) -> Figure:
    """Figure of several one-dimensional histograms over each other, the first being the reference.

    With ``ratio`` a lower panel shows each divided by the first. Raises ValueError if there is
    none, one has more than one axis, or their binning differs.
    """
    if not histograms:
        raise ValueError("no histogram to draw")
    items = {name: _one_histogram(one, None) for name, one in histograms.items()}
    first, axes, _ = next(iter(items.values()))
    for name, (_, other, _) in items.items():
        if len(other) != 1 or not other[0].same_binning(axes[0]):
            raise ValueError(f"{name}: {other}, want one axis with the binning {axes[0]!r}")
    with _cms_style():
        figure = _figure()
        if ratio:
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        else:
            upper, lower = figure.subplots(), None
        for i, (name, (histogram, _, _)) in enumerate(items.items()):
            colour = COLOURS[i % len(COLOURS)]
            _steps(
                upper, histogram, axes[0], label=name, normalise=normalise, log=log, colour=colour
            )
            if lower is not None and i:
                values, errors = _quotient(histogram, first, normalise)
                lower.errorbar(axes[0].centers, values, errors, fmt=".", color=colour)
        upper.legend(fontsize="small")
        if lower is not None:
            upper.set_xlabel("")
            lower.axhline(1, color=COLOURS[0], linewidth=1)
            lower.set_ylim(0, 2)
            lower.set_ylabel(f"over {next(iter(items))}", fontsize="x-small")
            _axis_texts(lower, axes[0], "x")
        heading = _common([own for _, _, own in items.values()])
        _head(upper, heading if title is None else title)
        return figure


def compare(
    seen: HistogramStack,
    reference: HistogramStack,
    *,
    place: Sequence[tuple[float, float]] | None = None,
    title: str | None = None,
) -> Figure:
    """Figure of all lumisections of ``seen``, what ``reference`` leads to expect, and the pulls.

    The reference is scaled to the seen entries (profiles are not); a pull is the difference over
    the square root of both variances. ``place`` marks a range of each axis. Raises ValueError if
    the binning differs, one of them has no lumisection, or there are more than two axes.
    """
    seen.check_compatible(reference)
    if not len(seen) or not len(reference) or len(seen.axes) > 2:
        raise ValueError(
            f"{seen.me}: {len(seen)} and {len(reference)} LS, {len(seen.axes)} axes; "
            "want some LS of each, and 1 or 2 axes"
        )
    observed, errors = _moments(seen.sum(), None)
    expected, expected_errors = _moments(reference.sum(), None)
    if not seen.is_profile and expected.sum():
        scale = observed.sum() / expected.sum()
        expected, expected_errors = expected * scale, expected_errors * scale
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = (observed - expected) / np.hypot(errors, expected_errors)
    draw_panels = _panels_of_maps if len(seen.axes) == 2 else _panels_of_steps
    with _cms_style():
        figure, first, last = draw_panels(seen, observed, expected, errors, pulls, place)
        _head(first, _heading(seen, None) if title is None else title, badge=last)
        return figure


def ls_map(stack: HistogramStack, *, normalise: bool = True, title: str | None = None) -> Figure:
    """Figure of all lumisections of a one-dimensional stack: lumisection across, bins upwards.

    Missing lumisections stay white. With ``normalise`` each lumisection sums to 1.
    Raises ValueError for another number of axes, or an empty stack.
    """
    if len(stack.axes) != 1 or not len(stack):
        raise ValueError(f"{stack.me}: {len(stack.axes)} axes, {len(stack)} LS; want 1 and some")
    values = trends.ls_map(stack, normalise=normalise)
    edges = np.append(values.index, values.index[-1] + 1) - 0.5
    with _cms_style():
        figure = _figure()
        ax = figure.subplots()
        mesh = ax.pcolormesh(edges, stack.axes[0].edges, values.to_numpy().T, cmap="viridis")
        unit = "Mean" if stack.is_profile else "Fraction of entries" if normalise else "Entries"
        figure.colorbar(mesh, ax=ax, label=f"{unit} per bin")
        ax.set_xlabel("Lumisection")
        _axis_texts(ax, stack.axes[0], "y")
        _head(ax, _heading(stack, None) if title is None else title)
        return figure


def trend(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str,
    title: str = "",
    from_zero: bool = False,
) -> Figure:
    """Figure of quantities over lumisections: name -> (lumisection numbers, values).

    ``from_zero`` begins the vertical axis at 0, as rates and counts are read.
    """
    with _cms_style():
        figure = _figure()
        ax = figure.subplots()
        for i, (name, (ls_numbers, values)) in enumerate(series.items()):
            ax.plot(ls_numbers, values, ".", color=COLOURS[i % len(COLOURS)], label=name)
        ax.set_xlabel("Lumisection")
        ax.set_ylabel(ylabel)
        if from_zero:
            ax.set_ylim(bottom=0)
        if len(series) > 1:
            figure.legend(fontsize="x-small", loc="outside lower center", ncols=4)
        _head(ax, title)
        return figure


def roc(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Figure:
    """Figure of true against false positive rates: a panel per name, a line per name within.

    Raises ValueError if there is no panel.
    """
    # Half of the lowest rate that any has stands for 0, which a logarithm has not.
    every = [
        np.asarray(false, dtype=np.float64)
        for lines in panels.values()
        for false, _ in lines.values()
    ]
    lowest = min((rates[rates > 0].min(initial=0.1) for rates in every), default=0.1) / 2
    with _cms_style():
        figure, cells = _panels(panels)
        for ax, (title, lines) in zip(cells, panels.items(), strict=False):
            for i, (name, (false, true)) in enumerate(lines.items()):
                x = np.maximum(np.asarray(false, dtype=np.float64), lowest)
                ax.plot(x, true, drawstyle="steps-post", label=name, **_line(i))
            ax.set_xscale("log")
            ax.set_xlim(lowest, 1)
            ax.set_ylim(-0.03, 1.03)
            _small(ax, title, "False positive rate", "Detected")
        _legend(figure, cells)
        return figure


def delays(panels: Mapping[str, Mapping[str, Sequence[float]]], *, n_ls: int = 20) -> Figure:
    """Figure of the share that is found within 1 to ``n_ls`` lumisections: panels as `roc` has.

    Each line is of delays in lumisections, infinite for what was never found. Raises ValueError if
    there is no panel.
    """
    passed = np.arange(1, n_ls + 1)
    with _cms_style():
        figure, cells = _panels(panels)
        for ax, (title, lines) in zip(cells, panels.items(), strict=False):
            for i, (name, own) in enumerate(lines.items()):
                share = (np.asarray(own)[:, None] <= passed).mean(axis=0)
                ax.plot(passed, share, drawstyle="steps-mid", label=name, **_line(i))
            ax.set_xlim(0.5, n_ls + 0.5)
            ax.set_ylim(-0.03, 1.03)
            _small(ax, title, "Lumisections since it began", "Found")
        _legend(figure, cells)
        return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Path of the picture that was written; the format follows from the ending (png, pdf, svg).

    Raises ValueError for an ending that matplotlib does not write, OSError if it cannot be written.
    """
    target = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if target.suffix[1:].lower() not in known:
        raise ValueError(f"{target}: ending {target.suffix!r}, want one of {', '.join(known)}")
    with _cms_style():
        figure.savefig(target, bbox_inches="tight")
    return target


# -- parts ---------------------------------------------------------------------------------------


def _cms_style() -> Any:
    import matplotlib as mpl
    import mplhep

    # A notebook draws after this context has ended: fonts are named, not looked up by family.
    style: dict[Any, Any] = {**mplhep.style.CMS}
    style |= {"font.family": "TeX Gyre Heros", "mathtext.fontset": "dejavusans"}
    return mpl.rc_context(style)


def _figure() -> Figure:
    # Not pyplot: it keeps every figure, and a pipeline draws thousands.
    from matplotlib.figure import Figure

    return Figure(figsize=(10, 8), dpi=100, layout="constrained")


def _panels(panels: Mapping[str, Any]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("nothing to draw: no panel")
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(16, 4 * rows + 0.7), dpi=70, layout="constrained")
    cells = figure.subplots(rows, 4, squeeze=False).ravel().tolist()
    for ax in cells[len(panels) :]:
        ax.set_axis_off()
    return figure, cells[: len(panels)]


def _line(i: int) -> dict[str, Any]:
    style = ("-", "--", ":")[i // len(COLOURS) % 3]
    # Lines that coincide are all seen: each is thinner than the one that it covers.
    width = max(1.5, 5 - 1.5 * i)
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": style, "linewidth": width}


def _small(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, fontsize=14, loc="left")
    ax.set_xlabel(x, fontsize=13, loc="center")
    ax.set_ylabel(y, fontsize=13, loc="center")
    ax.tick_params(labelsize=12)


def _legend(figure: Figure, cells: Sequence[Axes]) -> None:
    handles, names = cells[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6), fontsize=14)


def _one_histogram(
    what: HistogramStack | hist.Hist, ls_number: int | None
) -> tuple[Any, tuple[Axis, ...], str]:
    if isinstance(what, HistogramStack):
        histogram = what.sum() if ls_number is None else what[ls_number]
        return histogram, what.axes, _heading(what, ls_number)
    axes = []
    for i, axis in enumerate(what.axes):
        text, labels = getattr(axis, "label", ""), getattr(axis, "labels", ())
        axes.append(
            Axis(np.asarray(axis.edges, dtype=np.float64), title=text, name="xyz"[i], labels=labels)
        )
    return what, tuple(axes), what.label or what.name or ""


def _heading(stack: HistogramStack, ls_number: int | None) -> str:
    if ls_number is not None:
        where = f"LS {ls_number}"
    elif len(stack) == 1:
        where = "whole run" if stack.ls_numbers[0] == 0 else f"LS {stack.ls_numbers[0]}"
    elif len(stack):
        where = f"{len(stack)} LS, {stack.ls_numbers[0]} to {stack.ls_numbers[-1]}"
    else:
        where = "no LS"
    return f"{stack.me}\nrun {stack.run_number}, {where}"


def _common(headings: Sequence[str]) -> str:
    """What the headings of several histograms all say: their name, run, lumisections."""
    parts = [heading.replace("\n", ", ").split(", ") for heading in headings]
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    name, *rest = shared or [""]
    return "\n".join(filter(None, (name, ", ".join(rest))))


def _moments(histogram: Any, normalise: str | None) -> tuple[Any, Any]:
    values = np.asarray(histogram.values(), dtype=np.float64)
    variances = histogram.variances()
    errors = np.sqrt(np.abs(values if variances is None else variances))
    if normalise == "area" and histogram.kind.name == "COUNT":
        total = values.sum() or 1.0
        return values / total, errors / total
    return values, errors


def _panels_of_maps(
    seen: HistogramStack, observed: Any, expected: Any, _: Any, pulls: Any, place: Any
) -> tuple[Figure, Axes, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(24, 7), dpi=60, layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    unit = "Mean" if seen.is_profile else "Entries"
    top = np.nanmax(np.abs(pulls[np.isfinite(pulls)]), initial=5.0)
    shown = (
        (f"{unit} per bin, seen", observed, {"cmap": "viridis"}),
        (f"{unit} per bin, expected", expected, {"cmap": "viridis"}),
        ("Pull", pulls, {"cmap": "RdBu_r", "vmin": -top, "vmax": top}),
    )
    for panel, (label, values, options) in zip(panels, shown, strict=True):
        masked = np.ma.masked_where(
            ~np.isfinite(values) | ((observed == 0) & (expected == 0)), values
        )
        mesh = panel.pcolormesh(seen.axes[0].edges, seen.axes[1].edges, masked.T, **options)
        figure.colorbar(mesh, ax=panel, label=label)
        _axis_texts(panel, seen.axes[0], "x")
        if place:
            (x0, x1), (y0, y1) = place
            panel.add_patch(
                Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=COLOURS[2], linewidth=3)
            )
    _axis_texts(panels[0], seen.axes[1], "y")
    return figure, panels[0], panels[-1]


def _panels_of_steps(
    seen: HistogramStack, observed: Any, expected: Any, errors: Any, pulls: Any, place: Any
) -> tuple[Figure, Axes, Axes]:
    axis = seen.axes[0]
    figure = _figure()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.stairs(expected, axis.edges, color=COLOURS[0], linewidth=1.5, label="expected")
    upper.errorbar(
        axis.centers, observed, errors, fmt=".", color="black", label="seen", markersize=5
    )
    upper.set_ylabel("Mean" if seen.is_profile else "Entries")
    upper.legend(fontsize="small")
    lower.stairs(np.nan_to_num(pulls), axis.edges, color=COLOURS[3], fill=True)
    lower.set_ylabel("Pull")
    lower.set_xlim(axis.edges[0], axis.edges[-1])
    _axis_texts(lower, axis, "x")
    for panel in (upper, lower):
        if place:
            panel.axvspan(*place[0], color=COLOURS[2], alpha=0.15)
    return figure, upper, upper


def _quotient(histogram: Any, reference: Any, normalise: str | None) -> tuple[Any, Any]:
    values, errors = _moments(histogram, normalise)
    below, _ = _moments(reference, normalise)
    with np.errstate(divide="ignore", invalid="ignore"):
        return values / np.where(below == 0, np.nan, below), errors / np.abs(
            np.where(below == 0, np.nan, below)
        )


def _steps(
    ax: Axes,
    histogram: Any,
    axis: Axis,
    *,
    label: str | None,
    normalise: str | None,
    log: bool,
    colour: str = COLOURS[0],
) -> None:
    values, errors = _moments(histogram, normalise)
    profile = histogram.kind.name == "MEAN"
    if profile:
        filled = np.asarray(histogram.counts()) > 0
        centers, half = axis.centers[filled], axis.widths[filled] / 2
        ax.errorbar(
            centers, values[filled], errors[filled], half, fmt="o", ms=3, color=colour, label=label
        )
    else:
        import mplhep

        mplhep.histplot(
            values, axis.edges, yerr=errors, ax=ax, color=colour, label=label, linewidth=1.5
        )
    ax.set_xlim(axis.edges[0], axis.edges[-1])
    if log:
        ax.set_yscale("log")
    elif not profile and values.min(initial=0) >= 0:
        ax.set_ylim(bottom=0)
    unit = "Mean" if profile else "Fraction of entries" if normalise == "area" else "Entries"
    width = "" if axis.variable or axis.labels else f" / {axis.widths[0]:g}"
    ax.set_ylabel(f"{unit}{width}")
    _axis_texts(ax, axis, "x")


def _map(
    ax: Axes, histogram: Any, axes: Sequence[Axis], *, normalise: str | None, log: bool
) -> None:
    from matplotlib.colors import LogNorm

    if len(axes) == 3:
        histogram = histogram.project("x", "y")
    values, _ = _moments(histogram, normalise)
    profile = histogram.kind.name == "MEAN"
    empty = np.asarray(histogram.counts()) == 0 if profile else values == 0
    shown = np.ma.masked_where(empty | ~np.isfinite(values), values)
    norm = LogNorm() if log and (shown > 0).any() else None
    # axis 0 is x; pcolormesh takes rows as y.
    mesh = ax.pcolormesh(axes[0].edges, axes[1].edges, shown.T, cmap="viridis", norm=norm)
    unit = "Mean" if profile else "Fraction of entries" if normalise == "area" else "Entries"
    ax.figure.colorbar(mesh, ax=ax, label=f"{unit} per bin")
    _axis_texts(ax, axes[0], "x")
    _axis_texts(ax, axes[1], "y")


def _axis_texts(ax: Axes, axis: Axis, which: str) -> None:
    named = text_of(axis.title) if axis.title else f"{which} (untitled in the file)"
    (ax.set_xlabel if which == "x" else ax.set_ylabel)(named)
    if which == "x" and ax.get_xscale() == "linear":
        ax.locator_params(axis="x", nbins=6)
    if not any(axis.labels):
        return
    # More labels than fit are thinned out evenly.
    step = -(-axis.n_bins // 40)
    shown = [i for i in range(0, axis.n_bins, step) if axis.labels[i]]
    texts = [
        axis.labels[i] if len(axis.labels[i]) <= 24 else axis.labels[i][:23] + "…" for i in shown
    ]
    if which == "x":
        ax.set_xticks(axis.centers[shown], texts, rotation=60, ha="right", fontsize="xx-small")
    else:
        ax.set_yticks(axis.centers[shown], texts, fontsize="xx-small")
    ax.minorticks_off()


def _head(ax: Axes, heading: str, badge: Axes | None = None) -> None:
    # "$" in an element's name is not mathematics.
    lines = heading.replace("$", r"\$").split("\n")
    longest = max(map(len, lines))
    alone = badge in (None, ax)
    size = min(15.0, max(6.0, 900 / (longest + 1))) if alone else 18.0
    ax.set_title("\n".join(lines), fontsize=size, loc="left")
    (ax if badge is None else badge).set_title("CMS", fontsize=22, weight="bold", loc="right")


_LETTERS = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi"),
    "omega",
)
_GREEK = re.compile(r"#([A-Za-z]+)")
_RAISED = re.compile(r"([_^])\{([^{}]*)\}")


def text_of(root_text: str) -> str:
    r"""Matplotlib's text for an axis title in ROOT's TLatex: Greek letters, sub- and superscripts.

    Commands that matplotlib does not know stay as they are.

    >>> text_of("#Delta#phi(#mu, E_{T}) [rad]")
    '$\\Delta$$\\phi$($\\mu$, E$_{\\mathrm{T}}$) [rad]'
    """
    plain = root_text.replace("\\", " ").replace("$", r"\$")
    raised = _RAISED.sub(
        lambda m: f"${m[1]}{{\\mathrm{{{m[2].replace(' ', '~')}}}}}$" if "#" not in m[2] else m[0],
        plain,
    )
    return _GREEK.sub(lambda m: f"$\\{m[1]}$" if m[1].lower() in _LETTERS else m[0], raised)
