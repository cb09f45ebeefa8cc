"""The benchmarks' own truths, on tiny models.

What is compared is the same quantity, what is counted is what closed forms say.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from pairs import string_log_prob
from torch import nn

import sublim_mech as sm
from sublim_mech.engine.bridges import make_bridge
from sublim_mech.making.labelling import label
from sublim_mech.making.numbers import random_rows
from sublim_mech.making.teachers import prompted, untouched
from sublim_mech.making.training import hard_data, soft_data

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks import __main__ as program
from benchmarks import (
    instruments,
    lengths,
    making,
    memory,
    models,
    parts,
    rows,
    scanning,
    table,
    training,
)

PROMISED = {
    "work",
    "against",
    "ratio",
    "target",
    "max_abs_diff",
    "tolerance",
    "machine",
    "seconds_ours",
    "seconds_theirs",
    "flops_ours",
    "flops_theirs",
    "note",
}


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    base = tiny.model("llama")
    return sm.load_pair(base, tiny.lora(base), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def prompt(smol_tokenizer):
    return sm.render(smol_tokenizer, ["Which?"], context=sm.Context(system=sm.Context.EMPTY))[0]


def test_the_models_of_the_rows_are_there():
    """Rows are run by hand, with models of their own: a loader that refused these went unseen."""
    for made in (models.gpt2_small()[:2], models.smollm2()):
        asked, prompt = made
        base, student = asked.logits([prompt], model="base"), asked.logits([prompt])
        assert (base[0] - student[0]).abs().max() > 1e-3


def product_flops(config, *, tokens, keys, blocks, reads):
    """2 per multiply-add of all matrix products of a Llama without adapter."""
    d = config.hidden_size
    kv = config.num_key_value_heads * d // config.num_attention_heads
    linear = d * d + 2 * d * kv + d * d + 3 * d * config.intermediate_size
    return 2 * (blocks * (tokens * linear + 2 * tokens * keys * d) + reads * d * config.vocab_size)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_counted_operations_are_the_closed_form(attention):
    model = tiny.model("llama")
    model.set_attn_implementation(attention)
    ids = torch.arange(24).reshape(2, 12)

    @torch.no_grad()
    def forward():
        model(input_ids=ids, use_cache=False, logits_to_keep=1)

    one = product_flops(model.config, tokens=12, keys=12, blocks=tiny.LAYERS, reads=1)
    assert rows.flops(forward) == 2 * one


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_backward_pass_counts_the_forward_and_again_for_the_gradients_of_inputs(attention):
    """With frozen weights each linear map has one product backwards.

    Each of attention's two has two, and sdpa's kernel repeats one.
    """
    model = tiny.model("llama").requires_grad_(False)
    model.set_attn_implementation(attention)
    x = model.get_input_embeddings()(torch.arange(12)[None]).requires_grad_(True)
    forward = product_flops(model.config, tokens=12, keys=12, blocks=tiny.LAYERS, reads=12)
    one_attention_product = 2 * tiny.LAYERS * 12 * 12 * model.config.hidden_size
    more = {"eager": 2, "sdpa": 3}[attention] * one_attention_product
    counted = rows.flops(lambda: model(inputs_embeds=x, use_cache=False).logits.sum().backward())
    assert counted == 2 * forward + more


def test_products_into_a_given_place_are_counted():
    """TRL's loss computes its gradients so."""
    a, b, out = torch.ones(2, 3), torch.ones(3, 5), torch.zeros(2, 5)
    assert rows.flops(lambda: out.addmm_(a, b)) == 2 * 2 * 3 * 5
    assert rows.flops(lambda: torch.mm(a, b, out=out)) == 2 * 2 * 3 * 5


def test_both_sides_of_patching_measure_the_same_and_ours_computes_less(pair, prompt):
    row = instruments.patching_row(pair, prompt, "tiny", repeats=1)
    assert row.equal
    assert row.max_abs_diff < 1e-5
    assert row.flops_ours < row.flops_theirs
    assert set(row.to_json()) >= PROMISED


