"""Moments that come again, written as in a crontab: minute, hour, day, month, day of the week."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# How far back `Cron.last` looks: 29 February comes every 4 years, or 8.
_YEARS_BACK = timedelta(days=8 * 366)

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

#: Field -> lowest and highest number, and the names that some numbers have.
_FIELDS: Mapping[str, tuple[int, int, Mapping[str, int]]] = {
    "minute": (0, 59, {}),
    "hour": (0, 23, {}),
    "day": (1, 31, {}),
    "month": (1, 12, {name: i + 1 for i, name in enumerate(_MONTHS)}),
    "day of the week": (0, 7, {name: i for i, name in enumerate(_DAYS)}),
}


@dataclass(frozen=True)
class Cron:
    """A crontab's five fields in a time zone; None stands for "*".

    Raises ValueError naming the field that is not understood. A day of the month and a day of the
    week together are refused: some read that as "and", some as "or".

    >>> Cron("*/15 8-9 * * mon-fri").calendar()
    'Mon,Tue,Wed,Thu,Fri *-*-* 08,09:00,15,30,45:00 UTC'
    """

    text: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(
                f"time zone {self.timezone!r}, want one such as Europe/Zurich"
            ) from error
        _, _, day, _, weekday = self.fields
        if day is not None and weekday is not None:
            raise ValueError(f"{self.text!r}: want a day of the month or of the week, not both")

    @property
    def fields(self) -> tuple[list[int] | None, ...]:
        """The numbers of each field, sorted; Sunday is 0."""
        plain = _ALIASES.get(self.text.strip().lower(), self.text).lower()
        words = plain.split()
        if len(words) != len(_FIELDS):
            raise ValueError(
                f"{self.text!r}: want 5 fields (minute, hour, day, month, day of the week), "
                f"or one of {', '.join(_ALIASES)}"
            )
        return tuple(_numbers(word, name) for word, name in zip(words, _FIELDS, strict=True))

    @property
    def plain(self) -> str:
        """Five fields, as every cron understands them."""
        return _ALIASES.get(self.text.strip().lower(), self.text)

    def trigger(self) -> CronTrigger:
        """APScheduler's trigger of these moments."""
        minute, hour, day, month, weekday = self.fields
        # APScheduler counts days from Monday.
        weekday = None if weekday is None else sorted((number - 1) % 7 for number in weekday)
        names = ("minute", "hour", "day", "month", "day_of_week")
        wanted = zip(names, (minute, hour, day, month, weekday), strict=True)
        given = {name: "*" if own is None else _listed(own) for name, own in wanted}
        return CronTrigger(timezone=self.timezone, **given)

    def between(self, after: datetime, until: datetime, most: int = 10_000) -> list[datetime]:
        """Moments later than ``after`` and not later than ``until``, at most ``most`` of them."""
        trigger = self.trigger()
        found: list[datetime] = []
        at = trigger.get_next_fire_time(after, after)
        while at is not None and at <= until and len(found) < most:
            found.append(at)
            at = trigger.get_next_fire_time(at, at)
        return found

    def next(self, now: datetime) -> datetime | None:
        """The first moment after ``now``; None for one that never comes (30 February)."""
        trigger = self.trigger()
        # A clock time that is left out in spring still comes, when the clocks have gone past it.
        earlier = now - timedelta(hours=2)
        at = trigger.get_next_fire_time(earlier, earlier)
        while at is not None and at.astimezone(UTC) <= now.astimezone(UTC):
            at = trigger.get_next_fire_time(at, at)
        return at

    def last(self, now: datetime) -> datetime | None:
        """The latest moment that is not after ``now``; None for one that never came.

        >>> Cron("5 * * * *").last(datetime.fromisoformat("2024-05-01T10:04:59+00:00")).isoformat()
        '2024-05-01T09:05:00+00:00'
        """
        ago = range(int(_YEARS_BACK.total_seconds()))

        def comes_by_now(seconds: int) -> bool:
            at = self.next(now - timedelta(seconds=seconds))
            return at is not None and at <= now

        nearest = bisect_left(ago, True, key=comes_by_now)
        return self.next(now - timedelta(seconds=nearest)) if nearest < len(ago) else None

    def calendar(self) -> str:
        """The same for systemd: ``OnCalendar=``."""
        minute, hour, day, month, weekday = self.fields
        days = "" if weekday is None else ",".join(_DAYS[i].title() for i in weekday) + " "
        date = f"*-{_listed(month, 2)}-{_listed(day, 2)}"
        return f"{days}{date} {_listed(hour, 2)}:{_listed(minute, 2)}:00 {self.timezone}"


def _listed(numbers: list[int] | None, width: int = 1) -> str:
    return "*" if numbers is None else ",".join(f"{number:0{width}d}" for number in numbers)


def _numbers(word: str, field: str) -> list[int] | None:
    low, high, names = _FIELDS[field]
    if word == "*":
        return None
    found: set[int] = set()
    for part in word.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        try:
            start = low if span == "*" else _number(first, names)
            if span == "*" or (step and not dash):
                end = high - (field == "day of the week")
            else:
                end = _number(last, names) if dash else start
            every = int(step) if "/" in part else 1
        except ValueError as error:
            raise ValueError(f"{field} {word!r}: {part!r} is not understood") from error
        if not low <= start <= end <= high or every < 1:
            raise ValueError(f"{field} {word!r}: want numbers from {low} to {high}, rising")
        found.update(range(start, end + 1, every))
    if field == "day of the week":
        found = {number % 7 for number in found}
    return sorted(found)


def _number(text: str, names: Mapping[str, int]) -> int:
    return names[text] if text in names else int(text)
