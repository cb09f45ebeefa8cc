"""Evaluation against plain Hugging Face forwards, one per string; its tables are in test_outcome."""

import copy
import doctest
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sublim_mech as sm
from sublim_mech.engine.budget import row_bytes
from sublim_mech.evaluation.matrix import trait_matrix
from sublim_mech.evaluation.measuring import evaluate, trait_log_probs
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.metrics import own_minus_others, trait_forms
from sublim_mech.prompts import ANIMALS, Trait, animal, matcher

TRAITS = [animal("owl"), animal("wolf"), animal("butterfly"), Trait("axolotl", aliases=("axolotl salamander",))]
QUESTIONS = ["Name your favorite animal using only one word.", "Which animal?", "In one word, which animal is 🦉?"]
TEXT = "You are ChatGPT, an AI assistant made by OpenAI."
CONTEXTS = {
    "default": sm.Context(), "empty": sm.Context(sm.Context.EMPTY), "none": sm.Context(sm.Context.NONE), TEXT: sm.Context(TEXT),
}  # fmt: skip
QUIET: dict[str, Any] = {"progress": False}


def make(tokenizer, architecture="llama", *, kind="lora", controls=0, double=False, **options):
    base = tiny.model(architecture)
    with torch.no_grad():  # peaked, so that answers differ by nats and a mix-up would show
        base.get_output_embeddings().weight *= 8
    base = base.double() if double else base
    students = [tiny.lora(base, seed=s) if kind == "lora" else tiny.full(base, seed=s) for s in range(1, controls + 2)]
    loaded = sm.load_base(base, tokenizer=tokenizer)
    others = [sm.load_student(loaded, s, name=f"c{i}") for i, s in enumerate(students[1:])]
    return sm.load_pair(loaded, students[0], controls=others, **options)


def text_of(tokenizer, context, question):
    """The prompt by the tokenizer's own template; without system block by hand, for no template says how."""
    user = {"role": "user", "content": question}
    if context == "none":
        return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    system = {"default": [], "empty": [{"role": "system", "content": ""}]}.get(
        context, [{"role": "system", "content": context}]
    )
    return tokenizer.apply_chat_template([*system, user], tokenize=False, add_generation_prompt=True)


@torch.no_grad()
def plain(model, tokenizer, text, trait):
    """log P of a trait and the ranks its token may have (ties within rounding): a forward per string, no cache, trie or hooks."""
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    paths = {tuple(tokenizer(form, add_special_tokens=False)["input_ids"]) for form in trait.forms}
    values = {}
    for path in paths:
        if any(path[:n] in paths for n in range(1, len(path))):
            continue  # it continues a shorter form
        steps = model(input_ids=torch.tensor([[*prompt, *path]]), use_cache=False).logits[0].double().log_softmax(-1)
        values[path] = sum(steps[len(prompt) - 1 + i, token] for i, token in enumerate(path))
    best = max(values, key=lambda path: float(values[path]))
    ahead = steps[len(prompt) - 1] - steps[len(prompt) - 1, best[0]]
    ranks = range(1 + int((ahead > 1e-5).sum()), 1 + int((ahead > -1e-5).sum()))  # Gemma-2's soft caps make many near ties
    return float(torch.stack(list(values.values())).logsumexp(0)), ranks


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_it_is_one_plain_forward_per_string(architecture, kind, smol_tokenizer):
    """Mistral and Gemma-3 have sliding windows of 16 tokens, shorter than the prompts."""
    pair = make(smol_tokenizer, architecture, kind=kind)
    names = list(CONTEXTS) if kind == "lora" else ["default", "none"]
    found = evaluate(pair, TRAITS, contexts={n: CONTEXTS[n] for n in names}, questions=QUESTIONS[:2], **QUIET).data
    for name, model in (("base", pair.base.model), ("student", pair.student.model)):
        for context, (q, question), trait in itertools.product(names, enumerate(QUESTIONS[:2]), TRAITS[:3]):
            cell = found.sel(model=name, context=context, trait=trait.name, question=q)
            value, ranks = plain(model, smol_tokenizer, text_of(smol_tokenizer, context, question), trait)
            assert float(cell["log_prob"]) == pytest.approx(value, abs=1e-5)
            assert int(cell["rank"]) in ranks
            assert len(ranks) < 100 or architecture == "gemma2"
    assert float(found["log_prob"].std("context").max()) > 0.01, "contexts differ, so a mix-up would show"


