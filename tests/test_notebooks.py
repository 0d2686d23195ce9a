"""Every notebook: how it is written, and that it runs as in production."""

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from bs4 import BeautifulSoup
from campaign_samples import DATASET, LINE, MAP
from matplotlib.figure import Figure

import ml4ad
from ml4ad import detect, ingest, pipelines, verdict
from ml4ad.ingest import take
from ml4ad.pipelines import choice, report
from ml4ad.pipelines import notebook as notebooks
from ml4ad.store.execution import RunState

FOLDER = Path(__file__).parents[1] / "notebooks"
ALL = sorted(FOLDER.rglob("*.ipynb"))
TUTORIALS = [path for path in ALL if path.parent.name == "tutorials"]
MAGICS = {"run", "load", "time"}  # IPython reads these names, annotated, as magics
SQL = re.compile(r"\bselect\b.+\bfrom\b|\binsert into\b|sqlalchemy|psycopg", re.IGNORECASE | re.S)

# What is smaller here than in production.
PARAMETERS = {
    "train": {"elements": [LINE, MAP], "workers": 0, "activate": True},
    "evaluate": {"n_trials": 2, "others": False, "element": MAP},
    "prove": {"n_trials": 2, "elements": [MAP]},
    "retry": {"workers": 0},
    "06_train_and_compare": {"elements": [LINE]},
    "07_own_model": {"n_trials": 2, "element": LINE},
}


def name_of(path):
    return str(path.relative_to(FOLDER).with_suffix(""))


@pytest.fixture(params=ALL, ids=name_of)
def content(request):
    return nbformat.read(request.param, as_version=4)


def code(content):
    return [cell for cell in content.cells if cell.cell_type == "code"]


def trees(content):
    for cell in code(content):
        lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
        yield ast.parse("\n".join(lines))


def test_there_are_the_notebooks_of_the_flow():
    assert {"ingest", *STEPS, "score", "report"} <= {path.stem for path in ALL}
    assert len(TUTORIALS) >= 10


def test_it_holds_no_outputs(content):
    assert not [cell for cell in code(content) if cell.outputs or cell.execution_count]


def test_it_opens_with_the_kernel_of_this_package(content):
    assert content.metadata.kernelspec.name == "ml4ad"


def test_it_begins_with_a_title_and_its_purpose_then_its_parameters(content):
    title, _, purpose = content.cells[0].source.partition("\n\n")
    assert title.startswith("# ")
    assert len(purpose) > 40
    assert "parameters" in content.cells[1].metadata.tags


def test_every_parameter_is_typed_and_explained(content):
    declared = notebooks.declared(content)
    assert declared
    assert not [p.name for p in declared.values() if len(p.meaning) < 10]
    assert not MAGICS & set(declared)


def test_it_tells_and_the_package_knows(content):
    for tree in trees(content):
        for node in ast.walk(tree):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
            assert not isinstance(node, ast.Lambda)
    assert not [cell.source for cell in code(content) if SQL.search(cell.source)]
    prose = [cell for cell in content.cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code(content)) / 3


# -- running them --------------------------------------------------------------------------------


