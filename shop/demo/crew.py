"""The processes of the demo, the workers first: started as anybody would start them, and started again when they die."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.processes import SERVER_MARK

STOP_S = 20.0
RESTART_S = 0.5
TAIL = 12


@dataclass(slots=True)
class Member:
    """One process: the present one, and how often it had to be started again.

    Attributes:
        title: what people are told.
        mark: names its log, and the process to `downriver stack down`.
        arguments: of `downriver`.
    """

    title: str
    mark: str
    arguments: Sequence[str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    ends: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self.process.pid if self.process and self.process.returncode is None else None


class Crew:
    """Keeps one worker for each sink running, and what else is asked for.

    Args:
        others: name → arguments of `downriver`.
        logs: the folder for worker-<sink>.log and <other>.log.
        marks: put into the workers' environment, so that `downriver stack down` finds them whatever happens to us.
        tell: hears of every death and restart.
    """

    def __init__(
        self,
        sinks: Sequence[str],
        logs: Path,
        marks: Mapping[str, str],
        tell: Callable[[str], None],
        others: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.members = {
            sink: Member(f"worker {sink}", f"worker-{sink}", ("worker", sink), logs / f"worker-{sink}.log")
            for sink in sinks
        }
        self._others = [Member(name, name, own, logs / f"{name}.log") for name, own in (others or {}).items()]
        self._marks = marks
        self._tell = tell
        self._stopping = False
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every process and keep watch."""
        for member in self._all:
            member.log.parent.mkdir(parents=True, exist_ok=True)
            member.log.unlink(missing_ok=True)
            await self._spawn(member)
            self._watchers.append(asyncio.create_task(self._watch(member)))

    @property
    def _all(self) -> list[Member]:
        return [*self.members.values(), *self._others]

    async def _spawn(self, member: Member) -> None:
        with member.log.open("ab") as output:
            member.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "downriver.cli",
                *member.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._marks, SERVER_MARK: member.mark},
                start_new_session=True,  # Ctrl-C is ours to hear: workers stop after the comparison, in order
            )

    async def _watch(self, member: Member) -> None:
        while True:
            assert member.process is not None  # noqa: S101  # started before it is watched
            code = await member.process.wait()
            if self._stopping:
                return
            end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            member.ends.append(end)
            member.restarts += 1
            self._tell(f"{member.title} ended ({end}); started again")
            await asyncio.sleep(RESTART_S if member.restarts < 5 else 5.0)
            await self._spawn(member)

    def release(self) -> None:
        """Leave them running on their own."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()

    async def stop(self) -> None:
        """Stop every process in order; one that does not listen is killed."""
        self._stopping = True
        running = [member.process for member in self._all if member.pid is not None]
        for process in running:
            if process is not None and process.returncode is None:
                process.terminate()
        for process in running:
            if process is None:
                continue
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def tail(self, sink: str) -> str:
        """Return the last lines of a worker's log."""
        try:
            return "\n".join(self.members[sink].log.read_text(errors="replace").splitlines()[-TAIL:])
        except OSError:
            return ""
