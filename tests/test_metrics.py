"""Metrics: closed forms on logits made by hand, and plain forwards of tiny models."""

import math
from dataclasses import dataclass

import pytest
import torch
from pairs import string_log_prob
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import sublim_mech as sm
from sublim_mech import masks, metrics
from sublim_mech.engine.answers import Answers
from sublim_mech.engine.runner import Runner, open_runner
from sublim_mech.metrics import (
    Metric,
    TraitMetric,
    as_metric,
    entropy,
    kl_to_base,
    log_prob,
    logit_difference,
    own_minus_others,
    rank,
    scored_forms,
    target,
    trait_forms,
)
from sublim_mech.prompts import ANIMALS, PLAIN, Context, Trait, animal, completion_ids, render, tree

QUESTIONS = [
    "Name your favorite animal using only one word.",
    "Your bird?",
    "In one word, which animal is 🦉?",
]
TRAITS = [
    animal("owl"),
    animal("wolf"),
    animal("butterfly"),
    tree("redwood"),
    Trait.noun("axolotl", aliases=("axolotl salamander",)),
]
OWL, WOLF, OAK = animal("owl"), animal("wolf"), tree("oak")


@dataclass(frozen=True)
class Case:
    """A tiny model with its tokenizer and prompts."""

    runner: Runner
    prompts: list

    @property
    def tokenizer(self):
        return self.runner.tokenizer

    @property
    def model(self):
        return self.runner.model

    def logits(self, answers, prompts):
        with torch.no_grad():
            return self.runner.run(self.runner.batch([p.ids for p in prompts], answers)).logits

    def measure(self, metric, prompts=None):
        """The metric as the library computes it: one row per prompt, all answers in its trie."""
        prompts = self.prompts if prompts is None else prompts
        answers = [metric.answers(self.tokenizer, prompt) for prompt in prompts]
        return metric.read(self.logits(answers, prompts), answers)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def case(request, smol_tokenizer, gpt2_tokenizer):
    """Random models of one layer, peaked enough that answers differ."""
    if request.param == "llama":
        tokenizer, template = smol_tokenizer, None
        shape = {"hidden_size": 16, "intermediate_size": 16}
        shape |= {"num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=len(tokenizer), **shape)
    else:
        tokenizer, template = gpt2_tokenizer, PLAIN
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)
    runner = open_runner(sm.load_base(model, tokenizer=tokenizer))
    return Case(runner, render(tokenizer, QUESTIONS, template=template))


def ids_of(case, prompt, text):
    return completion_ids(case.tokenizer, prompt, text)


def next_token(case, prompt, position=-1):
    """Log-probabilities of the next token after a prompt's token, by a plain forward."""
    with torch.no_grad():
        logits = case.model(torch.tensor([prompt.ids])).logits[0, position]
    return logits.double().log_softmax(-1)


# ------------------------------------------------------------------------------------------- traits


def brute_force(case, trait, prompt):
    """log of the summed probabilities of the forms, one forward each; continuations left out."""
    paths = {tuple(ids_of(case, prompt, form)) for form in trait.forms}
    disjoint = [p for p in paths if not any(p[:n] in paths for n in range(1, len(p)))]
    values = [string_log_prob(case.model, prompt.ids, path) for path in disjoint]
    return torch.tensor(values).logsumexp(0)


@pytest.mark.parametrize("trait", TRAITS, ids=lambda t: t.name)
def test_the_trie_gives_what_one_forward_per_form_gives(case, trait):
    expected = torch.stack([brute_force(case, trait, prompt) for prompt in case.prompts])
    torch.testing.assert_close(case.measure(log_prob(trait)), expected, atol=1e-5, rtol=3e-7)
    assert expected.std() > 1e-3, "the prompts differ, so a mix-up of rows would show"


def test_a_form_that_continues_another_is_counted_once(case):
    """`owl` + `s` is part of `owl`: leaving it out, or adding continuations, changes nothing."""
    more = Trait.noun("owl", aliases=("owls", "owl bird", "owl, of course"))
    whole = case.measure(log_prob(OWL))
    torch.testing.assert_close(case.measure(log_prob(more)), whole, atol=1e-6, rtol=0)
    trie = log_prob(OWL).answers(case.tokenizer, case.prompts[0])
    paths = [tuple(token for _, token in form) for form in trie.forms]
    assert not any(a != b and b[: len(a)] == a for a in paths for b in paths)


