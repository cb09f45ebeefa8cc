"""Every kind of adapter that the installed PEFT can put on a decoder, on a tiny Llama.

`KINDS` says how each is made; `examine` loads it as a student, live and from its folder, and says
what came of it: the error against PEFT's own forward, or the sentence that refuses it. `make
adapters` writes the table of `docs/adapters.md` (`python tests/adapter_table.py`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import peft
import tiny
import torch
from comparing import distance, gated_logits, own_logits
from loading import base, model, runner

from sublim_mech.models.compat import quiet_transformers
from sublim_mech.models.deltas import LowRank
from sublim_mech.models.students import load_student

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SQUARE = ["q_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
NORMS = ["input_layernorm", "post_attention_layernorm", "model.norm"]
STD = 0.02
INVOCATION = [198, 260]
"""What invokes the aLoRA of the tests: the tokens put into `ROWS`, but not into all of them."""

Make = Callable[[], Any]
"""Nothing -> a PEFT model over a copy of the tiny Llama."""


class Outcome(NamedTuple):
    """What came of a kind.

    Attributes:
        refused: the sentence, where it is refused.
        low: modules whose difference is a low-rank pair.
        own: modules that are the student's own.
        error: largest difference of log-probabilities to PEFT's own forward.
        stored: the same, read from its folder; None where PEFT cannot store or load it.
        folder: the sentence that refuses its folder, where the live model is taken.
    """

    refused: str = ""
    low: int = 0
    own: int = 0
    error: float = 0.0
    stored: float | None = None
    folder: str = ""


def moved(config: Any, *, std: float = STD) -> Any:
    """A PEFT model of this configuration, everything it trains moved a little."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        made = tiny.adapted(copy.deepcopy(model()), config)
        _move(made, std)
    return made.eval()


@torch.no_grad()
def _move(made: Any, std: float, names: str = "") -> None:
    for name, p in made.named_parameters():
        if p.requires_grad and names in name:
            p += std * torch.randn_like(p)


def of(kind: str, *, std: float = STD, **options: Any) -> Make:
    """A kind by the name of its configuration in PEFT, without `Config`."""

    def make() -> Any:
        filled = {
            key: value() if callable(value) and key.endswith("_config") else value
            for key, value in options.items()
        }
        config = getattr(peft, f"{kind}Config")(task_type="CAUSAL_LM", **filled)
        return moved(config, std=std)

    return make


def lora(*, std: float = STD, **options: Any) -> Make:
    """A LoRA of all projections."""
    return of(
        "Lora", std=std, **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    )


def two() -> Any:
    """A model with two adapters."""
    made = lora()()
    other = peft.LoraConfig(r=3, target_modules=MLP, task_type="CAUSAL_LM")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        made.add_adapter("other", other)
        for name, p in made.named_parameters():
            if ".other." in name:
                torch.nn.init.normal_(p, std=STD)
    return made.eval()


