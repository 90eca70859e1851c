"""Where work is done: here, or on Dask's workers, behind the standard ``concurrent.futures.Executor``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

RETRIES = 3  # of a chunk whose worker was lost
CONNECT = 30  # seconds that a scheduler may take to answer
LOOK = 5.0  # seconds after which it is asked again how many workers it has
_ALONE = threading.RLock()


class InProcess(Executor):
    """An executor that does the work when it is submitted, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do the work at once and return a future that is done: with the result, or with the exception that was raised."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def alone(call: Callable[..., Any], *args: Any) -> Any:
    """Call a function while no other thread of this process does so.

    Models, recorders and torch's number of threads belong to a process, so that two images at a time would spoil each other's maps on a worker that was
    started without ``--nthreads 1``.

    Args:
        call: Function that is called.
        args: Its arguments.
    """
    with _ALONE:
        return call(*args)


@contextmanager
def open_executor(workers: int = 0, scheduler: str = "") -> Iterator[tuple[Executor, Callable[[], int]]]:
    """Open an executor, with a function that says how many calls it can work on at once now: workers may join a scheduler later, or leave it.

    Args:
        workers: Number of workers of a Dask cluster on this machine, a process of one task each; 0 opens no cluster and works in this process.
        scheduler: Address of a Dask scheduler that is running already, e.g. "tcp://host:8786".

    Raises:
        ValueError: If both are given or `workers` is negative, or where Dask is not installed or the scheduler does not answer.
    """
    if workers < 0 or (workers and scheduler):
        raise ValueError(f"workers {workers}, scheduler {scheduler!r}: expected a number of workers, or an address, or neither")
    if not workers and not scheduler:
        yield InProcess(), lambda: 1
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError("Dask is not installed: pip install 'diffseg-lib[scale]', or leave --workers and --scheduler out") from error
    if scheduler:
        try:
            client = Client(scheduler, timeout=CONNECT)
        except (OSError, TimeoutError) as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler!r} ({error}): start one with 'dask scheduler'") from error
        with client:
            yield client.get_executor(pure=False, retries=RETRIES), lambda: max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        return
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50) as cluster, Client(cluster) as client:
        yield client.get_executor(pure=False, retries=RETRIES), lambda: workers


def finished(
    executor: Executor, call: Callable[..., Any], chunks: Iterable[tuple[Any, ...]], window: Callable[[], int]
) -> Iterator[tuple[tuple[Any, ...], Future[Any]]]:
    """Yield chunks with their futures as they are done; no more than `window` says are under way at a time, and in a process one at a time.

    Args:
        executor: Executor that does the work.
        call: Function that is called with a chunk's values.
        chunks: Arguments of each call; they are taken only when there is room.
        window: From nothing to the number of calls that may be under way now; it is asked again and again.
    """
    waiting: dict[Future[Any], tuple[Any, ...]] = {}
    left = iter(chunks)
    while True:
        room = window() - len(waiting)
        for chunk in islice(left, max(0, room)):
            waiting[executor.submit(alone, call, *chunk)] = chunk
        if not waiting:
            return
        for future in wait(waiting, LOOK, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future
