import numpy as np
import pandas as pd
import pytest
import uproot
from dqmio_samples import assert_same, axes_of, expected, make_stack, read_with_uproot

from ml4ad import dqmio
from ml4ad.cli import main

BEGIN = pd.Timestamp("2024-05-01 10:00", tz="UTC")
NO_SCALARS = pd.DataFrame(
    columns=["run_number", "ls_number", "me", "kind", "value", "flags"], dtype=object
)


def times(run_number, numbers):
    rows = [
        (
            run_number,
            ls,
            BEGIN + pd.Timedelta(23, "s") * ls,
            BEGIN + pd.Timedelta(23, "s") * (ls + 1),
        )
        for ls in numbers
    ]
    return pd.DataFrame(rows, columns=["run_number", "ls_number", "begin_time", "end_time"])


def values(run_number, numbers):
    rows = [
        row
        for ls in numbers
        for row in (
            (run_number, ls, "Info/ls", "Int", ls, 3),
            (run_number, ls, "Info/rate", "Float", ls / 2, 0),
            (run_number, ls, "Info/text", "String", f"ls {ls}", 0),
        )
    ]
    return pd.DataFrame(rows, columns=NO_SCALARS.columns)


def held(run_number, numbers, seed=1):
    labelled = axes_of(1, labelled=True)
    return [
        make_stack("TH1F", "A/b/charge_1", numbers, run_number=run_number, seed=seed),
        make_stack(
            "TH1F", "A/b/charge+2", numbers, run_number=run_number, seed=seed, axes=labelled
        ),
        make_stack("TH2S", "A/c/map", numbers[::2], run_number=run_number, seed=seed, sumw2=True),
        make_stack("TProfile", "B/mean", numbers, run_number=run_number, seed=seed),
    ]


@pytest.fixture
def files(tmp_path):
    """Run 1 over two files, with elements of the whole run in both, and run 2 in the second."""
    first, second = tmp_path / "first.root", tmp_path / "second.root"
    dqmio.write(
        first,
        held(1, [0, 1, 2, 3, 7], seed=1),
        scalars=values(1, [0, 1, 2]),
        lumisections=times(1, [0, 1, 2, 3, 4, 7]),
    )
    dqmio.write(
        second,
        held(1, [0, 5, 6], seed=2) + held(2, [1, 2], seed=3),
        scalars=values(1, [0, 5]),
        lumisections=pd.concat([times(1, [0, 5, 6]), times(2, [1, 2, 3])]),
    )
    return [first, second]


def all_stacks():
    first, second = held(1, [0, 1, 2, 3, 7], seed=1), held(1, [0, 5, 6], seed=2)
    whole = [a.select(0) + b.select(0) for a, b in zip(first, second, strict=True)]
    parts = [stack.select(slice(1, None)) for stack in first + second]
    return [*whole, *parts, *held(2, [1, 2], seed=3)]


def all_scalars():
    return pd.concat([values(1, [0, 1, 2]), values(1, [5])])


def seen(path):
    with uproot.open(path) as file:
        frame = file["Indices"].arrays(library="pd")
    return set(zip(frame["Run"].tolist(), frame["Lumi"].tolist(), strict=True))


def test_a_dataset_of_the_archive_is_skimmed_into_a_file(database_url, tmp_path, small14):
    import ml4ad
    from ml4ad import ingest
    from ml4ad.ingest import take

    dataset = "/ZeroBias/Run2023C-PromptReco-v1/DQMIO"
    with ml4ad.connect(database_url) as archive:
        assert [r.state for r in ingest.ingest(archive, [small14], dataset=dataset)] == [
            "PROCESSED"
        ]
        dqmio.skim([archive.source(dataset)], tmp_path / "all.root")
        with pytest.raises(KeyError, match="no dataset"):
            archive.source("/No/Such-v1/DQMIO")
    take.close_engines()
    with dqmio.open(small14) as plain, dqmio.open(tmp_path / "all.root") as copied:
        assert len(copied.lumisections) == len(plain.lumisections)
        assert copied.release == plain.release
        written = {(s.me, s.run_number, s.ls_numbers[0]): s for s in copied.stacks()}
        for stack in plain.stacks():
            for ls_number in stack.ls_numbers:
                same = [
                    s
                    for key, s in written.items()
                    if key[:2] == (stack.me, stack.run_number) and ls_number in s.ls_numbers
                ]
                assert len(same) == 1
                one, other = same[0].select([ls_number]), stack.select([ls_number])
                assert np.array_equal(one.contents, other.contents, equal_nan=True)
        assert len(copied.scalars()) == len(plain.scalars())


def test_everything_of_two_files_is_joined(files, tmp_path):
    out = tmp_path / "out.root"
    written = dqmio.skim(files, out)
    assert_same(read_with_uproot(out), expected(all_stacks(), all_scalars()))
    assert seen(out) == seen(files[0]) | seen(files[1])
    assert written["run_number"].tolist() == [1, 2]
    assert written["n_lumisections"].tolist() == [7, 3]
    assert written["n_elements"].tolist() == [7, 4]
    assert written["n_histograms"].tolist() == [len(read_kind(out, 1)), len(read_kind(out, 2))]


def read_kind(path, run_number):
    return [
        key
        for key, value in read_with_uproot(path).items()
        if key[1] == run_number and isinstance(value, dict)
    ]


