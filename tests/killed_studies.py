"""Studies that are killed with `kill -9` at random moments, alone and in shards; a process of its
own, which forks (`studies/test_killed.py` runs it).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import pandas as pd
import torch
from small_studies import R2, small_study

from sublim_mech import studies
from sublim_mech.studies import Part, Study


def main(base: str, home: Path, kills: int) -> None:
    """Run uninterrupted; then killed so many times; then in two shards of which one is killed."""
    part = Part(name="p", methods=[R2], scores=["graft"])
    study = small_study(base, part)
    begun = time.monotonic()
    whole = studies.run(study, home / "whole", progress=False)
    seconds = time.monotonic() - begun

    random.seed(0)
    killed = finished = 0
    while killed < kills:
        child = start(study, home / "killed")
        if ended(child, seconds * random.random()):  # too quick: from the start once more
            finished += 1
            (home / "killed").rename(home / f"finished-{finished}")
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
    if kills:
        assert ended(start(study, home / "killed"), 600)
        same(study, home / "killed", whole)

    one, two = (start(study, home / "shards", shard=f"{i}/2") for i in (0, 1))
    time.sleep(seconds / 3)
    os.kill(one, signal.SIGKILL)
    os.waitpid(one, 0)
    assert ended(two, 600)
    assert ended(start(study, home / "shards", shard="0/2"), 600)
    same(study, home / "shards", whole)
    print(f"same rows after {killed + 1} kills")  # and that of the shard


def start(study: Study, out: Path, **options: str) -> int:
    """A child at work on a study."""
    child = os.fork()
    if child:
        return child
    try:
        studies.run(study, out, progress=False, **options)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child: int, seconds: float) -> bool:
    """Whether a child ends by itself within so many seconds, and well."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid, code = os.waitpid(child, os.WNOHANG)
        if pid:
            assert code == 0, code
            return True
        time.sleep(0.01)
    return False


def same(study: Study, out: Path, whole: pd.DataFrame) -> None:
    """Raise where the rows are others."""
    assert studies.status(study, out).finished
    pd.testing.assert_frame_equal(studies.rows(study, out), whole)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
