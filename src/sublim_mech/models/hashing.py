"""A content hash of weights that knows values, not the type they were stored in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .buffers import stored_buffers
from .quantised import packed_modules, packed_state

PIECE = 1 << 22  # values


def weights_hash(model: nn.Module, *, exact: bool = False) -> str:
    """SHA-256 of all parameters, and of buffers that are stored with them, in hexadecimal.

    Of quantised modules all that they compute with is taken as it is.

    Args:
        model: whose.
        exact: of the values as they are, whatever type holds them. Else they are rounded to
            bfloat16 first, so that fp32 and bf16 loads of one base agree; two students of it
            that differ by less would then be one.
    """
    digest = hashlib.sha256()
    packed = packed_modules(model)
    for name, p in [*sorted(model.named_parameters()), *sorted(stored_buffers(model))]:
        if name.rpartition(".")[0] in packed:
            continue
        digest.update(f"{name} {tuple(p.shape)}".encode())
        for piece in pieces(p):
            if exact:
                wide = piece.double() if piece.dtype == torch.float64 else piece.float()
                digest.update(wide.cpu().numpy().data)
            else:
                digest.update(piece.to(torch.bfloat16).view(torch.int16).cpu().numpy().data)
    for path, module in sorted(packed.items()):
        for key, tensor in sorted(packed_state(module).items()):
            digest.update(f"{path}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


@contextmanager
def hashing(model: nn.Module) -> Iterator[Future[str]]:
    """The `weights_hash` of a model is computed beside what is done within: one digest takes one
    processor, however many there are.

    The weights must not change meanwhile.
    """
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(weights_hash, model)


def pieces(p: Tensor) -> tuple[Tensor, ...]:
    """A parameter's values in pieces of 4M: what is computed from them stays small beside it."""
    return p.detach().contiguous().flatten().split(PIECE)
