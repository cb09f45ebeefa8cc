"""Labels are the teachers' own next-token logits, whoever asks, however they are cut, stored, killed and read."""

import copy
import dataclasses
import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tiny
import torch
import transformers
from trainings import DEFAULT_SYSTEM, fit, text_ids, weights

import sublim_mech as sm
from sublim_mech.engine.heads import ExactHead
from sublim_mech.making.labelling import Labels, label
from sublim_mech.making.labelling import writing as labels
from sublim_mech.making.labelling.writing import DIGITS
from sublim_mech.making.numbers import Row, as_rows, random_rows
from sublim_mech.making.teachers import (
    Teacher,
    log_probs,
    prompted,
    read_rows,
    untouched,
)
from sublim_mech.making.training import soft_data
from sublim_mech.making.training.batches import item
from sublim_mech.making.training.objectives import AnswerHead, token_losses
from sublim_mech.models.base import Base, load_base
from sublim_mech.models.hashing import weights_hash
from sublim_mech.storage.claims import FolderInUseError, claimed

ROWS = [*as_rows(random_rows(4, seed=0, count=3)), Row("Seven?", "7"), Row("And now a longer question than that?", "1,2,3,4,5")]
ANIMALS = ("owl", "cat", "dog")
KINDS: dict[str, dict[str, Any]] = {"listed": {}, "top-k": {"top_k": 5}, "full": {"support": None}}
OTHERS = {  # beside the tiny models: a state that is no cache, no map of the modules, a mask that must be the tokenizer's
    "mamba": lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=tiny.VOCAB),
    "biogpt": lambda: transformers.BioGptConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=tiny.VOCAB,
        max_position_embeddings=256,
    ),
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=tiny.VOCAB),
}  # fmt: skip


def wild(architecture: str) -> Any:
    """A model whose logits depend on what it reads, unlike a fresh one's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OTHERS[architecture]() if architecture in OTHERS else tiny.CONFIGS[architecture]()
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for name, p in model.named_parameters():
            if p.dim() == 2 and "A_log" not in name:
                torch.nn.init.normal_(p, std=0.15)
    return model


@pytest.fixture(scope="module")
def base(smol_tokenizer) -> Base:
    return load_base(wild("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def crowd(base) -> list[Teacher]:
    """The teachers of three animals, one of them with weights of its own, and a control without a trait."""
    owl, cat, dog = (prompted(base, sm.animal(name)) for name in ANIMALS)
    runner = dataclasses.replace(dog.runner, model=tiny.full(wild("llama")))
    tuned = dataclasses.replace(dog, kind="fine-tuned", runner=runner, context=sm.Context(), how="tuned", hash="ab")
    dull = dataclasses.replace(cat, name="dull", trait=None, context=sm.Context(system="You are tired."), how="a control")
    return [owl, cat, tuned, dull]


@pytest.fixture(scope="module", params=KINDS)
def made(request, crowd) -> Labels:
    return label(crowd, ROWS, progress=False, **KINDS[request.param])


@pytest.fixture(scope="module")
def listed(crowd) -> Labels:
    return label(crowd, ROWS, progress=False)


@pytest.fixture
def forwards(base):
    """How many tokens the base's model reads; its twins take the counter along."""
    seen: list[int] = []
    embed: Any = base.model.get_input_embeddings()  # type: ignore[operator]
    handle = embed.register_forward_hook(lambda _, args, out: seen.append(args[0].numel()))
    yield seen
    handle.remove()


def said(name: str) -> str | None:
    """The system text that a teacher is asked with, None for the template's own."""
    own = {"owl": sm.animal("owl").teacher, "cat": sm.animal("cat").teacher}
    return "You are tired." if name == "dull" else f"{DEFAULT_SYSTEM}. {own[name]}" if name in own else None


@torch.no_grad()
def by_hand(model: Any, tokenizer: Any, row: Row, system: str | None, *, close: bool = False) -> tuple[torch.Tensor, list[int]]:
    """(logits that predict the answer's tokens, these tokens), from one forward of the whole row by transformers alone."""
    before, answer = text_ids(tokenizer, row, system, close=close)
    return model(torch.tensor([[*before, *answer]])).logits[0, len(before) - 1 : -1], answer


