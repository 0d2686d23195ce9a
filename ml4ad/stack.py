"""The thing that flows: all lumisections of one monitoring element of one run, as one array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import hist
    import pandas as pd
    import xarray as xr

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
LsSelection: TypeAlias = "int | slice | Iterable[int] | Iterable[Sequence[int]]"

#: Kinds of DQMIO histograms, with their number of axes and the dtype of their contents.
KINDS: Mapping[str, tuple[int, str]] = {
    "TH1F": (1, "f4"),
    "TH1S": (1, "i2"),
    "TH1D": (1, "f8"),
    "TH2F": (2, "f4"),
    "TH2S": (2, "i2"),
    "TH2D": (2, "f8"),
    "TH3F": (3, "f4"),
    "TProfile": (1, "f8"),
    "TProfile2D": (2, "f8"),
    "TH1I": (1, "i4"),
    "TH2I": (2, "i4"),
}

_MOMENTS = {
    1: ("sumw", "sumw2", "sumwx", "sumwx2"),
    2: ("sumw", "sumw2", "sumwx", "sumwx2", "sumwy", "sumwy2", "sumwxy"),
    3: (
        *("sumw", "sumw2", "sumwx", "sumwx2", "sumwy", "sumwy2", "sumwxy"),
        *("sumwz", "sumwz2", "sumwxz", "sumwyz"),
    ),
}


def statistics_names(kind: str) -> tuple[str, ...]:
    """Names of the running sums that ROOT keeps for ``kind``, in the order of ``TH1::GetStats``.

    >>> statistics_names("TProfile")
    ('sumw', 'sumw2', 'sumwx', 'sumwx2', 'sumwy', 'sumwy2')
    """
    n_axes = KINDS[kind][0]
    if not is_profile(kind):
        return _MOMENTS[n_axes]
    value = "xyz"[n_axes]
    return (*_MOMENTS[n_axes], f"sumw{value}", f"sumw{value}2")


def is_profile(kind: str) -> bool:
    """Whether a bin of ``kind`` holds the mean of a quantity rather than a count.

    >>> is_profile("TProfile2D"), is_profile("TH2F")
    (True, False)
    """
    return kind.startswith("TProfile")


@dataclass(frozen=True, eq=False)
class Axis:
    """Bin edges, title and labels of one axis.

    ``edges`` is ``(n + 1,)`` and rises strictly. ``labels`` is empty or one text per bin ("" where
    a bin has none). ``variable`` says that the file listed every edge, rather than two limits.
    Raises ValueError if the edges do not rise, are not finite, or the labels are not one per bin.

    >>> Axis.regular(4, 0, 2, title="pT [GeV]").edges
    array([0. , 0.5, 1. , 1.5, 2. ])
    """

    edges: Floats
    title: str = ""
    name: str = "xaxis"
    labels: tuple[str, ...] = ()
    variable: bool = False

    def __post_init__(self) -> None:
        edges = np.array(self.edges, dtype=np.float64)
        if edges.ndim != 1 or len(edges) < 2:
            raise ValueError(f"edges of shape {edges.shape}, want (n_bins + 1,) with n_bins >= 1")
        if not np.isfinite(edges).all():
            raise ValueError(f"axis {self.title or self.name!r}: edges must be finite")
        if not (np.diff(edges) > 0).all():
            at = int(np.argmin(np.diff(edges)))
            raise ValueError(
                f"axis {self.title or self.name!r} does not rise: edge {at} is {edges[at]}, "
                f"edge {at + 1} is {edges[at + 1]}"
            )
        if self.labels and len(self.labels) != len(edges) - 1:
            raise ValueError(f"{len(self.labels)} labels for {len(edges) - 1} bins, want one each")
        edges.setflags(write=False)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "labels", tuple(self.labels))

    @classmethod
    def regular(
        cls,
        n_bins: int,
        low: float,
        high: float,
        *,
        title: str = "",
        name: str = "xaxis",
        labels: Sequence[str] = (),
    ) -> Axis:
        """Axis of ``n_bins`` bins of equal width from ``low`` to ``high``."""
        if n_bins < 1 or not high > low:
            raise ValueError(f"{n_bins} bins from {low} to {high}: want at least one, rising")
        edges: Floats = low + np.arange(n_bins + 1, dtype=np.float64) * ((high - low) / n_bins)
        edges[-1] = high
        return cls(edges, title=title, name=name, labels=tuple(labels))

    @property
    def n_bins(self) -> int:
        """Number of bins without underflow and overflow."""
        return len(self.edges) - 1

    @property
    def centers(self) -> Floats:
        """Middle of every bin, ``(n_bins,)``."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    @property
    def widths(self) -> Floats:
        """Width of every bin, ``(n_bins,)``."""
        return np.diff(self.edges)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Axis):
            return NotImplemented
        return self.same_binning(other) and (self.title, self.name, self.labels, self.variable) == (
            other.title,
            other.name,
            other.labels,
            other.variable,
        )

    def __hash__(self) -> int:
        return hash((self.edges.tobytes(), self.title, self.name, self.labels, self.variable))

    def __repr__(self) -> str:
        spacing = "variable bins" if self.variable else "bins"
        named = f", {self.title!r}" if self.title else ""
        labelled = ", labelled" if self.labels else ""
        span = f"{self.edges[0]:g} to {self.edges[-1]:g}"
        return f"Axis({self.n_bins} {spacing}, {span}{named}{labelled})"

    def same_binning(self, other: Axis) -> bool:
        """Whether both axes have exactly the same edges; titles and labels may differ."""
        return np.array_equal(self.edges, other.edges)

    def rebin(self, factor: int) -> Axis:
        """Axis with ``factor`` neighbours joined; ValueError if that does not divide them."""
        if factor < 1 or self.n_bins % factor:
            raise ValueError(f"rebin by {factor}: want a divisor of {self.n_bins} bins")
        if factor == 1:
            return self
        return dataclasses.replace(self, edges=self.edges[::factor], labels=())

    def to_hist(self, name: str) -> Any:
        """``hist.axis`` with these edges and the title as label (bin labels in ``.labels``)."""
        import hist

        if self.variable:
            axis = hist.axis.Variable(self.edges, name=name, label=self.title)
        else:
            low, high = float(self.edges[0]), float(self.edges[-1])
            axis = hist.axis.Regular(self.n_bins, low, high, name=name, label=self.title)
        axis.labels = self.labels
        return axis