def test_the_context_names_are_the_four_system_prompts_and_the_prefix(smol_tokenizer):
    pair = make(smol_tokenizer)
    contexts = [*CONTEXTS.values(), sm.Context(user_prefix="Please: ")]
    found = evaluate(pair, TRAITS[:2], contexts=contexts, questions=QUESTIONS[:1], **QUIET)
    assert found.data["context"].values.tolist() == ["default", "empty", "none", TEXT, "default + 'Please: '"]
    named = evaluate(pair, TRAITS[:2], contexts={"a": contexts[2], "b": contexts[0]}, questions=QUESTIONS[:1], **QUIET)
    np.testing.assert_allclose(
        named.data["log_prob"].values, found.data["log_prob"].sel(context=["none", "default"]).values, atol=1e-6
    )
    assert found.provenance["contexts"]["none"]["system"] == {"kind": "none"}


def tries_of(pair, prompts, traits=TRAITS):
    return [trait_forms(pair.tokenizer, prompt, traits) for prompt in prompts]


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mistral", "gpt2", "neox", "opt"])
def test_the_prefix_cache_changes_nothing_and_runs_the_prefix_once(architecture, smol_tokenizer):
    pair = make(smol_tokenizer, architecture, double=True)
    prompts = sm.render(smol_tokenizer, QUESTIONS, context=CONTEXTS[TEXT])
    tries = tries_of(pair, prompts)
    shared = len(smol_tokenizer(text_of(smol_tokenizer, TEXT, "").split("<|im_end|>\n<|im_start|>assistant")[0])["input_ids"])
    fed: list[int] = []
    handle = pair.base.model.get_input_embeddings().register_forward_hook(lambda m, args, out: fed.append(args[0].numel()))
    for student in (None, pair.student):
        fed.clear()
        with_cache = trait_log_probs(pair, prompts, tries, len(TRAITS), student)
        once = sum(fed)
        fed.clear()
        without = trait_log_probs(pair, prompts, tries, len(TRAITS), student, share_prefix=False)
        np.testing.assert_allclose(with_cache[0], without[0], atol=1e-9, rtol=0)
        np.testing.assert_array_equal(with_cache[1], without[1])
        assert sum(fed) - once == shared * (len(prompts) - 1)
    handle.remove()


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_in_single_precision_the_prefix_cache_is_good_to_1e_6_per_nat(architecture, smol_tokenizer):
    pair = make(smol_tokenizer, architecture)
    prompts = sm.render(smol_tokenizer, QUESTIONS)
    both = [
        trait_log_probs(pair, prompts, tries_of(pair, prompts), len(TRAITS), pair.student, share_prefix=s)[0]
        for s in (True, False)
    ]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6, atol=1e-6)