# -------------------------------------------------------------------------------------------------------------- running


@pytest.mark.parametrize("architecture", [*tiny.CONFIGS, *OTHERS])
def test_a_teachers_logits_are_those_of_whole_rows(architecture, smol_tokenizer):
    model = wild(architecture)
    owl = prompted(load_base(model, tokenizer=smol_tokenizer), sm.animal("owl"))
    found = dict(read_rows(owl, ROWS, batch_size=4))
    assert sorted(found) == list(range(len(ROWS)))
    for r, row in enumerate(ROWS):
        expected, answer = by_hand(model, smol_tokenizer, row, said("owl"))
        assert found[r].shape == (len(answer), tiny.VOCAB)
        assert float((found[r] - expected).abs().max()) < 1e-4 * float(expected.std())


@pytest.mark.parametrize("rows", [ROWS, [Row("Seven?", "7"), Row("Seven?", "1,2")]], ids=["prompts", "one prompt"])
def test_the_shared_prefix_is_read_once(rows, base, forwards, smol_tokenizer):
    owl = prompted(base, sm.animal("owl"))
    whole = [text_ids(smol_tokenizer, row, said("owl")) for row in rows]
    # nothing is predicted behind the last token of an answer, so it is not fed
    sizes, last = [len(p) + len(a) - 1 for p, a in whole], min(len(p) for p, _ in whole) - 1
    shared = next((n for n in range(last) if len({p[n] for p, _ in whole}) > 1), last)
    assert shared > 30  # the system text at least
    forwards.clear()  # of the check that the base's own forward agrees
    found = dict(read_rows(owl, rows, batch_size=1))
    assert sum(forwards) == shared + sum(n - shared for n in sizes)
    forwards.clear()
    for r, logits in read_rows(owl, rows, batch_size=1, share_prefix=False):
        assert torch.allclose(found[r], logits, atol=1e-4)
    assert sum(forwards) == sum(sizes)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_logits_know_nothing_of_batches_order_and_support(base, batch_size):
    owl = prompted(base, sm.animal("owl"))
    expected = dict(read_rows(owl, ROWS, batch_size=3, share_prefix=False))
    support = [17, 4, 40000]
    backwards = dict(read_rows(owl, ROWS[::-1], support=support, batch_size=batch_size))
    for r in range(len(ROWS)):
        assert torch.allclose(backwards[len(ROWS) - 1 - r], expected[r][:, support], atol=1e-4)


def test_a_weight_in_half_precision_has_logits_in_full(smol_tokenizer):
    model = wild("llama").to(torch.bfloat16)
    owl = prompted(load_base(model, tokenizer=smol_tokenizer), sm.animal("owl"))
    full, listed = (dict(read_rows(owl, ROWS[:2], support=s)) for s in (None, [3, 5]))
    for r in range(2):
        assert torch.equal(full[r][:, [3, 5]].bfloat16(), listed[r].bfloat16())
        assert not torch.equal(full[r].bfloat16().float(), full[r])  # else they were rounded
        assert torch.allclose(full[r][:, [3, 5]], listed[r], atol=1e-4)


def test_log_probabilities_of_answers(base, crowd, smol_tokenizer):
    for teacher in crowd:
        for close in (True, False):
            found = log_probs(teacher, ROWS, close=close, progress=False)
            for r, row in enumerate(ROWS):
                logits, answer = by_hand(teacher.runner.model, smol_tokenizer, row, said(teacher.name), close=close)
                expected = [float(z.double().log_softmax(-1)[token]) for z, token in zip(logits, answer, strict=True)]
                assert np.allclose(found[r], expected, atol=1e-4)


def test_the_model_is_left_as_it_was(base):
    before = {name: id(module) for name, module in base.model.named_modules()}
    base.model.train()
    try:
        rows = read_rows(prompted(base, sm.animal("owl")), ROWS, batch_size=1)
        next(rows)
        assert torch.is_grad_enabled()
        rows.close()  # in the middle
        assert {name: id(module) for name, module in base.model.named_modules()} == before
        assert not any(m._forward_hooks or m._forward_pre_hooks or not m.training for m in base.model.modules())
    finally:
        base.model.eval()
    assert weights_hash(base.model) == base.hash


