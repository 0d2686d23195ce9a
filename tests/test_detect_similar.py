"""What else looked like this, over an archive."""

import numpy as np
import pytest
from scored_samples import DATASET, LINE, MAP, OTHER, good_runs, histograms, put, with_hole

import ml4ad
from ml4ad import cli, detect


@pytest.fixture
def archive(database_url, tmp_path):
    """Good runs 1 to 5, of which 4 has a hole from LS 21 to 26; run 9 has it in LS 11."""
    with ml4ad.connect(database_url) as archive:
        good_runs(archive, tmp_path, runs=(1, 2, 3, 5))
        put(archive, tmp_path, with_hole(histograms(LINE, 4), 21, 26), histograms(MAP, 4))
        put(archive, tmp_path, with_hole(histograms(LINE, 9), 11, 11))
        yield archive


def test_a_fault_is_most_like_the_same_fault_in_another_run(archive):
    found = detect.similar_in(archive, LINE, 9, 11, n=8)
    assert found["run_number"].tolist()[:6] == [4] * 6
    assert sorted(found["ls_number"].tolist()[:6]) == list(range(21, 27))
    assert (found["ratio"][:6] < 2).all()
    assert (found["ratio"][6:] > 10).all()
    assert found.attrs["other_binning"] == []


def test_the_archive_says_what_stacks_say(archive):
    whole = list(archive.stacks(LINE, dataset=DATASET))
    assert len(whole) > 4, "more runs than are read at a time"
    (own,) = [stack for stack in whole if stack.run_number == 9]
    of_stacks = detect.similar(own, 5, whole, n=12, beside=3)
    of_archive = detect.similar_in(archive, LINE, 9, 5, n=12, beside=3)
    np.testing.assert_array_equal(of_archive.to_numpy(), of_stacks.to_numpy())
    near = of_archive[of_archive["run_number"] == 9]["ls_number"]
    assert (np.abs(near - 5) > 3).all()


def test_runs_of_another_binning_are_left_out_and_named(archive, tmp_path):
    put(archive, tmp_path, histograms(LINE, 6, n_bins=25))
    found = detect.similar_in(archive, LINE, 9, 11)
    assert 6 not in found["run_number"].tolist()
    assert found.attrs["other_binning"] == [6]
    assert 6 not in detect.similar_runs_in(archive, 9, dataset=DATASET)["run_number"].tolist()


def test_only_the_runs_that_are_asked_for_are_looked_at(archive):
    found = detect.similar_in(archive, LINE, 9, 11, runs=[1, 2], n=50)
    assert set(found["run_number"]) == {1, 2}
    with pytest.raises(KeyError, match="no run 77 in"):
        detect.similar_in(archive, LINE, 9, 11, runs=[77])


def test_a_run_is_most_like_the_run_with_the_same_fault(archive, tmp_path):
    for run_number in (7, 8):
        put(archive, tmp_path, with_hole(histograms(OTHER, run_number), 1, 40))
    put(archive, tmp_path, histograms(OTHER, 10))
    found = detect.similar_runs_in(archive, 7, me="Pixel/*", dataset=DATASET)
    assert found["run_number"].tolist() == [8, 10]
    assert found["distance"][0] < found["distance"][1] / 3
    assert found["elements"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ((LINE, 99, 1), KeyError, "99"),
        ((LINE, 9, 99), KeyError, "99"),
        (("A/b", 9, 1), KeyError, "A/b"),
    ],
)
def test_what_the_archive_does_not_have_is_refused(archive, given, error, words):
    with pytest.raises(error, match=words):
        detect.similar_in(archive, *given)
    with pytest.raises(KeyError):
        detect.similar_runs_in(archive, 9, me="Nothing/*", dataset=DATASET)


def test_the_command_lists_lumisections_or_runs(archive, capsys):
    del archive
    for words, first in (
        (("--me", LINE, "--ls", "11", "-n", "3"), "4"),
        (("--me", "Pixel/*", "-n", "3"), None),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(["similar", "--run", "9", *words])
        assert left.value.code == 0
        header, *rows = capsys.readouterr().out.splitlines()
        assert header.startswith("run_number\t")
        assert len(rows) == 3
        assert first is None or rows[0].split("\t")[0] == first
