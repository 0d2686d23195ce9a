"""A page of 500 maps of 300 x 200 bins as JSON, the same as one Arrow request, and list pages.

    python benchmarks/api.py [--maps 500] [--repeat 3]

The reference is what DIALS does for a page: rows of float8[][] read through psycopg, made Python
lists, and written by json.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import requests

import ml4ad
from ml4ad import Axis, HistogramStack, api, dqmio, ingest
from ml4ad.api.serve import server
from ml4ad.store import server as postgres

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
MAP = "PixelPhase1/Tracks/clusterposition_zphi"


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


def best(repeat, action):
    """Least seconds of several times, and the last result."""
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        value = action()
        taken.append(time.perf_counter() - began)
    return min(taken), value


def dials_page(url, stack):
    """As DIALS: one row per histogram, lists of floats, json."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS fact_th2 (ls_number int, data float8[][])")
        n = connection.execute("SELECT count(*) FROM fact_th2").fetchone()[0]
        values = stack.values().transpose(0, 2, 1)
        with connection.cursor() as cursor:
            for ls in range(n, len(stack)):
                row = (ls, values[ls].tolist())
                cursor.execute("INSERT INTO fact_th2 VALUES (%s, %s)", row)
        connection.commit()

        def read():
            rows = connection.execute("SELECT * FROM fact_th2 ORDER BY ls_number").fetchall()
            return len(json.dumps([{"ls_number": ls, "data": data} for ls, data in rows]))

        return best(1, read)[0]


def timed_get(url, headers):
    """Seconds to the first byte and to the last, and the body."""
    began = time.perf_counter()
    with requests.get(url, headers=headers, stream=True, timeout=120) as answer:
        answer.raise_for_status()
        chunks = answer.iter_content(1 << 16)
        first = next(chunks)
        at = time.perf_counter() - began
        body = first + b"".join(chunks)
    return at, time.perf_counter() - began, body


def peak_mb() -> float:
    """Most memory that this process has had."""
    # Of this process alone: what getrusage tells is inherited.
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def serve(url: str) -> None:
    """The server by itself, so that its memory is its own: prints its port, then its peak."""
    archive = ml4ad.connect(url)
    running = server(archive.engine, port=0)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    print(running.servers[0].sockets[0].getsockname()[1], f"{peak_mb():.0f}", flush=True)
    sys.stdin.read()
    print(f"{peak_mb():.0f}", flush=True)
    running.should_exit = True
    thread.join()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--maps", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3)
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
        key = api.create(archive.engine, "benchmark")
        command = [sys.executable, __file__, "--serve", url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:  # noqa: S603 (ourselves)
            port, before = process.stdout.readline().split()
            base = f"http://127.0.0.1:{port}/api"
            report(given, base, key, stack)
            after = process.communicate()[0].strip()
        print(f"memory of the server: {before} MB before, at most {after} MB")
        print(f"as DIALS (rows of float8[][], json): {dials_page(url, stack):.2f} s")


def report(given, base, key, stack) -> None:
    """Ask the running server, and print what came of it."""
    values = stack.values()
    for encoding in ("identity", "gzip"):
        headers = {"X-CLIENT-SECRET": key, "Accept-Encoding": encoding}
        address = f"{base}/v1/th2/?page_size={given.maps}"
        runs = [timed_get(address, headers) for _ in range(given.repeat)]
        first, whole, body = min(runs, key=lambda run: run[1])
        print(f"JSON page, {encoding}: first {first:.3f} s, all {whole:.2f} s, {len(body):,} bytes")
    began = time.perf_counter()
    rows = json.loads(body)["results"]
    arrays = np.array([row["data"] for row in rows])
    slow = whole + time.perf_counter() - began
    assert np.array_equal(arrays, values.transpose(0, 2, 1))
    print(f"JSON page to an array: {slow:.2f} s")

    def arrow(compression):
        query = {"me": MAP, "run_number": 1, "dataset": DATASET, "compression": compression}
        answer = requests.get(f"{base}/v2/stack", query, headers=headers, timeout=60)
        answer.raise_for_status()
        table = pa.ipc.open_stream(io.BytesIO(answer.content)).read_all()
        parts = [part.flatten().to_numpy() for part in table["contents"].chunks]
        return np.concatenate(parts).reshape(len(table), 202, 302)[:, 1:-1, 1:-1]

    for compression in ("none", "zstd"):
        fast, contents = best(given.repeat, lambda how=compression: arrow(how))
        assert np.array_equal(contents, values.transpose(0, 2, 1))
        told = f"{slow / fast:.0f} times faster than JSON"
        print(f"Arrow ({compression}) to an array: {fast:.3f} s, {told}")
    for name in ("file-index", "run", "lumisection"):
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            requests.get(f"{base}/v1/{name}/", headers=headers, timeout=60).raise_for_status()
            taken.append(time.perf_counter() - began)
        print(f"{name}: median {1000 * np.median(taken):.1f} ms")


if __name__ == "__main__":
    main()