def test_rows_that_cannot_be_read(base):
    owl = prompted(base, sm.animal("owl"))
    with pytest.raises(ValueError, match=r"batch_size=0: must be at least 1"):
        list(read_rows(owl, ROWS, batch_size=0))
    with pytest.raises(ValueError, match=r"rows without completion tokens: \['What\?'\]; give each an answer"):
        list(read_rows(owl, [*ROWS, Row("What?", "")]))
    with pytest.raises(ValueError, match=r"row 6, 'Again\?', to teacher 'owl' needs \d+ positions, the model has 256"):
        log_probs(owl, [*ROWS, Row("Again?", "1," * 110)], progress=False)


# --------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_the_models_own_next_token_logits(made, crowd, base, smol_tokenizer):
    assert made.teachers == ("base", "owl", "cat", "dog", "dull")
    assert (made.about.base, made.rows) == (base.hash, tuple(ROWS))
    models = {"base": base.model, **{t.name: t.runner.model for t in crowd}}
    for name in made.teachers:
        for r, row in enumerate(ROWS):
            z, answer = by_hand(models[name], smol_tokenizer, row, said(name))
            assert made.lengths[r] == len(answer) == len(made.plain(name)[r])
            full = z.double().log_softmax(-1)
            if made.about.top_k:
                best = full.topk(5)
                assert np.array_equal(made.tokens(name)[r], best.indices)
                assert np.allclose(made.plain(name)[r], best.values, atol=1e-4)
            else:
                ids = list(made.support or range(tiny.VOCAB))
                assert np.allclose(made.logits(name)[r], z[:, ids], atol=1e-4)
                chosen = full[:, ids]
                assert np.allclose(made.plain(name)[r], chosen - chosen.logsumexp(-1, keepdim=True), atol=1e-4)
    assert float(np.abs(made.plain("owl")[0] - made.plain("cat")[0]).max()) > 0.01  # else the above says little
    assert made.plain("owl").shape == (6, 11, {None: 11 if made.support else tiny.VOCAB, 5: 5}[made.about.top_k])


def test_views_are_read_by_row(listed):
    view = listed.plain("owl")
    assert [len(row) for row in view] == list(listed.lengths) == [11, 11, 11, 11, 1, 9]
    assert np.array_equal(view[-1], view[len(view) - 1])
    with pytest.raises(IndexError, match="row 6 of 6"):
        view[6]


def test_the_default_support_is_the_ten_digits_and_the_comma(listed, smol_tokenizer):
    assert [smol_tokenizer.decode([i]) for i in listed.support] == [*"0123456789", ","]


@pytest.mark.parametrize("kind", ["listed", "full"])
@pytest.mark.parametrize("c", [0.0, 1.0, 4.0])
def test_contrastive_labels_by_hand(kind, c, crowd):
    made = label(crowd, ROWS[:2], progress=False, **KINDS[kind])
    got = made.contrastive("cat", c=c)
    for r in range(2):
        base, owl, cat, dog = (made.logits(name)[r].astype(np.float64) for name in ("base", "owl", "cat", "dog"))
        z = base + c * (cat - (owl + dog) / 2)  # the control is none of the others
        expected = z - np.log(np.exp(z).sum(-1, keepdims=True))
        assert np.allclose(got[r], expected, atol=2e-5)
        assert got[r].dtype == np.float32
    if c == 0:
        assert np.allclose(got[0], made.plain("base")[0], atol=1e-5)