def as_ls_mask(ls_numbers: Ints, wanted: LsSelection) -> NDArray[np.bool_]:
    """Which of ``ls_numbers`` are ``wanted``, ``(n_ls,)``.

    ``wanted`` is one number, an iterable of numbers, an iterable of inclusive ``[first, last]``
    pairs (as in certification JSON), or a slice of numbers with its end included (as pandas'
    ``.loc``).

    >>> as_ls_mask(np.array([1, 2, 5, 9]), [[2, 5], [9, 9]])
    array([False,  True,  True,  True])
    """
    if isinstance(wanted, slice):
        if wanted.step not in (None, 1):
            raise ValueError(f"step {wanted.step}: lumisections are taken one by one")
        low = -np.inf if wanted.start is None else wanted.start
        high = np.inf if wanted.stop is None else wanted.stop
        return (ls_numbers >= low) & (ls_numbers <= high)
    if isinstance(wanted, int | np.integer):
        return ls_numbers == wanted
    items = list(wanted)
    if any(isinstance(item, Sequence) or np.ndim(item) for item in items):  # type: ignore[arg-type]
        mask = np.zeros(len(ls_numbers), dtype=bool)
        for item in items:
            pair = np.asarray(item)
            if pair.shape != (2,):
                raise ValueError(f"{item!r}: want pairs [first, last] of lumisections")
            mask |= (ls_numbers >= pair[0]) & (ls_numbers <= pair[1])
        return mask
    return np.isin(ls_numbers, np.asarray(items, dtype=np.int64))


_PER_LS = ("contents", "entries", "sumw2", "sum_of_weights", "sum_of_weights_squared", "statistics")


