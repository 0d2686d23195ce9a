"""What a run of a notebook costs, beside the same code as a script.

    python benchmarks/run.py

The reference is ``python script.py`` with the cells of the notebook, in the same environment. The
table tells the seconds of both, best of several, and of `ml4ad run`, which records the run and
writes the executed notebook and its page; the goal is less than 5 s more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from ml4ad.store import server

REPEATS = 3
CELLS = ("import numpy as np", "import pandas as pd", "print(np.arange(n).sum())", "import ml4ad")
DECLARED = "n: int = 10  # how many"


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of the fastest of several runs of a command."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run(  # noqa: S603 (our own commands)
            command, env=environment, check=True, stdout=subprocess.DEVNULL
        )
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name, server.temporary() as url:
        folder = Path(name)
        script, notebook = folder / "own.py", folder / "own.ipynb"
        script.write_text("\n".join([DECLARED, *CELLS]) + "\n")
        declared = new_code_cell(DECLARED, metadata={"tags": ["parameters"]})
        cells = [declared, *(new_code_cell(cell) for cell in CELLS)]
        nbformat.write(new_notebook(cells=cells), notebook)
        environment = dict(os.environ) | {
            "ML4AD_DATABASE_URL": url,
            "ML4AD_DATA_DIR": str(folder / "data"),
        }
        program = str(Path(sys.executable).with_name("ml4ad"))
        plain = seconds([sys.executable, str(script)], environment)
        run = seconds([program, "run", str(notebook), "-p", "n", "20"], environment)
    print(f"{'':24}{'seconds':>10}{'more':>10}{'ratio':>10}")
    print(f"{'python script.py':24}{plain:>10.2f}{0:>10.2f}{1:>10.2f}")
    print(f"{'ml4ad run':24}{run:>10.2f}{run - plain:>10.2f}{run / plain:>10.2f}")


if __name__ == "__main__":
    main()
