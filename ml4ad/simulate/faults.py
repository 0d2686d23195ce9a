"""Faults with known place, time and strength, put into any good stack, simulated or real."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.simulate.sample import statistics_weights
from ml4ad.stack import Axis, Floats, HistogramStack

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Kind:
    """What a kind of fault is: its meaning, what strengths it takes and what place it wants.

    ``place`` is "cell" (one bin), "region" (a range on every axis, or a module), "any" (a region or
    everything) or "all" (everything, always). ``axes`` are the numbers of axes it applies to.
    """

    meaning: str
    strength: str
    lowest: float
    highest: float
    usual: float
    place: str
    axes: tuple[int, ...] = (1, 2, 3)
    profiles: bool = True


_INF = float("inf")
_LOSS = "fraction of the entries that is lost"
_EXCESS = "entries added per bin, in units of the mean of the filled bins"

#: Kind -> what it is.
FAULTS: Mapping[str, Kind] = {
    "dead_cell": Kind("one bin loses entries", _LOSS, 0, 1, 1.0, "cell"),
    "dead_region": Kind("a range of bins loses entries", _LOSS, 0, 1, 1.0, "region"),
    "module_off": Kind("a module, or a range, loses entries", _LOSS, 0, 1, 1.0, "region"),
    "hv_off": Kind("high voltage of a part is down", _LOSS, 0, 1, 0.5, "region"),
    "hot_cell": Kind("one bin fires too often", _EXCESS, 0, _INF, 10.0, "cell", profiles=False),
    "noisy_region": Kind("a range is noisy", _EXCESS, 0, _INF, 1.0, "region", profiles=False),
    "bump": Kind(
        "a Gaussian of too many entries around the place",
        "entries added, as a fraction of all",
        0,
        _INF,
        0.05,
        "region",
        profiles=False,
    ),
    "swap": Kind(
        "two ranges are exchanged, as by swapped cables",
        "fraction of the entries that goes the wrong way",
        0,
        1,
        1.0,
        "region",
    ),
    "gain_shift": Kind(
        "the scale of x (of the value, in a profile) changes",
        "relative change of the scale",
        0,
        10,
        0.05,
        "all",
        axes=(1,),
    ),
    "smear": Kind(
        "resolution along x is worse",
        "width of the smearing, in units of the x axis",
        0,
        _INF,
        0.0,
        "all",
        axes=(1, 2),
        profiles=False,
    ),
    "timing_shift": Kind(
        "x, or the value of a profile, moves",
        "shift, in units of the axis",
        0,
        _INF,
        1.0,
        "any",
    ),
    "beamspot_jump": Kind(
        "all entries move along x",
        "shift, in units of the x axis",
        0,
        _INF,
        0.0,
        "all",
        axes=(1, 2),
        profiles=False,
    ),
    "missing_element": Kind("the element is absent", "no meaning", 0, 1, 1.0, "all"),
    "empty": Kind("the histogram is there, but empty", "no meaning", 0, 1, 1.0, "all"),
    "partial_livetime": Kind("entries of part of the time only", _LOSS, 0, 1, 0.5, "all"),
    "glitch": Kind(
        "a burst of entries in a single lumisection", _EXCESS, 0, _INF, 3.0, "any", profiles=False
    ),
    "degradation": Kind(
        "a loss that grows steadily until it has its strength", _LOSS, 0, 1, 0.3, "any"
    ),
}

_GONE = ("missing_element", "empty")


@dataclass(frozen=True)
class Fault:
    """A fault: what, where, from when to when, how strong.

    ``kind`` is one of `FAULTS`, which tell what ``strength`` means (default: the usual one). ``me``
    is a name or pattern (``*``, ``?``); ``dataset`` likewise; ``run_number`` None means every run.
    It lasts from ``first_ls`` for ``n_ls`` lumisections (None: to the end of the run). ``x`` and
    ``y`` are ranges ``(low, high)`` in the units of the axes, ends included: bins whose middle lies
    there, or the one bin that holds the point; a missing one means the whole axis. ``module`` names
    a module of the element instead. ``x_to``, ``y_to``: where a swap's partner begins. ``sign`` is
    the direction of shifts and gains.
    """

    kind: str
    me: str
    run_number: int | None = None
    first_ls: int = 1
    n_ls: int | None = None
    strength: float | None = None
    x: tuple[float, float] | None = None
    y: tuple[float, float] | None = None
    x_to: float | None = None
    y_to: float | None = None
    module: str | None = None
    sign: int = -1
    dataset: str = "*"

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"fault {self.kind!r}, want one of {', '.join(FAULTS)}")
        kind = FAULTS[self.kind]
        strength = kind.usual if self.strength is None else float(self.strength)
        if not (kind.lowest <= strength <= kind.highest and np.isfinite(strength)):
            raise ValueError(
                f"{self.kind} of strength {strength:g}, want {kind.lowest:g} to {kind.highest:g} "
                f"({kind.strength})"
            )
        if strength == 0:
            raise ValueError(f"{self.kind} of strength 0, want more ({kind.strength})")
        object.__setattr__(self, "strength", strength)
        if self.kind == "glitch" and self.n_ls is None:
            object.__setattr__(self, "n_ls", 1)
        if self.kind == "glitch" and self.n_ls != 1:
            raise ValueError(f"glitch of {self.n_ls} lumisections, want 1")
        self._check_place(kind)
        if self.first_ls < 1 or (self.n_ls is not None and self.n_ls < 1):
            raise ValueError(
                f"{self.kind}: {self.n_ls} lumisections from {self.first_ls}, want 1 or more from 1"
            )
        if self.sign not in (-1, 1):
            raise ValueError(f"{self.kind}: sign {self.sign}, want 1 or -1")

    def _check_place(self, kind: Kind) -> None:
        for name in ("x", "y"):
            span = getattr(self, name)
            if span is not None:
                low, high = (float(end) for end in span)
                if not (low <= high and np.isfinite([low, high]).all()):
                    raise ValueError(f"{self.kind}: {name} from {low:g} to {high:g}, want rising")
                object.__setattr__(self, name, (low, high))
        placed = self.x is not None or self.y is not None or self.module is not None
        if kind.place in ("cell", "region") and not placed:
            raise ValueError(f"{self.kind} without a place, want x, y or module")
        if self.kind == "swap" and self.x_to is None and self.y_to is None:
            raise ValueError("swap without a partner, want x_to or y_to")

    @property
    def size(self) -> float:
        """The strength, never None."""
        assert self.strength is not None  # noqa: S101 (set on creation; for the type checker)
        return self.strength

    def last_ls(self, last_of_run: int) -> int:
        """Last lumisection that is bad."""
        return last_of_run if self.n_ls is None else self.first_ls + self.n_ls - 1

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Fault written as ``key=value`` pairs with commas between.

        Keys are the fields; ``run`` stands for ``run_number`` and ``ls=100-120`` for ``first_ls``
        and ``n_ls``. Ranges are ``low:high``. Raises ValueError for anything else.

        >>> Fault.parse("kind=dead_region,me=A/b,run=382255,ls=3-5,x=-1:2.5").n_ls
        3
        """
        given: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            name = name.strip()
            if not equals:
                raise ValueError(f"{part!r} in a fault, want key=value")
            given[name] = value.strip()
        return cls.from_mapping(given)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Fault:
        """Fault from texts or numbers by the names that `parse` knows."""
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name == "run":
                values["run_number"] = int(value)
            elif name == "ls":
                first, dash, last = str(value).partition("-")
                values["first_ls"] = int(first)
                values["n_ls"] = int(last) - int(first) + 1 if dash else 1
            elif name not in known:
                wanted = ", ".join(sorted({*known, "run", "ls"}))
                raise ValueError(f"{name!r} in a fault, want {wanted}")
            elif value is None:
                continue
            elif name in ("run_number", "first_ls", "n_ls", "sign"):
                values[name] = int(value)
            elif name in ("strength", "x_to", "y_to"):
                values[name] = float(value)
            elif name in ("x", "y"):
                values[name] = _span(value)
            else:
                values[name] = str(value)
        for name in ("kind", "me"):
            if name not in values:
                raise ValueError(f"fault without {name}: {dict(given)}")
        return cls(**values)