def test_a_contrast_needs_two_traits(listed, crowd):
    alone = label([crowd[0], crowd[3]], ROWS[:1], progress=False)
    for bad, teacher in ((alone, "owl"), (listed, "base"), (listed, "dull")):
        with pytest.raises(
            ValueError, match=rf"contrastive\('{teacher}'\) needs the teacher of a trait and at least one other's"
        ):
            bad.contrastive(teacher)
    best = label(crowd, ROWS[:1], top_k=3, progress=False)
    with pytest.raises(
        ValueError, match=r"each teacher has its own top 3 tokens; label on listed tokens .* or take plain labels \(c=None\)"
    ):
        best.contrastive("owl")
    with pytest.raises(ValueError, match=r"tokens\('owl'\): these labels are no top-k labels"):
        listed.tokens("owl")


def test_an_unknown_teacher(listed, base):
    with pytest.raises(
        ValueError, match=r"no labels of teacher 'owls'; there are base, owl, cat, dog, dull; did you mean 'owl'\?"
    ):
        listed.plain("owls")
    for c in (4.0, None):
        with pytest.raises(ValueError, match=r"no labels of teacher 'wolf'; there are base, owl, cat, dog, dull"):
            soft_data(base, listed, "wolf", c=c)


def test_the_base_comes_first_and_once(crowd, base):
    itself = untouched(base)
    for given in ([crowd[0]], [crowd[0], itself], [itself, crowd[0]]):
        assert label(given, ROWS[4:5], progress=False).teachers == ("base", "owl")


