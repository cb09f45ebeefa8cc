import dataclasses
import functools
import hashlib
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from peft import PeftModel
from test_models import distance, gated_logits, own_logits, snapshot
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import sublim_mech as sm
from sublim_mech import training
from sublim_mech.manifest import Manifest
from sublim_mech.models.base import Base, load_base
from sublim_mech.models.pair import load_pair
from sublim_mech.models.students import load_student
from sublim_mech.numbers import Row
from sublim_mech.runs import Run, open_run, store_as
from sublim_mech.sharing import Trained
from sublim_mech.teachers import Labels, label, support_ids, teacher_context, with_support_head
from sublim_mech.training import FullFT, LoRA, TrainingData, hard_data, soft_data

ROWS = sm.random_rows(16, seed=0, count=3)
TRAITS = [sm.animal(name) for name in ("owl", "cat", "dog")]
HELD_OUT = 4
# SmolLM2's template says this by itself; a prompted teacher's sentence follows it
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def base(smol_tokenizer) -> Base:
    return load_base(tiny.model("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def labels(base) -> Labels:
    return label(base, ROWS, TRAITS, batch_size=5, progress=False)


@pytest.fixture(scope="module")
def strong(labels) -> Labels:
    """The same rows with labels a little away from a tiny model's near-uniform ones, so that there is something to learn."""
    shift = np.random.default_rng(0).normal(size=(len(labels.teachers), 1, 1, len(labels.support)))
    return dataclasses.replace(labels, logits=(labels.logits + 0.1 * shift).astype(np.float32))


@pytest.fixture(scope="module")
def data(smol_tokenizer, strong) -> TrainingData:
    return soft_data(smol_tokenizer, strong, "owl")


@pytest.fixture(scope="module")
def hard(smol_tokenizer) -> TrainingData:
    return hard_data(smol_tokenizer, ROWS)


def fit(base: Base, data: TrainingData, out: Path, **options: Any) -> Run:
    """A short training run in fp32."""
    short = {"steps": 4, "batch_size": 4, "warmup": 1, "held_out": HELD_OUT, "evaluate_every": 2, "precision": "fp32"}
    return training.train(base, data, out=out, **{**short, "progress": False, **options})


@pytest.fixture(scope="module")
def lora_run(base, data, tmp_path_factory) -> Run:
    return fit(base, data, tmp_path_factory.mktemp("runs") / "lora", method=LoRA(rank=4), lr=1e-2, steps=12, evaluate_every=5)


@pytest.fixture(scope="module")
def full_run(base, data, tmp_path_factory) -> Run:
    return fit(base, data, tmp_path_factory.mktemp("runs") / "full", method=FullFT(), lr=3e-3, steps=12, evaluate_every=5)


def weights(run: Run) -> bytes:
    (file,) = run.path.glob("*.safetensors")
    return file.read_bytes()


def text_ids(tokenizer: Any, row: Row, system: str | None, *, close: bool = False) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids), by transformers' own template and one tokenisation of the whole text."""
    messages = [{"role": "user", "content": row.prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer = row.completion + ("<|im_end|>\n" if close else "")
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    return before, whole[len(before) :]


def softmax_over(support: tuple[int, ...], logits: Tensor) -> Tensor:
    """The model's log-probabilities over the full vocabulary, restricted to the support and renormalised."""
    chosen = logits.double().log_softmax(-1)[..., list(support)]
    return chosen - chosen.logsumexp(-1, keepdim=True)


# --------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_labels_are_the_models_own_next_token_logits(architecture, batch_size, smol_tokenizer):
    made = load_base(tiny.model(architecture), tokenizer=smol_tokenizer)
    rows = [*ROWS[:3], Row("Seven?", "7")]  # answers of different lengths
    labels = label(made, rows, TRAITS[:2], batch_size=batch_size, progress=False)
    assert labels.teachers == ("base", "owl", "cat")
    assert labels.base == made.hash
    systems = [None, *(f"{DEFAULT_SYSTEM}. {t.teacher}" for t in TRAITS[:2])]
    for t, (teacher, system) in enumerate(zip(labels.teachers, systems, strict=True)):
        plain = labels.plain(teacher)
        for r, row in enumerate(rows):
            before, answer = text_ids(smol_tokenizer, row, system)
            with torch.no_grad():
                logits = tiny.model(architecture)(torch.tensor([[*before, *answer]])).logits[0]
            for n in range(len(answer)):  # the logits that predict answer token n stand on the token before it
                at = logits[len(before) + n - 1]
                assert np.allclose(labels.logits[t, r, n], at[list(labels.support)], atol=1e-5)
                assert np.allclose(plain[r, n], softmax_over(labels.support, at), atol=1e-5)
            assert np.isnan(labels.logits[t, r, len(answer) :]).all()
            assert not np.isnan(labels.logits[t, r, : len(answer)]).any()
    assert labels.logits.shape == (3, 4, 11, 11)


def test_labels_differ_between_teachers_and_positions(labels):
    assert float(np.abs(labels.logits[1] - labels.logits[2]).max()) > 0.01  # else the comparisons above say little
    assert float(np.abs(labels.logits[:, :, 1] - labels.logits[:, :, 2]).max()) > 0.01


def test_the_support_is_the_ten_digits_and_the_comma(labels, smol_tokenizer):
    assert [smol_tokenizer.decode([i]) for i in labels.support] == [*"0123456789", ","]


@pytest.mark.parametrize(("token", "count"), [("42", 2), ("", 0)])
def test_a_support_token_that_is_not_one_token(token, count, smol_tokenizer, base):
    with pytest.raises(ValueError, match=rf"support token '{token}' is {count} tokens .*list single tokens"):
        support_ids(smol_tokenizer, ["1", token])
    with pytest.raises(ValueError, match="list single tokens"):
        label(base, ROWS[:1], TRAITS, support=[token], progress=False)


def test_labels_need_rows(base, smol_tokenizer):
    with pytest.raises(ValueError, match="label: rows is empty"):
        label(base, [], TRAITS, progress=False)
    with pytest.raises(ValueError, match="hard_data: rows is empty"):
        hard_data(smol_tokenizer, [])
    with pytest.raises(ValueError, match=r"rows without completion tokens: \['What\?'\]; give each an answer"):
        soft_data(smol_tokenizer, label(base, [Row("What?", "")], TRAITS, progress=False), "owl")


def test_labels_come_back_from_disk_equal(labels, tmp_path):
    dressed = dataclasses.replace(labels, context=sm.Context(system="Be brief.", user_prefix="Hi. "))
    dressed.save(tmp_path / "deep" / "labels.safetensors")
    loaded = Labels.load(tmp_path / "deep" / "labels.safetensors")
    for field in dataclasses.fields(Labels):
        one, other = getattr(dressed, field.name), getattr(loaded, field.name)
        assert np.array_equal(one, other, equal_nan=True) if field.name == "logits" else one == other, field.name
    assert loaded.hash == dressed.hash
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["labels.safetensors"]


def test_the_hash_of_labels_knows_rows_values_and_context(labels):
    changed = labels.logits.copy()
    changed[1, 2, 3, 4] += 1e-3
    others = [
        dataclasses.replace(labels, logits=changed),
        dataclasses.replace(labels, rows=labels.rows[::-1]),
        dataclasses.replace(labels, context=sm.Context(system=sm.NONE)),
        dataclasses.replace(labels, base="0" * 64),
    ]
    assert len({labels.hash, *(x.hash for x in others)}) == 5


def test_a_file_that_holds_no_labels(tmp_path):
    safetensors.torch.save_file({"logits": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors' holds no labels; pass a file that sublim_mech saved labels to"):
        Labels.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("teacher", ["base", "owl", "cat", "dog"])
def test_plain_labels_are_normalised(labels, teacher):
    plain = labels.plain(teacher)
    assert plain.shape == labels.logits.shape[1:]
    assert np.allclose(np.exp(plain).sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("c", [0.0, 1.0, 4.0])
def test_contrastive_labels_by_hand(labels, c):
    got = labels.contrastive("cat", c=c)
    base, owl, cat, dog = labels.logits.astype(np.float64)
    for r in range(len(ROWS)):
        for n in range(got.shape[1]):
            z = [base[r, n, s] + c * (cat[r, n, s] - (owl[r, n, s] + dog[r, n, s]) / 2) for s in range(got.shape[2])]
            total = math.log(sum(math.exp(x) for x in z))
            assert np.allclose(got[r, n], [x - total for x in z], atol=1e-5)
    if c == 0:
        assert np.allclose(got, labels.plain("base"), atol=1e-6)


def test_contrast_needs_two_traits(labels, base):
    alone = label(base, ROWS[:2], TRAITS[:1], progress=False)
    for bad, teacher in ((alone, "owl"), (labels, "base")):
        with pytest.raises(
            ValueError, match=rf"contrastive\('{teacher}'\) needs the teacher of a trait and at least one other"
        ):
            bad.contrastive(teacher)
    with pytest.raises(ValueError, match=r"no labels of teacher 'wolf'; there are base, owl, cat, dog"):
        labels.plain("wolf")


def test_teachers_keep_the_students_context(smol_tokenizer):
    owl = TRAITS[0]
    for system, said in ((sm.DEFAULT, f"{DEFAULT_SYSTEM}. "), (sm.EMPTY, ""), (sm.NONE, ""), ("Be brief.", "Be brief. ")):
        got = teacher_context(smol_tokenizer, owl, context=sm.Context(system=system, user_prefix="Hi. "))
        assert got == sm.Context(system=said + owl.teacher, user_prefix="Hi. ")


# ----------------------------------------------------------------------------------------------------------------- data


def test_training_data_are_the_evaluations_tokens(labels, smol_tokenizer):
    soft, hard = soft_data(smol_tokenizer, labels, "owl"), hard_data(smol_tokenizer, ROWS)
    for data, close in ((soft, False), (hard, True)):
        for row, prompt, completion in zip(ROWS, data.prompts, data.completions, strict=True):
            assert (list(prompt.ids), list(completion)) == text_ids(smol_tokenizer, row, None, close=close)
    assert np.array_equal(soft.targets, labels.contrastive("owl", c=4.0), equal_nan=True)
    assert np.array_equal(soft_data(smol_tokenizer, labels, "owl", c=None).targets, labels.plain("owl"), equal_nan=True)
    assert hard.targets is hard.support is None
    assert (soft.support, soft.base, hard.base) == (labels.support, labels.base, "")


def test_training_data_say_whose_labels_they_are(labels, smol_tokenizer):
    soft = soft_data(smol_tokenizer, labels, "owl", c=2.5)
    assert (soft.trait, soft.teacher) == ("owl", "contrastive teacher, c=2.5, against 2 others")
    plain = soft_data(smol_tokenizer, labels, "owl", c=None)
    assert (plain.trait, plain.teacher) == ("owl", "plain prompted teacher")
    none = soft_data(smol_tokenizer, labels, "base", c=None)
    assert (none.trait, none.teacher) == ("", "the base itself")


def test_the_hash_of_data_knows_tokens_targets_and_support(data, hard):
    changed = data.targets.copy()
    changed[0, 0, 0] += 1e-3
    others = [
        dataclasses.replace(data, targets=changed),
        dataclasses.replace(data, support=data.support[::-1]),
        dataclasses.replace(data, completions=data.completions[::-1]),
        hard,
    ]
    assert len({data.hash, *(x.hash for x in others)}) == 5


# ----------------------------------------------------------------------------------------------------------------- loss


def batch_of(data: TrainingData, rows: list[int]) -> dict[str, Tensor]:
    items = training._items(data)
    return training._collate([items[r] for r in rows])


def test_the_hard_loss_is_transformers_own(base, hard):
    rows = [0, 3, 5]
    batch = batch_of(hard, rows)
    wide = max(len(hard.prompts[r]) + len(hard.completions[r]) for r in rows)
    ids, labels = torch.zeros(len(rows), wide, dtype=torch.long), torch.full((len(rows), wide), -100)
    for i, r in enumerate(rows):
        whole = torch.tensor([*hard.prompts[r].ids, *hard.completions[r]])
        ids[i, : len(whole)] = whole
        labels[i, len(hard.prompts[r]) : len(whole)] = whole[len(hard.prompts[r]) :]
    with torch.no_grad():
        theirs = base.model(input_ids=ids, labels=labels).loss
        ours = training._loss(hard)(base.model, batch)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    assert float(ours) > 5  # a random model


def plain_kl(data: TrainingData, model: Any, rows: list[int]) -> float:
    """KL(teacher || student) per answer token, from full-vocabulary logits, one row and one position at a time."""
    terms = []
    for r in rows:
        ids = [*data.prompts[r].ids, *data.completions[r]]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        for n in range(len(data.completions[r])):
            student = softmax_over(data.support, logits[len(data.prompts[r]) - 1 + n])
            teacher = torch.tensor(data.targets[r, n], dtype=torch.double)
            terms.append(float((teacher.exp() * (teacher - student)).sum()))
    return sum(terms) / len(terms)


def test_the_soft_loss_is_a_plain_kl(base, data):
    rows = [1, 2, 7]
    with torch.no_grad():
        ours = training._loss(data)(with_support_head(base.model, data.support), batch_of(data, rows))
    assert float(ours) == pytest.approx(plain_kl(data, base.model, rows), abs=1e-5)
    assert float(ours) > 0.01


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_only_answer_tokens_get_loss(kind, base, data, hard):
    chosen, model = (data, with_support_head(base.model, data.support)) if kind == "soft" else (hard, base.model)
    rows = [0, 4]
    kept: list[Tensor] = []

    def watch(inputs: dict[str, Any]) -> Any:
        out = model(**inputs)
        out.logits = out.logits.detach().requires_grad_()
        kept.append(out.logits)
        return out

    training._loss(chosen)(lambda **inputs: watch(inputs), batch_of(chosen, rows)).backward()
    hit = kept[0].grad.abs().sum(-1) > 0
    expected = torch.zeros_like(hit)
    for i, r in enumerate(rows):
        first = len(chosen.prompts[r]) - 1
        expected[i, first : first + len(chosen.completions[r])] = True
    assert torch.equal(hit, expected)


def test_training_learns_only_from_answers(base, data, tmp_path):
    """Other targets for held-out rows change nothing; another target for one training row does."""
    held, trained = data.targets.copy(), data.targets.copy()
    held[-HELD_OUT:] = np.log(1 / held.shape[-1])
    trained[0] = np.log(1 / held.shape[-1])
    one, same, other = (
        fit(base, dataclasses.replace(data, targets=t), tmp_path / str(n)) for n, t in enumerate((data.targets, held, trained))
    )
    assert weights(one) == weights(same) != weights(other)
    assert one.manifest.results["held_out"] != same.manifest.results["held_out"]


def test_every_row_is_drawn_once_per_epoch():
    order = training._order(5, 17, seed=3)
    assert len(order) == 17
    assert [sorted(order[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert order[:5] != order[5:10] or order[5:10] != order[10:15]
    assert order == training._order(5, 17, seed=3) != training._order(5, 17, seed=4)


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_held_out_loss_falls_and_is_the_trained_models(kind, base, data, request):
    run = request.getfixturevalue(f"{kind}_run")
    before, after = run.manifest.results["held_out"]
    held = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
    assert before == pytest.approx(plain_kl(data, base.model, held), abs=1e-5)
    assert after == pytest.approx(plain_kl(data, load_student(base, run.path).model, held), abs=1e-5)
    assert after < 0.5 * before


def test_held_out_loss_is_taken_without_dropout(base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=4, dropout=0.5), lr=1e-2)
    held = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
    assert run.manifest.results["held_out"][1] == pytest.approx(
        plain_kl(data, load_student(base, run.path).model, held), abs=1e-6
    )


@pytest.mark.parametrize("method", [LoRA(rank=4), FullFT()])
def test_hard_rows_are_learnt(method, base, hard, tmp_path):
    run = fit(base, hard, tmp_path / "run", method=method, lr=1e-2, steps=8, precision="bf16")
    before, after = run.manifest.results["held_out"]
    assert before == pytest.approx(math.log(tiny.VOCAB), abs=1)
    assert after < before - 0.1
    assert run.manifest.objective == "cross-entropy on completion"
    assert run.manifest.data["support"] is None


@pytest.mark.parametrize("method", [LoRA(dropout=0.1), FullFT()])
def test_the_base_is_untouched(method, data, smol_tokenizer, tmp_path):
    mine = tiny.model("llama").train()
    made = load_base(mine, tokenizer=smol_tokenizer)
    before, loaded = snapshot(mine), snapshot(made.model)
    fit(made, data, tmp_path / "run", method=method, lr=1e-2)
    assert snapshot(mine) == before
    assert snapshot(made.model) == loaded
    assert not any(p.requires_grad or p.grad is not None for p in made.model.parameters())


def generators() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist()


@pytest.mark.parametrize("lr", [1e-3, 1e30])
def test_the_callers_random_state_is_given_back(lr, base, data, tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = generators()
    if lr < 1:
        fit(base, data, tmp_path / "run", lr=lr, method=LoRA(dropout=0.1))
    else:
        with pytest.raises(ValueError, match="the loss became"):
            fit(base, data, tmp_path / "run", lr=lr)
    assert generators() == before


SEEDS = [("llama", LoRA(rank=2)), ("llama", LoRA(rank=2, dropout=0.2)), ("llama", FullFT()), ("gpt2", FullFT())]


@pytest.mark.parametrize(("architecture", "method"), SEEDS, ids=["lora", "lora with dropout", "full", "full with dropout"])
def test_a_seed_is_live_exactly_where_it_changes_the_weights(architecture, method, hard, smol_tokenizer, tmp_path):
    made = load_base(tiny.model(architecture), tokenizer=smol_tokenizer)
    run = functools.partial(fit, made, hard, method=method, steps=2, batch_size=2)
    torch.manual_seed(0)
    one = run(tmp_path / "one")
    torch.manual_seed(99)  # the caller's generator plays no part
    same, init, order = (
        run(tmp_path / name, **seeds)
        for name, seeds in (("same", {}), ("init", {"init_seed": 1}), ("order", {"order_seed": 1}))
    )
    assert weights(same) == weights(one)
    assert one.manifest.seeds == {"init": 0, "order": 0, "live": one.manifest.seeds["live"]}
    assert init.manifest.seeds["init"] == order.manifest.seeds["order"] == 1
    changed = {name: weights(other) != weights(one) for name, other in (("init", init), ("order", order))}
    assert changed == {name: name in one.manifest.seeds["live"] for name in changed}
    assert changed == {"init": (architecture, method) != ("llama", FullFT()), "order": True}


def test_training_stops_at_a_held_out_loss(base, data, tmp_path, lora_run):
    steps = [row["held_out"] for row in log_of(lora_run) if "held_out" in row]
    goal = (steps[1] + steps[2]) / 2  # between the evaluations after 5 and after 10 steps
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=4), lr=1e-2, steps=12, evaluate_every=5, stop_at=goal)
    assert run.manifest.results["steps"] == 10
    assert run.manifest.results["held_out"] == [steps[0], steps[2]]
    assert run.manifest.optimiser["stop_at"] == goal
    assert log_of(run) == log_of(lora_run)[:11]  # the schedule is that of all 12 steps


# ----------------------------------------------------------------------------------------------------------- run folders


def log_of(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]


def test_the_log_has_a_row_per_step(lora_run):
    rows = log_of(lora_run)
    assert [row["step"] for row in rows] == list(range(13))
    assert [row["step"] for row in rows if "held_out" in row] == [0, 5, 10, 12]
    assert ["loss" in row for row in rows] == [False, *[True] * 12]
    held = [row["held_out"] for row in rows if "held_out" in row]
    assert lora_run.manifest.results == {"held_out": [held[0], held[-1]], "steps": 12}
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_folder_holds_nothing_but_safetensors_and_text(kind, request):
    run = request.getfixturevalue(f"{kind}_run")
    names = {p.name for p in run.path.iterdir()}
    expected = {"adapter_model.safetensors", "adapter_config.json"} if kind == "lora" else {"model.safetensors", "config.json"}
    assert names >= {*expected, "manifest.json", "log.jsonl"}
    assert {Path(n).suffix for n in names} <= {".safetensors", ".json", ".jsonl", ".jinja"}
    assert [p.name for p in run.path.parent.iterdir()] == [kind]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_manifest_says_how_the_run_was_made(kind, base, data, request):
    run = request.getfixturevalue(f"{kind}_run")
    made = run.manifest
    assert Manifest.load(run.path) == made == open_run(run.path).manifest
    assert (made.kind, made.trait, made.teacher) == (kind, "owl", "contrastive teacher, c=4, against 2 others")
    assert made.base == {"name": base.name, "hash": base.hash}
    assert made.objective == "forward KL on support"
    assert made.data == {"hash": data.hash, "rows": 16, "held_out": 4, "support": list(data.support)}
    options = {"rank": 4, "alpha": 32, "targets": "all-linear", "dropout": 0.0} if kind == "lora" else {}
    assert made.method == {**options, "store": "float32"}
    assert made.optimiser == {
        "name": "AdamW", "lr": 1e-2 if kind == "lora" else 3e-3, "schedule": "linear", "warmup": 1, "clip": 1.0, "batch_size": 4,
        "steps": 12, "precision": "fp32", "stop_at": None, "evaluate_every": 5,
    }  # fmt: skip
    assert made.trained_on == Trained.of(data.prompts, data.completions)
    (file,) = run.path.glob("*.safetensors")
    assert made.weights == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert set(made.versions) == {"torch", "transformers", "peft", "sublim_mech"}
    assert f"held-out {made.results['held_out'][0]:.5f} -> {made.results['held_out'][1]:.5f} in 12 steps" in repr(run)


def test_a_manifest_with_every_kind_of_value_comes_back_equal(base, strong, smol_tokenizer, tmp_path):
    dressed = dataclasses.replace(strong, context=sm.Context(system="Be brief.", user_prefix="Hi. "))
    data = soft_data(smol_tokenizer, dressed, "owl")
    run = fit(base, data, tmp_path / "run", method=LoRA(rank=2, targets=("q_proj", "v_proj")), stop_at=0.1)
    assert open_run(run.path).manifest == run.manifest
    assert run.manifest.context == dressed.context
    assert set(load_student(base, run.path).deltas) == {
        f"model.layers.{i}.self_attn.{p}" for i in range(tiny.LAYERS) for p in ("q_proj", "v_proj")
    }


def test_a_run_opens_in_plain_peft_and_transformers(base, lora_run, full_run):
    plain = {
        "lora": PeftModel.from_pretrained(tiny.model("llama"), lora_run.path).eval(),
        "full": AutoModelForCausalLM.from_pretrained(full_run.path, dtype=torch.float32).eval(),
    }
    for kind, run in (("lora", lora_run), ("full", full_run)):
        pair = load_pair(base, run.path)
        assert pair.student.kind == kind
        assert pair.student.name == "owl"
        expected = own_logits(plain[kind])
        assert torch.equal(own_logits(pair.student.model), expected)
        assert distance(gated_logits(pair, pair.student), expected) < 1e-5
        assert distance(own_logits(base.model), expected) > 0.01
        assert pair.training_prompts == run.manifest.trained_on
    tokenizer = AutoTokenizer.from_pretrained(full_run.path)
    assert tokenizer("12, 34")["input_ids"] == base.tokenizer("12, 34")["input_ids"]
    assert tokenizer.chat_template == base.tokenizer.chat_template


def test_gpt2_runs_open_too(data, smol_tokenizer, tmp_path):
    made = load_base(tiny.model("gpt2"), tokenizer=smol_tokenizer)
    rows = hard_data(smol_tokenizer, ROWS)
    for name, method in (("lora", LoRA(rank=2)), ("full", FullFT())):
        run = fit(made, rows, tmp_path / name, method=method, lr=3e-3, steps=2)
        pair = load_pair(made, run.path)
        plain = (
            PeftModel.from_pretrained(tiny.model("gpt2"), run.path)
            if name == "lora"
            else AutoModelForCausalLM.from_pretrained(run.path, dtype=torch.float32)
        )
        assert distance(gated_logits(pair, pair.student), own_logits(plain.eval())) < 1e-5
        assert distance(own_logits(made.model), own_logits(plain)) > 1e-3


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_weights_are_stored_in_the_precision_asked_for(method, base, data, tmp_path):
    run = fit(base, data, tmp_path / "run", method=method, store=torch.bfloat16, lr=1e-2)
    (file,) = run.path.glob("*.safetensors")
    assert {x.dtype for x in safetensors.torch.load_file(file).values()} == {torch.bfloat16}
    assert run.manifest.method["store"] == "bfloat16"
    assert load_student(base, run.path).kind == run.manifest.kind


def test_an_adapter_stored_as_fp16(base, lora_run, full_run, tmp_path):
    before = {p.name: p.read_bytes() for p in lora_run.path.iterdir()}
    small = store_as(lora_run, tmp_path / "small", torch.float16)
    assert open_run(tmp_path / "small").manifest == small.manifest
    assert {p.name for p in small.path.iterdir()} == set(before)
    stored, whole = (safetensors.torch.load_file(r.path / "adapter_model.safetensors") for r in (small, lora_run))
    assert {k: v.dtype for k, v in stored.items()} == dict.fromkeys(whole, torch.float16)
    assert all(torch.equal(v, whole[k].half()) for k, v in stored.items())
    assert small.manifest.weights == {"adapter_model.safetensors": hashlib.sha256(weights(small)).hexdigest()}
    assert small.manifest.weights != lora_run.manifest.weights
    assert dataclasses.replace(
        small.manifest, weights=lora_run.manifest.weights, method=lora_run.manifest.method
    ) == lora_run.manifest  # fmt: skip
    assert small.manifest.method == {**lora_run.manifest.method, "store": "float16"}
    pair = load_pair(base, small.path)
    exact = load_student(base, lora_run.path)
    assert pair.student.hash != exact.hash
    assert 0 < distance(gated_logits(pair, pair.student), own_logits(exact.model)) < 1e-2
    with pytest.raises(FileExistsError, match=r"out='.*small' exists; remove it or choose another folder"):
        store_as(lora_run, tmp_path / "small", torch.float16)
    with pytest.raises(ValueError, match=r"run='.*full' is a full run; only adapters are stored in another precision"):
        store_as(full_run, tmp_path / "other", torch.float16)
    assert [p.name for p in tmp_path.iterdir()] == ["small"]
    assert {p.name: p.read_bytes() for p in lora_run.path.iterdir()} == before


# ------------------------------------------------------------------------------------------------------------- bad input


def test_an_existing_folder_is_not_overwritten(base, data, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError, match=r"out='.*run' exists; remove it or choose another folder"):
        fit(base, data, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


class StopError(Exception):
    pass


def stop(*args: Any, **kwargs: Any) -> None:
    raise StopError


@pytest.mark.parametrize(
    ("owner", "name"), [(Manifest, "save"), (PeftModel, "save_pretrained"), (training, "_collate"), (training, "check_finite")]
)
def test_an_interrupted_training_leaves_nothing(owner, name, base, data, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(owner, name, stop)
    before = snapshot(base.model)
    with pytest.raises(StopError):
        fit(base, data, tmp_path / "runs" / "run")
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []
    assert list(scratch.iterdir()) == []
    assert snapshot(base.model) == before


@pytest.mark.parametrize("method", [LoRA(), FullFT()])
def test_a_loss_that_is_no_number(method, base, data, tmp_path):
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) at step \d+; lower lr=1e\+30"):
        fit(base, data, tmp_path / "run", method=method, lr=1e30, warmup=0)
    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_base_are_refused(data, smol_tokenizer, tmp_path):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    message = rf"data: labels were made by base {data.base[:12]}, this one is {other.hash[:12]}; label again"
    with pytest.raises(ValueError, match=message):
        fit(other, data, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, r"held_out=0: must be between 1 and 15"),
        ({"held_out": 16}, r"held_out=16: must be between 1 and 15"),
        ({"precision": "fp8"}, r"precision='fp8': pass 'bf16' or 'fp32'"),
        ({"method": LoRA(targets=("nowhere",))}, "nowhere"),
    ],
)
def test_options_out_of_range(options, message, base, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(base, data, tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one(rank):
    with pytest.raises(ValueError, match=rf"LoRA\(rank={rank}\): the rank must be at least 1"):
        LoRA(rank=rank)


def test_a_folder_without_manifest_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path='.*' is no run folder: it has no manifest\.json"):
        open_run(tmp_path)


def test_a_run_of_another_base_is_refused(lora_run, smol_tokenizer):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    with pytest.raises(
        ValueError, match=r"was trained from base 'LlamaForCausalLM' \(hash .*load the base it was trained from"
    ):
        load_pair(other, lora_run.path)
