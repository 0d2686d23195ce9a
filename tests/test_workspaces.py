"""Workspaces: patterns fit whole names, definitions live in the database, TOML goes both ways."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ml4ad import store, workspaces
from ml4ad.workspaces import Workspace

MINE = Workspace(
    "mine", ("/ZeroBias/*", "/Muon0/*"), ("PixelPhase1/", "*/charge_PXDisk_+?"), ("PixelPhase1/",)
)

names = st.text("aB/+[].*?#(|)\\^$ -{}", min_size=1, max_size=12)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = store.engine(database_url)
    yield made
    made.dispose()


@given(names, names)
def test_a_pattern_without_wildcards_fits_itself_alone(pattern: str, other: str) -> None:
    plain = pattern.replace("*", "").replace("?", "").rstrip("/") or "a"
    assert workspaces.fits([plain], plain)
    assert workspaces.fits([plain], other) == (plain == other)


@given(names, names, names)
def test_a_star_is_any_text_and_a_question_mark_one_character(
    before: str, middle: str, after: str
) -> None:
    ends = before.replace("*", "").replace("?", ""), after.replace("*", "").replace("?", "") + "z"
    assert workspaces.fits([f"{ends[0]}*{ends[1]}"], ends[0] + middle + ends[1])
    one = workspaces.fits([f"{ends[0]}?{ends[1]}"], ends[0] + middle + ends[1])
    assert one == (len(middle) == 1)


@pytest.mark.parametrize(
    ("pattern", "fitting", "strange"),
    [
        ("PixelPhase1/", "PixelPhase1/Tracks/charge", "HLT/PixelPhase1/Tracks/charge"),
        ("PixelPhase1/", "PixelPhase1/x", "PixelPhase12/x"),
        ("*/charge_PXDisk_+1", "PixelPhase1/charge_PXDisk_+1", "PixelPhase1/charge_PXDisk_1"),
        ("*/charge_PXDisk_+1", "A/B/charge_PXDisk_+1", "A/charge_PXDisk_+1_more"),
        ("a.b", "a.b", "axb"),
        ("Ecal/EventInfo/", "Ecal/EventInfo/reportSummary", "Ecal/EventInfo"),
        ("/ZeroBias/*Run202*/DQMIO", "/ZeroBias/Run2022F-v2/DQMIO", "/ZeroBias/Run2018A-v2/DQMIO"),
    ],
)
def test_patterns_are_anchored_and_escaped(pattern: str, fitting: str, strange: str) -> None:
    assert workspaces.fits([pattern], fitting)
    assert not workspaces.fits([pattern], strange)


def test_no_pattern_fits_nothing() -> None:
    assert not workspaces.fits([], "")
    assert not workspaces.fits([], "a")


def test_elements_are_those_of_the_workspaces_that_have_the_dataset() -> None:
    muon = Workspace("muon", ("/Muon0/*",), ("Muons/", "PixelPhase1/"), trained=("Muons/a",))
    both, mine = [MINE, muon], ("PixelPhase1/*", "*/charge_PXDisk_+?")
    assert workspaces.selects(both) == (
        ("/ZeroBias/*", "/Muon0/*"),
        ("PixelPhase1/*", "*/charge_PXDisk_+?", "Muons/*"),
    )
    assert workspaces.elements_of(both, "/ZeroBias/a/DQMIO") == mine
    assert workspaces.elements_of(both, "/Muon0/a/DQMIO", "trained") == (*mine, "Muons/a")
    assert workspaces.elements_of(both, "/ZeroBias/a/DQMIO", "shown") == ("PixelPhase1/*",)
    assert workspaces.elements_of(both, "/JetMET/a/DQMIO") == ()
    with pytest.raises(ValueError, match="use 'drawn'"):
        workspaces.selects(MINE, "drawn")  # type: ignore[arg-type]


def test_a_new_archive_has_the_defaults(engine: sa.Engine) -> None:
    stored = workspaces.stored(engine)
    assert [own.name for own in stored] == sorted(
        ["tracker", "ecal", "hcal", "csc", "dt", "egamma", "jetmet", "muon"]
    )
    assert stored == sorted(workspaces.defaults(), key=lambda own: own.name)
    (tracker,) = workspaces.get(engine, "tracker")
    wanted = workspaces.elements_of(tracker, "/ZeroBias/Run2024B-PromptReco-v1/DQMIO")
    assert workspaces.fits(wanted, "PixelPhase1/Tracks/PXForward/charge_PXDisk_+1")
    assert not workspaces.fits(wanted, "EcalBarrel/EBOccupancyTask/EBOT digi occupancy")
    (dt,) = workspaces.get(engine, "dt")
    assert workspaces.fits(dt.elements, "DT/02-Segments/Wheel-2/numberOfSegments_W-2")


def test_workspaces_are_added_edited_and_removed(engine: sa.Engine) -> None:
    workspaces.add(engine, MINE)
    assert workspaces.get(engine, "mine", "muon")[0] == MINE
    with pytest.raises(ValueError, match="mine is there already"):
        workspaces.add(engine, MINE)
    edited = workspaces.edit(
        engine,
        "mine",
        add={"elements": ["SiStrip/", "PixelPhase1/"], "trained": ["SiStrip/a"]},
        remove={"datasets": ["/Muon0/*"], "shown": ["PixelPhase1/"]},
        description="my own",
    )
    assert workspaces.get(engine, "mine") == [edited]
    assert edited == Workspace(
        "mine",
        ("/ZeroBias/*",),
        ("PixelPhase1/", "*/charge_PXDisk_+?", "SiStrip/"),
        trained=("SiStrip/a",),
        description="my own",
    )
    workspaces.put(engine, [MINE])
    assert workspaces.get(engine, "mine") == [MINE]
    workspaces.remove(engine, "mine")
    for ask in (workspaces.get, workspaces.remove, workspaces.edit):
        with pytest.raises(KeyError, match="no workspace 'mine'"):
            ask(engine, "mine")


def test_an_edit_that_is_refused_changes_nothing(engine: sa.Engine) -> None:
    before = workspaces.get(engine, "hcal")
    for change, words in (
        ({"remove": {"elements": ["Ecal/"]}}, "'Ecal/' is not in its elements: Hcal/DigiTask/"),
        ({"remove": {"elements": ["Hcal/DigiTask/"]}}, "no elements: want a pattern"),
        ({"add": {"colours": ["red"]}}, "'colours': want one of datasets, elements"),
        ({"add": {"elements": [""]}}, "pattern ''"),
    ):
        with pytest.raises(ValueError, match=words):
            workspaces.edit(engine, "hcal", **change)  # type: ignore[arg-type]
    assert workspaces.get(engine, "hcal") == before


def test_toml_goes_both_ways(tmp_path: Path, engine: sa.Engine) -> None:
    odd = Workspace("odd-1", ('/a"b\\c/*',), ("ünï/", "'x' # y"), description='say "hi" \\o/')
    path = tmp_path / "mine.toml"
    path.write_text(workspaces.dumps([MINE, odd]), encoding="utf-8")
    assert workspaces.read(path) == [MINE, odd]
    workspaces.put(engine, workspaces.read(path))
    assert workspaces.get(engine, "odd-1") == [odd]


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3, unique=True))
def test_any_printable_pattern_survives_toml(patterns: list[str]) -> None:
    kept = tuple(pattern for pattern in patterns if pattern.isprintable()) or ("*",)
    own = Workspace("x", kept, kept)
    assert tomllib.loads(workspaces.dumps([own]))["workspaces"]["x"]["elements"] == list(kept)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[workspaces", "not TOML"),
        ("a = 1", "want tables"),
        ("workspaces = 3", "want tables"),
        ("[workspaces]\nmine = 3", "want tables"),
        ("[workspaces.mine]\nelements = ['a']", "no datasets"),
        ("[workspaces.mine]\ndatasets = 'a'\nelements = ['a']", "want a list of patterns"),
        ("[workspaces.mine]\ndatasets = [1]\nelements = ['a']", "want a list of patterns"),
        ("[workspaces.mine]\ndatasets = ['*']\nelements = ['a']\nprefix = 1", "prefix: want"),
        ("[workspaces.mine]\ndescription = 1\ndatasets = ['*']\nelements = ['a']", "want text"),
        ("[workspaces.Mine]\ndatasets = ['*']\nelements = ['a']", "lower-case"),
        ("[workspaces.m]\ndatasets = ['*']\nelements = ['a', 'a']", "'a' is in elements twice"),
        ('[workspaces.m]\ndatasets = ["*"]\nelements = ["a\\nb"]', "printable"),
        (f"[workspaces.m]\ndatasets = ['*']\nelements = [{json.dumps('a' * 256)}]", "1 to 255"),
    ],
)
def test_a_broken_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=words):
        workspaces.read(tmp_path / "bad.toml")


def test_a_pattern_of_many_stars_is_decided_at_once() -> None:
    assert not workspaces.fits(["*a" * 40 + "b"], "a" * 255)
    assert workspaces.fits(["*a" * 40 + "b"], "a" * 200 + "b")


def test_the_folders_of_all_defaults_hold_something() -> None:
    for own in workspaces.defaults():
        for pattern in own.elements:
            assert workspaces.fits(
                [pattern], pattern.replace("*", "-2") + "x" * pattern.endswith("/")
            )
