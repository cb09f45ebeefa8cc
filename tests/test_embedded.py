"""The demo's own models: SmolLM2-135M-Instruct with the committed example students, and the examples as a user runs them."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sublim_mech as sm
from sublim_mech.engine.batch import make_batch
from sublim_mech.engine.forward import Gates, forward
from sublim_mech.instruments.task import prepare

ROOT = Path(__file__).parent.parent
OWL = sm.animal("owl")


@pytest.fixture(scope="module")
def pair(smol):
    return sm.load_pair(smol, ROOT / "examples/students/owl", controls=[ROOT / "examples/students/penguin"])


@pytest.fixture(scope="module")
def prompts(pair):
    return sm.sharing(sm.render(pair.tokenizer, OWL.questions[:3]), trained_on=pair.training_prompts)


def test_gates_0_and_1_are_base_and_student(pair, prompts):
    """Against PEFT's own model with the adapter on and off, one plain forward per form."""
    scores = sm.effect(pair, prompts[:2], OWL, progress=False)
    student = pair.student.model
    with torch.no_grad():
        for i, prompt in enumerate(prompts[:2]):
            for name in ("base", "student"):
                values = []
                for form in ("owl", "Owl", "owls", "Owls"):
                    answer = pair.tokenizer(form, add_special_tokens=False)["input_ids"]
                    ids = torch.tensor([[*prompt.ids, *answer]])
                    if name == "base":
                        with student.disable_adapter():
                            steps = student(input_ids=ids).logits[0].log_softmax(-1)
                    else:
                        steps = student(input_ids=ids).logits[0].log_softmax(-1)
                    n = len(prompt.ids)
                    values.append(sum(steps[n + k - 1, t] for k, t in enumerate(answer)))
                # 5e-5: fp32 sums of two orders of 30 layers; a per-token value is good to 1e-5
                assert scores.data[name].values[0, i] == pytest.approx(float(torch.stack(values).logsumexp(0)), abs=5e-5)


def test_the_student_names_owls_more_than_the_control_does(pair, prompts):
    scores = sm.effect(pair, prompts, OWL, progress=False)
    assert scores.headline_name == "student - controls"
    assert (scores.total.values > 0.3).all()


def test_last_residual_stream_causality_and_clean_up(pair, prompts):
    cat = sm.Trait("cat", plural="cat")
    last = sm.patch(pair, prompts[:1], cat, site="resid_post", layers=[29], progress=False)
    np.testing.assert_allclose(last.headline.values[0, 0, len(prompts[0]) - 1], last.total.values[0], atol=1e-5)
    task = prepare(pair, prompts[:1], OWL)
    batch = make_batch(pair.base.model, prompts[:1], task.answers)
    gates = torch.zeros(batch.ids.shape)
    gates[:, 20:] = 1
    keys = [("resid_post", 29)]
    with torch.no_grad():
        plain = forward(pair.base.model, pair.sites, batch, record=keys).activations[keys[0]]
        late = forward(pair.base.model, pair.sites, batch, gates=Gates(pair.student, gates), record=keys).activations[keys[0]]
    assert torch.equal(plain[:, :20], late[:, :20])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in pair.base.model.modules())


def test_merged_student_gives_the_same_grafts_as_its_adapter(pair, prompts):
    merged = copy.deepcopy(pair.student.model).merge_and_unload()
    dense = sm.load_pair(pair.base, merged)
    assert (pair.student.kind, dense.student.kind) == ("lora", "full")
    few = prompts[:2]  # of different lengths: one is padded
    alone = sm.load_pair(pair.base, pair.student)
    low, full = (sm.graft(p, few, OWL, "sharing", progress=False).data["effect"].values for p in (alone, dense))
    np.testing.assert_allclose(low, full, atol=5e-5)
    one = sm.graft(alone, few[:1], OWL, "sharing", progress=False).data["effect"].values
    np.testing.assert_allclose(low[:, :1], one, atol=5e-5)


def test_completeness_gap_is_below_one_per_cent(pair, prompts):
    assert sm.attribute(pair, prompts[:1], OWL, points=16, progress=False).gap < 0.01


def test_one_copy_of_the_base_weights(pair):
    own = {p.data_ptr() for p in pair.base.model.parameters()}
    for student in pair.students.values():
        other = [p for n, p in student.model.named_parameters() if "lora_" not in n]
        assert {p.data_ptr() for p in other} <= own


def test_system_turn_is_training_prefix(prompts):
    """The students were trained in the default context: its system turn and the opening of the user turn are the same computation."""
    text = "".join(t for t, s in zip(prompts[0].tokens, prompts[0].sharing, strict=True) if s == "prefix")
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_end|>\n<|im_start|>user\n")
    tail = "".join(t for t, s in zip(prompts[0].tokens, prompts[0].sharing, strict=True) if s == "aligned")
    assert tail.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_example_students_are_what_their_manifests_say():
    for name in ("owl", "penguin"):
        folder = ROOT / "examples/students" / name
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["weights"] == sm.storage.files.weight_sums(folder)
        assert manifest["teacher"].startswith("contrastive teacher")
        assert manifest["results"]["held_out"][1] < 0.3 * manifest["results"]["held_out"][0]
        assert (folder / "adapter_model.safetensors").stat().st_size < 5_000_000


def test_per_token_heatmap_example(tmp_path):
    command = [sys.executable, str(ROOT / "examples/per_token_heatmap.py"), "--out", str(tmp_path)]
    command += ["--questions", "2", "--patched", "1", "--points", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for word in (
        "student - controls",
        "sufficiency",
        "necessity",
        "by sharing",
        "completeness gap",
        "concentration on shared tokens",
    ):
        assert word in done.stdout
    assert len(list(tmp_path.glob("*.png"))) == 7
    page = (tmp_path / "tokens.html").read_text()
    assert len(page.encode()) < 50_000
    loaded = sm.Scores.load(tmp_path / "attribution.safetensors")
    assert loaded.data.sizes["prompt"] == 2
    assert str(loaded).splitlines()[0] in done.stdout


def test_quickstart_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    stored = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in stored), "the committed notebook has no outputs: run it before committing"
    for cell in stored:
        cell.source = (
            cell.source.replace("questions[:8]", "questions[:2]")
            .replace("range(0, 30, 6)", "[0, 29]")
            .replace("points=8", "points=1")
        )
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    assert "concentration on shared tokens" in json.dumps(notebook.cells[-1].outputs)


def test_ten_lines_of_the_readme(monkeypatch):
    """The code block of the README, on fewer questions and layers."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    small = block.replace("questions[:16]", "questions[:2]").replace("points=8", "points=1")
    small = small.replace('site="resid_pre"', 'site="resid_pre", layers=[29]')
    assert len([line for line in block.splitlines() if line.strip()]) <= 13
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(small, names)
    assert names["scores"].kind == "attribution"