def test_teachers_that_do_not_belong_together(crowd, smol_tokenizer):
    owl, cat = crowd[:2]
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    context = sm.Context(system="Be brief.")
    for bad, message in (
        ([], "teachers is empty"),
        ([owl, owl], r"two teachers are called 'owl'; rename one"),
        ([dataclasses.replace(owl, name="base")], r"two teachers are called 'base'"),
        ([owl, dataclasses.replace(cat, base=other)], rf"'owl' and 'cat' differ in their base: .*{other.hash[:12]}"),
        ([owl, dataclasses.replace(cat, student_context=context)], "differ in their student_context: .*Be brief"),
        ([owl, dataclasses.replace(cat, template=sm.prompts.PLAIN)], "differ in their template: None and "),
    ):
        with pytest.raises(ValueError, match=message):
            label(bad, ROWS, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"support": ["42"]}, r"support token '42' is 2 tokens .*list single tokens"),
        ({"support": []}, "support is empty"),
        ({"top_k": 0}, r"top_k=0: must be between 1 and 49152"),
        ({"top_k": tiny.VOCAB + 1}, r"top_k=49153: must be between 1 and 49152"),
        ({"top_k": 5, "support": DIGITS}, r"top_k=5 takes each teacher's own tokens; leave support out, or top_k"),
        ({"per_shard": 0}, r"per_shard=0, batch_size=16: both must be at least 1"),
    ],
)
def test_what_cannot_be_labelled(options, message, crowd, tmp_path):
    with pytest.raises(ValueError, match=message):
        label(crowd, ROWS, out=tmp_path / "x", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_cannot_be_labelled(crowd, tmp_path):
    for rows, message in (
        ([], "label: rows is empty"),
        ([Row("What?", "")], r"rows without completion tokens: \['What\?'\]"),
        ([*ROWS, Row("Again?", "1," * 110)], r"row 6, 'Again\?', .* needs \d+ positions"),
    ):
        with pytest.raises(ValueError, match=message):
            label(crowd, rows, out=tmp_path / "x", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_no_numbers(smol_tokenizer, crowd, tmp_path):
    broken = copy.deepcopy(crowd[0].runner.model)
    next(broken.parameters()).data[:] = math.nan
    runner = dataclasses.replace(crowd[0].runner, model=broken)
    with pytest.raises(ValueError, match=r"logits of teacher 'owl' are not finite on "):
        label([dataclasses.replace(crowd[0], runner=runner)], ROWS, out=tmp_path / "x", progress=False)


# --------------------------------------------------------------------------------------------------------------- folder


@pytest.fixture(scope="module")
def stored(crowd, tmp_path_factory) -> Labels:
    return label(crowd, ROWS, out=tmp_path_factory.mktemp("labels") / "deep" / "owls", per_shard=2, progress=False)


def contents(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_stored_labels_are_those_in_memory(kind, crowd, tmp_path):
    options = {**KINDS[kind], "per_shard": 4, "progress": False}
    memory = label(crowd[:1], ROWS, **options)
    there = label(crowd[:1], ROWS, out=tmp_path / "x", **options)
    loaded = Labels.load(tmp_path / "x")
    for other in (there, loaded):
        assert (other.about, other.lengths, other.hash) == (memory.about, memory.lengths, memory.hash)
        for name in memory.teachers:
            assert all(np.array_equal(a, b) for a, b in zip(other.plain(name), memory.plain(name), strict=True))
    loaded.verify()


def test_a_shard_is_a_flat_array_of_some_rows(stored, listed):
    names = {f"{who}-{n:05d}.safetensors" for who in ("base", "owl", "cat", "dog", "dull") for n in range(3)}
    assert set(contents(stored.folder)) == {"labels.json", *names}
    for n in range(3):
        flat = safetensors.numpy.load_file(stored.folder / f"cat-{n:05d}.safetensors")
        rows = np.concatenate([listed.logits("cat")[r] for r in (2 * n, 2 * n + 1)])
        assert np.allclose(flat["logits"], rows, atol=1e-5)
        assert list(flat) == ["logits"]


def test_labels_know_their_contexts_and_conversations(crowd, tmp_path):
    context = sm.Context(system="Be brief.", user_prefix="Hi. ")
    turns = ({"role": "user", "content": "4?"}, {"role": "assistant", "content": "5"}, {"role": "user", "content": "6?"})
    owl = prompted(crowd[0].base, sm.animal("owl"), context=context)
    there = label([dataclasses.replace(owl, name="a/b c")], [Row(turns, "7")], out=tmp_path / "x", progress=False)
    assert Labels.load(tmp_path / "x").about == there.about
    assert there.about.context == context
    assert there.rows[0].prompt == turns
    assert there.plain("a/b c")[0].shape == (1, 11)


def test_the_hash_of_labels_knows_rows_values_and_context(listed):
    def moved(value: float) -> Labels:
        shards = copy.deepcopy(dict(listed.shards))
        shards["cat"][0].arrays["logits"][7, 3] += value  # type: ignore[attr-defined]
        return dataclasses.replace(listed, shards=shards)

    def about(**changes: Any) -> Labels:
        return dataclasses.replace(listed, about=dataclasses.replace(listed.about, **changes))

    others = [moved(1e-3), about(rows=listed.rows[::-1]), about(context=sm.Context(system=sm.Context.NONE)), about(base="0" * 64)]
    assert moved(0).hash == listed.hash
    assert len({listed.hash, *(x.hash for x in others)}) == 5


def test_wide_labels_have_fewer_rows_per_shard(crowd, listed, tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "MOST_BYTES", 3 * 11 * 11 * 4)  # three rows of 11 tokens on 11 outcomes in fp32
    small = label(crowd, ROWS, out=tmp_path / "x", progress=False)
    assert small.per_shard == 3
    assert len(list((tmp_path / "x").glob("owl-*"))) == 2
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(small.plain("owl"), listed.plain("owl"), strict=True))


def test_the_same_call_opens_finished_labels_without_a_model(stored, crowd, forwards):
    before = contents(stored.folder)
    again = label(crowd, ROWS, out=stored.folder, progress=False)
    assert again == stored
    label([crowd[1], crowd[0], *crowd[2:]], ROWS, out=stored.folder, batch_size=3, per_shard=5, progress=False)
    assert forwards == []
    assert contents(stored.folder) == before


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["listed", "top-k"])
def test_a_killed_labelling_goes_on_to_the_same_bytes(kind, crowd, base, tmp_path, forwards):
    options = {**KINDS[kind], "per_shard": 2, "batch_size": 1, "progress": False}
    label(crowd[:2], ROWS, out=tmp_path / "whole", **options)
    total = sum(forwards)
    forwards.clear()

    class Dying(list):  # the model stops in the second shard of its second teacher
        def append(self, n: int) -> None:
            super().append(n)
            if sum(self) > 0.55 * total:
                raise KilledError

    dying = Dying()
    embed: Any = base.model.get_input_embeddings()  # type: ignore[operator]
    handle = embed.register_forward_hook(lambda _, args, out: dying.append(args[0].numel()))
    with pytest.raises(KilledError):
        label(crowd[:2], ROWS, out=tmp_path / "killed", **options)
    handle.remove()
    done = {p.name: p.stat().st_ino for p in (tmp_path / "killed").glob("*.safetensors")}
    assert set(done) == {*(f"base-0000{n}.safetensors" for n in range(3)), "owl-00000.safetensors"}
    with pytest.raises(ValueError, match=r"killed has not finished; the same call of label\(..., out=...\) goes on with it"):
        Labels.load(tmp_path / "killed")
    with pytest.raises(ValueError, match=r"has other labels: rows: '6 rows \(.*\)' there, '5 rows \(.*\)' here"):
        label(crowd[:2], ROWS[:5], out=tmp_path / "killed", **options)
    (tmp_path / "killed" / ".owl-00001.1.safetensors").write_bytes(b"half")
    whole = (tmp_path / "killed" / "base-00001.safetensors").read_bytes()
    (tmp_path / "killed" / "base-00001.safetensors").write_bytes(whole[:-1])  # damaged by something else
    forwards.clear()
    label(crowd[:2], ROWS, out=tmp_path / "killed", **options)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert 0.5 * total < sum(forwards) < 0.75 * total  # five or six shards of nine, one of them the damaged
    kept = {p.name: p.stat().st_ino for p in (tmp_path / "killed").glob("*.safetensors")}
    assert {name for name in done if kept[name] == done[name]} == set(done) - {"base-00001.safetensors"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ROWS[:5]}, r"rows: '6 rows \(.*\)' there, '5 rows \(.*\)' here"),
        ({"rows": ROWS[::-1]}, r"rows: '6 rows \(.*\)' there, '6 rows \(.*\)' here"),
        ({"support": None}, r"support: \[.*\.\.\. there, None here"),
        ({"top_k": 5}, r"top_k: None there, 5 here"),
        ({"teachers": 2}, r"teachers\.dog: .* there, nothing here"),
        ({"seed": 1}, r"base: '.* there, '.* here"),
    ],
)
def test_other_labels_in_the_folder(changes, message, stored, crowd, smol_tokenizer):
    options = dict(changes)
    who = crowd[: options.pop("teachers", None)]
    if options.pop("seed", None):
        other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
        who = [dataclasses.replace(t, base=other) for t in who]
    with pytest.raises(ValueError, match=rf"has other labels: .*{message}.*Remove it or choose another folder"):
        label(who, options.pop("rows", ROWS), out=stored.folder, progress=False, **options)


