"""Sets of lumisections: algebra, certification JSON, refusals."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml4ad.conditions import ranges

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "zerobias2017"
GOLDEN = SHARED / "Cert_294927-306462_13TeV_PromptReco_Collisions17_JSON.txt"

Points = set[tuple[int, int]]
points = st.sets(st.tuples(st.integers(1, 3), st.integers(1, 25)))
pairs = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), max_size=8)


def as_ranges(keys: Points) -> ranges.Ranges:
    ordered = sorted(keys)
    return ranges.of_lumisections([run for run, _ in ordered], [ls for _, ls in ordered])


def as_points(found: ranges.Ranges) -> Points:
    return {
        (run, ls)
        for run, own in found.items()
        for first, last in own
        for ls in range(first, last + 1)
    }


@given(points)
def test_single_lumisections_come_back_from_their_ranges(keys: Points) -> None:
    found = as_ranges(keys)
    assert as_points(found) == keys
    assert ranges.count(found) == len(keys)


@given(points, points)
def test_the_algebra_is_that_of_sets(one: Points, other: Points) -> None:
    left, right = as_ranges(one), as_ranges(other)
    assert ranges.union(left, right) == as_ranges(one | other)
    assert ranges.intersection(left, right) == as_ranges(one & other)
    assert ranges.difference(left, right) == as_ranges(one - other)


@given(points, points)
def test_the_mask_says_who_is_in_the_set(one: Points, asked: Points) -> None:
    ordered = sorted(asked)
    inside = ranges.mask(as_ranges(one), [r for r, _ in ordered], [ls for _, ls in ordered])
    assert inside.tolist() == [key in one for key in ordered]


@given(pairs)
def test_joining_keeps_the_lumisections_and_separates_the_pairs(own: list[tuple[int, int]]) -> None:
    given_pairs = [(first, first + more) for first, more in own]
    found = ranges.joined(given_pairs)
    assert as_points({1: found}) == as_points({1: given_pairs})
    assert all(after[0] > before[1] + 1 for before, after in pairwise(found))


@given(points)
def test_json_comes_back_as_it_was_written(keys: Points) -> None:
    found = as_ranges(keys)
    text = ranges.dumps(found)
    assert ranges.parse(text) == found
    assert all(isinstance(key, str) for key in json.loads(text))


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    good: ranges.Ranges = {355862: [(1, 4), (6, 9)], 355863: [(2, 2)]}
    ranges.write(good, tmp_path / "good.json")
    assert ranges.read(tmp_path / "good.json") == good
    assert json.loads((tmp_path / "good.json").read_text()) == {
        "355862": [[1, 4], [6, 9]],
        "355863": [[2, 2]],
    }


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"no {GOLDEN.name} beside the project")
def test_the_golden_json_of_2017_is_read_whole() -> None:
    golden = ranges.read(GOLDEN)
    raw = json.loads(GOLDEN.read_text())
    assert len(golden) == len(raw)
    assert golden[297050] == [(12, 137), (193, 776)]
    assert ranges.count(golden) == sum(b - a + 1 for own in raw.values() for a, b in own)
    bad = ranges.read(SHARED / "bad_pixel.json")
    assert ranges.count(ranges.difference(golden, bad)) == ranges.count(golden) - ranges.count(
        ranges.intersection(golden, bad)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "want an object of runs, not list"),
        ('{"1": [[1, 2]], "1": [[3, 4]]}', "1 occurs twice"),
        ('{"7": [[1, 2]], "07": [[3, 4]]}', "run 7 occurs twice"),
        ('{"run": [[1, 2]]}', "'run' is no run number"),
        ('{"0": [[1, 2]]}', "'0' is no run number"),
        ('{"99999999999": [[1, 2]]}', "is no run number"),
        ('{"7": [[4, 2]]}', r"run 7: \[4, 2\]: want 1 <= first <= last"),
        ('{"7": [[0, 2]]}', "want 1 <= first <= last"),
        ('{"7": [[1, 2, 3]]}', "want a pair"),
        ('{"7": [[1.5, 2]]}', "want a pair"),
        ('{"7": [[true, 2]]}', "want a pair"),
        ('{"7": [3]}', "want a pair"),
        ('{"7": "1-2"}', "want a list of pairs, not '1-2'"),
        ('{"7": null}', "want a list of pairs, not None"),
    ],
)
def test_broken_certification_is_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ranges.parse(text)


@pytest.mark.parametrize("own", [[[5, 9], [1, 4]], [[1, 5], [5, 9]]])
def test_strict_reading_refuses_what_plain_reading_mends(own: list[Any]) -> None:
    assert ranges.of_mapping({7: own}) == {7: [(1, 9)]}
    with pytest.raises(ValueError, match="want pairs that rise and do not overlap"):
        ranges.of_mapping({7: own}, strict=True)


def test_keys_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="run numbers for"):
        ranges.mask({}, np.arange(3), np.arange(4))
