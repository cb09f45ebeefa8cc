"""Evaluation against plain Hugging Face forwards, one per string; tables, intervals and the trait matrix against closed forms."""

import copy
import doctest
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import xarray as xr

import sublim_mech as sm
from sublim_mech.engine.budget import row_bytes
from sublim_mech.evaluation.matrix import trait_matrix
from sublim_mech.evaluation.measuring import evaluate, trait_log_probs
from sublim_mech.evaluation.outcome import Evaluation
from sublim_mech.metrics import own_minus_others, trait_forms
from sublim_mech.prompts.traits import ANIMALS, Trait, animal, match, matcher
from sublim_mech.stats import wilson

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
    others = [sm.models.load_student(loaded, s, name=f"c{i}") for i, s in enumerate(students[1:])]
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


# ------------------------------------------------------------------------------------------------------ planted tables


def planted(log_prob, models=("base", "student", "control: x"), said=None, **coords):
    """An evaluation of given numbers `(model, context, trait, question)`."""
    log_prob = np.asarray(log_prob, float)
    _, n_contexts, n_traits, n_questions = log_prob.shape
    dims = ("model", "context", "trait", "question")
    traits = [t.name for t in TRAITS[:n_traits]]
    arrays = {"log_prob": (dims, log_prob), "rank": (dims, np.arange(1, log_prob.size + 1).reshape(log_prob.shape))}
    if said is not None:
        said = np.array(said)
        named = np.vectorize(lambda x: str(match(x, TRAITS[:n_traits])))(said)
        counts = np.stack([(named == t).sum(-1) for t in traits], 2)
        arrays |= {"answer": (("model", "context", "question", "sample"), said), "count": (dims, counts)}
    data = xr.Dataset(
        arrays,
        {
            "model": list(models[: len(log_prob)]),
            "context": ["default", "empty"][:n_contexts],
            "trait": traits,
            "question": np.arange(n_questions),
            "text": ("question", ["Name an animal."] * n_questions),
            **coords,
        },
    )
    forms = {t.name: {"plural": t.plural, "aliases": list(t.aliases)} for t in TRAITS[:n_traits]}
    return Evaluation(data, {"vocabulary": 101, "traits": forms})


def test_every_context_has_its_own_base_and_control_level():
    base, student, control = [[-10, -12]], [[-5, -9]], [[-8, -8]]  # one trait, two questions
    empty = [[-3, -5]], [[-3, -4]], [[-1, -1]]
    found = planted([[base, empty[0]], [student, empty[1]], [control, empty[2]]])
    table = found.table()
    assert table.loc[("default", "owl"), ["base", "student", "controls", "change", "specific"]].tolist() == [-11, -7, -8, 4, 1]
    assert table.loc[("empty", "owl"), ["base", "student", "controls", "change", "specific"]].tolist() == [
        -4,
        -3.5,
        -1,
        0.5,
        -2.5,
    ]
    # two questions: a bootstrap mean is the one, the other or their middle, each end with probability 1/4
    assert table.loc[("default", "owl"), ["change low", "change high"]].tolist() == [3, 5]
    assert table.loc[("default", "owl"), ["specific low", "specific high"]].tolist() == [-1, 3]
    assert "no controls" not in repr(found)


def test_without_controls_the_output_says_so_and_nothing_is_called_specific(smol_tokenizer):
    found = evaluate(make(smol_tokenizer), TRAITS[:2], questions=QUESTIONS[:1], **QUIET)
    assert "no controls given" in repr(found)
    assert "one question: no intervals" in repr(found)
    assert not [c for c in found.table() if c.startswith(("specific", "control"))]
    assert not found.has_controls


def test_ranks_are_medians_with_percentiles():
    found = planted(np.zeros((1, 1, 1, 5)), models=("base",))
    found.data["rank"].values[:] = [1, 2, 3, 100, 101]
    row = found.ranks().loc[("default", "owl", "base")]
    assert row["rank"] == 3
    assert row["percentile"] == pytest.approx(98)  # of 100 other tokens, 98 rank below the third
    assert (row["low"], row["high"]) == (1, 101)  # of 5 questions; a median of 1 has probability 5.8 %, 2.9 % on each side
    found.data["rank"].values[:] = 101
    assert found.ranks()["percentile"].item() == 0


