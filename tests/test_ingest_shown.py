"""Bars for who looks on, and nothing for a pipe."""

import io
from functools import partial

import numpy as np
import pytest
from rich.console import Console

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest
from ml4ad.ingest import take

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


@pytest.fixture
def numbers(archive, tmp_path):
    """Two files of six histograms."""
    for run_number in (1, 2):
        stacks = [
            HistogramStack.from_arrays(
                np.random.default_rng(i).poisson(20, (3, 500)).astype("f4"),
                Axis.regular(500, 0, 1),
                ls_numbers=[1, 2, 3],
                run_number=run_number,
                me=f"Pixel/{name}",
            )
            for i, name in enumerate(("charge", "size"))
        ]
        dqmio.write(tmp_path / f"{run_number}.root", stacks)
    return [f.file_id for f in ingest.index(archive, tmp_path, DATASET)]


def test_bars_tell_files_bytes_rate_and_time_left(archive, numbers):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    taking = partial(ingest.in_turn, archive)
    done = list(ingest.shown(archive, numbers, taking, console=console))
    assert [d.state for d in done] == ["PROCESSED"] * 2
    drawn = screen.getvalue()
    for text in ("2 of 2 files", "/s", "0:00:00", "kB"):
        assert text in drawn


def test_a_pipe_gets_no_bars(archive, numbers):
    screen = io.StringIO()
    taking = partial(ingest.in_turn, archive)
    list(ingest.shown(archive, numbers, taking, console=Console(file=screen)))
    assert screen.getvalue() == ""


@pytest.mark.parametrize(("globs", "n_histograms"), [(None, 6), (["*charge"], 3)])
def test_what_is_told_of_a_file_counts_the_histograms_that_are_wanted(
    archive, numbers, monkeypatch, globs, n_histograms
):
    monkeypatch.setattr(take, "_TELL_S", -1.0)
    if globs:
        pixel = ml4ad.workspaces.Workspace("pixel", datasets=(DATASET,), elements=tuple(globs))
        ingest.enqueue(archive, numbers, workspaces=[pixel])
    told = []
    (done,) = ingest.in_turn(archive, numbers[:1], told=told.append)
    assert done.n_histograms == n_histograms
    assert {t.n_histograms for t in told} == {n_histograms}
    counts = [t.n_done for t in told]
    assert counts[0] == 0
    assert counts[-1] == n_histograms
    assert counts == sorted(counts)
