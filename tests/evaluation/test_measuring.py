"""Evaluation against plain Hugging Face forwards, one per string."""

import copy
import doctest
import itertools
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from asking import (
    CONTEXTS,
    QUESTIONS,
    QUIET,
    TEXT,
    TRAITS,
    make_pair,
    plain,
    shared_pair,
    text_of,
)

import sublim_mech as sm
from sublim_mech.engine.budget import row_bytes
from sublim_mech.engine.runner import open_runner
from sublim_mech.evaluation.matrix import trait_matrix
from sublim_mech.evaluation.measuring import evaluate, trait_log_probs
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.metrics import own_minus_others, trait_forms
from sublim_mech.prompts import ANIMALS, Trait, animal, matcher, tree

# llama as most models are; GPT-2 with transposed and fused weights and learnt positions; Gemma-3
# with sliding windows of 16 tokens, shorter than the prompts
ARCHITECTURES = ("llama", "gpt2", "gemma3")


def tries_of(pair, prompts):
    """The tries of all traits."""
    return [trait_forms(pair.tokenizer, prompt, TRAITS) for prompt in prompts]


def fed_to(model):
    """(numbers of tokens that go into each forward of a model, the handle that ends it)."""
    fed: list[int] = []
    embed = model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _, args, out: fed.append(args[0].numel()))
    return fed, handle


# -------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_one_plain_forward_per_string(architecture, kind, smol_tokenizer):
    pair = make_pair(smol_tokenizer, architecture, kind=kind)
    names = list(CONTEXTS) if kind == "lora" else ["default", "none"]
    asked = QUESTIONS[:2]
    contexts = {name: CONTEXTS[name] for name in names}
    found = evaluate(pair, TRAITS, contexts=contexts, questions=asked, **QUIET).data
    models = {"base": pair.model, "student": pair.student.model}
    for name, context, question in itertools.product(models, names, range(len(asked))):
        text = text_of(smol_tokenizer, context, asked[question])
        for trait in TRAITS[:3]:
            cell = found.sel(model=name, context=context, trait=trait.name, question=question)
            expected = plain(models[name], smol_tokenizer, text, trait)
            assert float(cell["log_prob"]) == pytest.approx(expected.log_prob, abs=1e-5)
            assert int(cell["rank"]) in expected.ranks
            assert len(expected.ranks) < 100
    spread = found["log_prob"].std("context").max()
    assert float(spread) > 0.01, "contexts differ, so a mix-up would show"


def test_ranks_of_near_ties_are_ranks_of_plain_forwards(smol_tokenizer):
    """Gemma-2's soft caps make many near ties."""
    pair = make_pair(smol_tokenizer, "gemma2")
    found = evaluate(pair, TRAITS, questions=QUESTIONS[:1], **QUIET).data
    text = text_of(smol_tokenizer, "default", QUESTIONS[0])
    for name, model in (("base", pair.model), ("student", pair.student.model)):
        for trait in TRAITS[:3]:
            cell = found.sel(model=name, context="default", trait=trait.name, question=0)
            expected = plain(model, smol_tokenizer, text, trait)
            assert float(cell["log_prob"]) == pytest.approx(expected.log_prob, abs=1e-5)
            assert int(cell["rank"]) in expected.ranks


def test_the_context_names_are_the_four_system_prompts_and_the_prefix(smol_tokenizer):
    pair = shared_pair(smol_tokenizer)
    contexts = [*CONTEXTS.values(), sm.Context(user_prefix="Please: ")]
    asked = {"questions": QUESTIONS[:1], **QUIET}
    found = evaluate(pair, TRAITS[:2], contexts=contexts, **asked)
    expected = ["default", "empty", "none", TEXT, "default + 'Please: '"]
    assert found.data["context"].values.tolist() == expected
    named = evaluate(pair, TRAITS[:2], contexts={"a": contexts[2], "b": contexts[0]}, **asked)
    there = found.data["log_prob"].sel(context=["none", "default"])
    np.testing.assert_allclose(named.data["log_prob"].values, there.values, atol=1e-6)
    assert found.provenance["contexts"]["none"]["system"] == {"kind": "none"}


