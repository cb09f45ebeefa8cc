"""Adapters of the stand-in."""

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """An adapter by its folder."""

    lora_name: str
    lora_int_id: int
    lora_path: str
