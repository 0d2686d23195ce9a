"""The REST interface as clients meet it: a server process, real HTTP, one run, one table.

    ML4AD_API_REQUESTS_PER_S=100000 python benchmarks/api.py [--maps 500] [--histograms 1000000]
        [--readers 200] [--repeat 3] [--log FILE]

All requests come with one key, which may ask a hundred times a second unless told otherwise; a line
per request goes to the server's log, which is kept where ``--log`` says.

1. A page of 500 maps of 300 x 200 bins as JSON: first byte, whole answer, memory of the server.
   The reference is what DIALS does for that page: rows of float8[][] read through psycopg, made
   Python lists, and written by json. (DIALS itself needed 13 s where that was measured.)
2. The same maps as one Arrow answer, until they are a `HistogramStack`, against pages of JSON that
   `cmsdials` gets, until they are an array.
3. Pages of files, runs and lumisections in an archive of a million histograms: the first time
   one is asked for, the median of the first page, and of the last.
4. Many readers at once: errors, how long they wait, connections to the database; then five times as
   many, who are answered or told to come again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import requests
import sqlalchemy as sa
from cmsdials import Dials
from cmsdials.auth.secret_key import Credentials
from cmsdials.filters import LumisectionHistogram2DFilters

import ml4ad
from ml4ad import Axis, HistogramStack, api, dqmio, ingest
from ml4ad.api import pages
from ml4ad.api.serve import server
from ml4ad.store import blocks, dimensions, schema
from ml4ad.store import server as postgres

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
MANY = "/HLTPhysics/Run2024F-PromptReco-v1/DQMIO"
MAP = "PixelPhase1/Tracks/clusterposition_zphi"
FIRST_RUN, N_ELEMENTS, N_LS, LS_OF_FILE = 380_000, 100, 100, 10


# -- what is served ------------------------------------------------------------------------------


def maps(n_ls: int) -> HistogramStack:
    """Counts in a barrel that has ends."""
    rng = np.random.default_rng(1)
    x, y = np.linspace(-1, 1, 300), np.linspace(-1, 1, 200)
    mean = 4 * np.exp(-(x[:, None] ** 2)) * (abs(y) < 0.8)
    return HistogramStack.from_arrays(
        rng.poisson(mean, (n_ls, 300, 200)).astype("f4"),
        [Axis.regular(300, -60, 60), Axis.regular(200, -3.2, 3.2)],
        ls_numbers=np.arange(1, n_ls + 1),
        run_number=1,
        me=MAP,
        dataset=DATASET,
    )


def fill(archive: ml4ad.Archive, n_histograms: int) -> None:
    """So many histograms of 1D: runs of 100 lumisections in files of 10, with 100 elements."""
    n_runs = max(1, n_histograms // (N_ELEMENTS * N_LS))
    dataset_id = dimensions.dataset_id(archive.engine, MANY)
    # The runs are all alike: packed once, stored as what they are.
    packed = {first: _packed(first) for first in range(1, N_LS + 1, LS_OF_FILE)}
    for number in range(FIRST_RUN, FIRST_RUN + n_runs):
        with archive.engine.begin() as connection:
            for first, of_file in packed.items():
                file_id = _file(connection, dataset_id, number, first)
                moved = (dataclasses.replace(block, run_number=number) for block in of_file)
                blocks.store(archive.engine, connection, file_id, dataset_id, moved)
    with archive.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    archive.engine.dispose()


def _packed(first: int) -> list[blocks.PackedBlock]:
    rng = np.random.default_rng([2, first])
    return [
        block
        for i in range(N_ELEMENTS)
        for block in blocks.pack(
            HistogramStack.from_arrays(
                rng.poisson(50, (LS_OF_FILE, 50)).astype("f4"),
                Axis.regular(50, 0, 100),
                ls_numbers=np.arange(first, first + LS_OF_FILE),
                run_number=FIRST_RUN,
                me=f"Tracker/Layer{i % 20}/charge_{i}",
            )
        )
    ]


def _file(connection: sa.Connection, dataset_id: int, number: int, first: int) -> int:
    row = {"dataset_id": dataset_id, "path": f"/store/{number}/{first}.root", "size": 10**9}
    row |= {"mtime": 1.7e9, "state": "PROCESSED"}
    added = sa.insert(schema.file).values(row).returning(schema.file.c.file_id)
    file_id = connection.scalar(added)
    key = {"dataset_id": dataset_id, "run_number": number, "file_id": file_id}
    connection.execute(sa.insert(schema.run).values(key))
    numbers = range(first, first + LS_OF_FILE)
    rows = [{**key, "ls_number": ls, "n_mes": N_ELEMENTS} for ls in numbers]
    connection.execute(sa.insert(schema.lumisection), rows)
    return file_id


# -- the server ----------------------------------------------------------------------------------


def peak_mb() -> float:
    """Most memory that this process has had."""
    # Of this process alone: what getrusage tells is inherited.
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def serve(url: str) -> None:
    """The server by itself: prints its port, then its peak of memory for every line it is given."""
    archive = ml4ad.connect(url)
    running = server(archive.engine, port=0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    print(running.servers[0].sockets[0].getsockname()[1], flush=True)
    for _ in sys.stdin:
        print(f"{peak_mb():.0f}", flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    running.should_exit = True
    thread.join()


class Service:
    """The server process, its address, and what its memory comes to."""

    def __init__(self, url: str, key: str, log: Path) -> None:
        command = [sys.executable, __file__, "--serve", url]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with log.open("w") as told:
            self.process = subprocess.Popen(command, **pipes, stderr=told)  # noqa: S603 (ourselves)
        assert self.process.stdout is not None
        self.base = f"http://127.0.0.1:{self.process.stdout.readline().strip()}/api"
        self.headers = {"X-CLIENT-SECRET": key, "Accept-Encoding": "identity"}

    def peak_mb(self) -> int:
        """Most memory since this was asked last."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def cpu_s(self) -> float:
        """Seconds of CPU that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Stop the server."""
        self.process.communicate()


