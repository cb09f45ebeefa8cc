"""vLLM in a process of its own: `python vllm_process.py`, one JSON object per line in and out.

    {"do": "open", "model", "dtype", "memory", "max_tokens", "adapter", "max_lora_rank"}
        -> {"version"}
    {"do": "score", "texts": [[id, ...], ...], "from": [first, ...]}
        -> {"log_probs": [[of the tokens from `first` on], ...]}
    {"do": "sample", "prompts", "seeds", "stops": [[id, ...], ...], "temperature", "max_tokens"}
        -> {"answers": [[id, ...], ...], "whole": [true, ...]}, with the token that ended each, and
           whether it ended by itself: vLLM's `finish_reason`, which is "length" where it did not

What fails is answered by {"error"}. The process knows nothing of this library, gets token ids and
gives token ids. What vLLM prints goes to the standard error output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO


class Engine:
    """A model that vLLM has loaded, with its adapter."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        import vllm

        options = {
            "model": given["model"],
            "dtype": given["dtype"],
            "gpu_memory_utilization": given["memory"],
            "max_model_len": given["max_tokens"],
            # how the model's own configuration would have it sampled (top_p, penalties) is no part
            # of a teacher
            "generation_config": "vllm",
        }
        self.adapter = None
        if given["adapter"] is not None:
            from vllm.lora.request import LoRARequest

            options |= {"enable_lora": True, "max_loras": 1}
            options["max_lora_rank"] = given["max_lora_rank"]
            self.adapter = LoRARequest("adapter", 1, given["adapter"])
        self.version = str(vllm.__version__)
        self._params = vllm.SamplingParams
        self._llm = vllm.LLM(**options)

    def score(self, texts: Sequence[Sequence[int]], first: Sequence[int]) -> list[list[float]]:
        """Log-probabilities of the tokens of texts, each from a place on."""
        params = self._params(max_tokens=1, prompt_logprobs=0, temperature=1.0, detokenize=False)
        outputs = self._generate(texts, params)
        found = []
        for text, start, output in zip(texts, first, outputs, strict=True):
            places = list(output.prompt_logprobs)  # of the first token there is none
            found.append([float(places[i][text[i]].logprob) for i in range(start, len(text))])
        return found

    def sample(self, given: Mapping[str, Any]) -> tuple[list[list[int]], list[bool]]:
        """One answer to each prompt, and whether it ended by itself."""
        params = [
            self._params(
                temperature=given["temperature"],
                max_tokens=given["max_tokens"],
                seed=seed,
                stop_token_ids=stops,
                detokenize=False,
            )
            for seed, stops in zip(given["seeds"], given["stops"], strict=True)
        ]
        drawn = [output.outputs[0] for output in self._generate(given["prompts"], params)]
        whole = [answer.finish_reason == "stop" for answer in drawn]
        return [list(answer.token_ids) for answer in drawn], whole

    def _generate(self, texts: Sequence[Sequence[int]], params: Any) -> Sequence[Any]:
        prompts = [{"prompt_token_ids": list(text)} for text in texts]
        outputs: Sequence[Any] = self._llm.generate(
            prompts, params, use_tqdm=False, lora_request=self.adapter
        )
        return outputs


def serve(lines: TextIO, answers: TextIO) -> None:
    """Do what the lines ask for, until they end."""
    engine: Engine | None = None
    for line in lines:
        given = json.loads(line)
        told: dict[str, Any]
        try:
            if given["do"] == "open":
                engine = Engine(given)
                told = {"version": engine.version}
            elif engine is None:
                told = {"error": "nothing is open"}
            elif given["do"] == "score":
                told = {"log_probs": engine.score(given["texts"], given["from"])}
            else:
                drawn, whole = engine.sample(given)
                told = {"answers": drawn, "whole": whole}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def main() -> None:
    """Keep the standard output for answers, whatever else is printed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
