"""EXPLORE: any element, run and lumisection; over each other, against a reference, over time."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np

from ml4ad.dashboards import controls, page, plots
from ml4ad.dashboards.browser import Plot, Tree
from ml4ad.dashboards.held import Held, Key
from ml4ad.stack import HistogramStack, Ints

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as MatplotlibFigure

    from ml4ad.archive import Archive

#: Ranges (first, last) of lumisections that are summed.
Part = list[tuple[int, int]]
MOST_SHOWN = 12
_VIEWS = {"histogram": "histogram", "lumisections": "LS by bin", "trend": "trend"}
_NORMS = {
    "none": "nothing",
    "area": "area",
    "luminosity": "recorded luminosity",
    "rate": "trigger rate",
}
_MOMENTS = ("entries", "mean", "width", "most probable", "highest bin")


class Explore(page.Page):
    """Widgets and pictures of the page; ``me``, ``run_number`` and ``dataset`` open it there."""

    name = "explore"

    def __init__(
        self,
        archive: Archive | None = None,
        *,
        dataset: str = "",
        run_number: int = 0,
        me: str = "",
    ) -> None:
        super().__init__(archive)
        self._held = Held()
        self._runs: pd.DataFrame | None = None
        self._conditions: dict[int, pd.DataFrame] = {}
        self._dressed: tuple[tuple[Any, ...], tuple[list[HistogramStack], Any]] | None = None
        self._controls()
        given = {"dataset": dataset, "run": run_number or "", "me": me}
        self._given = {name: [str(value)] for name, value in given.items() if value}
        self.begin()

    # -- controls ---------------------------------------------------------------------------------

    def _controls(self) -> None:
        wide = {"width": "auto"}
        self.dataset = widgets.Dropdown(description="Dataset", layout=wide)
        self.run = widgets.Dropdown(description="Run", layout=wide)
        self.others = widgets.SelectMultiple(
            description="and runs", rows=3, layout=wide, tooltip="Runs to lay over the first"
        )
        self.tree = Tree()
        self.look = widgets.ToggleButtons(
            options=[(text, key) for key, text in _VIEWS.items()],
            style={"button_width": "88px"},
            tooltips=[
                "Histograms over each other",
                "Lumisections across, bins upwards",
                "Moments over lumisections",
            ],
        )
        self.sums = widgets.ToggleButtons(
            options=[("sum of a range", "range"), ("one by one", "one"), ("several", "several")],
            style={"button_width": "122px"},
            tooltips=["All of a range together", "Step through them, or play", "Over each other"],
        )
        self.several = widgets.Text(
            description="LS",
            placeholder="5, 7, 1-20+30-40: one, one, and the sum of two ranges",
            continuous_update=False,
            layout={"width": "auto"},
        )
        self.range = widgets.IntRangeSlider(
            description="LS", min=1, max=1, continuous_update=False, layout={"width": "auto"}
        )
        self.ls = widgets.IntSlider(
            description="LS", min=1, max=1, continuous_update=False, layout={"width": "100%"}
        )
        self.play = widgets.Play(interval=700, min=1, max=1, show_repeat=False)
        widgets.jslink((self.play, "value"), (self.ls, "value"))
        self.player = widgets.HBox([self.play, self.ls], layout=wide)
        self.norm = widgets.Dropdown(
            description="Scale by", options=[(text, key) for key, text in _NORMS.items()]
        )
        self.path = widgets.Dropdown(description="Trigger", options=[])
        self.reference = widgets.Dropdown(description="Reference", options=[("none", "")])
        self.ratio = widgets.Checkbox(
            description="ratio to the reference", value=True, indent=False, disabled=True
        )
        self.log = widgets.Checkbox(description="log", indent=False)
        self.rebin = widgets.Dropdown(description="Rebin", options=[1])
        self.moment = widgets.Dropdown(description="Of each LS", options=_MOMENTS)
        self.beside = widgets.Dropdown(description="Beside", options=[("nothing", "")])
        self.ratio.layout.width, self.log.layout.width = "160px", "70px"
        for short in (self.norm, self.reference, self.moment, self.beside, self.path):
            short.layout.width = "240px"
        self.rebin.layout.width = "150px"
        self.plot = Plot()
        self.facts = widgets.HTML()
        self.save = widgets.Dropdown(
            options=[("CSV", "csv"), ("Parquet", "parquet"), ("PDF", "pdf"), ("PNG", "png")],
            tooltip="Format of the download",
            layout={"width": "110px"},
        )
        self.download = widgets.Button(description="Download", tooltip="Save what is shown")
        self.find = widgets.Button(
            description="Similar lumisections", tooltip="Which lumisections looked like this one?"
        )
        self.likes = widgets.HTML()
        self.code = widgets.HTML()
        self.python = widgets.Accordion([self.code], titles=("The Python for this view",))
        self.python.selected_index = None
        self.message = widgets.HTML()
        for control, react in (
            (self.dataset, self._dataset_chosen),
            (self.run, self._run_chosen),
            (self.tree, self._element_chosen),
        ):
            self.on(control, react)
        for control in (self.others, self.look, self.sums, self.range, self.ls, self.norm):
            self.on(control, self.draw)
        for control in (self.path, self.reference, self.ratio, self.log, self.rebin):
            self.on(control, self.draw)
        for control in (self.moment, self.beside, self.several):
            self.on(control, self.draw)
        self.on_click(self.download, self.save_view)
        self.on_click(self.find, self.find_similar)
        self._arrange()

    def _arrange(self) -> None:
        flow = {"flex_flow": "row wrap", "align_items": "center"}
        left = widgets.VBox(
            [self.dataset, self.run, self.others, self.tree],
            layout={"width": "310px", "flex": "0 0 310px"},
        )
        self.options = widgets.HBox(layout=flow | {"grid_gap": "0 10px"})
        right = widgets.VBox(
            [
                widgets.HBox([self.look, self.sums], layout=flow | {"grid_gap": "0 24px"}),
                self.range,
                self.player,
                self.several,
                self.options,
                self.message,
                self.facts,
                self.plot,
                widgets.HBox([self.save, self.download, self.find], layout=flow),
                self.likes,
                self.python,
            ],
            layout={"flex": "1 1 auto", "min_width": "0", "overflow": "hidden"},
        )
        self._all = widgets.HBox([left, right], layout={"width": "100%", "grid_gap": "14px"})
        self._nothing = widgets.HTML()

    # -- what there is ----------------------------------------------------------------------------

    def load(self) -> None:
        """Ask for datasets and runs; keep what is chosen where it is still there."""
        runs = self.archive.runs()
        self._runs = runs
        if not len(runs):
            self._nothing.value = page.EMPTY_ARCHIVE
            self.body.children = [self._nothing]
            return
        self.body.children = [self._all]
        with self.setting():
            before = self.dataset.value
            controls.offer(self.dataset, sorted(runs["dataset"].unique()))
            if before is None:
                self.dataset.value, _ = controls.latest(runs)
        self._offer_runs()
        if self._given:
            given, self._given = self._given, {}
            self.apply(given)
        else:
            self._element_chosen()

    def follow(self) -> None:
        """A new archive fills itself: look again while there is nothing."""
        if self._runs is None or not len(self._runs):
            self.load()

    def _offer_runs(self) -> None:
        runs = self._runs
        if runs is None:
            return
        own = runs[runs["dataset"] == self.dataset.value].sort_values("run_number", ascending=False)
        with self.setting():
            controls.offer(self.run, controls.runs_listed(own))
        self._offer_others()
        self._offer_elements()

    def _offer_others(self) -> None:
        runs = self._runs
        if runs is None:
            return
        here = (self.dataset.value, self.run.value)
        keys = [
            (str(dataset), int(run))
            for run, dataset in sorted(
                zip(runs["run_number"], runs["dataset"], strict=True), reverse=True
            )
        ]
        several = runs["dataset"].nunique() > 1
        listed = [
            (f"{run} {dataset}" if several else str(run), f"{run}:{dataset}")
            for dataset, run in keys
            if (dataset, run) != here
        ]
        kept = [key for key in self.others.value if key in {value for _, value in listed}]
        references = [("none", ""), ("whole run", "run"), *((f"run {t}", key) for t, key in listed)]
        with self.setting():
            self.others.options = listed
            self.others.value = kept
            controls.offer(self.reference, references)

    def _offer_elements(self) -> None:
        found = self.archive.elements("*", self.dataset.value, self.run.value)
        names = found.loc[found["dim"] > 0, "me"].tolist()
        with self.setting():
            self.tree.elements = names
            kept = [me for me in self.tree.value if me in set(names)]
            self.tree.value = kept or names[:1]

    def _dataset_chosen(self) -> None:
        self._offer_runs()
        self._element_chosen()

    def _run_chosen(self) -> None:
        self._offer_others()
        self._offer_elements()
        self._element_chosen()

    def _element_chosen(self) -> None:
        stack = self._first()
        if stack is None:
            self.draw()
            return
        first, last = _span(stack)
        whole = (self.range.min, self.range.max) == tuple(self.range.value)
        chosen = self.range.value
        factors = [n for n in (1, 2, 4, 5, 8, 10, 20) if _divides(stack, n)]
        filled = stack.ls_numbers[stack.entries > 0]
        untouched = self.ls.max == self.ls.min
        with self.setting():
            for slider in (self.ls, self.play, self.range):
                # Both ends at once: a minimum above the maximum is refused.
                slider.min = min(slider.min, first)
                slider.max = last
                slider.min = first
            if untouched:
                # Runs begin with lumisections that hold nothing yet.
                self.ls.value = self.play.value = max(first, int(min(filled, default=first)))
            self.range.value = (
                (first, last) if whole else (max(first, chosen[0]), min(last, max(chosen)))
            )
            controls.offer(self.rebin, factors)
            known = self._known_conditions()
            controls.offer(self.beside, [("nothing", ""), *((name, name) for name in known)])
        self.draw()

    def _known_conditions(self) -> list[str]:
        frame = self._conditions_of(self._key(0))
        return [
            name
            for name in frame.columns
            if frame[name].dtype.kind in "fiub" and frame[name].notna().any()
        ]

    # -- what is asked for ------------------------------------------------------------------------

    def _key(self, element: int) -> Key:
        return Key(self.tree.value[element], self.dataset.value, self.run.value)

    def _first(self) -> HistogramStack | None:
        if not self.tree.value or self.run.value is None:
            return None
        return self._held.get(self.archive, self._key(0))

    def keys(self) -> list[Key]:
        """What is shown: every chosen element in every chosen run."""
        runs = [(self.dataset.value, self.run.value), *map(_run_of, self.others.value)]
        return [Key(me, dataset, run) for me in self.tree.value for dataset, run in runs]

    def parts(self) -> list[Part]:
        """Lumisections that are shown over each other, each the ranges that it is the sum of."""
        if self.look.value != "histogram" or self.sums.value == "range":
            return [[(int(self.range.value[0]), int(self.range.value[1]))]]
        if self.sums.value == "one":
            return [[(int(self.ls.value), int(self.ls.value))]]
        return parts_of(self.several.value)

    def _stack(self, key: Key) -> HistogramStack:
        stack = self._held.get(self.archive, key)
        factor = self.rebin.value or 1
        if factor == 1:
            return stack
        return stack.rebin(*[factor] * len(stack.axes))

    def _conditions_of(self, key: Key) -> pd.DataFrame:
        if key.run_number not in self._conditions:
            found = self.archive.conditions(run_number=key.run_number)
            self._conditions = {key.run_number: found.droplevel("run_number")} | dict(
                list(self._conditions.items())[:20]
            )
        return self._conditions[key.run_number]

    # -- pictures ---------------------------------------------------------------------------------

    def draw(self) -> None:
        """Show what the controls say."""
        self._show_controls()
        if not self.tree.value:
            self.plot.figure = {}
            self.message.value = page.empty(
                "This run has no histograms."
                if not self.tree.elements
                else "No element is chosen.",
                "Choose one on the left.",
            )
            return
        self.message.value = ""
        self.plot.label = self.tree.value[0].rsplit("/", 1)[-1].replace(" ", "_")
        self.likes.value = ""
        if self.look.value == "histogram":
            self._draw_histograms()
        elif self.look.value == "lumisections":
            self.plot.figure = plots.ls_map(
                self._mapped(), by_area=self.norm.value == "area", log=self.log.value
            )
        else:
            self._draw_trend()
        self.facts.value = self._facts()
        self.code.value = f"<pre>{html.escape(self.source())}</pre>"

    def _show_controls(self) -> None:
        look = self.look.value
        shown: dict[str, list[Any]] = {
            "histogram": [self.norm, self.reference, self.ratio, self.log, self.rebin],
            "lumisections": [self.norm, self.log, self.rebin],
            "trend": [self.moment, self.beside],
        }
        listed = list(shown[look])
        if self.norm.value == "rate" and look == "histogram":
            self._offer_paths()
            listed.insert(1, self.path)
        if self.options.children != tuple(listed):
            self.options.children = listed
        self.ratio.disabled = not self.reference.value
        sums = self.sums.value if look == "histogram" else "range"
        self.sums.layout.display = "" if look == "histogram" else "none"
        for name, control in (
            ("one", self.player),
            ("range", self.range),
            ("several", self.several),
        ):
            control.layout.display = "" if sums == name else "none"

    def _offer_paths(self) -> None:
        from ml4ad.conditions import rates

        found = sorted(map(str, rates(self.archive.engine, run_number=self.run.value).columns))
        with self.setting():
            controls.offer(self.path, found)

    def shown(self) -> list[plots.Shown]:
        """Histograms as they are drawn: of each of `keys` each of `parts`."""
        chosen = self.chosen()
        if len(chosen) > MOST_SHOWN:
            raise ValueError(
                f"{len(chosen)} histograms over each other: choose at most {MOST_SHOWN}"
            )
        return [self._scaled(key, self._selected(key, part), part) for key, part in chosen]

    def chosen(self) -> list[tuple[Key, Part]]:
        """What is shown: of each of `keys` each of `parts`."""
        parts = self.parts()
        return [(key, part) for key in self.keys() for part in parts]

    def _selected(self, key: Key, part: Part) -> HistogramStack:
        stack = self._stack(key).select(part)
        if not len(stack):
            known = self._held.get(self.archive, key)
            first, last = _span(known)
            raise ValueError(
                f"{key.me} has no histogram in run {key.run_number}, LS {_worded(part)}"
                f": it has {len(known)} lumisections from {first} to {last}"
            )
        return stack

    def _scaled(self, key: Key, stack: HistogramStack, part: Part) -> plots.Shown:
        one = plots.Shown.of(stack, self._title(key, part))
        return one.scaled(self._factor(one, key, stack.ls_numbers))

    def _factor(self, one: plots.Shown, key: Key, ls_numbers: Ints) -> float:
        if self.norm.value == "area":
            return 1 / one.total if one.total else 1.0
        if self.norm.value in ("luminosity", "rate"):
            return 1 / self._amount(key, ls_numbers)
        return 1.0

    def _mapped(self) -> HistogramStack:
        stack = self._stack(self._key(0)).select(slice(*self.range.value))
        if len(stack.axes) == 2 and not stack.is_profile:
            return stack.project("x")
        return stack

    def _amount(self, key: Key, ls_numbers: Ints) -> float:
        """Recorded luminosity in 1/ub, or triggers, of these lumisections together."""
        if self.norm.value == "luminosity":
            frame = self._conditions_of(key)
            column = frame.get("recorded_lumi")
            what = "recorded luminosity"
        else:
            from ml4ad.conditions import rates

            if not self.path.value:
                raise ValueError(f"no trigger rate of run {key.run_number} is known")
            found = rates(self.archive.engine, self.path.value, key.run_number)
            column = found.droplevel("run_number")[self.path.value] if len(found) else None
            what = f"rate of {self.path.value}"
        values = None if column is None else column.reindex(ls_numbers)
        if values is None or values.isna().any() or not values.sum() > 0:
            lacking = len(ls_numbers) if values is None else int(values.isna().sum())
            raise ValueError(
                f"{what} is not known of {lacking} of {len(ls_numbers)} lumisections of run "
                f"{key.run_number}: scale by area, or load conditions with `ml4ad conditions load`"
            )
        return float(values.sum())

    def _title(self, key: Key, part: Part) -> str:
        several = [len({getattr(k, n) for k in self.keys()}) > 1 for n in ("me", "dataset")]
        name = key.me.rsplit("/", 1)[-1] + " " if several[0] else ""
        dataset = f" {key.dataset}" if several[1] else ""
        return f"{name}run {key.run_number}, LS {_worded(part)}{dataset}"

    def _reference_key(self) -> Key | None:
        wanted = self.reference.value
        if not wanted:
            return None
        if wanted == "run":
            return self._key(0)
        return Key(self.tree.value[0], *_run_of(wanted))

    def _reference(self) -> plots.Shown | None:
        key = self._reference_key()
        if key is None:
            return None
        stack = self._stack(key)
        one = plots.Shown.of(stack, f"reference: run {key.run_number}, {len(stack)} LS")
        return one.scaled(self._reference_factor(one, key, stack.ls_numbers))

    def _reference_factor(self, one: plots.Shown, key: Key, ls_numbers: Ints) -> float:
        if self.norm.value == "none":
            # What is compared is the shape: the reference has other lumisections.
            return self.shown()[0].total / one.total if one.total else 1.0
        return self._factor(one, key, ls_numbers)

    def _unit(self, one: plots.Shown) -> str:
        if one.is_profile:
            return "Mean"
        return {
            "none": "Entries",
            "area": "Fraction of entries",
            "luminosity": "Entries per µb<sup>-1</sup>",
            "rate": "Entries per Hz",
        }[str(self.norm.value)]

    def _draw_histograms(self) -> None:
        shown, reference = self.shown(), self._reference()
        unit = self._unit(shown[0])
        if len(shown[0].axes) == 1:
            self.plot.figure = plots.histograms(
                shown, reference=reference, ratio=self.ratio.value, log=self.log.value, unit=unit
            )
            return
        listed, signed = list(shown[:3]), []
        if len(shown) > len(listed):
            self.message.value = (
                f"{len(listed)} of {len(shown)} maps are shown: they cannot lie over each other."
            )
        if reference is not None:
            listed = [shown[0], reference]
            if self.ratio.value:
                spread = np.sqrt(np.maximum(shown[0].errors ** 2 + reference.errors**2, 1e-300))
                pull = (shown[0].values - reference.values) / np.where(spread > 1e-100, spread, 1)
                listed.append(plots.Shown("difference / error", shown[0].axes, pull, spread))
                signed = [2]
        self.plot.figure = plots.maps(listed, log=self.log.value, unit=unit, signed=signed)

    def _trend(self) -> tuple[dict[str, tuple[Ints, Any]], str]:
        """Series by name, and what they are of."""
        series = {}
        for key in self.keys()[:MOST_SHOWN]:
            stack = self._stack(key).select(slice(*self.range.value))
            name = f"{key.me.rsplit('/', 1)[-1]}, run {key.run_number}"
            series[name] = (stack.ls_numbers, moment(stack, self.moment.value))
        axis = self._stack(self._key(0)).axes[0]
        unit = {
            "entries": "Entries",
            "mean": f"Mean of {axis.title or 'x'}",
            "width": f"Standard deviation of {axis.title or 'x'}",
            "most probable": f"Most probable {axis.title or 'x'}",
            "highest bin": "Entries of the highest bin",
        }[self.moment.value]
        return series, unit

    def _draw_trend(self) -> None:
        series, unit = self._trend()
        beside = None
        if self.beside.value:
            column = self._conditions_of(self._key(0))[self.beside.value].loc[
                slice(*self.range.value)
            ]
            values = column.astype("float64").to_numpy(na_value=np.nan)
            beside = (self.beside.value, column.index.to_numpy(), values)
        self.plot.figure = plots.trends(series, unit=unit, beside=beside)

    def _facts(self) -> str:
        key = self._key(0)
        stack = self._held.get(self.archive, key)
        chosen = stack.select([pair for part in self.parts() for pair in part])
        parts = [
            html.escape(key.me),
            f"{stack.kind}, {' x '.join(str(axis.n_bins) for axis in stack.axes)} bins",
            f"{page.number(len(chosen))} LS",
            f"<span class='ml4ad-entries'>{page.number(float(chosen.entries.sum()))}</span> "
            "entries",
        ]
        empty = np.count_nonzero(stack.entries == 0)
        if len(stack.missing):
            parts.append(f"{len(stack.missing)} LS without it: {_listed(stack.missing)}")
        if empty:
            parts.append(f"{empty} LS empty: {_listed(stack.ls_numbers[stack.entries == 0])}")
        return " · ".join(parts)

    # -- similar, download, code ------------------------------------------------------------------

    def find_similar(self) -> None:
        """List the lumisections, of all runs of the dataset, that look most like the one shown."""
        from ml4ad.detect.similar import similar_in

        if self.sums.value != "one" or self.look.value != "histogram":
            raise ValueError("choose one lumisection first: “one by one”")
        key = self._key(0)
        found = similar_in(
            *(self.archive, key.me, key.run_number, int(self.ls.value)),
            dataset=key.dataset,
            n=10,
            beside=2,
        )
        pairs = list(zip(found["run_number"], found["ls_number"], strict=True))
        here = self.view()
        link = [
            f'<a href="?{controls.query(here | {"run": run, "ls": ls})}">run {run}, LS {ls}</a>'
            for run, ls in pairs
        ]
        shown = found.assign(lumisection=link)[["lumisection", "distance", "ratio"]]
        others = ", ".join(map(str, found.attrs["other_binning"]))
        left_out = f"<p>Not compared, of another binning: run {others}.</p>" if others else ""
        self.likes.value = f"<h2>Most like it</h2>{page.table(shown, ['lumisection'])}{left_out}"

    def save_view(self) -> None:
        """Give the browser what is shown, in the format that is chosen."""
        kind = str(self.save.value)
        name = f"{self.plot.label}_{self.run.value}.{kind}"
        mime = {
            "csv": "text/csv",
            "parquet": "application/vnd.apache.parquet",
            "pdf": "application/pdf",
            "png": "image/png",
        }[kind]
        self.frame.download(name, mime, self.content(kind))

    def content(self, kind: str) -> bytes:
        """Bytes of what is shown: csv and parquet have a row per lumisection, pdf and png draw."""
        import pandas as pd

        into = io.BytesIO()
        if kind in ("pdf", "png"):
            self.picture().savefig(into, format=kind, bbox_inches="tight")
            return into.getvalue()
        wanted = [pair for part in self.parts() for pair in part]
        frames = []
        for key in self.keys():
            stack = self._stack(key)
            wide = stack.select(wanted).to_pandas().reset_index()
            wide.columns = [_flat(name) for name in wide.columns]
            wide.insert(0, "dataset", key.dataset)
            wide.insert(1, "me", key.me)
            wide.insert(2, "run_number", key.run_number)
            frames.append(wide)
        joined = pd.concat(frames, ignore_index=True)
        if kind == "csv":
            return joined.to_csv(index=False).encode()
        joined.to_parquet(into, index=False)
        return into.getvalue()

    def picture(self) -> MatplotlibFigure:
        """What is shown, in the CMS style: of maps the first, with a reference their difference."""
        from ml4ad import pictures

        if self.look.value == "trend":
            series, unit = self._trend()
            plain = {name: (n.tolist(), values.tolist()) for name, (n, values) in series.items()}
            return pictures.trend(plain, ylabel=unit)
        if self.look.value == "lumisections":
            return pictures.ls_map(self._mapped(), normalise=self.norm.value == "area")
        chosen, key = self.chosen(), self._reference_key()
        first = self._selected(*chosen[0])
        if len(first.axes) > 1:
            if key is not None and len(first.axes) == 2:
                return pictures.compare(first, self._stack(key))
            return pictures.draw(first, log=self.log.value, normalise=self._by_area())
        drawn: dict[str, Any] = {}
        reference = self._reference()
        if key is not None and reference is not None:
            stack = self._stack(key)
            drawn[reference.name] = _times(stack, self._reference_factor_of(stack, key))
        for one, part in chosen:
            stack = self._selected(one, part)
            shown = plots.Shown.of(stack, self._title(one, part))
            drawn[shown.name] = _times(stack, self._factor(shown, one, stack.ls_numbers))
        figure = pictures.overlay(
            drawn,
            normalise=None,
            ratio=key is not None and self.ratio.value,
            log=self.log.value,
        )
        if self.norm.value != "none":
            figure.axes[0].set_ylabel(re.sub("<sup>(.*?)</sup>", r"$^{\1}$", self._unit(shown)))
        return figure

    def _reference_factor_of(self, stack: HistogramStack, key: Key) -> float:
        return self._reference_factor(plots.Shown.of(stack, ""), key, stack.ls_numbers)

    def _by_area(self) -> str | None:
        return "area" if self.norm.value == "area" else None

    def source(self) -> str:
        """The Python that gives what is shown."""
        lines = ["import ml4ad", "from ml4ad import pictures", "", "archive = ml4ad.connect()"]
        names: dict[Key, str] = {}
        reference = self._reference_key() if self.look.value == "histogram" else None
        for key in [*self.keys(), *([reference] if reference is not None else [])]:
            if key in names:
                continue
            names[key] = "stack" if not names else f"stack_{len(names) + 1}"
            read = f"{names[key]} = archive.stack({key.me!r}, {key.run_number}, {key.dataset!r})"
            if self.rebin.value not in (None, 1):
                axes = len(self._held.get(self.archive, key).axes)
                read += f".rebin({', '.join([str(self.rebin.value)] * axes)})"
            lines.append(read)
        if self.look.value == "trend":
            return "\n".join([*lines, *self._source_of_trend(names)])
        if self.look.value == "lumisections":
            shown = f"stack.select(slice{tuple(map(int, self.range.value))})"
            first = self._held.get(self.archive, self._key(0))
            if len(first.axes) == 2 and not first.is_profile:
                shown += ".project('x')"
            return "\n".join(
                [*lines, f"pictures.ls_map({shown}, normalise={self._by_area() == 'area'})"]
            )
        return "\n".join([*lines, *self._source_of_histograms(names, reference)])

    def _source_of_trend(self, names: Mapping[Key, str]) -> list[str]:
        selected = f".select(slice{tuple(map(int, self.range.value))})"
        lines = ["from ml4ad.dashboards.explore import moment", "", "series = {}"]
        for key, (title, _) in zip(names, self._trend()[0].items(), strict=False):
            lines += [
                f"{names[key]} = {names[key]}{selected}",
                f"values = moment({names[key]}, {self.moment.value!r})",
                f"series[{title!r}] = ({names[key]}.ls_numbers, values)",
            ]
        return [*lines, f"pictures.trend(series, ylabel={self._trend()[1]!r})"]

    def _source_of_histograms(self, names: Mapping[Key, str], reference: Key | None) -> list[str]:
        chosen = self.chosen()
        first = self._held.get(self.archive, chosen[0][0])
        selected = [f"{names[key]}.select({part})" for key, part in chosen]
        if len(first.axes) > 1:
            if reference is not None and len(first.axes) == 2:
                return [f"pictures.compare({selected[0]}, {names[reference]})"]
            area = f", normalise={self._by_area()!r}"
            return [f"pictures.draw({selected[0]}, log={self.log.value}{area})"]
        lines = ["shown = {}"]
        if reference is not None:
            stack = self._stack(reference)
            title = f"reference: run {reference.run_number}, {len(stack)} LS"
            factor = self._reference_factor_of(stack, reference)
            lines.append(f"shown[{title!r}] = {names[reference]}.sum(){_multiplied(stack, factor)}")
        for (key, part), text in zip(chosen, selected, strict=True):
            stack, title = self._selected(key, part), self._title(key, part)
            factor = self._factor(plots.Shown.of(stack, ""), key, stack.ls_numbers)
            lines.append(f"shown[{title!r}] = {text}.sum(){_multiplied(stack, factor)}")
        if self.norm.value != "none":
            lines.insert(1, f"# Scaled by {_NORMS[self.norm.value]}.")
        ratio = reference is not None and self.ratio.value
        drawn = f"pictures.overlay(shown, normalise=None, ratio={ratio}, log={self.log.value})"
        return [*lines, drawn]

    # -- address ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """What the address holds."""
        if self.run.value is None:
            return {}
        out: dict[str, Any] = {
            "dataset": self.dataset.value,
            "run": self.run.value,
            "me": list(self.tree.value),
            "view": "" if self.look.value == "histogram" else self.look.value,
            "and": list(self.others.value),
            "norm": "" if self.norm.value == "none" else self.norm.value,
            "reference": self.reference.value,
            "log": "1" if self.log.value else "",
            "ratio": "" if self.ratio.value else "0",
            "rebin": "" if self.rebin.value in (None, 1) else self.rebin.value,
        }
        if self.look.value == "trend":
            out |= {"moment": self.moment.value, "beside": self.beside.value}
        if self.look.value == "histogram" and self.sums.value == "one":
            out["ls"] = self.ls.value
        elif self.look.value == "histogram" and self.sums.value == "several":
            out["several"] = self.several.value
        elif tuple(self.range.value) != (self.range.min, self.range.max):
            out["range"] = "-".join(map(str, self.range.value))
        return out

    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Set the controls as the address says, then draw; what is not there is said."""
        said = {name: values[0] for name, values in wanted.items()}
        with self.setting():
            if "dataset" in said:
                controls.choose(self.dataset, said["dataset"], "dataset")
                self._offer_runs()
            if "run" in said:
                controls.choose(self.run, controls.number(said["run"], "run"), "run")
                self._offer_others()
                self._offer_elements()
            if "me" in wanted:
                unknown = [me for me in wanted["me"] if me not in set(self.tree.elements)]
                if unknown:
                    raise ValueError(f"run {self.run.value} has no element {unknown[0]!r}")
                self.tree.value = list(wanted["me"])
            if "and" in wanted:
                known = {value for _, value in self.others.options}
                self.others.value = [key for key in wanted["and"] if key in known]
            self._element_chosen()
            self._apply_looks(said)
        self.draw()

    def _apply_looks(self, said: Mapping[str, str]) -> None:
        for name, control in (
            ("view", self.look),
            ("norm", self.norm),
            ("reference", self.reference),
            ("moment", self.moment),
            ("beside", self.beside),
        ):
            if name in said:
                controls.choose(control, said[name], name)
        if "rebin" in said:
            controls.choose(self.rebin, controls.number(said["rebin"], "rebin"), "rebin")
        self.log.value = said.get("log") == "1"
        self.ratio.value = said.get("ratio") != "0"
        if "ls" in said:
            self.sums.value = "one"
            # The browser sets the slider to where the player is.
            self.ls.value = self.play.value = controls.number(said["ls"], "ls")
        if "several" in said:
            parts_of(said["several"])
            self.sums.value, self.several.value = "several", said["several"]
        if "range" in said:
            low, _, high = said["range"].partition("-")
            self.sums.value = "range"
            self.range.value = (controls.number(low, "range"), controls.number(high, "range"))