@pytest.fixture
def url(campaign_url, tmp_path, monkeypatch):
    """An archive for one test, in whose folder everything is written."""
    monkeypatch.setenv("ML4AD_DATABASE_URL", campaign_url)
    monkeypatch.setenv("ML4AD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return campaign_url


@pytest.fixture
def archive(url):
    with ml4ad.connect(url) as archive:
        yield archive


def results(record):
    """What the cells of an executed notebook gave, as plain text."""
    content = nbformat.read(record.output, as_version=4)
    outputs = [output for cell in code(content) for output in cell.outputs]
    return [output.get("data", {}).get("text/plain", output.get("text", "")) for output in outputs]


STEPS = ["index", "retry", "train", "evaluate", "prove"]


@pytest.mark.slow
@pytest.mark.usefixtures("url")
@pytest.mark.parametrize("name", [*STEPS, *map(name_of, TUTORIALS)])
def test_it_runs(name):
    record = pipelines.run(name, PARAMETERS.get(Path(name).name))
    assert record.state is RunState.DONE
    assert Path(record.page).stat().st_size > 100_000
    assert not [text for text in results(record) if "Warning" in text]


@pytest.mark.slow
def test_the_chain_takes_in_scores_and_reports(archive, campaign_files, url):
    verdict.add(archive, 382544, [[3, 5]], "bad", why="for the test", dataset=DATASET)
    shared = {"paths": [str(campaign_files / "store")], "workers": 0, "dataset": DATASET}
    taken, scored, told = pipelines.chain(shared)
    assert {taken.chain_id, scored.chain_id, told.chain_id} == {None, taken.pipeline_run_id}
    assert (Path(told.output).parent / "report.pdf").read_bytes().startswith(b"%PDF-")
    images = [text for text in results(told) if text.startswith("<Figure")]
    found = report.incidents(archive, DATASET, choice.runs(archive, DATASET, newest=4))
    assert len(images) >= len(found) >= 1
    assert not [text for text in results(told) if "Warning" in text]
    assert ml4ad.connect(url).datasets()["n_ls"].sum() == archive.datasets()["n_ls"].sum()
    check_against_sql(tables(told), url)


def tables(record):
    """The tables of a run's page, each a list of rows, as a reader has them."""
    soup = BeautifulSoup(Path(record.page).read_text(), "html.parser")
    found = []
    for table in soup.select("table.dataframe"):
        names = [cell.text for cell in table.thead.tr.find_all("th")]
        rows = [[c.text for c in row.find_all(["th", "td"])] for row in table.tbody.find_all("tr")]
        found.append([dict(zip(names, row, strict=True)) for row in rows])
    return found


def check_against_sql(shown, url):
    """The numbers of a report are those that the database counts."""
    runs, found, *_, said = shown
    address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        n_ls = connection.execute(
            "SELECT run_number, count(*) FROM lumisection GROUP BY run_number ORDER BY run_number"
        ).fetchall()
        incidents = connection.execute(
            "SELECT run_number, first_ls, last_ls, sentence FROM incident JOIN model "
            "USING (model_id) WHERE model.state = 'active' ORDER BY log_p"
        ).fetchall()
        verdicts = connection.execute(
            "SELECT run_number, first_ls, last_ls, verdict, why FROM verdict"
        ).fetchall()
        # What an incident or a person calls bad, each lumisection once.
        bad = connection.execute(
            "SELECT run_number, count(DISTINCT ls) FROM ("
            "SELECT run_number, generate_series(first_ls, last_ls) AS ls FROM incident "
            "JOIN model USING (model_id) WHERE model.state = 'active' UNION "
            "SELECT run_number, generate_series(first_ls, last_ls) FROM verdict) AS spans "
            "GROUP BY run_number"
        ).fetchall()
    assert [(int(row["run"]), int(row["LS here"])) for row in runs] == n_ls
    for row in runs:
        run_number = int(row["run"])
        assert int(row["incidents"]) == sum(i[0] == run_number for i in incidents)
        # A lumisection between two strange ones may have been empty: not assessed.
        lowest = dict(bad).get(run_number, 0) - int(row["not assessed"])
        assert lowest <= int(row["bad"]) <= dict(bad).get(run_number, 0)
        states = ("good", "bad", "not assessed", "outside")
        assert sum(int(row[state]) for state in states) == int(row["LS here"])
    keys = ("run", "first LS", "last LS")
    assert [(*(int(row[k]) for k in keys), row["what"]) for row in found] == incidents
    assert [(*(int(row[k]) for k in keys), row["verdict"], row["why"]) for row in said] == verdicts


@pytest.mark.slow
def test_a_cell_that_fails_leaves_nothing_half_written(archive, tmp_path):
    broken = tmp_path / "broken.root"
    broken.write_bytes(b"root" + b"\0" * 400)
    before = archive.lumisections()
    record = pipelines.run("ingest", {"paths": [str(broken)], "workers": 0, "dataset": DATASET})
    assert any("broken.root" in text and "BAD" in text for text in results(record))
    models = detect.models(archive)
    with pytest.raises(pipelines.RunError, match="KeyError"):
        pipelines.run("train", {"elements": ["nowhere"], "workers": 0})
    assert detect.models(archive).equals(models)
    assert archive.lumisections().equals(before)


@pytest.fixture
def unjudged(database_url, campaign_files, tmp_path, monkeypatch):
    """An archive with a run and no model."""
    monkeypatch.setenv("ML4AD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    newest = sorted((campaign_files / "store").rglob("*.root"))[-1]
    with ml4ad.connect(database_url) as archive:
        assert [done.state for done in ingest.ingest(archive, newest)] == ["PROCESSED"]
        yield archive
    take.close_engines()


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_a_report_without_a_model_says_so_and_its_page_is_for_people_who_do_not_program():
    record = pipelines.run("report")
    soup = BeautifulSoup(Path(record.page).read_text(), "html.parser")
    words = soup.get_text()
    for told in ("No model is active", "No incident.", "Nothing is bad.", "Nobody said anything"):
        assert told in words
    for code in ("run_numbers", "import ", "In [", "Out[", "¶", "PosixPath", str(Path.cwd())):
        assert code not in words
    assert len(tables(record)) == 2  # of the runs, and of what was not assessed


def test_the_numbers_of_the_report_are_those_of_the_database(archive):
    runs = choice.runs(archive, DATASET, newest=4)
    table = report.summary(archive, DATASET, runs).set_index("run_number")
    certificate = verdict.certification(archive, DATASET, runs)
    for run_number in runs:
        row = table.loc[run_number]
        states = certificate.states[certificate.states["run_number"] == run_number]["state"]
        for state in ("good", "bad", "not assessed"):
            assert row[state] == (states == state).sum()
        assert row["n_incidents"] == len(detect.incidents(archive, run_number))
    assert table["bad"].sum() > 0


def test_an_incident_is_drawn_against_what_is_not_the_incident(archive):
    incident = report.incidents(archive, DATASET, [383394]).iloc[0]
    figure = report.picture(archive, incident)
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}
    assert list(panels) == ["observed", "reference", "difference"]
    observed, reference, difference = (
        np.asarray(ax.collections[0].get_array()) for ax in panels.values()
    )
    assert np.allclose(observed - reference, difference)
    assert reference.sum() == pytest.approx(observed.sum())
    assert difference.min() < -0.5 * reference.max() / 10


def test_a_table_of_any_length_is_on_paper(tmp_path):
    table = pd.DataFrame({"run_number": range(120), "sentence": "long $words$ " * 20})
    both = {"Long": report.Table(table), "None": report.Table(table.head(0))}
    path = report.pdf(tmp_path / "own.pdf", "Title", both, [], "A note.")
    assert path.read_bytes().count(b"/Type /Page ") >= 3


def test_every_page_of_a_report_is_a4(tmp_path):
    drawn = [Figure(figsize=size) for size in [(15, 4.2), (10, 8), (3, 12)]]
    said = report.Table(pd.DataFrame({"run_number": [1], "sentence": ["words " * 40]}))
    path = report.pdf(tmp_path / "own.pdf", "Title", {"Said": said}, drawn, "A note.")
    boxes = re.findall(rb"/MediaBox \[([^\]]*)\]", path.read_bytes())
    assert [[round(float(n)) for n in box.split()] for box in boxes] == [[0, 0, 595, 842]] * 3


@pytest.mark.usefixtures("url")
def test_of_several_datasets_the_newest_run_tells(archive, small14):
    older = "/Older/Run2023C-v1/DQMIO"
    ingest.ingest(archive, small14, dataset=older)
    with pytest.raises(ValueError, match="2 datasets, name one"):
        choice.dataset(archive)
    assert archive.runs(older)["run_number"].max() < archive.runs(DATASET)["run_number"].max()
    assert choice.newest_dataset(archive) == DATASET
    assert choice.newest_dataset(archive, older) == older
    of_older = int(archive.runs(older)["run_number"].iloc[0])
    assert choice.newest_dataset(archive, run_numbers=[of_older]) == older
    with pytest.raises(KeyError, match="no run 5 in the archive"):
        choice.newest_dataset(archive, run_numbers=[5])


@pytest.mark.usefixtures("url")
def test_what_is_left_open_is_chosen_or_refused(archive):
    assert choice.dataset(archive) == DATASET
    with pytest.raises(KeyError, match="no dataset '/No'; there: /Zero"):
        choice.dataset(archive, "/No")
    assert choice.newest_dataset(archive) == DATASET
    with pytest.raises(KeyError, match="no dataset '/No'"):
        choice.newest_dataset(archive, "/No")
    assert choice.runs(archive, DATASET, newest=2) == [382962, 383394]
    with pytest.raises(KeyError, match="no run 1; there: 4 from 382076 to 383394"):
        choice.runs(archive, DATASET, [1])
    with pytest.raises(KeyError, match=r"with 3 axes; PixelPhase1/.*charge_PXLayer_1 has 1"):
        choice.element(archive, DATASET, 383394, LINE, dim=3)
    with pytest.raises(KeyError, match=r"matches 'Pixel.*chrge\*' .*; near: PixelPhase1/.*charge_"):
        choice.element(archive, DATASET, 383394, "PixelPhase1/*/chrge*")
    with pytest.raises(ValueError, match="no good lumisection"):
        choice.good_stacks(archive, DATASET, LINE, where="pileup > 1000")
    with choice.workers() as client:
        assert client is None