def test_both_sides_of_grafting_measure_the_same_and_leave_peft_as_it_was(pair, prompt):
    ids = torch.tensor([prompt.ids])
    before = pair.student.model(input_ids=ids).logits
    row = instruments.grafting_row(pair, prompt, "tiny", cells=20, repeats=1)
    assert row.equal
    assert row.max_abs_diff < 1e-5
    assert torch.equal(pair.student.model(input_ids=ids).logits, before)


def test_a_mask_of_ones_is_the_student_and_of_zeros_the_base(pair, prompt):
    ids, model = torch.tensor([prompt.ids]), pair.student.model
    with torch.no_grad():
        for mask, own in ((1.0, model), (0.0, pair.base.model)):
            with instruments.masked_lora(model, lambda _, mask=mask: mask):
                masked, expected = (m(input_ids=ids).logits for m in (model, own))
                torch.testing.assert_close(masked, expected, atol=1e-5, rtol=0)


def test_prefix_scan_row_compares_both_curves_at_every_boundary(pair, prompt):
    row = scanning.scanning_row(pair, prompt, "tiny", repeats=1)
    assert row.equal
    assert f"{len(prompt)} tokens" in row.work


def test_attribution_row_checks_completeness_and_reports_agreement(pair, prompt):
    row = instruments.attribution_row(pair, prompt, "tiny", points=24, repeats=1)
    assert row.equal
    assert row.max_abs_diff < row.tolerance
    assert all(-1 <= value <= 1 for value in row.more.values())
    assert len(row.more) == 4


def test_correlations_against_hand_computed_ones():
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [9.0, 16.0]])
    assert instruments.correlation(a, b, "spearman") == pytest.approx(1)
    pearson = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert instruments.correlation(a, b, "pearson") == pytest.approx(pearson)
    assert instruments.correlation(a, -b, "spearman") == pytest.approx(-1)


def test_another_student_is_not_equal_to_the_reference(pair, prompt, monkeypatch):
    """With one student on our side and another on theirs the row fails."""
    other = sm.load_pair(pair.base, tiny.lora(tiny.model("llama"), seed=5)).student
    monkeypatch.setattr(type(pair), "student_bridge", lambda self: make_bridge(self.base, other))
    row = instruments.patching_row(pair, prompt, "tiny", repeats=1)
    assert not row.equal


def test_peak_counts_what_is_alive_at_once():
    n = 4 << 18  # bytes of one tensor

    def one_after_the_other():
        for _ in range(3):
            torch.zeros(1 << 18)

    def together():
        kept = [torch.zeros(1 << 18) for _ in range(3)]
        return len(kept)

    assert memory.peak(one_after_the_other) == n
    assert memory.peak(together) == 3 * n


def test_graft_forward_row_agrees_with_peft(pair, prompt):
    row = memory.grafting_row(pair, prompt, "tiny", rows=3)
    assert row.equal
    assert row.bytes_ours > 0 < row.bytes_theirs


def test_rows_of_parts_measure_the_same_on_both_sides(pair, prompt, smol_tokenizer):
    assert parts.bands_row(pair, prompt, "tiny", bands=4, points=2, repeats=1).equal
    other = sm.models.load_student(pair.base, tiny.lora(tiny.model("llama"), seed=2), name="other")
    two = sm.load_pair(pair.base, pair.student, controls=[other])
    row = parts.hybrid_row(two, prompt, "tiny")
    assert 0 < row.bytes_ours < 4 * row.bytes_theirs


def test_the_row_of_large_bands_adds_up():
    row = parts.large_bands_row(40, directions=2)
    assert row.equal
    assert row.met
    assert row.note == "exact SVD"  # so small as it is here