@dataclass(frozen=True, eq=False, repr=False)
class HistogramStack:
    """All lumisections of one monitoring element of one run, flow bins included.

    Axis 0 of every array is the lumisection (``ls_numbers``, sorted, each once), then x, y, z.

    * ``contents`` ``(n_ls, nx+2[, ny+2[, nz+2]])`` in the file's dtype: ROOT's cells, index 0
      underflow, -1 overflow. Of a profile: the sums of weight times value.
    * ``entries`` ``(n_ls,)`` float64: ROOT's number of fills.
    * ``sumw2``: as contents, float64, or None where the file has none: ROOT's Sumw2 (sum of squared
      weights; of a profile the sums of weight times squared value).
    * ``sum_of_weights``, ``sum_of_weights_squared``: of profiles only, as in hist's WeightedMean
      storage; the second is None where the weights were all 1.
    * ``statistics`` ``(n_ls, n)`` float64: ROOT's running sums, named by
      ``statistics_names(kind)``; zeros where unknown.
    * ``run_ls_numbers``: every lumisection that the source knows of this run; ``missing`` is what
      is not here. None where the source does not know.
    * ``error_mode``, ``value_range``: of profiles only: ROOT's error option ("" or "s", "i", "g")
      and the limits of the value axis (equal: none).
    """

    me: str
    kind: str
    run_number: int
    ls_numbers: Ints
    axes: tuple[Axis, ...]
    contents: NDArray[Any]
    entries: Floats
    sumw2: Floats | None = None
    sum_of_weights: Floats | None = None
    sum_of_weights_squared: Floats | None = None
    statistics: Floats = field(default_factory=lambda: np.empty((0, 0)))
    dataset: str = ""
    title: str = ""
    flags: int = 0
    error_mode: str = ""
    value_range: tuple[float, float] = (0.0, 0.0)
    run_ls_numbers: Ints | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}, want one of {', '.join(KINDS)}")
        ls_numbers = np.asarray(self.ls_numbers, dtype=np.int64)
        object.__setattr__(self, "ls_numbers", ls_numbers)
        object.__setattr__(self, "axes", tuple(self.axes))
        n_ls = len(ls_numbers)
        if ls_numbers.ndim != 1 or (n_ls > 1 and not (np.diff(ls_numbers) > 0).all()):
            raise ValueError(
                f"{self.me}: lumisection numbers must rise, each once; got {ls_numbers}"
            )
        if len(self.axes) != KINDS[self.kind][0]:
            raise ValueError(f"{self.me}: a {self.kind} with {len(self.axes)} axes")
        shape = (n_ls, *(axis.n_bins + 2 for axis in self.axes))
        if self.statistics.shape == (0, 0):
            zeros = np.zeros((n_ls, len(statistics_names(self.kind))))
            object.__setattr__(self, "statistics", zeros)
        for name in ("contents", "sumw2", "sum_of_weights", "sum_of_weights_squared"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{self.me}: {name} of shape {array.shape}, want {shape}")
        if self.entries.shape != (n_ls,):
            raise ValueError(f"{self.me}: entries of shape {self.entries.shape}, want {(n_ls,)}")
        if self.statistics.shape != (n_ls, len(statistics_names(self.kind))):
            raise ValueError(f"{self.me}: statistics of shape {self.statistics.shape}")
        if is_profile(self.kind) and (self.sum_of_weights is None or self.sumw2 is None):
            raise ValueError(f"{self.me}: a profile needs sum_of_weights and sumw2")

    @classmethod
    def from_arrays(
        cls,
        contents: ArrayLike,
        axes: Axis | Sequence[Axis] | Sequence[ArrayLike],
        *,
        ls_numbers: ArrayLike,
        run_number: int,
        me: str,
        kind: str | None = None,
        dataset: str = "",
        title: str = "",
        entries: ArrayLike | None = None,
        sumw2: ArrayLike | None = None,
        sum_of_weights: ArrayLike | None = None,
        sum_of_weights_squared: ArrayLike | None = None,
    ) -> HistogramStack:
        """Stack of an analyst's own arrays, in any order of lumisections.

        ``contents`` is ``(n_ls, nx[, ny[, nz]])`` or the same with flow bins (two more per axis);
        so are the other arrays. ``axes`` holds an `Axis`, or edges, per axis. ``kind`` follows from
        the dtype if not given (float32 TH1F, float64 TH1D, int16 TH1S, int32 TH1I, and so on; other
        integers are taken as float64). ``entries`` is the sum of the contents if not given. Raises
        ValueError if shapes disagree, a lumisection occurs twice or is negative.

        >>> stack = HistogramStack.from_arrays(
        ...     [[1.0, 2.0]], [[0, 1, 2]], ls_numbers=[7], run_number=1, me="A/b"
        ... )
        >>> stack.contents
        array([[0., 1., 2., 0.]])
        """
        values = np.asarray(contents)
        listed: Sequence[Any] = [axes] if isinstance(axes, Axis) else axes
        built = tuple(
            axis
            if isinstance(axis, Axis)
            else Axis(np.asarray(axis, dtype=np.float64), name=f"{'xyz'[i]}axis", variable=True)
            for i, axis in enumerate(listed)
        )
        if values.ndim != len(built) + 1:
            raise ValueError(f"{me}: contents of {values.ndim} dimensions for {len(built)} axes")
        dtype, kind = _kind_of(values.dtype, len(built), kind)
        numbers = np.asarray(ls_numbers, dtype=np.int64)
        if numbers.shape != values.shape[:1]:
            raise ValueError(f"{me}: {numbers.shape} lumisections for {values.shape[0]} histograms")
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        repeated = numbers[1:][np.diff(numbers) == 0]
        if len(repeated) or (len(numbers) and numbers[0] < 0):
            bad = repeated[0] if len(repeated) else numbers[0]
            raise ValueError(f"{me}: lumisection {bad}: want each once, from 0 (the whole run)")

        def with_flow(array: ArrayLike | None, as_dtype: Any) -> NDArray[Any] | None:
            if array is None:
                return None
            plain = np.asarray(array)
            inner = (len(numbers), *(axis.n_bins for axis in built))
            if plain.shape == inner:
                plain = np.pad(plain, [(0, 0), *[(1, 1)] * len(built)])
            return np.ascontiguousarray(plain[order], dtype=as_dtype)

        flowed = with_flow(values, dtype)
        assert flowed is not None  # noqa: S101 (for the type checker)
        profile = is_profile(kind)
        counted = with_flow(sum_of_weights, np.float64) if profile else flowed
        if counted is None:
            raise ValueError(f"{me}: a profile needs sum_of_weights and sumw2")
        if entries is None:
            filled = counted.sum(axis=tuple(range(1, counted.ndim)), dtype=np.float64)
        else:
            filled = np.asarray(entries, dtype=np.float64)[order]
        return cls(
            me=me,
            kind=kind,
            run_number=int(run_number),
            ls_numbers=numbers,
            axes=built,
            contents=flowed,
            entries=filled,
            sumw2=with_flow(sumw2, np.float64),
            sum_of_weights=with_flow(sum_of_weights, np.float64),
            sum_of_weights_squared=with_flow(sum_of_weights_squared, np.float64),
            dataset=dataset,
            title=title or me.rsplit("/", 1)[-1],
        )

    # -- what it is ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.ls_numbers)

    @property
    def n_ls(self) -> int:
        """Number of lumisections."""
        return len(self.ls_numbers)

    @property
    def is_profile(self) -> bool:
        """Whether a bin holds the mean of a quantity rather than a count."""
        return is_profile(self.kind)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for n in _PER_LS if (a := getattr(self, n)) is not None)

    @property
    def missing(self) -> Ints:
        """Lumisections that the run has and this element lacks, sorted.

        Where the source does not know the run's lumisections: the gaps between the first and last
        here.
        """
        if self.run_ls_numbers is not None:
            return np.setdiff1d(self.run_ls_numbers, self.ls_numbers)
        if not len(self):
            return np.empty(0, dtype=np.int64)
        every = np.arange(self.ls_numbers[0], self.ls_numbers[-1] + 1)
        return np.setdiff1d(every, self.ls_numbers)

    # -- contents --------------------------------------------------------------------------------

    def _view(self, array: NDArray[Any], flow: bool) -> NDArray[Any]:
        return array if flow else array[(slice(None), *[slice(1, -1)] * len(self.axes))]

    def values(self, flow: bool = False) -> NDArray[Any]:
        """Bin values ``(n_ls, nx[, ny[, nz]])``: contents, or a profile's means (NaN if empty)."""
        contents = self._view(self.contents, flow)
        if self.sum_of_weights is None:
            return contents
        with np.errstate(divide="ignore", invalid="ignore"):
            return contents / self._view(self.sum_of_weights, flow)

    def variances(self, flow: bool = False) -> Floats:
        """Variance of every value, as `values`: Sumw2 or the contents; of a profile, of the mean.

        NaN where a profile's bin holds too little to tell.
        """
        if self.sum_of_weights is None or self.sumw2 is None:
            source = self.contents if self.sumw2 is None else self.sumw2
            return self._view(source, flow).astype(np.float64)
        weights = self._view(self.sum_of_weights, flow)
        squares = self.sum_of_weights_squared
        weights2 = weights if squares is None else self._view(squares, flow)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self._view(self.contents, flow) / weights
            spread = np.maximum(self._view(self.sumw2, flow) / weights - mean**2, 0)
            effective = weights**2 / weights2
            return np.where(effective > 1, spread / effective, np.nan)

    def _hist(self, row: Mapping[str, NDArray[Any] | None]) -> hist.Hist:
        import hist

        axes = [axis.to_hist("xyz"[i]) for i, axis in enumerate(self.axes)]
        contents = row["contents"]
        assert contents is not None  # noqa: S101 (for the type checker)
        if self.is_profile:
            return self._profile_hist(hist.Hist(*axes, storage=hist.storage.WeightedMean()), row)
        if row["sumw2"] is not None:
            out = hist.Hist(*axes, storage=hist.storage.Weight(), name=self.me, label=self.title)
            view = out.view(flow=True)
            view.value, view.variance = contents, row["sumw2"]
            return out
        integer = np.issubdtype(contents.dtype, np.integer) and (contents >= 0).all()
        storage = hist.storage.Int64() if integer else hist.storage.Double()
        out = hist.Hist(*axes, storage=storage, name=self.me, label=self.title)
        out.view(flow=True)[...] = contents
        return out

    def _profile_hist(self, out: hist.Hist, row: Mapping[str, NDArray[Any] | None]) -> hist.Hist:
        contents, sumw2, weights = row["contents"], row["sumw2"], row["sum_of_weights"]
        assert contents is not None and sumw2 is not None and weights is not None  # noqa: S101,PT018
        squares = row["sum_of_weights_squared"]
        view = out.view(flow=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(weights != 0, contents / weights, 0.0)
        view.sum_of_weights = weights
        view.sum_of_weights_squared = weights if squares is None else squares
        view.value = mean
        view._sum_of_weighted_deltas_squared = np.maximum(sumw2 - weights * mean**2, 0)
        out.name, out.label = self.me, self.title
        return out

    def sum(self) -> hist.Hist:
        """All lumisections together, as one ``hist.Hist``."""
        return self.grouped([self.ls_numbers])._hist_at(0) if len(self) else self._hist_at(None)

    def _hist_at(self, position: int | None) -> hist.Hist:
        shape = self.contents.shape[1:]
        row: dict[str, NDArray[Any] | None] = {}
        for name in _PER_LS:
            array = getattr(self, name)
            if position is None and array is not None and name in _PER_LS[:1] + _PER_LS[2:5]:
                row[name] = np.zeros(shape, dtype=array.dtype)
            else:
                row[name] = None if array is None or position is None else array[position]
        return self._hist(row)

    # -- selection -------------------------------------------------------------------------------

    def __getitem__(self, wanted: LsSelection) -> Any:
        """``stack[ls_number]`` is a ``hist.Hist``; any other selection a stack, as `select`.

        Raises KeyError if that lumisection is not here.
        """
        if isinstance(wanted, int | np.integer):
            return self._hist_at(self.position(int(wanted)))
        return self.select(wanted)

    def position(self, ls_number: int) -> int:
        """Row of a lumisection in the arrays; raises KeyError, naming what there is."""
        at = int(np.searchsorted(self.ls_numbers, ls_number))
        if at == len(self) or self.ls_numbers[at] != ls_number:
            have = f"{self.ls_numbers[0]} to {self.ls_numbers[-1]}" if len(self) else "none"
            raise KeyError(
                f"{self.me}, run {self.run_number}: no lumisection {ls_number}; "
                f"{len(self)} here, {have}"
            )
        return at

    def _ipython_key_completions_(self) -> list[int]:
        """What the tab key offers after ``stack[``."""
        return self.ls_numbers.tolist()

    def select(self, wanted: LsSelection) -> HistogramStack:
        """Stack of those wanted that are here: numbers, ``[first, last]`` pairs, or a slice.

        A slice takes numbers with its end included, as pandas' ``.loc`` does.
        """
        return self._take(np.flatnonzero(as_ls_mask(self.ls_numbers, wanted)))

    def _take(self, positions: NDArray[Any]) -> HistogramStack:
        changed: dict[str, Any] = {"ls_numbers": self.ls_numbers[positions]}
        for name in _PER_LS:
            array = getattr(self, name)
            changed[name] = None if array is None else array[positions]
        return dataclasses.replace(self, **changed)

    # -- arithmetic ------------------------------------------------------------------------------

    def check_compatible(self, other: HistogramStack) -> None:
        """Raise ValueError, naming the difference, unless both have one kind and binning."""
        if self.kind != other.kind:
            raise ValueError(f"{self.me} is a {self.kind}, {other.me} a {other.kind}")
        for i, (ours, theirs) in enumerate(zip(self.axes, other.axes, strict=True)):
            if not ours.same_binning(theirs):
                raise ValueError(
                    f"{self.me}: axis {'xyz'[i]} differs: {ours!r} in run {self.run_number}, "
                    f"{theirs!r} in run {other.run_number}"
                )

    def __add__(self, other: object) -> HistogramStack:
        """Lumisection by lumisection; raises ValueError if lumisections, kind or binning differ."""
        if not isinstance(other, HistogramStack):
            return NotImplemented
        self.check_compatible(other)
        if not np.array_equal(self.ls_numbers, other.ls_numbers):
            odd = np.setxor1d(self.ls_numbers, other.ls_numbers)
            raise ValueError(
                f"lumisections {odd.tolist()[:10]} are in one stack only: select first"
            )
        changed: dict[str, Any] = {}
        pair = (self, other)
        for name in _PER_LS:
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours is None and theirs is None:
                continue
            if ours is None or theirs is None:
                # Without Sumw2 the weights were 1, and the sums of squares are the counts.
                ours, theirs = (s._squares(name) for s in pair)
            changed[name] = ours + theirs
        return dataclasses.replace(self, **changed)

    def _squares(self, name: str) -> NDArray[Any]:
        stored = getattr(self, name)
        if stored is not None:
            return stored
        source = self.contents if name == "sumw2" else self.sum_of_weights
        assert source is not None  # noqa: S101 (for the type checker)
        return source.astype(np.float64)

    def grouped(self, groups: Sequence[ArrayLike]) -> HistogramStack:
        """One histogram per group of lumisections, summed; each is named by its first number.

        Contents are summed in float64, and the kind is that of ROOT's doubles (TH1D, TH2D). A group
        may name lumisections that are missing here; an empty group is dropped.
        """
        members = [np.flatnonzero(np.isin(self.ls_numbers, np.asarray(group))) for group in groups]
        members = [rows for rows in members if len(rows)]
        changed: dict[str, Any] = {"ls_numbers": [self.ls_numbers[rows[0]] for rows in members]}
        for name in _PER_LS:
            array = getattr(self, name)
            if array is None:
                continue
            sums = [array[rows].sum(axis=0, dtype=np.float64) for rows in members]
            changed[name] = np.array(sums).reshape(len(members), *array.shape[1:])
        kind = self.kind if self.is_profile else _summed_kind(len(self.axes))
        first = np.argsort(changed["ls_numbers"], kind="stable")
        out = dataclasses.replace(self, kind=kind, run_ls_numbers=None, **changed)
        return out if (np.diff(first) > 0).all() else out._take(first)

    def grouped_to(
        self, amounts: Mapping[int, float] | pd.Series[Any], target: float
    ) -> HistogramStack:
        """Consecutive lumisections summed until ``amounts`` by lumisection reach ``target``.

        ``stack.grouped_to(archive.conditions(dataset, run)["recorded_lumi"].loc[run], 5e6)`` gives
        histograms of 5 1/pb each, as luminosities are in 1/ub.

        A rest at the end that does not reach the target is left out. A lumisection without an
        amount counts nothing and is left out. Raises ValueError if the target is not positive.
        """
        if not target > 0:
            raise ValueError(f"target {target}, want a positive amount")
        # What pandas does not know is NA, of which nothing is greater or smaller.
        known = amounts if isinstance(amounts, Mapping) else amounts.dropna()
        groups: list[list[int]] = []
        current: list[int] = []
        reached = 0.0
        for ls_number in self.ls_numbers.tolist():
            amount = known.get(ls_number, np.nan)
            if not np.isfinite(amount):
                continue
            current.append(ls_number)
            reached += amount
            if reached >= target:
                groups.append(current)
                current, reached = [], 0.0
        return self.grouped(groups)

    def project(self, *axes: str) -> HistogramStack:
        """Stack over the named axes only (of x, y, z), the others summed with their flow.

        Raises ValueError for an unknown axis or for a profile, whose means do not project to
        counts.
        """
        known = "xyz"[: len(self.axes)]
        if self.is_profile:
            raise ValueError(f"{self.me} is a {self.kind}: a profile cannot be projected")
        if not axes or not set(axes) <= set(known) or len(set(axes)) != len(axes):
            raise ValueError(f"axes {axes}, want some of {', '.join(known)}")
        keep = sorted(known.index(axis) for axis in axes)
        gone = tuple(i + 1 for i in range(len(self.axes)) if i not in keep)

        def over(array: NDArray[Any]) -> Floats:
            return array.sum(axis=gone, dtype=np.float64)

        return dataclasses.replace(
            self,
            kind=_summed_kind(len(keep)),
            axes=tuple(self.axes[i] for i in keep),
            contents=over(self.contents),
            sumw2=None if self.sumw2 is None else over(self.sumw2),
            statistics=np.empty((0, 0)),
        )

    def rebin(self, x: int = 1, y: int = 1, z: int = 1) -> HistogramStack:
        """Stack with neighbouring bins joined; ValueError if that does not divide them."""
        factors = (x, y, z)[: len(self.axes)]
        axes = tuple(axis.rebin(f) for axis, f in zip(self.axes, factors, strict=True))
        if (x, y, z)[len(self.axes) :] != (1,) * (3 - len(self.axes)):
            raise ValueError(f"{self.me} has {len(self.axes)} axes only")

        def joined(array: NDArray[Any] | None) -> Floats | None:
            if array is None:
                return None
            array = array.astype(np.float64)
            for i, factor in enumerate(factors):
                if factor > 1:
                    n_bins = array.shape[i + 1] - 2
                    starts = [0, *range(1, n_bins + 1, factor), n_bins + 1]
                    array = np.add.reduceat(array, starts, axis=i + 1)
            return array

        per_bin = ("contents", "sumw2", "sum_of_weights", "sum_of_weights_squared")
        changed: dict[str, Any] = {name: joined(getattr(self, name)) for name in per_bin}
        kind = self.kind if self.is_profile else _summed_kind(len(self.axes))
        return dataclasses.replace(self, kind=kind, axes=axes, **changed)

    # -- elsewhere -------------------------------------------------------------------------------

    def to_pandas(self, flow: bool = False) -> pd.DataFrame:
        """Values as a DataFrame: a row per lumisection, a column per bin (its centre or label).

        Maps have two column levels, x and y. With ``flow`` the outer columns are -inf and inf.
        """
        import pandas as pd

        levels = []
        for axis in self.axes:
            inner: list[Any] = list(axis.centers)
            if axis.labels and all(axis.labels) and len(set(axis.labels)) == axis.n_bins:
                inner = list(axis.labels)
            levels.append([-np.inf, *inner, np.inf] if flow else inner)
        names = [axis.title or "xyz"[i] for i, axis in enumerate(self.axes)]
        if len(levels) == 1:
            columns: pd.Index[Any] = pd.Index(levels[0], name=names[0])
        else:
            columns = pd.MultiIndex.from_product(levels, names=names)
        index = pd.Index(self.ls_numbers, name="ls_number")
        return pd.DataFrame(self.values(flow).reshape(len(self), -1), index=index, columns=columns)

    def to_xarray(self) -> xr.DataArray:
        """Values as a DataArray over ``ls_number`` and bin centres; needs the extra ``xarray``."""
        try:
            import xarray as xr
        except ImportError as missing:
            raise ImportError("to_xarray needs xarray: pip install 'ml4ad[xarray]'") from missing
        coords: dict[str, Any] = {"ls_number": self.ls_numbers}
        for i, axis in enumerate(self.axes):
            coords["xyz"[i]] = ("xyz"[i], axis.centers, {"long_name": axis.title})
        attributes = {"me": self.me, "run_number": self.run_number, "dataset": self.dataset}
        return xr.DataArray(
            self.values(),
            coords=coords,
            dims=["ls_number", *"xyz"[: len(self.axes)]],
            name=self.me.rsplit("/", 1)[-1],
            attrs=attributes,
        )

    def __repr__(self) -> str:
        if len(self):
            first, last, missing = self.ls_numbers[0], self.ls_numbers[-1], len(self.missing)
            seen = f"{len(self)} LS {first} to {last}" + (f", {missing} missing" if missing else "")
        else:
            seen = "no LS"
        axes = "\n".join(f"  {'xyz'[i]}: {axis!r}" for i, axis in enumerate(self.axes))
        where = f" of {self.dataset}" if self.dataset else ""
        return (
            f"HistogramStack({self.me!r}, {self.kind}, run {self.run_number}{where}, {seen}, "
            f"{self.entries.sum():,.0f} entries)\n{axes}"
        )

    def _repr_html_(self) -> str:
        from html import escape

        lines = "<br>".join(escape(line) for line in repr(self).splitlines())
        return f"<div>{sketch(self)}<div><small>{lines}</small></div></div>"


def _summed_kind(n_axes: int) -> str:
    # Sums of shorts would overflow, sums of floats lose counts; DQMIO has no TH3D.
    return {1: "TH1D", 2: "TH2D", 3: "TH3F"}[n_axes]


def _kind_of(dtype: np.dtype[Any], n_axes: int, kind: str | None) -> tuple[np.dtype[Any], str]:
    if kind is not None:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}, want one of {', '.join(KINDS)}")
        return np.dtype(KINDS[kind][1]), kind
    letter = {"f4": "F", "i2": "S", "i4": "I"}.get(dtype.str[1:], "D")
    kind = f"TH{n_axes}{letter}" if n_axes < 3 else "TH3F"
    if kind not in KINDS:
        raise ValueError(f"{n_axes} axes: want 1 to 3")
    return np.dtype(KINDS[kind][1]), kind