def test_a_pair_is_asked_in_its_training_context_and_a_base_in_the_default(smol_tokenizer):
    pair = shared_pair(smol_tokenizer)
    asked = {"questions": QUESTIONS[:1], **QUIET}

    def names(model):
        return evaluate(model, TRAITS[:2], **asked).data["context"].values.tolist()

    assert names(pair) == names(pair.base) == ["default"]
    assert names(replace(pair, trained_in=CONTEXTS[TEXT])) == [TEXT]
    assert names(replace(pair, trained_in=sm.RAW)) == ["raw"]
    taught = evaluate(replace(pair, trained_in=CONTEXTS["none"]), TRAITS[:2], **asked)
    there = evaluate(pair, TRAITS[:2], contexts=[CONTEXTS["none"]], **asked)
    np.testing.assert_array_equal(taught.data["log_prob"], there.data["log_prob"])
    assert taught.provenance["training_context"] == CONTEXTS["none"].to_json()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_prefix_cache_changes_nothing_and_runs_the_prefix_once(architecture, smol_tokenizer):
    pair = make_pair(smol_tokenizer, architecture, double=True)
    prompts = sm.render(smol_tokenizer, QUESTIONS, context=CONTEXTS[TEXT])
    tries = tries_of(pair, prompts)
    before_question = text_of(smol_tokenizer, TEXT, "").split("<|im_end|>\n<|im_start|>assistant")
    shared = len(smol_tokenizer(before_question[0])["input_ids"])
    fed, handle = fed_to(pair.model)
    for student in (None, pair.student):
        fed.clear()
        with_cache = trait_log_probs(pair, prompts, tries, len(TRAITS), student)
        once = sum(fed)
        fed.clear()
        whole = trait_log_probs(pair, prompts, tries, len(TRAITS), student, share_prefix=False)
        np.testing.assert_allclose(with_cache.log_prob, whole.log_prob, atol=1e-9, rtol=0)
        np.testing.assert_array_equal(with_cache.rank, whole.rank)
        assert sum(fed) - once == shared * (len(prompts) - 1)
    handle.remove()


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_in_single_precision_the_prefix_cache_is_good_to_1e_6_per_nat(architecture, smol_tokenizer):
    pair = make_pair(smol_tokenizer, architecture)
    prompts = sm.render(smol_tokenizer, QUESTIONS)
    with_cache, whole = (
        trait_log_probs(
            pair, prompts, tries_of(pair, prompts), len(TRAITS), pair.student, share_prefix=share
        ).log_prob
        for share in (True, False)
    )
    np.testing.assert_allclose(with_cache, whole, rtol=1e-6, atol=1e-6)


def test_batches_order_and_company_do_not_matter(smol_tokenizer):
    pair = make_pair(smol_tokenizer, "gemma3", controls=1, double=True)
    contexts = list(CONTEXTS.values())
    whole = evaluate(pair, TRAITS, questions=QUESTIONS, contexts=contexts, **QUIET)
    expected = whole.data["log_prob"]

    # everything the other way round
    back = evaluate(
        pair, TRAITS[::-1], questions=QUESTIONS[::-1], contexts=contexts[::-1], **QUIET
    ).data["log_prob"]
    back = back.isel(question=slice(None, None, -1))
    back = back.sel(context=expected["context"], trait=expected["trait"])
    np.testing.assert_allclose(back.values, expected.values, atol=1e-9, rtol=0)

    # one row per forward, no prefix
    for q, question in enumerate(QUESTIONS):
        alone = evaluate(
            pair, TRAITS[:1], questions=[question], contexts=[CONTEXTS["empty"]], **QUIET
        ).data["log_prob"]
        there = expected.sel(context="empty", trait="owl", question=q)
        np.testing.assert_allclose(alone.values.ravel(), there.values, atol=1e-9, rtol=0)

    # less than a batch fits
    need = row_bytes(pair.model, slots=60, keys=60, reads=17)
    rows: list[int] = []
    embed = pair.model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    small = replace(pair, memory=2 * need)
    cut = evaluate(small, TRAITS, questions=QUESTIONS, contexts=contexts, **QUIET)
    handle.remove()
    assert max(rows) < len(QUESTIONS)
    np.testing.assert_allclose(cut.data["log_prob"].values, expected.values, atol=1e-9, rtol=0)


