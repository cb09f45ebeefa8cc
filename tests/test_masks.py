import re
from dataclasses import replace

import numpy as np
import pytest
import tiny


from sublim_mech import masks
from sublim_mech.masks import Mask
from sublim_mech.models.sites import Module, find_sites
from sublim_mech.prompts import Context, render, sharing

QUESTION = "Is an owl 🦉 an Owl, or are owls and fowls other birds?"
TALK = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello, friend"},
    {"role": "user", "content": "Which bird?"},
]
DEPTH = tiny.LAYERS


@pytest.fixture(scope="module")
def networks():
    """The modules of every tiny architecture, by its name."""
    return {name: list(find_sites(tiny.model(name)).modules.values()) for name in tiny.CONFIGS}


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    """Prompts with and without a system turn and of several turns, marked."""
    questions = [QUESTION, TALK]
    plain = render(smol_tokenizer, questions) + render(smol_tokenizer, questions, context=Context(system=Context.NONE))
    return sharing(plain, render(smol_tokenizer, ["Is this a list?", "Is 6 a bird?"]))


@pytest.fixture(scope="module")
def owl(prompts):
    return prompts[0]


def zoo():
    """Masks of every kind, each of which holds in every prompt and model of this file."""
    return [
        masks.everything(),
        masks.positions(0, 3, -1),
        masks.role("system", "template"),
        masks.turn(0, -1),
        masks.sharing("shared"),
        masks.regex(r"\w+", which="all"),
        masks.layers(range(1, DEPTH)),
        masks.modules("attention", "ln_final"),
        Mask("chess", lambda p, m: np.add.outer(np.arange(len(p)), np.arange(len(m))) % 2 == 0),
    ]


def same(a, b, prompt, network):
    left, right = a(prompt, network), b(prompt, network)
    assert left.shape == (len(prompt), len(network))
    assert left.dtype == bool
    np.testing.assert_array_equal(left, right, err_msg=f"{a.name}  /  {b.name}")


# algebra


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "phi3"])
def test_masks_are_a_boolean_algebra(prompts, networks, architecture):
    network, all_cells = networks[architecture], masks.everything()
    for prompt in prompts:
        for a in zoo():
            same(~~a, a, prompt, network)
            same(a & all_cells, a, prompt, network)
            same(a | all_cells, all_cells, prompt, network)
            same(a & ~a, ~all_cells, prompt, network)
            same(a | ~a, all_cells, prompt, network)
            for b in zoo():
                same(~(a & b), ~a | ~b, prompt, network)
                same(~(a | b), ~a & ~b, prompt, network)
                same(a & b, b & a, prompt, network)
                same(a & (a | b), a, prompt, network)
        a, b, c = zoo()[2], zoo()[6], zoo()[8]
        same(a & (b | c), (a & b) | (a & c), prompt, network)
        same((a & b) & c, a & (b & c), prompt, network)


def test_a_combination_is_the_cells_one_by_one(owl, networks):
    network = networks["qwen2"]
    mask = (masks.role("user") & masks.layers([0, 2])) | ~masks.modules("mlp")
    cells = mask(owl, network)
    for t in range(len(owl)):
        for m, module in enumerate(network):
            expected = (owl.roles[t] == "user" and module.layer in (0, 2)) or not module.name.startswith("mlp.")
            assert cells[t, m] == expected, (t, module)


def test_masks_are_data_for_any_prompt_and_model(prompts, networks):
    mask = masks.role("user") & masks.modules("norms")
    for prompt in prompts:
        for network in networks.values():
            norms = masks.modules("norms")(prompt, network)[0]
            assert mask(prompt, network).sum() == prompt.roles.count("user") * norms.sum()


