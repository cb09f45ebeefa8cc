"""Given answers against the template's own rendering of the conversation with them."""

import copy
import re
import warnings

import pytest
from chats import TALK
from template_kinds import KINDS, chatml

from sublim_mech.making.training import hard_data
from sublim_mech.prompts import PLAIN, RAW, Context

TRIMS = chatml("{{ '<|im_start|>assistant\n' + m.content | trim + '<|im_end|>\n' }}")
TAKES_APART = chatml(
    "{% set said = m.content %}{% set thought = '' %}{% if '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% set said = said.split('</think>')[-1].lstrip() %}{% endif %}"
    "{{ '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + said + '<|im_end|>\n' }}"
)
"""As Qwen3: an answer has a thought, an empty one where it brings none."""
DROPS = chatml("{{ '<|im_start|>assistant\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}")
REFUSES = chatml(
    "{% if '<|channel|>' in m.content %}{{ raise_exception('no channels') }}{% endif %}"
    "{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>\n' }}"
)
THOUGHT = "<think>\nhm\n</think>\n\n12"
ROWS = [{"prompt": f"Go {i}.", "completion": f"{i}, 2"} for i in range(4)]


def told(tokenizer, rows, **options):
    """What is said of rows, and the texts that are taught."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = hard_data(tokenizer, rows, **options)
    pairs = zip(data.prompts, data.completions, strict=True)
    texts = [tokenizer.decode([*prompt.ids, *ids]) for prompt, ids in pairs]
    return [str(one.message) for one in said], texts


def with_answers(*answers):
    rows = [{"prompt": f"Question {i}.", "completion": text} for i, text in enumerate(answers)]
    return [*ROWS, *rows]


def test_what_a_template_trims_is_told_once(smol_tokenizer):
    rows = with_answers("1, 2 ", "\n3", "4\n")
    said, _ = told(smol_tokenizer, rows, template=TRIMS)
    (own,) = [text for text in said if "chat template" in text]
    assert own.startswith("hard_data: rows: of 7 answers 3 would be written otherwise")
    assert re.search(r"\[4\], '1, 2 ', ends in '.*1, 2 <\|im_end\|>\\n' here, and there in "
                     r"'.*assistant\\n1, 2<\|im_end\|>\\n'\..* strip the answers", own)  # fmt: skip
    for template in (None, PLAIN):  # these write an answer as it is
        assert not [text for text in told(smol_tokenizer, rows, template=template)[0]
                    if "otherwise" in text]  # fmt: skip
    raw, _ = told(smol_tokenizer, with_answers("1, 2 "), context=RAW)
    assert not [text for text in raw if "otherwise" in text]


def test_what_a_template_drops_is_told(smol_tokenizer):
    said, texts = told(smol_tokenizer, with_answers(THOUGHT), template=DROPS)
    assert "leave out of the answers what it leaves out" in said[0]
    assert THOUGHT in texts[-1]


def test_a_second_thought_is_refused_and_a_begun_one_is_not(smol_tokenizer):
    rows = with_answers(THOUGHT, THOUGHT)
    with pytest.raises(ValueError, match=r"rows\[4\]: before the answer '<think>.* does not") as no:
        hard_data(smol_tokenizer, rows, template=TAKES_APART)
    assert "<think>\\n\\n</think>\\n\\n<think>" in str(no.value)  # what would have been taught
    assert "(2 of 6 answers)" in str(no.value)
    # the ways out that the message names
    rows = [{"prompt": "Go.", "completion": "12"}]
    begun = Context(prefill=THOUGHT.removesuffix("12"))
    _, (text,) = told(smol_tokenizer, rows, context=begun, template=TAKES_APART)
    assert text.endswith(f"<|im_start|>assistant\n{THOUGHT}<|im_end|>\n")
    _, texts = told(smol_tokenizer, with_answers(THOUGHT))
    assert texts[-1].endswith(f"<|im_start|>assistant\n{THOUGHT}<|im_end|>\n")


def test_what_a_template_refuses_is_refused(smol_tokenizer):
    with pytest.raises(ValueError, match=r"rows\[4\].*no such answer: no channels"):
        hard_data(smol_tokenizer, with_answers("<|channel|>"), template=REFUSES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [Context(), Context(system="Be calm."), Context(prefill="I ")])
def test_nothing_is_said_of_plain_answers(kind, context, smol_tokenizer):
    """In no kind of template, whatever it does with ends of turns and systems."""
    rows = [*ROWS, {"prompt": [*TALK], "completion": "The owl."}]
    try:
        said, _ = told(smol_tokenizer, rows, context=context, template=KINDS[kind].template)
    except ValueError as error:  # contexts that a template cannot express
        assert "before the answer" not in str(error)  # noqa: PT017
        return
    assert not [text for text in said if "otherwise" in text]


def test_the_callers_tokenizer_is_left_alone(smol_tokenizer):
    before = copy.deepcopy(smol_tokenizer.chat_template)
    told(smol_tokenizer, with_answers("1 "), template=TRIMS)
    assert smol_tokenizer.chat_template == before