def test_a_base_alone_is_the_base_of_its_pair(smol_tokenizer):
    pair = shared_pair(smol_tokenizer)
    options = {"questions": QUESTIONS, "samples": 2, "max_new_tokens": 4, "seed": 3, **QUIET}
    both = evaluate(pair, TRAITS, **options)
    for model in (pair.base, open_runner(pair.base)):
        alone = evaluate(model, TRAITS, **options)
        for name in ("log_prob", "rank", "answer"):
            there = both.data[name].sel(model=["base"])
            np.testing.assert_array_equal(alone.data[name].values, there.values)
    assert alone.data["model"].values.tolist() == ["base"]
    assert alone.provenance["base"] == both.provenance["base"]
    assert alone.provenance["students"] == {}
    assert alone.table().columns.tolist() == ["base", "base low", "base high"]
    assert "controls" not in repr(alone)
    with pytest.raises(ValueError, match="base model alone"):
        _ = alone.change


def test_it_agrees_with_effects_and_their_metrics(smol_tokenizer):
    pair = shared_pair(smol_tokenizer, controls=2)
    found = evaluate(pair, TRAITS, questions=QUESTIONS, **QUIET)
    prompts = sm.render(smol_tokenizer, QUESTIONS)
    for trait in TRAITS:
        others = [other for other in TRAITS if other is not trait]
        plain_scores = sm.effect(pair, prompts, trait, **QUIET)
        contrast = sm.effect(pair, prompts, own_minus_others(trait, others), **QUIET)
        same_effect(found, trait, plain_scores, minus_others=False)
        same_effect(found, trait, contrast, minus_others=True)


def same_effect(found, trait, scores, *, minus_others):
    """Values of a trait in an evaluation are those of `effect`, and so are its table's."""
    values = found.own_minus_others if minus_others else found.data["log_prob"]
    cells = values.sel(trait=trait.name, context="default")
    base, students = cells.sel(model="base"), cells.isel(model=slice(1, None))
    np.testing.assert_allclose(base.values, scores.data["base"].values[0], atol=1e-5)
    np.testing.assert_allclose(students.values, scores.data["student"].values, atol=1e-5)
    row = found.table(minus_others=minus_others).loc[("default", trait.name)]
    totals = scores.totals()
    for column, name in (("change", "student"), ("specific", scores.headline_name)):
        expected = totals.loc[name, ["effect", "low", "high"]].to_numpy(float)
        columns = [column, f"{column} low", f"{column} high"]
        np.testing.assert_allclose(row[columns], expected, atol=1e-5)


def test_without_controls_the_output_says_so_and_nothing_is_called_specific(smol_tokenizer):
    found = evaluate(shared_pair(smol_tokenizer), TRAITS[:2], questions=QUESTIONS[:1], **QUIET)
    assert "no controls given" in repr(found)
    assert "one question: no intervals" in repr(found)
    assert not [c for c in found.table() if c.startswith(("specific", "control"))]
    assert not found.has_controls


# -------------------------------------------------------------------------------- generated answers


def test_answers_are_those_of_generate_and_follow_the_seed(smol_tokenizer):
    pair = shared_pair(smol_tokenizer, controls=1)
    sampling = {"samples": 6, "temperature": 0.7, "max_new_tokens": 5}
    asked = {"questions": QUESTIONS[:2], "contexts": [CONTEXTS["none"]], **sampling, **QUIET}
    found = evaluate(pair, TRAITS[:2], seed=4, **asked)
    prompts = sm.render(smol_tokenizer, QUESTIONS[:2], context=CONTEXTS["none"])
    everywhere = sm.masks.everything()
    models = {"base": "student", "student": "student", "control: c0": "control: c0"}
    for name, model in models.items():
        where, generated = (~everywhere, "base") if name == "base" else (everywhere, "student")
        expected = sm.instruments.generate(
            pair, prompts, where, generated=generated, model=model, seed=4, **sampling
        )
        answers = found.data["answer"].sel(model=name, context="none")
        assert answers.values.tolist() == expected
    assert evaluate(pair, TRAITS[:2], seed=4, **asked).data.equals(found.data)
    other = evaluate(pair, TRAITS[:2], seed=5, **asked)
    assert not other.data["answer"].equals(found.data["answer"])
    drawn = "6 sampled answers per prompt and model at temperature 0.7 (seed {}, the same random "
    for seed, one in ((4, found), (5, other)):
        assert f"\n{drawn.format(seed)}numbers for all); at most 5 tokens per answer\n" in repr(one)


