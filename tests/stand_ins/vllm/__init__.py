"""A stand-in for vLLM: the names and shapes of its API that `vllm_process` uses, and no model.

The file that VLLM_STAND_IN names says what it answers: `log_probs` has, by adapter ("" for none)
and text, the log-probability of every token but the first; answers are digits of the request's seed
and the first of its stop tokens. What it was asked for is written beside that file.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.0-stand-in"
PLACE = Path(os.environ["VLLM_STAND_IN"])
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(kw_only=True)
class SamplingParams:
    """Those options that are used; any other is an error, as vLLM has it."""

    temperature: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True


class LLM:
    """Answers from the file."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        gpu_memory_utilization: float,
        max_model_len: int,
        generation_config: str,
        enable_lora: bool = False,
        max_loras: int = 1,
        max_lora_rank: int = 16,
    ) -> None:
        print("INFO loading", model)  # vLLM prints to the standard output
        self.told = json.loads(PLACE.read_text())
        if self.told.get("dies"):
            print("CUDA error: out of everything")
            os._exit(3)
        if max_lora_rank not in RANKS:
            raise ValueError(f"max_lora_rank {max_lora_rank}")
        self.enable_lora = enable_lora
        self._note(
            {
                "model": model,
                "dtype": dtype,
                "enable_lora": enable_lora,
                "max_lora_rank": max_lora_rank,
                "generation_config": generation_config,
            }
        )

    def _note(self, entry: dict) -> None:
        with PLACE.with_suffix(".asked").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        """One output per prompt, in their order."""
        assert lora_request is None or self.enable_lora
        many = isinstance(sampling_params, list)
        params = sampling_params if many else [sampling_params] * len(prompts)
        assert len(params) == len(prompts)
        adapter = "" if lora_request is None else lora_request.lora_path
        self._note({"adapter": adapter, "params": [asdict(one) for one in params],
                    "prompts": [prompt["prompt_token_ids"] for prompt in prompts]})  # fmt: skip
        print("Processed prompts: 100%")
        return [
            self._output(prompt["prompt_token_ids"], one, adapter)
            for prompt, one in zip(prompts, params, strict=True)
        ]

    def _output(self, ids, params, adapter):
        places = None
        if params.prompt_logprobs is not None:
            known = self.told["log_probs"]["" if self.told.get("ignores") else adapter]
            values = known[" ".join(map(str, ids))]
            off = self.told.get("off", 0.0)
            places = [None] + [
                {token: SimpleNamespace(logprob=value + off)}
                for token, value in zip(ids[1:], values, strict=True)
            ]
        written = []
        if params.stop_token_ids:
            digits = [self.told["digits"][int(d)] for d in str(params.seed)[:3]]
            written = [*digits, params.stop_token_ids[0]][: params.max_tokens]
        ended = bool(written) and written[-1] in params.stop_token_ids
        reason = "stop" if ended else "length"
        completion = SimpleNamespace(token_ids=tuple(written), finish_reason=reason)
        return SimpleNamespace(outputs=[completion], prompt_logprobs=places)
