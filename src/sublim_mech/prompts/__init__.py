"""Prompts: contexts, rendering, roles, what training shares, traits; pure text."""

from .chat import PLAIN

__all__ = ["PLAIN"]
