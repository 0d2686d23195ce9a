"""Conditions in the database: merged by key, selected by cuts, compared with what was seen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given
from hypothesis import settings as check
from hypothesis import strategies as st

from ml4ad import archive, conditions, settings, simulate, store
from ml4ad.conditions import names, record
from ml4ad.conditions.oms import OMSClient
from ml4ad.conditions.service import Access
from ml4ad.simulate import files as simulated
from ml4ad.store import context, schema

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no shared data beside the project")
DATASET = "/ZeroBias/Run2024B-PromptReco-v1/DQMIO"


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = store.engine(database_url)
    yield made
    made.dispose()


def hold(engine: sa.Engine, keys: Sequence[tuple[int, int]], dataset: str = DATASET) -> None:
    """The archive has these lumisections, as if a file had brought them."""
    with engine.begin() as connection:
        dataset_id = connection.execute(
            sa.insert(schema.dataset).values(dataset=dataset).returning(schema.dataset.c.dataset_id)
        ).scalar_one()
        file_id = connection.execute(
            sa.insert(schema.file)
            .values(dataset_id=dataset_id, path=dataset, size=1, mtime=1.0, state="PROCESSED")
            .returning(schema.file.c.file_id)
        ).scalar_one()
        own = {"dataset_id": dataset_id, "file_id": file_id}
        runs = [{**own, "run_number": run} for run in sorted({run for run, _ in keys})]
        held = [{**own, "run_number": run, "ls_number": ls, "n_mes": 1} for run, ls in keys]
        connection.execute(sa.insert(schema.run), runs)
        connection.execute(sa.insert(schema.lumisection), held)


def table(**columns: Any) -> record.Conditions:
    return record.of_table(pd.DataFrame(columns), "a test", lumi_unit="/ub")


@pytest.fixture
def filled(engine: sa.Engine) -> sa.Engine:
    """Lumisections 1 to 6 of run 7 are held; 1 to 5 have conditions, the fifth no pileup."""
    hold(engine, [(7, ls) for ls in range(7)])
    conditions.load(
        engine,
        table(
            run_number=[7] * 5,
            ls_number=[1, 2, 3, 4, 5],
            pileup=[10.0, 20.0, 30.0, 40.0, None],
            recorded_lumi=[1.0, 2.0, 3.0, -0.5, 0.0],
            delivered_lumi=[2.0, 2.0, 3.0, 0.0, 0.0],
            beams_stable=[True, True, True, False, None],
            prescale_index=[1, 1, 2, 2, None],
            prescale_name=["2b", "2b", "62b", "62b", ""],
            start_time=[f"2024-04-05 10:0{n}" for n in range(5)],
            vertex_z=[0.5, 1.5, None, 3.5, 4.5],
            mood=["good", 3, None, "bad", "good"],
            quiet=[True, False, True, False, None],
        ),
    )
    conditions.load(
        engine,
        table(
            run_number=[7],
            fill_number=[9000],
            energy=[6800],
            recorded_lumi=[99.0],
            hlt_key=["/cdaq/physics/Run2024/v1"],
            last_ls_number=[8],
            cooling=["cold"],
        ),
    )
    return engine


def chosen(engine: sa.Engine, where: str | None = None, **more: Any) -> list[int]:
    found = conditions.good(engine, DATASET, where=where, **more)
    assert set(found["run_number"]) <= {7}
    return found["ls_number"].tolist()


# -- storing -------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_migrations(engine: sa.Engine) -> None:
    ours = [
        *(context.condition_source, context.run_condition, context.ls_condition),
        *(context.trigger_rate, context.certification, context.certification_range),
        *(context.registry_flag, context.registry_state, context.reference_run),
        context.workspace,
    ]
    names = {own.name for own in ours}

    def is_ours(_: object, name: str, kind: str, *__: object) -> bool:
        return kind != "table" or name in names

    with engine.connect() as connection:
        migrated = MigrationContext.configure(connection, opts={"include_object": is_ours})
        assert compare_metadata(migrated, schema.metadata) == []


def test_loading_again_changes_nothing(filled: sa.Engine) -> None:
    before = conditions.lumisections(filled)
    conditions.load(
        filled, table(run_number=[7, 7], ls_number=[2, 1], pileup=[20.0, 10.0], quiet=[False, True])
    )
    pd.testing.assert_frame_equal(conditions.lumisections(filled), before)


def test_sources_complete_one_another_by_key(filled: sa.Engine) -> None:
    conditions.load(
        filled,
        table(
            run_number=[7, 7, 7],
            ls_number=[5, 1, 9],
            pileup=[50.0, None, 90.0],
            prescale_name=[None, "new", None],
            vertex_z=[None, 9.5, 9.0],
        ),
    )
    found = conditions.lumisections(filled).loc[7]
    assert found["pileup"].to_dict() == {1: 10, 2: 20, 3: 30, 4: 40, 5: 50, 9: 90}
    assert found["prescale_name"].to_dict() == {
        1: "new",
        2: "2b",
        3: "62b",
        4: "62b",
        5: None,
        9: None,
    }
    assert found["vertex_z"].tolist() == [9.5, 1.5, None, 3.5, 4.5, 9.0]
    assert found["beams_stable"].tolist() == [True, True, True, False, pd.NA, pd.NA]


def test_a_refused_source_leaves_nothing_behind(filled: sa.Engine) -> None:
    before = conditions.lumisections(filled)
    bad = table(run_number=[7], ls_number=[1], pileup=[-1.0])
    broken = record.Certification("golden", "upside down", {7: [(5, 2)]})
    with pytest.raises(sa.exc.IntegrityError):
        conditions.load(
            filled,
            record.Conditions("a test", lumisections=bad.lumisections, certifications=(broken,)),
        )
    pd.testing.assert_frame_equal(conditions.lumisections(filled), before)
    assert conditions.certifications(filled).empty


@needs_shared
def test_the_oms_file_comes_back_from_the_database(engine: sa.Engine) -> None:
    path = SHARED / "oms" / "omsdata_Run2024B-v1.json"
    said = conditions.load(engine, path)
    assert (said.n_lumisections, said.live, said.source) == (14_987, True, str(path))
    raw = pd.DataFrame(json.loads(path.read_text()))
    raw = raw.rename(columns={"lumisection_number": "ls_number"}).set_index(
        ["run_number", "ls_number"]
    )
    found = conditions.lumisections(engine)
    assert found.index.equals(raw.index)
    for name in ("pileup", "physics_flag", "beams_stable", "cms_active", "tecm_ready"):
        assert np.array_equal(found[name].to_numpy(dtype=raw[name].dtype), raw[name])
    assert np.allclose(found["delivered_lumi"], 1e6 * raw["delivered_lumi_per_lumisection"])
    one = conditions.lumisections(engine, run_number=378981)
    assert set(one.index.get_level_values(0)) == {378981}
    pd.testing.assert_frame_equal(conditions.lumisections(engine, run_number=np.int64(378981)), one)
    good = conditions.good(engine, where="pileup > 25 and beams_stable")
    want = raw[(raw["pileup"] > 25) & raw["beams_stable"]]
    assert list(good.itertuples(index=False, name=None)) == want.index.tolist()


@needs_shared
def test_the_run_table_and_the_golden_json_come_back(engine: sa.Engine) -> None:
    folder = SHARED / "zerobias2017"
    (golden,) = folder.glob("Cert_*.txt")
    conditions.load(engine, folder / "cmsoms_2017B.csv")
    conditions.load(engine, golden)
    conditions.load(engine, folder / "bad_pixel.json", "bad", name="pixel")
    assert len(conditions.runs(engine)) == 941
    run = conditions.runs(engine, run_number=[297050]).loc[297050]
    assert run["start_time"] == pd.Timestamp("2017-06-16 20:50:33", tz="UTC")
    assert run["l1_triggers_counter"] == 900142261
    listed = conditions.certifications(engine).set_index("kind")
    assert listed.loc["golden", "n_runs"] == 471
    assert listed.loc["bad", "name"] == "pixel"
    assert conditions.certification(engine, golden.stem) == conditions.ranges.read(golden)


# -- conditions of what the archive holds ---------------------------------------------------------


def test_what_is_held_is_joined_by_key_and_missing_stays_missing(filled: sa.Engine) -> None:
    found = conditions.lumisections(filled, DATASET)
    assert found.index.tolist() == [(7, ls) for ls in range(1, 7)]
    assert found["pileup"].tolist()[:4] == [10, 20, 30, 40]
    assert found["pileup"].isna().tolist() == [False] * 4 + [True] * 2
    assert found.loc[(7, 6)].isna().all()
    assert found.loc[(7, 3), "vertex_z"] is None
    runs = conditions.runs(filled, DATASET)
    assert runs.loc[7, "energy"] == 6800
    assert runs.loc[7, "cooling"] == "cold"


def test_runs_without_conditions_are_listed(engine: sa.Engine) -> None:
    hold(engine, [(3, 1), (4, 1)])
    assert conditions.runs(engine, DATASET).index.tolist() == [3, 4]
    assert conditions.runs(engine, DATASET)["energy"].isna().all()
    assert conditions.runs(engine).empty
    assert conditions.lumisections(engine).empty


def test_an_unknown_dataset_is_named_with_those_near(filled: sa.Engine) -> None:
    for ask in (conditions.lumisections, conditions.runs, conditions.good, conditions.completeness):
        with pytest.raises(KeyError, match="Run2024B-PromptReco-v1"):
            ask(filled, "/ZeroBias/Run2024B-PromptReco-v2/DQMIO")


# -- cuts ------------------------------------------------------------------------------------------


CUTS: list[tuple[str | None, list[int]]] = [
    (None, [1, 2, 3, 4, 5, 6]),
    ("pileup > 25", [3, 4]),
    ("pileup > 15 and beams_stable", [2, 3]),
    ("not pileup > 25", [1, 2]),
    ("not beams_stable", [4]),
    ("pileup is None", [5, 6]),
    ("pileup is not None", [1, 2, 3, 4]),
    ("10 < pileup <= 30", [2, 3]),
    ("pileup < 15 or pileup > 35", [1, 4]),
    ("prescale_name == '2b'", [1, 2]),
    ("prescale_name != '2b'", [3, 4]),
    ("prescale_name in ('2b', 'x')", [1, 2]),
    ("prescale_name not in ['2b']", [3, 4]),
    ("prescale_index in {2}", [3, 4]),
    ("'2b' in prescale_name", [1, 2, 3, 4]),
    ("recorded_lumi / delivered_lumi > 0.9", [2, 3]),
    ("-recorded_lumi > 0", [4]),
    ("recorded_lumi * 2 - 1 == 3", [2]),
    ("pileup * 1e300 * 1e-300 > 25", [3, 4]),
    ("beams_stable == False", [4]),
    ("beams_stable != True", [4]),
    ("ls_number > 4", [5, 6]),
    ("run_number == 7 and ls_number == 1", [1]),
    ("start_time >= '2024-04-05 10:03'", [4, 5]),
    ("start_time < '2024-04-05T12:02:00+02:00'", [1, 2]),
    ("energy > 6500", [1, 2, 3, 4, 5, 6]),
    ("run.recorded_lumi > 98", [1, 2, 3, 4, 5, 6]),
    ("recorded_lumi > 98", []),
    ("'physics' in hlt_key", [1, 2, 3, 4, 5, 6]),
    ("vertex_z > 1", [2, 4, 5]),
    ("vertex_z is None", [3, 6]),
    ("quiet", [1, 3]),
    ("mood == 'good'", [1, 5]),
    ("mood == '3'", [2]),
    ("cooling == 'cold'", [1, 2, 3, 4, 5, 6]),
    ("run.cooling == 'warm'", []),
    ("(not beams_stable) is None", [5, 6]),
    ("(not beams_stable) is not None", [1, 2, 3, 4]),
    ("(not beams_stable) == True", [4]),
    ("not (not beams_stable)", [1, 2, 3]),
    ("not (beams_stable and quiet)", [2, 4]),
    ("not (pileup > 25 or quiet)", [2]),
    ("(pileup > 25 and beams_stable) == quiet", [2, 3, 4]),
    ("(pileup in (10, 20)) == quiet", [1, 4]),
    ("pileup - (10 - 5) == 5", [1]),
    ("60 / (pileup / 2) == 12", [1]),
    ("True", [1, 2, 3, 4, 5, 6]),
]


def test_cuts_mean_what_python_would_read(filled: sa.Engine) -> None:
    assert {where: chosen(filled, where) for where, _ in CUTS} == dict(CUTS)


REFUSED = [
    ("pilup > 25", "no column 'pilup'; near: pileup"),
    ("run.energie > 25", "no column 'run.energie'; near: run.energy"),
    ("xyzzy", "no column 'xyzzy'; there are run_number"),
    ("pileup.mean > 3", "no column 'pileup.mean'"),
    ("__import__('os')", "no function '__import__'; there are rate, flag"),
    ("().__class__", "no column"),
    ("[x for x in (1,)]", "not understood"),
    ("lambda: 1", "not understood"),
    ("(pileup := 3)", "not understood"),
    ("pileup if beams_stable else 3", "not understood"),
    ("pileup ** 2 > 3", r"there are \+ - \* /"),
    ("~prescale_index", "there are not and -"),
    ("pileup", "gives a number: want a condition"),
    ("not pileup", "a number: want a condition"),
    ("pileup and beams_stable", "a number: want a condition"),
    ("pileup > 'high'", "a number and a text do not compare"),
    ("beams_stable > 3", "a flag and a number do not compare"),
    ("beams_stable > False", "have no order"),
    ("pileup == None", "want 'is None'"),
    ("pileup in (1, None)", "want 'is None'"),
    ("pileup is 3", "is and is not want None"),
    ("pileup in ()", "an empty list"),
    ("pileup in prescale_name", "in wants a list"),
    ("start_time > 'soon'", "want a time"),
    ("start_time > 'now'", "want a time"),
    ("prescale_name + 'b' == 'bb'", "a text: want a number"),
    ("start_time == prescale_name", "want a time"),
    ("pileup > 1j", "complex is not understood"),
    ("prescale_name == '\\0'", "NUL"),
    ("pileup >", "SyntaxError"),
    ("", "SyntaxError"),
    ("pileup > 25; drop table dataset", "SyntaxError"),
    ("rate(path)", "wants texts in quotes"),
    ("flag()", "missing 1 required positional argument"),
    ("pileup > " + "1+" * 1000 + "1", "2010 characters: want at most 2000"),
    ("(" * 900 + "pileup" + ")" * 900, "where"),
    ("pileup > 1" + "0" * 400, "where"),
    ("not " * 450 + "beams_stable", "where"),
    ("pileup * 1e308 * 1e308 > 1", "out of range"),
]


def test_what_is_not_understood_is_refused(filled: sa.Engine) -> None:
    for where, words in REFUSED:
        with pytest.raises(ValueError, match=words) as refused:
            conditions.good(filled, DATASET, where=where)
        assert str(refused.value).startswith("where")


numbers = st.sampled_from(["pileup", "vertex_z", "ls_number", "recorded_lumi", "25", "1.5", "0"])
comparisons = st.builds(
    "{} {} {}".format, numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers
)
flags = st.sampled_from(["beams_stable", "quiet", "pileup is None", "vertex_z is not None"])
cuts = st.recursive(
    comparisons | flags,
    lambda inner: (
        st.builds("({} and {})".format, inner, inner)
        | st.builds("({} or {})".format, inner, inner)
        | st.builds("not {}".format, inner)
    ),
    max_leaves=5,
)


@check(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=cuts)
def test_a_cut_and_its_negation_part_what_is_known(filled: sa.Engine, cut: str) -> None:
    passing, failing = chosen(filled, cut), chosen(filled, f"not ({cut})")
    assert not set(passing) & set(failing)
    assert chosen(filled, f"({cut}) or not ({cut})") == sorted(passing + failing)
    names = [own for own in ("pileup", "vertex_z", "recorded_lumi") if own in cut]
    if " is " not in cut and "beams_stable" not in cut and "quiet" not in cut and names:
        known = chosen(filled, " and ".join(f"{own} is not None" for own in names))
        assert set(known) <= set(passing) | set(failing)


def test_lists_are_fulfilled_and_excluded(filled: sa.Engine, tmp_path: Path) -> None:
    golden = tmp_path / "Cert_Golden.json"
    golden.write_text('{"7": [[1, 3], [5, 9]], "8": [[1, 1]]}')
    conditions.load(filled, golden)
    conditions.load(filled, record.Conditions("a", certifications=(
        record.Certification("dcs", "tracker", {7: [(2, 6)]}),
        record.Certification("dcs", "muon", {7: [(1, 1)]}),
    )))  # fmt: skip
    assert chosen(filled, golden="Cert_Golden") == [1, 2, 3, 5, 6]
    assert chosen(filled, golden=golden) == [1, 2, 3, 5, 6]
    assert chosen(filled, golden=str(golden)) == [1, 2, 3, 5, 6]
    assert chosen(filled, golden=True) == [1, 2, 3, 5, 6]
    assert chosen(filled, golden={"7": [[1, 2]]}) == [1, 2]
    assert chosen(filled, golden=True, dcs="tracker") == [2, 3, 5, 6]
    assert chosen(filled, golden=True, dcs=["tracker", {7: [(3, 3)]}]) == [3]
    assert chosen(filled, golden=True, exclude={7: [(2, 3)]}) == [1, 5, 6]
    assert chosen(filled, "pileup > 15", golden=True) == [2, 3]
    found = conditions.good(filled, DATASET, golden=True)
    assert conditions.as_ranges(found) == {7: [(1, 3), (5, 6)]}
    assert found.attrs == {"n_asked": 6, "n_without_conditions": 1}
    with pytest.raises(KeyError, match=r"2 stored dcs lists are the only one.*muon, tracker"):
        chosen(filled, dcs=True)
    with pytest.raises(KeyError, match=r"0 stored .* 'silver'.*Cert_Golden"):
        chosen(filled, golden="silver")


def test_a_list_loaded_again_is_replaced(engine: sa.Engine) -> None:
    for listed in ({7: [(1, 9)], 8: [(1, 1)]}, {7: [(2, 3)]}):
        newest = record.Certification("golden", "of today", listed)
        conditions.load(engine, record.Conditions("a test", certifications=(newest,)))
    assert conditions.certification(engine, "of today") == {7: [(2, 3)]}
    (row,) = conditions.certifications(engine).to_dict("records")
    assert (row["n_runs"], row["n_lumisections"]) == (1, 2)


def test_rates_are_asked_with_or_without_their_version(filled: sa.Engine) -> None:
    conditions.load(
        filled,
        table(
            run_number=[7, 7, 7],
            ls_number=[1, 2, 2],
            path=["HLT_ZeroBias_v8", "HLT_ZeroBias_v8", "HLT_Mu50_v1"],
            rate=[24.5, 3.0, 40.0],
        ),
    )
    assert chosen(filled, "rate('HLT_ZeroBias') > 5") == [1]
    assert chosen(filled, "rate('HLT_ZeroBias_v8') < 5") == [2]
    assert chosen(filled, "rate('HLT_ZeroBias') is None") == [3, 4, 5, 6]
    found = conditions.rates(filled, "HLT_ZeroBias")
    assert found["HLT_ZeroBias_v8"].to_dict() == {(7, 1): 24.5, (7, 2): 3.0}


def registered(name: str, flag: str, first: int, last: int) -> dict[str, Any]:
    return {
        "run_number": 7,
        "name": name,
        "dataset_attributes": {"tracker_state": "OPEN"},
        "ranges": [{"start": first, "end": last, "tracker-pixel": {"status": flag}}],
    }


def test_flags_of_run_registry_cut_where_its_datasets_agree(filled: sa.Engine) -> None:
    entries = [registered("online", "GOOD", 1, 4), registered("/PromptReco/X/DQM", "BAD", 4, 5)]
    conditions.load(filled, record.registry(entries, "Run Registry"))
    assert chosen(filled, "flag('tracker-pixel') == 'GOOD'") == [1, 2, 3]
    assert chosen(filled, "flag('tracker-pixel', 'online') == 'GOOD'") == [1, 2, 3, 4]
    assert chosen(filled, "flag('tracker-pixel') is None") == [4, 6]
    assert set(conditions.states(filled)["state"]) == {"OPEN"}
    conditions.load(filled, record.registry([registered("online", "BAD", 1, 2)], "Run Registry"))
    assert len(conditions.flags(filled, 7, "tracker-pixel")) == 2
    assert chosen(filled, "flag('tracker-pixel', 'online') == 'BAD'") == [1, 2]


def test_reference_runs_are_found_by_what_fits_best(engine: sa.Engine) -> None:
    conditions.load(
        engine,
        table(run_number=[9, 9, 8], reco=["Prompt", "Express", ""], reference_run_number=[7, 6, 5]),
    )
    assert conditions.reference_run(engine, 9, reco="Prompt") == 7
    assert conditions.reference_run(engine, 8, reco="Prompt") == 5
    assert len(conditions.references(engine)) == 3
    for run_number, words in ((9, "2 reference runs"), (1, "0 reference runs")):
        with pytest.raises(KeyError, match=words):
            conditions.reference_run(engine, run_number)


# -- completeness ---------------------------------------------------------------------------------


def test_completeness_says_what_is_missing_and_how_it_knows(engine: sa.Engine) -> None:
    hold(engine, [(1, 1), (1, 3), (2, 2), (2, 5), (3, 0), (3, 4), (4, 0)])
    conditions.load(engine, table(run_number=[1, 9], last_ls_number=[6, 3]))
    conditions.load(engine, table(run_number=[2, 2], ls_number=[1, 4], pileup=[1.0, 1.0]))
    found = conditions.completeness(engine, DATASET)
    assert found["n_seen"].to_dict() == {1: 2, 2: 2, 3: 1, 4: 0}
    assert found["n_expected"].to_dict() == {1: 6, 2: 4, 3: 4, 4: 0}
    assert found["n_unexpected"].to_dict() == {1: 0, 2: 1, 3: 0, 4: 0}
    assert found["missing"].tolist() == [[[2, 2], [4, 6]], [[1, 1], [3, 4]], [[1, 3]], []]
    assert found["expected_from"].tolist() == ["conditions"] * 2 + ["highest seen"] * 2
    assert found["fraction"].tolist()[:3] == [2 / 6, 1 / 4, 1 / 4]
    assert np.isnan(found.loc[4, "fraction"])
    golden = {1: [(1, 2)], 5: [(1, 9)]}
    wanted = conditions.completeness(engine, DATASET, [1, 5], expected=golden)
    assert wanted["missing"].to_dict() == {1: [[2, 2]], 5: [[1, 9]]}
    assert wanted["n_unexpected"].to_dict() == {1: 1, 5: 0}
    assert conditions.completeness(engine, DATASET, 2).index.tolist() == [2]


# -- services -------------------------------------------------------------------------------------


class Known:
    """A provider that answers."""

    source = "a provider"

    def fetch(self, run_numbers: Any, **options: Any) -> record.Conditions:
        asked = list(run_numbers)
        assert options == {"paths": ["HLT_X"]}
        return table(run_number=asked, ls_number=[1] * len(asked), pileup=[5.0] * len(asked))


def test_a_provider_is_asked_for_runs(engine: sa.Engine) -> None:
    said = conditions.load(engine, Known(), run_numbers=[3, 4], paths=["HLT_X"])
    assert (said.n_lumisections, said.live) == (2, True)
    assert conditions.lumisections(engine)["pileup"].tolist() == [5, 5]
    with pytest.raises(ValueError, match="a provider: want run_numbers"):
        conditions.load(engine, Known())


def test_a_service_that_is_away_leaves_what_is_stored_and_says_so(filled: sa.Engine) -> None:
    nowhere = OMSClient(Access("OMS", "http://127.0.0.1:1", retries=0))
    plain = settings.Settings(oms_url=None, runregistry_url=None)
    before = conditions.lumisections(filled)
    for source, n_runs, why in (
        (nowhere, 1, "does not answer"),
        ("oms", 1, "set oms_url"),
        ("runregistry", 0, "set runregistry_url"),
    ):
        with pytest.warns(conditions.OfflineWarning, match=why) as warned:
            said = conditions.load(filled, source, run_numbers=[7, 8], settings=plain)
        assert not said.live
        assert f"stored already: {n_runs} of 2 runs" in said.note
        assert said.n_lumisections == 5 * n_runs
        assert said.n_runs == n_runs
        assert warned[0].filename == __file__
    nowhere.close()
    pd.testing.assert_frame_equal(conditions.lumisections(filled), before)


def test_what_the_simulator_writes_is_taken_in_as_it_is(engine: sa.Engine, tmp_path: Path) -> None:
    made = simulate.campaign(seed=3, runs=2, lumisections=40)
    for name, content in (
        ("conditions.json", simulated.oms_lumisections(made.conditions())),
        ("runs.json", simulated.oms_runs(made)),
        ("rates.json", simulated.oms_rates(made.conditions())),
        ("golden.json", made.golden()),
        ("dcs.json", made.dcs()),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        conditions.load(engine, tmp_path / name)
    truth, found = made.conditions(), conditions.lumisections(engine)
    assert found.index.equals(truth.index)
    assert np.allclose(found["recorded_lumi"], truth["recorded_lumi"], atol=1e-5)
    assert found["bpix_ready"].tolist() == truth["bpix_ready"].tolist()
    assert conditions.runs(engine)["last_ls_number"].tolist() == [40, 40]
    assert len(conditions.rates(engine, "HLT_ZeroBias")) == 80
    assert conditions.ranges.count(conditions.certification(engine, True, "golden")) > 0
    listed = conditions.good(engine, golden=True, dcs=True)
    assert conditions.as_ranges(listed) == conditions.ranges.intersection(
        conditions.ranges.of_mapping(made.golden()), conditions.ranges.of_mapping(made.dcs())
    )


def test_two_loaders_at_once_neither_block_nor_mix(filled: sa.Engine) -> None:
    numbers = list(range(1, 2001))
    ones = [
        table(run_number=[5] * 2000, ls_number=numbers[::step], pileup=[value] * 2000)
        for step, value in ((1, 20.0), (-1, 30.0))
    ]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda one: conditions.load(filled, one), ones * 4))
    assert [own.n_lumisections for own in said] == [2000] * 8
    found = conditions.lumisections(filled, run_number=5)["pileup"]
    assert len(found) == 2000
    assert set(found) in ({20.0}, {30.0})


def test_the_page_of_the_documentation_lists_every_column() -> None:
    page = Path(__file__).parents[1] / "docs" / "conditions.md"
    words = set(re.findall(r"\w+", page.read_text()))
    known = {*names.LS_COLUMNS, *names.RUN_COLUMNS}
    assert {name for name in known if not {name, name.removesuffix("_ready")} & words} == set()


def test_the_archive_asks_the_same(filled: sa.Engine) -> None:
    held = archive.Archive(filled)
    cut = "pileup > 15 and beams_stable"
    assert held.good(DATASET, where=cut, golden={7: [(3, 9)]})["ls_number"].tolist() == [3]
    pd.testing.assert_frame_equal(
        held.conditions(DATASET, 7), conditions.lumisections(filled, DATASET)
    )
    assert held.completeness(DATASET)["missing"].to_dict() == {7: [[7, 8]]}
    loaded = conditions.load(held, table(run_number=[7], ls_number=[6], pileup=[60.0]))
    assert loaded.n_lumisections == 1
    assert held.good(DATASET, where="pileup > 45")["ls_number"].tolist() == [6]
