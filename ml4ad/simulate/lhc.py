"""A small LHC: fills, runs and lumisections, with what OMS would say of each."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml4ad.stack import Floats

#: Era -> first and last run number.
ERAS: Mapping[str, tuple[int, int]] = {
    "Run2022A": (352319, 355064),
    "Run2022B": (355065, 355793),
    "Run2022C": (355794, 357486),
    "Run2022D": (357487, 359021),
    "Run2022E": (359022, 360331),
    "Run2022F": (360332, 362180),
    "Run2022G": (362350, 362760),
    "Run2023A": (365739, 366364),
    "Run2023B": (366365, 367079),
    "Run2023C": (367080, 369802),
    "Run2023D": (369803, 372415),
    "Run2024A": (378142, 378970),
    "Run2024B": (378971, 379411),
    "Run2024C": (379412, 380252),
    "Run2024D": (380253, 380947),
    "Run2024E": (380948, 381943),
    "Run2024F": (381944, 383779),
    "Run2024G": (383780, 385813),
    "Run2024H": (385814, 386408),
    "Run2024I": (386409, 387121),
}

#: 2**18 orbits of the LHC at 11245.5 Hz, in seconds.
LS_SECONDS = 2**18 / 11245.5
#: Pileup of one bunch pair -> its delivered luminosity in a lumisection, in 1/pb (80 mb inelastic).
_LUMI_PER_PILEUP = 11245.5 * LS_SECONDS / 80e-27 * 1e-36
#: Lowest pileup, index, name and zero-bias rate [Hz] of the prescale columns.
_COLUMNS = (
    (55.0, 2, "2p0E34", 20.0),
    (45.0, 3, "1p7E34", 24.0),
    (35.0, 4, "1p4E34", 30.0),
    (25.0, 5, "1p1E34", 38.0),
    (0.5, 6, "0p8E34", 48.0),
)
_STANDBY = (0, "Standby", 20.0)
_LIFETIME_LS = 12 * 3600 / LS_SECONDS
DETECTOR_FLAGS = (
    "bpix_ready",
    "fpix_ready",
    "tibtid_ready",
    "tob_ready",
    "tecp_ready",
    "tecm_ready",
)


def key(*parts: object) -> tuple[int, ...]:
    """Spawn key of a random stream: integers as they are, texts by their CRC-32."""
    return tuple(
        int(p) if isinstance(p, int | np.integer) else zlib.crc32(str(p).encode()) for p in parts
    )


def stream(seed: int, *parts: object) -> np.random.Generator:
    """Random numbers that depend on ``seed`` and ``parts`` only, whatever was drawn before.

    >>> bool(stream(1, "A/b", 7).random() == stream(1, "A/b", 7).random())
    True
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key(*parts))))


@dataclass(frozen=True)
class Run:
    """A run to be simulated: its place in era and fill.

    ``position`` is its first lumisection counted from the start of stable beams (negative: the run
    begins before collisions); ``start_time`` is in Unix seconds; ``index`` counts all runs of the
    campaign, as detectors age from run to run.
    """

    run_number: int
    era: str
    fill_number: int
    n_ls: int
    position: int
    start_time: int
    index: int

    @property
    def ls_numbers(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Numbers of its lumisections, from 1."""
        return np.arange(1, self.n_ls + 1)


def check_seed(seed: int) -> int:
    """``seed`` if it is one; ValueError, with the allowed range, if not."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed}, want 0 to 2**63 - 1")
    return seed


def check_era(era: str) -> str:
    """``era`` if it is one that is known; ValueError, naming those, if not."""
    if era not in ERAS:
        raise ValueError(f"era {era!r}, want one of {', '.join(ERAS)}")
    return era


