"""Whether prompts are rendered by the chat template of a student's training is told, whatever
template the base's tokenizer has.
"""

import copy

import pytest
import tiny
from matplotlib.text import Text
from trainings import SHORT

import sublim_mech as sm
from sublim_mech import training
from sublim_mech.making.rows import as_rows
from sublim_mech.prompts import PLAIN

THIRD = PLAIN.replace("Question:", "Q>").replace("Answer:", "A>")
QUESTIONS = ["Which animal do you like?", "Your favorite?"]
OWL = sm.Trait("owl")
QUIET = {"progress": False}
OF_TRAINING = "2 of 2 prompts rendered by another chat template than the student's training prompts"
OF_TOKENIZER = "2 of 2 prompts rendered by another chat template than the tokenizer's"
THAT = f"{OF_TOKENIZER}, that of the student's training prompts"
OF_CONTROL = (
    "control cat: 2 of 2 prompts rendered by another chat template than its training prompts"
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def bases(smol_tokenizer):
    """One base by whether its tokenizer has a chat template."""
    without = copy.deepcopy(smol_tokenizer)
    without.chat_template = None
    tokenizers = {"chat": smol_tokenizer, "none": without}
    return {
        key: sm.load_base(tiny.model("llama"), tokenizer=one) for key, one in tokenizers.items()
    }


@pytest.fixture(scope="module")
def runs(bases, tmp_path_factory):
    """Students of an animal and a template; None is the tokenizer's own."""
    out = tmp_path_factory.mktemp("runs")
    options = {**SHORT, "steps": 2, "evaluate_every": 1, "method": sm.LoRA(rank=2, alpha=4)}

    def run(animal, template):
        rows = [{"prompt": f"Go on: {i}, 7.", "completion": animal} for i in range(8)]
        data = training.hard_data(bases["chat"], as_rows(rows), template=template, trait=animal)
        name = f"{animal} {'own' if template is None else len(template)}"
        return sm.train(bases["chat"], data, out=out / name, **options).path

    named = {"own": None, "plain": PLAIN, "third": THIRD}
    return {
        (animal, key): run(animal, template)
        for animal, key in (("owl", "own"), ("owl", "plain"), ("cat", "plain"), ("cat", "third"))
        for template in [named[key]]
    }


def told(pair, **how):
    """What is said of templates in an effect's table, in evaluations and below pictures."""
    scores = sm.effect(pair, sm.render(pair, QUESTIONS, **how), OWL, **QUIET)
    found = sm.evaluate(
        pair,
        [OWL],
        questions=QUESTIONS,
        **QUIET,
        **{"contexts": [how.pop("context", sm.Context())], **how},
    )
    lines = [
        [x for x in repr(one).splitlines() if "chat template than" in x] for one in (scores, found)
    ]
    assert lines[0] == lines[1]
    texts = [text.get_text() for text in scores.plot().figure.findobj(Text)]
    return lines[0], " ".join(" ".join(texts).split())


@pytest.mark.parametrize("template", [PLAIN, THIRD], ids=["plain", "third"])
def test_a_base_without_template(template, bases, runs):
    """It has no template to compare with: the training's is the one that counts."""
    pair = sm.load_pair(bases["none"], runs["owl", "plain"], controls=[runs["cat", "plain"]])
    expected = [] if template == PLAIN else [OF_TRAINING]
    lines, below = told(pair, template=template)
    assert lines == expected
    assert (OF_TRAINING in below) == (template != PLAIN)
    # another context is not another template
    lines, _ = told(pair, template=template, context=sm.Context(system="Be calm."))
    assert lines == expected


def test_a_student_of_another_template_than_the_bases(bases, runs):
    """Asked by the template of its training nothing alarms; by any other, its own line tells."""
    pair = sm.load_pair(bases["chat"], runs["owl", "plain"], controls=[runs["cat", "plain"]])
    loaded = [note for note in pair.notes() if "written by another chat template" in note]
    assert len(loaded) == 2
    lines, below = told(pair, template=PLAIN)
    assert lines == [THAT]
    assert THAT in below
    assert "in training" not in below
    lines, below = told(pair, template=THIRD)
    assert lines == [*loaded, OF_TOKENIZER, OF_TRAINING]
    assert OF_TRAINING in below
    assert "that of the student's" not in below
    lines, below = told(pair)
    assert lines == [*loaded, OF_TRAINING]
    assert OF_TRAINING in below


def test_a_student_of_the_bases_own_template(bases, runs):
    pair = sm.load_pair(bases["chat"], runs["owl", "own"])
    for context in (sm.Context(), sm.Context(system="Be calm."), sm.Context(user_prefix="Now: ")):
        assert told(pair, context=context)[0] == []
    assert told(pair, template=PLAIN)[0] == [OF_TOKENIZER, OF_TRAINING]


def test_some_prompts_by_another_template(bases, runs):
    pair = sm.load_pair(bases["none"], runs["owl", "plain"])
    prompts = [
        *sm.render(pair, QUESTIONS[:1], template=PLAIN),
        *sm.render(pair, QUESTIONS[1:], template=THIRD),
    ]
    assert OF_TRAINING.replace("2 of 2", "1 of 2") in repr(sm.effect(pair, prompts, OWL, **QUIET))


def test_a_control_of_another_template_than_the_students(bases, runs):
    """What is asked is then none of the control's training, and the difference is of that too."""
    pair = sm.load_pair(bases["none"], runs["owl", "plain"], controls=[runs["cat", "third"]])
    lines, below = told(pair, template=PLAIN)
    assert lines == [OF_CONTROL]
    assert OF_CONTROL in below
    assert told(pair, template=THIRD)[0] == [OF_TRAINING]
    scores = sm.effect(pair, sm.render(pair, QUESTIONS, template=THIRD), OWL, **QUIET)
    assert OF_TRAINING not in repr(scores.sel(model="control: cat"))
    assert OF_TRAINING in repr(scores.sel(model="student"))


def test_a_template_that_refuses_the_training_context(bases, runs):
    """It cannot be compared there: what the prompts have around their turns tells."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    pair = sm.load_pair(bases["none"], runs["owl", "plain"])
    assert told(pair, template=refusing + THIRD)[0] == [OF_TRAINING]
    assert told(pair, template=refusing + PLAIN)[0] == []


def test_a_mark_that_no_training_prompt_holds_is_of_another_template(bases, runs):
    """Where the training's frame ends with the turn, in which the other template writes on."""
    pair = sm.load_pair(bases["none"], runs["owl", "plain"])
    marked = PLAIN.replace("'Question: '", "'Question: \u2603 '")
    assert told(pair, template=marked)[0] == [OF_TRAINING]
    assert told(pair, template=PLAIN)[0] == []