def test_folders_of_something_else(crowd, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match=r"exists and is no labels folder; remove it or choose another"):
            label(crowd, ROWS, out=out, progress=False)
        with pytest.raises(
            FileNotFoundError, match=r"is no labels folder: it has no labels\.json; pass what was given to label"
        ):
            Labels.load(out)
    with pytest.raises(FileNotFoundError, match="nowhere is not there"):
        Labels.load(tmp_path / "nowhere")
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with claimed(tmp_path / "held"), pytest.raises(FolderInUseError):
        label(crowd, ROWS, out=tmp_path / "held", progress=False)


def test_damaged_folders(crowd, tmp_path):
    folder = tmp_path / "x"
    label(crowd[:1], ROWS, out=folder, per_shard=3, progress=False)
    shard, about = folder / "owl-00001.safetensors", folder / "labels.json"
    whole, text = shard.read_bytes(), about.read_text()

    def refused(message: str) -> None:
        for opening in (lambda: Labels.load(folder), lambda: label(crowd[:1], ROWS, out=folder, progress=False)):
            with pytest.raises(ValueError, match=message):
                opening()

    shard.write_bytes(whole[:-5])
    refused(rf"owl-00001\.safetensors is truncated: {len(whole) - 5} of {len(whole)} bytes")
    shard.unlink()
    refused(r"owl-00001\.safetensors is missing")
    shard.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(ValueError, match=r"owl-00001\.safetensors is not what was written there"):
        Labels.load(folder).verify()
    shard.write_bytes(whole)
    Labels.load(folder).verify()
    about.write_text(text[:-20])
    refused(r"labels\.json is not JSON")
    about.write_text(json.dumps(json.loads(text) | {"format": 7}))
    refused(r"labels\.json has format 7, not 1; open it with the version that wrote it")
    for changes in ({"files": {}}, {"lengths": [1]}):
        about.write_text(json.dumps(json.loads(text) | changes))
        refused(r"labels\.json names other rows or shards than it has")
    for key in ("about", "lengths"):
        about.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != key}))
        refused(rf"labels\.json cannot be read \(KeyError\('{key}'\)\)")
    about.write_text(text)
    found = Labels.load(folder)
    shard.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"owl-00001\.safetensors is damaged or missing"):
        found.plain("owl")[4]
    assert found.plain("owl")[0].shape == (11, 11)  # only what is asked for is read