def plan_runs(
    seed: int, eras: Sequence[str], runs_per_era: int, n_ls: int | Sequence[int]
) -> list[Run]:
    """Runs of each era, two to a fill, in the order of their numbers.

    ``n_ls`` is the length of every run, or the lengths in turn. Raises ValueError for an unknown
    era, or more runs than the era has numbers.
    """
    lengths = [n_ls] if isinstance(n_ls, int) else list(n_ls)
    if not lengths or min(lengths) < 1 or max(lengths) > 10_000:
        raise ValueError(f"{n_ls} lumisections per run, want 1 to 10000")
    runs: list[Run] = []
    for era in sorted({check_era(era) for era in eras}):
        first, last = ERAS[era]
        if not 1 <= runs_per_era <= (last - first) // 2:
            raise ValueError(f"{runs_per_era} runs in {era}, want 1 to {(last - first) // 2}")
        rng = stream(seed, "runs", era)
        step = (last - first) // runs_per_era
        year_start = int(pd.Timestamp(f"{era[3:7]}-01-01").timestamp())
        fill, end_of_last = 0, 0
        for i in range(runs_per_era):
            number = first + i * step + int(rng.integers(0, max(step // 2, 1)))
            length = lengths[len(runs) % len(lengths)]
            begins_fill = i % 2 == 0
            if begins_fill:
                fill = 8000 + (number - 352000) // 12
                position = -max(2, round(length * rng.uniform(0.05, 0.10)))
            else:
                position = end_of_last + int(rng.integers(5, 900))
            end_of_last = position + length
            # Run numbers stand for the calendar: about 250 days for the numbers of a year.
            day = (number - min(f for e, (f, _) in ERAS.items() if e[:7] == era[:7])) / 10_000
            start = year_start + int((60 + 250 * day) * 86400)
            runs.append(Run(number, era, fill, length, position, start, len(runs)))
    return runs


def conditions(seed: int, run: Run) -> pd.DataFrame:
    """What OMS and the trigger say of each lumisection of ``run``.

    Index ``(run_number, ls_number)``; columns ``pileup``, ``delivered_lumi`` and ``recorded_lumi``
    [1/ub], ``prescale_index``, ``prescale_name``, ``zerobias_rate`` [Hz], the flags
    ``physics_flag``, ``beams_stable``, ``cms_active``, ``bpix_ready`` and so on, ``fill_number``,
    ``start_time`` and ``end_time`` [Unix s]. As in OMS, a luminosity without beam may be slightly
    negative, and a pileup can be missing (NaN) or spike. Also ``true_pileup`` and ``live`` (the
    fraction of the time in which triggers were taken): what the simulation itself goes by.
    """
    fill = stream(seed, "fill", run.era, run.fill_number)
    rng = stream(seed, "conditions", run.run_number)
    level, n_level = fill.uniform(57, 63), int(fill.integers(60, 500))
    bunches = int(fill.choice((1800, 2340, 2340, 2340)))
    n = run.n_ls
    since = run.position + np.arange(n)  # lumisections since stable beams
    stable = since >= 0
    pileup = level * np.exp(-np.clip(since - n_level, 0, None) / _LIFETIME_LS)
    # Levelling steps the beams' separation: a saw of half a percent.
    pileup *= (
        1 + np.where(since < n_level, 0.005 * (since % 7 / 3 - 1), 0) + rng.normal(0, 0.002, n)
    )
    pileup *= np.clip((since + 4) / 10, 0.0, 1.0)  # beams are brought to collide
    pileup[~stable & (since < -3)] = 0.0
    index, name, rate = _prescales(rng, pileup, since >= 6)
    live = np.clip(rng.normal(0.975, 0.004, n), 0, 1)
    dips = rng.random(n) < 0.01
    live[dips] = rng.uniform(0.1, 0.8, dips.sum())
    active = np.ones(n, dtype=bool)
    if run.position < 0:
        active[: rng.integers(0, 2)] = False
    live[~active] = 0.0
    delivered = pileup * bunches * _LUMI_PER_PILEUP
    dark = pileup == 0
    delivered[dark] = rng.normal(0, 2e-8, dark.sum())
    recorded = np.where(dark, 0, delivered * live)
    seen = pileup.copy()
    seen[rng.random(n) < 0.002] = np.nan
    spikes = rng.random(n) < 0.001
    seen[spikes] *= 1.3
    flags = {
        flag: since >= int(fill.integers(*((1, 3) if "pix" in flag else (-1, 1))))
        for flag in DETECTOR_FLAGS
    }
    ready = np.logical_and.reduce([*flags.values(), stable, active])
    start = run.start_time + np.arange(n) * LS_SECONDS
    return pd.DataFrame(
        {
            "delivered_lumi": delivered * 1e6,
            "recorded_lumi": recorded * 1e6,
            "pileup": seen,
            "physics_flag": ready,
            "prescale_index": index,
            "prescale_name": name,
            "zerobias_rate": rate,
            "beams_stable": stable,
            "cms_active": active,
            **flags,
            "fill_number": run.fill_number,
            "start_time": start,
            "end_time": start + LS_SECONDS,
            "true_pileup": pileup,
            "live": live,
        },
        index=pd.MultiIndex.from_product(
            [[run.run_number], run.ls_numbers], names=["run_number", "ls_number"]
        ),
    )


def _prescales(
    rng: np.random.Generator, pileup: Floats, settled: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> tuple[list[int], list[str], Floats]:
    """Column, its name and the zero-bias rate; the crew moves by one column now and then."""
    n = len(pileup)
    # The crew follows the pileup, but never back and forth: the running minimum.
    followed = np.minimum.accumulate(np.where(settled, pileup * 1.03, np.inf))
    moved = np.zeros(n, dtype=np.int64)
    if rng.random() < 0.35:
        moved[int(rng.integers(n // 4, n)) :] = 1
    index, name, rate = [], [], np.empty(n)
    for i in range(n):
        if pileup[i] <= 0:
            column = _STANDBY
        else:
            at = next((k for k, c in enumerate(_COLUMNS) if followed[i] >= c[0]), 4)
            column = _COLUMNS[min(at + moved[i], 4)][1:]
        index.append(column[0])
        name.append(column[1])
        rate[i] = column[2] * rng.normal(1, 0.004)
    return index, name, rate