def _span(value: Any) -> tuple[float, float]:
    ends = value.split(":") if isinstance(value, str) else np.atleast_1d(value).tolist()
    if not 1 <= len(ends) <= 2:
        raise ValueError(f"range {value!r}, want low:high")
    return float(ends[0]), float(ends[-1])


# -- where -----------------------------------------------------------------------------------------


def bins_in(axis: Axis, span: tuple[float, float] | None) -> slice:
    """Bins of ``axis`` in the range, as a slice of its bins (flow not counted).

    Raises ValueError if the range is not on the axis.
    """
    if span is None:
        return slice(0, axis.n_bins)
    low, high = span
    edges = axis.edges
    if low < edges[0] or high > edges[-1]:
        raise ValueError(
            f"{axis.title or axis.name}: {low:g} to {high:g}, want within {edges[0]:g} to "
            f"{edges[-1]:g}"
        )
    first = int(np.searchsorted(axis.centers, low, side="left"))
    end = int(np.searchsorted(axis.centers, high, side="right"))
    if end <= first:
        first = min(int(np.searchsorted(edges, low, side="right")) - 1, axis.n_bins - 1)
        end = first + 1
    return slice(first, end)


def place(fault: Fault, axes: Sequence[Axis]) -> Mask:
    """Cells that ``fault`` hits, without flow; ValueError if it is not on the axes."""
    mask = np.zeros(tuple(axis.n_bins for axis in axes), dtype=bool)
    if FAULTS[fault.kind].place == "all":
        mask[...] = True
        return mask
    if len(axes) < 2 and fault.y is not None:
        raise ValueError(f"{fault.kind}: y of an element with one axis")
    spans = [fault.x, fault.y, None][: len(axes)]
    slices = [bins_in(axis, span) for axis, span in zip(axes, spans, strict=True)]
    if FAULTS[fault.kind].place == "cell":
        sizes = [s.stop - s.start for s in slices]
        if max(sizes) > 1:
            raise ValueError(f"{fault.kind} of {' x '.join(map(str, sizes))} bins, want one")
    mask[tuple(slices)] = True
    return mask