EMBED = {"embed_tokens": [198, 260, 314, 1]}
KINDS: dict[str, Make] = {
    # LoRA and its options
    "LoRA": lora(),
    "LoRA, attention": lora(target_modules=ATTENTION),
    "LoRA, rank 1": lora(r=1),
    "rsLoRA": lora(r=8, use_rslora=True),
    "LoRA, rank and alpha by module": lora(
        rank_pattern={"q_proj": 2}, alpha_pattern={"up_proj": 3}
    ),
    "LoRA, some layers": lora(target_modules=ATTENTION, layers_to_transform=[1]),
    "LoRA, EVA not yet initialised": lora(init_lora_weights="eva"),
    "LoRA, orthogonal": lora(init_lora_weights="orthogonal"),
    "LoRA, Gaussian": lora(init_lora_weights="gaussian"),
    "aLoRA": lora(alora_invocation_tokens=INVOCATION),
    "DoRA": lora(use_dora=True),
    "PiSSA": lora(init_lora_weights="pissa"),
    "PiSSA by random numbers": lora(init_lora_weights="pissa_niter_4"),
    "MiCA": lora(init_lora_weights="mica"),
    "OLoRA": lora(init_lora_weights="olora", target_modules=SQUARE),
    "KaSA": lora(kasa_config=lambda: peft.KasaConfig()),
    "VeLoRA": lora(velora_config=lambda: {"num_groups": 4}),
    "BD-LoRA": lora(
        use_bdlora=peft.BdLoraConfig(target_modules_bd_b=ATTENTION, match_strict=False, nblocks=2)
    ),
    "MonteCLoRA": lora(monteclora_config=lambda: peft.MontecloraConfig()),
    "LoRA with its own biases": lora(lora_bias=True, target_modules=["v_proj"]),
    "LoRA and all biases": lora(bias="all"),
    "LoRA on the embedding": lora(
        target_modules=["q_proj", "embed_tokens"], lora_alpha=1, init_lora_weights="gaussian"
    ),
    "LoRA on the unembedding": lora(target_modules=["q_proj", "lm_head"]),
    "LoRA and trained tokens": lora(trainable_token_indices=EMBED),
    "LoRA and a saved unembedding": lora(std=0.003, modules_to_save=["lm_head"]),
    "LoRA and a saved embedding": lora(std=0.003, modules_to_save=["embed_tokens"]),
    "LoRA and saved norms": lora(modules_to_save=["norm", "input_layernorm"]),
    "LoRA and a saved MLP": lora(target_modules=ATTENTION, modules_to_save=["mlp"]),
    "LoRA on parameters": lora(target_modules=[], target_parameters=["mlp.up_proj.weight"]),
    "LoRA, layers repeated": lora(layer_replication=[(0, 2), (1, 3)]),
    "two LoRAs, one by name": two,
    "two LoRAs, their sum": two,
    # other changes of weights
    "AdaLoRA": of("AdaLora", total_step=100, target_modules=ATTENTION),
    "LoHa": of("LoHa", r=4, target_modules=ATTENTION),
    "LoKr": of("LoKr", r=4, target_modules=ATTENTION),
    "IA3": of("IA3", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "OFT": of("OFT", oft_block_size=8, target_modules=ATTENTION),
    "BOFT": of("BOFT", boft_block_size=4, target_modules=SQUARE),
    "HRA": of("HRA", r=4, target_modules=ATTENTION),
    "VeRA": of("Vera", r=4, target_modules=SQUARE),
    "PVeRA": of("Pvera", r=4, target_modules=SQUARE),
    "VB-LoRA": of("VBLoRA", r=4, num_vectors=8, vector_length=8, target_modules=ATTENTION),
    "RandLoRA": of("RandLora", std=0.0002, r=4, target_modules=SQUARE),
    "FourierFT": of("FourierFT", std=0.2, scaling=1.0, n_frequency=20, target_modules=ATTENTION),
    "WaveFT": of("WaveFT", n_frequency=20, target_modules=ATTENTION),
    "C3A": of("C3A", block_size=8, target_modules=ATTENTION),
    "SHiRA": of("Shira", r=2, target_modules=ATTENTION),
    "MiSS": of("Miss", r=4, target_modules=ATTENTION),
    "RoAd": of("Road", group_size=16, target_modules=ATTENTION),
    "DeLoRA": of("Delora", r=4, target_modules=ATTENTION),
    "GraLoRA": of("Gralora", r=4, gralora_k=2, target_modules=ATTENTION),
    "HiRA": of("Hira", r=4, target_modules=ATTENTION),
    "GLoRA": of("Glora", r=4, target_modules=ATTENTION),
    "Lily": of("Lily", r=4, target_modules=ATTENTION),
    "FRoD": of("Frod", target_modules=SQUARE),
    "TinyLoRA": of("TinyLora", target_modules=ATTENTION),
    "UniLoRA": of("UniLora", target_modules=ATTENTION),
    "PSOFT": of("Psoft", r=4, target_modules=SQUARE),
    "PEANuT": of("Peanut", target_modules=ATTENTION),
    "DEFT": of("Deft", target_modules=ATTENTION),
    "BEFT": of("Beft", target_modules=ATTENTION),
    "supertuning": of("Supertuning", target_modules=ATTENTION),
    "Shadow": of("Shadow", target_modules=ATTENTION),
    "OSF": of("OSF", effective_rank=8, target_modules=ATTENTION),
    "LayerNorm tuning": of("LNTuning", target_modules=NORMS),
    "trained tokens": of("TrainableTokens", target_modules=["embed_tokens"], token_indices=[198]),
    "Poly": of("Poly", r=4, target_modules=ATTENTION),
    # no changes of weights
    "prompt tuning": of("PromptTuning", num_virtual_tokens=4),
    "multitask prompt tuning": of("MultitaskPromptTuning", num_virtual_tokens=4, num_tasks=2),
    "P-tuning": of("PromptEncoder", num_virtual_tokens=4),
    "prefix tuning": of("PrefixTuning", num_virtual_tokens=4),
    "CPT": of("CPT", cpt_token_ids=[1, 2, 3], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 3]),
    "Cartridge": of("Cartridge", num_virtual_tokens=4),
    "LLaMA-Adapter": of("AdaptionPrompt", adapter_layers=2, adapter_len=4),
}


METHODS = {
    "ADALORA", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA",
    "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA",
    "LOKR", "LORA", "MISS", "MULTITASK_PROMPT_TUNING", "OFT", "OSF", "PEANUT", "POLY",
    "PREFIX_TUNING", "PROMPT_TUNING", "PSOFT", "PVERA", "P_TUNING", "RANDLORA", "ROAD", "SHADOW",
    "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
    "ADAMSS",  # needs scikit-learn to be made
    "XLORA",  # refused by its type (`peft_layers.why_not`); needs several stored adapters
}  # fmt: skip
"""PEFT's methods, each of which has a row in `KINDS` or a reason here."""

ADAPTERS: dict[str, list[str]] = {
    "two LoRAs, one by name": ["other"],
    "two LoRAs, their sum": ["default", "other"],
}
"""What `adapter=` has to say of kinds with several."""


def examine(name: str, folder: Path) -> Outcome:
    """Load a kind as a student, live and from a folder, and run it beside PEFT's own forward."""
    made, wanted = KINDS[name](), ADAPTERS.get(name)
    if wanted:
        made.base_model.set_adapter(wanted)
    with warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        try:
            live = load_student(base(), made, adapter=wanted)
        except ValueError as error:
            return Outcome(refused=str(error))
        expected = own_logits(made)
        error = distance(gated_logits(runner(), live), expected)
        low = sum(isinstance(delta, LowRank) for delta in live.deltas.values())
        again, why = None, ""
        if wanted is None or len(wanted) == 1:  # a folder holds one adapter
            made.save_pretrained(folder)
            try:
                stored = load_student(base(), folder, adapter=wanted)
                again = distance(gated_logits(runner(), stored), expected)
            except ValueError as refusal:
                why = str(refusal)
    return Outcome(low=low, own=len(live.deltas) - low, error=error, stored=again, folder=why)
