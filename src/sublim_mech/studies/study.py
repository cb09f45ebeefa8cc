"""`run`: a study from its configuration to its rows."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import pandas as pd

from ..arguments import checked
from ..hints import counted, outside
from .config import Study
from .making import Worker
from .row_files import INDEX_FILE, read_rows
from .running import Outcome, Shard, summary, to_stderr, work
from .states import status, what_is_missing
from .store import Store
from .takes import check_methods
from .tasks import Tasks
from .two_names import check_names


@checked
def run(
    study: Study,
    out: str | Path,
    *,
    workers: int = 0,
    ray: bool | str = False,
    shard: str | None = None,
    steal: bool = False,
    retry: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Run a study, or go on with it, and return its rows.

    Every piece (labels, students, answers, scores, rows) is made once and kept in `out` under the
    hash of everything that decides it; the same call after an interruption goes on, and other
    studies in the same folder share what they have in common.

    Args:
        study: the study.
        out: the folder; it may hold other studies.
        workers: processes beside each other, each with the base of its own and
            `study.computing.threads` threads; 0 for this process alone.
        ray: have Ray actors do it, `workers` of them (0: as many as the cluster has room for), each
            with `study.computing.threads` cores, and a GPU where the study computes on `cuda`.
            True for the cluster that `ray.init()` finds or starts, or its address: `"auto"`,
            `"local"`, `"host:6379"`. Needs the extra `ray`; `out` is a folder that all machines
            have under this path.
        shard: `"i/n"`: do only the runs of this shard, `0/n` to `n-1/n` (and what they need). Any
            number of such calls may be at work on one folder, on several machines.
        steal: with a shard, do others' runs when its own are done, and take over tasks whose
            owners on other machines have been silent for 15 minutes.
        retry: try what failed again.
        progress: say a line per task on the standard error output.

    Returns:
        The rows of the study that are there (see `rows`).

    Raises:
        ConnectionError: there is no such Ray cluster.
        DiskFullError: there is no space left.
        FileExistsError: `out` holds something else.
        ModuleNotFoundError: Ray is not installed.
        ValueError: a folder of another version; one student under two names; a shard beyond its
            count; a base with other
            weights than the folder's results were made with, or that a method cannot train; a Ray
            cluster without room for an actor.

    Warns:
        UserWarning: runs failed, or are left undone; a row's file is damaged; another study of this
            name was run in the folder, whose configuration and report are kept apart.

    Example:
        >>> from sublim_mech import studies
        >>> table = studies.run(study, out, progress=False)
        >>> table[["trait", "method"]].values.tolist()[:2]
        [['owl', 'r2'], ['cat', 'r2']]
    """
    which = Shard() if shard is None else Shard.read(shard)
    if workers < 0:
        raise ValueError(f"workers={workers}: 0 for this process alone, or how many beside it.")
    tasks = Tasks(study)
    check_names(tasks)
    check_methods(study)
    store = Store(out)
    store.begin(study)
    _set_aside_damaged(store)
    if retry:
        for task in tasks.ordered:
            store.excuse(task.address)
    say = to_stderr if progress else None
    if ray is not False:
        from .ray_actors import work_on_ray

        cluster = None if isinstance(ray, bool) else ray
        outcome = work_on_ray(
            study, store, workers, cluster=cluster, shard=which, steal=steal, say=say
        )
    elif workers:
        from .workers import work_beside

        outcome = work_beside(study, store, workers, shard=which, steal=steal, say=say)
    else:
        outcome = work(tasks, store, Worker(study, store), shard=which, steal=steal, say=say)
    if progress:
        to_stderr(f"{study.name}: {summary(outcome)}")
    _tell(store, tasks, outcome)
    return rows(study, out)