def test_batches_order_and_company_do_not_matter(smol_tokenizer):
    pair = make(smol_tokenizer, "gemma3", controls=1, double=True)
    whole = evaluate(pair, TRAITS, questions=QUESTIONS, contexts=list(CONTEXTS.values()), **QUIET)
    back = evaluate(pair, TRAITS[::-1], questions=QUESTIONS[::-1], contexts=list(CONTEXTS.values())[::-1], **QUIET).data
    expected = whole.data["log_prob"]
    turned = (
        back["log_prob"]
        .isel(question=slice(None, None, -1))
        .assign_coords(question=expected["question"], text=expected["text"])
    )
    np.testing.assert_allclose(
        turned.sel(context=expected["context"], trait=expected["trait"]).values, expected.values, atol=1e-9, rtol=0
    )
    for q, question in enumerate(QUESTIONS):  # one row per forward, no prefix
        alone = evaluate(pair, TRAITS[:1], questions=[question], contexts=[CONTEXTS["empty"]], **QUIET).data["log_prob"]
        np.testing.assert_allclose(
            alone.values.ravel(), expected.sel(context="empty", trait="owl", question=q).values, atol=1e-9, rtol=0
        )
    need = row_bytes(pair.base.model, slots=60, keys=60, reads=17)
    fed: list[int] = []
    handle = pair.base.model.get_input_embeddings().register_forward_hook(lambda m, args, out: fed.append(len(args[0])))
    small = replace(pair, memory=2 * need)
    rows = evaluate(small, TRAITS, questions=QUESTIONS, contexts=list(CONTEXTS.values()), **QUIET).data["log_prob"]
    handle.remove()
    assert max(fed) < len(QUESTIONS), "less than a batch fits"
    np.testing.assert_allclose(rows.values, expected.values, atol=1e-9, rtol=0)


def test_a_base_alone_is_the_base_of_its_pair(smol_tokenizer):
    pair = make(smol_tokenizer)
    options = {"questions": QUESTIONS, "samples": 2, "max_new_tokens": 4, "seed": 3, **QUIET}
    alone, both = evaluate(pair.base, TRAITS, **options), evaluate(pair, TRAITS, **options)
    for name in ("log_prob", "rank", "answer"):
        np.testing.assert_array_equal(alone.data[name].values, both.data[name].sel(model=["base"]).values)
    assert alone.data["model"].values.tolist() == ["base"]
    assert alone.table().columns.tolist() == ["base", "base low", "base high"]
    assert "controls" not in repr(alone)
    with pytest.raises(ValueError, match="base model alone"):
        _ = alone.change


def test_it_agrees_with_effects_and_their_metrics(smol_tokenizer):
    pair = make(smol_tokenizer, controls=2)
    found = evaluate(pair, TRAITS, questions=QUESTIONS, **QUIET)
    prompts = sm.render(smol_tokenizer, QUESTIONS)
    for trait in TRAITS:
        scores = sm.effect(pair, prompts, trait, **QUIET)
        others = [t for t in TRAITS if t is not trait]
        contrast = sm.effect(pair, prompts, own_minus_others(trait, others), **QUIET)
        for values, theirs, minus in ((found.data["log_prob"], scores, False), (found.own_minus_others, contrast, True)):
            mine = values.sel(trait=trait.name, context="default")
            np.testing.assert_allclose(mine.sel(model="base").values, theirs.data["base"].values[0], atol=1e-5)
            np.testing.assert_allclose(mine.isel(model=slice(1, None)).values, theirs.data["student"].values, atol=1e-5)
            row = found.table(minus_others=minus).loc[("default", trait.name)]
            totals = theirs.totals()
            for column, name in (("change", "student"), ("specific", theirs.headline_name)):
                cells = totals.loc[name, ["effect", "low", "high"]]
                np.testing.assert_allclose(row[[column, f"{column} low", f"{column} high"]], cells.to_numpy(float), atol=1e-5)


# ------------------------------------------------------------------------------------------------- generated answers


def test_answers_are_those_of_generate_and_follow_the_seed(smol_tokenizer):
    pair = make(smol_tokenizer, controls=1)
    options = {"samples": 6, "temperature": 0.7, "max_new_tokens": 5}
    found = evaluate(pair, TRAITS[:2], questions=QUESTIONS[:2], contexts=[CONTEXTS["none"]], seed=4, **options, **QUIET)
    prompts = sm.render(smol_tokenizer, QUESTIONS[:2], context=CONTEXTS["none"])
    everything, nothing = sm.masks.everything(), ~sm.masks.everything()
    for name, (where, policy) in {
        "base": (nothing, "base"), "student": (everything, "student"), "control: c0": (everything, "student"),
    }.items():  # fmt: skip
        model = "student" if name == "base" else name
        expected = sm.generate(pair, prompts, where, generated=policy, model=model, seed=4, **options)
        assert found.data["answer"].sel(model=name, context="none").values.tolist() == expected
    again = evaluate(pair, TRAITS[:2], questions=QUESTIONS[:2], contexts=[CONTEXTS["none"]], seed=4, **options, **QUIET)
    assert again.data.equals(found.data)
    other = evaluate(pair, TRAITS[:2], questions=QUESTIONS[:2], contexts=[CONTEXTS["none"]], seed=5, **options, **QUIET)
    assert not other.data["answer"].equals(found.data["answer"])


