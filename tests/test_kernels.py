import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import jupyter_core.paths
import processes
import pytest
from click.testing import CliRunner
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from ml4ad.cli.kernels import kernels as command
from ml4ad.pipelines import kernels

ROOT = Path(__file__).parents[1]
URL = "postgresql://shifter:secret@db.example.org/ml4ad"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without settings or kernels."""
    for name in ("JUPYTER_PATH", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "JUPYTER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    return tmp_path


def test_an_installed_kernel_is_this_python_with_its_environment(home):
    variables = kernels.environment(URL, workspace="pixel")
    folder = kernels.install(variables, name="ml4ad-pixel", display_name="Pixel", user=True)
    assert folder == home / "jupyter" / "kernels" / "ml4ad-pixel"
    described = json.loads((folder / "kernel.json").read_text())
    assert described["argv"][0] == sys.executable
    assert described["display_name"] == "Pixel"
    assert described["env"] == {"ML4AD_DATABASE_URL": URL, "ML4AD_WORKSPACE": "pixel"}
    assert (folder / "kernel.json").stat().st_mode & 0o077 == 0
    assert {p.name for p in folder.glob("logo-*")} == {
        "logo-32x32.png",
        "logo-64x64.png",
        "logo-svg.svg",
    }


def test_a_prefix_gets_a_kernel_that_all_can_read(home):
    asked = ["install", "--prefix", str(home / "view")]
    printed = CliRunner().invoke(command, asked, catch_exceptions=False).output.strip()
    assert printed == str(home / "view" / "share" / "jupyter" / "kernels" / "ml4ad")
    described = json.loads((Path(printed) / "kernel.json").read_text())
    assert described["display_name"] == "ml4ad"
    assert "env" not in described
    again = CliRunner().invoke(command, asked, catch_exceptions=False)
    assert again.exit_code == 0


def test_a_users_kernel_that_jupyter_would_not_take_is_told(home, monkeypatch):
    # As where pip brought a kernel into the environment that Jupyter itself is of.
    brought = kernels.install(prefix=home / "env")
    monkeypatch.setattr(jupyter_core.paths, "ENV_JUPYTER_PATH", [str(brought.parents[1])])
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    asked = ["install", "--user", "--database-url", URL]
    told = CliRunner().invoke(command, asked, catch_exceptions=False)
    own = home / "jupyter" / "kernels" / "ml4ad"
    assert told.stdout.strip() == str(own)
    assert f"takes {brought} first" in told.stderr
    assert "another --name" in told.stderr
    other = CliRunner().invoke(command, [*asked, "--name", "own"], catch_exceptions=False)
    assert other.stderr == ""
    # `ml4ad lab` takes the user's.
    _, variables = kernels.lab(home)
    monkeypatch.setenv("JUPYTER_PATH", variables["JUPYTER_PATH"])
    assert KernelSpecManager().find_kernel_specs()["ml4ad"] == str(own)


@pytest.mark.usefixtures("home")
def test_what_cannot_work_is_refused():
    with pytest.raises(KeyError, match="no cluster 'farm' in settings; there: none"):
        kernels.environment(cluster="farm")
    with pytest.raises(ValueError, match="database URL of 'sqlite'"):
        kernels.environment("sqlite:///own.db")
    with pytest.raises(ValueError, match="Invalid kernel name"):
        kernels.install(name="my kernel", user=True)
    with pytest.raises(ValueError, match="want one of them"):
        kernels.install(user=True, prefix="/nowhere")


def test_the_kernel_starts_without_anything_heavy_and_in_its_environment(home):
    # A kernel that pip brought into this environment goes before a user's of the same name.
    kernels.install(kernels.environment(URL), name="ml4ad-own", user=True)
    manager = KernelManager(
        kernel_name="ml4ad-own", transport="ipc", connection_file=str(home / "k.json")
    )
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    said = []
    try:
        client.wait_for_ready(timeout=60)
        code = (
            "import os, sys; print(os.environ['ML4AD_DATABASE_URL']);"
            "print(*{n.partition('.')[0] for n in sys.modules});"
            "import ml4ad; print('pandas' in sys.modules)"
        )
        # What a kernel says before its listener is known to it is lost: ask until it is heard.
        for _ in range(50):
            client.execute_interactive(
                code, output_hook=lambda m: said.append(m["content"].get("text", "")), timeout=60
            )
            if said:
                break
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    url, modules, heavy = "".join(said).splitlines()
    assert url == URL
    assert not {"numpy", "pandas", "matplotlib", "sklearn", "uproot", "dask"} & set(modules.split())
    assert heavy == "False"


def test_the_logos_are_of_the_size_that_their_names_say():
    for size in (32, 64):
        data = (kernels.source() / f"logo-{size}x{size}.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width = int.from_bytes(data[16:20])
        height = int.from_bytes(data[20:24])
        assert (width, height) == (size, size)


def test_jupyterlab_opens_with_the_kernel_first(home):
    socket = home / "s"
    more = [
        f"--ServerApp.sock={socket}",
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=of-the-test",
    ]
    line, variables = kernels.lab(ROOT / "notebooks", more)
    log = home / "log"
    with (
        log.open("w") as told,
        processes.started(line, env=variables, stdout=told, stderr=told) as server,
    ):
        wait_until_running(server, log)
        headers = {"Authorization": "token of-the-test"}
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, headers=headers, timeout=60) as client:
            answer = client.get("http://localhost/api/kernelspecs")
            page = client.get("http://localhost/lab")
    specs = answer.json()
    assert specs["default"] == "ml4ad"
    assert specs["kernelspecs"]["ml4ad"]["spec"]["display_name"] == "ml4ad"
    assert page.status_code == 200
    assert "<title>JupyterLab</title>" in page.text


def wait_until_running(server, log):
    while "is running at" not in log.read_text():
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)


def test_swan_gets_the_kernel_although_its_release_has_other_packages(home):
    poisoned = home / "release"
    poisoned.mkdir()
    for name in ("ml4ad", "click", "jupyter_client"):
        (poisoned / f"{name}.py").write_text("raise ImportError('of the release')\n")
    bash = shutil.which("bash")
    variables = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(poisoned),
        "ML4AD_ENV": sys.prefix,
        "JUPYTER_DATA_DIR": str(home / "jupyter"),
    }
    script = f". {ROOT / 'kernels' / 'swan.sh'}; command -v ml4ad; echo $PYTHONPATH"
    done = subprocess.run(
        [bash, "-eu", "-c", script], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"{sys.prefix}/bin/ml4ad", str(poisoned)]
    described = json.loads((home / "jupyter" / "kernels" / "ml4ad" / "kernel.json").read_text())
    assert described["env"] == {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
    started = subprocess.run(
        [described["argv"][0], "-c", "import ml4ad, click; print(ml4ad.__version__)"],
        env=variables | described["env"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert started.stdout.startswith("0.")