def test_rates_count_each_answer_once_with_both_intervals():
    said = [[[["Owl", "owls!", "wolf or owl", "I love rivers"], ["rivers", "Rivers.", "", "owlet"]]]]
    found = planted(np.zeros((1, 1, 2, 2)), models=("base",), said=said)
    rates = found.rates().droplevel(["context", "model"])
    assert rates["count"].to_dict() == {"owl": 2, "wolf": 1, "other": 5}
    assert set(rates["answers"]) == {8}
    assert rates.loc["owl", "rate"] == 0.25
    assert rates.loc["owl", ["wilson low", "wilson high"]].tolist() == pytest.approx(wilson(2, 8))
    assert rates.loc["owl", ["cluster low", "cluster high"]].tolist() == [0, 0.5]  # one question gives all
    other = found.other().droplevel(["context", "model"])
    assert other["answers"].to_dict() == {"rivers": 3, "(no word of its own)": 1, "owlet": 1}
    assert other.loc["rivers", "share"] == 3 / 5
    assert len(found.other(1)) == 1
    assert "25.0 [0.0, 59.1]" in repr(found), "the lower end of one and the upper end of the other"


def test_words_of_the_question_are_no_other_answers():
    found = planted(np.zeros((1, 1, 1, 1)), models=("base",), said=[[[["My animal is the axolotl", "Animal"]]]])
    assert found.other()["answers"].droplevel(["context", "model"]).to_dict() == {"(no word of its own)": 1, "axolotl": 1}


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
        expected = sm.instruments.generate(pair, prompts, where, generated=policy, model=model, seed=4, **options)
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


# ------------------------------------------------------------------------------------------------------ trait matrix


def test_gamma_is_that_of_the_square_worked_out_by_hand():
    """(.28 + .21) / 2 - (-.45 - .12) / 2 = .53; the two assignments of two students cannot give less than p = 1/2."""
    found = trait_matrix([[[0.28], [-0.45]], [[-0.12], [0.21]]], names=["owl", "penguin"])
    assert found.gamma == pytest.approx(0.53)
    assert (found.p, found.permutations, found.exact) == (0.5, 2, True)
    assert "2 students cannot give less than 0.5" in repr(found)
    np.testing.assert_allclose(found.residual, [[0.265, -0.265], [-0.265, 0.265]])
    assert math.isnan(found.low)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_gamma_is_the_least_squares_estimate_and_no_row_or_column_effect_moves_it(k):
    rng = np.random.default_rng(k)
    x = rng.normal(size=(k, k, 7))
    found = trait_matrix(x)
    design = [
        [1.0, *np.eye(k)[i], *np.eye(k)[j], float(i == j)] for i in range(k) for j in range(k)
    ]  # mean, student, trait, own  # fmt: skip
    fitted = np.linalg.lstsq(np.array(design), x.mean(2).ravel(), rcond=None)[0]
    assert found.gamma == pytest.approx(fitted[-1])
    assert found.gamma == pytest.approx(np.trace(found.residual) / (k - 1))  # the other way to say it
    np.testing.assert_allclose(found.residual.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(found.residual.sum(1), 0, atol=1e-12)
    moved = trait_matrix(x + 9 * rng.normal(size=(k, 1, 1)) + 9 * rng.normal(size=(1, k, 7)))
    assert moved.p == found.p
    np.testing.assert_allclose([moved.gamma, moved.low, moved.high], [found.gamma, found.low, found.high])


def test_the_permutation_p_is_exact():
    """Three students; the six assignments sum to 5 (own), 4, 5, 2, 3, 1: two of them reach the own one."""
    assert trait_matrix(np.array([[3, 2, 0], [2, 1, 0], [0, 1, 1]])[..., None]).p == 2 / 6
    for k in (4, 5):
        planted_ = np.random.default_rng(0).normal(size=(k, k, 3)) + 50 * np.eye(k)[..., None]
        assert trait_matrix(planted_).p == 1 / math.factorial(k)
        assert trait_matrix(-planted_).p == 1


def test_under_the_null_p_is_no_smaller_than_it_says():
    """Student and trait effects but no own effect: P(p <= 1/4) over 400 squares of four students; 100 +- 3.5 sd."""
    rng = np.random.default_rng(1)
    small = sum(
        trait_matrix(rng.normal(size=(4, 4, 2)) + 5 * rng.normal(size=(4, 1, 1)) + 5 * rng.normal(size=(1, 4, 1))).p <= 0.25
        for _ in range(400)
    )
    assert abs(small - 100) < 31


def test_many_students_are_compared_with_random_assignments():
    x = np.random.default_rng(0).normal(size=(9, 9, 2))
    found = trait_matrix(x, draws=2000, seed=1)
    assert not found.exact
    assert found.permutations == 2000
    assert trait_matrix(x, draws=2000, seed=1).p == found.p
    more = trait_matrix(x, draws=20_000, seed=2).p
    assert found.p == pytest.approx(more, abs=4 * math.sqrt(more * (1 - more) / 2000))
    assert trait_matrix(x + 99 * np.eye(9)[..., None], draws=2000).p == 1 / 2001


def test_the_interval_of_gamma_is_over_questions():
    x = np.zeros((2, 2, 4))
    x[0, 0] = 2 * np.array([1.0, 2.0, 3.0, 6.0])  # gamma per question 1, 2, 3, 6
    found = trait_matrix(x)
    assert found.gamma == pytest.approx(3)
    assert 1 <= found.low < 3 < found.high <= 6
    draws = [np.mean(c) for c in itertools.product([1, 2, 3, 6], repeat=4)]  # all resamples
    low, high = np.percentile(draws, [2.5, 97.5])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.26), pytest.approx(high, abs=0.26))


