# ruff: noqa: S105, S106 (the secrets are the test's own)
"""Live clients against a real HTTP server that speaks as OMS and Run Registry do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ml4ad import settings
from ml4ad.conditions import oms, runregistry
from ml4ad.conditions.service import Access, UnavailableError

RUN, LAST = 398903, 25
DATASET = "/PromptReco/Collisions2025/DQM"


def lumisection(ls_number: int) -> dict[str, Any]:
    return {
        "id": f"{RUN}_{ls_number}",
        "type": "lumisections",
        "attributes": {
            "run_number": RUN,
            "lumisection_number": ls_number,
            "delivered_lumi": 0.25 * ls_number,
            "delivered_lumi_per_lumisection": 0.25,
            "recorded_lumi_per_lumisection": 0.2,
            "pileup": None if ls_number == 7 else 60.0,
            "beam1_stable": True,
            "beam2_stable": ls_number > 3,
            "bpix_ready": True,
        },
        "meta": {"row": {"delivered_lumi_per_lumisection": {"units": "pb^{-1}"}}},
    }


class Peer:
    """State of the server: what it holds, how it misbehaves, what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.tokens: list[str] = []
        self.token: str | None = None
        self.failures: list[int] = []
        self.raw: bytes | None = None
        self.wait_s = 0.0
        self.total_is_off_by = 0
        self.says_total = True
        self.rows = {
            "runs": [
                {
                    "attributes": {
                        "run_number": RUN,
                        "fill_number": 11245,
                        "start_time": "2025-10-30T01:02:03Z",
                        "last_lumisection_number": LAST,
                        "recorded_lumi": 5000.0,
                        "components": ["TRACKER"],
                    },
                    "meta": {"row": {"recorded_lumi": {"units": "{\\mu}b^{-1}"}}},
                }
            ],
            "lumisections": [lumisection(n) for n in range(1, LAST + 1)],
            "hltpathrates": [
                {"attributes": {"first_lumisection_number": n, "rate": 20.0 + n}}
                for n in range(1, LAST + 1)
            ],
        }

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "/token":
            if body["client_secret"] != "right":
                return 401, {"error": "unauthorized_client"}
            self.token = f"token {len(self.tokens)}"
            self.tokens.append(body["audience"])
            return 200, {"access_token": self.token}
        self.asked.append((path, query))
        if method == "POST":
            return self.registry(path, body)
        rows = self.rows[path.removeprefix("/oms/").strip("/")]
        wanted = int(query["filter[run_number][EQ]"])
        held = rows if wanted == RUN else []
        offset, limit = int(query["page[offset]"]), int(query["page[limit]"])
        meta = {"totalResourceCount": len(held) + self.total_is_off_by} if self.says_total else {}
        return 200, {"data": held[offset : offset + limit], "meta": meta, "links": {}}

    def registry(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/rr/lumisections/rr_lumisection_ranges":
            good = {"status": "GOOD", "cause": "", "comment": ""}
            return 200, [
                {"start": 1, "end": 5, "tracker-pixel": {**good, "status": "BAD", "cause": "HV"}},
                {"start": 6, "end": LAST, "tracker-pixel": good, "dt-dt": good},
            ]
        runs = [entry["="] for entry in body["filter"]["run_number"]["or"]]
        names = ["online", DATASET, "/Express/Collisions2025/DQM"] if RUN in runs else []
        entries = [
            {"run_number": RUN, "name": name, "dataset_attributes": {"tracker_state": "OPEN"}}
            for name in names
            if body["filter"].get("name", {"=": name})["="] == name
        ]
        size = body["page_size"]
        first = body["page"] * size
        count = len(entries) + self.total_is_off_by
        return 200, {
            "datasets": entries[first : first + size],
            "count": count,
            "pages": -(-len(entries) // size),
        }


@pytest.fixture
def peer() -> Iterator[Peer]:
    state = Peer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET", None)

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = self.headers["Content-Type"].startswith("application/x-www-form")
            body = {k: v[0] for k, v in parse_qs(text).items()} if form else json.loads(text)
            self.reply("POST", body)

        def reply(self, method: str, body: Any) -> None:
            parts = urlsplit(self.path)
            query = {name: own[0] for name, own in parse_qs(parts.query).items()}
            if state.wait_s:
                time.sleep(state.wait_s)
            shown = self.headers.get("Authorization")
            if state.token and parts.path != "/token" and shown != f"Bearer {state.token}":
                status, content = 401, b"{}"
            elif state.failures and parts.path != "/token":
                status, content = state.failures.pop(0), b"busy"
            else:
                status, found = state.answer(method, parts.path, query, body)
                content = json.dumps(found).encode()
                if state.raw is not None:
                    content = state.raw
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                return

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def way(peer: Peer, path: str = "/oms", **more: Any) -> Access:
    plain = {"name": "peer", "url": peer.url + path, "backoff_s": 0, "timeout_s": 20}
    return Access(**{**plain, **more})


def test_a_run_comes_whole_over_many_pages(peer: Peer) -> None:
    with oms.OMSClient(way(peer), page_size=4) as client:
        found = client.fetch([RUN], paths=["HLT_ZeroBias_v8"])
    assert found.lumisections.index.tolist() == [(RUN, n) for n in range(1, LAST + 1)]
    assert set(found.lumisections["delivered_lumi"]) == {250_000.0}
    assert found.lumisections["pileup"].isna().sum() == 1
    assert found.lumisections["beams_stable"].tolist() == [n > 3 for n in range(1, LAST + 1)]
    assert found.rates["rate"].tolist() == [20.0 + n for n in range(1, LAST + 1)]
    assert set(found.rates["path"]) == {"HLT_ZeroBias_v8"}
    run = found.runs.loc[RUN]
    assert (run["last_ls_number"], run["fill_number"]) == (LAST, 11245)
    assert run["components"] == ["TRACKER"]
    assert len([path for path, _ in peer.asked if path == "/oms/lumisections/"]) == 7


def test_the_unit_of_each_row_is_taken(peer: Peer) -> None:
    with oms.OMSClient(way(peer)) as client:
        found = client.fetch([RUN])
    assert found.runs.loc[RUN, "recorded_lumi"] == pytest.approx(5000.0)


def test_an_unknown_unit_is_refused(peer: Peer) -> None:
    peer.rows["runs"][0]["meta"] = {"row": {"recorded_lumi": {"units": "furlong"}}}
    with oms.OMSClient(way(peer)) as client, pytest.raises(ValueError, match="'furlong'"):
        client.fetch([RUN])


def test_pages_end_where_the_server_does_not_count(peer: Peer) -> None:
    peer.says_total = False
    with oms.OMSClient(way(peer), page_size=5) as client:
        assert len(client.query("lumisections", [("run_number", "EQ", RUN)])) == LAST


def test_runs_that_oms_does_not_know_are_left_out(peer: Peer) -> None:
    with oms.OMSClient(way(peer)) as client:
        found = client.fetch([1, RUN])
        nothing = client.fetch([1])
    assert found.runs.index.tolist() == [RUN]
    assert nothing.runs.empty
    assert nothing.lumisections.empty


def test_fewer_rows_than_promised_are_refused(peer: Peer) -> None:
    peer.total_is_off_by = 3
    with (
        oms.OMSClient(way(peer), page_size=10) as client,
        pytest.raises(ValueError, match="25 rows: want 28"),
    ):
        client.query("lumisections", [("run_number", "EQ", RUN)])


def test_a_token_is_asked_for_once_and_again_when_it_ran_out(peer: Peer) -> None:
    peer.token = "nobody's"
    inside = way(
        peer,
        token_url=f"{peer.url}/token",
        client_id="ml4ad",
        client_secret="right",
        audience="cmsoms-prod",
    )
    with oms.OMSClient(inside, page_size=10) as client:
        client.fetch([RUN])
        assert peer.tokens == ["cmsoms-prod"]
        peer.token = "another"
        client.fetch([RUN])
    assert peer.tokens == ["cmsoms-prod"] * 2


@pytest.mark.parametrize("client_id", [None, "ml4ad"])
def test_wrong_credentials_are_said_to_be_wrong(peer: Peer, client_id: str | None) -> None:
    peer.token = "nobody's"
    outside = way(
        peer,
        token_url=f"{peer.url}/token",
        client_id=client_id,
        client_secret="guessed",
    )
    with oms.OMSClient(outside) as client, pytest.raises(PermissionError, match="oidc_client_id"):
        client.fetch([RUN])


def test_the_secret_is_not_shown() -> None:
    shown = repr(Access("OMS", "http://x", client_id="a", client_secret="hush"))
    assert "hush" not in shown


def test_what_passes_is_tried_again(peer: Peer) -> None:
    peer.failures = [503, 429]
    with oms.OMSClient(way(peer)) as client:
        assert len(client.fetch([RUN]).lumisections) == LAST


def test_what_does_not_pass_is_unavailable(peer: Peer) -> None:
    peer.failures = [503] * 3
    with (
        oms.OMSClient(way(peer, retries=2)) as client,
        pytest.raises(UnavailableError, match="503 Service Unavailable; asked 3 times"),
    ):
        client.fetch([RUN])


def test_silence_is_unavailable(peer: Peer) -> None:
    peer.wait_s = 0.5
    with (
        oms.OMSClient(way(peer, timeout_s=0.05, retries=1)) as client,
        pytest.raises(UnavailableError, match="ReadTimeout"),
    ):
        client.fetch([RUN])


def test_nobody_there_is_unavailable() -> None:
    # Port 1 needs a privilege to listen on.
    nowhere = Access("OMS", "http://127.0.0.1:1", retries=0)
    with oms.OMSClient(nowhere) as client, pytest.raises(UnavailableError, match="does not answer"):
        client.fetch([RUN])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"<html>log in</html>", "want JSON, got '<html>log in"),
        (b"[1, 2]", "want {'data'"),
        (b'{"data": 3}', "want {'data'"),
        (b'{"data": [{"id": 1}]}', "want {'data'"),
        (b"\xff\xfe", "want JSON"),
    ],
)
def test_garbage_is_refused(peer: Peer, raw: bytes, words: str) -> None:
    peer.raw = raw
    with oms.OMSClient(way(peer)) as client, pytest.raises(ValueError, match=words):
        client.fetch([RUN])