def boxes(mask: Mask) -> list[list[list[int]]]:
    """The cells as boxes of ROOT's bin numbers (from 1), ends included, one range per axis.

    >>> boxes(np.array([False, True, True, False]))
    [[[2, 3]]]
    """
    if mask.ndim == 1:
        edges = np.flatnonzero(np.diff(np.pad(mask.astype(np.int8), 1)))
        return [[[int(a) + 1, int(b)]] for a, b in edges.reshape(-1, 2)]
    out: list[list[list[int]]] = []
    start = 0
    while start < len(mask):
        stop = start + 1
        while stop < len(mask) and np.array_equal(mask[stop], mask[start]):
            stop += 1
        out += [[[start + 1, stop], *rest] for rest in boxes(mask[start])]
        start = stop
    return out


# -- what ------------------------------------------------------------------------------------------


def inject(
    stack: HistogramStack,
    fault: Fault,
    rng: np.random.Generator,
    *,
    where: Mask | None = None,
    share: float = 1.0,
) -> HistogramStack:
    """``stack`` with ``fault`` in the lumisections that it names; all others are not touched.

    Losses are binomial, excess is Poisson, shifts move every entry on its own: what comes out has
    the fluctuations of real data. ``where`` gives the cells (without flow) in place of the fault's
    ranges; ``share`` is the part of the entries concerned, of an element that sees the fault only
    in part. Entries and ROOT's running sums change by what was moved; ``me``, ``dataset`` and
    ``run_number`` of the fault are not looked at. Raises ValueError if the fault is off the axes,
    cannot happen to this kind of element, or the contents are no counts.
    """
    kind = FAULTS[fault.kind]
    if len(stack.axes) not in kind.axes or (stack.is_profile and not kind.profiles):
        raise ValueError(f"{stack.me}: {fault.kind} cannot happen to a {stack.kind}")
    mask = place(fault, stack.axes) if where is None else where
    last = fault.last_ls(int(stack.ls_numbers[-1])) if len(stack) else 0
    rows = (stack.ls_numbers >= fault.first_ls) & (stack.ls_numbers <= last)
    if 0 in stack.ls_numbers:
        rows |= stack.ls_numbers == 0
    if not rows.any():
        return stack
    if fault.kind == "missing_element":
        return stack if share < 1 else stack._take(np.flatnonzero(~rows))
    if fault.kind in ("gain_shift", "timing_shift") and stack.is_profile:
        return _shift_values(stack, fault, rows, mask, share)
    counts = _counts(stack)[rows]
    ramp = np.ones(len(counts))
    if fault.kind == "degradation":
        n = max(last - fault.first_ls + 1, 1)
        ramp = np.clip((stack.ls_numbers[rows] - fault.first_ls + 1) / n, 0, 1)
        ramp = np.where(stack.ls_numbers[rows] == 0, 0.5, ramp)
    after = _CHANGES[fault.kind](counts, fault, rng, mask, stack.axes, share * ramp)
    if stack.contents.dtype.kind == "i":
        after = np.minimum(after, np.iinfo(stack.contents.dtype).max)
    return _with_counts(stack, rows, counts, after)