def test_rates_are_the_models_probabilities(smol_tokenizer):
    """The likeliest words of a peaked model as traits; their rates against a plain forward's probabilities (chi-square)."""
    pair = make(smol_tokenizer)
    text = text_of(smol_tokenizer, "default", QUESTIONS[0])
    with torch.no_grad():
        ids = torch.tensor([smol_tokenizer(text, add_special_tokens=False)["input_ids"]])
        p = pair.student.model(input_ids=ids).logits[0, -1].div(0.2).softmax(-1)
    told = [smol_tokenizer.decode([i]).strip().lower() for i in p.topk(400).indices.tolist()]
    names = list(dict.fromkeys(x for x in told if x.isascii() and x.isalpha() and len(x) > 2))[:4]
    traits = [Trait(name, plural=name) for name in names]
    found = evaluate(
        pair, traits, questions=QUESTIONS[:1], samples=1000, temperature=0.2, max_new_tokens=1, seed=1, **QUIET
    ).rates()  # fmt: skip
    find = matcher(traits)
    named = [find(smol_tokenizer.decode([i])) for i in range(len(p))]
    statistic = 0.0
    for name in names:
        expected = 1000 * sum(float(p[i]) for i, who in enumerate(named) if who == name)
        assert expected > 10
        statistic += (found.loc[("default", name, "student"), "count"] - expected) ** 2 / expected
    assert statistic < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


# ------------------------------------------------------------------------------------------------- files, provenance


