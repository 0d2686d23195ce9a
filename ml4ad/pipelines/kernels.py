"""The Jupyter kernel "ml4ad": where its description lies, how it is installed, JupyterLab with it.

A kernel is this Python with an environment of its own: a database, a cluster, a workspace. One
installed under another name, for another group of people, may stand beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

NAME = "ml4ad"

#: Variables that keep other installations' packages out of the kernel.
ISOLATED: Mapping[str, str] = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}


def source() -> Path:
    """Folder of the kernel's description and logos."""
    package = Path(__file__).parents[1]
    for root in (package, package.parent):
        if (root / "kernels" / NAME / "kernel.json").is_file():
            return root / "kernels" / NAME
    raise FileNotFoundError(f"no kernels/{NAME}/kernel.json beside {package}")


def environment(
    database_url: str | None = None,
    cluster: str | None = None,
    workspace: str | None = None,
    *,
    isolated: bool = False,
) -> dict[str, str]:
    """Variables that a kernel starts with.

    Raises ValueError for a URL that is not PostgreSQL's, KeyError for a cluster that the settings
    do not hold.
    """
    from ml4ad import settings
    from ml4ad.store.connection import open_unchecked

    variables = dict(ISOLATED) if isolated else {}
    if database_url is not None:
        open_unchecked(database_url).dispose()
        variables["ML4AD_DATABASE_URL"] = database_url
    if cluster is not None:
        known = settings.load().clusters
        if cluster not in known:
            raise KeyError(
                f"no cluster {cluster!r} in settings; there: {', '.join(known) or 'none'}"
            )
        variables["ML4AD_CLUSTER"] = cluster
    if workspace is not None:
        variables["ML4AD_WORKSPACE"] = workspace
    return variables


def install(
    variables: Mapping[str, str] | None = None,
    *,
    name: str = NAME,
    display_name: str | None = None,
    user: bool = False,
    prefix: str | os.PathLike[str] | None = None,
) -> Path:
    """Folder that the kernel was installed in; one of that name is replaced.

    It goes to this Python's environment, to the user's own kernels, or under ``prefix``. With
    ``variables`` only its owner can read it: a database's URL may hold a password. Raises
    ValueError for a name that Jupyter refuses, PermissionError where this user may not write.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    if user and prefix is not None:
        raise ValueError(f"user and prefix {prefix}: want one of them")
    under = None if user else str(prefix or sys.prefix)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / NAME
        shutil.copytree(source(), fresh)
        described = json.loads((fresh / "kernel.json").read_text())
        # Jupyter may be of another Python than the one that has ml4ad.
        described["argv"][0] = sys.executable
        described["display_name"] = display_name or name
        if variables:
            described["env"] = dict(variables)
            (fresh / "kernel.json").chmod(0o600)
        (fresh / "kernel.json").write_text(json.dumps(described, indent=1) + "\n")
        return Path(
            KernelSpecManager().install_kernel_spec(
                str(fresh), kernel_name=name, user=user, prefix=under
            )
        )


def hiding(folder: Path) -> Path | None:
    """Folder of the kernel that this Python's Jupyter takes instead of the one in ``folder``.

    None if it takes that one, or knows none of its name. The environment's own kernels, such as the
    one that pip brings, come before the user's.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().find_kernel_specs().get(folder.name)
    return None if found is None or Path(found).samefile(folder) else Path(found)


def lab(folder: Path, more: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of JupyterLab in ``folder``, with this kernel as the first.

    It is the user's own of that name, else the one that comes with this package. Raises
    NotADirectoryError if there is no such folder.
    """
    from jupyter_core.paths import jupyter_data_dir

    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    # Jupyter looks for a folder "kernels" in each of these, and takes the first kernel of a name.
    own = Path(jupyter_data_dir())
    first = own if (own / "kernels" / NAME).is_dir() else source().parents[1]
    paths = [str(first), os.environ.get("JUPYTER_PATH", "")]
    variables = dict(os.environ) | {"JUPYTER_PATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "jupyterlab", str(folder)]
    return [*command, f"--MultiKernelManager.default_kernel_name={NAME}", *more], variables
