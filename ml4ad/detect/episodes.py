"""From scores of many elements to the few things that went wrong in a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ml4ad.detect.incidents import Incident, of_element
from ml4ad.stack import Floats, Ints

#: Elements belong together that began within so many lumisections of each other.
ONSET_LS = 3


def find(
    run_number: int, ls_numbers: Ints, log_p: Mapping[str, Floats], log_alpha: float
) -> list[Incident]:
    """What went wrong in a run, the clearest first.

    ``log_p`` holds, by element, natural logarithms ``(n_ls,)``, NaN where not assessed. Each alarms
    as `of_element` says; alarms that belong together are one incident.
    """
    alarms = [
        alarm
        for me, own in log_p.items()
        if (own < log_alpha).any()
        for alarm in of_element(
            me, run_number, ls_numbers, own / np.log(10), float(np.exp(log_alpha))
        )
    ]
    return together(alarms)


def together(alarms: Iterable[Incident]) -> list[Incident]:
    """Alarms of a run as few incidents, the clearest first.

    Alarms that overlap are one if they began within 3 lumisections of each other, or share more
    than half of their time with the clearest. So a fault that lasts all run does not swallow
    another that comes and goes meanwhile.
    """
    groups: list[list[Incident]] = []
    for alarm in sorted(alarms, key=lambda own: (own.log10_p, own.elements, own.first_ls)):
        for group in groups:
            if _belongs(group[0], alarm):
                group.append(alarm)
                break
        else:
            groups.append([alarm])
    return [
        replace(
            group[0],
            first_ls=min(own.first_ls for own in group),
            last_ls=max(own.last_ls for own in group),
            elements=tuple(dict.fromkeys(me for own in group for me in own.elements)),
            open=any(own.open for own in group),
        )
        for group in groups
    ]


def _belongs(lead: Incident, other: Incident) -> bool:
    common = min(lead.last_ls, other.last_ls) - max(lead.first_ls, other.first_ls) + 1
    whole = max(lead.last_ls, other.last_ls) - min(lead.first_ls, other.first_ls) + 1
    began = abs(lead.first_ls - other.first_ls)
    return common > 0 and (began <= ONSET_LS or common > whole / 2)
