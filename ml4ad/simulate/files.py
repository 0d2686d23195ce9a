"""Writes a campaign: DQMIO files under CMS's names, conditions, certification and the truth."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml4ad import dqmio
from ml4ad.simulate.campaign import Campaign
from ml4ad.simulate.lhc import LS_SECONDS, Run, stream

#: What each file of the campaign is called, beside the store tree.
TRUTH, CONDITIONS, RUNS, RATES = "truth.json", "conditions.json", "runs.json", "rates.json"
GOLDEN, DCS = "golden.json", "dcs.json"
_ZEROBIAS = "HLT_ZeroBias_v13"
_UB_PER_PB = 1e6


@dataclass(frozen=True)
class Record:
    """What `generate` wrote.

    ``files`` has one row per DQMIO file: ``path`` (under ``out_dir``), ``dataset``,
    ``run_numbers``, ``n_ls``, ``bytes`` and ``corrupt`` (how it was broken, or ""). ``truth`` is
    what ``truth.json`` holds.
    """

    out_dir: Path
    campaign: Campaign
    files: pd.DataFrame
    truth: dict[str, Any]

    @property
    def n_bytes(self) -> int:
        """Bytes of all DQMIO files."""
        return int(self.files["bytes"].sum())

    def summary(self) -> pd.DataFrame:
        """One row per run and dataset: lumisections, files, bytes, faults."""
        rows = []
        for run, dataset in self.campaign.deliveries():
            hit = [
                e
                for e in self.campaign.effects
                if (e.run_number, e.dataset) == (run.run_number, dataset)
            ]
            of_run = [run.run_number in numbers for numbers in self.files["run_numbers"]]
            good = (self.files["dataset"] == dataset) & (self.files["corrupt"] == "")
            mine = self.files[good & np.array(of_run)]
            rows.append(
                {
                    "dataset": dataset,
                    "run_number": run.run_number,
                    "n_ls": len(self.campaign.ls_numbers(run, dataset)),
                    "elements": len(self.campaign.elements),
                    "files": len(mine),
                    "mb": round(float(mine["bytes"].sum()) / 1e6, 2),
                    "faults": ", ".join(dict.fromkeys(e.fault.kind for e in hit)),
                }
            )
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Planned:
    """A file to be: the blocks of lumisections it holds, and the runs whose totals it holds."""

    path: str
    dataset: str
    blocks: tuple[tuple[Run, int], ...]


def generate(
    out_dir: str | Path,
    campaign: Campaign,
    *,
    corrupt: int = 0,
    files_per_run: int = 3,
    compression: str = "zlib",
    level: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Record:
    """Write a campaign's DQMIO files, conditions, certification and truth into ``out_dir``.

    Files lie as CMS names them: ``store/data/<era>/<primary>/DQMIO/<processing>/000/382/255/00000/
    <UUID>.root`` for a run's prompt reconstruction; a re-reconstruction's files hold all runs of an
    era. The lumisections of a run are spread over ``files_per_run`` files in any order. ``corrupt``
    broken copies are added. ``progress`` is called with the blocks done and their number. The same
    campaign gives the same contents, names and bytes. Raises ValueError for a bad number, and
    FileExistsError if the folder holds a campaign, before anything is written.
    """
    out = Path(out_dir)
    if not 1 <= files_per_run <= 1000:
        raise ValueError(f"{files_per_run} files per run, want 1 to 1000")
    if not 0 <= corrupt <= 1000:
        raise ValueError(f"{corrupt} corrupt files, want 0 to 1000")
    if (out / TRUTH).exists() or (out / "store").exists():
        raise FileExistsError(f"{out} holds a campaign already, want a new folder")
    planned = list(_plan(campaign, files_per_run))
    total = sum(len(file.blocks) for file in planned)
    out.mkdir(parents=True, exist_ok=True)
    rows, done = [], 0
    for file in planned:
        path = out / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with dqmio.create(
            path,
            release=_release(file.blocks[0][0]),
            guid=path.stem,
            compression=compression,
            level=level,
            seed=_number(campaign.seed, file.path),
        ) as writer:
            n_ls = 0
            for run, block in file.blocks:
                n_ls += _write_block(writer, campaign, run, file.dataset, block)
                done += 1
                if progress is not None:
                    progress(done, total)
        rows.append(_row(out, file.path, file.dataset, file.blocks, n_ls, ""))
    rows += [_corrupt(out, campaign, n, rows) for n in range(corrupt)]
    files = pd.DataFrame(rows)
    truth = _truth(campaign, files)
    _write_json(out / CONDITIONS, oms_lumisections(campaign.conditions()))
    _write_json(out / RUNS, oms_runs(campaign))
    _write_json(out / RATES, oms_rates(campaign.conditions()))
    _write_json(out / GOLDEN, campaign.golden())
    _write_json(out / DCS, campaign.dcs())
    _write_json(out / TRUTH, truth, lines=True)
    return Record(out, campaign, files, truth)


# -- which file holds what -------------------------------------------------------------------------


def logical_file_name(dataset: str, run_number: int | None, file_id: uuid.UUID) -> str:
    """Name of a file in CMS's name space; without a run number that of a file of many runs.

    >>> logical_file_name("/ZeroBias/Run2024F-PromptReco-v1/DQMIO", 382255, uuid.UUID(int=5))
    '/store/data/Run2024F/ZeroBias/DQMIO/PromptReco-v1/000/382/255/00000/00000000-0000-0000-0000-000000000005.root'
    """
    _, primary, processed, tier = dataset.split("/")
    era, _, processing = processed.partition("-")
    tree = "express" if processing.startswith("Express") else "data"
    digits = f"{run_number:09d}" if run_number is not None else ""
    parts = [digits[:3], digits[3:6], digits[6:], "00000"] if digits else ["30000"]
    name = f"{str(file_id).upper()}.root"
    return "/".join(["", "store", tree, era, primary, tier, processing, *parts, name])


def _of_one_run(dataset: str) -> bool:
    processing = dataset.split("/")[2].partition("-")[2]
    return processing.startswith(("Prompt", "Express"))


def _plan(campaign: Campaign, files_per_run: int) -> Iterator[_Planned]:
    """Every file: of one run, or of all runs of a dataset if it is no prompt reconstruction."""
    groups: dict[tuple[str, int | None], list[Run]] = {}
    for run, dataset in campaign.deliveries():
        own = run.run_number if _of_one_run(dataset) else None
        groups.setdefault((dataset, own), []).append(run)
    for (dataset, run_number), runs in groups.items():
        rng = stream(campaign.seed, "files", dataset, run_number or 0)
        blocks = [(run, block) for run in runs for block in range(campaign.n_blocks(run))]
        n_files = min(files_per_run * len(runs), len(blocks))
        # Every file gets a block, the others go anywhere.
        to = np.concatenate([np.arange(n_files), rng.integers(n_files, size=len(blocks) - n_files)])
        rng.shuffle(to)
        totals_in = {run: int(rng.integers(n_files)) for run in runs}
        for number in range(n_files):
            mine = [blocks[i] for i in np.flatnonzero(to == number)]
            order = rng.permutation(len(mine))
            held = [mine[i] for i in order]
            if any(element.per_run for element in campaign.elements):
                held += [(run, -1) for run in runs if totals_in[run] == number]
            file_id = uuid.UUID(bytes=rng.bytes(16), version=4)
            name = logical_file_name(dataset, run_number, file_id)
            yield _Planned(name.lstrip("/"), dataset, tuple(held))


def _release(run: Run) -> str:
    major = {"2022": "CMSSW_12_4_9", "2023": "CMSSW_13_0_13", "2024": "CMSSW_14_0_9"}
    return major[run.era[3:7]]


def _number(*parts: object) -> int:
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _write_block(
    writer: dqmio.DQMIOWriter, campaign: Campaign, run: Run, dataset: str, block: int
) -> int:
    """Write a block of a run, and return its number of lumisections (0 for the run's totals)."""
    stacks = list(campaign.block(run, dataset, block))
    state = campaign.conditions(run.run_number)
    fired = campaign.triggers(run, dataset)
    if block < 0:
        scalars = _frame_of_scalars(
            run.run_number,
            [
                (0, "Info/ProvInfo/CMSSW", "String", _release(run)),
                (0, "Info/ProvInfo/runIsComplete", "Int", 1),
                (0, "Info/EventInfo/reportSummary", "Float", 1.0),
            ],
        )
        begin, end = state["start_time"].iloc[0], state["end_time"].iloc[-1]
        writer.write(stacks, scalars=scalars, lumisections=_times(run, [0], [begin], [end]))
        return 0
    here = np.intersect1d(_numbers_of(run, block), campaign.ls_numbers(run, dataset))
    at = here - 1
    rows: list[tuple[int, str, str, Any]] = []
    for position in at.tolist():
        events = float(fired[position])
        rows.append((position + 1, "Info/EventInfo/processedEvents", "Int", int(events)))
        rows.append((position + 1, "Info/EventInfo/processEventRate", "Float", events / LS_SECONDS))
    writer.write(
        stacks,
        scalars=_frame_of_scalars(run.run_number, rows),
        lumisections=_times(
            run,
            here.tolist(),
            state["start_time"].to_numpy()[at],
            state["end_time"].to_numpy()[at],
        ),
    )
    return len(here)


def _numbers_of(run: Run, block: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    from ml4ad.simulate.sample import BLOCK_LS

    return run.ls_numbers[block * BLOCK_LS : (block + 1) * BLOCK_LS]


def _frame_of_scalars(run_number: int, rows: Sequence[tuple[int, str, str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "run_number": [run_number] * len(rows),
            "ls_number": [row[0] for row in rows],
            "me": [row[1] for row in rows],
            "kind": [row[2] for row in rows],
        }
    )
    frame["value"] = pd.Series([row[3] for row in rows], dtype=object)
    return frame


def _times(run: Run, numbers: Sequence[int], begin: Any, end: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run_number": run.run_number,
            "ls_number": list(numbers),
            "begin_time": pd.to_datetime(np.asarray(begin), unit="s", utc=True).as_unit("us"),
            "end_time": pd.to_datetime(np.asarray(end), unit="s", utc=True).as_unit("us"),
        }
    )


def _row(
    out: Path,
    path: str,
    dataset: str,
    blocks: Sequence[tuple[Run, int]],
    n_ls: int,
    corrupt: str,
) -> dict[str, Any]:
    return {
        "path": path,
        "dataset": dataset,
        "run_numbers": tuple(sorted({run.run_number for run, _ in blocks})),
        "n_ls": n_ls,
        "bytes": (out / path).stat().st_size,
        "corrupt": corrupt,
    }


# -- broken files ----------------------------------------------------------------------------------

_WAYS = ("truncated", "zero length", "header only", "not ROOT", "flipped bytes")


def _corrupt(out: Path, campaign: Campaign, number: int, rows: list[dict[str, Any]]) -> Any:
    """A broken copy of one of the files, under a name of its own."""
    rng = stream(campaign.seed, "corrupt", number)
    whole = [row for row in rows if not row["corrupt"]]
    source = whole[int(rng.integers(len(whole)))]
    how = _WAYS[number % len(_WAYS)]
    data = bytearray((out / source["path"]).read_bytes())
    if how == "truncated":
        data = data[: int(len(data) * rng.uniform(0.2, 0.9))]
    elif how == "zero length":
        data = bytearray()
    elif how == "header only":
        data = data[:4]
    elif how == "not ROOT":
        data = bytearray(b"<html>503 Service Unavailable</html>\n" * 20)
    else:
        # Within the histograms' baskets: the directory at the end stays readable.
        for at in rng.integers(len(data) // 5, len(data) // 2, 64):
            data[int(at)] ^= 0xFF
    name = f"{str(uuid.UUID(bytes=rng.bytes(16), version=4)).upper()}.root"
    path = Path(source["path"]).with_name(name)
    (out / path).write_bytes(bytes(data))
    return {**source, "path": str(path), "n_ls": 0, "bytes": len(data), "corrupt": how}


# -- what stands beside the files ------------------------------------------------------------------


def oms_lumisections(conditions: pd.DataFrame) -> dict[str, list[Any]]:
    """Conditions of lumisections as OMS gives them: lists by attribute, luminosity in 1/pb."""
    frame = conditions.reset_index().drop(columns=["true_pileup", "live", "zerobias_rate"])
    for name in ("delivered_lumi", "recorded_lumi"):
        frame[f"{name}_per_lumisection"] = (frame.pop(name) / _UB_PER_PB).round(12)
    for name in ("start_time", "end_time"):
        frame[name] = _iso(frame[name])
    frame = frame.rename(columns={"ls_number": "lumisection_number"})
    frame["pileup"] = frame["pileup"].round(8)
    return _lists(frame)


def oms_rates(conditions: pd.DataFrame) -> dict[str, list[Any]]:
    """Rate of the zero-bias trigger [Hz] in each lumisection, as OMS's ``hltpathrates``."""
    frame = conditions.reset_index()
    fired = frame["zerobias_rate"] * frame["live"] * (frame["true_pileup"] > 0)
    return _lists(
        pd.DataFrame(
            {
                "run_number": frame["run_number"],
                "first_lumisection_number": frame["ls_number"],
                "path_name": _ZEROBIAS,
                "rate": fired.round(4),
            }
        )
    )


def oms_runs(campaign: Campaign) -> dict[str, list[Any]]:
    """Conditions of runs as OMS gives them: lists by attribute, luminosity in 1/pb."""
    rows = []
    for run in campaign.runs:
        state = campaign.conditions(run.run_number)
        begin, end = state["start_time"].iloc[0], state["end_time"].iloc[-1]
        rows.append(
            {
                "run_number": run.run_number,
                "fill_number": run.fill_number,
                "era": run.era,
                "start_time": _iso(pd.Series([begin]))[0],
                "end_time": _iso(pd.Series([end]))[0],
                "duration": round(float(end - begin), 3),
                "last_lumisection_number": run.n_ls,
                "delivered_lumi": round(float(state["delivered_lumi"].sum()) / _UB_PER_PB, 9),
                "recorded_lumi": round(float(state["recorded_lumi"].sum()) / _UB_PER_PB, 9),
                "energy": 6800.0,
                "b_field": 3.8,
                "fill_type_runtime": "PROTONS",
                "sequence": "GLOBAL-RUN",
                "clock_type": "LHC",
                "l1_hlt_mode_stripped": f"collisions{run.era[3:7]}/v1",
                "hlt_key": f"/cdaq/physics/Run{run.era[3:7]}/2e34/v1.2.0/HLT/V1",
                "initial_prescale_index": int(state["prescale_index"].iloc[0]),
                "stable_beam": bool(state["beams_stable"].any()),
            }
        )
    return _lists(pd.DataFrame(rows))


def _iso(seconds: pd.Series[Any]) -> list[str]:
    times = pd.to_datetime(seconds, unit="s", utc=True)
    return times.dt.strftime("%Y-%m-%dT%H:%M:%SZ").tolist()


def _lists(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {
        str(name): [None if isinstance(v, float) and v != v else v for v in frame[name].tolist()]
        for name in frame
    }


def _truth(campaign: Campaign, files: pd.DataFrame) -> dict[str, Any]:
    good = files[files["corrupt"] == ""]
    return {
        "seed": campaign.seed,
        "runs": [
            {
                "run_number": run.run_number,
                "era": run.era,
                "fill_number": run.fill_number,
                "n_ls": run.n_ls,
                "faulty": [
                    n for n, bad in enumerate(campaign.faulty(run).tolist(), start=1) if bad
                ],
            }
            for run in campaign.runs
        ],
        "elements": [element.me for element in campaign.elements],
        "faults": [effect.to_dict() for effect in campaign.effects],
        "files": [
            {**row, "run_numbers": list(row["run_numbers"])}
            for row in good.drop(columns="corrupt").to_dict("records")
        ],
        "corrupt": [
            {"path": row["path"], "how": row["corrupt"]}
            for row in files[files["corrupt"] != ""].to_dict("records")
        ],
    }


def _write_json(path: Path, content: dict[str, Any], lines: bool = False) -> None:
    """Write JSON on one line, or with one line for each item of the lists in it."""

    def text(value: Any) -> str:
        if lines and isinstance(value, list) and value:
            return (
                "[\n" + ",\n".join(f"  {json.dumps(item, default=int)}" for item in value) + "\n]"
            )
        return json.dumps(value, allow_nan=False, default=int)

    body = ",\n".join(f"{json.dumps(name)}: {text(value)}" for name, value in content.items())
    part = path.with_name(f".{path.name}.part")
    part.write_text("{\n" + body + "\n}\n")
    part.replace(path)