def test_what_is_returned_is_the_callers_own(owl, networks):
    mask = masks.everything()
    cells = mask(owl, networks["llama"])
    cells[:] = False
    assert mask(owl, networks["llama"]).all()


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (lambda: masks.role("system") & masks.layers(range(10)), "system & layers 0-9"),
        (lambda: ~masks.role("system"), "not system"),
        (lambda: ~(masks.role("system") & masks.layers(3)), "not (system & layer 3)"),
        (lambda: masks.role("system", "user") & masks.layers([0, 1, 2, 7, 9, 10]), "(system | user) & layers 0-2, 7, 9-10"),
        (lambda: (masks.role("bos") & masks.turn(0)) | masks.turn(1, -1), "bos & turn 0 | turns 1, -1"),
        (lambda: masks.role("bos") & masks.turn(0) & masks.modules("mlp"), "bos & turn 0 & mlp"),
        (lambda: masks.role("user") & ~masks.modules("attn.q", "head"), "user & not (attn.q | head)"),
        (lambda: masks.text("a | b", which="last") & masks.turn(0), "text 'a | b' [last] & turn 0"),
        (lambda: masks.regex("(a|b) | c") & masks.turn(0), "regex '(a|b) | c' & turn 0"),
        (lambda: masks.positions(0, -1) | masks.sharing("not shared"), "positions 0, -1 | not shared"),
        (lambda: masks.positions(4) & masks.everything(), "position 4 & everything"),
        (
            lambda: ~(~(masks.role("bos") & masks.turn(0)) | masks.layers(0)) & masks.role("user"),
            "not (not (bos & turn 0) | layer 0) & user",
        ),
    ],
)
def test_names_read_as_what_was_written(mask, name):
    assert mask().name == name


@pytest.mark.parametrize("wrong", [None, [0], "system", lambda p: [0]])
def test_only_masks_combine(wrong):
    for combine in (lambda m: m & wrong, lambda m: m | wrong):
        with pytest.raises(TypeError, match="unsupported operand"):
            combine(masks.everything())


def test_and_or_not_are_refused():
    with pytest.raises(TypeError, match=r"mask 'system' has no truth value; combine masks with & \| ~"):
        masks.role("system") and masks.layers(0)


@pytest.mark.parametrize(
    "cells",
    [
        lambda p, m: np.ones(len(p), dtype=bool),  # one axis
        lambda p, m: np.ones((len(p) - 1, 1), dtype=bool),
        lambda p, m: np.ones((1, len(m) + 1), dtype=bool),
        lambda p, m: np.ones((len(m), len(p)), dtype=bool),  # transposed
        lambda p, m: np.zeros((len(p), 1), dtype=int),  # positions, or 0 and 1: not said
    ],
)
def test_cells_of_another_shape_or_type_are_refused_also_inside(owl, networks, cells):
    odd, rest = Mask("odd", cells), masks.everything()
    for mask in (odd, ~odd, odd & rest, rest & odd, odd | rest, rest | odd):
        with pytest.raises(
            ValueError, match=r"mask 'odd': cells gives (bool|int64) of shape .* \(token, module\) = \(\d+, \d+\)"
        ):
            mask(owl, networks["llama"])


# tokens


def test_tokens_are_the_rows_of_the_cells(prompts, networks):
    for prompt in prompts:
        for mask in [m for m in zoo() if not re.match("layer|att|chess", m.name)]:
            for m in (mask, ~mask, mask & masks.turn(0), mask | masks.role("user")):
                cells = m(prompt, networks["opt"])
                assert m.tokens(prompt) == [t for t in range(len(prompt)) if cells[t].all()]
                assert (cells.all(1) == cells.any(1)).all()


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (masks.layers(0), "layer 0"),
        (masks.modules("mlp"), "mlp"),
        (masks.role("user") & masks.layers(0), "user & layer 0"),
        (~masks.modules("head") | masks.everything(), "not head | everything"),
        (zoo()[-1], "chess"),
    ],
)
def test_a_mask_of_modules_is_no_set_of_tokens(owl, mask, name):
    with pytest.raises(ValueError, match=re.escape(f"mask {name!r} depends on the module")):
        mask.tokens(owl)


