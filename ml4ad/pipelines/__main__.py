"""What a schedule or a page starts: an order, as JSON on standard input, run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ml4ad import pipelines


def main() -> int:
    """Exit code; the last line that is printed says what came of it."""
    try:
        last = _obey(json.load(sys.stdin))
    except (RuntimeError, LookupError, ValueError, OSError) as error:
        # A KeyError's own text is quoted.
        said = error.args[0] if isinstance(error, KeyError) else error
        print(said, file=sys.stderr)  # noqa: T201 (whoever gave the order reads it)
        return 1
    print(last)  # noqa: T201
    return 0


def _obey(order: Mapping[str, Any]) -> pipelines.Record:
    """Record of the last run: of ``rerun``, a number, or of ``notebooks`` one after the other."""
    if "rerun" in order:
        return pipelines.rerun(order["rerun"])
    planned = order.get("planned_at")
    origin = pipelines.Origin(
        job=order["job"], planned_at=datetime.fromisoformat(planned) if planned else None
    )
    return pipelines.chain(
        order["parameters"],
        steps=order["notebooks"],
        timeout_s=order["timeout_s"],
        origin=origin,
    )[-1]


if __name__ == "__main__":
    sys.exit(main())
