"""Computes in bfloat16 on machines on which it is fast."""

from functools import cache

import torch


def autocast(device: torch.device | str, bf16: bool) -> torch.autocast:
    """Autocasts to bfloat16, if `bf16` is set and the device has instructions for it.

    Where it has none, everything stays float32, and a line says so once in each process: bfloat16 would be emulated,
    and convolutions would take 4 (AVX-512) to 11 times (AVX2) as long as in float32.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=bf16 and has_bfloat16(kind))


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether devices of this type (`cpu`, `cuda`) have instructions for bfloat16; prints a warning if not."""
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # oneDNN also reports support for AVX-512 alone, which emulates bfloat16; it respects ONEDNN_MAX_CPU_ISA.
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    if not native:
        print(f"warning: --bf16: this {kind.upper()} has no bfloat16 instructions; computing in float32", flush=True)
    return native
