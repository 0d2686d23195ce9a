"""Finds DQMIO files and takes them in: one file is one transaction, and twice is once."""

from ml4ad.ingest.catalogue import Found, index
from ml4ad.ingest.find import Location, locations
from ml4ad.ingest.forget import forget_dataset, forget_file, known_path
from ml4ad.ingest.parallel import ingest_parallel
from ml4ad.ingest.queue import enqueue, errors, in_turn, ingest, release_orphans, retry, states
from ml4ad.ingest.shown import shown
from ml4ad.ingest.take import Ingested, Told, as_it_is, ingest_file
from ml4ad.ingest.watch import Arrivals, watch

__all__ = [
    "Arrivals",
    "Found",
    "Ingested",
    "Location",
    "Told",
    "as_it_is",
    "enqueue",
    "errors",
    "forget_dataset",
    "forget_file",
    "in_turn",
    "index",
    "ingest",
    "ingest_file",
    "ingest_parallel",
    "known_path",
    "locations",
    "release_orphans",
    "retry",
    "shown",
    "states",
    "watch",
]