def test_a_refused_question_is_not_asked_again(peer: Peer) -> None:
    peer.failures = [400]
    with oms.OMSClient(way(peer)) as client, pytest.raises(ValueError, match="400: 'busy'"):
        client.fetch([RUN])
    assert peer.failures == []
    with oms.OMSClient(way(peer)) as client, pytest.raises(ValueError, match="operator 'IS'"):
        client.query("runs", [("run_number", "IS", RUN)])


def test_run_registry_gives_flags_and_states_of_all_datasets(peer: Peer) -> None:
    with runregistry.RunRegistryClient(way(peer, "/rr"), page_size=2) as client:
        found = client.fetch([RUN, 7])
        one = client.fetch([RUN], dataset=DATASET)
        none = client.fetch([])
    assert set(found.flags["dataset"]) == {"online", DATASET, "/Express/Collisions2025/DQM"}
    assert len(found.states) == 3
    pixel = one.flags[one.flags["component"] == "tracker-pixel"]
    assert pixel[["first_ls", "last_ls", "flag", "cause"]].to_numpy().tolist() == [
        [1, 5, "BAD", "HV"],
        [6, LAST, "GOOD", ""],
    ]
    assert none.flags.empty


def test_run_registry_answers_of_another_shape_are_refused(peer: Peer) -> None:
    with runregistry.RunRegistryClient(way(peer, "/rr")) as client:
        peer.raw = b'{"err": "no"}'
        with pytest.raises(ValueError, match="want datasets, pages and count"):
            client.fetch([RUN])
        peer.raw = None
        peer.total_is_off_by = 1
        with pytest.raises(ValueError, match="3 datasets: want 4"):
            client.fetch([RUN])


def test_services_that_the_settings_do_not_name_are_unavailable() -> None:
    plain = settings.Settings(oms_url=None, runregistry_url=None)
    with pytest.raises(UnavailableError, match="set oms_url"):
        oms.client(plain)
    with pytest.raises(UnavailableError, match="set runregistry_url"):
        runregistry.client(plain)


def test_the_settings_lead_to_the_service(peer: Peer) -> None:
    peer.token = "nobody's"
    chosen = settings.Settings(
        oms_url=f"{peer.url}/oms",
        oidc_token_url=f"{peer.url}/token",
        oidc_client_id="ml4ad",
        oidc_client_secret="right",  # type: ignore[arg-type]
    )
    with oms.client(chosen) as client:
        assert len(client.fetch([RUN]).lumisections) == LAST
    assert "right" not in repr(chosen)
