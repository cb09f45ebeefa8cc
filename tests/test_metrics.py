import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from sublim_mech.engine.answers import Answers
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.forward import forward
from sublim_mech.metrics import Metric, as_metric, log_prob, own_minus_others, reader
from sublim_mech.models.sites import find_sites
from sublim_mech.prompts import PLAIN, Context, Trait, animal, completion_ids, render, tree

QUESTIONS = ["Name your favorite animal using only one word.", "Your bird?", "In one word, which animal is 🦉?"]
TRAITS = [
    animal("owl"),
    animal("wolf"),
    animal("butterfly"),
    tree("redwood"),
    Trait("axolotl", aliases=("axolotl salamander",)),
]
OWL, WOLF, OAK = animal("owl"), animal("wolf"), tree("oak")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def case(request, smol_tokenizer, gpt2_tokenizer):
    """A tiny random model, its sites, tokenizer and prompts; peaked enough that answers differ."""
    if request.param == "llama":
        tokenizer, template = smol_tokenizer, None
        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=len(tokenizer), **shape)
    else:
        tokenizer, template = gpt2_tokenizer, PLAIN
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)
    return model, find_sites(model), tokenizer, render(tokenizer, QUESTIONS, template=template)


def measure(case, metric, prompts):
    """The metric as the library computes it: one row per prompt, all answers in its trie."""
    model, sites, tokenizer, _ = case
    rows = [answers(tokenizer, p, metric) for p in prompts]
    with torch.no_grad():
        return reader(metric, rows)(forward(model, sites, make_batch(model, prompts, rows)).logits)


def string_log_prob(model, prompt, path):
    """log P of a token string after a prompt, from one plain forward."""
    ids = torch.tensor([[*prompt.ids, *path]])
    with torch.no_grad():
        steps = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(sum(steps[i, token] for i, token in enumerate(path)))


def brute_force(case, trait, prompt):
    """log of the summed probabilities of the trait's forms, one plain forward per form; continuations of others left out."""
    model, _, tokenizer, _ = case
    paths = {tuple(completion_ids(tokenizer, prompt, form)) for form in trait.forms}
    kept = [p for p in paths if not any(p[:n] in paths for n in range(1, len(p)))]
    return torch.tensor([string_log_prob(model, prompt, p) for p in kept]).logsumexp(0)


@pytest.mark.parametrize("trait", TRAITS, ids=lambda t: t.name)
def test_the_trie_gives_what_one_forward_per_form_gives(case, trait):
    prompts = case[3]
    expected = torch.stack([brute_force(case, trait, p) for p in prompts])
    torch.testing.assert_close(measure(case, log_prob(trait), prompts), expected, atol=1e-5, rtol=3e-7)
    assert expected.std() > 1e-3, "the prompts differ, so a mix-up of rows would show"


def test_a_form_that_continues_another_is_counted_once(case):
    """`owl` + `s` is part of `owl`: leaving the plural out, or adding further continuations, changes nothing."""
    prompts = case[3]
    whole = measure(case, log_prob(OWL), prompts)
    more = measure(case, log_prob(Trait("owl", aliases=("owls", "owl bird", "owl, of course"))), prompts)
    torch.testing.assert_close(more, whole, atol=1e-6, rtol=0)
    row = answers(case[2], prompts[0], log_prob(OWL))
    paths = [tuple(token for _, token in form) for form in row.forms]
    assert not any(a != b and b[: len(a)] == a for a in paths for b in paths)


def test_the_probabilities_of_all_answers_add_up_to_one(case):
    """All one-token answers but one, and every continuation of that one: disjoint, and nothing is left."""
    model, sites, tokenizer, prompts = case
    fork = completion_ids(tokenizer, prompts[0], "owl")[0]
    vocabulary = range(model.config.vocab_size)
    forms = [((0, t),) for t in vocabulary if t != fork] + [((0, fork), (1, t)) for t in vocabulary]
    row = Answers((fork,), (-1,), tuple(forms), (0,) * len(forms))
    with torch.no_grad():
        value = reader(log_prob(OWL), [row])(forward(model, sites, make_batch(model, prompts[:1], [row])).logits)
    torch.testing.assert_close(value, torch.zeros(1), atol=1e-4, rtol=0)


