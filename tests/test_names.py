"""Patterns mean what they say, and paths tell dataset, era and run."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml4ad.dqmio.names import (
    Dataset,
    dataset_from_path,
    era_from_path,
    literal,
    matcher,
    parse_dataset,
    prefix,
    run_from_path,
)

UUID = "0a1b2c3d-1234-5678-9abc-def012345678"
PROMPT = f"/store/data/Run2024F/EGamma0/DQMIO/PromptReco-v1/000/382/255/00000/{UUID}.root"
PATHS = [
    (PROMPT, "/EGamma0/Run2024F-PromptReco-v1/DQMIO", "Run2024F", 382255),
    (
        "/store/express/Run2024C/StreamExpress/DQMIO/Express-v1/000/379/415/00000/x.root",
        "/StreamExpress/Run2024C-Express-v1/DQMIO",
        "Run2024C",
        379415,
    ),
    (
        f"/store/data/Run2022A/ZeroBias/DQMIO/19Jan2023-v2/30000/{UUID}.root",
        "/ZeroBias/Run2022A-19Jan2023-v2/DQMIO",
        "Run2022A",
        None,
    ),
    (
        "/store/hidata/HIRun2023A/HIForward0/DQMIO/PromptReco-v2/000/374/810/00000/x.root",
        "/HIForward0/HIRun2023A-PromptReco-v2/DQMIO",
        "HIRun2023A",
        374810,
    ),
    (
        "/store/data/Run2018A/ZeroBias/DQMIO/12Nov2019_UL2018-v2/10000/x.root",
        "/ZeroBias/Run2018A-12Nov2019_UL2018-v2/DQMIO",
        "Run2018A",
        None,
    ),
    (
        "/store/data/Run2018A/ZeroBias/DQMIO/ForValUL2018-HLT-v2/10000/x.root",
        "/ZeroBias/Run2018A-ForValUL2018-HLT-v2/DQMIO",
        "Run2018A",
        None,
    ),
    (
        "/store/backfill/1/data/Run2024F/EGamma0/DQMIO/PromptReco-v1/000/382/255/00000/x.root",
        "/EGamma0/Run2024F-PromptReco-v1/DQMIO",
        "Run2024F",
        382255,
    ),
    (
        "/store/data/Commissioning2023/Cosmics/DQMIO/PromptReco-v1/000/366/001/00000/x.root",
        "/Cosmics/Commissioning2023-PromptReco-v1/DQMIO",
        "",
        366001,
    ),
    (
        f"store_data_Run2022F_ZeroBias_DQMIO_19Jan2023-v2_40000_{UUID}.root",
        "/ZeroBias/Run2022F-19Jan2023-v2/DQMIO",
        "Run2022F",
        None,
    ),
    (
        "/data/store_data_Run2018A_ZeroBias_DQMIO_12Nov2019_UL2018-v2_10000_x.root",
        "/ZeroBias/Run2018A-12Nov2019_UL2018-v2/DQMIO",
        "Run2018A",
        None,
    ),
    (
        "store_express_Run2024C_StreamExpress_DQMIO_Express-v1_000_379_415_00000_x.root",
        "/StreamExpress/Run2024C-Express-v1/DQMIO",
        "Run2024C",
        379415,
    ),
    (
        "/store/user/anna/ZeroBias/nano_Run2023C/230612_101112/0000/nanodqmio_1.root",
        "/ZeroBias/anna-nano_Run2023C/USER",
        "Run2023C",
        None,
    ),
    (
        "DQM_V0001_R000367094__ZeroBias__Run2023C-PromptReco-v4__DQMIO.root",
        "/ZeroBias/Run2023C-PromptReco-v4/DQMIO",
        "Run2023C",
        367094,
    ),
    ("/store/user/anna/test/nanodqmio_1.root", "", "", None),
    ("/home/anna/real.root", "", "", None),
    ("", "", "", None),
]


@pytest.mark.parametrize(("path", "dataset", "era", "run_number"), PATHS)
def test_a_path_tells_dataset_era_and_run(
    path: str, dataset: str, era: str, run_number: int | None
) -> None:
    assert dataset_from_path(path) == dataset
    assert era_from_path(path) == era
    assert run_from_path(path) == run_number


@pytest.mark.parametrize(
    "front", ["", "/eos/cms", "/eos/cms/tier0", "root://eoscms.cern.ch/", "file:///mnt"]
)
@pytest.mark.parametrize(("path", "dataset", "era", "run_number"), PATHS[:4])
def test_what_stands_before_the_logical_name_does_not_matter(
    front: str, path: str, dataset: str, era: str, run_number: int | None
) -> None:
    assert dataset_from_path(front + path) == dataset
    assert run_from_path(front + path) == run_number
    assert era_from_path(front + path) == era


word = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,8}", fullmatch=True)


@given(
    primary=word,
    letter=st.sampled_from("ABCDEFGH"),
    heavy=st.booleans(),
    processing=st.lists(word, min_size=1, max_size=3).map("_".join),
    version=st.integers(1, 99),
)
def test_a_flattened_copy_tells_the_same_dataset(
    primary: str, letter: str, heavy: bool, processing: str, version: int
) -> None:
    era = f"{'HI' * heavy}Run2023{letter}"
    kind = "hidata" if heavy else "data"
    path = f"/store/{kind}/{era}/{primary}/DQMIO/{processing}-v{version}/30000/{UUID}.root"
    dataset = dataset_from_path(path)
    assert dataset == f"/{primary}/{era}-{processing}-v{version}/DQMIO"
    assert dataset_from_path("/tmp/" + path[1:].replace("/", "_")) == dataset  # noqa: S108
    assert parse_dataset(dataset) == Dataset(primary, era, processing, version, "DQMIO")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "/ZeroBias/Run2022F-19Jan2023-v2/DQMIO",
            ("ZeroBias", "Run2022F", "19Jan2023", 2, "DQMIO"),
        ),
        (
            "/A/Run2018A-ForValUL2018-HLT-v2/DQMIO",
            ("A", "Run2018A", "ForValUL2018-HLT", 2, "DQMIO"),
        ),
        (
            "/ZeroBias/anna-nano_Run2023C-0123abcd/USER",
            ("ZeroBias", "Run2023C", "anna-nano_Run2023C-0123abcd", 0, "USER"),
        ),
        ("/ZeroBias/anything/DQMIO", ("ZeroBias", "", "anything", 0, "DQMIO")),
    ],
)
def test_a_dataset_has_parts(name: str, parts: tuple[str, str, str, int, str]) -> None:
    assert parse_dataset(name) == Dataset(*parts)


@pytest.mark.parametrize(
    "name", ["", "ZeroBias", "/ZeroBias/DQMIO", "/a/b/c/d", "/a /b/c", "//b/c"]
)
def test_what_is_no_dataset_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="want /PrimaryDataset/ProcessedName/TIER"):
        parse_dataset(name)


NAME = "EcalEndcap/EEOccupancyTask/EEOT digi [1] occupancy EE +"


@pytest.mark.parametrize(
    ("pattern", "is_meant"),
    [
        ("*", True),
        (NAME, True),
        ("EcalEndcap/*", True),
        ("*EE +", True),
        ("*digi [1]*", True),
        ("*digi [12]*", False),
        ("Ecal?ndcap/*", True),
        ("ecalendcap/*", False),
        ("EcalEndcap", False),
        ("EcalEndcap/?", False),
        (prefix("EcalEndcap/"), True),
        (prefix("Endcap"), False),
        (prefix("EcalEndcap.EEO"), False),
        (literal(NAME), True),
        (literal(NAME[:-1]), False),
        (re.compile("digi"), True),
        (re.compile("^digi"), False),
        ([], False),
        (["nothing", re.compile("digi")], True),
        (("nothing", "*/none"), False),
    ],
)
def test_a_pattern_means_a_name(pattern: object, is_meant: bool) -> None:
    assert matcher(pattern)(NAME) is is_meant  # type: ignore[arg-type]


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(TypeError, match="pattern 3, want a glob"):
        matcher(3)  # type: ignore[arg-type]


@given(st.text(), st.text())
def test_a_glob_of_a_name_and_a_star_means_what_starts_so(start: str, rest: str) -> None:
    if not re.search(r"[*?]", start):
        assert matcher(start + "*")(start + rest)
        assert matcher(prefix(start))(start + rest)
        assert matcher(start)(start)
    assert matcher("?" * len(start))(start)


def test_a_glob_of_many_stars_ends_soon() -> None:
    assert not matcher("*a" * 30 + "b")("a" * 255)