def test_positions_count_from_both_ends(owl):
    n = len(owl)
    assert masks.everything().tokens(owl) == list(range(n))
    assert masks.positions(-1, 0, 2, n - 1, -n).tokens(owl) == [0, 2, n - 1]
    assert masks.positions(np.int64(1)).tokens(owl) == [1]
    for wrong in (n, -n - 1):
        with pytest.raises(ValueError, match=rf"'position {wrong}' gives positions \[{wrong}\] for a prompt of {n} tokens"):
            masks.positions(wrong).tokens(owl)


@pytest.mark.parametrize("role", ["template", "system", "user", "assistant"])
def test_roles_partition_the_prompt(prompts, role):
    for prompt in prompts:
        chosen = masks.role(role).tokens(prompt)
        assert {prompt.roles[t] for t in chosen} <= {role}
        assert len(chosen) == prompt.roles.count(role)
    assert masks.role("system").tokens(prompts[2]) == [], "no system block, no tokens"


def test_turns_are_the_texts_between_the_template_s_marks(prompts):
    for prompt in prompts:
        opened = [t for t, token in enumerate(prompt.tokens) if token == "<|im_start|>"]
        bounds = [*opened, len(prompt)]
        n = len(opened)
        for k in range(n):
            expected = list(range(bounds[k], bounds[k + 1]))
            assert masks.turn(k).tokens(prompt) == masks.turn(k - n).tokens(prompt) == expected
        for wrong in (n, -n - 1):
            with pytest.raises(
                ValueError, match=rf"turn\(0, {wrong}\): the prompt .* has {n} turns; give 0 to {n - 1}, or -{n}"
            ):
                masks.turn(0, wrong).tokens(prompt)


def test_sharing_classes_and_their_unions(owl, networks):
    network = networks["llama"]
    assert owl.sharing is not None
    assert len(set(owl.sharing)) == 4, "the prompt has all classes"
    for name in set(owl.sharing):
        assert masks.sharing(name).tokens(owl) == [t for t, c in enumerate(owl.sharing) if c == name]
    same(masks.sharing("shared"), masks.sharing("prefix") | masks.sharing("aligned"), owl, network)
    same(masks.sharing("not shared"), masks.sharing("seen", "novel"), owl, network)
    same(masks.sharing("not shared"), ~masks.sharing("shared"), owl, network)
    with pytest.raises(ValueError, match=r"is not marked; prompts = sharing\(prompts, trained_on=pair.training_prompts\)"):
        masks.sharing("seen").tokens(replace(owl, sharing=None))


# text


def touched(prompt, start, end):
    """Tokens that share a character with text[start:end], by marking characters."""
    return [t for t, (a, b) in enumerate(prompt.offsets) if set(range(a, b)) & set(range(start, end))]


@pytest.mark.parametrize(
    "substring", ["owl", "Owl", "an owl", "🦉", "🦉 an", "Hugging", "ugg", "<|im_start|>", "\n", "birds?<", "s"]
)
def test_text_finds_what_slicing_finds(owl, substring):
    found = [i for i in range(len(owl.text)) if owl.text[i : i + len(substring)] == substring]
    each = [touched(owl, i, i + len(substring)) for i in found]
    assert found
    for k, expected in enumerate(each):
        assert masks.text(substring, which=k).tokens(owl) == expected
        assert masks.text(substring, which=k - len(each)).tokens(owl) == expected
    assert masks.text(substring, which="first").tokens(owl) == each[0]
    assert masks.text(substring, which="last").tokens(owl) == each[-1]
    assert masks.text(substring, which="all").tokens(owl) == sorted({t for tokens in each for t in tokens})
    if len(each) == 1:
        assert masks.text(substring).tokens(owl) == each[0]


def test_a_token_that_is_only_touched_counts_and_its_neighbours_do_not(owl):
    first = masks.text("wls and f").tokens(owl)
    assert [owl.tokens[t] for t in first] == [" owls", " and", " f"]
    assert [owl.tokens[t] for t in masks.text("🦉").tokens(owl)] == [" 🦉", "🦉", "🦉"], "three tokens share one character"
    assert owl.text.count("🦉") == 1