# -- what is measured ----------------------------------------------------------------------------


def best(repeat: int, action: Callable[[], Any]) -> tuple[float, Any]:
    """Least seconds of several times, and the last result."""
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        value = action()
        taken.append(time.perf_counter() - began)
    return min(taken), value


def verdict(value: float, most: float) -> str:
    """Whether a number is what it should be."""
    return f"(at most {most:g}: {'met' if value <= most else 'MISSED'})"


def timed_get(url: str, headers: dict[str, str]) -> tuple[float, float, int]:
    """Seconds to the first byte and to the last, and how many bytes there are."""
    began = time.perf_counter()
    with requests.get(url, headers=headers, stream=True, timeout=300) as answer:
        answer.raise_for_status()
        chunks = answer.iter_content(1 << 16)
        first = next(chunks)
        at = time.perf_counter() - began
        body = first + b"".join(chunks)
    return at, time.perf_counter() - began, len(body)


def as_dials(url: str, stack: HistogramStack) -> float:
    """Seconds as DIALS: one row per histogram, lists of floats, json."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TEMPORARY TABLE fact_th2 (ls_number int, data float8[][])")
        values = stack.values().transpose(0, 2, 1)
        with connection.cursor() as cursor:
            for ls in range(len(stack)):
                row = (ls, values[ls].tolist())
                cursor.execute("INSERT INTO fact_th2 VALUES (%s, %s)", row)
        began = time.perf_counter()
        rows = connection.execute("SELECT * FROM fact_th2 ORDER BY ls_number").fetchall()
        json.dumps([{"ls_number": ls, "data": data} for ls, data in rows])
        return time.perf_counter() - began


def by_cmsdials(service: Service, n_maps: int) -> np.ndarray:
    """All maps, as the public client gets them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        credentials = Credentials(token=service.headers["X-CLIENT-SECRET"])
    dials = Dials(credentials, base_url=service.base.removesuffix("api"))
    wanted = LumisectionHistogram2DFilters(me=MAP, page_size=str(min(n_maps, 500)))
    found = dials.h2d.list_all(wanted, enable_progress=False)
    return np.array(found.to_pandas()["data"].tolist())