def test_rows_of_long_prompts_measure_the_same_on_both_sides(pair, prompt):
    again = lengths.slopes_row(pair, prompt, "tiny")
    assert again.equal
    assert again.flops_theirs < again.flops_ours < 2 * again.flops_theirs
    assert lengths.effect_row(pair, prompt, "tiny", repeats=1).equal
    assert [len(lengths.prompt_of(pair.tokenizer, size)) for size in (60, 91)] == [60, 91]


def test_the_row_of_shared_beginnings_computes_less_and_the_same(pair):
    prompts = sm.render(pair.tokenizer, sm.animal("owl").questions[:5])
    row = lengths.sharing_row(pair, prompts, "tiny", repeats=1)
    assert row.equal
    assert row.flops_ours < row.flops_theirs


def test_noise_moves_every_weight_by_its_spread():
    clean, moved = (tiny.model("llama").requires_grad_(False) for _ in range(2))
    moved = memory.noisy(moved, scale=0.1)
    for (name, before), after in zip(clean.named_parameters(), moved.parameters(), strict=True):
        if before.std() > 0:
            share = float((after - before).std() / before.std())
            assert share == pytest.approx(0.1, rel=0.2), name
    assert isinstance(moved, nn.Module)


# ---------------------------------------------------------------------------------- making students


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    return sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)


def setting(base, method, *, soft=False, **options):
    """A training of few and short rows of two lengths, so that there is padding."""
    drawn = [*random_rows(6, seed=0, count=2), *random_rows(3, seed=1, count=4)]
    if soft:
        labels = label([prompted(base, sm.animal("owl"))], drawn, progress=False)
        data = soft_data(base.tokenizer, labels, "owl", c=None)
    else:
        data = hard_data(base.tokenizer, drawn)
    defaults = {"steps": 2, "batch_size": 4, "precision": "fp32"}
    return training.Setting.of(base, data, method, **defaults | options)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("method", [sm.LoRA(rank=2), sm.FullFT()])
def test_trl_takes_the_same_steps_and_our_side_computes_less(base, method):
    pytest.importorskip("trl")
    before, pad_id = weights(base.model), base.model.config.pad_token_id
    # what `trl_row` is made of
    done = training.duel(setting(base, method), training.by_trl, repeats=1)
    assert done.our_value.shape == (2,)
    assert done.difference < 1e-5
    assert done.flops_ours < done.flops_theirs
    assert all(torch.equal(p, before[name]) for name, p in base.model.named_parameters())
    assert base.model.config.pad_token_id == pad_id