def _counts(stack: HistogramStack) -> Floats:
    """Entries per cell as whole numbers, flow included, float64."""
    source = stack.contents if stack.sum_of_weights is None else stack.sum_of_weights
    counts = source.astype(np.float64)
    if (counts < 0).any() or not np.array_equal(counts, np.rint(counts)):
        raise ValueError(f"{stack.me}: contents are no counts, as a fault needs them")
    return counts


def _lose(
    counts: Floats,
    fault: Fault,
    rng: np.random.Generator,
    mask: Mask,
    axes: tuple[Axis, ...],
    share: Floats,
) -> Floats:
    del axes
    after = counts.copy()
    # A fault of everything takes the flow cells too.
    padded = np.pad(mask, 1, constant_values=bool(mask.all()))
    kept = 1 - fault.size * share
    after[:, padded] = rng.binomial(counts[:, padded].astype(np.int64), kept[:, None])
    return after


def _add(
    counts: Floats,
    fault: Fault,
    rng: np.random.Generator,
    mask: Mask,
    axes: tuple[Axis, ...],
    share: Floats,
) -> Floats:
    del axes
    after = counts.copy()
    filled = np.maximum((counts > 0).sum(axis=tuple(range(1, counts.ndim))), 1)
    typical = counts.sum(axis=tuple(range(1, counts.ndim))) / filled
    padded = np.pad(mask, 1)
    added = fault.size * share * typical
    after[:, padded] += rng.poisson(added[:, None], (len(counts), int(padded.sum())))
    return after


def _bump(
    counts: Floats,
    fault: Fault,
    rng: np.random.Generator,
    mask: Mask,
    axes: tuple[Axis, ...],
    share: Floats,
) -> Floats:
    del axes
    shape = np.ones(mask.shape)
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        at = np.flatnonzero(mask.any(axis=others))
        middle, width = (at[0] + at[-1]) / 2, max((at[-1] - at[0] + 1) / 4, 0.5)
        line = np.exp(-0.5 * ((np.arange(mask.shape[axis]) - middle) / width) ** 2)
        shape *= line.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
    shape = np.pad(shape / shape.sum(), 1)
    total = counts.sum(axis=tuple(range(1, counts.ndim))) * fault.size * share
    return counts + rng.poisson(total.reshape(-1, *[1] * mask.ndim) * shape)


def _swap(
    counts: Floats,
    fault: Fault,
    rng: np.random.Generator,
    mask: Mask,
    axes: tuple[Axis, ...],
    share: Floats,
) -> Floats:
    here, there = partners(fault, mask, axes)
    after = counts.copy()
    first, second = counts[(slice(None), *here)], counts[(slice(None), *there)]
    moved = (fault.size * share).reshape(-1, *[1] * mask.ndim)
    out = rng.binomial(first.astype(np.int64), moved)
    back = rng.binomial(second.astype(np.int64), moved)
    after[(slice(None), *here)] = first - out + back
    after[(slice(None), *there)] = second - back + out
    return after