# -- how -------------------------------------------------------------------------------------------


def moment(stack: HistogramStack, name: str) -> Any:
    """A quantity of every lumisection, ``(n_ls,)``, NaN where it is empty.

    Of maps that along x. "mean" and "width" are of the bins' centres, weighted with their contents.

    >>> line = HistogramStack.from_arrays([[1.0, 3.0]], [[0, 1, 2]], ls_numbers=[5], run_number=1,
    ...     me="A/b")
    >>> moment(line, "mean")
    array([1.25])
    """
    if name == "entries":
        return stack.entries
    values = stack.values().astype(np.float64)
    if stack.is_profile:
        values = np.nan_to_num(values)
    values = values.sum(axis=tuple(range(2, values.ndim)))
    total = values.sum(axis=1)
    if name == "highest bin":
        return values.max(axis=1)
    centers = stack.axes[0].centers
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = values @ centers / total
        if name == "mean":
            return mean
        if name == "width":
            return np.sqrt(np.maximum(values @ centers**2 / total - mean**2, 0))
    return np.where(total > 0, centers[values.argmax(axis=1)], np.nan)


def _run_of(key: str) -> tuple[str, int]:
    run_number, _, dataset = key.partition(":")
    return dataset, int(run_number)


def _span(stack: HistogramStack) -> tuple[int, int]:
    if not len(stack):
        raise ValueError(f"{stack.me}, run {stack.run_number}: no lumisection is here")
    return int(stack.ls_numbers[0]), int(stack.ls_numbers[-1])


