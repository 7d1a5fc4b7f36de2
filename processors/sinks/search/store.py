"""One index as a set of documents that are state: read, fold, write under a condition, and again if someone was faster.

Knows versions of nothing: what a command means is the fold's business. Never sleeps: what must wait is a verdict RETRY.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from processors.sinks.base import SinkUnavailable, Verdict, rejected, retry
from processors.sinks.search.client import Answer, Elastic, Refused, Write
from processors.sinks.search.document import Folded
from processors.sinks.search.recent import Held, Recent
from processors.sinks.search.refresh import Refresher

CHUNK_DOCUMENTS = 500
"""In one request. Folding them takes some 8 ms, and IN_FLIGHT times that is the longest that the event loop is held up;
several requests in flight beat bigger ones."""
CHUNK_BYTES = 8 * 2**20
"""Of one bulk request, but for a single document that is larger."""
IN_FLIGHT = 4
"""Chunks of one index at the same time, of all batches together."""
ENOUGH = 100
"""Documents in one read: if none of so many is there, the next ones are taken for new."""
TRIES = 16
"""Of one document. Each lost try means that another writer won, so this many in a row is no accident: RETRY."""


class Addressed(Protocol):
    """A command that knows its document."""

    @property
    def document(self) -> str:
        """The document's id."""


C = TypeVar("C", bound=Addressed)
T = TypeVar("T")


@dataclass(slots=True)
class _Group(Generic[C]):
    """Commands of one document that are folded into one write: their places in the batch, and themselves."""

    document: str
    places: list[int] = field(default_factory=list)
    commands: list[C] = field(default_factory=list)
    tries: int = 0

    def halves(self) -> list[_Group[C]]:
        middle = len(self.places) // 2
        return [
            _Group(self.document, self.places[:middle], self.commands[:middle]),
            _Group(self.document, self.places[middle:], self.commands[middle:]),
        ]


@dataclass(slots=True)
class _Try(Generic[C]):
    """One write of one group, and the verdicts that hold if it succeeds."""

    group: _Group[C]
    verdicts: Sequence[Verdict]
    write: Write