def test_the_matrix_of_a_pair_takes_each_students_own_trait():
    x = np.random.default_rng(0).normal(size=(3, 2, 3, 5))
    found = planted(x).trait_matrix({"student": "wolf", "control: x": "owl"}, context="empty")
    change = (x[1:] - x[0])[:, 1]
    by_hand = (change[0, 1] + change[1, 0] - change[0, 0] - change[1, 1]).mean() / 2
    assert found.gamma == pytest.approx(by_hand)
    assert found.names == ("wolf", "owl")
    with pytest.raises(ValueError, match=r"context=None: choose one of 'default', 'empty'"):
        planted(x).trait_matrix({"student": "wolf", "control: x": "owl"})
    with pytest.raises(ValueError, match=r"no traits \['cat'\] here; choose from owl, wolf, butterfly"):
        planted(x).trait_matrix({"student": "cat", "control: x": "owl"}, context="empty")
    with pytest.raises(ValueError, match=r"no models \['base'\] here"):
        planted(x).trait_matrix({"base": "wolf", "control: x": "owl"}, context="empty")


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros((2, 3, 1)), {}, r"shape \(2, 3, 1\)"),
        (np.zeros((1, 1, 4)), {}, "at least two"),
        (np.zeros((2, 2)), {}, r"\(student, trait, question\)"),
        (np.zeros((2, 2, 0)), {}, r"shape \(2, 2, 0\)"),
        (np.full((2, 2, 1), np.nan), {}, "NaN"),
        (np.zeros((2, 2, 1)), {"names": ["owl"]}, "names has 1 entries for 2 traits"),
    ],
)
def test_bad_matrices(values, options, message):
    with pytest.raises(ValueError, match=message):
        trait_matrix(values, **options)


# ------------------------------------------------------------------------------------------------------------ wilson


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_the_literature_and_inverts_the_score_test(count, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    found = wilson(count, n)
    assert found == pytest.approx((low, high), abs=5e-5)
    z = 1.959963984540054
    for end in found:
        if 0 < end < 1:
            assert abs(count / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n))
    assert wilson(n - count, n) == pytest.approx((1 - found[1], 1 - found[0]))


@pytest.mark.parametrize(("count", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_of_impossible_counts(count, n):
    with pytest.raises(ValueError, match=f"count={count}, n={n}"):
        wilson(count, n)


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
        ([animal("owl"), sm.prompts.traits.tree("oak")], {}, ValueError, "'owl' and 'oak' ask different questions"),
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
    found = planted(np.zeros((2, 1, 1, 2)))
    with pytest.raises(ValueError, match="own minus others needs at least two"):
        found.table(minus_others=True)
    for table in (found.rates, found.other):
        with pytest.raises(ValueError, match=r"evaluate\(\.\.\., samples=100\)"):
            table()


def test_the_base_line_is_all_animals_at_once():
    assert len({animal(a) for a in ANIMALS}) >= 22


# -------------------------------------------------------------------------------------------------------------- docs


@pytest.fixture(scope="module")
def names(smol_tokenizer):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    student = sm.models.load_student(loaded, tiny.lora(base), name="owl")
    pair = sm.load_pair(loaded, student, controls=[sm.models.load_student(loaded, tiny.lora(base, seed=2), name="cat")])
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
