"""From p-values to incidents: what a shifter is told once, with beginning and end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ml4ad.detect.base import Explanation


@dataclass(frozen=True)
class Incident:
    """Consecutive strange lumisections of a run, in one element or in several at a time.

    ``last_ls`` is the last strange one; ``peak_ls`` that with the smallest p-value, of the first of
    ``elements``. ``log10_p`` is that p-value. ``explanation`` is of that lumisection and element.
    """

    run_number: int
    first_ls: int
    last_ls: int
    peak_ls: int
    log10_p: float
    elements: tuple[str, ...]
    open: bool = False
    explanation: Explanation | None = None

    def __str__(self) -> str:
        span = f"LS {self.first_ls}" + (
            f" to {self.last_ls}" if self.last_ls > self.first_ls else ""
        )
        more = len(self.elements) - 1
        beside = f" (and {more} more element{'s' if more > 1 else ''})" if more else ""
        what = self.explanation.sentence if self.explanation else self.elements[0]
        return f"run {self.run_number}, {span}: {what}{beside}"


def of_element(
    me: str,
    run_number: int,
    ls_numbers: ArrayLike,
    log10_p: ArrayLike,
    alpha: float,
    *,
    close_after: int = 5,
) -> list[Incident]:
    """Incidents of one element in one run, in order.

    One opens at p < ``alpha`` and closes after ``close_after`` lumisections in a row with p above
    10 ``alpha``. What is not assessed (NaN) neither holds open nor closes. ``open`` says that the
    data ended before it closed.

    >>> [(i.first_ls, i.last_ls) for i in of_element("A", 1, range(9), [0,-5,-1,0,0,0,0,0,0], 1e-3)]
    [(1, 1)]
    """
    numbers = np.asarray(ls_numbers, dtype=np.int64)
    logs = np.asarray(log10_p, dtype=np.float64)
    if numbers.shape != logs.shape:
        raise ValueError(f"{len(logs)} p-values for {len(numbers)} lumisections")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha}, want between 0 and 1")
    start, hold = np.log10(alpha), np.log10(alpha) + 1
    found: list[Incident] = []
    current: list[int] = []
    quiet = 0
    for i in range(len(numbers)):
        if np.isnan(logs[i]):
            continue
        if current and logs[i] < hold:
            current.append(i)
            quiet = 0
        elif current:
            quiet += 1
            if quiet >= close_after:
                found.append(_incident(me, run_number, numbers, logs, current))
                current = []
        elif logs[i] < start:
            current, quiet = [i], 0
    if current:
        found.append(replace(_incident(me, run_number, numbers, logs, current), open=True))
    return found


def _incident(
    me: str, run_number: int, numbers: np.ndarray, logs: np.ndarray, rows: Sequence[int]
) -> Incident:
    peak = min(rows, key=lambda i: logs[i])
    return Incident(
        run_number=int(run_number),
        first_ls=int(numbers[rows[0]]),
        last_ls=int(numbers[rows[-1]]),
        peak_ls=int(numbers[peak]),
        log10_p=float(logs[peak]),
        elements=(me,),
    )


def merged(incidents: Iterable[Incident]) -> list[Incident]:
    """Incidents of a run that overlap in lumisections as one; the strangest element leads.

    Elements share faults: a shifter is told of the fault once.
    """
    out: list[Incident] = []
    for incident in sorted(incidents, key=lambda i: (i.run_number, i.first_ls, i.last_ls)):
        last = out[-1] if out else None
        if last and last.run_number == incident.run_number and incident.first_ls <= last.last_ls:
            lead, other = sorted((last, incident), key=lambda i: i.log10_p)
            out[-1] = replace(
                lead,
                first_ls=last.first_ls,
                last_ls=max(last.last_ls, incident.last_ls),
                elements=tuple(dict.fromkeys((*lead.elements, *other.elements))),
                open=last.open or incident.open,
            )
        else:
            out.append(incident)
    return out
