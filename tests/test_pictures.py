from dataclasses import replace

import numpy as np
import pytest

from ml4ad import pictures
from ml4ad.stack import Axis, HistogramStack

X = Axis.regular(10, 0, 5, title="p_{T} [GeV]")
PHI = Axis.regular(4, -2, 2, title="#phi", labels=["a", "b", "", "d"])


def stack_of(shape, axes, **more):
    rng = np.random.default_rng(1)
    contents = rng.poisson(9, shape).astype("f4")
    return HistogramStack.from_arrays(
        contents, axes, ls_numbers=[1, 2, 5], run_number=7, me="A/b $x$", **more
    )


def profile():
    ones = np.ones((3, 10))
    weights = np.where(X.centers > 1, 9, 0) * ones
    return stack_of((3, 10), X, kind="TProfile", sumw2=30 * ones, sum_of_weights=weights)


def test_a_picture_of_one_axis_has_the_files_title_and_the_entries():
    stack = stack_of((3, 10), X)
    ax = pictures.draw(stack, 2).axes[0]
    assert ax.get_xlabel() == r"p$_{\mathrm{T}}$ [GeV]"
    assert ax.get_ylabel() == "Entries / 0.5"
    assert ax.get_title("left") == "A/b \\$x\\$\nrun 7, LS 2"
    heights = ax.patches[0].get_data().values
    assert np.array_equal(heights, stack[2].values())


def test_a_map_has_x_across_and_y_upwards():
    stack = stack_of((3, 10, 4), [X, PHI])
    ax = pictures.draw(stack, 5).axes[0]
    shown = ax.collections[0].get_array()
    assert shown.shape == (4, 10)
    assert np.array_equal(shown.filled(0), stack[5].values().T)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "d"]


def test_a_profile_shows_means_where_it_was_filled():
    ax = pictures.draw(profile()).axes[0]
    assert ax.get_ylabel() == "Mean / 0.5"
    drawn = ax.containers[0].lines[0].get_xdata()
    assert np.array_equal(drawn, X.centers[X.centers > 1])


def test_an_overlay_is_divided_by_its_first():
    stack = stack_of((3, 10), X)
    figure = pictures.overlay({"reference": stack.select([1]), "seen": stack.select([2])})
    upper, lower = figure.axes
    assert [t.get_text() for t in upper.get_legend().get_texts()] == ["reference", "seen"]
    ratio = lower.containers[0].lines[0].get_ydata()
    want = [s.values()[0] / s.values().sum() for s in (stack.select([2]), stack.select([1]))]
    assert np.allclose(ratio, want[0] / want[1])


def test_a_map_over_lumisections_leaves_missing_ones_empty():
    mesh = pictures.ls_map(stack_of((3, 10), X)).axes[0].collections[0]
    shown = np.ma.filled(mesh.get_array(), np.nan)
    assert shown.shape == (10, 5)
    assert np.isnan(shown[:, 2:4]).all()
    assert np.allclose(shown[:, 0].sum(), 1)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_picture_is_written(tmp_path, ending):
    path = pictures.save(pictures.draw(stack_of((3, 10, 4), [X, PHI])), tmp_path / f"a.{ending}")
    assert path.stat().st_size > 5000


def test_a_comparison_scales_the_reference_and_shows_the_pulls():
    stack = stack_of((3, 10, 4), [X, PHI])
    seen, reference = stack.select([1]), stack.select([2, 5])
    panels = pictures.compare(seen, reference, place=[(1, 2), (-1, 0)]).axes[:3]
    shown = [np.ma.filled(p.collections[0].get_array(), 0).T for p in panels]
    observed, expected = seen.values()[0], reference.values().sum(axis=0)
    scale = observed.sum() / expected.sum()
    assert np.allclose(shown[0], observed)
    assert np.allclose(shown[1], expected * scale)
    spread = np.sqrt(observed + expected * scale**2)
    assert np.allclose(shown[2], (observed - expected * scale) / spread)
    flat = pictures.compare(stack_of((3, 10), X).select([1]), stack_of((3, 10), X), place=[(1, 2)])
    assert flat.axes[1].get_ylabel() == "Pull"
    with pytest.raises(ValueError, match="0 and 3 LS"):
        pictures.compare(stack.select([]), stack)


def test_an_empty_histogram_and_a_log_scale_are_drawn(tmp_path):
    empty = HistogramStack.from_arrays(
        np.zeros((1, 10, 4)), [X, PHI], ls_numbers=[0], run_number=7, me="m"
    )
    figure = pictures.draw(empty, log=True)
    assert "whole run" in figure.axes[0].get_title("left")
    pictures.save(figure, tmp_path / "a.png")
    pictures.save(pictures.draw(stack_of((3, 10), X), log=True), tmp_path / "b.png")


def test_a_trend_names_its_series():
    figure = pictures.trend({"mean": ([1, 2], [3.0, 4.0]), "std": ([1], [1.0])}, ylabel="GeV")
    assert figure.axes[0].get_xlabel() == "Lumisection"
    assert len(figure.axes[0].lines) == 2


def test_what_cannot_be_drawn_is_refused(tmp_path):
    stack = stack_of((3, 10), X)
    with pytest.raises(ValueError, match="want one of"):
        pictures.save(pictures.draw(stack), tmp_path / "a.xyz")
    with pytest.raises(ValueError, match="normalise='max'"):
        pictures.draw(stack, normalise="max")
    with pytest.raises(KeyError, match="no lumisection 3"):
        pictures.draw(stack, 3)
    with pytest.raises(ValueError, match="want one axis with the binning"):
        pictures.overlay({"a": stack, "b": stack.rebin(2)})
    with pytest.raises(ValueError, match="2 axes"):
        pictures.ls_map(stack_of((3, 10, 4), [X, PHI]))


def test_a_rate_is_read_from_zero():
    drawn = {"rate": ([1, 2], [3.0, 4.0])}
    assert pictures.trend(drawn, ylabel="Hz", from_zero=True).axes[0].get_ylim()[0] == 0
    assert pictures.trend(drawn, ylabel="Hz").axes[0].get_ylim()[0] > 2


def test_an_overlay_is_headed_by_what_all_have_in_common():
    stack = stack_of((3, 10), X)
    first, second = stack.select([1]), stack.select([2])
    one_run = pictures.overlay({"a": first, "b": second}).axes[0]
    assert one_run.get_title("left") == "A/b \\$x\\$\nrun 7"
    other = replace(second, run_number=8)
    assert pictures.overlay({"a": first, "b": other}).axes[0].get_title("left") == "A/b \\$x\\$"
    same = pictures.overlay({"a": first, "b": first}).axes[0]
    assert same.get_title("left").endswith("\nrun 7, LS 1")


def test_lines_that_coincide_are_all_seen():
    one = ([0.0, 1.0], [0.5, 1.0])
    figure = pictures.roc({"dead": {"own": one, "ours": one, "theirs": one}})
    widths = [line.get_linewidth() for line in figure.axes[0].lines]
    assert widths == sorted(set(widths), reverse=True)
