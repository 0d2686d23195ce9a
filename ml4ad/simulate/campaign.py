"""A campaign: which runs, elements, datasets and faults there are, and their histograms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ml4ad.simulate.elements import PRESETS, Element, elements, matching, pattern
from ml4ad.simulate.faults import FAULTS, Fault, Mask, boxes, inject, partners, place
from ml4ad.simulate.lhc import DETECTOR_FLAGS, Run, check_seed, conditions, plan_runs, stream
from ml4ad.simulate.sample import (
    BLOCK_LS,
    Beam,
    Prepared,
    entries_expected,
    one_thread,
    sample_block,
    sample_run,
    triggers,
)
from ml4ad.simulate.shapes import MODULES, SHAPES, State
from ml4ad.stack import Floats, HistogramStack, Ints, LsSelection, as_ls_mask, concatenate

#: Faults of at least so many lumisections are left out of the golden JSON; people miss others.
SEEN_BY_PEOPLE = 10
#: Entries in a dataset of each stream, where ZeroBias has 1.
_SCALES = {"ZeroBias": 1.0, "StreamExpress": 0.4}
_OTHER_SCALE = 0.6


@dataclass(frozen=True)
class Effect:
    """What a fault does to one element of one run and dataset.

    ``number`` is the fault's, from 1; ``where`` are the cells (without flow) and ``share`` the part
    of the entries that is concerned; ``swapped`` are the cells at the other end of a swap.
    """

    number: int
    fault: Fault
    me: str
    run_number: int
    dataset: str
    last_ls: int
    where: Mask
    share: float
    swapped: Mask | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``truth.json``."""
        fault = self.fault
        hit = self.where if self.swapped is None else self.where | self.swapped
        return {
            "fault": self.number,
            "kind": fault.kind,
            "me": self.me,
            "dataset": self.dataset,
            "run_number": self.run_number,
            "lumisections": [[fault.first_ls, self.last_ls]],
            "strength": fault.size,
            "share": self.share,
            "sign": fault.sign,
            "bins": boxes(hit),
            "module": fault.module,
        }


