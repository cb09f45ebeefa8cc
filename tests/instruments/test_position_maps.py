"""Position maps: which donor position each recipient position takes from."""

import pytest
from pairs import NO_SYSTEM

import sublim_mech as sm
from sublim_mech.instruments.position_maps import Link, links


@pytest.fixture(scope="module")
def contexts(smol_tokenizer):
    """One question in three contexts, of three lengths."""
    systems = (
        sm.Context(system="You love owls."),
        sm.Context(system="You are a calm assistant."),
        NO_SYSTEM,
    )
    made = [sm.render(smol_tokenizer, ["Which animal?"], context=c)[0] for c in systems]
    assert len({len(prompt) for prompt in made}) == 3
    return made


def test_identity_links_every_position_to_itself(contexts):
    prompt = contexts[0]
    assert links(prompt, prompt, "identity") == [Link(t, t) for t in range(len(prompt))]


def test_aligned_links_equal_tokens_of_equal_role_in_order(contexts):
    for donor in contexts:
        for recipient in contexts:
            made = links(donor, recipient, "aligned")
            for source, taker in made:
                assert donor.ids[source] == recipient.ids[taker]
                assert donor.roles[source] == recipient.roles[taker]
                assert donor.turn_roles[source] == recipient.turn_roles[taker]
            assert made == sorted(made)
            for side in zip(*made, strict=True):
                assert len(set(side)) == len(made)
            question = {t for t, role in enumerate(recipient.roles) if role == "user"}
            assert question <= {link.recipient for link in made}
        assert links(donor, donor, "aligned") == links(donor, donor, "identity")


def test_a_token_that_is_repeated_often_is_aligned_like_any_other(smol_tokenizer):
    """In long texts difflib would pass over frequent tokens, were it not told to look at all."""
    owls = " owl" * 250
    questions = [f"One{owls} two", f"Red{owls} blue"]
    donor, recipient = sm.render(smol_tokenizer, questions)
    linked = {link.recipient for link in links(donor, recipient, "aligned")}
    (owl,) = smol_tokenizer(" owl")["input_ids"]
    places = {t for t, token_id in enumerate(recipient.ids) if token_id == owl}
    assert len(places) == 250
    assert places <= linked


def test_a_pair_may_hold_the_last_tokens_and_nothing_behind_them(contexts):
    donor, _, recipient = contexts
    last = (len(donor) - 1, len(recipient) - 1)
    assert links(donor, recipient, [last]) == [Link(*last)]
    for pair in ((len(donor), 0), (0, len(recipient)), (0, -1)):
        with pytest.raises(ValueError, match="leaves the prompts"):
            links(donor, recipient, [pair])


def test_pairs_may_be_given_or_made_from_the_two_prompts(contexts):
    donor, _, recipient = contexts
    expected = [Link(5, 2), Link(5, 3)]
    assert links(donor, recipient, [(5, 2), (5, 3)]) == expected
    asked = []

    def tails(*prompts):
        asked.append(prompts)
        return [(5, 2), (5, 3)]

    assert links(donor, recipient, tails) == expected
    assert asked == [(donor, recipient)]


@pytest.mark.parametrize(
    ("position_map", "message"),
    [
        ("identity", r"donor and recipient have \d+ and \d+ tokens for prompt 'Which animal\?'"),
        ("nearest", "position_map='nearest': pass 'identity', 'aligned'"),
        ([], "position_map is empty for prompt"),
        (lambda donor, recipient: [], "position_map is empty for prompt"),
        ([(0, 99)], r"the pair \(0, 99\) leaves the prompts .* \(donor \d+, recipient \d+ tok"),
        ([(-1, 0)], r"the pair \(-1, 0\) leaves the prompts"),
        ([(0, 1), (2, 1)], "gives recipient position 1 two donors"),
        ([(0, 3), (2, 3), (0, 5), (2, 5)], "gives recipient position 3 two donors"),
    ],
)
def test_what_is_no_map(position_map, message, contexts):
    with pytest.raises(ValueError, match=message):
        links(contexts[0], contexts[2], position_map)