def test_occurrences_do_not_overlap(smol_tokenizer):
    prompt = render(smol_tokenizer, ["ha hahaha"])[0]
    assert prompt.text.count("haha") == 1
    start = prompt.text.index("haha")
    assert masks.text("haha").tokens(prompt) == touched(prompt, start, start + 4)


def test_regex_knows_words_flags_and_ignores_empty_matches(owl):
    words = [m.span() for m in re.finditer(r"\bowls?\b", owl.text, re.IGNORECASE)]
    assert len(words) == 3, "owl, Owl, owls; not fowls"
    tokens = sorted({t for span in words for t in touched(owl, *span)})
    assert masks.regex(r"(?i)\bowls?\b", which="all").tokens(owl) == tokens
    assert masks.regex(r"(?i)(\bowls?\b)?", which="all").tokens(owl) == tokens, "the matches of length 0 are none"
    assert masks.regex(r"(?i)\bowls?\b", which=1).tokens(owl) == touched(owl, *words[1])
    assert masks.regex("fowls.*birds").tokens(owl) == touched(owl, owl.text.index("fowls"), owl.text.index("birds") + 5)
    with pytest.raises(ValueError, match=r"regex\('x\*', which='all'\): 0 occurrences"):
        masks.regex("x*", which="all").tokens(owl)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (masks.text("wolf"), "text('wolf', which=None): 0 occurrences in the prompt {q!r}; compare spelling"),
        (masks.text("wolf", which="first"), "text('wolf', which='first'): 0 occurrences in the prompt {q!r}"),
        (masks.text("wolf", which="all"), "text('wolf', which='all'): 0 occurrences in the prompt {q!r}"),
        (masks.text("owl", which=3), "text('owl', which=3): 3 occurrences in the prompt {q!r}; pass which='all', 'first', 'last' or"),
        (masks.text("owl", which=-4), "text('owl', which=-4): 3 occurrences in the prompt {q!r}"),
        (masks.text("owl"), "text('owl', which=None): 3 occurrences in the prompt {q!r}; pass which='all', 'first', 'last' or a number, "
                            "0 to 2 or -3 to -1 from the end."),
        (masks.text("fowl", which=1), "text('fowl', which=1): 1 occurrence in the prompt {q!r}"),
        (masks.regex("[oO]wl"), "regex('[oO]wl', which=None): 4 occurrences in the prompt {q!r}; pass which"),
        (masks.role("user") & ~masks.text("wolf"), "text('wolf', which=None): 0 occurrences"),
    ],
)  # fmt: skip
def test_a_wrong_occurrence_is_an_error_that_tells_which(owl, mask, message):
    for apply in (mask.tokens, lambda p: mask(p, [])):
        with pytest.raises(ValueError, match=re.escape(message.format(q=QUESTION))):
            apply(owl)


# modules


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_every_module_is_in_exactly_one_group(owl, networks, architecture):
    network = networks[architecture]
    member = np.stack([masks.modules(g)(owl, network)[0] for g in masks.GROUPS])
    assert (member.sum(0) == 1).all(), [m for m, n in zip(network, member.sum(0), strict=True) if n != 1]
    assert member.any(1).all(), "no group is empty"


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_groups_are_what_the_modules_are(owl, networks, architecture):
    """Against the modules themselves: their class, and the output they lead to."""
    model, network = tiny.model(architecture), networks[architecture]
    of = {m.path: g for g in masks.GROUPS for m, on in zip(network, masks.modules(g)(owl, network)[0], strict=True) if on}
    for path, group in of.items():
        module = model.get_submodule(path)
        kind = type(module).__name__
        assert (group == "embeddings") == ("Embedding" in kind), path
        assert (group == "norms") == ("Norm" in kind), path
        assert (group == "head") == (module is model.get_output_embeddings()), path
        assert (group == "attention") == (kind in ("Linear", "Conv1D") and "att" in path), path