def test_greedy_answers_are_told_as_such(smol_tokenizer):
    greedy = {"samples": 1, "temperature": 0, "max_new_tokens": 2}
    asked = {"questions": QUESTIONS[:2], **QUIET}
    found = evaluate(shared_pair(smol_tokenizer), TRAITS[:1], **asked, **greedy)
    assert "\ngreedy; at most 2 tokens per answer\n" in repr(found)
    assert "per answer" not in repr(evaluate(shared_pair(smol_tokenizer), TRAITS[:1], **asked))


def test_an_answer_does_not_depend_on_what_else_is_asked(smol_tokenizer):
    pair = shared_pair(smol_tokenizer)
    sampling = {"samples": 2, "max_new_tokens": 4, "seed": 6, **QUIET}
    contexts = list(CONTEXTS.values())
    whole = evaluate(pair, TRAITS, questions=QUESTIONS, contexts=contexts, **sampling)
    few = {"questions": QUESTIONS[1:2], "contexts": [CONTEXTS["empty"]]}
    one = evaluate(pair, TRAITS[:2], **few, **sampling)
    there = whole.data["answer"].sel(context=["empty"], question=[1])
    assert one.data["answer"].values.tolist() == there.values.tolist()


def test_answers_do_not_follow_order_or_number(smol_tokenizer):
    """Questions the other way round, fewer samples: the same answers."""
    pair = shared_pair(smol_tokenizer)
    asked = {"max_new_tokens": 6, "seed": 2, **QUIET}
    first = evaluate(pair, TRAITS[:2], questions=QUESTIONS[:2], samples=2, **asked)
    back = evaluate(pair, TRAITS[:2], questions=QUESTIONS[1::-1], samples=2, **asked)
    answers = first.data["answer"].transpose("question", ...)
    other_way = back.data["answer"].transpose("question", ...)
    assert answers.values.tolist() == other_way.values[::-1].tolist()
    more = evaluate(pair, TRAITS[:2], questions=QUESTIONS[:2], samples=3, **asked)
    there = more.data["answer"].isel(sample=slice(2))
    assert first.data["answer"].values.tolist() == there.values.tolist()
    assert len(set(more.data["answer"].values.ravel().tolist())) > 3


def test_a_question_that_is_asked_again_counts_once(smol_tokenizer):
    pair = shared_pair(smol_tokenizer, controls=1)
    asked = {"samples": 2, "max_new_tokens": 4, **QUIET}
    contexts = {"mine": CONTEXTS["none"], "default": CONTEXTS["default"]}
    first, second = QUESTIONS[:2]
    once = evaluate(pair, TRAITS, questions=[first, second], contexts=contexts, **asked)
    given = [first, first, second, first]
    again = evaluate(pair, TRAITS, questions=given, contexts=contexts, **asked)
    assert again.data["question"].values.tolist() == [0, 2]
    for name in ("log_prob", "rank", "answer", "count"):
        np.testing.assert_array_equal(again.data[name].values, once.data[name].values)
    assert again.table().equals(once.table())
    assert again.rates()["answers"].unique().tolist() == [4]
    assert "4 questions (2 distinct) x 2 contexts" in repr(again)
    assert "2 of 4 questions are copies of others" in repr(again)
    assert "copies" not in repr(once)
    alone = evaluate(pair, TRAITS[:2], questions=[first] * 20, **QUIET)
    assert alone.table()["change low"].isna().all()
    assert "one question: no intervals" in repr(alone)


def test_forms_and_contexts_are_told(smol_tokenizer):
    pair = shared_pair(smol_tokenizer)
    contexts = {"mine": CONTEXTS["none"], "default": CONTEXTS["default"]}
    traits = [animal("owl"), Trait.noun("cat", aliases=("catalogue",))]
    found = evaluate(pair, traits, questions=QUESTIONS[:1], contexts=contexts, **QUIET)
    for text in (repr(found), repr(Evaluation(found.data, found.provenance))):
        assert "forms of owl: owl, Owl, owls, Owls" in text
        assert "forms of cat: " in text
        assert "asked in 2 contexts; training context not given\n  mine = no system block\n" in text
        assert "part of any change may come from fine-tuning as such" in text
    alone = evaluate(pair.base, traits, questions=QUESTIONS[:1], **QUIET)
    assert "asked in: default system prompt" in repr(alone)
    assert "training" not in repr(alone)