def _divides(stack: HistogramStack, factor: int) -> bool:
    return all(axis.n_bins % factor == 0 and axis.n_bins > factor for axis in stack.axes) or (
        factor == 1
    )


def parts_of(text: str) -> list[Part]:
    """Lumisections as a person writes them: parts by commas, ranges that are summed by plus.

    Raises ValueError naming what is none.

    >>> parts_of("5, 1-20+30-40")
    [[(5, 5)], [(1, 20), (30, 40)]]
    """
    parts = []
    for written in filter(None, (one.strip() for one in text.split(","))):
        part: Part = []
        for piece in written.split("+"):
            low, _, high = piece.strip().partition("-")
            first = controls.number(low.strip(), "LS")
            last = controls.number(high.strip(), "LS") if high else first
            if last < first:
                raise ValueError(f"LS {piece.strip()!r}: {last} is before {first}")
            part.append((first, last))
        parts.append(part)
    if not parts:
        raise ValueError("no lumisection yet: write some, as in 5, 7, 1-20+30-40")
    return parts


def _worded(part: Part) -> str:
    return " and ".join(str(a) if a == b else f"{a} to {b}" for a, b in part)


def _times(stack: HistogramStack, factor: float) -> Any:
    """All lumisections together times a factor; a profile's means have no scale."""
    return stack.sum() if stack.is_profile or factor == 1 else stack.sum() * factor


def _multiplied(stack: HistogramStack, factor: float) -> str:
    return "" if stack.is_profile or factor == 1 else f" * {float(factor)!r}"


def _listed(numbers: Ints) -> str:
    """Numbers as ranges, the first few."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    parts = [
        str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}"
        for part in np.split(np.asarray(numbers), breaks)
    ]
    return ", ".join(parts[:6]) + (f" and {len(parts) - 6} more ranges" if len(parts) > 6 else "")


def _flat(name: Any) -> str:
    if isinstance(name, tuple):
        return " ".join(str(part) for part in name if part != "")
    return str(name)