def partners(
    fault: Fault, mask: Mask, axes: Sequence[Axis]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The two ranges of a swap as slices of cells with flow; they have the same size.

    ``mask`` are the cells of the first. Raises ValueError if the second is off the axes, or meets
    the first.
    """
    here, there = [], []
    for number, axis in enumerate(axes):
        others = tuple(a for a in range(mask.ndim) if a != number)
        at = np.flatnonzero(mask.any(axis=others))
        start, size = int(at[0]), len(at)
        to = (fault.x_to, fault.y_to, None)[number]
        first = start if to is None else bins_in(axis, (to, to)).start
        if first + size > axis.n_bins:
            raise ValueError(
                f"{axis.title or axis.name}: a swap of {size} bins from {to:g}, want them to end "
                f"by {axis.edges[-1]:g}"
            )
        here.append(slice(start + 1, start + size + 1))
        there.append(slice(first + 1, first + size + 1))
    if all(abs(a.start - b.start) < a.stop - a.start for a, b in zip(here, there, strict=True)):
        raise ValueError("swap of ranges that overlap, want them apart")
    return tuple(here), tuple(there)


def _empty(counts: Floats, *others: object) -> Floats:
    del others
    return np.zeros_like(counts)


def _move(
    counts: Floats,
    fault: Fault,
    rng: np.random.Generator,
    mask: Mask,
    axes: tuple[Axis, ...],
    share: Floats,
) -> Floats:
    """Every entry moves along x by chance, as `_transport` says."""
    target = _transport(axes[0], fault)
    inside = np.pad(mask, 1, constant_values=bool(mask.all()))
    moving = np.where(inside, counts, 0).astype(np.int64)
    if (share < 1).any():
        moving = rng.binomial(moving, share.reshape(-1, *[1] * mask.ndim))
    after = counts - moving
    for source in range(target.shape[0]):
        to = np.flatnonzero(target[source])
        entries = moving[:, source]
        if not entries.any():
            continue
        spread = rng.multinomial(entries, target[source, to] / target[source, to].sum())
        after[:, to] += np.moveaxis(spread, -1, 1)
    return after


def _transport(axis: Axis, fault: Fault) -> Floats:
    """Chance that an entry of one cell of x ends in another, ``(n + 2, n + 2)``.

    Entries are taken as spread evenly over their bin; flow cells keep theirs.
    """
    n, edges = axis.n_bins, axis.edges
    out = np.zeros((n + 2, n + 2))
    out[0, 0] = out[-1, -1] = 1
    bounds = np.concatenate([[-np.inf], edges, [np.inf]])
    parts = 16 if fault.kind == "smear" else 1
    for i in range(n):
        width = (edges[i + 1] - edges[i]) / parts
        for part in range(parts):
            low = edges[i] + part * width
            high = low + width
            if fault.kind == "gain_shift":
                low, high = (
                    low * (1 + fault.sign * fault.size),
                    high * (1 + fault.sign * fault.size),
                )
            elif fault.kind != "smear":
                low, high = low + fault.sign * fault.size, high + fault.sign * fault.size
            if fault.kind == "smear":
                from scipy.special import ndtr

                below = ndtr((bounds - (low + high) / 2) / fault.size)
            else:
                low, high = min(low, high), max(low, high)
                below = np.clip((bounds - low) / max(high - low, 1e-300), 0, 1)
            out[i + 1] += np.diff(below) / parts
    out[out < 1e-12] = 0
    return out / out.sum(axis=1, keepdims=True)


_CHANGES: Mapping[str, Callable[..., Floats]] = {
    **dict.fromkeys(
        (
            "dead_cell",
            "dead_region",
            "module_off",
            "hv_off",
            "partial_livetime",
            "degradation",
        ),
        _lose,
    ),
    **dict.fromkeys(("hot_cell", "noisy_region", "glitch"), _add),
    **dict.fromkeys(("gain_shift", "smear", "timing_shift", "beamspot_jump"), _move),
    "bump": _bump,
    "swap": _swap,
    "empty": _empty,
}


def _with_counts(
    stack: HistogramStack, rows: Mask, before: Floats, after: Floats
) -> HistogramStack:
    """``stack`` with the counts of ``rows`` changed, and all that follows from them."""
    changed: dict[str, Any] = {}
    difference = (after - before).reshape(len(before), -1)
    entries = stack.entries.copy()
    entries[rows] = np.maximum(entries[rows] + difference.sum(axis=1), 0)
    changed["entries"] = entries
    weights = statistics_weights(stack.kind, stack.axes)
    statistics = stack.statistics.copy()
    known = np.abs(statistics[rows]).max(axis=1, initial=0) > 0
    moved = np.zeros((len(before), statistics.shape[1]))
    moved[:, : weights.shape[1]] = difference @ weights
    statistics[rows] += moved * known[:, None]
    if stack.sum_of_weights is None:
        contents = stack.contents.copy()
        contents[rows] = after
        changed["contents"] = contents
        if stack.sumw2 is not None:
            changed["sumw2"] = _replaced(
                stack.sumw2, rows, _scaled(stack.sumw2[rows], before, after)
            )
    else:
        _profile_sums(stack, rows, before, after, changed)
        inside = weights[:, 0]
        for column, name in ((-2, "contents"), (-1, "sumw2")):
            old = getattr(stack, name)[rows].reshape(len(before), -1)
            new = changed[name][rows].reshape(len(before), -1)
            statistics[rows, column] += ((new - old) @ inside) * known
    at = np.flatnonzero(rows)[after.reshape(len(after), -1).max(axis=1, initial=0) == 0]
    statistics[at] = 0
    entries[at] = 0
    changed["statistics"] = statistics
    return dataclasses.replace(stack, **changed)


def _scaled(values: Floats, before: Floats, after: Floats) -> Floats:
    """``values`` in proportion to the counts; a cell that was empty gets the counts themselves."""
    ratio = np.divide(after, before, out=np.zeros_like(after), where=before > 0)
    return np.where(before > 0, values * ratio, after)


def _profile_sums(
    stack: HistogramStack, rows: Mask, before: Floats, after: Floats, changed: dict[str, Any]
) -> None:
    """Sums of a profile in proportion to its entries, so that its means stay."""
    for name in ("contents", "sumw2", "sum_of_weights", "sum_of_weights_squared"):
        array = getattr(stack, name)
        if array is None:
            continue
        new = after if name == "sum_of_weights" else _proportional(array[rows], before, after)
        changed[name] = _replaced(array, rows, new)


def _proportional(values: Floats, before: Floats, after: Floats) -> Floats:
    ratio = np.divide(after, before, out=np.zeros_like(after), where=before > 0)
    return values * ratio


def _replaced(array: NDArray[Any], rows: Mask, new: Floats) -> NDArray[Any]:
    out = array.copy()
    out[rows] = new
    return out


def _shift_values(
    stack: HistogramStack, fault: Fault, rows: Mask, mask: Mask, share: float
) -> HistogramStack:
    """A profile whose quantity moves by a constant, or by a factor, in the masked cells."""
    assert stack.sum_of_weights is not None and stack.sumw2 is not None  # noqa: S101, PT018
    counts = stack.sum_of_weights[rows]
    inside = np.pad(mask, 1, constant_values=bool(mask.all()))
    sums, squares = stack.contents[rows], stack.sumw2[rows]
    move = fault.sign * fault.size * share
    if fault.kind == "gain_shift":
        new_sums, new_squares = sums * (1 + move), squares * (1 + move) ** 2
    else:
        new_sums = sums + move * counts
        new_squares = squares + 2 * move * sums + move**2 * counts
    new_sums, new_squares = np.where(inside, new_sums, sums), np.where(inside, new_squares, squares)
    statistics = stack.statistics.copy()
    in_range = statistics_weights(stack.kind, stack.axes)[:, 0]
    n = len(sums)
    statistics[rows, -2] += (new_sums - sums).reshape(n, -1) @ in_range
    statistics[rows, -1] += (new_squares - squares).reshape(n, -1) @ in_range
    return dataclasses.replace(
        stack,
        contents=_replaced(stack.contents, rows, new_sums),
        sumw2=_replaced(stack.sumw2, rows, new_squares),
        statistics=statistics,
    )
