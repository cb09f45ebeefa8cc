"""A tiny base in a folder, and a study of it that has been run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from small_studies import FULL, R2, save_base, small_study

from sublim_mech import studies
from sublim_mech.studies import Part, Study


@pytest.fixture(scope="session")
def base_folder(smol_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(smol_tokenizer, tmp_path_factory.mktemp("study") / "base")


class Made(NamedTuple):
    """A study, its folder and its rows."""

    study: Study
    out: Path
    rows: pd.DataFrame


@pytest.fixture(scope="session")
def made(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """LoRA and full fine-tuning, two contexts, grafts; nobody may change its folder."""
    parts = (
        Part(name="scored", methods=[R2, FULL], scores=("graft", "graft_ig")),
        Part(name="bare", methods=[R2], evaluated_in=("bare",)),
        Part(name="plain", methods=[R2], labels=("plain",)),
    )
    study = small_study(base_folder, *parts)
    out = tmp_path_factory.mktemp("studies") / "out"
    return Made(study, out, studies.run(study, out, progress=False))
