"""Stacks with every field set to something that could get lost, and their comparison."""

import numpy as np

from ml4ad import Axis, HistogramStack
from ml4ad.stack import KINDS, is_profile, statistics_names

ARRAYS = (
    *("contents", "entries", "sumw2", "sum_of_weights", "sum_of_weights_squared", "statistics"),
)


def bits(array):
    """An array of floats as integers, so that NaN equals NaN and 0.0 is not -0.0."""
    return np.ascontiguousarray(array).view(f"<u{array.dtype.itemsize}")


def example(kind, ls_numbers, seed=0, n_bins=6, me="A/b"):
    rng = np.random.default_rng(seed)
    n_axes, dtype = KINDS[kind]
    axes = tuple(Axis.regular(n_bins + i, 0, 1, name=f"{'xyz'[i]}axis") for i in range(n_axes))
    shape = (len(ls_numbers), *(axis.n_bins + 2 for axis in axes))
    profile = is_profile(kind)
    contents = rng.normal(size=shape) if profile else rng.poisson(20, shape)
    return HistogramStack(
        me=me,
        kind=kind,
        run_number=9,
        ls_numbers=np.array(ls_numbers),
        axes=axes,
        contents=contents.astype(dtype),
        entries=rng.poisson(100, len(ls_numbers)).astype("f8"),
        sumw2=rng.normal(size=shape) if profile else None,
        sum_of_weights=rng.poisson(5, shape).astype("f8") if profile else None,
        statistics=rng.normal(size=(len(ls_numbers), len(statistics_names(kind)))),
        title="a title",
        flags=3,
        error_mode="s" if profile else "",
        value_range=(-1.0, 2.5) if profile else (0.0, 0.0),
        dataset="/D/E/DQMIO",
    )


def assert_equal(ours, theirs):
    """Every field and every bit, but for the lumisections that the source knows of the run."""
    for name in ("me", "kind", "run_number", "axes", "title", "flags", "error_mode", "dataset"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert tuple(ours.value_range) == tuple(theirs.value_range)
    assert np.array_equal(ours.ls_numbers, theirs.ls_numbers)
    for name in ARRAYS:
        left, right = getattr(ours, name), getattr(theirs, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype, name
            assert np.array_equal(bits(left), bits(right)), name