def page_of_maps(service: Service, n_maps: int, repeat: int) -> None:
    """JSON, first with and then without compression, and through `cmsdials`; then Arrow."""
    before = service.peak_mb()
    address = f"{service.base}/v1/th2/?page_size={n_maps}"
    for encoding in ("gzip", "identity"):
        headers = service.headers | {"Accept-Encoding": encoding}
        runs = [timed_get(address, headers) for _ in range(repeat)]
        first, seconds, size = min(runs, key=lambda run: run[1])
        print(f"JSON page, {encoding}: {size:,} bytes (as the client has them)")
        print(f"  first byte {first:.3f} s {verdict(first, 1)}")
        print(f"  whole answer {seconds:.2f} s {verdict(seconds, 5)}")
    slow, values = best(repeat, lambda: by_cmsdials(service, n_maps))
    print(f"JSON by cmsdials to an array: {slow:.2f} s")
    peak = service.peak_mb()
    print(f"  memory of the server: {before} MB before, at most {peak} MB meanwhile")

    def arrow(compression: str) -> HistogramStack:
        query = {"me": MAP, "run_number": "1", "dataset": DATASET, "compression": compression}
        answer = requests.get(
            f"{service.base}/v2/stack", query, headers=service.headers, timeout=60
        )
        answer.raise_for_status()
        return api.read(answer.content)

    for compression in ("none", "lz4", "zstd"):
        fast, stack = best(repeat, lambda how=compression: arrow(how))
        assert np.array_equal(stack.values().transpose(0, 2, 1), values)
        ratio = slow / fast
        told = f"{ratio:.0f} times faster than JSON"
        told += f" (at least 20: {'met' if ratio >= 20 else 'MISSED'})"
        print(f"Arrow ({compression}) to a stack: {fast:.3f} s, {told}")
    print(f"  memory of the server: at most {service.peak_mb()} MB meanwhile")


KEYS = {
    "file-index": ("file_id",),
    "run": ("dataset_id", "run_number"),
    "lumisection": ("dataset_id", "run_number", "ls_number"),
}


def lists(service: Service, n_rows: int = 10) -> None:
    """First and last pages."""
    with requests.Session() as session:
        session.headers.update(service.headers)
        for name, keys in KEYS.items():
            address = f"{service.base}/v1/{name}/?page_size={n_rows}"
            cold = best(1, lambda at=address: session.get(at, timeout=60).raise_for_status())[0]
            at, rows = f"{service.base}/v1/{name}/?page_size=500", []
            while at:
                answer = session.get(at, timeout=60).json()
                rows, at = [*rows, *answer["results"]], answer["next"]
            assert len(rows) > n_rows, f"{name}: {len(rows)} rows; ask for more --histograms"
            token = pages.token([rows[-n_rows - 1][key] for key in keys])
            last = f"{address}&next_token={token}"
            assert session.get(last, timeout=60).json()["results"] == rows[-n_rows:]
            timed = [_pages(service, session, url) for url in (address, last)]
            print(f"{name}, {len(rows):,} rows: the very first page {1000 * cold:.1f} ms")
            for told, (median, cpu) in zip(("first", "last"), timed, strict=True):
                of_server = f"{cpu:.1f} ms of it the server's CPU"
                print(f"  {told} page, median {median:.1f} ms {verdict(median, 20)}, {of_server}")
            print(f"  the last takes {timed[1][0] / timed[0][0]:.2f} times what the first does")


