import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ml4ad import HistogramStack, trends

EDGES = [0.0, 1.0, 2.0, 4.0, 8.0]
COUNTS = arrays(np.float64, (3, 4), elements=st.integers(0, 1000).map(float))


def stack_of(counts, edges=EDGES):
    n_ls = len(counts)
    return HistogramStack.from_arrays(
        counts, [edges], ls_numbers=np.arange(5, 5 + n_ls), run_number=1, me="A/b"
    )


@given(COUNTS)
def test_numbers_are_those_of_the_entries_themselves(counts):
    stack = stack_of(counts)
    table = trends.table(stack)
    for row, own in enumerate(counts):
        if not own.any():
            assert table.iloc[row][["mean", "std", "mode", "q50"]].isna().all()
            continue
        filled = np.repeat(stack.axes[0].centers, own.astype(int))
        assert table["mean"].iloc[row] == pytest.approx(filled.mean())
        assert table["std"].iloc[row] == pytest.approx(filled.std(), abs=1e-6)
        assert table["entries"].iloc[row] == len(filled)


@given(COUNTS, st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_quantiles_rise_and_share_the_entries(counts, levels):
    stack = stack_of(counts)
    for level in levels:
        found = trends.table(stack, quantiles=[level]).iloc[:, -1]
        for row, own in enumerate(counts):
            if own.any():
                below = np.interp(found.iloc[row], EDGES, np.append(0, own.cumsum()))
                assert below == pytest.approx(level * own.sum(), abs=1e-6)
    rising = trends.table(stack, quantiles=sorted(levels)).iloc[:, 4:]
    assert (rising.diff(axis=1).iloc[:, 1:].fillna(0) >= -1e-9).all(axis=None)


def test_several_runs_and_elements_are_one_table():
    here = stack_of([[1, 0, 0, 0], [0, 0, 0, 2]])
    later = dataclasses.replace(here, run_number=2)
    other = dataclasses.replace(here, me="A/c")
    of_one = trends.table(iter([here, later]))
    assert of_one.index.names == ["run_number", "ls_number"]
    assert of_one.loc[(2, 6), "mean"] == 6.0
    of_two = trends.table([here, other])
    assert of_two.loc[("A/c", 1, 5), "entries"] == 1
    with pytest.raises(ValueError, match="no stack"):
        trends.table([])


def test_a_run_is_told_by_the_sum_of_its_lumisections():
    here, empty = stack_of([[1, 0, 0, 0], [0, 0, 0, 2]]), stack_of(np.zeros((0, 4)))
    found = trends.runs([here, empty])
    assert found.loc[0, ["n_ls", "first_ls", "last_ls"]].tolist() == [2, 5, 6]
    whole = trends.table(stack_of([[1, 0, 0, 2]])).iloc[0]
    assert found.loc[0, whole.index].astype(float).equals(whole)
    assert found.loc[1, "n_ls"] == 0
    assert np.isnan(found.loc[1, "mean"])


def test_a_map_has_a_row_for_each_lumisection_that_is_missing_too():
    stack = stack_of([[1, 0, 0, 3], [0, 0, 0, 0], [2, 2, 2, 2]]).select([5, 7])
    found = trends.ls_map(stack)
    assert found.index.tolist() == [5, 6, 7]
    assert found.loc[6].isna().all()
    assert found.loc[5].tolist() == [1, 0, 0, 3]
    shares = trends.ls_map(stack_of([[1, 0, 0, 3], [0, 0, 0, 0]]), normalise=True)
    assert shares.loc[5].tolist() == [0.25, 0, 0, 0.75]
    assert shares.loc[6].isna().all()
    with pytest.raises(ValueError, match="A/b, run 1: no lumisection"):
        trends.ls_map(stack.select([]))


def test_what_is_no_line_is_refused():
    flat = HistogramStack.from_arrays(
        np.ones((1, 2, 2)), [[0, 1, 2], [0, 1, 2]], ls_numbers=[1], run_number=1, me="A/map"
    )
    with pytest.raises(ValueError, match="A/map has 2 axes"):
        trends.table(flat)
    with pytest.raises(ValueError, match=r"quantiles \[2\]"):
        trends.table(stack_of(np.ones((1, 4))), quantiles=[2])