@checked
def rows(study: Study, out: str | Path) -> pd.DataFrame:
    """The rows of a study that are there, in the order of its runs.

    Args:
        study: the study.
        out: its folder.

    Returns:
        One row per run and part: `study`, `part` and what `studies.measured` lists. A run that two
        parts have stands under both.

    Raises:
        ValueError: a folder of another version.

    Warns:
        UserWarning: a row's file is damaged; it is named and left out.

    Example:
        >>> from sublim_mech import studies
        >>> studies.rows(study, out).groupby("part").size().to_dict()
        {'bare': 2, 'plain': 2, 'scored': 4}
    """
    store = Store(out)
    found = read_rows(store.folder / "rows", store.folder / INDEX_FILE)
    for why in found.damaged.values():
        warnings.warn(why, stacklevel=outside())
    table = found.table.to_pandas().set_index("run", drop=False)
    there = set(table.index)
    wanted = [run for run in Tasks(study).runs if run.task.address in there]
    chosen = table.loc[[run.task.address for run in wanted]].reset_index(drop=True)
    chosen.insert(0, "part", [run.cell.part for run in wanted])
    chosen.insert(0, "study", study.name)
    # columns of other studies in the folder are empty here
    others = [name for name in chosen if name.startswith(_SOME) and chosen[name].isna().all()]
    # in whatever order files were read: what all rows have, then what instruments say
    ordered = sorted(chosen.drop(columns=others), key=_group)
    return chosen[ordered]


_SOME = ("change ", "graft ", "ig ", "rate", "base rate", "gates", "everywhere ", "sampled ")
"""Columns that not every study has begin so."""


def _group(column: str) -> int:
    """0 for what all rows have, 1 for grafts, 2 for graft IG."""
    return {"graft": 1, "ig": 2}.get(column.partition(" ")[0], 0)


@checked
def export(study: Study, out: str | Path, path: str | Path) -> None:
    """Write the rows of a study as comma-separated values; lists as JSON.

    Args:
        study: the study.
        out: its folder.
        path: the file, `.csv` or `.parquet`.

    Raises:
        FileNotFoundError: there is no such folder of studies.
        ValueError: another ending; no run is finished; a folder of another version.

    Warns:
        UserWarning: runs are missing, of which the file has no row; or as `rows`.

    Example:
        >>> from sublim_mech import studies
        >>> studies.export(study, out, folder / "rows.csv")
    """
    from ..storage.files import check_file, replacing

    file = check_file(path)
    if file.suffix not in (".csv", ".parquet"):
        raise ValueError(f"path={str(path)!r}: end the name in .csv or .parquet.")
    Store(out).need_begun()
    table = rows(study, out)
    if table.empty:
        raise ValueError(
            f"out={str(out)!r}: no run of study {study.name!r} is finished there, so there is "
            "nothing to write; studies.status says how far it is."
        )
    with replacing(file) as work_file:
        if file.suffix == ".parquet":
            table.to_parquet(work_file, index=False)
        else:
            flat(table).to_csv(work_file, index=False)
    missing = what_is_missing(status(study, out))
    if missing:
        warnings.warn(f"study {study.name!r}: {' '.join(missing)}", stacklevel=outside())


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """Rows as they are written to CSV: lists as JSON."""
    lists = [name for name in table.columns if name.endswith("by question")]
    return table.assign(**{name: table[name].map(_as_json) for name in lists})


def _as_json(values: object) -> str:
    import json

    if isinstance(values, str):  # read from CSV
        return values
    return json.dumps([] if values is None else list(values))  # type: ignore[call-overload]


def _set_aside_damaged(store: Store) -> None:
    """Name row files that are damaged and have these runs' rows made again."""
    found = read_rows(store.folder / "rows", store.folder / INDEX_FILE)
    for path in found.damaged:
        aside = path.with_name(path.name + ".damaged")
        with suppress(FileNotFoundError):
            path.rename(aside)
            warnings.warn(
                f"{path} was damaged; it is set aside as {aside.name} and the row is made again.",
                stacklevel=outside(),
            )


def _tell(store: Store, tasks: Tasks, outcome: Outcome) -> None:
    failures = store.failures()
    wanted = {task.address for task in tasks.ordered}
    failed = [told for address, told in failures.items() if address in wanted]
    if failed:
        first = failed[0]
        undone = ""
        if outcome.waiting:
            verb = "is" if outcome.waiting == 1 else "are"
            undone = f" ({counted(outcome.waiting, 'run')} {verb} left undone)"
        warnings.warn(
            f"{len(failed)} of {counted(len(tasks.ordered), 'task')} failed, first "
            f"{first['title']}: {first['error'].rstrip('.')}{undone}. status(study, out) lists "
            "what failed; run(..., retry=True) tries it again.",
            stacklevel=outside(),
        )
