"""Generation under a graft: Hugging Face's own generation at the two ends, whole forwards in between."""

import pytest
import torch
from test_instruments import make_pair

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.answers import Answers
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.forward import Gates, forward

ARCHITECTURES = ("llama", "gemma3", "gpt2", "neox", "phi3", "mistral", "opt", "qwen2")


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return sm.render(smol_tokenizer, ["Which animal?", "Name one animal, please."])


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_ends_are_the_models_own_generation(architecture, kind, smol_tokenizer, prompts):
    pair = make_pair(architecture, kind, smol_tokenizer)
    everything, nothing = masks.everything(), ~masks.everything()
    for own, where, policy in ((pair.base.model, nothing, "base"), (pair.student.model, everything, "student")):
        ours = sm.instruments.generate(pair, prompts, where, generated=policy, max_new_tokens=12)
        for prompt, (text,) in zip(prompts, ours, strict=True):
            ids = torch.tensor([prompt.ids])
            theirs = own.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                eos_token_id=[pair.tokenizer.eos_token_id], pad_token_id=0,
            )  # fmt: skip
            assert text == smol_tokenizer.decode(theirs[0, len(prompt) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("policy", ["base", "student", "mask"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_every_token_is_the_argmax_of_a_whole_gated_forward(architecture, policy, smol_tokenizer, prompts):
    pair = make_pair(architecture, "lora", smol_tokenizer)
    prompt = prompts[0]
    where = masks.role("user", "template") & masks.modules("mlp")
    (text,) = sm.instruments.generate(pair, [prompt], where, generated=policy, max_new_tokens=8)[0]
    cells = torch.from_numpy(where(prompt, list(pair.sites.modules.values()))).float()
    paths = list(pair.sites.modules)
    cells = cells[:, [paths.index(p) for p in pair.delta]]
    after = {"base": torch.zeros_like(cells[:1]), "student": torch.ones_like(cells[:1]), "mask": cells.amax(0, keepdim=True)}[
        policy
    ]
    ids: list[int] = []
    for _ in range(8):
        nodes = Answers(tuple(ids), tuple(range(-1, len(ids) - 1)), (), ())
        gates = torch.cat([cells, after.expand(len(ids), -1)])[None]
        with torch.no_grad():
            batch = make_batch(pair.base.model, [prompt], [nodes])
            logits = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, gates)).logits
        ids.append(int(logits[0, -1].argmax()))
    assert text == smol_tokenizer.decode(ids, skip_special_tokens=True).strip()
    plain = sm.instruments.generate(pair, [prompt], ~masks.everything(), generated="base", max_new_tokens=8)[0][0]
    assert text != plain or policy == "base"


def test_samples_follow_the_probabilities_and_the_seed(smol_tokenizer, prompts):
    """First tokens of 4,000 samples at temperature 0.05 against the softmax (chi-square over likely tokens)."""
    pair = make_pair("llama", "lora", smol_tokenizer)
    run = {"generated": "student", "max_new_tokens": 1, "temperature": 0.05, "samples": 4000}
    texts = sm.instruments.generate(pair, prompts[:1], masks.everything(), seed=5, **run)[0]
    with torch.no_grad():
        last = pair.student.model(input_ids=torch.tensor([prompts[0].ids])).logits[0, -1]
    p = (last / 0.05).softmax(-1)
    likely = p.topk(6)
    statistic = 0.0
    for probability, token in zip(*likely, strict=True):
        seen = sum(t == smol_tokenizer.decode([token]).strip() for t in texts)
        expected = 4000 * float(probability)
        statistic += (seen - expected) ** 2 / expected
    assert expected > 20
    assert statistic < 22.5  # chi-square, 6 degrees of freedom, p = 0.001
    assert texts == sm.instruments.generate(pair, prompts[:1], masks.everything(), seed=5, **run)[0]
    assert texts != sm.instruments.generate(pair, prompts[:1], masks.everything(), seed=6, **run)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated": "both"}, "generated='both': say who computes"),
        ({"generated": "base", "model": "control: owl"}, "model='control: owl': choose one of student"),
        ({"generated": "base", "samples": 2}, "greedy decoding"),
        ({"generated": "base", "temperature": -1.0}, "temperature=-1.0"),
        ({"generated": "base", "max_new_tokens": 500}, "positions, the model has 256"),
    ],
)
def test_bad_input(options, message, smol_tokenizer, prompts):
    pair = make_pair("llama", "lora", smol_tokenizer)
    with pytest.raises(ValueError, match=message):
        sm.instruments.generate(pair, prompts, masks.everything(), **options)