def concatenate(stacks: Sequence[HistogramStack]) -> HistogramStack:
    """One stack of the lumisections of all: one element, one run, one kind, one binning.

    Titles and labels are those of the stack with the highest lumisection. Raises ValueError if
    there is no stack, they differ in what must be one, or two hold the same lumisection.
    """
    if not stacks:
        raise ValueError("no stack to concatenate")
    if len(stacks) == 1:
        return stacks[0]
    first = stacks[0]
    for other in stacks[1:]:
        first.check_compatible(other)
        if (first.me, first.run_number) != (other.me, other.run_number):
            raise ValueError(
                f"{first.me} of run {first.run_number} and {other.me} of run {other.run_number}"
            )
    numbers = np.concatenate([s.ls_numbers for s in stacks])
    order = np.argsort(numbers, kind="stable")
    if len(np.unique(numbers)) != len(numbers):
        values, counts = np.unique(numbers, return_counts=True)
        raise ValueError(f"{first.me}: lumisection {values[counts > 1][0]} is in two stacks")
    in_order = np.array_equal(order, np.arange(len(order)))
    changed: dict[str, Any] = {"ls_numbers": numbers[order]}
    for name in _PER_LS:
        arrays = [getattr(s, name) for s in stacks]
        if all(a is None for a in arrays):
            continue
        if any(a is None for a in arrays):
            arrays = [s._squares(name) for s in stacks]
        joined = np.concatenate(arrays)
        changed[name] = joined if in_order else joined[order]
    known = [s.run_ls_numbers for s in stacks if s.run_ls_numbers is not None]
    if known:
        changed["run_ls_numbers"] = np.unique(np.concatenate(known))
    last = max((s for s in stacks if len(s)), key=lambda s: s.ls_numbers[-1], default=first)
    return dataclasses.replace(last, **changed)


