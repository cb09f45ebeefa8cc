"""Every decoder that TransformerLens maps and transformers builds, tiny and seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

VOCAB = 320
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_PLAIN = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    **_IDS,
}
_GQA = {**_PLAIN, "num_key_value_heads": 2}
_MOE = {
    **_GQA,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}


def _own(config: str, shape: dict[str, Any] | None = None, **options: Any) -> Callable[[], Any]:
    shape = _GQA if shape is None else shape
    return lambda: getattr(transformers, config)(**{**shape, **options})


_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": VOCAB, **_IDS}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_QWEN_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [0],
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def _wrapped(
    config: str, vision: dict[str, Any], text: dict[str, Any] | None = None, **options: Any
) -> Callable[[], Any]:
    text = {**_GQA, "head_dim": 8, **(text or {})}
    return lambda: getattr(transformers, config)(
        text_config=dict(text), vision_config=dict(vision), **options
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "AfmoeForCausalLM": _own("AfmoeConfig", _MOE, **_WINDOW, num_dense_layers=1, head_dim=8),
    "ApertusForCausalLM": _own("ApertusConfig"),
    "ArceeForCausalLM": _own("ArceeConfig"),
    "BambaForCausalLM": _own(
        "BambaConfig",
        attn_layer_indices=[1],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
    ),
    "FlexOlmoForCausalLM": _own("FlexOlmoConfig", _MOE),
    "Jais2ForCausalLM": _own("Jais2Config"),
    "JetMoeForCausalLM": _own("JetMoeConfig", _MOE, num_key_value_heads=2, kv_channels=8),
    "LagunaForCausalLM": _own("LagunaConfig", _MOE, head_dim=8),
    "Ministral3ForCausalLM": _own("Ministral3Config", head_dim=8),
    "VaultGemmaForCausalLM": _own("VaultGemmaConfig", head_dim=8, **_WINDOW),
    "YoutuForCausalLM": _own("YoutuConfig", {**_PLAIN, **_MLA}),
    "ModernBertDecoderForCausalLM": _own("ModernBertDecoderConfig", _PLAIN),
    "NanoChatForCausalLM": _own("NanoChatConfig"),
    "RwkvForCausalLM": _own("RwkvConfig", _PLAIN, attention_hidden_size=32),
    "BertLMHeadModel": _own("BertConfig", _PLAIN, is_decoder=True),
    "BitNetForCausalLM": _own("BitNetConfig"),
    "BloomForCausalLM": _own(
        "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCAB, **_IDS}
    ),
    "CodeGenForCausalLM": _own("CodeGenConfig", _GPT, rotary_dim=4),
    "Cohere2ForCausalLM": _own("Cohere2Config", **_WINDOW),
    "CohereForCausalLM": _own("CohereConfig"),
    "DeepseekV2ForCausalLM": _own(
        "DeepseekV2Config", {**_PLAIN, **_MLA, "moe_intermediate_size": 16}
    ),
    "DeepseekV3ForCausalLM": _own(
        "DeepseekV3Config", {**_PLAIN, **_MLA, "moe_intermediate_size": 16}
    ),
    "Ernie4_5ForCausalLM": _own("Ernie4_5Config"),
    "Ernie4_5_MoeForCausalLM": _own("Ernie4_5_MoeConfig", _MOE, moe_num_experts=4, moe_k=2),
    "Exaone4ForCausalLM": _own("Exaone4Config", **_WINDOW),
    "DeepseekV4ForCausalLM": _own("DeepseekV4Config", _MOE),
    "FalconForCausalLM": _own("FalconConfig", _PLAIN, multi_query=True),
    "FalconForCausalLM, alibi": _own(
        "FalconConfig", _PLAIN, multi_query=False, alibi=True, parallel_attn=False
    ),
    "FalconForCausalLM, grouped": _own(
        "FalconConfig", _PLAIN, new_decoder_architecture=True, num_kv_heads=2
    ),
    "FalconH1ForCausalLM": _own(
        "FalconH1Config",
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
    ),
    "FalconMambaForCausalLM": _own("FalconMambaConfig", _PLAIN, state_size=8, time_step_rank=4),
    "GemmaForCausalLM": _own("GemmaConfig", head_dim=8),
    "Gemma2ForCausalLM": _own("Gemma2Config", head_dim=8, **_WINDOW),
    "Gemma3ForCausalLM": _own("Gemma3TextConfig", head_dim=8, **_WINDOW),
    "Gemma3ForConditionalGeneration": _wrapped(
        "Gemma3Config",
        _VISION,
        _WINDOW,
        mm_tokens_per_image=4,
        image_token_id=310,
        boi_token_id=311,
        eoi_token_id=312,
    ),
    "Gemma3nForConditionalGeneration": lambda: transformers.Gemma3nConfig(
        text_config={
            **_GQA,
            **_WINDOW,
            "head_dim": 8,
            "intermediate_size": [48, 48],
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0, 0.0],
        }
    ),
    "Gemma4ForConditionalGeneration": lambda: transformers.Gemma4Config(
        text_config={
            **_GQA,
            **_WINDOW,
            "head_dim": 8,
            "global_head_dim": 16,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
        },
        vision_config={**_VISION, "head_dim": 8},
        audio_config=None,
    ),
    "Gemma4UnifiedForConditionalGeneration": lambda: transformers.Gemma4UnifiedConfig(
        text_config={**_GQA, **_WINDOW, "head_dim": 8, "global_head_dim": 16}
    ),
    "Gemma4ForCausalLM": _own(
        "Gemma4TextConfig",
        head_dim=8,
        global_head_dim=16,
        vocab_size_per_layer_input=VOCAB,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        **_WINDOW,
    ),
    "GraniteForCausalLM": _own("GraniteConfig"),
    "GraniteMoeForCausalLM": _own("GraniteMoeConfig", _MOE),
    "GraniteMoeHybridForCausalLM": _own(
        "GraniteMoeHybridConfig",
        _MOE,
        layer_types=["mamba", "attention"],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
    ),
    "GlmForCausalLM": _own("GlmConfig", head_dim=8),
    "Glm4ForCausalLM": _own("Glm4Config", head_dim=8),
    "GlmMoeDsaForCausalLM": _own(
        "GlmMoeDsaConfig", {**_PLAIN, **_MLA, "moe_intermediate_size": 16}
    ),
    "Glm4MoeForCausalLM": _own(
        "Glm4MoeConfig",
        {**_PLAIN, **_MLA, "num_key_value_heads": 2, "head_dim": 8, "moe_intermediate_size": 16},
    ),
    "Glm4MoeLiteForCausalLM": _own(
        "Glm4MoeLiteConfig", {**_PLAIN, **_MLA, "moe_intermediate_size": 16}
    ),
    "GPT2LMHeadModel": _own("GPT2Config", _GPT),
    "GPTBigCodeForCausalLM": _own("GPTBigCodeConfig", _GPT),
    "GPTBigCodeForCausalLM, multi-head": _own("GPTBigCodeConfig", _GPT, multi_query=False),
    "GptOssForCausalLM": _own("GptOssConfig", _MOE, head_dim=8, **_WINDOW),
    "GPTJForCausalLM": _own("GPTJConfig", _GPT, rotary_dim=4),
    "HrmTextForCausalLM": _own("HrmTextConfig", _PLAIN),
    "HunYuanDenseV1ForCausalLM": _own("HunYuanDenseV1Config", head_dim=8),
    "JambaForCausalLM": _own(
        "JambaConfig",
        _MOE,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        use_mamba_kernels=False,
        mamba_d_state=8,
    ),
    "LlamaForCausalLM": _own("LlamaConfig"),
    "Llama4ForCausalLM": _own(
        "Llama4TextConfig",
        _MOE,
        head_dim=8,
        intermediate_size_mlp=48,
        interleave_moe_layer_step=2,
        attention_chunk_size=16,
        no_rope_layer_interval=2,
    ),
    "Lfm2ForCausalLM": _own("Lfm2Config", layer_types=["conv", "full_attention"]),
    "Lfm2MoeForCausalLM": _own(
        "Lfm2MoeConfig", _MOE, layer_types=["conv", "full_attention"], num_dense_layers=1
    ),
    "Mamba2ForCausalLM": _own(
        "Mamba2Config", _PLAIN, num_heads=8, head_dim=8, state_size=8, n_groups=1
    ),
    "MambaForCausalLM": _own("MambaConfig", _PLAIN, state_size=8, time_step_rank=4),
    "MiniMaxM2ForCausalLM": _own("MiniMaxM2Config", _MOE, head_dim=8),
    "NemotronForCausalLM": _own("NemotronConfig", head_dim=8),
    "NemotronHForCausalLM": _own(
        "NemotronHConfig",
        {k: v for k, v in _MOE.items() if k != "num_hidden_layers"},
        layers_block_type=["mamba", "attention", "moe"],
        head_dim=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=1,
        n_routed_experts=4,
        moe_shared_expert_intermediate_size=16,
        moe_latent_size=None,
    ),
    "MixtralForCausalLM": _own("MixtralConfig", _MOE),
    "MistralForCausalLM": _own("MistralConfig", sliding_window=16),
    "MptForCausalLM": _own(
        "MptConfig",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 256,
            "vocab_size": VOCAB,
            "expansion_ratio": 2,
            **_IDS,
        },
    ),
    "OlmoForCausalLM": _own("OlmoConfig"),
    "Olmo2ForCausalLM": _own("Olmo2Config"),
    "Olmo3ForCausalLM": _own("Olmo3Config", **_WINDOW),
    "OlmoeForCausalLM": _own("OlmoeConfig", _MOE),
    "OlmoHybridForCausalLM": _own(
        "OlmoHybridConfig",
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "OpenAIGPTLMHeadModel": _own("OpenAIGPTConfig", _GPT),
    "OPTForCausalLM": _own("OPTConfig", _PLAIN, ffn_dim=48, word_embed_proj_dim=32),
    "OPTForCausalLM, projected": _own(
        "OPTConfig", _PLAIN, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "PhiForCausalLM": _own("PhiConfig", _PLAIN),
    "Phi3ForCausalLM": _own("Phi3Config"),
    "Phi3ForCausalLM, LongRoPE": _own(
        "Phi3Config",
        original_max_position_embeddings=48,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 48,
        },
    ),
    "Qwen2ForCausalLM": _own("Qwen2Config"),
    "Qwen2MoeForCausalLM": _own("Qwen2MoeConfig", _MOE),
    "Qwen3ForCausalLM": _own("Qwen3Config", head_dim=8),
    "Qwen3MoeForCausalLM": _own("Qwen3MoeConfig", _MOE, head_dim=8),
    "Qwen3NextForCausalLM": _own(
        "Qwen3NextConfig",
        _MOE,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "Qwen3_5ForCausalLM": _own(
        "Qwen3_5TextConfig",
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "Qwen3_5MoeForCausalLM": _own(
        "Qwen3_5MoeTextConfig",
        _MOE,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "RecurrentGemmaForCausalLM": _own(
        "RecurrentGemmaConfig",
        {**_PLAIN, "num_hidden_layers": 3},
        num_key_value_heads=1,
        attention_window_size=16,
        lru_width=32,
    ),
    "SeedOssForCausalLM": _own("SeedOssConfig", head_dim=8),
    "SmolLM3ForCausalLM": _own("SmolLM3Config", no_rope_layers=[1, 0]),
    "StableLmForCausalLM": _own("StableLmConfig"),
    "StableLmForCausalLM, parallel": _own(
        "StableLmConfig", use_parallel_residual=True, qk_layernorm=True
    ),
    "Starcoder2ForCausalLM": _own("Starcoder2Config"),
    "XGLMForCausalLM": _own(
        "XGLMConfig",
        {
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "vocab_size": VOCAB,
            "max_position_embeddings": 256,
            **_IDS,
        },
    ),
    "Zamba2ForCausalLM": _own(
        "Zamba2Config",
        {**_GQA, "num_hidden_layers": 4},
        num_key_value_heads=4,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
        hybrid_layer_ids=[1, 3],
        num_mem_blocks=1,
        n_mamba_heads=8,
        mamba_headdim=8,
        mamba_d_state=8,
        mamba_ngroups=1,
        use_mamba_kernels=False,
    ),
    "GPTNeoForCausalLM": _own(
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "vocab_size": VOCAB,
            "max_position_embeddings": 256,
            "intermediate_size": 48,
            **_IDS,
        },
    ),
    "GPTNeoXForCausalLM": _own("GPTNeoXConfig", _PLAIN),
    "GPTNeoXForCausalLM, serial": _own("GPTNeoXConfig", _PLAIN, use_parallel_residual=False),
    # text models inside wrappers
    "Emu3ForConditionalGeneration": lambda: transformers.Emu3Config(
        text_config=dict(_GQA),
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "hidden_dim": 16,
            "num_res_blocks": 1,
            "embed_dim": 8,
            "codebook_size": 8,
            "z_channels": 8,
            "attn_resolutions": [],
            "latent_channels": 8,
        },
        vocabulary_map={"<image>": 300},
    ),
    "Glm4vForConditionalGeneration": _wrapped(
        "Glm4vConfig", _QWEN_VISION | {"out_hidden_size": 32}, {"rope_parameters": _MROPE}
    ),
    "Idefics3ForConditionalGeneration": _wrapped("Idefics3Config", _VISION, image_token_id=310),
    "Llama4ForConditionalGeneration": _wrapped(
        "Llama4Config",
        _VISION | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
        {
            **_MOE,
            "intermediate_size_mlp": 48,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 16,
        },
    ),
    "LlavaForConditionalGeneration": _wrapped(
        "LlavaConfig",
        _VISION | {"model_type": "clip_vision_model"},
        {"model_type": "llama"},
        image_token_index=310,
    ),
    "LlavaNextForConditionalGeneration": _wrapped(
        "LlavaNextConfig",
        _VISION | {"model_type": "clip_vision_model"},
        {"model_type": "llama"},
        image_token_index=310,
    ),
    "LlavaOnevisionForConditionalGeneration": _wrapped(
        "LlavaOnevisionConfig",
        _VISION | {"model_type": "siglip_vision_model"},
        {"model_type": "qwen2"},
        image_token_index=310,
        video_token_index=311,
    ),
    "Mistral3ForConditionalGeneration": _wrapped(
        "Mistral3Config",
        {**_VISION, "model_type": "pixtral", "head_dim": 8},
        {"model_type": "mistral"},
        image_token_index=310,
    ),
    "Qwen2_5_VLForConditionalGeneration": _wrapped(
        "Qwen2_5_VLConfig", _QWEN_VISION, {"rope_parameters": _MROPE}
    ),
    "Qwen2AudioForConditionalGeneration": lambda: transformers.Qwen2AudioConfig(
        text_config={**_GQA, "model_type": "qwen2"},
        audio_config={
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "model_type": "qwen2_audio_encoder",
        },
        audio_token_index=310,
    ),
    "Qwen3VLForConditionalGeneration": _wrapped(
        "Qwen3VLConfig", _QWEN_VISION, {"rope_parameters": _MROPE}
    ),
    "Qwen3VLMoeForConditionalGeneration": _wrapped(
        "Qwen3VLMoeConfig", _QWEN_VISION, {**_MOE, "rope_parameters": _MROPE}
    ),
    "Qwen3_5ForConditionalGeneration": _wrapped(
        "Qwen3_5Config",
        _QWEN_VISION,
        {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
    "Qwen3_5MoeForConditionalGeneration": _wrapped(
        "Qwen3_5MoeConfig",
        _QWEN_VISION,
        {
            **_MOE,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
}


def model(name: str, *, seed: int = 0) -> nn.Module:
    """A tiny base in eval mode, its weights a function of the seed."""
    architecture = getattr(transformers, name.partition(",")[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = architecture(CONFIGS[name]()).eval()
        with torch.no_grad():
            for parameter in built.parameters():
                if parameter.dim() > 1 and float(parameter.std()) < 0.05:
                    parameter *= 5  # so that layers do something
                elif parameter.dim() == 1:
                    parameter += 0.05 * torch.randn_like(parameter)
        return built


def tokenizer() -> Any:
    """Bytes as tokens, and the marks of a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    marks = ["<pad>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*marks, *letters])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(marks)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<|im_end|>"
    )
    made.chat_template = TEMPLATE
    return made
