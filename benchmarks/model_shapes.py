"""Attention shapes of the model families, for the scripts that compile without hardware."""

from __future__ import annotations

# name: tokens, query heads, key/value heads, head width, causal, mask
SHAPES: dict[str, tuple[int, int, int, int, bool, str]] = {
    "SigLIP B/16 at 577": (577, 12, 12, 64, False, "none"),
    "SigLIP2 So400m/16 at 576": (576, 16, 16, 72, False, "none"),
    "SigLIP So400m/14 at 729": (729, 16, 16, 72, False, "none"),
    "SigLIP2 giant-opt at 576": (576, 16, 16, 96, False, "none"),
    "head width 80 at 1024": (1024, 16, 16, 80, False, "segments"),
    "Qwen2.5 0.5B at 2048": (2048, 14, 2, 64, True, "segments"),
    "Qwen2.5 1.5B at 2048": (2048, 12, 2, 128, True, "segments"),
    "Qwen2.5 1.5B, a pair of 768": (768, 12, 2, 128, True, "branches"),
    "Qwen2.5 7B at 4096": (4096, 28, 4, 128, True, "segments"),
}