@dataclass(frozen=True)
class Campaign:
    """Runs of a detector that never existed; equal arguments give equal histograms.

    ``datasets`` are pairs such as ``ZeroBias/PromptReco-v1``. All is checked on creation: a fault
    outside the runs, elements or axes raises ValueError, naming what there is.
    """

    seed: int
    runs: tuple[Run, ...]
    elements: tuple[Element, ...]
    datasets: tuple[str, ...] = ("ZeroBias/PromptReco-v1",)
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for text in self.datasets:
            primary, slash, processing = text.partition("/")
            if not (primary and slash and processing) or "/" in processing:
                raise ValueError(f"dataset {text!r}, want such as 'ZeroBias/PromptReco-v1'")
        if not self.runs or not self.elements or not self.datasets:
            raise ValueError(
                f"{len(self.runs)} runs, {len(self.elements)} elements, {len(self.datasets)} "
                "datasets: want some of each"
            )
        _ = self.effects

    # -- what there is ---------------------------------------------------------------------------

    def run(self, run_number: int) -> Run:
        """The run of that number; KeyError, naming those there are, if none."""
        for run in self.runs:
            if run.run_number == run_number:
                return run
        there = ", ".join(str(run.run_number) for run in self.runs)
        raise KeyError(f"run {run_number}, want one of {there}")

    def dataset(self, run: Run, text: str) -> str:
        """Full name of a dataset for the era of a run.

        >>> small = campaign(1, eras=["Run2024F"], runs=1, lumisections=4, elements="small")
        >>> small.dataset(small.runs[0], "ZeroBias/PromptReco-v1")
        '/ZeroBias/Run2024F-PromptReco-v1/DQMIO'
        """
        primary, _, processing = text.partition("/")
        return f"/{primary}/{run.era}-{processing}/DQMIO"

    def deliveries(self) -> list[tuple[Run, str]]:
        """Every run with the full name of every dataset it is in."""
        return [(run, self.dataset(run, text)) for run in self.runs for text in self.datasets]

    def conditions(self, run_number: int | None = None) -> pd.DataFrame:
        """Conditions of each lumisection of a run, or of all: see `lhc.conditions`."""
        if run_number is not None:
            return self._conditions(self.run(run_number))
        return pd.concat([self._conditions(run) for run in self.runs])

    def _conditions(self, run: Run) -> pd.DataFrame:
        return _cached_conditions(self.seed, run)

    def _beam(self, run: Run) -> Beam:
        return _cached_beam(self.seed, run)

    def ls_numbers(self, run: Run, dataset: str) -> Ints:
        """Lumisections of a run that reached a dataset: now and then one is lost."""
        rng = stream(self.seed, "lost", run.run_number, dataset)
        return run.ls_numbers[rng.random(run.n_ls) >= 0.003]

    # -- faults ----------------------------------------------------------------------------------

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """What every fault does to each element, run and dataset."""
        found: list[Effect] = []
        for number, fault in enumerate(self.faults, start=1):
            found += self._effects_of(number, fault)
        return tuple(found)

    def _effects_of(self, number: int, fault: Fault) -> Iterator[Effect]:
        names = matching(fault.me, [element.me for element in self.elements])
        matched = [element for element in self.elements if element.me in set(names)]
        targets = [e for e in matched if _can_have(fault, e)]
        if not targets:
            raise ValueError(f"{fault.kind} cannot happen to {names[0]} ({matched[0].kind})")
        deliveries = [
            (run, dataset)
            for run, dataset in self.deliveries()
            if fault.run_number in (None, run.run_number)
            and pattern(fault.dataset).fullmatch(dataset)
        ]
        if not deliveries:
            there = ", ".join(sorted({f"{r.run_number} of {d}" for r, d in self.deliveries()}))
            raise ValueError(
                f"{fault.kind} in run {fault.run_number} of {fault.dataset}, want one of {there}"
            )
        for run, dataset in deliveries:
            last = fault.last_ls(run.n_ls)
            if fault.first_ls > run.n_ls or last > run.n_ls:
                raise ValueError(
                    f"{fault.kind} in lumisections {fault.first_ls} to {last} of run "
                    f"{run.run_number}, want within 1 to {run.n_ls}"
                )
            for element, where, share in self._hit(fault, targets, run):
                if element.per_run:
                    share *= self._part_of_run(element, run, fault.first_ls, last)
                yield Effect(
                    number,
                    fault,
                    element.me,
                    run.run_number,
                    dataset,
                    last,
                    where,
                    share,
                    _swapped(fault, where, element),
                )

    def _hit(
        self, fault: Fault, targets: Sequence[Element], run: Run
    ) -> Iterator[tuple[Element, Mask, float]]:
        """Elements that see the fault, where, and how much of their entries is concerned."""
        named = {element.me for element in targets}
        for element in targets:
            yield element, _where(fault, element), 1.0
        if FAULTS[fault.kind].place != "region" or fault.kind in ("bump", "swap"):
            return
        # What hangs on the same part of the detector sees it too.
        for part in sorted({e.part for e in targets if e.part}):
            first = next(e for e in targets if e.part == part)
            if len(first.axes) < 2:
                continue
            shares = SHAPES[first.model](first, State(self.seed, run, 50.0))
            inner = shares[(slice(1, -1),) * len(first.axes)]
            share = float(inner[_where(fault, first)].sum() / inner.sum())
            for element in self.elements:
                if element.part != part or element.me in named or not _can_have(fault, element):
                    continue
                if fault.module is not None and element.model in MODULES:
                    if fault.module in MODULES[element.model](element).names:
                        yield element, _where(fault, element), 1.0
                elif len(element.axes) == 1:
                    yield element, np.ones(element.axes[0].n_bins, dtype=bool), share

    def _part_of_run(self, element: Element, run: Run, first: int, last: int) -> float:
        expected = entries_expected(element, self._beam(run), np.ones(run.n_ls))
        total = float(expected.sum())
        return float(expected[first - 1 : last].sum()) / total if total else 0.0

    # -- histograms ------------------------------------------------------------------------------

    def prepared(self, run: Run, element: Element) -> Prepared:
        """What the lumisections of an element of a run share; kept for the last few hundred."""
        return _cached_prepared(self.seed, run, element)

    def triggers(self, run: Run, dataset: str) -> Floats:
        """Triggers of each lumisection of the run in a dataset, ``(n_ls,)``."""
        scale = _SCALES.get(dataset.split("/")[1], _OTHER_SCALE)
        return triggers(self.seed, run, dataset, self._beam(run), scale)

    def block(
        self, run: Run, dataset: str, number: int, *, me: str = "*", with_faults: bool = True
    ) -> Iterator[HistogramStack]:
        """Elements matching ``me`` in the ``number``-th `BLOCK_LS` lumisections of a run.

        Number -1 is the run as a whole: its per-run elements. Elements that a fault has taken away
        from all these lumisections do not come.
        """
        wanted = pattern(me)
        beam, fired = self._beam(run), self.triggers(run, dataset)
        kept = self.ls_numbers(run, dataset)
        for element in self.elements:
            if element.per_run is not (number < 0) or not wanted.fullmatch(element.me):
                continue
            prepared = self.prepared(run, element)
            with one_thread():
                if number < 0:
                    stack = sample_run(self.seed, prepared, beam, fired, dataset)
                else:
                    stack = sample_block(self.seed, prepared, beam, fired, number, dataset)
                if with_faults:
                    stack = self._with_faults(stack, run, dataset, number)
            if number >= 0:
                there = np.isin(stack.ls_numbers, kept)
                stack = stack if there.all() else stack._take(np.flatnonzero(there))
            if len(stack):
                yield stack

    def _with_faults(
        self, stack: HistogramStack, run: Run, dataset: str, number: int
    ) -> HistogramStack:
        for effect in self._effects_by_place.get((run.run_number, dataset, stack.me), ()):
            if not len(stack):
                break
            hit = (stack.ls_numbers >= effect.fault.first_ls) & (stack.ls_numbers <= effect.last_ls)
            whole_run = number < 0 and (
                effect.share == 1 or effect.fault.kind not in ("empty", "missing_element")
            )
            if hit.any() or whole_run:
                rng = stream(
                    self.seed, "fault", effect.number, run.run_number, dataset, stack.me, number + 1
                )
                lasting = dataclasses.replace(
                    effect.fault, n_ls=effect.last_ls - effect.fault.first_ls + 1
                )
                stack = inject(stack, lasting, rng, where=effect.where, share=effect.share)
        return stack

    @cached_property
    def _effects_by_place(self) -> dict[tuple[int, str, str], list[Effect]]:
        out: dict[tuple[int, str, str], list[Effect]] = {}
        for effect in self.effects:
            out.setdefault((effect.run_number, effect.dataset, effect.me), []).append(effect)
        return out

    def n_blocks(self, run: Run) -> int:
        """Number of blocks of lumisections of a run."""
        return -(-run.n_ls // BLOCK_LS)

    def stacks(
        self,
        run_number: int,
        me: str = "*",
        *,
        dataset: str | None = None,
        ls: LsSelection | None = None,
        with_faults: bool = True,
    ) -> Iterator[HistogramStack]:
        """Stacks of a run in memory, one by one: what the reader would give of the files.

        ``dataset`` is a full name, by default the first the run is in; ``with_faults=False`` gives
        the same lumisections as they would have been. KeyError if there is no such run or dataset.
        """
        run = self.run(run_number)
        there = [name for r, name in self.deliveries() if r is run]
        if dataset is None and there:
            dataset = there[0]
        if dataset not in there:
            raise KeyError(f"run {run_number} in {dataset}, want one of {', '.join(there)}")
        known = self.ls_numbers(run, dataset)
        for name in matching(me, [element.me for element in self.elements]):
            element = next(e for e in self.elements if e.me == name)
            blocks = (-1,) if element.per_run else range(self.n_blocks(run))
            parts = [
                stack
                for number in blocks
                for stack in self.block(run, dataset, number, me=name, with_faults=with_faults)
            ]
            if not parts:
                continue
            stack = concatenate(parts) if len(parts) > 1 else parts[0]
            if ls is not None:
                stack = stack._take(np.flatnonzero(as_ls_mask(stack.ls_numbers, ls)))
            if not element.per_run:
                stack = dataclasses.replace(stack, run_ls_numbers=known)
            yield stack

    def stack(self, run_number: int, me: str, **selection: Any) -> HistogramStack:
        """One element of a run: as `stacks`, but ValueError if ``me`` matches several."""
        found = list(self.stacks(run_number, me, **selection))
        if len(found) != 1:
            raise ValueError(f"{len(found)} elements match {me!r} in run {run_number}, want 1")
        return found[0]

    # -- certification ---------------------------------------------------------------------------

    def dcs(self) -> dict[str, list[list[int]]]:
        """Lumisections with stable beams and all detectors on, in CMS's format."""
        return self._ranges(lambda run: self._ready(run))

    def golden(self) -> dict[str, list[list[int]]]:
        """Lumisections that people certify: as `dcs`, without the faults that they see.

        They see what lasts `SEEN_BY_PEOPLE` lumisections; shorter faults stay in.
        """
        return self._ranges(lambda run: self._ready(run) & ~self.faulty(run, SEEN_BY_PEOPLE))

    def faulty(self, run: Run, at_least: int = 1) -> Mask:
        """Lumisections of a run with a fault of at least that length, ``(n_ls,)``."""
        bad = np.zeros(run.n_ls, dtype=bool)
        for effect in self.effects:
            n = effect.last_ls - effect.fault.first_ls + 1
            if effect.run_number == run.run_number and n >= at_least:
                bad[effect.fault.first_ls - 1 : effect.last_ls] = True
        return bad

    def _ready(self, run: Run) -> Mask:
        columns = ["beams_stable", "cms_active", *DETECTOR_FLAGS]
        return np.asarray(self._conditions(run)[columns].to_numpy(dtype=bool).all(axis=1))

    def _ranges(self, good_of: Any) -> dict[str, list[list[int]]]:
        out = {}
        for run in self.runs:
            found = [box[0] for box in boxes(good_of(run))]
            if found:
                out[str(run.run_number)] = found
        return out


@lru_cache(maxsize=400)
def _cached_prepared(seed: int, run: Run, element: Element) -> Prepared:
    return Prepared.of(seed, run, element)


@lru_cache(maxsize=400)
def _cached_conditions(seed: int, run: Run) -> pd.DataFrame:
    return conditions(seed, run)


@lru_cache(maxsize=400)
def _cached_beam(seed: int, run: Run) -> Beam:
    return Beam.of(_cached_conditions(seed, run))


def _can_have(fault: Fault, element: Element) -> bool:
    kind = FAULTS[fault.kind]
    profile = element.kind.startswith("TProfile")
    return len(element.axes) in kind.axes and (kind.profiles or not profile)


def _swapped(fault: Fault, where: Mask, element: Element) -> Mask | None:
    if fault.kind != "swap":
        return None
    _, there = partners(fault, where, element.axes)
    cells = np.zeros(tuple(n + 2 for n in where.shape), dtype=bool)
    cells[there] = True
    return cells[(slice(1, -1),) * where.ndim]


def _where(fault: Fault, element: Element) -> Mask:
    """Cells of a fault in an element, by its module if it names one."""
    if fault.module is None:
        mask = place(fault, element.axes)
    else:
        if element.model not in MODULES:
            raise ValueError(f"{element.me}: module {fault.module!r} of an element without modules")
        modules = MODULES[element.model](element)
        if fault.module not in modules.names:
            raise ValueError(
                f"{element.me}: module {fault.module!r}, want one of {len(modules.names)}: "
                f"{modules.names[0]} to {modules.names[-1]}"
            )
        inner = modules.ids[(slice(1, -1),) * len(element.axes)]
        mask = inner == modules.names.index(fault.module)
    if not mask.any():
        raise ValueError(f"{element.me}: {fault.kind} hits no bin")
    return mask


# -- making one ----------------------------------------------------------------------------------


def campaign(
    seed: int = 1,
    *,
    eras: Sequence[str] = ("Run2024F",),
    runs: int = 2,
    lumisections: int | Sequence[int] = 60,
    elements: str | Sequence[str] | Sequence[Element] = "demo",
    datasets: Sequence[str] = ("ZeroBias/PromptReco-v1",),
    faults: Sequence[Fault] = (),
    random_faults: int = 0,
    good_runs: int = 0,
) -> Campaign:
    """A campaign of ``runs`` runs in each of ``eras``, of ``lumisections`` each.

    ``elements`` is a preset's name, patterns of the catalogue, or elements. ``random_faults`` more
    faults are drawn from the seed; the first ``good_runs`` of each era get none of those.
    """
    check_seed(seed)
    chosen = _elements(elements)
    planned = plan_runs(seed, eras, runs, lumisections)
    plain = Campaign(seed, tuple(planned), chosen, tuple(datasets))
    more = draw_faults(plain, random_faults, good_runs) if random_faults else []
    return dataclasses.replace(plain, faults=(*faults, *more)) if faults or more else plain


def _elements(wanted: str | Sequence[str] | Sequence[Element]) -> tuple[Element, ...]:
    if isinstance(wanted, str):
        return elements(wanted)
    made = [item for item in wanted if isinstance(item, Element)]
    texts = [item for item in wanted if isinstance(item, str)]
    return (*made, *(elements(texts) if texts else ()))


def draw_faults(campaign: Campaign, n: int, good_runs: int = 0) -> list[Fault]:
    """``n`` faults of various kinds, drawn from the campaign's seed.

    The first ``good_runs`` of each era stay good. Raises ValueError if that leaves none.
    """
    rng = stream(campaign.seed, "draw faults")
    by_era: dict[str, list[Run]] = {}
    for run in campaign.runs:
        by_era.setdefault(run.era, []).append(run)
    runs = [run for members in by_era.values() for run in members[good_runs:]]
    if not runs:
        raise ValueError(
            f"{good_runs} good runs per era of {len(campaign.runs)}: none left to spoil"
        )
    kinds = list(FAULTS)
    rng.shuffle(kinds)
    out: list[Fault] = []
    attempt = 0
    while len(out) < n:
        kind = kinds[attempt % len(kinds)]
        attempt += 1
        candidates = [e for e in campaign.elements if _may_have(kind, e)]
        if candidates:
            element = candidates[int(rng.integers(len(candidates)))]
            run = runs[int(rng.integers(len(runs)))]
            out.append(_drawn(campaign, rng, kind, element, run))
        elif attempt > 10 * len(kinds):
            raise ValueError("none of the elements can have a fault")
    return out


_MAPS = ("*clusterposition*", "*ccupancy*", "*hRHGlobal*", "*depth*", "*numberOfSegments*")
_PLACES = (*_MAPS, "*_phi", "*_eta", "*Phi", "*Eta", "*Phi_*", "*Eta_*")
#: Elements to which some kinds of fault happen in nature.
_TYPICAL = {
    "gain_shift": ("*charge_*", "*ClusterStoN*", "*ClusterCharge*", "*_pt", "*/Pt", "*/MET"),
    "smear": ("*Residuals*", "*tagVtx*", "*tagDiff*", "*timing 1D*", "*DistanceOf*", "*Frac"),
    "timing_shift": ("*iming*",),
    "beamspot_jump": ("*tagVtx*", "*tagDiff*", "*clusterposition*"),
    **dict.fromkeys(("dead_cell", "hot_cell", "module_off", "hv_off", "swap"), _MAPS),
    **dict.fromkeys(("dead_region", "noisy_region", "glitch", "degradation"), _PLACES),
}


def _may_have(kind: str, element: Element) -> bool:
    typical = _TYPICAL.get(kind, ("*",))
    return (
        not element.per_run
        and _can_have(Fault(kind, element.me, x=(0, 0), x_to=0, strength=0.1), element)
        and any(pattern(text).fullmatch(element.me) for text in typical)
    )


def _drawn(
    campaign: Campaign, rng: np.random.Generator, kind: str, element: Element, run: Run
) -> Fault:
    shape = SHAPES[element.model](element, State(campaign.seed, run, 50.0))
    inner = shape[(slice(1, -1),) * len(element.axes)]
    drawn = int(rng.choice(inner.size, p=(inner / inner.sum()).ravel()))
    cell = tuple(int(at) for at in np.unravel_index(drawn, inner.shape))
    begin = max(2, -run.position + 4)
    n_ls = 1 if kind == "glitch" else int(rng.choice((1, 3, 10, 20, max(run.n_ls // 3, 1))))
    n_ls = max(1, min(n_ls, run.n_ls - begin))
    first = int(rng.integers(min(begin, run.n_ls), max(run.n_ls - n_ls, begin) + 1))
    first = min(first, run.n_ls - n_ls + 1)
    chosen: dict[str, Any] = {"run_number": run.run_number, "first_ls": first, "n_ls": n_ls}
    x = element.axes[0]
    line = inner.sum(axis=tuple(range(1, inner.ndim)))
    mean = float((line * x.centers).sum() / line.sum())
    rms = float(np.sqrt((line * (x.centers - mean) ** 2).sum() / line.sum()))
    info = FAULTS[kind]
    if info.place in ("cell", "region") or kind in ("glitch", "degradation", "timing_shift"):
        reach = 0 if info.place == "cell" else 2
        for name, axis, at in zip("xy", element.axes, cell, strict=False):
            low, high = max(at - reach, 0), min(at + reach, axis.n_bins - 1)
            chosen[name] = (float(axis.centers[low]), float(axis.centers[high]))
    if kind in ("module_off", "hv_off") and element.model in MODULES:
        modules = MODULES[element.model](element)
        number = int(modules.ids[tuple(at + 1 for at in cell)])
        if number >= 0:
            chosen = {k: v for k, v in chosen.items() if k not in "xy"}
            chosen["module"] = modules.names[number]
    if kind == "swap":
        width = int(min(5, x.n_bins // 2))
        start = int(min(cell[0], x.n_bins - width))
        start = start if start >= width else min(start, x.n_bins - 2 * width)
        other = start - width if start >= width else start + width
        chosen["x"] = (float(x.centers[start]), float(x.centers[start + width - 1]))
        chosen["x_to"] = float(x.centers[max(min(other, x.n_bins - width), 0)])
    if info.strength == FAULTS["hot_cell"].strength:
        chosen["strength"] = float(rng.choice((1.0, 3.0, 10.0)))
    elif info.highest == 1 and kind not in ("dead_cell", "empty", "missing_element"):
        chosen["strength"] = float(rng.choice((0.3, 0.5, 1.0)))
    elif kind in ("smear", "beamspot_jump", "timing_shift") and not element.kind.startswith("TP"):
        chosen["strength"] = rms * float(rng.choice((0.1, 0.3)))
    chosen["sign"] = int(rng.choice((-1, 1)))
    return Fault(kind, element.me, **chosen)


def run_stacks(
    elements: str | Sequence[str] = "small",
    *,
    seed: int = 1,
    era: str = "Run2024F",
    lumisections: int = 120,
    runs: int = 1,
    faults: Sequence[Fault] = (),
) -> tuple[list[HistogramStack], pd.DataFrame]:
    """Stacks of some runs in memory, and the conditions of their lumisections.

    For trying out a detector without files: stacks come by run, then element. The conditions are
    indexed by ``(run_number, ls_number)``.
    """
    made = campaign(
        seed, eras=[era], runs=runs, lumisections=lumisections, elements=elements, faults=faults
    )
    found = [stack for run in made.runs for stack in made.stacks(run.run_number)]
    return found, made.conditions()


def demo_campaign(seed: int = 1) -> Campaign:
    """The campaign of the demo: two eras, four good runs, two runs with faults to find."""
    return preset_campaign("demo", seed)


def preset_campaign(name: str, seed: int = 1, **changes: Any) -> Campaign:
    """A preset's campaign; ``changes`` are arguments of `campaign`.

    ``small`` takes a second, ``demo`` is what the demo shows, ``large`` has every element.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}, want one of {', '.join(PRESETS)}")
    defaults: dict[str, dict[str, Any]] = {
        "small": {"eras": ["Run2024F"], "runs": 2, "lumisections": 24, "elements": "small"},
        "demo": {
            "eras": ["Run2024E", "Run2024F"],
            "runs": 3,
            "lumisections": 80,
            "elements": "demo",
        },
        "large": {"eras": ["Run2024F"], "runs": 2, "lumisections": 1000, "elements": "large"},
    }
    chosen = {**defaults[name], **changes}
    if name != "demo" or "faults" in changes or "random_faults" in changes:
        return campaign(seed, **chosen)
    plain = campaign(seed, **chosen)
    return dataclasses.replace(plain, faults=tuple(_demo_faults(plain)))


def _demo_faults(made: Campaign) -> Iterator[Fault]:
    """Faults of the demo, in the last run of each era: some plain to see, some hard."""
    last = {run.era: run for run in made.runs}
    runs = list(last.values())
    scripted: tuple[tuple[str, str, float, float, dict[str, Any]], ...] = (
        (
            "module_off",
            "*clusterposition_zphi_ontrack_PXLayer_1",
            0.5,
            0.2,
            {"module": "ladder4_module4"},
        ),
        ("hv_off", "*EBOT digi occupancy", 0.3, 0.25, {"module": "EB+07", "strength": 0.5}),
        ("dead_cell", "*DigiTask/Occupancy/depth/depth1", 0.6, 0.3, {"x": (-5, -5), "y": (33, 33)}),
        ("gain_shift", "*PXBarrel/charge_PXLayer_2", 0.2, 0.4, {"strength": 0.05}),
        ("module_off", "*recHits/hRHGlobalm1", 0.7, 0.2, {"module": "ring2_chamber11"}),
        ("glitch", "*hRHGlobalm1", 0.45, 0, {"x": (100, 300), "y": (100, 300), "strength": 4.0}),
        (
            "noisy_region",
            "*EEOT digi occupancy EE +",
            0.15,
            0.15,
            {"x": (60, 75), "y": (60, 75), "strength": 0.8},
        ),
        (
            "timing_shift",
            "*EETMT timing map EE -",
            0.35,
            0.3,
            {"x": (50, 70), "y": (20, 40), "strength": 0.5},
        ),
        (
            "degradation",
            "*clusterposition_xy_ontrack_PXDisk_+1",
            0.25,
            0.7,
            {"x": (5, 15), "y": (2, 8), "strength": 0.5},
        ),
        ("partial_livetime", "DT/*W1", 0.8, 0.05, {"strength": 0.6}),
        ("missing_element", "*hORecHits", 0.9, 0.05, {}),
        ("beamspot_jump", "*tagVtxZ", 0.55, 0.4, {"strength": 0.8, "sign": 1}),
    )
    there = [element.me for element in made.elements]
    for number, (kind, me, start, length, more) in enumerate(scripted):
        if not any(pattern(me).fullmatch(name) for name in there):
            continue
        run = runs[number % len(runs)]
        first = max(1, round(start * run.n_ls))
        n_ls = (
            1 if kind == "glitch" else max(1, min(round(length * run.n_ls), run.n_ls - first + 1))
        )
        yield Fault(kind, me, run.run_number, first, n_ls, **more)
