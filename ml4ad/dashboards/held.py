"""Stacks that a page has looked at lately, and what identifies them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml4ad.stack import HistogramStack

if TYPE_CHECKING:
    from ml4ad.archive import Archive

#: Bytes of stacks that a page keeps; the last one is kept whatever its size.
MOST_BYTES = 100_000_000


@dataclass(frozen=True)
class Key:
    """One element of one run of one dataset."""

    me: str
    dataset: str
    run_number: int


class Held:
    """Stacks by key, read when they are first asked for; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._stacks: OrderedDict[Key, HistogramStack] = OrderedDict()

    def get(self, archive: Archive, key: Key) -> HistogramStack:
        """The stack; raises what `Archive.stack` raises."""
        if key in self._stacks:
            self._stacks.move_to_end(key)
            return self._stacks[key]
        stack = archive.stack(key.me, key.run_number, key.dataset)
        self._stacks[key] = stack
        while len(self._stacks) > 1 and self.nbytes > MOST_BYTES:
            self._stacks.popitem(last=False)
        return stack

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held."""
        return sum(stack.nbytes for stack in self._stacks.values())

    def forget(self) -> None:
        """Let all go: the archive has news."""
        self._stacks.clear()
