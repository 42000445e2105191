"""Where the cycles of a unit went: each is busy, waiting for data, queue or issue, or idle."""

from __future__ import annotations

from dataclasses import dataclass, field

from .contract import Entry, Stalls


@dataclass(slots=True)
class Account:
    """The cycles of one unit of one core in one stage, from cycle `since` on.

    What a unit waited for is known when it takes its next issue: until that was in the window, for
    the queue while that was full, else for issue; until it was ready, for data; until it was held
    for want of a port, for issue again; until it started, for the memory with the ports.

    full    cycles in which the window was full, before cycle `since`
    """

    core: int
    unit: str
    instance: int
    since: int
    full: int = 0
    busy: int = 0
    queue: int = 0
    issue: int = 0
    data: dict[str, int] = field(default_factory=dict)

    def start(self, entry: Entry, now: int, holder: str, scratchpad: str) -> None:
        """It takes `entry`, for whose data it waited for unit `holder` last, and for whose ports it
        waited for `scratchpad`."""
        since = self.since
        if since < now:
            fetched = min(max(entry.fetched, since), now)
            ready = min(max(entry.ready, fetched), now)
            queue = entry.full - self.full if fetched > since else 0
            self.queue += queue
            held = max(entry.held, ready) if entry.held >= 0 else now
            self.issue += fetched - since - queue + held - ready
            self.wait(holder, ready - fetched)
            self.wait(scratchpad, now - held)
        self.since = now

    def wait(self, name: str, cycles: int) -> None:
        if cycles:
            self.data[name] = self.data.get(name, 0) + cycles

    def end(self, now: int, work: int, memory: str, full: int) -> None:
        """It is free again: of the cycles since it started, `work` were work, and in the others it
        waited for the channel of `memory`. The window was full in `full` cycles so far."""
        work = min(work, now - self.since)  # a plugin's unit may be done sooner
        self.wait(memory, now - self.since - work)
        self.busy += work
        self.since, self.full = now, full

    def close(self, begin: int, end: int) -> Stalls:
        """All cycles from `begin` to `end`; those since it was last free are idle."""
        return Stalls(
            core=self.core,
            unit=self.unit,
            instance=self.instance,
            cycles=end - begin,
            busy=self.busy,
            data=dict(sorted(self.data.items())),
            queue=self.queue,
            issue=self.issue,
            idle=end - self.since,
        )