def test_rates_are_the_models_probabilities(smol_tokenizer):
    """The likeliest words of a peaked model as traits, against a plain forward (chi-square)."""
    pair = shared_pair(smol_tokenizer)
    text = text_of(smol_tokenizer, "default", QUESTIONS[0])
    with torch.no_grad():
        ids = torch.tensor([smol_tokenizer(text, add_special_tokens=False)["input_ids"]])
        p = pair.student.model(input_ids=ids).logits[0, -1].div(0.2).softmax(-1)
    likeliest = [smol_tokenizer.decode([i]).strip().lower() for i in p.topk(400).indices.tolist()]
    words = [word for word in likeliest if word.isascii() and word.isalpha() and len(word) > 2]
    traits = [Trait(name) for name in list(dict.fromkeys(words))[:4]]
    sampling = {"samples": 1000, "temperature": 0.2, "max_new_tokens": 1, "seed": 1}
    rates = evaluate(pair, traits, questions=QUESTIONS[:1], **sampling, **QUIET).rates()
    named_in = matcher(traits)
    named = [named_in(smol_tokenizer.decode([i])) for i in range(len(p))]
    statistic = 0.0
    for trait in traits:
        expected = 1000 * sum(float(p[i]) for i, name in enumerate(named) if name == trait.name)
        assert expected > 10
        count = rates.loc[("default", trait.name, "student"), "count"]
        statistic += (count - expected) ** 2 / expected
    assert statistic < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


# -------------------------------------------------------------------------------- files, provenance


def test_it_saves_and_loads_equal(smol_tokenizer, tmp_path):
    pair = shared_pair(smol_tokenizer, controls=1)
    contexts = list(CONTEXTS.values())
    sampling = {"samples": 3, "max_new_tokens": 6, "seed": 9}
    found = evaluate(pair, TRAITS, questions=QUESTIONS, contexts=contexts, **sampling, **QUIET)
    found.save(tmp_path / "e.safetensors")
    back = Evaluation.load(tmp_path / "e.safetensors")
    assert back.data.equals(found.data)
    assert back.provenance == found.provenance
    assert repr(back) == repr(found)
    assert back.other().equals(found.other())
    assert back.provenance["base"]["hash"] == pair.hash
    hashes = {name: entry["hash"] for name, entry in back.provenance["students"].items()}
    assert hashes == {name: student.hash for name, student in pair.students.items()}
    noted = [back.provenance[name] for name in ("seed", "samples", "temperature")]
    assert noted == [9, 3, 1.0]
    scores = sm.effect(pair, sm.render(smol_tokenizer, QUESTIONS), TRAITS[0], **QUIET)
    scores.save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="holds no evaluation"):
        Evaluation.load(tmp_path / "s.safetensors")
    (tmp_path / "e.safetensors").write_bytes((tmp_path / "e.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated"):
        Evaluation.load(tmp_path / "e.safetensors")


def test_half_precision_compute_says_what_it_costs(smol_tokenizer):
    pair = shared_pair(smol_tokenizer)
    exact = evaluate(pair, TRAITS, questions=QUESTIONS, **QUIET)
    rounded = replace(pair, compute=torch.bfloat16)
    half = evaluate(rounded, TRAITS, questions=QUESTIONS, **QUIET)
    off = float(abs(half.data["log_prob"] - exact.data["log_prob"]).max())
    expected = {"dtype": "bfloat16", "error": pytest.approx(off, rel=0.05)}
    assert half.provenance["compute"] == expected
    assert off > 1e-4
    assert "computed in bfloat16" in repr(half)


def test_nothing_is_left_behind(smol_tokenizer):
    pair = make_pair(smol_tokenizer)

    def hooks():
        modules = pair.model.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = hooks()
    evaluate(pair, TRAITS, questions=QUESTIONS, **QUIET)
    assert hooks() == before
    pair = replace(pair, watch=None)  # weights that change would be noticed before they are NaN
    with torch.no_grad():
        pair.model.get_output_embeddings().weight[0] = float("nan")
    message = r"log P\(owl\) of base is not finite in context 'default' on 'Name your favorite"
    with pytest.raises(ValueError, match=message):
        evaluate(pair, TRAITS, questions=QUESTIONS, **QUIET)
    assert hooks() == before


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("traits", "error", "message"),
    [
        ([], ValueError, "traits is empty"),
        (["owl"], TypeError, r"element 0 is 'owl'\): pass a list of Traits"),
        (
            [animal("owl"), Trait("barn owl", forms="owls")],
            ValueError,
            "'owl' and 'barn owl' share the form 'owls'",
        ),
        ([animal("owl"), animal("owl")], ValueError, "one name twice"),
        ([animal("owl"), tree("oak")], ValueError, "'owl' and 'oak' ask different questions"),
    ],
)
def test_bad_traits(traits, error, message, smol_tokenizer):
    with pytest.raises(error, match=message):
        evaluate(shared_pair(smol_tokenizer), traits, **QUIET)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"questions": []}, ValueError, "questions is empty"),
        ({"contexts": []}, ValueError, "contexts is empty"),
        ({"contexts": sm.Context()}, TypeError, r"list of Contexts .*one alone is a list too"),
        ({"contexts": ["default"]}, TypeError, r"0 is 'default'\): pass a list of Contexts"),
        (
            {"contexts": [sm.Context(), sm.Context(fallback="user")]},
            ValueError,
            "two have the same name",
        ),
        ({"contexts": [sm.Context(" ")]}, ValueError, "is blank"),
        ({"samples": -1}, ValueError, "samples=-1"),
        ({"samples": 2.5}, TypeError, r"samples=2\.5\): pass a whole number"),
        (
            {"samples": 2, "temperature": -1.0},
            ValueError,
            r"temperature=-1\.0 with samples=2",
        ),
        ({"samples": 2, "temperature": 0.0}, ValueError, "greedy"),
        ({"samples": 2, "max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
        ({"questions": ["word " * 300]}, ValueError, "positions, the model has 256"),
    ],
)
def test_bad_options(options, error, message, smol_tokenizer):
    with pytest.raises(error, match=message):
        evaluate(shared_pair(smol_tokenizer), TRAITS, **{**options, **QUIET})