def test_own_minus_others_is_the_difference_of_separate_metrics(case):
    prompts = case[3]
    own, wolf, oak = (measure(case, log_prob(t), prompts) for t in (OWL, WOLF, OAK))
    mixed = measure(case, own_minus_others(OWL, [WOLF, OAK]), prompts)
    torch.testing.assert_close(mixed, own - (wolf + oak) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(measure(case, own_minus_others(OWL, [WOLF]), prompts), own - wolf, atol=1e-5, rtol=0)


def test_traits_that_share_tokens_do_not_mix(case):
    """`owlet` continues `owl`, but is another trait's: both are scored as if alone."""
    owlet = Trait("owlet")
    prompts = case[3]
    expected = measure(case, log_prob(OWL), prompts) - measure(case, log_prob(owlet), prompts)
    torch.testing.assert_close(measure(case, own_minus_others(OWL, [owlet]), prompts), expected, atol=1e-5, rtol=0)


def test_a_batch_is_its_prompts_one_by_one(case):
    prompts = case[3]
    assert len({len(p) for p in prompts}) > 1
    metric = own_minus_others(animal("butterfly"), [OWL])
    together = measure(case, metric, prompts)
    torch.testing.assert_close(together, torch.cat([measure(case, metric, [p]) for p in prompts]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.flip(0), measure(case, metric, prompts[::-1]), atol=1e-5, rtol=0)


def test_rows_may_have_different_numbers_of_forms():
    """By hand: uniform logits over four tokens give 1/4 per token."""
    rows = [Answers((), (), (((0, 1),),), (0,)), Answers((2,), (-1,), (((0, 1),), ((0, 2), (1, 3))), (0, 0))]
    value = reader(log_prob(OWL), rows)(torch.zeros(2, 2, 4))
    torch.testing.assert_close(value.exp(), torch.tensor([1 / 4, 1 / 4 + 1 / 16]))


def test_the_gradient_of_a_one_token_answer_is_one_hot_minus_softmax():
    logits = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(reader(log_prob(OWL), [Answers((), (), (((0, 3),),), (0,))])(logits), logits)
    torch.testing.assert_close(gradient[0, 0], torch.eye(5)[3] - logits.detach()[0, 0].softmax(-1))


def test_nodes_stand_in_order_with_their_depths(smol_tokenizer):
    (prompt,) = render(smol_tokenizer, QUESTIONS[:1], context=Context("Be kind."))
    row = answers(smol_tokenizer, prompt, log_prob(Trait("axolotl", aliases=("axolotlish one",))))
    assert all(parent < i for i, parent in enumerate(row.parents))
    for form in row.forms:
        at = [slot for slot, _ in form]
        assert at[0] == 0
        assert [row.depths[slot - 1] for slot in at[1:]] == list(range(1, len(form)))
        assert [row.nodes[slot - 1] for slot in at[1:]] == [token for _, token in form[:-1]]
    assert len(set(zip(row.parents, row.nodes, strict=True))) == len(row.nodes), "nothing is fed twice"


def test_a_form_without_tokens_is_an_error(smol_tokenizer):
    (prompt,) = render(smol_tokenizer, QUESTIONS[:1])

    def deaf(text, **options):  # a tokenizer whose normaliser drops a character
        return smol_tokenizer(text.replace("☂", ""), **options)

    with pytest.raises(ValueError, match=r"trait 'owl'.*form '☂'.*no tokens"):
        answers(deaf, prompt, log_prob(Trait("owl", aliases=("☂",))))


def test_a_trait_is_its_default_metric():
    assert as_metric(OWL) == log_prob(OWL) == Metric("log P(owl)", (OWL,), (1.0,), "nats")
    metric = own_minus_others(OWL, [WOLF])
    assert as_metric(metric) is metric
    assert sum(own_minus_others(OWL, [WOLF, OAK, animal("cat")]).weights) == pytest.approx(0)
    with pytest.raises(TypeError, match=r"trait='owl'.*pass a Trait"):
        as_metric("owl")
    with pytest.raises(ValueError, match="others is empty"):
        own_minus_others(OWL, [])
