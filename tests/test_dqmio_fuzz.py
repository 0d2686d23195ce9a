"""Mutants of a DQMIO file are read, or refused by an error that says why; nothing else happens."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path

import pytest

from ml4ad import dqmio
from ml4ad.stack import KINDS

SMALL = Path(__file__).parent / "data" / "small14.root"
N_MUTANTS = int(os.environ.get("ML4AD_FUZZ_MUTANTS", "1000"))
# No part of a file of 100 kB needs as much; an unbounded allocation takes more at once.
ROOM = 1 << 30
WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\x40\0\0\0")


@pytest.fixture(scope="module")
def uncompressed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same content without compression: a mutation of it reaches every parser."""
    path = tmp_path_factory.mktemp("fuzz") / "plain.root"
    with dqmio.open(SMALL) as file:
        dqmio.write(path, list(file.stacks()), scalars=file.scalars(), compression="none", seed=1)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def bounded_memory():
    """A limit on what the process may allocate beyond what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def mutant(data: bytes, rng: random.Random) -> bytes:
    """Data with a few bytes, a word or a whole part changed, or cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(out))
        way = rng.randrange(6)
        if way == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            out[at] = rng.randrange(256)
        elif way == 2:
            out[at : at + 4] = rng.choice(WORDS)
        elif way == 3:
            other, n = rng.randrange(len(out)), rng.randrange(1, 200)
            out[at : at + n] = out[other : other + n]
        elif way == 4:
            out[at : at + rng.randrange(1, 50)] = b""
        elif rng.random() < 0.1:
            del out[at:]
    return bytes(out) or b"r"


def read(path: Path, on_error: str, kinds: list[str]) -> int:
    """Number of histograms of some kinds and, if there are few, of scalars read."""
    with dqmio.open(path) as file:
        n_read = sum(len(stack) for stack in file.stacks(kinds=kinds, on_error=on_error))
        if len(kinds) < 2:
            n_read += len(file.scalars(on_error=on_error)) + len(file.elements)
            assert isinstance(file.release + file.guid + file.uuid, str)
        return n_read


def check(data: bytes, path: Path, rng: random.Random) -> bool:
    """Whether the mutant could be read. Any other exception than the known ones is a failure."""
    path.write_bytes(data)
    try:
        kinds = rng.sample(list(KINDS), rng.randrange(1, 6))
        read(path, rng.choice(("raise", "skip")), kinds)
    except (dqmio.NotDQMIOError, dqmio.CorruptFileError, OSError):
        return False
    return True


@pytest.mark.slow
def test_every_mutant_is_read_or_refused(tmp_path: Path, uncompressed: bytes) -> None:
    rng = random.Random(20)  # noqa: S311 (nothing secret)
    original = SMALL.read_bytes()
    outcomes = []
    for i in range(N_MUTANTS):
        data = mutant(original if i % 2 else uncompressed, rng)
        path = tmp_path / "mutant.root"
        try:
            outcomes.append(check(data, path, rng))
        except BaseException:
            kept = os.environ.get("ML4AD_FUZZ_KEEP")
            if kept:
                Path(kept).write_bytes(data)
            raise
    # Both must occur, or the mutations say nothing.
    assert any(outcomes)
    assert not all(outcomes)
