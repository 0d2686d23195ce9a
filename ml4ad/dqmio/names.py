"""What names say: which elements a pattern means, and which dataset, era and run a path tells."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

#: A glob, a compiled regular expression, or several of these.
Pattern: TypeAlias = "str | re.Pattern[str] | Iterable[str | re.Pattern[str]]"


def prefix(text: str) -> re.Pattern[str]:
    """Pattern of all names that start with exactly ``text``; nothing in it is special.

    >>> matcher(prefix("EcalEndcap/EEOT [+"))("EcalEndcap/EEOT [+]/digis")
    True
    """
    return re.compile(r"\A" + re.escape(text))


def literal(text: str) -> re.Pattern[str]:
    """Pattern of the one name ``text``, whatever characters it holds."""
    return re.compile(r"\A" + re.escape(text) + r"\Z")


def matcher(pattern: Pattern) -> Callable[[str], bool]:
    """Test whether a name is meant by ``pattern``.

    A text is a glob of the whole name, in which only ``*`` (anything, ``/`` too) and ``?`` (one
    character) are special; a compiled regular expression is searched for; of several, one must
    match. Raises TypeError if it is something else.

    >>> matcher("*/charge_PXLayer_?")("PixelPhase1/Tracks/PXBarrel/charge_PXLayer_1")
    True
    """
    if isinstance(pattern, str):
        if pattern == "*":
            return lambda _: True
        if not re.search(r"[*?]", pattern):
            return pattern.__eq__
        found = re.compile(glob_to_regex(pattern)).match
        return lambda name: found(name) is not None
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.search(name) is not None
    if not isinstance(pattern, Iterable):
        raise TypeError(
            f"pattern {pattern!r}, want a glob, a compiled regular expression or several"
        )
    several = [matcher(one) for one in pattern]
    return lambda name: any(one(name) for one in several)


def spelled(pattern: Pattern) -> str:
    """The pattern as people write it.

    >>> spelled(re.compile("charge$")), spelled(["a*", "b"])
    ('charge$', 'a*, b')
    """
    if isinstance(pattern, str):
        return pattern
    return pattern.pattern if isinstance(pattern, re.Pattern) else ", ".join(map(spelled, pattern))


def near(wanted: Pattern, known: Sequence[str]) -> str:
    """Up to three of the ``known`` names that may have been meant, as part of a sentence.

    >>> near("PixelPhase1/*/chrge*", ["DT/occupancy", "PixelPhase1/Tracks/charge"])
    'near: PixelPhase1/Tracks/charge'
    """
    name = spelled(wanted)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if not close:
        # Only the last part of a name may be what is known of it.
        leaves: dict[str, str] = {name.rsplit("/", 1)[-1]: name for name in known}
        leaf = name.rsplit("/", 1)[-1]
        close = [leaves[n] for n in difflib.get_close_matches(leaf, leaves, n=3, cutoff=0.4)]
    return f"near: {', '.join(close or list(known)[:3])}"


def glob_to_regex(pattern: str) -> str:
    """Regular expression, for Python, of the names that the glob ``pattern`` means."""
    # The translation cannot be made to backtrack without end, as ``.*`` after ``.*`` could.
    return fnmatch.translate(pattern.replace("[", "[[]"))


@dataclass(frozen=True)
class Dataset:
    """The parts of a dataset's name; empty or 0 where the name does not tell them."""

    primary_dataset: str
    era: str
    processing: str
    version: int
    tier: str


_ERA = re.compile(r"(?:HI)?Run20\d\d[A-Z]")
_NAME = re.compile(r"/([^/\s]+)/([^/\s]+)/([^/\s]+)")
_PROCESSED = re.compile(r"([^-]+)-(.+)-v(\d+)")


def parse_dataset(name: str) -> Dataset:
    """Parts of a dataset's name; of a user's dataset the era that its text mentions, if any.

    Raises ValueError if it is not ``/primary/processed/TIER``.

    >>> parse_dataset("/ZeroBias/Run2022F-19Jan2023-v2/DQMIO").processing
    '19Jan2023'
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"dataset {name!r}, want /PrimaryDataset/ProcessedName/TIER")
    primary, processed, tier = parts.groups()
    told = _PROCESSED.fullmatch(processed)
    if told is None or tier == "USER":
        return Dataset(primary, era_from_path(processed), processed, 0, tier)
    return Dataset(primary, told[1], told[2], int(told[3]), tier)


def era_from_path(path: str) -> str:
    """Era such as ``Run2024F`` or ``HIRun2023A`` that a path or name mentions first, or "".

    >>> era_from_path("/store/hidata/HIRun2023A/HIForward0/DQMIO/PromptReco-v2/000/374/810/x.root")
    'HIRun2023A'
    """
    found = _ERA.search(path)
    return found[0] if found else ""


# <kind>/<era>/<primary>/<TIER>/<processing>-vN below "store", as written by CMS's production.
_KINDS = r"(?:backfill/\d+/)?(?:data|express|hidata|hiexpress|mc|relval|t0streamer|unmerged|himc)"
_LFN = re.compile(rf"(?:^|/)store/{_KINDS}/([^/]+)/([^/]+)/([A-Z][A-Z0-9-]+)/([^/]+-v\d+)/")
# The same with each / as _; a processing may itself hold _, a primary dataset does not.
_FLAT = re.compile(
    rf"(?:^|[/_])store_{_KINDS.replace('/', '_')}"
    r"_([^/_]+)_([^/_]+)_([A-Z][A-Z0-9-]+)_([^/]+?-v\d+)_"
)
# .../<user>/<primary>/<tag>/<yymmdd_hhmmss>/<0000>/<file>, as CRAB writes.
_CRAB = re.compile(
    r"(?:^|/)store/(?:user|group/[^/]+(?:/[^/]+)*?)/([^/]+)/([^/]+)/([^/]+)/\d{6}_\d{6}/\d{4}/[^/]+$"
)
_GUI = re.compile(r"DQM_V\d+_R(\d{9})__([^/]+?)__([^/]+?)__([^/_]+)\.root$")
_RUN = re.compile(r"([/_])000\1(\d{3})\1(\d{3})\1")


def dataset_from_path(path: str) -> str:
    """Dataset that a logical file name, a flattened copy of it or a user's path tells, or "".

    The name of a user's dataset ends in a hash that its path does not hold; it is left out.

    >>> dataset_from_path("/eos/cms/store/data/Run2022A/ZeroBias/DQMIO/19Jan2023-v2/30000/a.root")
    '/ZeroBias/Run2022A-19Jan2023-v2/DQMIO'
    """
    gui = _GUI.search(path)
    if gui:
        return f"/{gui[2]}/{gui[3]}/{gui[4]}"
    told = _LFN.search(path) or _FLAT.search(path)
    if told:
        era, primary, tier, processing = told.groups()
        return f"/{primary}/{era}-{processing}/{tier}"
    user = _CRAB.search(path)
    if user:
        return f"/{user[2]}/{user[1]}-{user[3]}/USER"
    return ""


def run_from_path(path: str) -> int | None:
    """Run number that a path tells (``/000/382/255/``), or None: a file can hold many runs.

    >>> run_from_path("/store/data/Run2024F/EGamma0/DQMIO/PromptReco-v1/000/382/255/00000/a.root")
    382255
    """
    gui = _GUI.search(path)
    if gui:
        return int(gui[1])
    told = _RUN.search(path)
    return int(told[2] + told[3]) if told else None