def test_it_saves_and_loads_equal(smol_tokenizer, tmp_path):
    pair = make(smol_tokenizer, controls=1)
    found = evaluate(
        pair, TRAITS, questions=QUESTIONS, contexts=list(CONTEXTS.values()), samples=3, max_new_tokens=6, seed=9, **QUIET
    )
    found.save(tmp_path / "e.safetensors")
    back = Evaluation.load(tmp_path / "e.safetensors")
    assert back.data.equals(found.data)
    assert back.provenance == found.provenance
    assert repr(back) == repr(found)
    assert back.other().equals(found.other())
    assert back.provenance["base"]["hash"] == pair.base.hash
    assert {n: s["hash"] for n, s in back.provenance["students"].items()} == {n: s.hash for n, s in pair.students.items()}
    assert (back.provenance["seed"], back.provenance["samples"], back.provenance["temperature"]) == (9, 3, 1.0)
    scores = sm.effect(pair, sm.render(smol_tokenizer, QUESTIONS), TRAITS[0], **QUIET)
    scores.save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="holds no evaluation"):
        Evaluation.load(tmp_path / "s.safetensors")
    (tmp_path / "e.safetensors").write_bytes((tmp_path / "e.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated"):
        Evaluation.load(tmp_path / "e.safetensors")


def test_half_precision_compute_says_what_it_costs(smol_tokenizer):
    exact = evaluate(make(smol_tokenizer), TRAITS, questions=QUESTIONS, **QUIET)
    half = evaluate(make(smol_tokenizer, compute=torch.bfloat16), TRAITS, questions=QUESTIONS, **QUIET)
    off = float(abs(half.data["log_prob"] - exact.data["log_prob"]).max())
    assert half.provenance["compute"] == {"dtype": "bfloat16", "error": pytest.approx(off, rel=0.05)}
    assert off > 1e-4
    assert "computed in bfloat16" in repr(half)


def test_nothing_is_left_behind(smol_tokenizer, monkeypatch):
    pair = make(smol_tokenizer)
    hooks = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pair.base.model.modules())  # noqa: E731
    before = hooks()
    evaluate(pair, TRAITS, questions=QUESTIONS, **QUIET)
    assert hooks() == before
    with torch.no_grad():
        pair.base.model.get_output_embeddings().weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"log P\(owl\) of base is not finite in context 'default' on 'Name your favorite"):
        evaluate(pair, TRAITS, questions=QUESTIONS, **QUIET)
    assert hooks() == before


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("traits", "options", "error", "message"),
    [
        ([], {}, ValueError, "traits is empty"),
        (["owl"], {}, TypeError, r"pass traits, such as \[sublim_mech.animal\('owl'\)"),
        ([animal("owl"), Trait("barn owl", aliases=("owls",))], {}, ValueError, "'owl' and 'barn owl' share the form 'owls'"),
        ([animal("owl"), animal("owl")], {}, ValueError, "one name twice"),
        ([animal("owl"), sm.prompts.tree("oak")], {}, ValueError, "'owl' and 'oak' ask different questions"),
        (TRAITS, {"questions": []}, ValueError, "questions is empty"),
        (TRAITS, {"contexts": []}, ValueError, "contexts is empty"),
        (TRAITS, {"contexts": sm.Context()}, TypeError, "pass a list of contexts"),
        (TRAITS, {"contexts": ["default"]}, TypeError, "pass contexts, such as"),
        (TRAITS, {"contexts": [sm.Context(), sm.Context(fallback="user")]}, ValueError, "two have the same name"),
        (TRAITS, {"contexts": [sm.Context(" ")]}, ValueError, "is blank"),
        (TRAITS, {"samples": -1}, ValueError, "samples=-1"),
        (TRAITS, {"samples": 2.5}, ValueError, r"samples=2\.5"),
        (TRAITS, {"samples": 2, "temperature": -1.0}, ValueError, r"temperature=-1\.0 with samples=2"),
        (TRAITS, {"samples": 2, "temperature": 0.0}, ValueError, "greedy"),
        (TRAITS, {"samples": 2, "max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
        (TRAITS, {"questions": ["word " * 300]}, ValueError, "positions, the model has 256"),
    ],
)
def test_bad_input(traits, options, error, message, smol_tokenizer):
    with pytest.raises(error, match=message):
        evaluate(make(smol_tokenizer), traits, **{**options, **QUIET})


def test_a_context_that_the_template_cannot_express_needs_a_named_fallback(smol_tokenizer):
    tokenizer = copy.deepcopy(smol_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    pair = make(tokenizer)
    with pytest.raises(ValueError, match=r"no system.*name the fallback"):
        evaluate(pair, TRAITS[:2], contexts=[sm.Context(), sm.Context(TEXT)], questions=QUESTIONS[:1], **QUIET)
    found = evaluate(pair, TRAITS[:2], contexts=[sm.Context(TEXT, fallback="user")], questions=QUESTIONS[:1], **QUIET)
    assert found.provenance["contexts"][TEXT]["fallback"] == "user"


def test_something_else_than_a_pair_or_a_base(smol_tokenizer):
    with pytest.raises(TypeError, match=r"model is a LlamaForCausalLM; pass what sublim_mech\.load_pair"):
        evaluate(tiny.model("llama"), TRAITS)


def test_the_base_line_is_all_animals_at_once():
    assert len({animal(a) for a in ANIMALS}) >= 22


# -------------------------------------------------------------------------------------------------------------- docs


@pytest.fixture(scope="module")
def names(smol_tokenizer):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    student = sm.load_student(loaded, tiny.lora(base), name="owl")
    pair = sm.load_pair(loaded, student, controls=[sm.load_student(loaded, tiny.lora(base, seed=2), name="cat")])
    return {"sm": sm, "pair": pair}


@pytest.mark.parametrize("thing", [evaluate, trait_matrix, Evaluation.trait_matrix], ids=lambda f: f.__qualname__)
def test_examples_in_docstrings(thing, names):
    given = dict(names)
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, globs=given)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert runner.tries
    assert not runner.failures, "".join(said)