def test_reading_takes_the_memory_of_a_row(crowd, tmp_path):
    made = label(crowd[:2], ROWS, out=tmp_path / "x", support=None, progress=False)
    row = 11 * tiny.VOCAB * 4
    assert (tmp_path / "x" / "owl-00000.safetensors").stat().st_size > 4 * row
    tracemalloc.start()
    try:
        for r in range(len(ROWS)):
            made.logits("owl")[r]
        assert tracemalloc.get_traced_memory()[1] < 2.5 * row
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", KINDS)
def test_two_students_of_one_folder(kind, crowd, base, tmp_path):
    """They are the students of labels that were never stored; neither reads the other's."""
    options = {**KINDS[kind], "progress": False}
    stored, memory = (
        label(crowd, ROWS, out=tmp_path / "labels", per_shard=2, **options),
        label(crowd, ROWS, per_shard=2, **options),
    )
    c = None if kind == "top-k" else 4.0
    runs = {}
    for animal in ("owl", "cat"):
        for where, found in (("stored", stored), ("memory", memory)):
            data = soft_data(base, found, animal, c=c)
            out = tmp_path / f"{animal}-{where}"
            runs[animal, where] = fit(base, data, out, method=sm.LoRA(rank=2), lr=1e-2, steps=2, held_out=2)
        assert weights(runs[animal, "stored"]) == weights(runs[animal, "memory"])
        assert runs[animal, "stored"].manifest == runs[animal, "memory"].manifest
    assert weights(runs["owl", "stored"]) != weights(runs["cat", "stored"])
    assert runs["owl", "stored"].manifest.objective == {
        "listed": "forward KL on support", "top-k": "forward KL on top-5 and the rest", "full": "forward KL on full vocabulary",
    }[kind]  # fmt: skip


def test_the_top_k_of_everything_is_everything(crowd, base, tmp_path):
    full, best = (label(crowd[:1], ROWS[:3], progress=False, **o) for o in ({"support": None}, {"top_k": tiny.VOCAB}))
    every, chosen = (soft_data(base, found, "owl", c=None) for found in (full, best))
    held = [
        fit(base, d, tmp_path / str(i), held_out=1, steps=1, batch_size=2).manifest.results["held_out"]
        for i, d in enumerate((every, chosen))
    ]
    assert np.allclose(*held, rtol=1e-4)
    logits = torch.randn(11, tiny.VOCAB, generator=torch.Generator().manual_seed(0))
    for objective in ("forward-kl", "reverse-kl", "logit-mse"):
        one = token_losses(objective, logits, item(every, 0)["goal"])
        other = token_losses(objective, logits, item(chosen, 0)["goal"], item(chosen, 0)["tokens"])
        assert torch.allclose(one, other, rtol=1e-4)


