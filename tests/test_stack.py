import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml4ad.stack import Axis, HistogramStack, as_ls_mask, concatenate, sketch

X = Axis.regular(6, 0, 3, title="pT [GeV]")
Y = Axis(np.array([0.0, 1, 4]), name="yaxis", variable=True)
counts = hnp.arrays(np.float32, (4, 8, 4), elements=st.integers(0, 1000))


def stack_of(contents, ls_numbers=(3, 4, 7, 9), axes=(X, Y), **more):
    return HistogramStack.from_arrays(
        contents, axes, ls_numbers=ls_numbers, run_number=1, me="A/b", **more
    )


@given(counts)
def test_one_lumisection_is_a_hist_with_the_same_cells(contents):
    stack = stack_of(contents)
    for i, ls_number in enumerate(stack.ls_numbers.tolist()):
        assert np.array_equal(stack[ls_number].values(flow=True), contents[i])
    assert np.array_equal(stack.values(), contents[:, 1:-1, 1:-1])
    assert stack.contents.dtype == np.float32


@given(counts)
def test_the_sum_is_the_sum_of_all_lumisections(contents):
    stack = stack_of(contents)
    assert np.array_equal(stack.sum().values(flow=True), contents.sum(axis=0, dtype="f8"))


@given(counts)
def test_rebinning_and_projecting_keep_the_total(contents):
    stack = stack_of(contents)
    total = contents.sum(axis=(1, 2), dtype="f8")
    for other in (stack.rebin(x=2), stack.rebin(3, 2), stack.project("x"), stack.project("y")):
        assert np.array_equal(other.contents.sum(axis=tuple(range(1, other.contents.ndim))), total)
    assert np.array_equal(stack.rebin(x=2).axes[0].edges, [0, 1, 2, 3])


@given(counts, st.permutations(range(4)))
def test_the_order_in_which_arrays_come_does_not_matter(contents, order):
    plain = stack_of(contents)
    shuffled = stack_of(contents[list(order)], np.array([3, 4, 7, 9])[list(order)])
    assert np.array_equal(plain.contents, shuffled.contents)
    assert np.array_equal(plain.ls_numbers, shuffled.ls_numbers)


@given(counts, st.integers(0, 4))
def test_parts_put_together_are_the_whole(contents, at):
    stack = stack_of(contents)
    numbers = stack.ls_numbers
    parts = [p for p in (stack.select(numbers[at:]), stack.select(numbers[:at])) if len(p)]
    whole = concatenate(parts)
    assert np.array_equal(whole.contents, stack.contents)
    assert np.array_equal(whole.entries, stack.entries)


def test_shorts_do_not_overflow_when_they_are_summed():
    full = stack_of(np.full((4, 6, 2), 32767, dtype=np.int16))
    assert full.kind == "TH2S"
    assert full.sum().sum() == 4 * 12 * 32767
    assert full.project("x").values().max() == 2 * 32767


def test_selection_takes_numbers_pairs_and_slices_with_their_end():
    numbers = np.array([3, 4, 7, 9])
    stack = stack_of(np.zeros((4, 6, 2)))
    assert stack[4:7].ls_numbers.tolist() == [4, 7]
    assert stack.select([9, 3, 100]).ls_numbers.tolist() == [3, 9]
    assert stack.select([[1, 3], [8, 20]]).ls_numbers.tolist() == [3, 9]
    assert as_ls_mask(numbers, 7).tolist() == [False, False, True, False]
    assert stack.select([]).n_ls == 0
    with pytest.raises(ValueError, match=r"pairs \[first, last\]"):
        stack.select([[1, 2, 3]])
    with pytest.raises(KeyError, match="no lumisection 5; 4 here, 3 to 9"):
        stack[5]


def test_missing_lumisections_are_those_of_the_run_or_the_gaps():
    stack = stack_of(np.zeros((4, 6, 2)))
    assert stack.missing.tolist() == [5, 6, 8]
    import dataclasses

    known = dataclasses.replace(stack, run_ls_numbers=np.arange(1, 11))
    assert known.missing.tolist() == [1, 2, 5, 6, 8, 10]


def test_weights_and_profiles_get_hists_storages():
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, 1000)
    x = rng.uniform(0, 3, 1000)
    weights, where = np.ones(1000), np.clip((x / 0.5).astype(int) + 1, 0, 7)
    sums = [np.bincount(where, w, minlength=8)[None] for w in (values, values**2, weights)]
    profile = HistogramStack.from_arrays(
        sums[0], X, ls_numbers=[1], run_number=1, me="p", kind="TProfile", sumw2=sums[1],
        sum_of_weights=sums[2],
    )  # fmt: skip
    got = profile[1]
    import hist

    want = hist.Hist(got.axes[0], storage=hist.storage.WeightedMean()).fill(x, sample=values)
    assert np.allclose(got.values(), want.values())
    assert np.allclose(got.variances(), want.variances())
    assert np.allclose(profile.values()[0], want.values())
    assert np.allclose(profile.variances()[0], want.variances(), rtol=1e-2)

    weighted = stack_of(np.ones((4, 6, 2)), sumw2=np.full((4, 6, 2), 9.0))
    assert weighted[3].variances()[0, 0] == 9
    assert weighted.variances().max() == 9