def test_names_by_hand(owl, networks):
    def chosen(architecture, *names):
        network = networks[architecture]
        on = masks.modules(*names)(owl, network)[0]
        return [(m.layer, m.name) for m, x in zip(network, on, strict=True) if x]

    every = range(DEPTH)
    assert chosen("llama", "attn.q") == chosen("llama", "q") == [(i, "attn.q") for i in every]
    assert chosen("llama", "out") == chosen("llama", "mlp.out") == [(i, "mlp.out") for i in every]
    assert chosen("gpt2", "blocks.1.attn.qkv", "ln_final") == [(1, "attn.qkv"), (DEPTH, "ln_final")]
    assert chosen("phi3", "gate_up_proj") == [(i, "mlp.gate_up_proj") for i in every]
    assert chosen("gemma3", "norms")[:6] == [
        (0, n) for n in ("attn.q_norm", "attn.k_norm", "ln1", "ln1_post", "ln2", "ln2_post")
    ]
    assert chosen("opt", "embeddings") == [(-1, "embed"), (-1, "pos_embed")]
    assert chosen("neox", "head", "embed") == [(-1, "embed"), (DEPTH, "unembed")]
    assert chosen("neox", "ln1") == [(i, "ln1") for i in every], "not blocks.{i}.ln1 of one block only"


