"""Labels of positions: the prompt's tokens, then the nodes of its answers."""

import sublim_mech as sm
from sublim_mech.instruments.labelling import position_coords
from sublim_mech.metrics import trait_forms


def test_position_coords_put_the_answer_trie_behind_the_prompt(smol_tokenizer):
    owl = sm.animal("owl")
    prompts = sm.render(smol_tokenizer, owl.questions[:2])
    marked = sm.sharing(prompts, trained_on=prompts)
    tries = [trait_forms(smol_tokenizer, prompt, [owl]) for prompt in marked]
    coords = position_coords(marked, tries, smol_tokenizer.decode)
    token, role, sharing = (coords[name][1] for name in ("token", "role", "sharing"))
    for row, (prompt, trie) in enumerate(zip(marked, tries, strict=True)):
        asked = slice(len(prompt))
        answered = slice(len(prompt), len(prompt) + len(trie.nodes))
        assert token[row, asked].tolist() == list(prompt.tokens)
        texts = [smol_tokenizer.decode([node]) for node in trie.nodes]
        assert token[row, answered].tolist() == texts
        assert set(role[row, answered]) == {"answer"}
        assert set(role[row, answered.stop :]) <= {""}
        assert sharing[row, asked].tolist() == list(prompt.sharing)
        assert set(sharing[row, answered]) == {"answer"}
    assert "sharing" not in position_coords(prompts, tries, smol_tokenizer.decode)
