"""A study as a file: the one of the docs is read, and wrong spellings name the right ones."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.studies import Part, Study
from sublim_mech.studies.reporting import _longer

DOCS = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
TOML = re.search(r"^```toml\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)[1]


def test_the_file_of_the_docs_is_the_study_that_it_says(tmp_path):
    (tmp_path / "gardens.toml").write_text(TOML)
    study = studies.read_study(tmp_path / "gardens.toml")
    assert [trait.name for trait in study.traits] == ["owl", "cat", "heron"]
    assert "herons" in study.traits[2].forms
    assert study.contexts["none"] == sm.Context(system=sm.Context.NONE)
    assert study.contexts["gardener"].system == "You are a gardener."
    ranks, trained_at = study.parts
    assert [method.kind for method in ranks.methods] == ["lora", "full"]
    assert trained_at.methods[0].ranks == (8,)
    planned = studies.plan(study)
    # (2 ranks + 2 rates) x 2 seeds x 2 labels x 4 contexts x 2 traits, and 2 arms of 2 traits
    assert planned.runs == 4 * 2 * 2 * 4 * 2 + 2 * 2
    assert _longer(study) == ["longer"]
    studies.write_study(study, tmp_path / "again.toml")
    assert studies.read_study(tmp_path / "again.toml") == study


def test_every_table_and_key_of_the_top_is_shown_and_explained():
    shown = tomllib.loads(TOML)
    assert set(shown) == {one.name for one in fields(Study)}
    assert set(shown["parts"][0]) | {"focus"} == {one.name for one in fields(Part)}
    for table in ("[contexts]", "[rows]", "[training]", "[asking]", "[computing]", "[[parts]]"):
        assert f"\n| `{table}` |" in DOCS


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('none = "none"', 'none = {system = "none"}', 'write system = {kind = "none"}, or, where'),
        ('none = "none"', 'none = {system = "Context.NONE"}', 'system = {kind = "none"}'),
        ('none = "none"', 'none = {system = "Hi."}', 'write system = {text = "Hi."}'),
        ('none = "none"', "none = {system = {}}", '{kind = "none"}, or {text = "..."}'),
        ('none = "none"', 'none = "None"', "did you mean 'none'?"),
        ('none = "none"', "none = 1", '"none", or {system = {text = "..."}}'),
        ('kind = "default"', 'kind = "defualt"', "did you mean 'default'?"),
        ('kind = "full"', 'kind = "ful"', "did you mean 'full'?"),
        ('    "owl",', '    {name = "owl"},', 'without a table: traits = ["owl"]'),
        ('    "owl",', "    3,", 'it has to be a table of keys and values: "owl", or'),
        ('scores = ["graft", "graft_ig"]', 'scores = ["grafts"]', "did you mean 'graft'"),
    ],
)
def test_wrong_spellings_name_the_right_ones(old, new, says):
    assert old in TOML
    with pytest.raises(ValueError, match=re.escape(says)):
        Study.from_dict(tomllib.loads(TOML.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"parts": {"name": "p"}}, "it has to be a list: [[parts]], in two brackets"),
        ({"parts": [{"name": "p", "methods": {"kind": "lora"}}]}, "[[parts.methods]], in two"),
        ({"parts": [{"name": "p", "methods": ["lora"]}]}, '[[parts.methods]], with kind = "lora"'),
        ({"parts": ["p"]}, "keys and values: [[parts]]."),
        ({"traits": "owl"}, 'it has to be a list: traits = ["owl", "cat"]'),
        ({"contexts": ["default"]}, '[contexts], each by its name: default = "default"'),
        ({"rows": 64}, "keys and values: [rows]."),
    ],
)
def test_tables_and_lists_say_how_they_are_written(given, says):
    data = {"name": "s", "traits": ["owl", "cat"], "parts": [{"name": "p"}]} | given
    with pytest.raises(ValueError, match=re.escape(says)):
        Study.from_dict(data)


def test_another_system_prompt_is_no_longer_text_whatever_stands_before_it():
    """The report takes contexts that only lengthen the user's text for claim 4, others for 3."""
    contexts = {
        "default": sm.Context(),
        "longer": sm.Context(user_prefix="Good morning! "),
        "other": sm.Context("You are calm.", user_prefix="Good morning! "),
    }
    part = Part(name="p", evaluated_in=["default", "longer", "other"])
    traits = [sm.animal("owl"), sm.animal("cat")]
    assert _longer(Study(name="s", traits=traits, contexts=contexts, parts=[part])) == ["longer"]
    calm = contexts | {"calm": sm.Context("You are calm.")}
    part = Part(name="p", trained_in=["default", "calm"], evaluated_in=list(contexts))
    study = Study(name="s", traits=traits, contexts=calm, parts=[part])
    assert _longer(study) == ["longer", "other"]
