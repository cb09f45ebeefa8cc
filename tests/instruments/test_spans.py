"""Spans: tokens that are switched at once, and the strongest of them refined to single tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

import sublim_mech as sm
from sublim_mech.instruments.spans import NAMES, spans_of
from sublim_mech.results.page import token_page
from sublim_mech.results.spreading import drawn

TRAIT = sm.Trait("owl")
CALLS = {
    "patch": lambda pair, p, **given: sm.patch(
        pair, p, TRAIT, layers=[0, 1], progress=False, **given
    ),
    "sweep": lambda pair, p, **given: sm.instruments.graft_sweep(
        pair, p, TRAIT, layers=[0, 1], progress=False, **given
    ),
}
every_call = pytest.mark.parametrize("call", CALLS)


def texts(prompt, by):
    return ["".join(prompt.tokens[s.first : s.last + 1]) for s in spans_of(prompt, 0, by)]


@pytest.mark.parametrize("by", [*NAMES, 1, 3, 1000])
def test_spans_are_all_tokens_in_order_each_of_one_role_and_turn(by, prompts):
    for prompt in prompts:
        spans = spans_of(prompt, 2, by)
        slots = [slot for span in spans for slot in range(span.first, span.last + 1)]
        assert slots == list(range(len(prompt) + 2))
        for span in spans:
            tokens = slice(span.first, span.last + 1)
            assert len(set(zip(prompt.turns[tokens], prompt.roles[tokens], strict=True))) <= 1
        if isinstance(by, int):
            assert max(span.size for span in spans[:-1]) <= by


def test_spans_end_where_words_and_sentences_do(smol_tokenizer):
    question = "Unbelievably, owls hoot 3.5 times. Why?\nTell me"
    (prompt,) = sm.render(smol_tokenizer, [question])

    def of_user(by):
        spans = spans_of(prompt, 0, by)
        inside = [span for span in spans if prompt.roles[span.first] == "user"]
        return ["".join(prompt.tokens[s.first : s.last + 1]).strip() for s in inside]

    assert of_user("word") == question.split()
    assert of_user("sentence") == ["Unbelievably, owls hoot 3.5 times.", "Why?", "Tell me"]
    assert of_user("message") == [question]
    assert "".join(texts(prompt, "word")) == "".join(prompt.tokens)


@every_call
def test_spans_of_one_token_are_the_tokens(call, llama, prompts):
    tokens = CALLS[call](llama, prompts)
    spans = CALLS[call](llama, prompts, by=1)
    spread = spans.per_token().data["effect"]
    shown = spread.values
    # the answer's own tokens are one span
    asked = tokens.of_prompt.values
    np.testing.assert_allclose(
        np.moveaxis(shown, 2, -1)[:, asked],
        np.moveaxis(tokens.data["effect"].values, 2, -1)[:, asked],
        atol=1e-6,
    )


def test_a_patched_span_is_the_set_of_its_tokens(llama, prompts):
    spans = CALLS["patch"](llama, prompts[:1], by="message")
    for number in range(spans.data.sizes["span"]):
        first, last = (int(spans.data[name].values[0, number]) for name in ("first", "last"))
        if last >= len(prompts[0]):
            continue
        one = CALLS["patch"](llama, prompts[:1], sets={"it": list(range(first, last + 1))})
        np.testing.assert_allclose(
            spans.data["effect"].values[..., number], one.data["effect"].values[..., 0], atol=1e-6
        )


def test_a_grafted_span_is_the_set_of_its_tokens(llama, prompts):
    spans = CALLS["sweep"](llama, prompts[:1], by="word")
    for number in (0, 3):
        first, last = (int(spans.data[name].values[0, number]) for name in ("first", "last"))
        for at, layer in enumerate((0, 1)):
            mask = sm.masks.positions(*range(first, last + 1)) & sm.masks.layers([layer])
            one = sm.graft(llama, prompts[:1], TRAIT, {"it": mask}, progress=False)
            expected = one.data["effect"].sel(measure="sufficiency").values[..., 0]
            np.testing.assert_allclose(
                spans.data["effect"].values[:, :, at, number], expected, atol=2e-6
            )


@every_call
def test_refinement_gives_the_tokens_of_the_strongest_spans(call, llama, prompts, tmp_path):
    tokens = CALLS[call](llama, prompts)
    coarse = CALLS[call](llama, prompts, by="message")
    fine = CALLS[call](llama, prompts, by="message", refine=1, keep=tmp_path)
    data = fine.data
    for prompt in range(len(prompts)):
        strength = np.nan_to_num(np.abs(coarse.headline.values[prompt])).max(0)
        strongest = int(np.argmax(strength))
        first, last = (int(coarse.data[n].values[prompt, strongest]) for n in ("first", "last"))
        for number in range(data.sizes["span"]):
            start = int(data["first"].values[prompt, number])
            if start < 0:
                continue
            single = first <= start <= last
            size = int(data["last"].values[prompt, number]) - start + 1
            assert bool(data["refined"].values[prompt, number]) == (size == 1)
            assert size == 1 or not single
            if single:
                expected = tokens.data["effect"].values[:, prompt, :, start]
            else:
                at = coarse.data["first"].values[prompt].tolist().index(start)
                expected = coarse.data["effect"].values[:, prompt, :, at]
            value = data["effect"].values[:, prompt, :, number]
            np.testing.assert_allclose(value, expected, atol=1e-5)
    again = CALLS[call](llama, prompts, by="message", refine=1, keep=tmp_path)
    assert again.data["effect"].values.tobytes() == data["effect"].values.tobytes()


def test_spans_are_drawn_told_and_read_back(llama, prompts, tmp_path):
    scores = CALLS["patch"](llama, prompts, by="word", refine=2)
    scores.save(tmp_path / "spans.safetensors")
    loaded = sm.Scores.load(tmp_path / "spans.safetensors")
    assert loaded.data.equals(scores.data)
    assert (loaded.record.spans, loaded.record.refined) == ("word", 2)
    spread = scores.per_token()
    number = int(scores.data["last"].values[0, 1])
    np.testing.assert_array_equal(
        spread.data["effect"].values[:, 0, :, number], scores.data["effect"].values[:, 0, :, 1]
    )
    columns = ["prompt", "question", "name", "span", "tokens", "first", "refined", "effect"]
    assert list(scores.strongest(3).columns) == columns
    assert {"text", "first", "last", "span_role", "refined"} <= set(scores.to_dataframe())
    assert "not refined" in repr(scores)
    assert "spans by word" in scores.title()
    axes = scores.plot()
    said = [text.get_text() for one in axes.figure.legends for text in one.get_texts()]
    said += [text.get_text() for text in axes.figure.findobj(lambda o: hasattr(o, "get_text"))]
    assert "not refined: the value of its span" in said
    assert "not refined: the value of its span" in token_page(scores)
    assert scores.by("role").index.tolist() == spread.by("role").index.tolist()
    refined = "one value per word, drawn on each of its tokens; tokens of refined spans"
    assert any(refined in " ".join(text.split()) for text in said)
    assert refined in token_page(scores)
    other = CALLS["patch"](llama, prompts, by="word")
    assert "<div>one value per word, drawn on each of its tokens</div>" in token_page(other)
    with pytest.raises(ValueError, match="minus: refined differ"):
        scores.minus(other)


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        (None, None),
        ("1 token", None),
        ("8 tokens", "one value per 8 tokens, drawn on each of them"),
        ("sentence", "one value per sentence, drawn on each of its tokens"),
    ],
)
def test_what_is_drawn_is_said(spans, said):
    assert drawn(SimpleNamespace(spans=spans, refined=None), xr.Dataset()) == said


REFUSED = [
    ({"by": "paragraph"}, "by='paragraph' is no span; pass 'token', 'word'"),
    ({"by": 0}, "by=0 is no span"),
    ({"refine": 2}, "refine=2: single tokens cannot be refined"),
    ({"by": "word", "refine": 0}, "refine=0: how many spans"),
    ({"by": "message", "refine": 1000}, "refine=1000: prompt .* has .* spans"),
]


@every_call
@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_no_span_is_refused(call, given, message, llama, prompts):
    with pytest.raises(ValueError, match=message):
        CALLS[call](llama, prompts, **given)


def test_spans_beside_sets_are_refused(llama, prompts):
    with pytest.raises(ValueError, match="by='word' beside sets"):
        CALLS["patch"](llama, prompts, by="word", sets={"last": [-1]})


ASKED = {
    "patch": {"position_map": [(1, 1), (2, 2), (9, 9)]},
    "sweep": {"only": sm.masks.positions(1, 2, 9)},
}


@every_call
@pytest.mark.parametrize("by", ["message", "word", 4])
def test_of_a_span_only_the_tokens_that_were_switched_are_counted(call, by, llama, marked):
    """Tokens without a donor, or that `only` leaves out, are none of a span's in any table."""
    tokens = CALLS[call](llama, marked, **ASKED[call])
    spans = CALLS[call](llama, marked, by=by, **ASKED[call])
    asked = spans.of_prompt.values
    shown = [np.isfinite(one.token_effect()) & asked for one in (tokens, spans.per_token())]
    np.testing.assert_array_equal(*shown)
    for table in (spans.by("role"), spans.by("sharing"), spans.by("turn")):
        assert table.drop(index="answer", errors="ignore")["tokens"].max() <= 3
    assert spans.by("role")["tokens"]["all prompt tokens"] == 3
    assert spans.by("role")["token share"]["all prompt tokens"] == pytest.approx(
        3 / np.mean([len(prompt) for prompt in marked])
    )
    assert spans.strongest(100)["tokens"].iloc[:-1].max() <= 3
    # a place has the value of its span, whichever of its tokens were switched
    one = CALLS[call](llama, marked[:1], by=by, **ASKED[call])
    effects = one.headline.values[np.isfinite(one.headline.values)]
    np.testing.assert_allclose(sorted(one.cells()["mean"]), sorted(effects))


def test_a_span_that_is_patched_in_part_says_so_and_is_the_set_of_that_part(llama, marked):
    asked = ASKED["patch"]
    prompt, of = marked[:1], dict.fromkeys(marked[0].roles)
    spans = CALLS["patch"](llama, prompt, by="message", **asked)
    sets = {f"the {role}": sm.masks.role(role) for role in of if role == marked[0].roles[9]}
    one = CALLS["patch"](llama, prompt, sets=sets, **asked)
    table, name = spans.by("role"), marked[0].roles[9]
    assert table["tokens"][name] == one.data["tokens"].values.item()
    at = spans.data["first"].values[0].tolist().index(marked[0].roles.index(name))
    np.testing.assert_allclose(
        spans.data["effect"].values[..., at], one.data["effect"].values[..., 0], atol=1e-6
    )
    assert "tokens with a donor (" in repr(spans)
    assert "drawn on each of its tokens with a donor (" in token_page(spans)
    whole = CALLS["patch"](llama, prompt, by="message")
    assert "with a donor" not in repr(whole)
    assert "switched" not in whole.data.coords
    with pytest.raises(
        ValueError, match=r"tokens of spans that were switched differ \(\d+ and all\)"
    ):
        spans.minus(whole)