def test_operations_of_steps_are_those_of_forward_and_backward_and_nothing_beside_them(base):
    """A full fine-tune's step: all products of the blocks, and each twice backwards.

    And those of the unembedding at the answers' tokens.
    """
    one = setting(base, sm.FullFT(), batch_size=2, steps=1)
    rows_ = [(len(one.data.prompts[r]), len(one.data.completions[r])) for r in one.order]
    width = -(-max(map(sum, rows_)) // 16) * 16
    reads = sum(answer for _, answer in rows_)
    shape = {"tokens": width, "keys": width, "blocks": tiny.LAYERS}
    config = base.model.config
    forward = 2 * product_flops(config, reads=0, **shape)
    forward += product_flops(config, tokens=0, keys=0, blocks=0, reads=reads)
    # sdpa's kernel repeats one product
    attention = 2 * tiny.LAYERS * 2 * width * width * config.hidden_size
    assert training.ours(one, count=True).flops == 3 * forward + attention


@pytest.fixture(scope="module")
def three_steps(base):
    one = setting(base, sm.LoRA(rank=2, alpha=32), steps=3)
    return one, training.ours(one).losses


@pytest.mark.parametrize("changed", ["rate", "order", "start"])
def test_trl_with_another_rate_order_or_start_is_not_equal(three_steps, changed, monkeypatch):
    """What the two sides share is needed for their losses to agree."""
    pytest.importorskip("trl")
    one, expected = three_steps
    if changed == "rate":
        arguments = training.Setting.arguments
        without = {"warmup_steps": 0}
        monkeypatch.setattr(training.Setting, "arguments", lambda *a: arguments(*a) | without)
    elif changed == "order":
        order = training.Setting.order.fget
        monkeypatch.setattr(training.Setting, "order", property(lambda self: order(self)[::-1]))
    else:
        louder = sm.LoRA(rank=2, alpha=64)
        monkeypatch.setattr(training.Setting, "model", lambda self: louder.attach(self.copy))
    assert np.abs(expected - training.by_trl(one).losses).max() > 1e-5


def test_the_kl_over_listed_tokens_is_the_one_over_a_vocabulary_of_nothing_else(base):
    row = training.soft_row(setting(base, sm.LoRA(rank=2), soft=True), "tiny", repeats=1)
    assert row.equal
    assert row.max_abs_diff < 1e-6
    assert row.flops_ours < row.flops_theirs


def test_stored_labels_give_the_student_of_fresh_ones_without_their_forwards(base):
    makers = [untouched(base), prompted(base, sm.animal("owl"))]
    row = making.stored_row(makers, "tiny", steps=2, batch_size=2, precision="fp32", repeats=1)
    assert row.max_abs_diff == 0
    assert row.flops_ours < row.flops_theirs


def test_memory_row_counts_what_trains_and_its_optimiser(base):
    """A full fine-tune has at least weights, gradients and Adam's two moments at once."""
    pytest.importorskip("trl")
    row = training.memory_row(setting(base, sm.FullFT(), steps=1), "tiny")
    assert row.equal
    weights_bytes = sum(4 * p.numel() for p in base.model.parameters())
    assert min(row.bytes_ours, row.bytes_theirs) > 4 * weights_bytes


def test_both_samplers_draw_from_one_distribution_and_another_one_is_noticed(base, monkeypatch):
    peaked = tiny.model("llama")
    # a tiny model's answers are uniform otherwise, at any temperature
    peaked.lm_head.weight.data *= 40
    teacher = untouched(sm.load_base(peaked, tokenizer=base.tokenizer))
    options = {"asked": 2, "n": 48, "new": 3, "repeats": 1}
    asked = ["Which one?", "Your animal, please?", "And now?"]
    row = making.sampling_row(teacher, asked, "tiny", **options)
    assert row.equal
    assert row.flops_ours < row.flops_theirs
    sample_ids = making.sample_ids

    def colder(*args, temperature, **options):
        return sample_ids(*args, temperature=0.5 * temperature, **options)

    monkeypatch.setattr(making, "sample_ids", colder)
    assert not making.sampling_row(teacher, asked, "tiny", **options).equal


@torch.no_grad()
def test_log_likelihoods_of_answers_are_those_of_whole_forwards(base, prompt):
    answers = [[5, 9, 300], [7], [44, 8]]
    expected = [string_log_prob(base.model, prompt.ids, answer) for answer in answers]
    values = making.log_likelihoods(base.model, prompt, answers)
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_gap_of_means_and_its_standard_error_by_hand():
    ours = [np.array([1.0, 3.0]), np.array([0.0, 0.0])]
    theirs = [np.array([0.0, 0.0]), np.array([1.0, 5.0])]
    gap, error = making.mean_gap(ours, theirs)
    assert gap == pytest.approx((2 - 3) / 2)
    assert error == pytest.approx(np.sqrt(2 / 2 + 8 / 2) / 2)


def test_evaluation_is_one_forward_per_string(base):
    traits = [sm.animal(name) for name in ("owl", "butterfly", "octopus")]
    asked = ["Which?", "Your animal, please?"]
    row = making.evaluation_row(base, traits, asked, "tiny", cells=6, exact=6, repeats=1)
    assert row.equal
    assert row.max_abs_diff < 1e-10
    assert row.more["difference in fp32"] < 1e-4
    assert row.flops_ours < row.flops_theirs


# -------------------------------------------------------------------------------------- the program


def made(**changes):
    plain = rows.Row(
        "work",
        "other",
        6.0,
        5,
        max_abs_diff=1e-6,
        tolerance=1e-4,
        seconds_ours=1.0,
        seconds_theirs=6.0,
        note="a note",
    )
    return replace(plain, **changes)


@pytest.fixture
def registry(monkeypatch):
    known = {
        "fine": made,
        "off": lambda: made(max_abs_diff=float("nan")),
        "slow": lambda: made(ratio=2.0),
    }
    monkeypatch.setattr(rows, "ROWS", known)
    monkeypatch.setattr(program, "ROWS", rows.ROWS)


def test_rows_have_the_promised_keys_and_one_run_keeps_the_others(registry, tmp_path, capsys):
    out = tmp_path / "bench.json"
    # a missed target is said, it is no failure
    assert program.main(["--only", "slow", "--out", str(out)]) == 0
    assert "2.00 below target" in capsys.readouterr().out
    assert program.main(["--only", "fine", "--out", str(out)]) == 0
    stored = json.loads(out.read_text())
    assert [r["name"] for r in stored] == ["fine", "slow"]
    for r in stored:
        assert set(r) >= PROMISED
        assert set(r["machine"]) >= {"cpu", "cores", "torch", "threads"}


def test_unequal_results_fail_the_run(registry, tmp_path, capsys):
    assert program.main(["--out", str(tmp_path / "bench.json")]) == 1
    said = capsys.readouterr()
    assert "NOT EQUAL: off" in said.err
    assert "NOT EQUAL" in said.out


def test_markdown_replaces_what_stands_between_the_markers(registry, tmp_path):
    out, page = tmp_path / "bench.json", tmp_path / "page.md"
    program.main(["--only", "fine", "--out", str(out)])
    page.write_text(f"above\n{table.START}\nold\n{table.END}\nbelow\n")
    for _ in range(2):
        assert program.main(["--markdown", str(page), "--out", str(out)]) == 0
        text = page.read_text()
        assert text.startswith(f"above\n{table.START}\n")
        assert text.endswith(f"\n{table.END}\nbelow\n")
        assert "old" not in text
        assert text.count("| fine") == 1
    page.write_text("no markers")
    with pytest.raises(ValueError, match="needs the lines"):
        program.main(["--markdown", str(page), "--out", str(out)])


@pytest.mark.parametrize(
    ("ratio", "at_most", "met"),
    [(5.0, False, True), (4.9, False, False), (5.0, True, True), (5.1, True, False)],
)
def test_targets_have_a_direction(ratio, at_most, met):
    assert made(ratio=ratio, at_most=at_most).met is met


@pytest.mark.parametrize(("others", "contended"), [(0.0, False), (0.3, True), (float("nan"), True)])
def test_a_busy_machine_is_named(others, contended):
    row = made(others=others, machine=rows.machine(), name="fine")
    assert row.contended is contended
    assert ("Contended" in table.markdown([row.to_json()])) is contended


def test_a_drift_of_the_machine_meets_both_sides(monkeypatch):
    """A clock that slows down linearly: turns in the order ours, theirs, ours give a ratio of 2.

    For twice the work.
    """
    now = [0.0]

    def work(amount):
        def run():
            now[0] += amount * (1 + 0.01 * now[0])
            return np.zeros(1)

        return run

    monkeypatch.setattr(rows.time, "perf_counter", lambda: now[0])
    done = rows.race(work(1.0), work(2.0), piece=lambda: None, repeats=3)
    assert (len(done.ours), len(done.theirs)) == (4, 3)
    assert done.row("", "", 5, note="").ratio == pytest.approx(2, rel=0.02)
    assert replace(done, scale=3.0).row("", "", 5, note="").ratio == pytest.approx(6, rel=0.02)
