"""The server of the pages: Voila with our template, a start page, and nothing from elsewhere."""

from __future__ import annotations

import queue
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import jinja2
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from nbformat.sign import MemorySignatureStore, NotebookNotary
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from traitlets.config import Config
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.tornado.handler import TornadoVoilaHandler

from ml4ad.dashboards import glance
from ml4ad.dashboards.browser import STATIC, plotly_source
from ml4ad.dashboards.forked import Provisioner
from ml4ad.dashboards.page import OF_A_RUN, PAGES

_HERE = Path(__file__).parent
#: A kernel whose page is closed ends after so many seconds at the latest.
_IDLE_S = 120
_FORKED = "ml4ad-forked"
#: Seconds that a page waits for what its cells show.
_OUTPUT_S = 60
_PING_MS = 90_000
#: Seconds after which a kernel that does not answer is looked at.
_LOOK_S = 10.0
_MAKES_WIDGETS = "/voila.js"
_KERNEL_ID = re.compile(r'"kernelId": "([^"]+)"')
_EXTENSIONS = (
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
    "anywidget",
)


def notebooks() -> Path:
    """Folder of the pages' notebooks: in the installed package, or beside it in a checkout."""
    for folder in (_HERE / "notebooks", _HERE.parents[1] / "dashboards"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise FileNotFoundError(f"no notebooks in {_HERE / 'notebooks'}: install ml4ad again")


class _Start(JupyterHandler):
    def initialize(self, look: glance.Look) -> None:
        """Who knows the state of the archive."""
        self._look = look

    @web.authenticated
    async def get(self) -> None:
        """The start page, with the state of the archive."""
        found = await IOLoop.current().run_in_executor(None, self._look)
        pages = [
            {"name": name, "title": title, "says": says, "facts": found.facts.get(name, ())}
            | {"query": f"?{found.query}" if found.query and name in OF_A_RUN else ""}
            for name, title, says in PAGES
        ]
        self.set_header("Cache-Control", "no-store")
        self.finish(_filled("start.html", base_url=self.base_url, pages=pages, found=found))


class _Executed(JupyterHandler):
    """An executed notebook: as a page to read, or as the notebook itself."""

    def initialize(self, look: glance.Look) -> None:
        """Who knows where runs are kept."""
        self._look = look

    @web.authenticated
    async def get(self, run_id: str, ending: str) -> None:
        """The page or the notebook of one run; 404 with the reason where it is not here."""
        loop = IOLoop.current()
        kind = "ipynb" if ending else "html"
        try:
            path = await loop.run_in_executor(None, self._look.executed, int(run_id), kind)
        except (LookupError, OSError) as error:
            said = str(error.args[0] if error.args else error)
            self.set_status(404)
            head = "This run cannot be shown"
            self.finish(_filled("said.html", base_url=self.base_url, head=head, text=said))
            return
        content = await loop.run_in_executor(None, path.read_bytes)
        # Its outputs are whatever a notebook made: they must not act in the name of who reads them.
        self.set_header("Content-Security-Policy", "sandbox allow-scripts allow-popups")
        self.set_header("X-Content-Type-Options", "nosniff")
        if kind == "ipynb":
            self.set_header("Content-Type", "application/x-ipynb+json")
            self.set_header("Content-Disposition", f'attachment; filename="{path.name}"')
        else:
            self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(content)


class _Page(TornadoVoilaHandler):  # type: ignore[misc]  # Voila has no types
    """A page, of which a sentence stands there at once, and soon how it will look."""

    async def get_generator(self, path: str | None = None) -> AsyncIterator[str]:
        """The beginning of a document, then Voila's; browsers take its second head as more."""
        titles = {f"{name}.ipynb": title for name, title, _ in PAGES}
        if path not in titles:
            async for part in super().get_generator(path):
                yield part
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        yield _filled("starting.html", base_url=self.base_url, title=titles[path])
        kernel_id = ""
        async for part in super().get_generator(path):
            named = _KERNEL_ID.search(part)
            kernel_id = named[1] if named else kernel_id
            # All cells have run when what makes widgets of them comes.
            if _MAKES_WIDGETS in part and kernel_id in self.kernel_manager:
                kernel = self.kernel_manager.get_kernel(kernel_id)
                yield await _poster(kernel, self.request.query)
            yield part


def _filled(name: str, **given: Any) -> str:
    """One of our own documents with what belongs into it."""
    source = (_HERE / "voila" / "templates" / "ml4ad" / name).read_text("utf-8")
    return jinja2.Environment(autoescape=True).from_string(source).render(**given)


class _File(web.RequestHandler):
    """One file that pages need, of the package or of a library: public, and kept by browsers."""

    def initialize(self, path: Path) -> None:
        """Which file this address stands for."""
        self._path = path

    def get(self) -> None:
        """The file."""
        self.set_header("Cache-Control", "max-age=3600")
        kind = "text/css" if self._path.suffix == ".css" else "text/javascript"
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.finish(self._path.read_bytes())


class _End(VoilaShutdownKernelHandler):  # type: ignore[misc]  # Voila has no types
    """Ends the kernel of a page that is closed, now rather than when it has idled long enough."""

    def check_xsrf_cookie(self) -> None:
        """Nothing: a closing page's beacon carries none. One must know the kernel's number."""


class _Ours(NotebookNotary):
    """Trusts the notebooks of the pages, which are ours, and keeps no signatures."""

    def check_signature(self, nb: Any) -> bool:
        """Yes."""
        del nb
        return True


class Server(Voila):  # type: ignore[misc]  # Voila has no types
    """Voila that serves our pages; configured by `server`, not by files of the user's.

    ``say`` is called with the address, token and all, when it listens.
    """

    say: Callable[[str], None] | None = None
    template_paths: Any
    port: Any
    ioloop: Any

    def setup_template_dirs(self) -> None:
        """Our template before Voila's."""
        self.voila_configuration.template = "lab"
        super().setup_template_dirs()
        self.template_paths = [str(_HERE / "voila" / "templates" / "ml4ad"), *self.template_paths]

    def init_settings(self) -> dict[str, Any]:
        """Voila's, with kernels that are forked."""
        kernels = KernelProvisionerFactory.instance(parent=self)
        where = f"{Provisioner.__module__}:{Provisioner.__qualname__}"
        kernels.provisioners[_FORKED] = EntryPoint(_FORKED, where, kernels.GROUP_NAME)
        kernels.default_provisioner_name = _FORKED
        settings: dict[str, Any] = super().init_settings()
        # Jupyter waits for three of its pings, longer than Tornado takes; pages pulse anyhow.
        settings["ws_ping_timeout"] = settings["ws_ping_interval"] = _PING_MS
        manager = settings["contents_manager"]
        signatures = {"parent": manager, "store_factory": MemorySignatureStore}
        manager.notary = _Ours(**signatures)  # type: ignore[no-untyped-call]
        return settings

    def listen(self) -> None:
        """Serve until stopped; OSError if the port is taken, rather than another port."""
        sockets = bind_sockets(self.port, self.ip)
        self.port = sockets[0].getsockname()[1]
        http = HTTPServer(self.app)
        http.add_sockets(sockets)
        host = "localhost" if self.ip in ("", "0.0.0.0", "127.0.0.1") else self.ip  # noqa: S104
        secret = self.identity_provider.token
        query = f"?token={secret}" if secret else ""
        if self.say is not None:
            self.say(f"http://{host}:{self.port}{self.base_url}{query}")
        if self.open_browser:
            self.launch_browser()
        try:
            self.ioloop.start()
        except KeyboardInterrupt:
            self.log.info("interrupted")
        finally:
            http.stop()
            try:
                self.stop()
            except web.HTTPError as error:
                # A kernel that has only begun to start ends with the process that forks it.
                self.log.info("%s", error)
            finally:
                Provisioner.mother.close()

    def init_handlers(self) -> list[Any]:
        """Voila's, after the start page and the files that pages need."""
        _count_from_taking(self.kernel_manager)
        base = self.server_url
        look = {"look": glance.Look()}
        own: list[Any] = [
            (base, _Start, look),
            (url_path_join(base, r"/ml4ad/runs/(\d+)(\.ipynb)?"), _Executed, look),
            (url_path_join(base, r"/ml4ad/plotly\.min\.js"), _File, {"path": plotly_source()}),
            *(
                (url_path_join(base, "/ml4ad/", re.escape(name)), _File, {"path": STATIC / name})
                for name in ("page.css", "sketch.js")
            ),
        ]
        own.append((url_path_join(base, r"/voila/api/shutdown/(.*)"), _End))
        # Voila leaves these out of the prefix, and sends browsers there.
        login = [(url_path_join(base, path), *rest) for path, *rest in self._login_handlers()]
        voilas = [
            (path, _Page if one is TornadoVoilaHandler else one, *rest)
            for path, one, *rest in super().init_handlers()
        ]
        return [*own, *login, *voilas]

    def _login_handlers(self) -> list[Any]:
        return list(self.identity_provider.get_handlers())


def _count_from_taking(manager: Any) -> None:
    """Have a warm kernel count as idle from when a page takes it.

    It would else be ended, with all the time that it had waited for a visitor, before the browser
    has connected.
    """
    give = manager.get_rendered_notebook

    async def taken(*given: Any, **named: Any) -> Any:
        found = await give(*given, **named)
        manager.get_kernel(found[-1]).last_activity = datetime.now(UTC)
        return found

    manager.get_rendered_notebook = taken


async def _poster(kernel: Any, search: str) -> str:
    """HTML of how the page of a kernel will look with this query string; "" if the kernel ends.

    However long that takes: a browser that met the kernel before would be told of new widgets while
    it asks for those that are there, and give up on both.
    """
    client = kernel.client()
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        client.execute(
            "from ml4ad.dashboards.page import greet",
            store_history=False,
            user_expressions={"looks": f"greet({search!r})"},
        )
        reply = None
        while reply is None and await kernel.is_alive():
            with suppress(queue.Empty):
                reply = await client.get_shell_msg(timeout=_LOOK_S)
    finally:
        client.stop_channels()
    if reply is None:
        return ""
    found = reply["content"]["user_expressions"]["looks"].get("data", {})
    return _filled("poster.html", looks=found["text/html"]) if "text/html" in found else ""


def server(
    *,
    port: int = 8866,
    ip: str = "127.0.0.1",
    base_url: str = "/",
    token: str | None = None,
    open_browser: bool = False,
    pool: Mapping[str, int] | int = 1,
    verbose: bool = False,
) -> Server:
    """The server, ready to be started.

    ``token`` None makes one, "" asks for none. ``pool`` is the number of warm kernels per page, or
    by page; 0 warms none, and a page then takes seconds to open. ``verbose`` logs every kernel and
    request that is odd, not only what goes wrong. Raises OSError if the notebooks
    are not there, ValueError for a base URL that does not begin with "/".
    """
    if not base_url.startswith("/"):
        raise ValueError(f"base URL {base_url!r}, want one that begins with '/'")
    sizes = {name: pool if isinstance(pool, int) else pool.get(name, 0) for name, *_ in PAGES}
    config = Config()
    # Also where none is warmed: there is one kind of kernel manager then.
    config.VoilaConfiguration.preheat_kernel = True
    config.VoilaConfiguration.default_pool_size = 0
    config.VoilaConfiguration.show_tracebacks = False
    config.VoilaConfiguration.file_allowlist = []
    # On a busy server what a cell shows may come after its end, and would be left out.
    config.VoilaExecutor.iopub_timeout = _OUTPUT_S
    # Of what is installed beside, nothing belongs on these pages.
    config.VoilaConfiguration.extension_allowlist = list(_EXTENSIONS)
    config.VoilaConfiguration.allow_template_override = "NO"
    config.VoilaConfiguration.allow_theme_override = "NO"
    pools: dict[str, Any] = {f"{name}.ipynb": {"pool_size": size} for name, size in sizes.items()}
    config.VoilaKernelManager.kernel_pools_config = pools | {"default": {"pool_size": 0}}
    config.VoilaKernelManager.cull_idle_timeout = _IDLE_S
    config.VoilaKernelManager.cull_interval = 20
    config.VoilaKernelManager.cull_connected = False
    config.Application.log_level = "INFO" if verbose else "WARN"
    config.Voila.token = token
    config.Voila.auto_token = token is None
    app = Server(config=config, config_file_paths=[], port_retries=0)
    # Voila's answer to SIGTERM stops it, also before it has begun.
    app.ioloop = IOLoop.current()
    app.root_dir = str(notebooks())
    app.port, app.ip, app.open_browser = port, ip, open_browser
    app.base_url = base_url if base_url.endswith("/") else f"{base_url}/"
    if not verbose:
        # That the kernels of closed pages end is no reason to warn.
        app.log.addFilter(lambda record: not str(record.msg).startswith("Culling"))
    app.initialize([])
    return app


def serve(say: Callable[[str], None], **given: Any) -> None:
    """Serve until interrupted; ``say`` gets the address. ``given`` is what `server` takes."""
    app = server(**given)
    app.say = say
    app.start()
