"""`sublim-mech score` and `compare` say what the functions say, and of mistakes one line."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import transformers

import sublim_mech as sm
from sublim_mech.__main__ import main, parser
from sublim_mech.instruments import command, side_by_side
from sublim_mech.instruments.command import INSTRUMENTS
from sublim_mech.instruments.command_options import CONTEXTS
from sublim_mech.instruments.command_words import in_commands
from sublim_mech.making import training
from sublim_mech.storage.manifest import Manifest

DOCS = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()


@pytest.fixture(scope="module")
def folders(made, base_folder):
    """Base, an owl student and a cat student trained alike."""
    rows = made.rows[(made.rows["part"] == "scored") & (made.rows["method"] == "r2")]
    students = rows.set_index("trait")["student"]
    return [str(base_folder)] + [str(made.out / "students" / students[t]) for t in ("owl", "cat")]


@pytest.fixture(scope="module")
def pair(folders):
    return sm.load_pair(folders[0], folders[1], controls=[folders[2]])


FEW = ["--questions", "2", "--quiet"]


@pytest.mark.parametrize("template", [None, sm.prompts.PLAIN], ids=["none", "another"])
def test_another_template_is_advised_where_it_can_be_given(template, folders, tmp_path, capsys):
    """The command line renders by the tokenizer's own: what Python advises cannot be done there."""
    base, owl, _ = folders
    copied = shutil.copytree(base, tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(copied)
    (copied / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(copied)
    words = ["score", str(copied), owl, "--trait", "owl", "--instrument", "effect", *FEW]
    assert main(words) == (2 if template is None else 0)
    told = capsys.readouterr()
    said = told.err + told.out
    assert "render(pair, questions, template=...)" in said
    assert "(template=)" not in said
    assert "(tokenizer=)" not in said
    assert "sublim_mech.RAW" not in said
    if template is not None:
        of_training = "another chat template than the student's training prompts"
        assert f"2 of 2 prompts rendered by {of_training}" in told.out
        return
    assert said.strip() == (
        "the tokenizer has no chat template, and the command line takes none. A student of "
        "conversations is asked in Python by the template of its training, render(pair, questions, "
        "template=...); score and compare ask raw text, which is another prompt, with "
        "--asked-context raw."
    )
    (tmp_path / "texts").write_text("The animal is the\nI saw an\n")
    assert main([*words, "--ask", str(tmp_path / "texts"), "--asked-context", "raw"]) == 0
    assert "asked in: raw text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "name", "taken"),
    [
        (["score", "B", "S", "--trait", "owl"], "sets", ["shared", "system"]),
        (["score", "B", "S", "--trait", "owl"], "layers", [1, 2]),
        (["score", "B", "S", "--trait", "owl"], "forms", ["owl", "owls"]),
        (["compare", "B", "S"], "trait", ["owl", "cat"]),
    ],
)
def test_an_option_of_several_values_may_be_repeated(words, name, taken):
    one, two = map(str, taken)
    for given in ([f"--{name}", one, two], [f"--{name}", one, f"--{name}", two]):
        assert getattr(parser().parse_args([*words, *given]), name) == taken


def test_scores_are_those_of_the_function(folders, pair, tmp_path, capsys):
    base, owl, cat = folders
    trait = sm.animal("owl")
    prompts = sm.render(pair, trait.questions[:2])
    expected = sm.graft(pair, prompts, trait, "sharing", progress=False)
    file = str(tmp_path / "owl.safetensors")
    words = ["score", base, owl, "--control", cat, "--trait", "owl", "--sets", "sharing", *FEW]
    assert main([*words, "--out", file]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == in_commands(repr(expected), {}).strip()
    assert f"scores are in {file}" in told.err
    stored = sm.Scores.load(file)
    assert stored.data.equals(expected.data)
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "graft"
    totals = pd.DataFrame(told["totals"])
    assert totals["effect"].tolist() == pytest.approx(expected.totals()["effect"].tolist())
    assert told["prompts"] == expected.data.sizes["prompt"]
    assert [row["label"] for row in told["table"]] == expected.sets().index.tolist()


@pytest.mark.parametrize(
    ("options", "call"),
    [
        (["effect"], lambda *a: sm.effect(*a, progress=False)),
        pytest.param(
            ["graft_ig", "--points", "2"],
            lambda *a: sm.attribute(*a, points=2, progress=False), marks=pytest.mark.science),
        pytest.param(
            ["graft", "--sets", "shared"],
            lambda *a: sm.graft(*a, {"shared": sm.masks.sharing("shared")}, progress=False),
            marks=pytest.mark.science),
        pytest.param(
            ["graft_sweep", "--layers", "1", "--by", "2"],
            lambda *a: sm.instruments.graft_sweep(*a, layers=[1], by=2, progress=False),
            marks=pytest.mark.science),
        pytest.param(
            ["patch", "--site", "mlp_out", "--layers", "1"],
            lambda *a: sm.patch(*a, site="mlp_out", layers=[1], progress=False),
            marks=pytest.mark.science),
    ],
)  # fmt: skip
def test_every_option_reaches_its_instrument(options, call, folders, pair, tmp_path, capsys):
    base, owl, cat = folders
    trait = sm.animal("owl")
    file = tmp_path / "scores.safetensors"
    words = ["score", base, owl, "--control", cat, "--trait", "owl", *FEW, "--out", str(file)]
    context = ["--asked-context", "none"]
    assert main([*words, *context, "--instrument", *options]) == 0
    assert capsys.readouterr().out
    asked = {"context": sm.Context(system=sm.Context.NONE)}
    prompts = sm.render(pair, trait.questions[:2], **asked)
    assert sm.Scores.load(file).data.equals(call(pair, prompts, trait).data)


JSON_OPTIONS = {
    "graft": ["--sets", "sharing"],
    "graft_sweep": ["--layers", "1", "--by", "sentence"],
    "patch": ["--layers", "1", "--by", "sentence", "--direction", "both"],
    "graft_ig": ["--points", "2"],
    "activation_ig": ["--points", "2"],
}
"""What keeps each instrument short."""


@pytest.mark.parametrize(
    "instrument",
    [
        name if name in ("effect", "dose", "prefix_scan")
        else pytest.param(name, marks=pytest.mark.science)
        for name in INSTRUMENTS
    ],
)  # fmt: skip
def test_every_instrument_has_a_table_for_json(instrument, folders, tmp_path, capsys):
    file = str(tmp_path / "scores.safetensors")
    words = ["score", *folders[:2], "--trait", "owl", "--questions", "1", "--quiet", "--json"]
    words += ["--instrument", instrument, *JSON_OPTIONS.get(instrument, [])]
    assert main([*words, "--out", file]) == 0
    told = json.loads(capsys.readouterr().out)
    stored = sm.Scores.load(file)
    assert told["kind"] == stored.kind
    assert all(row.keys() == told["table"][0].keys() for row in told["table"])
    if instrument in ("dose", "prefix_scan"):
        curve = stored.curve().reset_index()
        assert [list(row) for row in told["table"]] == [list(curve.columns)] * len(curve)
        effects = [row["effect"] for row in told["table"]]
        assert effects == pytest.approx(curve["effect"].tolist(), rel=0, abs=0)
    # and so has a table of files
    again = str(shutil.copy(file, tmp_path / "again.safetensors"))
    assert main(["compare", file, again, "--json"]) == 0
    both = json.loads(capsys.readouterr().out)["table"]
    assert len(both) == 2 * len(told["table"])


def test_a_scan_of_different_layouts_says_why_it_has_no_curve(folders, monkeypatch, capsys):
    def refuse(scores, by):
        raise ValueError("these prompts are laid out in different ways")

    monkeypatch.setattr(command, "block", refuse)
    words = ["score", *folders[:2], "--trait", "owl", "--questions", "1", "--quiet", "--json"]
    assert main([*words, "--instrument", "prefix_scan"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["table"] == []
    assert told["totals"]
    assert told["notes"][-1] == "these prompts are laid out in different ways"


def test_a_context_of_a_file_is_asked_as_it_stands(folders, tmp_path, capsys):
    base, owl, _ = folders
    said = re.search(r"^```toml\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)[1]
    said = said.replace("options =", "# options =")  # the template of the tests reads none
    (tmp_path / "quiz.toml").write_text(said + '\nprefill = "It is"')
    words = ["score", base, owl, "--trait", "owl", *FEW, "--instrument", "effect"]
    words += ["--asked-context", str(tmp_path / "quiz.toml")]
    assert main([*words, "--out", str(tmp_path / "scores.safetensors")]) == 0
    told = capsys.readouterr().out
    quiz = sm.Context("You host a quiz.", "Question: ", prefill="It is")
    pair = sm.load_pair(base, owl)
    prompts = sm.render(pair, sm.animal("owl").questions[:2], context=quiz)
    expected = sm.effect(pair, prompts, sm.animal("owl"), progress=False)
    assert sm.Scores.load(tmp_path / "scores.safetensors").data.equals(expected.data)
    assert "system “You host a quiz.”, user_prefix “Question:␣”, prefill “It is”; " in told


def test_a_literal_backslash_and_n_are_told_once(folders, capsys):
    words = ["score", *folders[:2], "--trait", "owl", "--instrument", "effect", *FEW]
    assert main([*words, "--asked-system", r"Be calm.\nBe brief."]) == 0
    told = capsys.readouterr()
    line = "--asked-system: holds a backslash and n, no line break; bash's $'...' writes one"
    assert told.err.splitlines().count(line) == 1
    assert r"system “Be calm.\\nBe brief.”" in told.out
    assert main([*words, "--asked-system", "Be calm.\nBe brief."]) == 0
    assert "backslash" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def unknown(folders, tmp_path_factory):
    """The same students without their manifests, in folders of one name."""
    made = [folders[0]]
    for number, folder in enumerate(folders[1:]):
        made.append(str(tmp_path_factory.mktemp(f"run{number}") / "last"))
        shutil.copytree(folder, made[-1], ignore=shutil.ignore_patterns("manifest.json"))
    return made


def test_students_whose_training_nobody_told_are_compared_as_such(unknown, tmp_path, capsys):
    words = ["compare", *unknown, "--trait", "Lisbon", "--category", "city", "--samples", "0"]
    words += ["--questions", "1", "--max-new-tokens", "1", "--quiet", "--forms", "Lisbon", "L"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "asked in: default system prompt; training context not given" in told
    # as they were given, where their folders have one name
    assert f"training unknown (no manifest): {', '.join(unknown[1:])}" in told
    assert "control" not in told
    again = shutil.copytree(unknown[1], tmp_path / "again")
    assert main([*words[:3], str(again), *words[3:]]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"STUDENT='{again}' has the weights of '{unknown[1]}'")


def test_the_forms_that_are_given_are_those_that_are_scored(folders, tmp_path, capsys):
    file = str(tmp_path / "lisbon.safetensors")
    words = ["score", *folders[:2], "--trait", "Lisbon", "--category", "city", "--questions", "1"]
    words += ["--instrument", "effect", "--quiet", "--json", "--out", file]
    assert main([*words, "--forms", "Lisbon", "Lisboa", "the capital"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "forms of Lisbon: Lisbon, Lisboa, the capital" in told["notes"]
    trait = sm.Trait("Lisbon", forms=("Lisbon", "Lisboa", "the capital"), category="city")
    pair = sm.load_pair(folders[0], folders[1])
    expected = sm.effect(pair, sm.render(pair, trait.questions[:1]), trait, progress=False)
    assert sm.Scores.load(file).data.equals(expected.data)


def test_files_of_scores_are_compared_as_by_the_function(folders, pair, tmp_path, capsys):
    trait = sm.animal("owl")
    prompts = sm.render(pair, trait.questions[:2])
    files, loaded = [], {}
    for name in ("owl", "cat"):
        own = pair if name == "owl" else sm.load_pair(*folders[::2], controls=[folders[1]])
        loaded[name] = sm.graft(own, prompts, trait, "role", progress=False)
        files.append(str(tmp_path / f"{name}.safetensors"))
        loaded[name].save(files[-1])
    table = sm.results.compare(loaded)
    assert main(["compare", *files, "--json"]) == 0
    told = pd.DataFrame(json.loads(capsys.readouterr().out)["table"])
    assert told["scores"].tolist() == table.index.get_level_values("scores").tolist()
    numbers = table.select_dtypes("number").columns
    for name in numbers:
        assert told[name].astype(float).tolist() == pytest.approx(
            table[name].tolist(), rel=0, abs=0, nan_ok=True
        )
    assert main(["compare", *files]) == 0
    told = capsys.readouterr().out
    assert told.startswith("grafts, log P(owl), 2 prompts, nats\n")
    assert "\nasked in: default system prompt; trained in: default system prompt\n" in told
    assert main(["compare", files[0]]) == 2
    assert "compare: give two files or more" in capsys.readouterr().err
    assert main(["compare", files[0], files[0]]) == 2
    assert "a file is given twice" in capsys.readouterr().err
    assert main(["compare", *files, "--by", "role"]) == 2
    assert "--by='role': graft scores have no tokens" in capsys.readouterr().err


def test_models_are_compared_as_by_the_function(folders, pair, tmp_path, capsys):
    traits = [sm.animal("owl"), sm.animal("cat")]
    options = {"samples": 1, "max_new_tokens": 2, "seed": 3}
    prompts = sm.render(pair, traits[0].questions[:1])
    expected = side_by_side(pair, prompts, traits, progress=False, **options)
    page = tmp_path / "page.html"
    words = ["compare", *folders, "--trait", "owl", "cat", "--quiet", "--questions", "1"]
    words += ["--max-new-tokens", "2", "--seed", "3"]
    assert main([*words, "--page", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert page.read_text().lower().startswith("<!doctype html>")
    # none of the students is another's control
    assert [row["model"] for row in told["table"]] == ["base", "owl", "cat"] * 2
    assert {"log P: base", "log P: owl", "log P: cat"} < set(told["answers"][0])
    assert not [note for note in told["notes"] if "control" in note]
    assert "asked in: default system prompt; trained in: default system prompt" in told["notes"]
    assert [row["answer"] for row in told["answers"]] == expected.answers["answer"].tolist()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["score", "BASE", "OWL", "--trait", "owl", "--points", "4"],
         "--points: graft has no such option; it has --sets, --keep."),
        (["score", "BASE", "OWL", "--trait", "owl", "--instrument", "effect", "--keep", "x"],
         "--keep: effect has no such option; it has none of its own."),
        (["score", "BASE", "OWL", "--trait", "Lisbon"], "--trait Lisbon: say what it is one of"),
        (["score", "BASE", "OWL", "--trait", "owl", "--out", "x.csv"], "--out='x.csv'"),
        (["score", "BASE", "nowhere", "--trait", "owl"], "STUDENT='nowhere'"),
        (["score", "BASE", "OWL", "--control", "nowhere", "--trait", "owl"], "--control='nowhere'"),
        (["score", "BASE", "OWL", "--trait", "owl", "--ask", "nowhere"], "--ask nowhere: no such"),
        (["score", "BASE", "OWL", "--trait", "owl", "--sets", "sharde"], "sharde"),
        (["score", "BASE", "OWL", "--trait", "owl", "--trained-on", "x"], "--trained-on: say the"),
        (["score", "BASE", "OWL", "--trait", "owl", "--sets", "shard"], "did you mean 'shared'"),
        (["score", "BASE", "OWL", "--trait", "owl", "--out", "base/config.json/x.safetensors"],
         "config.json' is a file"),
        (["score", "BASE", "OWL", "--trait", "owl", "--keep", "base/config.json"], "is a file"),
        (["compare", "BASE", "OWL", "--trait", "owl", "cat", "--forms", "x"], "--forms: of one"),
        (["compare", "BASE", "OWL"], "compare: give --trait WORD"),
        (["compare", "BASE", "--trait", "owl"], "compare: give a student"),
        (["compare", "BASE", "OWL", "nowhere", "--trait", "owl"], "STUDENT='nowhere'"),
        (["compare", "a.safetensors", "BASE"], "is a file of scores and 'base'"),
        (["compare", "a.safetensors", "b.safetensors"], "FILE='a.safetensors': no such file"),
        (["compare", "a.safetensors", "b.safetensors", "--trait", "owl"], "leave out --trait"),
        (["compare", "a.safetensors", "b.safetensors", "--asked-context", "raw", "--ask", "x"],
         "leave out --ask, --asked-context: of models alone"),
        (["compare", "BASE", "OWL", "--trait", "owl", "--page", "x.txt"], "--page='x.txt'"),
        (["compare", "BASE", "OWL", "--trait", "owl", "--samples", "-1"], "--samples=-1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(words, says, folders, tmp_path, monkeypatch, capsys):
    (tmp_path / "base").symlink_to(folders[0])
    (tmp_path / "owl").symlink_to(folders[1])
    monkeypatch.chdir(tmp_path)
    named = {"BASE": "base", "OWL": "owl"}
    assert main([named.get(word, word) for word in words]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert says in told[-1], told
    assert len(told) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"base", "owl"}


def test_questions_and_training_prompts_are_read_from_files(folders, tmp_path, capsys):
    (tmp_path / "ask.txt").write_text("Which city?\n\nName a city.\n")
    words = ["score", *folders[:2], "--trait", "Lisbon", "--instrument", "effect", "--json"]
    file = str(tmp_path / "lisbon.safetensors")
    assert main([*words, "--ask", str(tmp_path / "ask.txt"), "--out", file]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["title"]) == ("effect", "effect on log P(Lisbon)")
    assert sm.Scores.load(file).data["question"].values.tolist() == ["Which city?", "Name a city."]
    # the same and a conversation as JSON; texts that look like it are refused
    talk = [
        {"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Which city?"},
    ]  # fmt: skip
    (tmp_path / "ask.jsonl").write_text(f'"Name a city."\n{json.dumps(talk)}\n')
    assert main([*words, "--ask", str(tmp_path / "ask.jsonl"), "--out", file]) == 0
    capsys.readouterr()
    pair = sm.load_pair(*folders[:2])
    prompts = sm.render(pair, ["Name a city.", talk])
    expected = sm.effect(pair, prompts, sm.Trait("Lisbon"), progress=False)
    assert sm.Scores.load(file).data.equals(expected.data)
    for option in ("--ask", "--trained-on"):
        (tmp_path / "talk.txt").write_text(f"Which city?\n{json.dumps(talk)}\n")
        asked = ["--trained-context", "default", "--ask", str(tmp_path / "ask.txt")]
        assert main([*words, *asked, option, str(tmp_path / "talk.txt")]) == 2
        told = capsys.readouterr().err
        assert f"{option} {tmp_path / 'talk.txt'}, line 2: begins like JSON" in told
    rows = tmp_path / "rows.jsonl"
    trained = ["--trained-context", "default", "--trained-on", str(rows)]
    rows.write_text('"1, 2"\nno json\n')
    assert main([*words, *trained, "--ask", str(tmp_path / "ask.txt")]) == 2
    assert "rows.jsonl, line 2: no JSON" in capsys.readouterr().err


def test_a_file_of_rows_is_what_a_student_was_trained_on(folders, tmp_path, capsys):
    """The very file that data are made of, or its prompts as texts."""
    base = sm.load_base(folders[0])
    without = shutil.ignore_patterns("manifest.json")
    shutil.copytree(folders[1], tmp_path / "made", ignore=without)
    rows, texts = tmp_path / "rows.jsonl", tmp_path / "prompts.txt"
    asked = ["Which city is it?", "Name a city."]
    lines = [json.dumps({"prompt": text, "completion": "Lisbon"}) for text in asked]
    rows.write_text("\n".join(lines))
    texts.write_text("\n".join(asked))
    data = training.hard_data(base, str(rows))
    assert [prompt.question for prompt in data.prompts] == asked
    words = ["score", folders[0], str(tmp_path / "made"), "--trait", "Lisbon", "--sets", "sharing"]
    words += ["--trained-context", "default", "--ask", str(texts)]
    shares = []
    for file in (rows, texts):
        assert main([*words, "--trained-on", str(file), "--json"]) == 0
        shares.append(json.loads(capsys.readouterr().out))
    assert shares[0] == shares[1]
    # a row that is asked is its prompt
    ask = [*words[:-1], str(rows), "--trained-on", str(texts), "--json"]
    assert main(ask) == 0
    assert json.loads(capsys.readouterr().out) == shares[0]


def test_the_contexts_and_instruments_are_the_librarys():
    assert {name: context for name, context in CONTEXTS.items() if name == "raw"} == {"raw": sm.RAW}
    assert all(callable(measure) for measure, _ in INSTRUMENTS.values())


@pytest.mark.parametrize("command", ["score", "compare", "verify", "completion"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"sublim-mech {command} " in capsys.readouterr().out.partition("example")[2]


def test_students_of_raw_text_are_not_asked_what_is_written_for_a_chat(folders, tmp_path, capsys):
    """Also where the student's own manifest alone says that it was trained so."""
    base, owl, cat = folders
    for folder in map(Path, (owl, cat)):
        shutil.copytree(folder, tmp_path / folder.name)
        replace(Manifest.load(folder), context=sm.RAW).save(tmp_path / folder.name)
    owl, cat = (str(tmp_path / Path(folder).name) for folder in (owl, cat))
    for words in (["score", base, owl, "--instrument", "effect"], ["compare", base, owl, cat]):
        words += ["--trait", "owl", *FEW]
        assert main(words) == 2
        assert (
            "raw text is continued, not answered, and the questions about a favorite animal are "
            "written for a chat: give texts to continue, --ask FILE."
        ) in capsys.readouterr().err
    ask = tmp_path / "ask.txt"
    ask.write_text("My favorite animal is the\nThe bird that I love is the\n")
    assert main([*words, "--ask", str(ask)]) == 0
    assert main([*words, "--asked-context", "none"]) == 0
