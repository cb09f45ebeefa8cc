"""The same truths in other people's chat templates, where a folder of them is at hand.

Pass the folder as `SUBLIM_MECH_TEMPLATES` (files `*.jinja`), and, for their own tokenizers,
`SUBLIM_MECH_TOKENIZERS` (folders named as in `OWN`, each with a `tokenizer.json`); without the
latter SmolLM2's serves, with the marks that stand in the template as its special tokens.
"""

import copy
import os
import re
import warnings
from pathlib import Path

import pytest
from chats import QUESTION, TALK, user
from transformers import AutoTokenizer

from sublim_mech.prompts import Context, completion_ids, render

FOLDER = os.environ.get("SUBLIM_MECH_TEMPLATES", "")
TOKENIZERS = os.environ.get("SUBLIM_MECH_TOKENIZERS", "")
FILES = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []
OWN = {
    "qwen": "qwen3",
    "llama3": "llama3_1",
    "gemma": "gemma3",
    "diffusion_gemma": "gemma3",
    "deepseek": "deepseek_v3",
    "gptoss": "gptoss",
}
"""Which tokenizer is whose, by how the template's name begins."""

MARK = re.compile(r"<[|a-zA-Z_/\uff5c][^<>\s'\"{}=+]{0,30}>|\[/?[A-Za-z_]+\]")
SHORT = {"role": "assistant", "content": "The owl"}
BEGUN = "My favorite animal is the"
SYSTEMS = [Context.DEFAULT, Context.EMPTY, Context.NONE, "Be calm."]

pytestmark = pytest.mark.skipif(
    not FILES, reason="no folder of chat templates: set SUBLIM_MECH_TEMPLATES"
)


@pytest.fixture(scope="module")
def tokenizer_of(smol_tokenizer):
    """A function from a template file to the tokenizer for it."""
    made = {}

    def tokenizer_for(path):
        own = next((name for start, name in OWN.items() if path.stem.startswith(start)), "")
        folder = Path(TOKENIZERS) / own
        if TOKENIZERS and own and (folder / "tokenizer.json").is_file():
            if own not in made:
                made[own] = AutoTokenizer.from_pretrained(folder)
            return made[own]
        if path not in made:
            made[path] = copy.deepcopy(smol_tokenizer)
            marks = sorted(set(MARK.findall(path.read_text())))
            made[path].add_special_tokens({"extra_special_tokens": marks})
        return made[path]

    return tokenizer_for


def by_itself(tokenizer, template, messages):
    """The template's own rendering, contents as texts or else as parts; its clock stopped."""
    template = re.sub(
        r"strftime_now\((['\"])(.*?)\1\)",
        lambda m: repr({"%Y-%m-%d": "2024-07-26", "%d %b %Y": "26 Jul 2024"}[m[2]]),
        template,
    )
    parted = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    for said in (messages, parted):
        try:
            rendered = tokenizer.apply_chat_template(said, chat_template=template, tokenize=False)
        except Exception:
            continue
        if all(message["content"] in rendered for message in messages):
            return rendered
    raise AssertionError("the template renders these messages in no way")


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
@pytest.mark.parametrize("question", [QUESTION, TALK], ids=["question", "conversation"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_prompt_lead_answer_and_close_are_the_templates_rendering(
    path, question, system, tokenizer_of
):
    tokenizer, template = tokenizer_of(path), path.read_text()
    try:
        (prompt,) = render(tokenizer, [question], context=Context(system), template=template)
    except ValueError as error:
        if "chat template" not in str(error):
            raise
        pytest.skip(f"refused: {str(error)[:200]}")
    messages = [user(question)] if isinstance(question, str) else question
    said = {Context.DEFAULT: [], Context.NONE: [], Context.EMPTY: [""]}.get(system, [system])
    told = [{"role": "system", "content": text} for text in said]
    whole = prompt.text + prompt.lead + SHORT["content"] + prompt.close
    rendered = by_itself(tokenizer, template, [*told, *messages, SHORT])
    if system is Context.NONE:  # but for the block, and a BOS before it
        bos = tokenizer.bos_token or ""
        body = whole.removeprefix(bos)
        assert rendered.endswith(body) or opened(rendered, body, prompt.close)
        assert "system" not in prompt.turn_roles
    else:
        assert rendered == whole or opened(rendered, whole, prompt.close)
    assert prompt.close
    assert prompt.turns[0] == 0
    assert set(prompt.turns) == set(range(max(prompt.turns) + 1))

    # the ids are those of `apply_chat_template(tokenize=True)`
    together = tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    assert list(prompt.ids) == together
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a blank line that is another token before a word
        form = completion_ids(tokenizer, prompt, "owl")
    assert tokenizer.decode(form) == f"{prompt.lead}owl"


def opened(rendered, whole, close):
    """Whether a rendering only lacks the answer's end, or has a turn behind it, opened unasked."""
    if rendered == whole.removesuffix(close) or rendered.endswith(whole.removesuffix(close)):
        return True
    behind = rendered.partition(whole)[2]
    return whole in rendered and "owl" not in behind and close not in behind


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_answer_that_has_begun_is_continued(path, tokenizer_of):
    tokenizer, template = tokenizer_of(path), path.read_text()
    context = Context(prefill=BEGUN)
    (prompt,) = render(tokenizer, [QUESTION], context=context, template=template)
    whole = prompt.text + prompt.lead + "owl" + prompt.close
    said = [user(QUESTION), {"role": "assistant", "content": f"{BEGUN} owl"}]
    rendered = by_itself(tokenizer, template, said)
    assert rendered == whole or opened(rendered, whole, prompt.close)
    assert prompt.text.endswith(BEGUN)
    assert prompt.roles[-1] == "assistant"
