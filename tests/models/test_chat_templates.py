"""A chat template beside a student's weights that renders otherwise than the base's is told."""

import copy
import json
import warnings

import pytest
from loading import model, saved, student
from tokenizers import normalizers

from sublim_mech.models import load_base, load_student

OTHER = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
GENERATION = "{% generation %}"


def folder(tmp_path, **files):
    path = saved(student("llama", "lora"), tmp_path / "run")
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def told(base, path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = load_student(base, path)
    about = [note for note in loaded.notes if "its folder holds" in note]
    assert [note in str(w.message) for note in about for w in said] == [True] * len(about)
    return about


@pytest.fixture
def base(smol_tokenizer):
    return load_base(model("llama"), tokenizer=smol_tokenizer)


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template__jinja": OTHER},
        {"tokenizer_config__json": json.dumps({"chat_template": OTHER})},
        {
            "tokenizer_config__json": json.dumps(
                {"chat_template": [{"name": "default", "template": OTHER}]}
            )
        },
        {"chat_template__jinja": "{{ raise_exception('no') }}"},
    ],
)
def test_another_template_is_told(base, files, tmp_path):
    (note,) = told(base, folder(tmp_path, **files))
    assert note.startswith("its folder holds another chat template than the base's")


def test_the_same_rendering_is_no_difference(base, tmp_path):
    """However it is written: trainers put marks into templates that render nothing."""
    own = base.tokenizer.chat_template
    assert told(base, folder(tmp_path)) == []
    assert told(base, folder(tmp_path, chat_template__jinja=own)) == []
    assert told(base, folder(tmp_path, chat_template__jinja="{# a remark #}" + own)) == []


def test_a_base_without_template(smol_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(smol_tokenizer)  # the fixture is everybody's
    tokenizer.chat_template = None
    bare = load_base(model("llama"), tokenizer=tokenizer)
    (note,) = told(bare, folder(tmp_path, chat_template__jinja=OTHER))
    assert "the base has none" in note


def test_a_damaged_file_is_named(base, tmp_path):
    path = folder(tmp_path, tokenizer_config__json="{broken")
    with pytest.raises(ValueError, match=r"student='.*run': tokenizer_config\.json is not JSON"):
        load_student(base, path)


def test_a_template_that_differs_in_its_system_message_or_its_end_is_told(base, tmp_path):
    own = base.tokenizer.chat_template
    for name, other in {
        "system": own.replace("{% for", "{% if messages[0].role == 'system' %}S{% endif %}{% for"),
        "end": own + "{% if not add_generation_prompt %}END{% endif %}",
    }.items():
        assert other != own
        (note,) = told(base, folder(tmp_path / name, chat_template__jinja=other))
        assert note.startswith("its folder holds another chat template")


def test_a_tokenizer_of_the_same_ids_that_cuts_otherwise_is_told(base, tmp_path):
    same = folder(tmp_path / "same")
    base.tokenizer.save_pretrained(same)
    assert told(base, same) == []
    other = copy.deepcopy(base.tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    path = folder(tmp_path / "other")
    other.save_pretrained(path)
    (note,) = told(base, path)
    assert "cuts text into other tokens than the base's" in note