def test_chosen_elements_are_kept_with_all_lumisections(files, tmp_path):
    out = tmp_path / "out.root"
    dqmio.skim(files, out, me=["A/b/charge+2", "Info/r*"])
    stacks = [stack for stack in all_stacks() if stack.me == "A/b/charge+2"]
    scalars = all_scalars()[all_scalars()["me"] == "Info/rate"]
    assert_same(read_with_uproot(out), expected(stacks, scalars))
    assert seen(out) == seen(files[0]) | seen(files[1])


def test_chosen_lumisections_are_kept_with_their_times(files, tmp_path):
    out = tmp_path / "out.root"
    dqmio.skim(files, out, run_number=1, ls_numbers=[[2, 5]])
    stacks = [stack.select([[2, 5]]) for stack in all_stacks() if stack.run_number == 1]
    scalars = all_scalars()[all_scalars()["ls_number"].isin([2, 5])]
    assert_same(read_with_uproot(out), expected([s for s in stacks if len(s)], scalars))
    with dqmio.open(out) as file:
        frame = file.lumisections.sort_values("ls_number")
        wanted = times(1, [2, 3, 4, 5])
        assert frame["ls_number"].tolist() == [2, 3, 4, 5]
        for name in ("begin_time", "end_time"):
            assert frame[name].tolist() == wanted[name].tolist()


def test_memory_bounds_the_parts_and_not_the_result(files, tmp_path):
    big, small = tmp_path / "big.root", tmp_path / "small.root"
    heard = []
    dqmio.skim(files, big)
    dqmio.skim(files, small, memory_mb=0, progress=lambda *done: heard.append(done))
    assert_same(read_with_uproot(small), read_with_uproot(big))
    assert heard == [(i, 11) for i in range(1, 12)]


def test_the_release_is_that_of_the_sources(tmp_path):
    for name, release in (("a", "CMSSW_13_0_5"), ("b", "CMSSW_14_0_1")):
        lumisections = times(1, [ord(name)])
        dqmio.write(tmp_path / name, [], release=release, lumisections=lumisections)
    sources = [tmp_path / "a", tmp_path / "b"]
    dqmio.skim(sources[:1], tmp_path / "one")
    with dqmio.open(tmp_path / "one") as file:
        assert file.release == "CMSSW_13_0_5"
    with pytest.raises(ValueError, match="releases CMSSW_13_0_5, CMSSW_14_0_1: say which"):
        dqmio.skim(sources, tmp_path / "both")
    assert not (tmp_path / "both").exists()
    dqmio.skim(sources, tmp_path / "both", release="CMSSW_14_0_1")
    with dqmio.open(tmp_path / "both") as file:
        assert file.release == "CMSSW_14_0_1"


def test_an_open_file_is_a_source(files, tmp_path):
    out = tmp_path / "out.root"
    with dqmio.open(files[0]) as file:
        dqmio.skim([file], out, me="B/*", ls_numbers=7)
    wanted = [held(1, [0, 1, 2, 3, 7])[3].select(7)]
    assert_same(read_with_uproot(out), expected(wanted, NO_SCALARS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_number": 3}, "no lumisection of 2 sources is in run 3"),
        ({"ls_numbers": [[100, 200]]}, "lumisections"),
        ({"me": "C/*"}, "no element of 2 sources is 'C/"),
        ({"compression": "gzip"}, "want one of zlib"),
    ],
)
def test_what_cannot_be_written_is_refused(files, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        dqmio.skim(files, tmp_path / "out.root", **options)
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_a_lumisection_twice_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        dqmio.skim([files[0], files[0]], tmp_path / "out.root")
    assert sorted(tmp_path.iterdir()) == sorted(files)


def run(*arguments):
    with pytest.raises(SystemExit) as exited:
        main([str(argument) for argument in arguments])
    return exited.value.code


def test_the_command_writes_what_is_chosen(files, tmp_path, capsys):
    out = tmp_path / "out.root"
    options = ["--me", "A/b/*", "--me", "B/mean", "--run", 1, "--ls", "1-2", "--ls", 6]
    assert run("skim", *files, out, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "run_number\tn_lumisections\tn_elements\tn_histograms",
        "1\t3\t3\t9",
    ]
    stacks = [
        stack.select([1, 2, 6])
        for stack in all_stacks()
        if stack.run_number == 1 and stack.me != "A/c/map"
    ]
    assert_same(read_with_uproot(out), expected([s for s in stacks if len(s)], NO_SCALARS))
    assert run("skim", *files, out) == 1
    assert "exists" in capsys.readouterr().err
    assert run("skim", *files, out, "--overwrite", "--compression", "zstd") == 0


@pytest.mark.parametrize("text", ["5-2", "x", "-3", "1-2-3"])
def test_the_command_refuses_a_range_that_is_none(files, tmp_path, capsys, text):
    assert run("skim", *files, tmp_path / "out.root", f"--ls={text}") == 2
    assert "want A or A-B" in capsys.readouterr().err


def test_the_command_tells_a_file_that_is_not_there(tmp_path, capsys):
    assert run("skim", tmp_path / "none.root", tmp_path / "out.root") == 1
    assert "none.root" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_times_and_numbers_are_those_of_numpy(files, tmp_path):
    out = tmp_path / "out.root"
    dqmio.skim(files, out, run_number=np.array([2]), ls_numbers=slice(1, 1))
    assert seen(out) == {(2, 1)}