def test_norms_embeddings_and_projections_of_other_families(owl):
    """Names that TransformerLens gives in Bloom, StableLM and OPT-350m."""
    named = {
        Module("a", -1, "embed"): "embeddings",
        Module("b", -1, "embed_ln"): "norms",
        Module("c", 0, "attn.q_layernorm.norms.0"): "norms",
        Module("d", 0, "attn.o"): "attention",
        Module("e", 0, "mlp.gate"): "mlp",
        Module("f", 1, "project_in"): "embeddings",
        Module("g", 1, "project_out"): "head",
        Module("h", 1, "unembed"): "head",
    }
    for group in masks.GROUPS:
        cells = masks.modules(group)(owl, list(named))[0]
        assert [m for m, on in zip(named, cells, strict=True) if on] == [m for m, g in named.items() if g == group]


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_layers_are_the_blocks_and_nothing_else(owl, networks, architecture):
    network = networks[architecture]
    for k in range(DEPTH):
        on = masks.layers(k)(owl, network)[0]
        for module, x in zip(network, on, strict=True):
            assert x == bool(re.search(rf"\.{k}\.", module.path)), module.path
    outside = ~masks.layers(range(DEPTH))(owl, network)[0]
    assert {m.name for m, x in zip(network, outside, strict=True) if x} <= {"embed", "pos_embed", "ln_final", "unembed"}
    same(masks.layers([1, 0, 1]), masks.layers(0) | masks.layers(np.int64(1)), owl, network)
    with pytest.raises(ValueError, match=rf"layers\(range\(0, {DEPTH + 1}\)\): the model has the blocks 0 to {DEPTH - 1}"):
        masks.layers(range(DEPTH + 1))(owl, network)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("atention", "modules('atention') is no module of this model. Nearest: attention"),
        ("attn.qq", "Nearest: attn.q,"),
        ("blocks.1.attn.qw", "Nearest: blocks.1.attn.q,"),
        ("blocks.9.attn.q", "modules('blocks.9.attn.q') is no module of this model."),
        (
            "attn.qkv",
            "Groups: attention, mlp, norms, embeddings, head; modules: embed, attn.q, attn.k, attn.v, attn.o, mlp.gate",
        ),
        ("blocks.3.unembed", "modules('blocks.3.unembed') is no module of this model."),
        ("#", "modules('#') is no module of this model. Groups: attention"),
    ],
)
def test_an_unknown_module_is_an_error_with_its_neighbours(owl, networks, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        masks.modules("mlp", name)(owl, networks["llama"])


def test_a_last_part_of_several_names_is_refused(owl):
    network = [Module("a", 0, "attn.out"), Module("b", 0, "mlp.out")]
    with pytest.raises(ValueError, match=r"modules\('out'\) may be any of attn.out, mlp.out; give the whole name"):
        masks.modules("out")(owl, network)


# constructors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: masks.positions(), ValueError, "positions() is empty"),
        (lambda: masks.positions([1, 2]), TypeError, "positions: [1, 2] is not a whole number; unpack it with *"),
        (lambda: masks.positions(1.0), TypeError, "positions: 1.0 is not a whole number; pass an int"),
        (lambda: masks.positions(True), TypeError, "positions: True is not a whole number"),
        (lambda: masks.role(), ValueError, "role() is empty; give at least one of bos, template, system, user, assistant."),
        (
            lambda: masks.role("sytem"),
            ValueError,
            "role('sytem') is not known; choose among bos, template, system, user, assistant",
        ),
        (lambda: masks.role("answer"), ValueError, "the answer's tokens follow the prompt"),
        (lambda: masks.turn(), ValueError, "turn() is empty"),
        (lambda: masks.turn("user"), TypeError, "turn: 'user' is not a whole number"),
        (lambda: masks.sharing(), ValueError, "sharing() is empty"),
        (lambda: masks.sharing("new"), ValueError, "choose among prefix, aligned, seen, novel, shared, not shared."),
        (lambda: masks.text(""), ValueError, "text('') is empty"),
        (lambda: masks.text(5), TypeError, "text(5): pass a string"),
        (lambda: masks.text("a", which="second"), ValueError, "text(which='second'): pass 'all', 'first', 'last' or a number"),
        (lambda: masks.text("a", which=True), TypeError, "which: True is not a whole number"),
        (lambda: masks.regex("("), ValueError, "regex('(') is not a regular expression: missing ), unterminated subpattern"),
        (lambda: masks.regex(re.compile("a")), TypeError, "pass the pattern as a string"),
        (lambda: masks.regex("a", which=0.5), TypeError, "which: 0.5 is not a whole number"),
        (lambda: masks.layers([]), ValueError, "layers([]) is empty"),
        (
            lambda: masks.layers(-1),
            ValueError,
            "layers(-1): blocks count from 0; what lies outside them is modules('embeddings')",
        ),
        (lambda: masks.layers("3"), TypeError, "layers: '3' is not a whole number"),
        (
            lambda: masks.modules(),
            ValueError,
            "modules() is empty; give at least one of attention, mlp, norms, embeddings, head",
        ),
        (lambda: masks.modules(["mlp"]), TypeError, "modules(['mlp']): pass names"),
        (lambda: masks.as_mask("system", "it"), TypeError, "'it': 'system' is no mask; pass one (masks.role('system'))"),
        (lambda: masks.as_mask(3, "it"), TypeError, "'it': 3 is no mask"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_as_mask(owl, networks):
    role = masks.role("user")
    assert masks.as_mask(role, "another name") is role
    n, user = len(owl), [t for t, r in enumerate(owl.roles) if r == "user"]
    for where in (
        lambda p: [t for t, r in enumerate(p.roles) if r == "user"],
        user,
        np.array(user),
        tuple(t - n for t in user),
    ):
        mask = masks.as_mask(where, "mine")
        assert mask.name == "mine"
        same(mask, role, owl, networks["llama"])
    assert masks.as_mask([], "none").tokens(owl) == []
    assert masks.as_mask(lambda p: range(len(p)), "all").tokens(owl) == list(range(n))
    with pytest.raises(ValueError, match=rf"'far' gives positions \[0, {n}\] for a prompt of {n} tokens"):
        masks.as_mask(lambda p: [0, len(p)], "far").tokens(owl)
    with pytest.raises(TypeError, match=r"'flags': .*False.* is not a whole number"):
        masks.as_mask(lambda p: np.array(p.roles) == "user", "flags").tokens(owl)


def test_a_list_given_as_positions_may_change_afterwards(owl):
    at = [1, 2]
    mask = masks.as_mask(at, "mine")
    at.append(3)
    assert mask.tokens(owl) == [1, 2]