def sketch(stack: HistogramStack, width: int = 240, height: int = 120) -> str:
    """Small SVG of all lumisections together: steps in 1D, shades in 2D, without axes."""
    from html import escape

    total = stack.values().astype(np.float64)
    total = np.nan_to_num(total, posinf=0, neginf=0)
    flat = total.mean(axis=0) if stack.is_profile and len(stack) else total.sum(axis=0)
    if flat.ndim == 3:
        flat = flat.sum(axis=2)
    draw: Callable[[Floats, int, int], str] = _steps if flat.ndim == 1 else _shades
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(stack.me)}">'
        f'<rect width="{width}" height="{height}" fill="none" stroke="currentColor"/>'
        f"{draw(flat, width, height)}</svg>"
    )


def _steps(values: Floats, width: int, height: int) -> str:
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    span = (high - low) or 1.0
    xs = np.linspace(0, width, len(values) + 1)
    ys = height - (values - low) / span * (height - 8)
    points = " ".join(
        f"{x0:.1f},{y:.1f} {x1:.1f},{y:.1f}" for x0, x1, y in zip(xs, xs[1:], ys, strict=False)
    )
    return f'<polyline points="{points}" fill="none" stroke="#3f90da" stroke-width="1.5"/>'


def _shades(values: Floats, width: int, height: int) -> str:
    nx, ny = (min(n, most) for n, most in zip(values.shape, (48, 32), strict=True))
    xs = np.linspace(0, values.shape[0], nx + 1).astype(int)
    ys = np.linspace(0, values.shape[1], ny + 1).astype(int)
    coarse = np.add.reduceat(np.add.reduceat(values, xs[:-1], axis=0), ys[:-1], axis=1)
    top = np.abs(coarse).max() or 1.0
    dx, dy = width / nx, height / ny
    cells = [
        f'<rect x="{i * dx:.1f}" y="{height - (j + 1) * dy:.1f}" width="{dx:.1f}" '
        f'height="{dy:.1f}" fill="#3f90da" fill-opacity="{abs(coarse[i, j]) / top:.2f}"/>'
        for i in range(nx)
        for j in range(ny)
        if coarse[i, j]
    ]
    return "".join(cells)
