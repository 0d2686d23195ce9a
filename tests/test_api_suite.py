"""The test-suite that `cmsdials` itself publishes, unmodified, against this server.

It is in the source distribution, which `make cmsdials` fetches, and not in what is installed.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored_samples import histograms, put
from served import Service

from ml4ad import HistogramStack, conditions, workspaces
from ml4ad.conditions import record
from ml4ad.workspaces import Workspace

SUITE = max((Path(__file__).parents[1] / ".cmsdials").glob("cmsdials-*/"), default=None)
pytestmark = pytest.mark.skipif(SUITE is None, reason="not fetched: `make cmsdials`")

FIRST_RUN, N_RUNS, N_LS = 401_605, 210, 150
LINE, MAP = "Pixel/PXBarrel/charge", "Pixel/PXBarrel/map"


@pytest.fixture(scope="module")
def service(shared_archive, tmp_path_factory):
    """Two hundred runs, as many as the suite wants to see; OMS knows the first."""
    folder = tmp_path_factory.mktemp("files")
    line = histograms(LINE, FIRST_RUN, n_ls=1)
    one = histograms(MAP, FIRST_RUN, n_ls=1)
    maps = [
        HistogramStack.from_arrays(
            one.values(),
            one.axes,
            ls_numbers=one.ls_numbers,
            run_number=FIRST_RUN + n,
            me=MAP,
            dataset=one.dataset,
        )
        for n in range(N_RUNS)
    ]
    put(shared_archive, folder, line, *maps)
    ls_numbers = np.arange(1, N_LS + 1)
    lumis = pd.DataFrame({"run_number": FIRST_RUN, "ls_number": ls_numbers, "pileup": 60.0})
    runs = pd.DataFrame({"run_number": [FIRST_RUN], "last_lumisection_number": [N_LS]})
    told = conditions.Conditions(
        "test",
        runs=record.runs(record.with_keys(runs), "test"),
        lumisections=record.lumisections(record.with_keys(lumis), "test"),
    )
    conditions.storage.store(shared_archive.engine, told)
    workspaces.put(shared_archive.engine, Workspace("global", ("*",), ("*",)))
    with Service(shared_archive) as running:
        yield running


@pytest.mark.parametrize("by", ["secret", "client credentials"])
def test_the_published_suite_passes(service, tmp_path, by):
    environment = {
        **os.environ,
        "BASE_URL": service.url,
        "CLIENT_SECRET": service.key,
        "TEST_DATASET_ID": "1",
        "TEST_FILE_ID": "1",
        "TEST_RUN_NUMBER": str(FIRST_RUN),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    command += ["--override-ini", "addopts=", "--deselect"]
    # Only OMS itself has these rates.
    command += ["tests/integration/test_oms_proxy_client.py::test_query_datasetrates"]
    if by == "client credentials":
        # Its tests name no login server: another default takes the place of CERN's.
        (tmp_path / "login_here.py").write_text(
            "from cmsdials.auth.client import AuthClient\n"
            f"AuthClient.PRODUCTION_KEYCLOAK_URL = {service.url + 'auth/'!r}\n"
        )
        environment |= {"CLIENT_ID": "suite", "PYTHONPATH": str(tmp_path)}
        command += ["-p", "login_here", "tests/integration"]
    else:
        command += ["tests"]
    ran = subprocess.run(
        command, cwd=SUITE, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert "1 deselected" in ran.stdout
