"""Many items at once, each in a process of its own: one that is killed takes only its item with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TypeVar

T = TypeVar("T")
READY = "ready"
STOP_SECONDS = 30
"""What the workers get to end a step, and a checkpoint they are writing, when they are stopped."""


def each(
    function: Callable[[T], object],
    items: Iterable[T],
    environments: list[dict[str, str]],
    *,
    minutes: float | None = None,
) -> Iterator[tuple[T, str | None]]:
    """Call a function for every item, in as many spawned processes as there are environments.

    A process serves one item after the other, under its own environment variables. Leaving the
    iteration, by an error or Ctrl-C too, ends the processes; they also end if this one is killed.

    Args:
        function: called for its effect, in a worker; must be importable there by name.
        items: what to call it with; started in this order.
        environments: environment variables of each worker.
        minutes: after this time no item is started and those under way are ended, with SIGTERM and,
            `STOP_SECONDS` later, SIGKILL.

    Yields:
        Each item as it ends, with None or the reason why it failed. Items that the time did not
        suffice for are not yielded.

    Raises:
        RuntimeError: a worker could not be started at all.
    """
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    pending, vacant = deque(items), deque(environments)
    idle: list[_Worker] = []
    busy: dict[Connection, _Worker] = {}
    try:
        while True:
            while pending and (idle or vacant) and time.monotonic() < deadline:
                worker = idle.pop() if idle else _Worker(function, vacant.popleft())
                busy[worker.connection] = worker
                worker.start(pending.popleft())
            if not busy:
                return
            seconds = None if minutes is None else max(0.0, deadline - time.monotonic())
            if not (answered := wait(list(busy), seconds)):
                return
            for connection in answered:
                worker = busy.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    answer = worker.cause_of_death()
                    vacant.append(worker.environment)
                else:
                    if answer == READY:
                        worker.ready = True
                        busy[connection] = worker
                        continue
                    idle.append(worker)
                yield worker.item, answer
    finally:
        for worker in busy.values():
            worker.process.terminate()
        for worker in (everyone := [*idle, *busy.values()]):
            worker.connection.close()
        last = time.monotonic() + STOP_SECONDS
        for worker in everyone:
            worker.end(last - time.monotonic())


class _Worker:
    """One spawned process and the pipe to it."""

    def __init__(self, function: Callable, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.environment = environment
        self.ready = False
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs))
        with _environment(environment):
            self.process.start()
        theirs.close()

    def start(self, item) -> None:
        self.item = item
        # A worker that died meanwhile is noticed where its answer is awaited.
        with suppress(BrokenPipeError):
            self.connection.send(item)

    def cause_of_death(self) -> str:
        self.process.join()
        code = self.process.exitcode
        if not self.ready and code > 0:
            raise RuntimeError(
                "a worker process could not start; its error is printed above. A script must start its "
                "work under `if __name__ == '__main__':`, and what workers call must be importable by name"
            )
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"its process {how} before the run was finished"

    def end(self, seconds: float) -> None:
        self.process.join(max(0.0, seconds))
        self.process.kill()
        self.process.join()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables that a process started inside inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(function: Callable, connection: Connection) -> None:
    """The life of a worker: READY, then an item in, None or a traceback out, until the pipe is closed."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    connection.send(READY)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        error = None
        try:
            function(item)
        except Exception:
            error = traceback.format_exc()
        connection.send(error)


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
