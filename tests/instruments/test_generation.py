"""Generation under a graft: Hugging Face's own at the two ends, whole forwards in between."""

import pytest
import tiny
import torch
from pairs import shared_pair

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.answers import Answers
from sublim_mech.engine.forward import Gates

EVERYTHING, NOTHING = masks.everything(), ~masks.everything()
ENDS = [
    *((a, "lora") for a in ("llama", "neox", "phi3", "mistral", "opt")),
    *((a, "full") for a in ("gpt2", "gemma3", "qwen2")),
]


@pytest.mark.parametrize(("architecture", "kind"), ENDS)
def test_the_ends_are_the_models_own_generation(architecture, kind, smol_tokenizer, prompts):
    pair = shared_pair(architecture, kind, smol_tokenizer)
    ends = ((pair.model, NOTHING, "base"), (pair.student.model, EVERYTHING, "student"))
    for model, where, policy in ends:
        ours = sm.instruments.generate(pair, prompts, where, generated=policy, max_new_tokens=12)
        for prompt, (text,) in zip(prompts, ours, strict=True):
            ids = torch.tensor([prompt.ids])
            own = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=[pair.tokenizer.eos_token_id],
                pad_token_id=0,
            )
            answer = own[0, len(prompt) :]
            assert text == smol_tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.parametrize("policy", ["base", "student", "mask"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_every_token_is_the_argmax_of_a_whole_gated_forward(
    architecture, policy, smol_tokenizer, prompts
):
    pair, prompt = shared_pair(architecture, "lora", smol_tokenizer), prompts[0]
    where = masks.role("user", "template") & masks.modules("mlp")
    options = {"generated": policy, "max_new_tokens": 8}
    (text,) = sm.instruments.generate(pair, [prompt], where, **options)[0]
    cells = pair.prompt_gates(prompt, where, pair.student)
    behind = {
        "base": torch.zeros_like(cells[:1]),
        "student": torch.ones_like(cells[:1]),
        "mask": cells.amax(0, keepdim=True),
    }[policy]
    ids: list[int] = []
    for _ in range(8):
        trie = Answers(tuple(ids), tuple(range(-1, len(ids) - 1)))
        gates = Gates(pair.student, torch.cat([cells, behind.expand(len(ids), -1)])[None])
        with torch.no_grad():
            logits = pair.run(pair.batch([prompt.ids], [trie]), gates=gates).logits
        ids.append(int(logits[0, -1].argmax()))
    assert text == smol_tokenizer.decode(ids, skip_special_tokens=True).strip()
    options = {"generated": "base", "max_new_tokens": 8}
    plain = sm.instruments.generate(pair, [prompt], NOTHING, **options)[0][0]
    assert text != plain or policy == "base"


def test_samples_follow_the_probabilities_and_the_seed(llama, smol_tokenizer, prompts):
    """First tokens of 4,000 samples at temperature 0.05 against the softmax (chi-square)."""
    cold = {"generated": "student", "max_new_tokens": 1, "temperature": 0.05, "samples": 4000}

    def sample(seed):
        return sm.instruments.generate(llama, prompts[:1], EVERYTHING, seed=seed, **cold)[0]

    texts = sample(5)
    with torch.no_grad():
        last = llama.student.model(input_ids=torch.tensor([prompts[0].ids])).logits[0, -1]
    statistic = 0.0
    likely = (last / 0.05).softmax(-1).topk(6)
    for probability, token in zip(*likely, strict=True):
        seen = sum(text == smol_tokenizer.decode([token]).strip() for text in texts)
        expected = 4000 * float(probability)
        statistic += (seen - expected) ** 2 / expected
    assert expected > 20
    assert statistic < 22.5  # chi-square, 6 degrees of freedom, p = 0.001
    assert texts == sample(5)
    assert texts != sample(6)


def test_a_prompt_that_is_listed_twice_gets_further_samples(llama, prompts):
    """Other prompts, their order and the number of samples do not matter."""
    where = masks.role("user")
    cold = {"generated": "mask", "max_new_tokens": 5, "temperature": 0.02, "seed": 3}

    def generate(asked, samples):
        return sm.instruments.generate(llama, asked, where, samples=samples, **cold)

    first, other, second = generate([prompts[0], prompts[1], prompts[0]], 2)
    assert generate([prompts[1]], 2) == [other]
    assert generate([prompts[0]], 4) == [first + second]
    assert generate([prompts[1], prompts[0]], 3) == [generate([p], 3)[0] for p in prompts[::-1]]
    assert len({*first, *second}) > 1


def test_a_control_answers_under_its_name(smol_tokenizer, prompts):
    base = tiny.model("llama")
    loaded = sm.load_base(base, tokenizer=smol_tokenizer)
    control = sm.models.load_student(loaded, tiny.lora(base, seed=2), name="cat")
    pair = sm.load_pair(loaded, tiny.lora(base), controls=[control])
    alone = sm.load_pair(loaded, control)
    options = {"generated": "student", "max_new_tokens": 6}
    named = sm.instruments.generate(pair, prompts, EVERYTHING, model="control: cat", **options)
    assert named == sm.instruments.generate(alone, prompts, EVERYTHING, **options)
    assert named != sm.instruments.generate(pair, prompts, EVERYTHING, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated": "both"}, "generated='both': say who computes"),
        (
            {"generated": "base", "model": "control: owl"},
            "model='control: owl' is no student of this pair. Choose one of 'student'",
        ),
        ({"generated": "base", "samples": 2}, "greedy decoding"),
        ({"generated": "base", "samples": 0, "temperature": 1.0}, "samples=0"),
        ({"generated": "base", "temperature": -1.0}, "temperature=-1.0"),
        ({"generated": "base", "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"generated": "base", "max_new_tokens": 500}, "positions, the model has 256"),
    ],
)
def test_what_generate_refuses(options, message, smol_tokenizer, prompts):
    pair = shared_pair("llama", "lora", smol_tokenizer)
    with pytest.raises(ValueError, match=message):
        sm.instruments.generate(pair, prompts, EVERYTHING, **options)
