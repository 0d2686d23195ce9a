"""From p-values of many elements and lumisections to the few things that went wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml4ad.stack import Floats, Ints

#: An alarm ends after so many lumisections in a row above ten times the p-value that opened it.
QUIET_LS = 5
_HYSTERESIS = float(np.log(10))
#: Elements belong together that began within so many lumisections of each other.
_ONSET_LS = 3


@dataclass(frozen=True)
class Episode:
    """Columns ``first`` to ``last`` in which ``rows`` alarm, clearest first.

    ``peak`` is the column in which the first of the rows is least probable; ``open`` says that it
    is not over; ``n_flagged`` counts pairs below the threshold.
    """

    rows: tuple[int, ...]
    first: int
    last: int
    peak: int
    open: bool
    n_flagged: int


@dataclass(frozen=True)
class _Alarm:
    row: int
    first: int
    last: int
    peak: int
    open: bool
    n_flagged: int
    least: float


def find(log_p: Floats, ls_numbers: Ints, log_alpha: float) -> list[Episode]:
    """What went wrong in a run, clearest first.

    ``log_p`` is ``(n_rows, n_ls)``, NaN where not assessed, which neither opens nor ends anything.
    Alarms of one row open below ``log_alpha``, and close when p stays above ten times that for 5
    lumisections. Those of several rows that began together, or share most of their time, are one.
    """
    alarms = [alarm for i, own in enumerate(log_p) for alarm in _alarms(i, own, log_alpha)]
    alarms.sort(key=lambda alarm: (alarm.least, alarm.row, alarm.first))
    groups: list[list[_Alarm]] = []
    for alarm in alarms:
        for group in groups:
            if _together(group[0], alarm, ls_numbers):
                group.append(alarm)
                break
        else:
            groups.append([alarm])
    return [_episode(group) for group in groups]


def _alarms(row: int, log_p: Floats, log_alpha: float) -> list[_Alarm]:
    found = []
    flagged = log_p < log_alpha
    loud = log_p < log_alpha + _HYSTERESIS
    seen = np.flatnonzero(~np.isnan(log_p))
    at = 0
    while at < len(seen):
        if not flagged[seen[at]]:
            at += 1
            continue
        first = last = at
        while at < len(seen) and at - last <= QUIET_LS:
            if loud[seen[at]]:
                last = at
            at += 1
        columns = seen[first : last + 1]
        over = len(seen) - 1 - last >= QUIET_LS
        least = int(columns[np.argmin(log_p[columns])])
        n_flagged = int(flagged[columns].sum())
        found.append(_Alarm(row, columns[0], columns[-1], least, not over, n_flagged, log_p[least]))
    return found


def _together(first: _Alarm, second: _Alarm, ls_numbers: Ints) -> bool:
    if second.first > first.last or first.first > second.last:
        return False
    onset = abs(int(ls_numbers[second.first]) - int(ls_numbers[first.first]))
    common = min(first.last, second.last) - max(first.first, second.first) + 1
    whole = max(first.last, second.last) - min(first.first, second.first) + 1
    return onset <= _ONSET_LS or common > whole / 2


def _episode(group: list[_Alarm]) -> Episode:
    return Episode(
        rows=tuple(dict.fromkeys(alarm.row for alarm in group)),
        first=int(min(alarm.first for alarm in group)),
        last=int(max(alarm.last for alarm in group)),
        peak=group[0].peak,
        open=any(alarm.open for alarm in group),
        n_flagged=sum(alarm.n_flagged for alarm in group),
    )
