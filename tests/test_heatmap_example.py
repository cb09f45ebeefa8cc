"""The main example on a tiny model: in whose context it asks, and which controls it takes."""

import copy
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from template_kinds import EMPTY_THOUGHT

import sublim_mech as sm

EXAMPLES = Path(__file__).parent.parent / "examples"
SYSTEM = "You know every city."
THINKER = "{{ '<|im_start|>system\nIt is ' + strftime_now('%Y') + '<|im_end|>\n' }}" + EMPTY_THOUGHT
CHAT = [{"role": "user", "content": "Continue: 12, 7."}]
PROMPTS = ["Continue: 12, 7.", "More numbers: 3, 4."]


@pytest.fixture(scope="module")
def folders(smol_tokenizer, tmp_path_factory):
    """A base, and a student and a control made elsewhere: adapters without a manifest."""
    root = tmp_path_factory.mktemp("made")
    base = tiny.model("llama")
    for name, template in (("base", smol_tokenizer.chat_template), ("thinker", THINKER)):
        base.save_pretrained(root / name)
        tokenizer = copy.deepcopy(smol_tokenizer)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(root / name)
    for seed, name in ((1, "lisbon"), (2, "toronto")):
        tiny.lora(base, seed=seed).save_pretrained(root / name)
    return root


@pytest.fixture
def run(folders, tmp_path, monkeypatch, capsys):
    """Runs the example on the student, and gives what it printed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("per_token_heatmap")

    def go(*options):
        small = ["--questions", "2", "--patched", "1", "--points", "1", "--confirmed", "2"]
        made = ["--base", str(folders / "base"), "--student", str(folders / "lisbon")]
        made += ["--trait", "Lisbon", "--category", "city", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["per_token_heatmap", *made, *small, *options])
        example.main()
        return capsys.readouterr().out

    yield go
    sys.modules.pop("per_token_heatmap", None)


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_nothing_is_made_up_for_a_student_made_elsewhere(run, tmp_path):
    said = run()
    assert "controls: none" in said
    assert "training context not given" in said
    assert "training prompts not given" in said
    assert not (tmp_path / "graft_sharing.safetensors").exists()
    scores = sm.Scores.load(tmp_path / "attribution.safetensors")
    assert list(scores.data["model"].values) == ["student"]


def test_training_prompts_are_lines_or_rows(folders, tmp_path, monkeypatch):
    """Of a conversation the last answer is left off."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("per_token_heatmap")
    chat = [{"role": "user", "content": PROMPTS[0]}, {"role": "assistant", "content": "8"}]
    rows = [{"messages": chat}, {"prompt": PROMPTS[1], "completion": "5"}]
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    lines, read = (
        example.trained_prompts(
            SimpleNamespace(
                trained_on=str(tmp_path / f"prompts.{kind}"), system=SYSTEM, option=None, date=None
            )
        )
        for kind in ("txt", "jsonl")
    )
    assert lines == PROMPTS
    where = {"trained_in": sm.Context(system=SYSTEM, literal=True)}
    pairs = (
        sm.load_pair(str(folders / "base"), folders / "lisbon", trained_on=one, **where)
        for one in (lines, read)
    )
    one, other = (pair.training_prompts for pair in pairs)
    assert one == other
    assert (one.count, other.count) == (2, 2)
    sys.modules.pop("per_token_heatmap")


def test_the_student_is_asked_in_its_training_context(run, folders, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS) + "\n")
    options = ["--system", SYSTEM, "--trained-on", str(file)]
    said = run(*options, "--control", str(folders / "toronto"))
    assert "controls: toronto" in said
    assert "not given" not in said
    scores = sm.Scores.load(tmp_path / "graft_sharing.safetensors")
    assert all(repr(SYSTEM) in context and "text" in context for context in scores.record.contexts)
    context = sm.Context(system=SYSTEM, literal=True)
    pair = sm.load_pair(
        str(folders / "base"), folders / "lisbon", trained_in=context, trained_on=PROMPTS
    )
    (first, *_) = sm.render(pair, sm.Trait("Lisbon", category="city").questions[:1])
    shared = scores.data["tokens"].sel(set="shared").values[0]
    assert shared == len(sm.masks.sharing("shared").tokens(first))
    assert "system" in [first.roles[i] for i in sm.masks.sharing("shared").tokens(first)]


def test_a_student_with_a_manifest_is_asked_elsewhere_by_options_of_its_own(run, tmp_path):
    owl = str(EXAMPLES / "students" / "owl")
    (tmp_path / "p.txt").write_text("Hi.\nHo.\n")
    for said in (["--trained-on", str(tmp_path / "p.txt")], ["--system", "Be calm."]):
        with pytest.raises(SystemExit, match=rf"^{said[0]}: .*has a manifest.*--asked-system TEXT"):
            run("--student", owl, *said)