class Documents(Generic[C]):
    """The documents of one concrete index.

    Several `apply()` may run at once, here and in other processes: of two writes to one document one wins, the other
    reads it back and folds again.
    """

    def __init__(
        self,
        elastic: Elastic,
        index: str,
        fold: Callable[[str, bytes | None, Sequence[C]], Folded],
        recent_bytes: int,
    ) -> None:
        self.index = index
        self.refresher = Refresher(self._refresh)
        self._elastic = elastic
        self._fold = fold
        self._recent_bytes = recent_bytes
        self._recent = Recent(recent_bytes)
        self._uuid: str | None = None
        self._all_new = False
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)

    async def apply(self, commands: Sequence[C]) -> list[Verdict]:
        """Fold the commands into their documents and return one verdict each.

        Raises:
            SinkUnavailable: a request as a whole found no answer; some documents may be written.
            Refused: a request as a whole was refused for its content.
        """
        await self._same_index()
        groups: dict[str, _Group[C]] = {}
        for place, command in enumerate(commands):
            group = groups.setdefault(command.document, _Group(command.document))
            group.places.append(place)
            group.commands.append(command)
        verdicts: dict[int, Verdict] = {}
        pending = list(groups.values())
        try:
            while pending:
                now, later = _one_each(pending)
                again = await _all(
                    [self._write(now[i : i + CHUNK_DOCUMENTS], verdicts) for i in range(0, len(now), CHUNK_DOCUMENTS)]
                )
                pending = [group for groups_ in again for group in groups_] + later
        finally:
            self.refresher.wrote()
        return [verdicts[place] for place in range(len(commands))]

    async def read(self, documents: Sequence[str]) -> dict[str, Held]:
        """Return those of `documents` that exist: as known from here, else as the index holds them now."""
        recent = self._recent
        found = {document: held for document in documents if (held := recent.get(document)) is not None}
        missing = [document for document in documents if document not in found]
        chunks = [missing[i : i + CHUNK_DOCUMENTS] for i in range(0, len(missing), CHUNK_DOCUMENTS)]
        for read in await _all([self._elastic.read(self.index, chunk) for chunk in chunks]):
            for document, held in read.items():
                recent.put(document, held)
            found |= read
        return found

    async def _refresh(self) -> None:
        try:
            await self._elastic.refresh(self.index)
        except Refused as error:
            raise SinkUnavailable(str(error)) from error

    async def _write(self, groups: Sequence[_Group[C]], verdicts: dict[int, Verdict]) -> list[_Group[C]]:
        """Try each group once; note the verdicts that are final and return the groups to try again."""
        # held while folding too: else every chunk of a batch is folded before the loop comes to anything else
        async with self._in_flight:
            return await self._write_chunk(groups, verdicts)

    async def _write_chunk(self, groups: Sequence[_Group[C]], verdicts: dict[int, Verdict]) -> list[_Group[C]]:
        recent = self._recent
        held = await self._held(groups)
        tries: list[_Try[C]] = []
        for group in groups:
            before = held.get(group.document)
            folded = self._fold(group.document, before.source if before else None, group.commands)
            if folded.source is None:
                verdicts.update(zip(group.places, folded.verdicts, strict=True))
            else:
                tries.append(_Try(group, folded.verdicts, Write(group.document, before, folded.source)))
        again: list[_Group[C]] = []
        for part in _by_bytes(tries):
            answers = await self._elastic.write(self.index, [tried.write for tried in part])
            for tried, answer in zip(part, answers, strict=True):
                if answer.held is not None:
                    recent.put(tried.group.document, answer.held)
                elif answer.status == 409:
                    self._all_new = False
                    recent.refute(tried.group.document, tried.write.held)
                again += _settle(tried, answer, verdicts)
        return again

    async def _held(self, groups: Sequence[_Group[C]]) -> dict[str, Held]:
        """Return what the documents are now; while all are new, take those that are not known here for new ones.

        A replay into a new index need not ask for documents that are not there. Where one is, its create is refused,
        and the next try reads it.
        """
        known = {group.document: held for group in groups if (held := self._recent.get(group.document)) is not None}
        unknown = [group for group in groups if group.document not in known]
        if self._all_new and not any(group.tries for group in unknown):
            return known
        asked = [group.document for group in unknown]
        found = await self.read(asked)
        if len(asked) >= ENOUGH:
            self._all_new = not found
        return known | found

    async def _same_index(self) -> None:
        """Forget the recent documents if the index was replaced: the same sequence numbers mean other content there."""
        try:
            answer = await self._elastic.request("GET", f"/{self.index}/_settings/index.uuid")
        except Refused as error:
            msg = f"the index {self.index} is gone ({error}): start the worker again to create it, then repair search"
            raise SinkUnavailable(msg) from error
        uuid = answer[self.index]["settings"]["index"]["uuid"]
        if uuid != self._uuid:
            # a new one, not a cleared one: a write under way still notes what it wrote in the old one
            self._recent = Recent(self._recent_bytes)
            self._all_new = False
            self._uuid = uuid


def _settle(tried: _Try[C], answer: Answer, verdicts: dict[int, Verdict]) -> list[_Group[C]]:
    """Note what the answer means for the commands that were tried; return the groups to try again."""
    group = tried.group
    if answer.held is not None:
        verdicts.update(zip(group.places, tried.verdicts, strict=True))
        return []
    group.tries += 1
    if answer.status == 409 and group.tries < TRIES:
        return [group]
    if answer.status == 400 and len(group.places) > 1:  # one command is at fault: it must not take the others down
        return group.halves()
    verdict = rejected(answer.reason) if answer.status == 400 else retry(f"status {answer.status}: {answer.reason}")
    verdicts.update(dict.fromkeys(group.places, verdict))
    return []


def _one_each(groups: Sequence[_Group[C]]) -> tuple[list[_Group[C]], list[_Group[C]]]:
    """Return the first group of every document, and the rest: two writes of one document at once would conflict."""
    first: dict[str, _Group[C]] = {}
    rest = [group for group in groups if first.setdefault(group.document, group) is not group]
    return list(first.values()), rest


def _by_bytes(tries: Sequence[_Try[C]]) -> Iterator[list[_Try[C]]]:
    """Cut into requests of at most CHUNK_BYTES."""
    part: list[_Try[C]] = []
    size = 0
    for tried in tries:
        length = len(tried.write.source)
        if part and size + length > CHUNK_BYTES:
            yield part
            part, size = [], 0
        part.append(tried)
        size += length
    if part:
        yield part


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all of it, wait for all of it, then raise the first error: nothing goes on behind the caller's back."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