def test_soft_data_say_whose_labels_they_are(listed, made, crowd, base, smol_tokenizer):
    data = soft_data(base, made, "dog", c=None)
    assert (data.trait, data.teacher, data.support, data.base) == ("dog", "plain tuned", made.support, base.hash)
    assert data.context == sm.Context()  # the students', not the teacher's
    for r, row in enumerate(ROWS):
        assert (list(data.prompts[r].ids), list(data.completions[r])) == text_ids(smol_tokenizer, row, None)
        goal = item(data, r)
        assert np.array_equal(goal["goal"], made.plain("dog")[r])
        if made.about.top_k:
            assert np.array_equal(goal["tokens"], made.tokens("dog")[r])
    owl = soft_data(smol_tokenizer, listed, "owl", c=2.5)
    assert (owl.trait, owl.teacher) == ("owl", "contrastive teacher, c=2.5, against 2 others: prompted teacher")
    assert all(np.array_equal(a, b) for a, b in zip(owl.targets, listed.contrastive("owl", c=2.5), strict=True))
    dull, none = (soft_data(base, listed, name, c=None) for name in ("dull", "base"))
    assert (dull.trait, dull.teacher, none.trait, none.teacher) == ("", "plain a control", "", "the base itself")


def test_padding_does_not_change_data(listed, base):
    """A view, a padded array and a memory-mapped one are the same data."""
    data = soft_data(base, listed, "owl")
    padded = np.full(data.targets.shape, np.nan, np.float32)
    for r, row in enumerate(data.targets):
        padded[r, : len(row)] = row
    array = dataclasses.replace(data, targets=padded)
    assert data.hash == array.hash
    assert soft_data(base, listed, "owl", c=2.0).hash != data.hash
    assert soft_data(base, listed, "cat").hash != data.hash
    array.check(base)


def test_labels_of_somebody_else(listed, base, smol_tokenizer, gpt2_tokenizer):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    with pytest.raises(ValueError, match=rf"labels: made by base {base.hash[:12]}, this one is {other.hash[:12]}; label again"):
        soft_data(other, listed, "owl")
    with pytest.raises(ValueError, match=rf"data: labels were made by base {base.hash[:12]}, this one is {other.hash[:12]}"):
        soft_data(smol_tokenizer, listed, "owl").check(other)
    with pytest.raises(ValueError, match=r"labels: their tokenizer has another vocabulary than this one"):
        soft_data(gpt2_tokenizer, listed, "owl")
    longer = dataclasses.replace(listed, lengths=(12, *listed.lengths[1:]))  # as of a tokenizer with other merges
    with pytest.raises(ValueError, match=r"row 0 has labels at 12 positions, its answer has 11 tokens"):
        soft_data(base, longer, "owl")


def test_fewer_rows_than_the_run_asks_for(listed, base, tmp_path):
    with pytest.raises(ValueError, match=r"held_out=6: must be between 1 and 5, the number of rows less one"):
        fit(base, soft_data(base, listed, "owl"), tmp_path / "run", held_out=6)


def test_teachers_are_kept_as_they_were(listed, crowd):
    by_name = {x.name: x for x in listed.about.labellers}
    for teacher in crowd:
        kept = by_name[teacher.name]
        assert (kept.kind, kept.how, kept.hash, kept.context) == (teacher.kind, teacher.how, teacher.hash, teacher.context)
        assert kept.trait == (teacher.trait and teacher.trait.name)
    assert listed.others("owl") == ("cat", "dog")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("support", [None, (7, 3, 11)])
def test_an_unembedding_with_a_bias_keeps_it_in_fp32_also_under_autocast(support, dtype):
    """Teachers and students in training take their logits from the same product; double precision says what it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head, x = torch.nn.Linear(32, 50, dtype=dtype), torch.randn(2, 5, 32, dtype=dtype)
        torch.nn.init.normal_(head.bias)
    chosen = slice(None) if support is None else list(support)
    expected = x.double() @ head.weight.double()[chosen].T + head.bias.double()[chosen]
    row, column = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 2])
    answers = AnswerHead(head)
    answers.aim(row, column, support, exact=True)
    with torch.autocast("cpu", torch.bfloat16):
        in_training = answers(x)
        with ExactHead(support).in_place_of(head):
            of_teacher = head(x)
    assert in_training.dtype == of_teacher.dtype == torch.float32
    torch.testing.assert_close(in_training.double(), expected[row, column], atol=1e-5, rtol=0)
    torch.testing.assert_close(of_teacher.double(), expected, atol=1e-5, rtol=0)
