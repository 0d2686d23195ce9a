"""What a campaign writes: files under CMS's names, and what stands beside them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dqmio_samples import assert_same, expected, read_with_uproot

from ml4ad import dqmio, simulate
from ml4ad.cli import main
from ml4ad.simulate.lhc import LS_SECONDS
from ml4ad.stack import concatenate

OMS = Path(__file__).parents[1].parent / "shared" / "data" / "oms" / "omsdata_Run2024B-v1.json"
UUID = r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}\.root"
ELEMENTS = (
    "*charge_PXLayer_1",
    "*EBOT digi occupancy",
    "*hORecHits",
    "*VsEta_GenTk",
    "*EBTMT timing map",
    "*LadderCoord_PXLayer_1",
    "*HLT_PFJet500*",
    "*algoBits_before_prescale",
    "*vertices_xyz",
)


def two_streams(**changes):
    return simulate.campaign(
        3,
        **{
            "runs": 2,
            "lumisections": 36,
            "elements": ELEMENTS,
            "datasets": ["ZeroBias/PromptReco-v1", "StreamExpress/Express-v1"],
            "faults": [simulate.Fault("missing_element", "*hORecHits", first_ls=5, n_ls=30)],
            **changes,
        },
    )


def charge_only(**changes):
    return two_streams(**{"elements": ["*charge_PXLayer_1"], "faults": (), **changes})


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    out = tmp_path_factory.mktemp("campaign") / "out"
    return simulate.generate(out, two_streams(), corrupt=6)


def good_files(record, dataset, run_number=None):
    files = record.files[(record.files["dataset"] == dataset) & (record.files["corrupt"] == "")]
    if run_number is not None:
        files = files[[run_number in numbers for numbers in files["run_numbers"]]]
    return [record.out_dir / path for path in files["path"]]


def test_another_reader_finds_what_the_campaign_says(record):
    made = record.campaign
    for run, dataset in made.deliveries()[:1]:
        found = {}
        for path in good_files(record, dataset, run.run_number):
            mine = read_with_uproot(path)
            assert not found.keys() & mine.keys()
            found |= mine
        fired = made.triggers(run, dataset)
        rows = [
            (run.run_number, ls, f"Info/EventInfo/{name}", kind, value, 0)
            for ls in made.ls_numbers(run, dataset).tolist()
            for name, kind, value in (
                ("processedEvents", "Int", int(fired[ls - 1])),
                ("processEventRate", "Float", fired[ls - 1] / LS_SECONDS),
            )
        ]
        rows += [
            (run.run_number, 0, "Info/ProvInfo/CMSSW", "String", "CMSSW_14_0_9", 0),
            (run.run_number, 0, "Info/ProvInfo/runIsComplete", "Int", 1, 0),
            (run.run_number, 0, "Info/EventInfo/reportSummary", "Float", 1.0, 0),
        ]
        columns = ["run_number", "ls_number", "me", "kind", "value", "flags"]
        scalars = pd.DataFrame(rows, columns=columns, dtype=object)
        wanted = expected(list(made.stacks(run.run_number, dataset=dataset)), scalars)
        assert_same(found, wanted)
        assert not any(me.endswith("hORecHits") and 5 <= ls < 35 for me, _, ls in found)


def test_files_hold_the_stacks_of_the_campaign(record):
    made = record.campaign
    for run, dataset in made.deliveries():
        held = {}
        for path in good_files(record, dataset, run.run_number):
            with dqmio.open(path) as file:
                for stack in file.stacks():
                    held.setdefault(stack.me, []).append(stack)
        wanted = {stack.me: stack for stack in made.stacks(run.run_number, dataset=dataset)}
        assert held.keys() == wanted.keys()
        for me, stack in wanted.items():
            found = concatenate(held[me])
            assert found.axes == stack.axes
            assert (found.kind, found.title) == (stack.kind, stack.title)
            for name in ("ls_numbers", "contents", "entries", "statistics"):
                assert np.array_equal(getattr(found, name), getattr(stack, name)), (me, name)


def test_broken_files_are_refused_by_the_reader(record):
    broken = record.files[record.files["corrupt"].isin(["truncated", "zero length", "not ROOT"])]
    assert len(broken) >= 3
    for path in broken["path"]:
        with pytest.raises((OSError, ValueError)), dqmio.open(record.out_dir / path) as file:
            list(file.stacks())


def test_files_are_named_as_by_cms(record):
    for run, dataset in record.campaign.deliveries():
        digits = f"{run.run_number:09d}"
        tree, primary, processing = (
            ("express", "StreamExpress", "Express-v1")
            if "Express" in dataset
            else ("data", "ZeroBias", "PromptReco-v1")
        )
        folder = (
            f"store/{tree}/Run2024F/{primary}/DQMIO/{processing}/000/{digits[3:6]}/{digits[6:]}"
        )
        paths = good_files(record, dataset, run.run_number)
        assert len(paths) >= 2
        for path in paths:
            text = path.relative_to(record.out_dir).as_posix()
            assert re.fullmatch(rf"{folder}/00000/{UUID}", text)


def test_lumisections_of_a_run_lie_in_several_files_in_any_order(record):
    run, dataset = record.campaign.deliveries()[0]
    held = []
    for path in good_files(record, dataset, run.run_number):
        numbers = {ls for _, _, ls in read_with_uproot(path)} - {0}
        assert numbers
        held.append(numbers)
    assert sum(map(len, held)) == len(set.union(*held))
    assert set.union(*held) == set(record.campaign.ls_numbers(run, dataset).tolist())


def test_a_re_reconstruction_has_many_runs_in_a_file(tmp_path):
    made = charge_only(datasets=["ZeroBias/19Jan2025-v2"])
    record = simulate.generate(tmp_path / "out", made, files_per_run=1)
    pattern = rf"store/data/Run2024F/ZeroBias/DQMIO/19Jan2025-v2/30000/{UUID}"
    assert all(re.fullmatch(pattern, path) for path in record.files["path"])
    both = tuple(run.run_number for run in made.runs)
    assert both in set(record.files["run_numbers"])


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    made = two_streams(elements=ELEMENTS[:4])
    first, again = (simulate.generate(tmp_path / n, made, corrupt=3) for n in "ab")
    pd.testing.assert_frame_equal(first.files, again.files)
    paths = sorted(p.relative_to(first.out_dir) for p in first.out_dir.rglob("*") if p.is_file())
    assert len(paths) > 10
    for path in paths:
        assert (first.out_dir / path).read_bytes() == (again.out_dir / path).read_bytes()


def test_conditions_have_the_shape_of_oms(record):
    told = json.loads((record.out_dir / "conditions.json").read_text())
    lengths = {len(column) for column in told.values()}
    assert lengths == {72}
    if not OMS.exists():
        pytest.skip("no real OMS data beside the project")
    real = json.loads(OMS.read_text())
    assert set(real) <= set(told)
    for name, column in real.items():
        assert type(told[name][-1]) is type(column[-1]), name
    # The same unit: 2340 bunches at a pileup of 60 give 0.46 /pb in a lumisection.
    assert 0.05 < max(told["delivered_lumi_per_lumisection"]) < 0.6


def test_certification_truth_and_runs_agree(record):
    truth, golden, dcs, runs, rates = (
        json.loads((record.out_dir / f"{name}.json").read_text())
        for name in ("truth", "golden", "dcs", "runs", "rates")
    )
    assert truth["seed"] == 3
    assert {fault["kind"] for fault in truth["faults"]} == {"missing_element"}
    assert len(truth["faults"]) == 4
    assert truth["faults"][0]["lumisections"] == [[5, 34]]
    for run in truth["runs"]:
        certified = {
            ls for a, b in golden.get(str(run["run_number"]), []) for ls in range(a, b + 1)
        }
        assert not certified & set(run["faulty"])
    assert set(golden) <= set(dcs) <= {str(number) for number in runs["run_number"]}
    assert runs["last_lumisection_number"] == [36, 36]
    assert len(rates["rate"]) == 72
    told = {file["path"] for file in truth["files"]} | {file["path"] for file in truth["corrupt"]}
    on_disk = {p.relative_to(record.out_dir).as_posix() for p in record.out_dir.rglob("*.root")}
    assert told == on_disk


def test_corrupt_files_are_corrupt(record):
    broken = record.files[record.files["corrupt"] != ""]
    assert len(broken) == 6
    assert set(broken["corrupt"]) == {
        *("truncated", "zero length", "header only", "not ROOT", "flipped bytes")
    }
    for path, how in zip(broken["path"], broken["corrupt"], strict=True):
        data = (record.out_dir / path).read_bytes()
        assert (data[:4] == b"root") == (how in ("truncated", "header only", "flipped bytes"))
    assert record.summary()["files"].sum() == len(record.files) - 6


def test_progress_is_told(tmp_path):
    told = []
    made = charge_only(runs=1)
    simulate.generate(tmp_path / "out", made, progress=lambda *state: told.append(state))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"corrupt": -1}, "-1 corrupt files, want 0 to 1000"),
        ({"files_per_run": 0}, "0 files per run, want 1 to 1000"),
        ({"compression": "rar"}, "rar"),
    ],
)
def test_a_wrong_number_is_refused_before_a_file_is_begun(tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        simulate.generate(tmp_path / "out", two_streams(), **wrong)
    assert not list(tmp_path.rglob("*.root"))


def test_a_campaign_is_not_overwritten(record):
    with pytest.raises(FileExistsError, match="holds a campaign already"):
        simulate.generate(record.out_dir, record.campaign)


def test_an_interrupted_campaign_leaves_no_half_file(tmp_path):
    class StopError(Exception):
        pass

    def stop(done, total):
        if 2 * done > total:
            raise StopError

    made = charge_only(runs=1, lumisections=100)
    with pytest.raises(StopError):
        simulate.generate(tmp_path / "out", made, files_per_run=1, progress=stop)
    kept = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    # The first dataset's file is complete; of the second nothing is left.
    assert len(kept) == 1
    assert read_with_uproot(kept[0])


# -- the command ---------------------------------------------------------------------------------


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *map(str, arguments)])
    return ended.value.code


def test_the_command_writes_and_tells(tmp_path, capsys):
    faults = tmp_path / "faults.json"
    faults.write_text('[{"kind": "empty", "me": "*hORecHits", "ls": "10-12"}]')
    fault = "kind=hv_off,me=*EBOT digi*,ls=5-9,module=EB+07,strength=0.4"
    small = ("--preset", "small", "--runs", "1", "--era", "Run2023D", "--lumisections", "20")
    out = tmp_path / "out"
    assert run(out, *small, "--fault", fault, "--faults-from", faults, "--corrupt", 1) == 0
    printed = capsys.readouterr().out
    assert "/ZeroBias/Run2023D-PromptReco-v1/DQMIO" in printed
    assert "empty, hv_off" in printed
    truth = json.loads((out / "truth.json").read_text())
    assert [fault["kind"] for fault in truth["faults"]][:2] == ["empty", "hv_off"]
    assert len(truth["corrupt"]) == 1


def test_the_command_lists_without_writing(tmp_path, capsys):
    assert run(tmp_path / "out", "--preset", "small", "--list") == 0
    printed = capsys.readouterr().out
    assert "EBOT digi occupancy\tTH2F\t72 x 34" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fault", "kind=rust,me=*"), "fault 'rust', want one of"),
        (("--preset", "tiny"), "preset 'tiny', want one of small, demo, large"),
        (("--era", "Run1999A"), "era 'Run1999A', want one of"),
        (("--elements", "*no such*"), "no element matches '*no such*'"),
        (("--corrupt", "-3"), "-3 corrupt files, want 0"),
        (("--seed", "-3"), "seed -3, want 0"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, arguments, words):
    assert run(tmp_path / "out", *arguments) == 1
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_faults_from_a_file_that_is_none_are_refused(tmp_path, capsys):
    wrong = tmp_path / "faults.json"
    wrong.write_text('{"kind": "empty"}')
    assert run(tmp_path / "out", "--faults-from", wrong) == 1
    assert "want a list of faults" in capsys.readouterr().err
    wrong.write_text("nothing")
    assert run(tmp_path / "out", "--faults-from", wrong) == 1
    assert "not JSON" in capsys.readouterr().err


def test_a_whole_thousand_of_lumisections_needs_no_more_memory_than_a_few(tmp_path):
    import tracemalloc

    peaks = []
    for n_ls in (32, 320):
        made = simulate.campaign(
            1, runs=1, lumisections=n_ls, elements=["*clusterposition_xy*+1", "*EBOT digi*"]
        )
        tracemalloc.start()
        simulate.generate(tmp_path / str(n_ls), made, files_per_run=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 20e6
    assert np.isfinite(peaks).all()
