"""Conditions and certification as analysts' files have them: every shape read, faults named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml4ad.conditions import files

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no shared data beside the project")

COLUMNS = {
    "run_number": [378981, 378981, 378982],
    "lumisection_number": [1, 2, 1],
    "delivered_lumi_per_lumisection": [0.25, -4.0e-8, None],
    "pileup": [60.5, 0, None],
    "prescale_index": [3, -1, None],
    "prescale_name": ["2b", "", None],
    "beams_stable": [True, False, None],
    "vertex_z": [1.5, None, "unknown"],
}


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def as_objects() -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]


@pytest.mark.parametrize(
    "content",
    [
        COLUMNS,
        as_objects(),
        {"data": [{"id": str(n), "attributes": row} for n, row in enumerate(as_objects())]},
    ],
    ids=["columns", "objects", "oms"],
)
def test_every_shape_of_json_gives_the_same_table(tmp_path: Path, content: Any) -> None:
    found = files.read(written(tmp_path, "oms.json", content)).lumisections
    assert found.index.tolist() == [(378981, 1), (378981, 2), (378982, 1)]
    assert found["delivered_lumi"].tolist()[:2] == pytest.approx([250_000, -0.04])
    assert found["prescale_index"].tolist() == [3, pd.NA, pd.NA]
    assert found["prescale_name"].tolist() == ["2b", None, None]
    assert found["beams_stable"].tolist() == [True, False, pd.NA]
    assert found["vertex_z"].tolist() == [1.5, None, "unknown"]
    assert np.isnan(found["pileup"].iloc[2])


def test_rows_in_another_order_are_sorted_by_key(tmp_path: Path) -> None:
    shuffled = {name: own[::-1] for name, own in COLUMNS.items()}
    forward = files.read(written(tmp_path, "a.json", COLUMNS)).lumisections
    back = files.read(written(tmp_path, "b.json", shuffled)).lumisections
    pd.testing.assert_frame_equal(forward, back)


@needs_shared
def test_the_oms_file_of_2024_is_read_whole() -> None:
    path = SHARED / "oms" / "omsdata_Run2024B-v1.json"
    raw = json.loads(path.read_text())
    found = files.read(path).lumisections
    assert len(found) == 14_987
    by_key = dict(
        zip(
            zip(raw["run_number"], raw["lumisection_number"], strict=True),
            raw["pileup"],
            strict=True,
        )
    )
    assert found["pileup"].to_dict() == by_key
    assert found["recorded_lumi"].sum() == pytest.approx(
        1e6 * sum(raw["recorded_lumi_per_lumisection"])
    )
    assert found["prescale_index"].isna().sum() == raw["prescale_index"].count(-1)
    assert found["bpix_ready"].sum() == sum(raw["bpix_ready"])


@needs_shared
def test_the_run_table_of_2017_is_read_whole() -> None:
    found = files.read(SHARED / "zerobias2017" / "cmsoms_2017B.csv").runs
    assert len(found) == 941
    run = found.loc[297046]
    assert run["fill_number"] == 5839
    assert run["start_time"] == pd.Timestamp("2017-06-16 19:16:42", tz="UTC")
    assert run["recorded_lumi"] == pytest.approx(16_998_525)
    assert run["trigger_mode"] == "collisions2017/v106"
    assert run["beams_stable"]


BYLS = """#Data tag : 24v1 , Norm tag: onlineresult
#run:fill,ls,time,beamstatus,E(GeV),delivered(/ub),recorded(/ub),avgpu,source
381151:9666,1:1,05/24/24 19:45:17,STABLE BEAMS,6800,412000.5,401000.25,61.2,HFET
381151:9666,2:0,05/24/24 19:45:40,SQUEEZE,6800,0.0,0.0,0.0,HFET
#Summary:
#nfill,nrun,nls,ncms,totdelivered(/ub),totrecorded(/ub)
#1,1,2,1,412000.5,401000.25
"""


def test_brilcalc_by_lumisection_is_read(tmp_path: Path) -> None:
    found = files.read(written(tmp_path, "lumi.csv", BYLS)).lumisections
    first = found.loc[(381151, 1)]
    assert first["delivered_lumi"] == 412000.5
    assert first["pileup"] == 61.2
    assert first["fill_number"] == 9666
    assert first["start_time"] == pd.Timestamp("2024-05-24 19:45:17", tz="UTC")
    assert found["beams_stable"].tolist() == [True, False]


def test_brilcalc_by_run_keeps_the_unit_of_its_header(tmp_path: Path) -> None:
    text = (
        "#run:fill,time,nls,ncms,delivered(/nb),recorded(/nb)\n381151:9666,1716579917,860,852,5,4\n"
    )
    run = files.read(written(tmp_path, "lumi.csv", text)).runs.loc[381151]
    assert run["delivered_lumi"] == 5000
    assert run["start_time"] == pd.Timestamp("2024-05-24 19:45:17", tz="UTC")


def test_rates_and_references_are_told_by_their_columns(tmp_path: Path) -> None:
    text = "run,lumisection,path_name,rate\n7,2,HLT_ZeroBias_v8,24.5\n7,1,HLT_ZeroBias_v8,25\n"
    rates = files.read(written(tmp_path, "rates.csv", text)).rates
    assert rates.to_dict("list") == {
        "run_number": [7, 7],
        "ls_number": [1, 2],
        "path": ["HLT_ZeroBias_v8"] * 2,
        "rate": [25.0, 24.5],
    }
    text = "run_number,reference_run,reco\n9,7,Prompt\n"
    references = files.read(written(tmp_path, "refs.csv", text)).references
    assert references.to_dict("records") == [
        {
            "run_number": 9,
            "reco": "Prompt",
            "dataset": "",
            "reference_run_number": 7,
            "reference_reco": "",
            "reference_dataset": "",
        }
    ]


def test_run_registry_entries_become_flags_and_states(tmp_path: Path) -> None:
    entry = {
        "run_number": 398903,
        "name": "/PromptReco/Collisions2025/DQM",
        "dataset_attributes": {"global_state": "OPEN", "tracker_state": "COMPLETED"},
        "ranges": [
            {"start": 1, "end": 9, "tracker-pixel": {"status": "GOOD", "cause": ""}, "x": 1},
            {"start": 10, "end": 12, "tracker-pixel": {"status": "BAD", "cause": "FED"}},
        ],
    }
    found = files.read(written(tmp_path, "rr.json", [entry]))
    assert found.flags[
        ["component", "first_ls", "last_ls", "flag", "cause"]
    ].to_numpy().tolist() == [
        ["tracker-pixel", 1, 9, "GOOD", ""],
        ["tracker-pixel", 10, 12, "BAD", "FED"],
    ]
    assert dict(zip(found.states["workspace"], found.states["state"], strict=True)) == {
        "global": "OPEN",
        "tracker": "COMPLETED",
    }
    entry["ranges"][1]["tracker-pixel"]["status"] = "SOSO"  # type: ignore[index]
    with pytest.raises(ValueError, match="SOSO"):
        files.read(written(tmp_path, "rr.json", [entry]))


def test_beams_are_stable_when_both_are(tmp_path: Path) -> None:
    content = {
        "run_number": [7, 7, 7],
        "ls": [1, 2, 3],
        "beam1_stable": [True, True, None],
        "beam2_stable": [True, False, True],
    }
    found = files.read(written(tmp_path, "a.json", content)).lumisections
    assert found["beams_stable"].tolist() == [True, False, pd.NA]


def test_the_sum_since_the_run_began_is_not_taken_for_the_lumisections_own(tmp_path: Path) -> None:
    content = {
        "run_number": [7],
        "lumisection_number": [2],
        "delivered_lumi": [0.5],
        "delivered_lumi_per_lumisection": [0.25],
    }
    found = files.read(written(tmp_path, "a.json", content)).lumisections
    assert found["delivered_lumi"].tolist() == [250_000]
    assert found["delivered_lumi_since_start"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Cert_Collisions2023_366442_370790_Golden.json", "golden"),
        ("Cert_Collisions2023_366442_370790_Muon.json", "muon"),
        ("Cert_294927-306462_13TeV_PromptReco_Collisions17_JSON.txt", "golden"),
        ("Collisions24_13p6TeV_378981_386951_DCSOnly_TkPx.json", "dcs"),
        ("bad_pixel.json", "bad"),
    ],
)
def test_the_kind_of_a_certification_is_in_its_name(tmp_path: Path, name: str, kind: str) -> None:
    (certified,) = files.read(written(tmp_path, name, {"7": [[1, 3]]})).certifications
    assert (certified.kind, certified.name) == (kind, Path(name).stem)
    assert certified.ranges == {7: [(1, 3)]}


def test_a_name_that_tells_nothing_needs_the_kind(tmp_path: Path) -> None:
    path = written(tmp_path, "mine.json", {"7": [[1, 3]]})
    with pytest.raises(ValueError, match="of which kind"):
        files.read(path)
    (certified,) = files.read(path, kind="dcs", name="tracker").certifications
    assert (certified.kind, certified.name) == ("dcs", "tracker")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**COLUMNS, "pileup": [1, 2]}, "columns of different length"),
        ({**COLUMNS, "run_number": [0, 1, 2]}, "run_number is 0: want 1 to"),
        ({**COLUMNS, "run_number": [None, 1, 2]}, "run_number is None"),
        ({**COLUMNS, "lumisection_number": [1.5, 1, 2]}, "1.5: want a whole number"),
        ({**COLUMNS, "lumisection_number": [1, 1, 1]}, "ls_number 1 occurs twice, with different"),
        ({**COLUMNS, "beams_stable": ["often", True, True]}, "'often': want true or false"),
        ({**COLUMNS, "pileup": ["many", 1, 2]}, "pileup, row 0: 'many': want a finite number"),
        ({**COLUMNS, "pileup": [True, 1, 2]}, "want a finite number"),
        ({**COLUMNS, "start_time": ["soon", None, None]}, "'soon': want a time"),
        ({"ls_number": [1]}, "no column run_number, only ls_number"),
        ({"run_number": 7}, "want lists of equal length"),
        ([1, 2], "entry 0: want an object, got 1"),
        ('{"run_number": [1', "not JSON"),
        ("", "neither JSON nor CSV"),
        ("a,b\n1,2\n", "no column run_number"),
        ("#run:fill,ls,delivered,recorded\n1:2,1:1,3,4\n", "units nowhere"),
        ("#run:fill,ls,delivered(/ub)\n1:2,1:1\n", "want 3 values"),
        ("#run:fill,time,delivered(/ub)\n1:2,noon,3\n", "time 'noon'"),
    ],
)
def test_a_broken_file_is_refused_with_what_is_wrong(
    tmp_path: Path, content: Any, words: str
) -> None:
    path = written(tmp_path, "broken", content)
    with pytest.raises(ValueError, match=words) as refused:
        files.read(path)
    assert str(path) in str(refused.value)


def test_a_row_that_occurs_twice_the_same_is_one(tmp_path: Path) -> None:
    twice = {name: [*own, own[0]] for name, own in COLUMNS.items()}
    assert len(files.read(written(tmp_path, "a.json", twice)).lumisections) == 3


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text"):
        files.read(tmp_path / "a.json")


def test_an_unknown_kind_or_unit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", COLUMNS)
    with pytest.raises(ValueError, match="kind 'silver': want one of table, brilcalc"):
        files.read(path, kind="silver")
    with pytest.raises(ValueError, match="lumi_unit 'pb': want one of"):
        files.read(path, lumi_unit="pb")