def test_adding_a_stack_without_sumw2_uses_its_counts():
    plain, weighted = stack_of(np.full((4, 6, 2), 2.0)), stack_of(
        np.ones((4, 6, 2)), sumw2=np.full((4, 6, 2), 9.0)
    )  # fmt: skip
    both = plain + weighted
    assert both.values()[0, 0, 0] == 3
    assert both.variances()[0, 0, 0] == 11
    with pytest.raises(ValueError, match="are in one stack only"):
        plain + plain.select([3])


def test_groups_reach_the_luminosity_target():
    stack = stack_of(np.ones((4, 6, 2)))
    grouped = stack.grouped_to({3: 1.0, 4: 1.0, 7: 5.0, 9: np.nan}, 2.0)
    assert grouped.ls_numbers.tolist() == [3, 7]
    assert grouped.entries.tolist() == [24, 12]
    # As `Archive.conditions` gives them.
    known = pd.Series({3: 1.0, 4: 1.0, 7: 5.0, 9: pd.NA}, dtype="Float64")
    assert stack.grouped_to(known, 2.0).entries.tolist() == [24, 12]
    with pytest.raises(ValueError, match="target 0"):
        stack.grouped_to({}, 0)


def test_tables_and_arrays_for_elsewhere_agree():
    contents = np.arange(48.0).reshape(4, 6, 2)
    stack = stack_of(contents)
    frame = stack.to_pandas()
    assert frame.loc[7].to_numpy().tolist() == contents[2].ravel().tolist()
    assert frame.columns.names == ["pT [GeV]", "y"]
    array = stack.to_xarray()
    assert float(array.sel(ls_number=7, x=0.25, y=0.5)) == contents[2, 0, 0]
    assert stack.to_pandas(flow=True).shape == (4, 8 * 4)


def test_the_tab_key_offers_the_lumisections():
    assert stack_of(np.ones((4, 6, 2)))._ipython_key_completions_() == [3, 4, 7, 9]


def test_a_stack_shows_itself():
    stack = stack_of(np.ones((4, 6, 2)), dataset="/A/Run2024A-x-v1/DQMIO")
    assert "4 LS 3 to 9, 3 missing" in repr(stack)
    assert "pT [GeV]" in repr(stack)
    assert stack._repr_html_().count("<svg") == 1
    assert "<rect" in sketch(stack)
    assert "polyline" in sketch(stack.project("x"))
    assert "no LS" in repr(stack.select([]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ls_numbers": (3, 3, 7, 9)}, "lumisection 3: want each once"),
        ({"ls_numbers": (-1, 3, 7, 9)}, "lumisection -1"),
        ({"ls_numbers": (3, 7)}, r"\(2,\) lumisections for 4 histograms"),
        ({"kind": "TH9F"}, "kind 'TH9F', want one of TH1F"),
        ({"axes": (X,)}, "3 dimensions for 1 axes"),
        ({"axes": (Y, X)}, r"contents of shape \(4, 6, 2\), want \(4, 4, 8\)"),
        ({"kind": "TProfile2D"}, "a profile needs sum_of_weights and sumw2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        stack_of(np.zeros((4, 6, 2)), **change)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([0, 1, 1], "does not rise: edge 1 is 1.0, edge 2 is 1.0"),
        ([0, np.nan], "finite"),
        ([0], "want \\(n_bins \\+ 1,\\)"),
    ],
)
def test_edges_that_do_not_rise_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        Axis(np.array(edges, dtype=float))


def test_stacks_of_other_binning_or_run_do_not_mix():
    one, other = stack_of(np.zeros((4, 6, 2))), stack_of(np.zeros((4, 3, 2)), axes=(X.rebin(2), Y))
    with pytest.raises(ValueError, match="axis x differs"):
        concatenate([one, other])
    with pytest.raises(ValueError, match="lumisection 3 is in two stacks"):
        concatenate([one, one])
    with pytest.raises(ValueError, match="rebin by 4: want a divisor of 6 bins"):
        one.rebin(x=4)
    with pytest.raises(ValueError, match="cannot be projected"):
        stack_of(
            np.zeros((4, 6, 2)), kind="TProfile2D", sumw2=np.zeros((4, 6, 2)),
            sum_of_weights=np.zeros((4, 6, 2)),
        ).project("x")  # fmt: skip