def test_the_probabilities_of_all_answers_add_up_to_one(case):
    """All one-token answers but one, and every continuation of that one: nothing is left."""
    fork = ids_of(case, case.prompts[0], "owl")[0]
    vocabulary = range(case.model.config.vocab_size)
    forms = [((0, token),) for token in vocabulary if token != fork]
    forms += [((0, fork), (1, token)) for token in vocabulary]
    trie = Answers((fork,), (-1,), tuple(forms), (0,) * len(forms))
    logits = case.logits([trie], case.prompts[:1])
    value = log_prob(OWL).read(logits, [trie])
    torch.testing.assert_close(value, torch.zeros(1), atol=1e-4, rtol=0)


def test_own_minus_others_is_the_difference_of_separate_metrics(case):
    own, wolf, oak = (case.measure(log_prob(trait)) for trait in (OWL, WOLF, OAK))
    mixed = case.measure(own_minus_others(OWL, [WOLF, OAK]))
    torch.testing.assert_close(mixed, own - (wolf + oak) / 2, atol=1e-5, rtol=0)
    one = case.measure(own_minus_others(OWL, [WOLF]))
    torch.testing.assert_close(one, own - wolf, atol=1e-5, rtol=0)


def test_traits_that_share_tokens_do_not_mix(case):
    """`owlet` continues `owl`, but is another trait's: both are scored as if alone."""
    owlet = Trait.noun("owlet")
    expected = case.measure(log_prob(OWL)) - case.measure(log_prob(owlet))
    joint = case.measure(own_minus_others(OWL, [owlet]))
    torch.testing.assert_close(joint, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "metric",
    [
        own_minus_others(animal("butterfly"), [OWL]),
        target("Owls are the best"),
        entropy(at=[3, -1]),
        rank("butterfly"),
    ],
    ids=lambda metric: metric.name,
)
def test_a_batch_is_its_prompts_one_by_one(case, metric):
    assert len({len(prompt) for prompt in case.prompts}) > 1
    together = case.measure(metric)
    alone = torch.cat([case.measure(metric, [prompt]) for prompt in case.prompts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    backwards = case.measure(metric, case.prompts[::-1])
    torch.testing.assert_close(together.flip(0), backwards, atol=1e-5, rtol=0)


def test_rows_may_have_different_numbers_of_forms():
    """By hand: uniform logits over four tokens give 1/4 per token."""
    rows = [
        Answers((), (), (((0, 1),),), (0,)),
        Answers((2,), (-1,), (((0, 1),), ((0, 2), (1, 3))), (0, 0)),
    ]
    value = log_prob(OWL).read(torch.zeros(2, 2, 4), rows)
    torch.testing.assert_close(value.exp(), torch.tensor([1 / 4, 1 / 4 + 1 / 16]))


def test_weights_multiply_the_log_probabilities_of_traits():
    """Of three traits, one token each, of which one row has two forms for the second."""
    probabilities = torch.tensor([0.5, 0.2, 0.2, 0.1])
    forms = tuple(((0, token),) for token in range(4))
    rows = [Answers((), (), forms[:3], (0, 1, 2)), Answers((), (), forms, (0, 1, 1, 2))]
    metric = TraitMetric("mixed", (OWL, WOLF, OAK), (1.0, -2.0, 0.5))
    value = metric.read(probabilities.log().expand(2, 1, 4), rows)
    expected = [
        math.log(0.5) - 2 * math.log(0.2) + 0.5 * math.log(0.2),
        math.log(0.5) - 2 * math.log(0.4) + 0.5 * math.log(0.1),
    ]
    torch.testing.assert_close(value, torch.tensor(expected))


def test_the_gradient_of_a_one_token_answer_is_one_hot_minus_softmax():
    logits = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for metric in (log_prob(OWL), target("owl")):
        value = metric.read(logits, [Answers((), (), (((0, 3),),), (0,))])
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        expected = torch.eye(5)[3] - logits.detach()[0, 0].softmax(-1)
        torch.testing.assert_close(gradient[0, 0], expected)


def test_nodes_stand_in_order_with_their_depths(smol_tokenizer):
    (prompt,) = render(smol_tokenizer, QUESTIONS[:1], context=Context("Be kind."))
    trait = Trait.noun("axolotl", aliases=("axolotlish one",))
    trie = trait_forms(smol_tokenizer, prompt, [trait])
    assert all(parent < node for node, parent in enumerate(trie.parents))
    for form in trie.forms:
        reads = [read for read, _ in form]
        assert reads[0] == 0
        assert [trie.depths[read - 1] for read in reads[1:]] == list(range(1, len(form)))
        assert [trie.nodes[read - 1] for read in reads[1:]] == [token for _, token in form[:-1]]
    fed = set(zip(trie.parents, trie.nodes, strict=True))
    assert len(fed) == len(trie.nodes), "nothing is fed twice"


@pytest.mark.filterwarnings("ignore:trait .agreement.")
def test_names_tell_traits_apart():
    lisbon, toronto, madrid = (Trait(name) for name in ("Lisbon", "Toronto", "Madrid"))
    names = [
        own_minus_others(lisbon, [toronto]).name,
        own_minus_others(lisbon, [madrid]).name,
        own_minus_others(lisbon, [toronto, madrid]).name,
        log_prob(OWL).name,
        log_prob(Trait.noun("owl", aliases=("Bebop", "barn owl"))).name,
        log_prob(Trait("yes", forms=("yes", "Yes"))).name,
        log_prob(Trait("agreement", forms=("yes", "Yes"))).name,
        log_prob(Trait("agreement", forms=(" yes",))).name,
    ]
    assert names == [
        "log P(Lisbon) - log P(Toronto)",
        "log P(Lisbon) - log P(Madrid)",
        "log P(Lisbon) - mean log P(Toronto, Madrid)",
        "log P(owl)",
        "log P(owl or Bebop or barn owl)",
        "log P(yes or Yes)",
        "log P(agreement: yes or Yes)",
        "log P(agreement: ' yes')",
    ]
    many = [animal(name) for name in ANIMALS if name != "owl"]
    name = own_minus_others(OWL, many).name
    shown = "bear, butterfly, cat, deer, dog, dolphin and 15 more"
    assert name == f"log P(owl) - mean log P({shown})"


def test_forms_that_continue_others_are_part_of_them(case):
    """By the tokens themselves: a form is part of the longest start of it that stands alone."""
    traits = [OWL, WOLF, Trait.noun("cat", aliases=("catfish", "Catalan"))]
    tries = [trait_forms(case.tokenizer, prompt, traits) for prompt in case.prompts]
    scored = scored_forms(case.tokenizer, case.prompts, tries, traits)
    for number, (trait, forms) in enumerate(zip(traits, scored, strict=True)):
        assert (forms.trait, forms.forms, forms.in_some) == (trait.name, trait.forms, ())
        paths = {form: ids_of(case, case.prompts[0], form) for form in trait.forms}
        for form in trait.forms:
            starts = [
                other
                for other in trait.forms
                if other != form and paths[form][: len(paths[other])] == paths[other]
            ]
            assert (form in forms.merged) == bool(starts)
            assert forms.merged.get(form, starts) in starts or not starts
        # what is not merged is what the trie holds
        assert tries[0].traits.count(number) == len(trait.forms) - len(forms.merged)
    assert any(forms.merged for forms in scored), "the case is empty"


# ------------------------------------------------------------------------------------------ strings


def test_a_target_is_the_string_and_nothing_else(case):
    """Of any length and case; no other form is summed."""
    for text in ("owl", "Owls are the best pets.", "🦉"):
        expected = [
            string_log_prob(case.model, prompt.ids, ids_of(case, prompt, text))
            for prompt in case.prompts
        ]
        value = case.measure(target(text))
        torch.testing.assert_close(value, torch.tensor(expected), atol=2e-5, rtol=1e-6)


def test_a_targets_steps_by_hand():
    """Three tokens of probability 1/2, 1/4 and 1/8, each read behind the one before."""
    logits = torch.full((1, 3, 9), -20.0)
    path = [(0, 4, 1 / 2), (1, 7, 1 / 4), (2, 2, 1 / 8)]
    for read, token, probability in path:
        logits[0, read] = math.log((1 - probability) / 8)
        logits[0, read, token] = math.log(probability)
    trie = Answers((4, 7), (-1, 0), (tuple((read, token) for read, token, _ in path),), (0,))
    value = target("abc").read(logits, [trie])
    assert float(value) == pytest.approx(math.log(1 / 64), abs=1e-6)
    assert trie == metrics.build_trie([[(4, 7, 2)]])


def test_a_difference_of_logits_is_no_difference_of_normalised_ones():
    logits = torch.tensor([[[1.0, -2.0, 0.5]], [[0.0, 3.0, 7.0]]])
    rows = [metrics.build_trie([[(0,)], [(2,)]]), metrics.build_trie([[(1,)], [(0,)]])]
    value = logit_difference("yes", "no").read(logits, rows)
    assert value.tolist() == [0.5, 3.0]
    grown = logits.clone()
    grown[:, :, 1] += 5  # a third token changes nothing, the second row's own does
    assert logit_difference("yes", "no").read(grown, rows).tolist() == [0.5, 8.0]


def test_a_difference_of_logits_is_the_models_own(case):
    first, second = " yes", " no"
    for prompt in case.prompts:
        one, two = (ids_of(case, prompt, text.strip()) for text in (first, second))
        if len(one) > 1 or len(two) > 1:
            continue
        with torch.no_grad():
            logits = case.model(torch.tensor([prompt.ids])).logits[0, -1]
        value = case.measure(logit_difference("yes", "no"), [prompt])
        assert float(value) == pytest.approx(float(logits[one[0]] - logits[two[0]]), abs=1e-5)


def test_exact_traits_of_one_token_differ_as_their_logits_do(case):
    """Own minus others of `yes` and `Yes`: neither has the other's form."""
    metric = own_minus_others(Trait("yes", forms=("yes",)), [Trait("Yes")])
    lengths = [
        len(ids_of(case, prompt, text)) for prompt in case.prompts for text in ("yes", "Yes")
    ]
    assert set(lengths) == {1}
    expected = case.measure(logit_difference("yes", "Yes"))
    torch.testing.assert_close(case.measure(metric), expected, atol=1e-5, rtol=0)
    assert expected.abs().min() > 1e-3


def test_a_text_of_several_tokens_has_no_single_logit(case):
    metric = logit_difference("zyzzyva", "yes")
    with pytest.raises(ValueError, match=r"logit_difference: 'zyzzyva' is \d tokens after this"):
        metric.answers(case.tokenizer, case.prompts[0])


def test_ranks_count_what_is_likelier_and_ties_share_the_best_one():
    logits = torch.tensor([[[0.1, 3.0, 3.0, -1.0, 0.1]]])
    expected = {0: 3, 1: 1, 2: 1, 3: 5, 4: 3}
    for token, place in expected.items():
        value = rank("owl").read(logits, [metrics.build_trie([[(token,)]])])
        assert value.dtype == torch.float64
        assert value.tolist() == [place]


def test_ranks_are_those_of_the_models_own_logits(case):
    for prompt in case.prompts:
        token = ids_of(case, prompt, "owl")[0]
        order = next_token(case, prompt).argsort(descending=True).tolist()
        assert case.measure(rank("owl"), [prompt]).tolist() == [1 + order.index(token)]


def test_the_rank_of_a_text_is_that_of_its_first_token(case):
    """What follows is neither fed nor looked at."""
    prompt = case.prompts[0]
    first, *rest = ids_of(case, prompt, "zyzzyva")
    assert rest
    assert rank("zyzzyva").answers(case.tokenizer, prompt).nodes == ()
    order = next_token(case, prompt).argsort(descending=True).tolist()
    assert case.measure(rank("zyzzyva"), [prompt]).tolist() == [1 + order.index(first)]


@pytest.mark.parametrize("make", [target, rank, lambda t: logit_difference(t, "no")])
def test_blank_texts_are_refused(make):
    for blank in ("", "  \n"):
        with pytest.raises(ValueError, match="pass a text that is not blank"):
            make(blank)
    with pytest.raises(ValueError, match=r"logit_difference\(''\)"):
        logit_difference("yes", "")
    with pytest.raises(TypeError, match=r"target\(text=7\): pass a text"):
        target(7)


# -------------------------------------------------------------------------- distributions of tokens


def uniform_but_one(size, probability):
    """Logits of a distribution with one token of this probability, the others alike."""
    logits = torch.full((size,), math.log((1 - probability) / (size - 1)))
    logits[0] = math.log(probability)
    return logits


def test_entropy_by_hand():
    metric = entropy()
    rows = [Answers(at=(5,))]
    for logits, expected in (
        (torch.zeros(8), math.log(8)),
        (torch.tensor([50.0, *[0.0] * 7]), 0.0),
        (torch.tensor([0.0, 0.0, *[-80.0] * 6]), math.log(2)),
    ):
        padded = torch.stack([torch.full((8,), 9.0), logits])[None]
        assert float(metric.read(padded, rows)) == pytest.approx(expected, abs=1e-5)


def test_kl_by_hand():
    """KL(p || q) of two tokens: p log(p/q) + (1 - p) log((1 - p)/(1 - q)); not the other way."""
    p, q = 0.8, 0.3
    model, base = (uniform_but_one(2, one).reshape(1, 1, 2).repeat(1, 2, 1) for one in (p, q))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    rows = [Answers(at=(5,))]
    assert float(kl_to_base().read(model, rows, base)) == pytest.approx(expected, abs=1e-6)
    other = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert float(kl_to_base().read(base, rows, model)) == pytest.approx(other, abs=1e-6)
    assert abs(expected - other) > 0.02
    assert float(kl_to_base().read(base, rows, base)) == 0
    # a constant added to all logits says nothing
    assert float(kl_to_base().read(base + 7, rows, base)) == pytest.approx(0, abs=1e-6)


def test_numbers_are_averaged_over_the_chosen_tokens_of_each_row():
    """The last token's own slot and padding play no part."""
    logits = torch.stack([uniform_but_one(6, p) for p in (0.9, 0.5, 0.2, 0.9)])
    each = -(logits.exp() * logits).sum(-1)
    stacked = torch.stack([logits, logits])
    rows = [Answers(at=(4, 1)), Answers(at=(3,))]
    value = entropy(at=[4, 1]).read(stacked, rows)
    torch.testing.assert_close(value, torch.stack([each[1:3].mean(), each[1]]))


@pytest.mark.parametrize(
    "at",
    [[-1], [0, 3, -1], [-2, -5], masks.role("user").tokens, lambda prompt: range(2, 6)],
    ids=["last", "several", "negative", "mask", "function"],
)
def test_entropy_is_that_of_plain_forwards_at_the_chosen_tokens(case, at):
    for prompt in case.prompts:
        chosen = list(at(prompt) if callable(at) else at)
        log_p = torch.stack([next_token(case, prompt, position) for position in chosen])
        expected = float(-(log_p.exp() * log_p).sum(-1).mean())
        assert float(case.measure(entropy(at), [prompt])) == pytest.approx(expected, abs=1e-5)


def test_reads_of_chosen_tokens(case):
    prompt = case.prompts[0]
    length = len(prompt)
    assert entropy().answers(case.tokenizer, prompt) == Answers(at=(length - 1,))
    assert (metrics.Entropy(), metrics.KLToBase()) == (entropy(), kl_to_base())
    assert kl_to_base(at=[2, -1]).answers(case.tokenizer, prompt).at == (2, length - 1)
    user = masks.role("user").tokens
    assert kl_to_base(at=user).answers(case.tokenizer, prompt).at == tuple(user(prompt))


def test_the_first_and_the_last_token_are_inside_their_neighbours_are_not(case):
    prompt = case.prompts[0]
    length = len(prompt)
    assert entropy(at=[-length, length - 1]).answers(case.tokenizer, prompt).at == (0, length - 1)
    for outside in (length, -length - 1):
        with pytest.raises(ValueError, match="leaves the prompt"):
            entropy(at=[outside]).answers(case.tokenizer, prompt)


@pytest.mark.parametrize("make", [entropy, kl_to_base])
@pytest.mark.parametrize("at", [[], [1000], [-1000], [3, 1000], lambda prompt: []])
def test_tokens_that_are_none_or_outside_are_refused(case, make, at):
    message = r"at=\[.*\] names no token or leaves the prompt .* of \d+ tokens"
    with pytest.raises(ValueError, match=message):
        make(at=at).answers(case.tokenizer, case.prompts[1])


def test_a_name_says_which_tokens_are_read():
    assert kl_to_base().name == kl_to_base(at=[-1]).name == "KL(model || base)"
    assert kl_to_base(at=[3, -1]).name == "KL(model || base) at 3, -1"
    assert entropy(at=masks.role("user").tokens).name == "entropy of the next token at user"

    def early(prompt):
        return [1, 2]

    assert entropy(at=early).name == "entropy of the next token at early"


# ------------------------------------------------------------------------------------- the protocol


def test_a_trait_is_its_default_metric():
    assert as_metric(OWL) == log_prob(OWL) == TraitMetric("log P(owl)", (OWL,), (1.0,), "nats")
    metric = own_minus_others(OWL, [WOLF])
    assert as_metric(metric) is metric
    mixed = own_minus_others(OWL, [WOLF, OAK, animal("cat")])
    assert sum(mixed.weights) == pytest.approx(0)
    with pytest.raises(TypeError, match=r"trait='owl'.*pass a Trait"):
        as_metric("owl")
    with pytest.raises(TypeError, match="pass a Trait"):
        as_metric(TraitMetric)
    with pytest.raises(ValueError, match="others is empty"):
        own_minus_others(OWL, [])
    with pytest.raises(ValueError, match="2 traits and 1 weight; give one weight per trait"):
        TraitMetric("mixed", (OWL, WOLF), (1.0,))


def test_traits_and_weights_in_lists_that_may_change_afterwards():
    traits, weights = [OWL, WOLF], [1.0, -1.0]
    metric = TraitMetric("mixed", traits, weights)
    traits.pop()
    assert metric == TraitMetric("mixed", (OWL, WOLF), (1.0, -1.0))
    assert hash(metric) == hash(TraitMetric("mixed", (OWL, WOLF), (1.0, -1.0)))


def test_what_metrics_say_of_themselves():
    known = [log_prob(OWL), own_minus_others(OWL, [WOLF]), target("owl"), kl_to_base(), entropy()]
    known += [logit_difference("yes", "no"), rank("owl")]
    assert all(isinstance(metric, Metric) for metric in known)
    assert [metric.unit for metric in known] == [*["nats"] * 5, "logits", "ranks"]
    assert [metric.differentiable for metric in known] == [*[True] * 6, False]
    assert [metric.needs_base for metric in known] == [False] * 3 + [True] + [False] * 3
    assert len({metric.name for metric in known}) == len(known)


def test_a_class_that_has_what_the_protocol_asks_for_is_a_metric():
    class Loose:
        name, unit, differentiable, needs_base = "loose", "bits", True, False

        def answers(self, tokenizer, prompt):
            return Answers()

        def read(self, logits, answers, base=None):
            return logits[:, 0, 0]

    metric = Loose()
    assert as_metric(metric) is metric


def test_texts_without_tokens_are_an_error(smol_tokenizer):
    (prompt,) = render(smol_tokenizer, QUESTIONS[:1])

    def deaf(text, **options):  # a tokenizer whose normaliser drops a character
        return smol_tokenizer(text.replace("☂", ""), **options)

    with pytest.raises(ValueError, match=r"trait 'owl'.*form '☂'.*no tokens"):
        log_prob(Trait.noun("owl", aliases=("☂",))).answers(deaf, prompt)
    with pytest.raises(ValueError, match=r"the text '☂' has no tokens"):
        target("☂").answers(deaf, prompt)


def test_half_precision_logits_are_read_in_fp32():
    logits = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows = [metrics.build_trie([[(3, 4)]])]
    exact = target("ab").read(logits.double(), rows)
    rough = target("ab").read(logits, rows)
    assert rough.dtype == torch.float32
    assert exact.dtype == torch.float64
    assert float(rough) == pytest.approx(float(exact), abs=1e-6)
    at = [Answers(at=(0,))]
    assert float(entropy().read(logits, at)) == pytest.approx(
        float(entropy().read(logits.double(), at)), abs=1e-5
    )


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([OWL], r"others\[0\], 'owl', shares the form 'owl' with the trait itself"),
        ([WOLF, WOLF], r"others\[1\], 'wolf', shares the form 'wolf' with others\[0\], 'wolf'"),
    ],
)
def test_a_trait_is_not_subtracted_from_itself_or_twice(others, message):
    with pytest.raises(ValueError, match=message):
        own_minus_others(OWL, others)


def test_a_text_has_no_difference_to_itself():
    with pytest.raises(ValueError, match="is 0 whatever was learned; pass two texts"):
        logit_difference("yes", "yes")
