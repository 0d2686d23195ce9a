"""What the schedule starts: a job, as JSON on standard input, run in this process."""

from __future__ import annotations

import json
import sys
from datetime import datetime

from ml4ad import pipelines


def main() -> int:
    """Exit code; the last line that is printed says what came of it."""
    order = json.load(sys.stdin)
    origin = pipelines.Origin(
        job=order["job"], planned_at=datetime.fromisoformat(order["planned_at"])
    )
    try:
        records = pipelines.chain(
            order["parameters"],
            steps=order["notebooks"],
            timeout_s=order["timeout_s"],
            origin=origin,
        )
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 (the keeper reads it)
        return 1
    print(records[-1])  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