def _pages(service: Service, session: requests.Session, url: str) -> tuple[float, float]:
    """Median milliseconds of a page, and the mean of the server's CPU."""
    taken, used = [], service.cpu_s()
    for _ in range(100):
        began = time.perf_counter()
        session.get(url, timeout=60).raise_for_status()
        taken.append(1000 * (time.perf_counter() - began))
    return float(np.median(taken)), 1000 * (service.cpu_s() - used) / len(taken)


class Watched:
    """The greatest number of connections that the server had to the database meanwhile."""

    def __init__(self, url: str) -> None:
        self._url, self._over = url, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most = 0

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ml4ad' AND pid <> %s"
        )
        with psycopg.connect(self._url, autocommit=True) as connection:
            own = (connection.info.backend_pid,)
            while not self._over.wait(0.05):
                row = connection.execute(query, own).fetchone()
                self.most = max(self.most, row[0] if row else 0)


def readers(service: Service, url: str, n_readers: int, n_each: int = 10) -> None:
    """So many clients at once, each with several requests of all kinds."""
    addresses = (
        f"{service.base}/v1/run/",
        f"{service.base}/v1/lumisection/?run_number={FIRST_RUN}",
        f"{service.base}/v1/th1/?me=Tracker/Layer0/charge_0&page_size=50",
        f"{service.base}/v2/stack?me=Tracker/Layer1/charge_1&dataset={MANY}&run_number={FIRST_RUN}",
        f"{service.base}/v2/runs?order=-run_number&limit=20",
    )
    outcomes: Counter[str] = Counter()
    taken: list[float] = []
    together = threading.Barrier(n_readers)

    def read(number: int) -> None:
        with requests.Session() as session:
            session.headers.update(service.headers)
            together.wait()
            for i in range(n_each):
                began = time.perf_counter()
                try:
                    answer = session.get(addresses[(number + i) % len(addresses)], timeout=120)
                    outcome = str(answer.status_code)
                    if answer.status_code == 503:
                        outcome += " with Retry-After" * ("Retry-After" in answer.headers)
                except requests.RequestException as error:
                    outcome = type(error).__name__
                taken.append(time.perf_counter() - began)
                outcomes[outcome] += 1

    began = time.perf_counter()
    with Watched(url) as seen:
        threads = [threading.Thread(target=read, args=[i]) for i in range(n_readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seconds = time.perf_counter() - began
    p50, p95 = np.percentile(taken, [50, 95])
    told = ", ".join(f"{n} times {outcome}" for outcome, n in sorted(outcomes.items()))
    print(f"{n_readers} readers at once, {len(taken):,} requests, {len(taken) / seconds:.0f} per s")
    print(f"  answers: {told}")
    print(f"  each waits: median {p50:.2f} s, 95 % within {p95:.2f} s")
    print(f"  connections to the database: at most {seen.most} {verdict(seen.most, 15)}")
    print(f"  memory of the server: at most {service.peak_mb()} MB meanwhile")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--maps", type=int, default=500)
    parser.add_argument("--histograms", type=int, default=1_000_000)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="of the server")
    parser.add_argument("--serve")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    with tempfile.TemporaryDirectory() as folder, postgres.temporary() as url:
        path = Path(folder) / "maps.root"
        stack = maps(given.maps)
        dqmio.write(path, [stack], seed=1)
        archive = ml4ad.connect(url)
        list(ingest.ingest(archive, [path], dataset=DATASET))
        service = Service(url, api.create(archive.engine, "benchmark"), given.log)
        try:
            page_of_maps(service, given.maps, given.repeat)
            seconds = as_dials(url, stack)
            print(f"as DIALS makes that page, without sending it: {seconds:.2f} s")
            seconds = best(1, lambda: fill(archive, given.histograms))[0]
            print(f"{given.histograms:,} histograms more were stored in {seconds:.0f} s")
            lists(service)
            readers(service, url, given.readers)
            readers(service, url, 5 * given.readers, n_each=2)
        finally:
            service.close()


if __name__ == "__main__":
    main()
