"""A mask's name gives the mask again."""

import re

import numpy as np
import pytest

import sublim_mech as sm
from sublim_mech import masks

MASKS = [
    masks.everything(),
    masks.role("system", "template"),
    ~masks.role("user"),
    masks.sharing("shared"),
    masks.sharing("not shared") & masks.layers([0, 2]),
    ~(masks.role("user") | masks.turn(-1)) & masks.modules("attention", "mlp.out"),
    masks.positions(0, -1) | masks.turn(0, 1),
    masks.layers(range(3)) & ~masks.modules("blocks.1.attn.q"),
    masks.text("o", which="last") | masks.regex(r"[a-c] (\w+)|'", which="all"),
    masks.text("an) & 'it\"", which="first"),
    masks.role("system") & (masks.layers(1) | masks.modules("norms")),
]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
def test_a_name_gives_the_mask_again(mask, smol_tokenizer):
    from pairs import shared_pair

    pair = shared_pair("llama", "lora", smol_tokenizer)
    prompts = sm.render(smol_tokenizer, ["A cow, an) & 'it\" too", "Or else: an) & 'it\" more"])
    marked = sm.mark_sharing(prompts[:1], prompts)
    modules = list(pair.sites.modules.values())
    again = masks.from_name(mask.name)
    assert again.name == mask.name
    assert np.array_equal(again(marked[0], modules), mask(marked[0], modules))


def test_masks_of_the_answer(smol_tokenizer):
    again = masks.from_name("answer & mlp | answer & layer 2")
    assert isinstance(again, masks.AnswerMask)


@pytest.mark.parametrize(
    ("name", "near"),
    [("shard", "shared"), ("sytem & layers 0-9", "system"), ("everything & not usr", "user"),
     ("novl", "novel"), ("awnser", "answer")],
)  # fmt: skip
def test_a_mistyped_role_or_class_is_refused_at_once(name, near):
    with pytest.raises(ValueError, match=rf"from_name\({name!r}\): .*did you mean '{near}'"):
        masks.from_name(name)


@pytest.mark.parametrize("word", ["last", "first", "positions", "turn", "layers", "heads"])
def test_a_word_that_takes_a_number_says_how_it_is_written(word):
    without = rf"'{word}' is no mask without its number"
    with pytest.raises(ValueError, match=without) as told:
        masks.from_name(f"shared & {word}")
    written = re.search(r"such as '(.*?)'", str(told.value))[1]
    assert masks.from_name(written).name == written


@pytest.mark.parametrize("name", ["attention", "norm", "stem", "mlp.out", "q", "temporal", "shead"])
def test_what_may_be_a_module_is_looked_up_when_the_model_is_known(name):
    assert masks.from_name(name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "the last three", "system &", "(system", "system)", "& user", "text owl", "layers x"],
)
def test_no_name_of_a_mask(name):
    with pytest.raises(ValueError, match="from_name"):
        masks.from_name(name)