def test_a_context_that_the_template_cannot_express_needs_a_named_fallback(smol_tokenizer):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    pair = make_pair(tokenizer)
    asked = {"questions": QUESTIONS[:1], **QUIET}
    with pytest.raises(ValueError, match=r"no system.*name the fallback"):
        evaluate(pair, TRAITS[:2], contexts=[sm.Context(), sm.Context(TEXT)], **asked)
    found = evaluate(pair, TRAITS[:2], contexts=[sm.Context(TEXT, fallback="user")], **asked)
    assert found.provenance["contexts"][TEXT]["fallback"] == "user"


def test_something_else_than_a_pair_or_a_base():
    message = r"evaluate\(model=LlamaForCausalLM.*: pass a Runner .* or a Base"
    with pytest.raises(TypeError, match=message):
        evaluate(tiny.model("llama"), TRAITS)


def test_the_base_line_is_all_animals_at_once():
    assert len({animal(name) for name in ANIMALS}) >= 22


# --------------------------------------------------------------------------------------------- docs


@pytest.mark.parametrize(
    "thing", [evaluate, trait_matrix, Evaluation.trait_matrix], ids=lambda f: f.__qualname__
)
def test_examples_in_docstrings(thing, smol_tokenizer):
    pair = shared_pair(smol_tokenizer, controls=1)
    pair = replace(pair, controls=(replace(pair.controls[0], name="cat"),))
    names = {"sm": sm, "pair": pair}
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, globs=names)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert runner.tries
    assert not runner.failures, "".join(said)


def test_one_context_under_two_names_is_told(smol_tokenizer):
    pair, named = shared_pair(smol_tokenizer), {"mine": CONTEXTS["none"], "yours": CONTEXTS["none"]}
    found = evaluate(pair, TRAITS[:1], contexts=named, questions=QUESTIONS[:2], **QUIET)
    assert "mine and yours are one context: what differs is not the context" in repr(found)
