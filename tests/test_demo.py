"""The whole line once, on a small simulated detector."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

import ml4ad
from ml4ad import dqmio, simulate
from ml4ad.ingest import take
from ml4ad.pipelines import demo

ME = "PixelPhase1/Tracks/PXBarrel/charge_PXLayer_1"


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


@pytest.mark.slow
def test_the_demo_goes_from_files_to_incidents_and_does_nothing_twice(archive, tmp_path):
    told = []
    done = demo.run(archive, tmp_path, preset="small", workers=1, say=told.append)
    steps = [line for line in told if ":" not in line]
    assert steps == ["simulate", "index", "ingest", "conditions", "train", "score", "draw"]
    whole = [line.split(":")[0] for line in told if re.search(r": (\d+) of \1 elements$", line)]
    assert whole == ["train demo-Run2024F", "score"]
    campaign = simulate.preset_campaign("small")
    for run in campaign.runs:
        for stack in campaign.stacks(run.run_number, ME):
            assert (archive.stack(ME, run.run_number).contents == stack.contents).all()
    assert done.files.state.tolist() == ["PROCESSED"] * len(done.files)
    assert done.pictures
    assert all(path.stat().st_size > 5000 for path in done.pictures)
    told.clear()
    again = demo.run(archive, tmp_path, preset="small", workers=1, say=told.append)
    assert "simulate" not in told
    assert "train" not in told
    assert len(again.incidents) == len(done.incidents)


def test_files_of_ones_own_are_drawn(archive, tmp_path, small14):
    path = tmp_path / "store_data_Run2023C_ZeroBias_DQMIO_PromptReco-v1_40000_A.root"
    path.write_bytes(small14.read_bytes())
    done = demo.run(archive, tmp_path / "demo", files=[path], workers=1)
    assert archive.datasets().dataset.tolist() == ["/ZeroBias/Run2023C-PromptReco-v1/DQMIO"]
    with dqmio.open(path) as file:
        assert len(archive.runs()) == file.index.run_number.nunique()
    assert len(done.pictures) == 1


def test_a_fault_is_found_by_an_incident_of_its_run_time_and_element():
    fault = {
        "fault": 1,
        "kind": "dead_cell",
        "me": "A/b",
        "run_number": 5,
        "lumisections": [[10, 20]],
    }
    truth = json.loads(json.dumps({"faults": [fault, {**fault, "me": "A/c"}]}))

    def found(**changed):
        row = {"run_number": 5, "first_ls": 15, "last_ls": 30, "me": "A/x", "mes": ["A/x", "A/c"]}
        incidents = pd.DataFrame([row | changed])
        of_fault = demo.of_faults(truth, incidents)
        assert demo.compared(truth, incidents).found.tolist() == of_fault
        return of_fault

    assert found() == [True]
    assert found(run_number=6) == [False]
    assert found(first_ls=21) == [False]
    assert found(mes=["A/x"]) == [False]
    assert demo.compared(truth, pd.DataFrame()).found.tolist() == [False]


def test_a_file_whose_path_tells_no_dataset_gets_the_one_that_is_given(archive, tmp_path, small14):
    path = tmp_path / "file.root"
    path.write_bytes(small14.read_bytes())
    dataset = "/ZeroBias/Run2023C-v1/DQMIO"
    done = demo.run(archive, tmp_path / "demo", files=[path], dataset=dataset, workers=1)
    assert done.files.state.tolist() == ["PROCESSED"]
    assert archive.datasets().dataset.tolist() == [dataset]


def test_the_command_fails_with_the_reason_if_nothing_was_taken_in(database_url, tmp_path, small14):
    path = tmp_path / "file.root"
    path.write_bytes(small14.read_bytes())
    command = [sys.executable, "-m", "ml4ad", "demo", "d", "--files", str(path), "--workers", "1"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"ML4AD_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "the path tells no dataset" in ended.stdout
    assert ended.stderr.splitlines()[-1].endswith("none of 1 files was taken in")
