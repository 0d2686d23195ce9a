"""Draws histograms: counts around what the shapes expect, mildly over-dispersed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy
from threadpoolctl import ThreadpoolController

from ml4ad.simulate.elements import Element
from ml4ad.simulate.lhc import DETECTOR_FLAGS, LS_SECONDS, Run, stream
from ml4ad.simulate.shapes import SHAPES, State, modes, profile_mean
from ml4ad.stack import KINDS, Axis, Floats, HistogramStack, Ints, is_profile, statistics_names

#: Lumisections that share a random stream: what is drawn never depends on how they are asked for.
BLOCK_LS = 16
_N_MODES = 3
_LOW, _HIGH = 20.0, 60.0  # pileups between which shapes are interpolated
_ENOUGH = 24.0  # entries from which a rounded normal with its skewness is as good as Poisson
_RARE = 0.05  # entries below which Poisson numbers are drawn as such, between them from a table
_TOP = 60.0  # highest mean of the table
_ALIKE = 0.6  # lumisections with this part of the most entries are drawn together
_STEP = 0.02  # of the square root of the table's means
_VALUES = 128  # numbers that the table knows, from 0


def statistics_weights(kind: str, axes: tuple[Axis, ...]) -> Floats:
    """What an entry in each cell adds to ROOT's running sums, ``(cells, n)``; 0 in flow cells.

    Entries are taken at the middle of their bin. Of a profile: without the sums of its values.

    >>> statistics_weights("TH1F", (Axis.regular(2, 0, 2),))[1]
    array([1.  , 1.  , 0.5 , 0.25])
    """
    shape = tuple(axis.n_bins + 2 for axis in axes)
    inside = np.zeros(shape)
    inside[(slice(1, -1),) * len(axes)] = 1
    grids = np.meshgrid(*(np.pad(axis.centers, 1) for axis in axes), indexing="ij")
    by_name = dict(zip("xyz", grids, strict=False))
    columns = []
    for name in statistics_names(kind):
        powers = name.removeprefix("sumw")
        value = "xyz"[len(axes)] if len(axes) < 3 else ""
        if is_profile(kind) and powers.startswith(value):
            continue
        column = inside
        if powers not in ("", "2"):
            for letter in powers.rstrip("2"):
                column = column * by_name[letter]
            column = column**2 if powers.endswith("2") else column
        columns.append(column.ravel())
    return np.stack(columns, axis=1)


def draw(rng: np.random.Generator, means: NDArray[np.float32], dispersion: float) -> Floats:
    """Counts around ``means`` ``(n_ls, n_cells)`` with variance ``dispersion`` times the mean.

    Cells are best ordered by falling mean. Few entries: Poisson, of which some count twice; many:
    a normal with the same mean, variance and skewness, rounded.
    """
    out = np.zeros(means.shape)
    totals = means.sum(axis=1)
    rows = totals > _ALIKE * totals.max(initial=0)
    if not rows.any():
        return out
    if not rows.all():
        # Lumisections with far fewer entries are drawn apart, as are their like again.
        out[~rows] = draw(rng, means[~rows], dispersion)
        means = means[rows]
    scarce = means.min(axis=0) < _ENOUGH
    many = int(scarce.argmax()) if scarce.any() else means.shape[1]
    out[rows, :many] = _rounded_normal(rng, means[:, :many], dispersion)
    out[rows, many:] = _twice_counted(rng, means[:, many:], dispersion)
    return out


def _rounded_normal(
    rng: np.random.Generator, means: NDArray[np.float32], dispersion: float
) -> NDArray[np.float32]:
    z = rng.standard_normal(means.shape, dtype=np.float32)
    sigma = np.sqrt(means * np.float32(dispersion))
    sigma *= z
    # Cornish and Fisher: a Poisson of variance v has skewness 1/sqrt(v).
    z *= z
    z -= 1
    z *= np.float32(dispersion / 6)
    sigma += z
    sigma += means
    np.rint(sigma, out=sigma)
    return np.maximum(sigma, 0, out=sigma)


def _twice_counted(
    rng: np.random.Generator, means: NDArray[np.float32], dispersion: float
) -> NDArray[np.float32]:
    """Poisson numbers of which some count twice; the means fall along the columns, about."""
    often = np.flatnonzero(means.max(axis=0, initial=0) > _RARE)
    end = int(often[-1]) + 1 if len(often) else 0
    out = np.empty(means.shape, dtype=np.float32)
    out[:, :end] = _tabled(rng, np.minimum(means[:, :end], np.float32(_TOP)), dispersion)
    for part in ((slice(None), slice(end, None)), np.nonzero(means > _TOP)):
        twice = means[part] * np.float32((dispersion - 1) / 2)
        out[part] = rng.poisson(means[part] - 2 * twice) + 2 * rng.poisson(twice)
    return out


@cache
def _table(dispersion: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Walker's alias tables of a twice-counting Poisson, for means ``(level * _STEP) ** 2``.

    Source: A. J. Walker, ACM Transactions on Mathematical Software 3 (1977) 253.
    """

    def poisson(n: int, mean: NDArray[Any]) -> Floats:
        k = np.arange(n)
        return np.asarray(np.exp(xlogy(k, mean[:, None]) - mean[:, None] - gammaln(k + 1)))

    levels = (np.arange(int(np.sqrt(_TOP) / _STEP) + 3) * _STEP) ** 2
    twice = (dispersion - 1) / 2
    single = poisson(_VALUES, levels * (1 - 2 * twice))
    double = np.zeros_like(single)
    double[:, ::2] = poisson(_VALUES // 2, levels * twice)
    chance = np.stack([np.convolve(a, b)[:_VALUES] for a, b in zip(single, double, strict=True)])
    left = chance / chance.sum(axis=1, keepdims=True) * _VALUES
    kept, alias = np.ones_like(left), np.zeros(left.shape, dtype=np.uint8)
    rows = np.arange(len(left))
    for _ in range(_VALUES):
        least = np.where(np.isnan(left), np.inf, left).argmin(axis=1)
        most = np.where(np.isnan(left), -np.inf, left).argmax(axis=1)
        kept[rows, least], alias[rows, least] = left[rows, least], most
        left[rows, most] -= np.where(least != most, 1 - left[rows, least], 0)
        left[rows, least] = np.nan
    return kept.astype(np.float32), alias


def _tabled(
    rng: np.random.Generator, means: NDArray[np.float32], dispersion: float
) -> NDArray[np.uint8]:
    kept, alias = _table(round(dispersion, 6))
    level = np.sqrt(means)
    level *= np.float32(1 / _STEP)
    # A random remainder rounds the mean up or down, so that it is right on average.
    level += rng.random(means.shape, dtype=np.float32)
    at = level.astype(np.int32)
    place = rng.random(means.shape, dtype=np.float32)
    place *= np.float32(_VALUES)
    value = place.astype(np.uint8)
    place -= value
    at *= _VALUES
    at += value
    return np.where(place < kept.ravel()[at], value, alias.ravel()[at])


@dataclass(frozen=True)
class Prepared:
    """What all lumisections of one element of one run share.

    ``cells`` are the flat indices of the cells that can be filled, by falling share. ``basis``
    ``(2 + modes, n)`` are their shares at low and high pileup and the patterns in which they drift,
    whose ``course`` is ``(n_ls, modes)``; ``block_of`` the fluctuating block of every cell.
    """

    element: Element
    run: Run
    cells: Ints
    basis: NDArray[np.float32]
    course: NDArray[np.float32]
    block_of: Ints
    n_blocks: int
    weights: Floats
    means: Floats | None

    @classmethod
    def of(cls, seed: int, run: Run, element: Element) -> Prepared:
        """Prepare ``element`` for ``run``."""
        shape_of = SHAPES[element.model]
        both = np.stack([shape_of(element, State(seed, run, p)) for p in (_LOW, _HIGH)])
        flat = both.reshape(2, -1)
        top = flat.max(axis=0)
        filled = np.flatnonzero(top > top.max(initial=0) * 1e-9)
        cells = filled[np.argsort(-top[filled], kind="stable")]
        shares = flat[:, cells].astype(np.float32)
        patterns = modes(element, _N_MODES).reshape(_N_MODES, -1)[:, cells]
        rng = stream(seed, "course", run.run_number, element.me)
        of_run = 1.5 * rng.normal(0, element.drift, _N_MODES)
        start = rng.uniform(0, 2 * np.pi, _N_MODES)
        period = rng.uniform(400, 1500, _N_MODES)
        time = np.arange(run.n_ls)[:, None]
        course = of_run + element.drift * np.sin(2 * np.pi * time / period + start)
        shape = both.shape[1:]
        places = np.unravel_index(cells, shape)
        per_axis = [-(-n // element.block) for n in shape]
        block_of = np.ravel_multi_index(
            tuple(place // element.block for place in places), tuple(per_axis)
        )
        means = None
        if is_profile(element.kind):
            means = profile_mean(element, State(seed, run, 40.0)).ravel()[cells]
        return cls(
            element,
            run,
            cells,
            np.concatenate([shares, patterns * shares.mean(axis=0)]),
            course.astype(np.float32),
            block_of.astype(np.int64),
            int(np.prod(per_axis)),
            statistics_weights(element.kind, element.axes)[cells],
            means,
        )

    def expected(self, pileup: Floats, positions: Ints) -> NDArray[np.float32]:
        """Share of the entries that each cell expects, ``(n_ls, n)``; blocks do not fluctuate."""
        up = np.clip((pileup - _LOW) / (_HIGH - _LOW), -0.5, 1.5).astype(np.float32)
        factors = np.concatenate([1 - up[:, None], up[:, None], self.course[positions]], axis=1)
        shares = factors @ self.basis
        return np.maximum(shares, 0, out=shares)


@dataclass(frozen=True)
class Beam:
    """Conditions of a run as arrays over its lumisections: by name, and the true pileup."""

    flags: Mapping[str, NDArray[np.bool_]]
    pileup: Floats
    rate: Floats

    @classmethod
    def of(cls, conditions: pd.DataFrame) -> Beam:
        """Arrays of a frame of `lhc.conditions`; ``rate`` is that of recorded triggers [Hz]."""
        flags = {name: conditions[name].to_numpy(dtype=bool) for name in DETECTOR_FLAGS}
        pileup = conditions["true_pileup"].to_numpy(dtype=np.float64)
        live = conditions["live"].to_numpy(dtype=np.float64)
        rate = conditions["zerobias_rate"].to_numpy(dtype=np.float64)
        return cls(flags, pileup, rate * live * (pileup > 0))


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Context in which BLAS uses one thread: its products here are too small to share."""
    return _threads().limit(limits=1, user_api="blas")


def triggers(seed: int, run: Run, dataset: str, beam: Beam, scale: float) -> Floats:
    """Triggers that a dataset recorded in each lumisection of the run, ``(n_ls,)``."""
    rng = stream(seed, "triggers", run.run_number, dataset)
    return rng.poisson(beam.rate * LS_SECONDS * scale).astype(np.float64)


def entries_expected(element: Element, beam: Beam, fired: Floats) -> Floats:
    """Entries of ``element`` that each lumisection expects, ``(n_ls,)``; 0 if it is not ready."""
    expected: Floats = fired * (element.per_trigger + element.per_collision * beam.pileup)
    for flag in element.needs:
        expected = expected * beam.flags[flag]
    return expected


def sample_block(
    seed: int,
    prepared: Prepared,
    beam: Beam,
    fired: Floats,
    block: int,
    dataset: str,
) -> HistogramStack:
    """Histograms of the ``block``-th `BLOCK_LS` lumisections of the run.

    ``beam`` and ``fired`` are those of the whole run.
    """
    element, run = prepared.element, prepared.run
    positions = np.arange(block * BLOCK_LS, min((block + 1) * BLOCK_LS, run.n_ls))
    rng = stream(seed, "counts", run.run_number, dataset, element.me, block)
    means = prepared.expected(beam.pileup[positions], positions)
    entries = entries_expected(element, beam, fired)[positions]
    means *= entries.astype(np.float32)[:, None]
    if element.block_sigma:
        size = (len(positions), prepared.n_blocks)
        moved = 1 + np.float32(element.block_sigma) * rng.standard_normal(size, dtype=np.float32)
        means *= moved[:, prepared.block_of]
    counts = draw(rng, np.maximum(means, 0), element.dispersion)
    return _stack(rng, prepared, counts, run.ls_numbers[positions], dataset)


def sample_run(
    seed: int, prepared: Prepared, beam: Beam, fired: Floats, dataset: str
) -> HistogramStack:
    """The histogram of a per-run element, as lumisection 0."""
    element, run = prepared.element, prepared.run
    rng = stream(seed, "counts", run.run_number, dataset, element.me, "run")
    expected = entries_expected(element, beam, fired)
    shares = prepared.expected(beam.pileup, np.arange(run.n_ls))
    means = (expected.astype(np.float32) @ shares)[None]
    counts = draw(rng, means, element.dispersion)
    return _stack(rng, prepared, counts, np.zeros(1, dtype=np.int64), dataset)


def _stack(
    rng: np.random.Generator,
    prepared: Prepared,
    counts: Floats,
    ls_numbers: Ints,
    dataset: str,
) -> HistogramStack:
    element = prepared.element
    shape = (len(counts), *(axis.n_bins + 2 for axis in element.axes))
    dtype = np.dtype(KINDS[element.kind][1])
    if dtype.kind == "i":
        np.minimum(counts, np.iinfo(dtype).max, out=counts)

    def spread(values: Floats, as_dtype: Any) -> NDArray[Any]:
        out = np.zeros((len(values), int(np.prod(shape[1:]))), dtype=as_dtype)
        out[:, prepared.cells] = values
        return out.reshape(shape)

    statistics = counts @ prepared.weights
    if prepared.means is None:
        contents, sumw2, weights = spread(counts, dtype), None, None
    else:
        width = element.params["spread"]
        sums = counts * prepared.means + width * np.sqrt(counts) * rng.standard_normal(counts.shape)
        # The sum of squares about the mean of n values: width^2 chi2(n - 1), as a normal.
        free = np.maximum(counts - 1, 0)
        about = np.maximum(free + np.sqrt(2 * free) * rng.standard_normal(counts.shape), 0)
        squares = np.divide(sums**2, counts, out=np.zeros_like(sums), where=counts > 0)
        squares += width**2 * about
        # What is filled has a least step (hits are whole, times are digitised), so sums have it.
        step = element.params.get("step", 1.0)
        sums, squares = np.rint(sums / step) * step, np.rint(squares / step**2) * step**2
        squares = np.maximum(squares, np.divide(sums**2, counts, out=sums * 0, where=counts > 0))
        inside = prepared.weights[:, :1]
        statistics = np.concatenate([statistics, sums @ inside, squares @ inside], axis=1)
        contents, sumw2, weights = (spread(a, np.float64) for a in (sums, squares, counts))
    return HistogramStack(
        me=element.me,
        kind=element.kind,
        run_number=prepared.run.run_number,
        ls_numbers=ls_numbers,
        axes=element.axes,
        contents=contents,
        entries=counts.sum(axis=1),
        sumw2=sumw2,
        sum_of_weights=weights,
        statistics=statistics,
        dataset=dataset,
        title=element.title or element.me.rsplit("/", 1)[-1],
    )
