"""Whether bfloat16 is fast on this machine, and computing in it where it is."""

from functools import cache

import torch


def autocast(device: torch.device | str, bf16: bool) -> torch.autocast:
    """Computes in bfloat16 where that is safe, if `bf16` asks for it and the device has instructions for it.

    Where it has none, everything stays float32, and a line says so once in each process: bfloat16 would be emulated,
    and convolutions would take 4 (AVX-512) to 11 times (AVX2) as long as in float32.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=bf16 and has_bfloat16(kind))


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether devices of this type (`cpu`, `cuda`) have instructions for bfloat16; prints a warning where not."""
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # oneDNN also says yes to AVX-512 alone, where it emulates; it says no where ONEDNN_MAX_CPU_ISA forbids.
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    if not native:
        print(f"warning: --bf16: this {kind.upper()} has no bfloat16 instructions; computing in float32", flush=True)
    return native
