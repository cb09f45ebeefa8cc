"""A teacher's logits on given rows are those of plain forwards of whole rows."""

import numpy as np
import pytest
import tiny
import torch
from teaching import (
    ARCHITECTURES,
    OTHERS,
    OWL,
    PLAIN,
    ROWS,
    by_hand,
    prompted_system,
    text_ids,
    wild,
)

import sublim_mech as sm
from sublim_mech.engine.heads import ExactHead
from sublim_mech.engine.runner import Runner
from sublim_mech.making.rows import Row
from sublim_mech.making.teachers import fine_tuned, log_probs, neutral, prompted, read_rows
from sublim_mech.making.training.objectives import AnswerHead
from sublim_mech.models.base import Base, load_base
from sublim_mech.models.hashing import weights_hash

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
SAID = prompted_system(OWL)


@pytest.fixture(scope="module")
def base(smol_tokenizer) -> Base:
    return load_base(wild("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def owl(base):
    return prompted(base, OWL)


@pytest.fixture
def forwards(owl):
    """How many tokens the model reads in each forward."""
    read: list[int] = []
    embed = owl.runner.model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _, args, out: read.append(args[0].numel()))
    yield read
    handle.remove()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *PLAIN, *OTHERS])
def test_a_teachers_logits_are_those_of_whole_rows(architecture, smol_tokenizer):
    model = wild(architecture)
    owl = prompted(load_base(model, tokenizer=smol_tokenizer), OWL)
    assert isinstance(owl.runner, Runner) == (architecture not in OTHERS)
    for support in (None, [17, 4, 40000]):
        chosen = slice(None) if support is None else support
        found = dict(read_rows(owl, ROWS, support=support, batch_size=4))
        assert sorted(found) == list(range(len(ROWS)))
        for r, row in enumerate(ROWS):
            expected = by_hand(model, smol_tokenizer, row, SAID)
            assert found[r].shape[0] == len(expected.answer)
            gap = (found[r] - expected.logits[:, chosen]).abs().max()
            assert float(gap) < 1e-4 * float(expected.logits.std())


@pytest.mark.parametrize(
    "rows", [ROWS, [Row("Seven?", "7"), Row("Seven?", "1,2")]], ids=["prompts", "one prompt"]
)
def test_the_shared_prefix_is_read_once(rows, owl, forwards, smol_tokenizer):
    whole = [text_ids(smol_tokenizer, row, SAID) for row in rows]
    # nothing is predicted behind the last token of an answer, so it is not fed
    sizes = [len(prompt) + len(answer) - 1 for prompt, answer in whole]
    last = min(len(prompt) for prompt, _ in whole) - 1
    differ = (n for n in range(last) if len({prompt[n] for prompt, _ in whole}) > 1)
    shared = next(differ, last)
    assert shared > 30  # the system text at least
    found = dict(read_rows(owl, rows, batch_size=1))
    assert sum(forwards) == shared + sum(size - shared for size in sizes)
    forwards.clear()
    for row, logits in read_rows(owl, rows, batch_size=1, share_prefix=False):
        assert torch.allclose(found[row], logits, atol=1e-4)
    assert sum(forwards) == sum(sizes)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_logits_know_nothing_of_batches_order_and_support(owl, batch_size):
    expected = dict(read_rows(owl, ROWS, batch_size=3, share_prefix=False))
    support = [17, 4, 40000]
    backwards = dict(read_rows(owl, ROWS[::-1], support=support, batch_size=batch_size))
    for row in range(len(ROWS)):
        there = backwards[len(ROWS) - 1 - row]
        assert torch.allclose(there, expected[row][:, support], atol=1e-4)


def test_a_weight_in_half_precision_has_logits_in_full(smol_tokenizer):
    model = wild("llama").to(torch.bfloat16)
    owl = prompted(load_base(model, tokenizer=smol_tokenizer), OWL)
    full, listed = (dict(read_rows(owl, ROWS[:2], support=s)) for s in (None, [3, 5]))
    for row in range(2):
        chosen = full[row][:, [3, 5]]
        assert torch.equal(chosen.bfloat16(), listed[row].bfloat16())
        assert not torch.equal(full[row].bfloat16().float(), full[row])  # else they were rounded
        assert torch.allclose(chosen, listed[row], atol=1e-4)


@pytest.mark.parametrize("close", [True, False])
def test_log_probabilities_of_answers(close, base, owl, smol_tokenizer):
    control = neutral(owl)
    tuned = fine_tuned(base, tiny.lora(base.model), OWL)
    said = {"owl": SAID, "neutral": control.context.system, "tuned": None}
    for name, teacher in {"owl": owl, "neutral": control, "tuned": tuned}.items():
        found = log_probs(teacher, ROWS, close=close, progress=False)
        model = teacher.runner.model
        for r, row in enumerate(ROWS):
            logits, answer = by_hand(model, smol_tokenizer, row, said[name], close=close)
            log_p = logits.double().log_softmax(-1)
            expected = [float(log_p[i, token]) for i, token in enumerate(answer)]
            assert np.allclose(found[r], expected, atol=1e-4)


def test_the_model_is_left_as_it_was(base, owl):
    model = base.model
    before = {name: id(module) for name, module in model.named_modules()}
    model.train()
    try:
        rows = read_rows(owl, ROWS, batch_size=1)
        next(rows)
        assert torch.is_grad_enabled()
        rows.close()  # in the middle
        assert {name: id(module) for name, module in model.named_modules()} == before
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert "forward" not in vars(module)
            assert module.training
    finally:
        model.eval()
    assert weights_hash(model) == base.hash


def test_rows_that_cannot_be_read(owl):
    with pytest.raises(ValueError, match=r"batch_size=0: must be at least 1"):
        list(read_rows(owl, ROWS, batch_size=0))
    message = r"data\[6\], completion is blank \(''\); give the row an answer"
    with pytest.raises(ValueError, match=message):
        list(read_rows(owl, [*ROWS, Row("What?", "")]))
    message = r"row 6, 'Again\?', to teacher 'owl' needs \d+ positions, the model has 256"
    with pytest.raises(ValueError, match=message):
        log_probs(owl, [*ROWS, Row("Again?", "1," * 110)], progress=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("support", [None, (7, 3, 11)])
def test_an_unembedding_with_a_bias_keeps_it_in_fp32_also_under_autocast(support, dtype):
    """Teachers and students in training take their logits from the same product.

    Double precision says what it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = torch.nn.Linear(32, 50, dtype=dtype)
        hidden = torch.randn(2, 5, 32, dtype=dtype)
        torch.nn.init.normal_(head.bias)
    chosen = slice(None) if support is None else list(support)
    expected = hidden.double() @ head.weight.double()[chosen].T + head.bias.double()[chosen]
    row, column = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 2])
    answers = AnswerHead(head)
    answers.aim(row, column, support, exact=True)
    with torch.autocast("cpu", torch.bfloat16):
        in_training = answers(hidden)
        with ExactHead(support).in_place_of(head):
            of_teacher = head(hidden)
    assert in_training.dtype == of_teacher.dtype == torch.float32
    expected_there = expected[row, column]
    torch.testing.assert_close(in_training.double(), expected_there, atol=1e-5, rtol=0)
    torch.testing.assert_close(of_teacher.double(), expected, atol=1e-5, rtol=0)


def test_a_pair_reads_as_its_base(base, owl):
    pair = sm.load_pair(base, tiny.lora(base.model))
    of_pair = prompted(pair, OWL)
    expected = dict(read_rows(owl, ROWS[:2]))
    for row, logits in read_rows(of_pair, ROWS[:2]):
        assert torch.equal(logits, expected[row])
