"""Ray actors: workers of a study on a Ray cluster of one or many machines.

1. An actor has a base of its own and as many processor cores as the study has threads, and one GPU
   where the study computes on `cuda`. It does what every worker does (`running.work`): Ray places
   it, files and claims decide who does what.
2. One that dies (killed, out of memory, its machine gone) costs the time since the last checkpoint
   of what it was at; another is started in its place (`crew`).
3. All machines have the study's folder under the same path, and this library.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..hints import counted
from .config import Study
from .crew import Crew, WorkerDiedError, carry_out, order
from .running import Outcome, Say, Shard
from .store import DiskFullError, Store

PATIENCE = 60
"""Seconds that an actor's name is waited for that Ray says is dead."""


def work_on_ray(
    study: Study,
    store: Store,
    workers: int,
    *,
    cluster: str | None,
    shard: Shard,
    steal: bool,
    say: Say | None,
) -> Outcome:
    """Have Ray actors do the tasks of a study.

    Args:
        study: the study.
        store: where things stand.
        workers: how many actors; 0 for as many as the cluster has room for.
        cluster: its address, as `ray.init(address=)` has it; None for the one that this process is
            connected to, or that `ray.init()` finds or starts.
        shard: which runs.
        steal: as `running.work` has it.
        say: told a line per worker that died; of tasks Ray shows the actors' own lines.

    Raises:
        ConnectionError: no such cluster.
        DiskFullError: there is no space left.
        ModuleNotFoundError: Ray is not installed.
        ValueError: no actor has room in the cluster; a device that actors cannot have.
        WorkerDiedError: actors cannot begin.
    """
    needs = _needs(study)
    with _connected(cluster, progress=say is not None) as ray:
        room = _room(ray.cluster_resources(), needs)
        if not room:
            raise ValueError(
                f"ray: no actor of study {study.name!r} has room in the cluster: each takes "
                f"{_in_words(needs)}, and it has {_in_words(ray.cluster_resources())}; see "
                "Computing(threads=, device=)."
            )
        workers = workers or room
        if workers > room and say is not None:
            say(f"the cluster has room for {room} of {counted(workers, 'actor')}; the rest wait")
        crew = Crew(study, store, workers, say)
        given = order(study, store, shard=shard, steal=steal, progress=say is not None)
        given["from"] = os.getcwd()
        _watch(ray, crew, given, needs, workers)
        return crew.outcome(shard=shard, steal=steal)


class Actor:
    """A worker within Ray.

    Args:
        given: what it is to do (`crew.order`), and `from`, the folder that paths are told from.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def who(self) -> tuple[int, str]:
        """Its process and machine, by which claims name their owners."""
        return os.getpid(), socket.gethostname()

    def work(self) -> None:
        """Do the tasks that can be done."""
        with suppress(OSError):  # another machine may not have it; absolute paths need it not
            os.chdir(self._given["from"])
        carry_out(self._given)


def _watch(ray: Any, crew: Crew, given: dict[str, Any], needs: dict[str, int], n: int) -> None:
    """Start actors and have them work until all are done."""
    remote = ray.remote(**needs, max_restarts=0, max_task_retries=0)(Actor)
    alive: dict[Any, tuple[Any, Any]] = {}  # what it does -> the actor, and who it is

    def start() -> None:
        actor = remote.remote(given)
        who = actor.who.remote()
        alive[actor.work.remote()] = actor, who

    for _ in range(n):
        start()
    try:
        while alive:
            (done, *_), _ = ray.wait(list(alive), num_returns=1)
            actor, who = alive.pop(done)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise _own_error(error) from None
            except ray.exceptions.RayError as error:
                _end(ray, actor)  # one that cannot be reached may still be at work
                pid, host = _known(ray, who)
                crew.lost(_obituary(error, pid, host), pid, host, by_itself=False)
                start()
            else:
                _end(ray, actor)
    finally:
        for actor, _ in alive.values():
            _end(ray, actor)


def _end(ray: Any, actor: Any) -> None:
    with suppress(ray.exceptions.RayError):
        ray.kill(actor, no_restart=True)


def _known(ray: Any, who: Any) -> tuple[int | None, str | None]:
    """Process and machine of an actor; None where it died before it could say."""
    try:
        return ray.get(who, timeout=PATIENCE)
    except ray.exceptions.RayError:
        return None, None


def _own_error(error: Any) -> BaseException:
    """What went wrong in an actor, as if it had gone wrong here."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, DiskFullError | ValueError | TypeError | OSError):
        return cause
    return WorkerDiedError(f"a Ray actor ended on {str(error).strip().splitlines()[-1]}")


def _obituary(error: BaseException, pid: int | None, host: str | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = "a Ray actor" if pid is None else f"Ray actor {pid} on {host}"
    return f"{where} died ({type(error).__name__}: {lines[0] if lines else 'no reason told'})"


# ------------------------------------------------------------------------------------- the cluster


def _needs(study: Study) -> dict[str, int]:
    """What an actor takes of a machine, as `ray.remote` has it.

    Raises:
        ValueError: a card by its number.
    """
    computing = study.computing
    kind, _, number = computing.device.partition(":")
    if number:
        raise ValueError(
            f"Computing(device={computing.device!r}): Ray gives every actor a card of its own, "
            f"which is the only one that it sees; write device={kind!r}."
        )
    return {"num_cpus": computing.threads, "num_gpus": int(kind == "cuda")}


def _room(there: dict[str, float], needs: dict[str, int]) -> int:
    """How many actors a cluster holds at once."""
    of_each = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"]}
    return min(int(there.get(name, 0) // count) for name, count in of_each.items() if count)


def _in_words(amounts: dict[str, Any]) -> str:
    cores = int(amounts.get("num_cpus", amounts.get("CPU", 0)))
    cards = int(amounts.get("num_gpus", amounts.get("GPU", 0)))
    return f"{counted(cores, 'processor core')} and {counted(cards, 'GPU')}"


@contextmanager
def _connected(cluster: str | None, *, progress: bool) -> Iterator[Any]:
    """Ray, connected to a cluster; a connection that was there before stays.

    Raises:
        ConnectionError: no such cluster.
        ModuleNotFoundError: Ray is not installed.
        ValueError: this process is connected to a cluster, and another one is asked for.
    """
    ray = _ray()
    if ray.is_initialized():
        if cluster is not None:
            raise ValueError(
                f"ray={cluster!r}: this process is connected to a Ray cluster already; pass "
                "ray=True to use that one, or call ray.shutdown() first."
            )
        yield ray
        return
    with _own_signals():
        try:
            ray.init(address=cluster, log_to_driver=progress, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConnectionError(
                f"ray={cluster!r}: no such cluster can be reached ({told}); 'local' starts one on "
                "this machine."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'ray: Ray is not installed here; pip install "sublim-mech[ray]", or use workers= for '
            "processes of this machine."
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Have this process end on SIGTERM as before: Ray puts a handler of its own there."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray does not either
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:  # it was no handler of Python's
            signal.signal(signal.SIGTERM, before)