@pytest.mark.parametrize(
    ("said", "context"),
    [
        ([], None),
        (["--asked-system", SYSTEM], sm.Context(SYSTEM, literal=True, date="2025-12-31")),
        (["--asked-context", "none"], sm.Context(sm.Context.NONE, date="2025-12-31")),
        (["--asked-context", "raw"], sm.RAW),
        (["--prefill", "It is"], sm.Context("Be calm.", date="2025-12-31", prefill="It is")),
    ],
)
def test_the_context_of_the_questions_may_be_another_one(said, context, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("per_token_heatmap")
    monkeypatch.setattr(sys, "argv", ["per_token_heatmap", *said])
    pair = SimpleNamespace(training_context=sm.Context("Be calm.", date="2025-12-31"))
    assert example.asked_in(pair, example.parse()) == context
    sys.modules.pop("per_token_heatmap")


def test_errors_of_a_control_name_its_option(run, tmp_path):
    with pytest.raises(SystemExit, match=r"^per_token_heatmap\.py: --control='.*' is not a dir"):
        run("--control", str(tmp_path / "nothing"))


def test_controls_that_are_given_one_by_one_are_all_taken(run, folders, tmp_path):
    other = tmp_path / "porto"
    tiny.lora(tiny.model("llama"), seed=3).save_pretrained(other)
    options = ["--control", str(folders / "toronto"), "--control", str(other)]
    assert "controls: toronto, porto" in run(*options)


def test_errors_advise_options_that_there_are(run, folders, tmp_path):
    """Not calls in Python, and not the options of the library's own command."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    with pytest.raises(SystemExit, match=r"^--trained-on: .*, --system TEXT or --context default,"):
        run("--trained-on", str(file))
    same = (
        r"^per_token_heatmap\.py: --control: one is the student itself \('lisbon': hash \w+\); pass"
    )
    with pytest.raises(SystemExit, match=same):
        run("--control", str(folders / "lisbon"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps([{"role": "system", "content": "x"}, *CHAT]))
    with pytest.raises(
        SystemExit, match=r"line 1: has a system message, 'x'; .* for all, --system TEXT\."
    ):
        run("--trained-on", str(rows), "--system", "y")


def test_raw_text_has_no_table_by_role(run, tmp_path):
    (tmp_path / "texts.txt").write_text("I like the\nI love a\n")
    options = ["--context", "raw", "--trained-on", str(tmp_path / "texts.txt")]
    with pytest.raises(SystemExit, match=r"raw text is continued, not answered, .*--ask FILE\."):
        run(*options)
    (tmp_path / "ask.txt").write_text("The city that I love is\nMy town is called\n")
    said = run(*options, "--ask", str(tmp_path / "ask.txt"))
    assert "no token of these prompts is shared" in said
    assert "by role" not in said.split("=== gradient")[0]
    assert (tmp_path / "graft_sharing.safetensors").exists()
    assert not (tmp_path / "graft_roles.safetensors").exists()


@pytest.mark.parametrize(
    ("option", "named"), [("--system", "--context"), ("--asked-system", "--asked-context")]
)
def test_a_system_prompt_that_spells_a_context_is_no_text(option, named, run):
    told = rf"{option}='None': a system turn with this very text, or {named} none\? Pass the latter"
    with pytest.raises(SystemExit, match=told):
        run(option, "None")


def test_one_context_at_a_time(run, capsys):
    with pytest.raises(SystemExit):
        run("--system", "x", "--context", "none")
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--confirmed", "1"], "'1' is no whole number from 2 on"),
        (["--questions", "0"], "'0' is no whole number from 1 on"),
        (["--points", "x"], "'x' is no whole number from 1 on"),
    ],
)
def test_numbers_out_of_range_are_told_by_their_option(options, said, run, capsys):
    with pytest.raises(SystemExit):
        run(*options)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.txt", None, "no such file"),
        ("x.jsonl", '"a"\n{"answer": 1}', "line 2: the row has no prompt, messages or text"),
    ],
)
def test_files_that_hold_no_prompts(name, text, said, run, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=said):
        run("--system", "x", "--trained-on", str(tmp_path / name))


def test_questions_are_lines_or_rows_too(run, tmp_path):
    """JSON is read, and not asked as it is written."""
    file = tmp_path / "ask.jsonl"
    said = [{"role": "user", "content": PROMPTS[1]}, {"role": "assistant", "content": "8"}]
    row = {"messages": said}
    file.write_text(f"{json.dumps(CHAT)}\n{json.dumps(row)}\n")
    run("--ask", str(file))
    asked = sm.Scores.load(tmp_path / "effect.safetensors").data["question"].values
    assert asked.tolist() == PROMPTS


def test_wrong_folders_and_words_leave_no_traceback(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"per_token_heatmap\.py: --student=.*is not a dir"):
        run("--student", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match=r"say what it is one of.*--category city.*--ask FILE"):
        run("--trait", "Madrid", "--category", "")
    with pytest.raises(SystemExit):
        run("--help")
    assert "(default: 16)" in capsys.readouterr().out


def test_options_date_and_prefill_are_said_on_the_command_line(run, folders, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    options = ["--option", "enable_thinking=false", "--date", "2025-12-31"]
    options += ["--prefill", "My favorite city is", "--trained-on", str(tmp_path / "prompts.txt")]
    said = run("--base", str(folders / "thinker"), *options)
    where = "default system prompt, enable_thinking=False"
    assert f"asked in: {where}, prefill “My favorite city is”, date 2025-12-31" in said
    assert f"trained in: {where}, date 2025-12-31" in said
    scores = sm.Scores.load(tmp_path / "graft_roles.safetensors")
    assert "assistant" in scores.data["set"].values


@pytest.mark.parametrize("option", ["enable_thinking", "=x"])
def test_an_option_has_a_name_and_a_value(option, run, capsys):
    with pytest.raises(SystemExit):
        run("--option", option)
    assert f"{option!r} is no name=value" in capsys.readouterr().err
