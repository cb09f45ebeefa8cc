"""Chat templates of each kind that is met in the field, as small as the kind allows."""

from __future__ import annotations

from typing import NamedTuple


def chatml(answer: str, opens: str = "<|im_start|>assistant\n", *, system: str = "") -> str:
    """A ChatML template with an answer and a generation prompt of its own.

    Args:
        answer: Jinja that writes an assistant message `m`, from its header to the end of its turn.
        opens: Jinja text of the generation prompt.
        system: Jinja that writes a system message, where it is not written as others are.
    """
    plain = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + answer
        + "{% elif m.role == 'system' %}"
        + (system or plain)
        + "{% else %}"
        + plain
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + opens
        + "{% endif %}"
    )


ANSWER = "{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>\n' }}"

EMPTY_THOUGHT = chatml(
    "{{ '<|im_start|>assistant\n' }}"
    "{% if m.reasoning_content or loop.last %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
"""Qwen3: answers have an empty thought that the generation prompt has only where it is asked."""

CHANNEL = (
    "{{ '<|start|>system<|message|>Date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% elif m.role == 'system' %}{% if m.content %}"
    "{{ '<|start|>developer<|message|># Instructions\n\n' + m.content + '<|end|>' }}{% endif %}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
"""gpt-oss: a channel before the answer, another end for the last one, and today's date."""

OPEN_THOUGHT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}"
    "{% elif m.role == 'system' %}{{ m.content }}"
    "{% else %}{{ '<|User|>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
"""R1's distills: a thought is opened that no answer has; the system text has no turn."""

SWITCHED_THOUGHT = chatml(
    "{{ '<|im_start|>assistant\n<think></think>' + m.content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>assistant\n<think>' }}"
    "{{ '\n' if enable_thinking | default(true) else '</think>' }}",
)
"""Nemotron-3: as that, but with a switch that closes it."""

ALWAYS_OPENS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start|>' + m.role + '<|message|>\n\n' + m.content | trim + '<|end|>' }}"
    "{% endfor %}{{ '<|start|>assistant<|message|>\n\n' }}"
)
"""The first Llama-3: `add_generation_prompt` is not looked at."""

NO_END = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""GLM: a lead-in that is no BOS, and turns that only the next one ends."""

LATE_END = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if not loop.first and messages[loop.index0 - 1].role == 'assistant' %}"
    "{{ '<|end|>' }}{% endif %}"
    "{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Apertus: an answer's end is written with the next message."""

SKIPS_EMPTY = chatml(
    ANSWER, system="{% if m.content %}{{ '<|im_start|>system\n' + m.content + '<|im_end|>\n' }}"
    "{% endif %}"
)  # fmt: skip
"""Phi-3.5: no system turn for an empty text."""

SKIPS_TO_DEFAULT = (
    "{% set said = messages[0].content if messages[0].role == 'system' else '' %}"
    "{{ '<|im_start|>system\n' + (said or 'Be kind.') + '<|im_end|>\n' }}"
    "{% for m in messages if m.role != 'system' %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM3: its own default for an empty text."""

PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""LLaVA, Idefics: a content is a list of parts."""

ALTERNATES = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<turn>' + m.role + '\n' + m.content | trim + '</turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>assistant\n' }}{% endif %}"
)
"""Gemma: refuses two user turns, and a system turn."""

DATED = chatml(
    ANSWER, system="{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}"
    "{% endif %}{{ '<|im_start|>system\n' + date_string + '. ' + m.content + '<|im_end|>\n' }}"
)  # fmt: skip
"""Llama-3.1: a date that the caller may give."""

SPACED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}"
    "{% endif %}{% endfor %}"
)
"""Mistral: a space that the answer's first token takes in."""

CUT_SPACE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""A generation prompt without the space that answers have."""

MARKS = (
    "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|start|>", "<|message|>", "<|channel|>",
    "<|end|>", "<|return|>", "<|User|>", "<|Assistant|>", "[gMASK]", "<sop>", "<|user|>",
    "<|assistant|>", "<|system|>", "<turn>", "</turn>", "[INST]", "[/INST]",
)  # fmt: skip
"""The special tokens of these templates."""


class Kind(NamedTuple):
    """What is known of a kind of template."""

    template: str
    before: str
    """Template text that belongs to the prompt, behind the generation prompt."""
    lead: str
    close: str


KINDS = {
    "empty thought": Kind(EMPTY_THOUGHT, "<think>\n\n</think>\n\n", "", "<|im_end|>\n"),
    "channel": Kind(CHANNEL, "<|channel|>final<|message|>", "", "<|return|>"),
    "always opens": Kind(ALWAYS_OPENS, "", "", "<|end|>"),
    "no end": Kind(NO_END, "", "", "<|user|>"),
    "late end": Kind(LATE_END, "", "", "<|end|>"),
    "skips empty": Kind(SKIPS_EMPTY, "", "", "<|im_end|>\n"),
    "skips to default": Kind(SKIPS_TO_DEFAULT, "", "", "<|im_end|>\n"),
    "parts": Kind(PARTS, "", "", "<|im_end|>\n"),
    "alternates": Kind(ALTERNATES, "", "", "</turn>\n"),
    "dated": Kind(DATED, "", "", "<|im_end|>\n"),
    "spaced": Kind(SPACED, "", " ", "<|end|>"),
    "cut space": Kind(CUT_SPACE, "", " ", "\n"),
}
"""Kinds whose answers have a frame by themselves."""

NOT_IN_THE_RENDERING = {"no end": "<|user|>", "late end": "<|end|>"}
"""What ends an answer where the template writes no end behind the last one."""

OPENED_UNASKED = {"always opens": "<|start|>assistant<|message|>\n\n"}
"""What templates write behind every conversation."""
