"""A real JupyterLab in a real browser: notebooks run by hand as people run them."""

import os
import re
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import nbformat
import processes
import pytest
from campaign_samples import DATASET, LINE, MAP
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from ml4ad.pipelines import notebook as notebooks

WAIT_MS = 120_000
TOKEN = "only-for-tests"  # noqa: S105
FOLDER = Path(__file__).parents[1] / "notebooks"

# What is smaller here than in production, and what a person must see in the outputs.
FLOW = {
    "ingest": ({"workers": 0, "dataset": DATASET}, ["PROCESSED", "383394"]),
    "train": ({"elements": [LINE], "workers": 0, "name": "by-hand"}, ["by-hand", "candidate"]),
    "score": ({"workers": 1, "new_only": False}, ["numberOfSegments_W0", "LS 15"]),
    "evaluate": ({"n_trials": 2, "others": False, "element": MAP}, ["found_in_3", "hv_off"]),
    "report": ({}, ["numberOfSegments_W0", "report.pdf", "not assessed"]),
}
SHOWN = FLOW | {
    "tutorials/01_first_look": ({}, ["charge_PXLayer_1", "HistogramStack"]),
    "tutorials/02_arrays_and_hist": ({}, ["383394", "Hist"]),
    "tutorials/03_trends": ({}, ["q95", "mean"]),
    "tutorials/04_compare": ({}, ["ratio"]),
    "tutorials/05_luminosity": ({}, ["recorded_lumi"]),
    "tutorials/06_train_and_compare": ({"elements": [LINE]}, ["tutorial-nearest"]),
    "tutorials/07_own_model": ({"n_trials": 2, "element": LINE}, ["own", "found_in_3"]),
    "tutorials/08_certification": ({}, ["certified.json", "not assessed"]),
    "tutorials/09_export": ({}, ["True", "store/"]),
    "tutorials/10_from_dials": ({}, ["HistogramStack", "383394"]),
}

# JupyterLab is there; what a double click on a file does; what the cross on its tab does.
STARTED = "() => window.jupyterapp?.shell?.layoutModified && jupyterapp.restored.then(() => true)"
OPEN = "path => { jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'}); }"
CLOSE = "() => jupyterapp.shell.currentWidget.close()"
# Whether the notebook is there and its kernel waits for cells.
READY = """path => {
  const panel = jupyterapp.shell.currentWidget;
  const kernel = panel?.sessionContext?.session?.kernel;
  return panel?.context?.path === path && panel.context.isReady && panel.sessionContext.isReady
    && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
# Whether the kernel rests, and all cells were run, or one of them failed.
AT_REST = """() => {
  const panel = jupyterapp.shell.currentWidget;
  const cells = panel.content.widgets.map(cell => cell.model).filter(
    model => model.type === 'code' && model.sharedModel.getSource().trim());
  const failed = cells.some(
    model => model.outputs.toJSON().some(output => output.output_type === 'error'));
  const idle = panel.sessionContext.session?.kernel?.status === 'idle';
  return idle && (failed || cells.every(model => model.executionCount !== null));
}"""
IDLE = "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
SAVED = "() => !jupyterapp.shell.currentWidget.context.model.dirty"


@pytest.fixture(scope="module")
def work(campaign_files, tmp_path_factory):
    """Folder with the notebooks, each with the parameters that somebody has put in."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tutorials").mkdir()
    for name, (own, _) in SHOWN.items():
        parameters = own | ({"paths": [str(campaign_files / "store")]} if name == "ingest" else {})
        content = load_notebook_node(str(FOLDER / f"{name}.ipynb"))
        content = parameterize_notebook(content, parameters, kernel_name="ml4ad", language="python")
        nbformat.write(content, folder / f"{name}.ipynb")
    return folder


class Lab:
    """A JupyterLab that was started, and where it is."""

    def __init__(self, address):
        self.address = address

    def asked(self, method, path):
        headers = {"Authorization": f"token {TOKEN}"}
        return httpx.request(method, f"{self.address}{path}", headers=headers, timeout=60)

    def stop_kernels(self):
        for kernel in self.asked("GET", "api/kernels").json():
            self.asked("DELETE", f"api/kernels/{kernel['id']}").raise_for_status()


@pytest.fixture(scope="module")
def lab(work, campaign_copy, tmp_path_factory):
    """`ml4ad lab` on a free port, with a token, for somebody without settings."""
    home = tmp_path_factory.mktemp("home")
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0"]
    options += [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True"]
    # It asks a package index for newer versions of itself otherwise.
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XDG", "ML4AD"))}
    log = home / "log"
    with campaign_copy() as url, log.open("w") as told:
        environment = clean | {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(home / "runtime")}
        environment |= {"ML4AD_DATABASE_URL": url, "ML4AD_DATA_DIR": str(home / "data")}
        command = [sys.executable, "-m", "ml4ad", "lab", str(work), *options]
        # Told to end while it answers a page, JupyterLab waits for a thread of AnyIO for ever.
        with processes.started(command, env=environment, stdout=told, stderr=told) as server:
            while not (place := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())):
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            yield Lab(place[0])


@pytest.fixture(scope="module")
def window(browser, lab):
    """A person's browser window, and what went wrong in it."""
    wrong = []

    def asked(request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(lab.address).netloc:
            wrong.append(f"asked another host: {request.url}")

    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.on("request", asked)
    opened.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    yield opened, wrong
    context.close()


@pytest.fixture
def page(window, lab):
    """The page of that window; nothing may go wrong in it, or be asked of another host."""
    opened, wrong = window
    wrong.clear()
    yield opened
    lab.stop_kernels()
    assert not wrong


def run_all(page, lab, name):
    """Open a notebook, run all of its cells from the menu, save and close it."""
    if "workspaces/by-hand" not in page.url:
        page.goto(f"{lab.address}lab/workspaces/by-hand?token={TOKEN}")
        page.wait_for_function(STARTED)
    page.evaluate(OPEN, f"{name}.ipynb")
    page.wait_for_function(READY, arg=f"{name}.ipynb")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(AT_REST)
    page.keyboard.press("Control+s")
    page.wait_for_function(SAVED)
    page.evaluate(CLOSE)


def check(path, wanted):
    """All cells of a saved notebook were run, none failed, and the words are in the outputs."""
    content = nbformat.read(path, as_version=4)
    cells = [cell for cell in content.cells if notebooks.is_run(cell)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [o.evalue for o in outputs if o.output_type == "error"] == []
    assert all(cell.execution_count for cell in cells)
    assert content.metadata.kernelspec.name == "ml4ad"
    texts = "\n".join(
        "".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", ""))
        for o in outputs
    )
    assert [words for words in wanted if words not in texts] == []
    assert "Warning" not in texts


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_by_hand(page, lab, work, name):
    run_all(page, lab, name)
    check(work / f"{name}.ipynb", SHOWN[name][1])


@pytest.mark.slow
def test_the_launcher_offers_the_kernel_with_its_logo(page, lab):
    page.goto(f"{lab.address}lab/workspaces/launcher?token={TOKEN}")
    card = page.locator(".jp-LauncherCard[data-category='Notebook'][title='ml4ad']")
    card.wait_for()
    logo = card.locator("img")
    page.wait_for_function("img => img.complete && img.naturalWidth > 0", arg=logo.element_handle())
    assert "/kernelspecs/ml4ad/" in logo.get_attribute("src")
    card.click()
    # The notebook's own sign is shown before there is a kernel.
    page.wait_for_function(IDLE)
    (kernel,) = lab.asked("GET", "api/kernels").json()
    assert kernel["name"] == "ml4ad"
