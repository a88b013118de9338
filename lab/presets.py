"""Named shapes: the papers' ladders, and a nano ladder for CPUs.

preset("nano-4", vocab=4096, context=256)                    # gpt2 family
preset("nano-4", vocab=4096, context=256, family="llama")
preset("nano-4x128", vocab=4096, context=256)                # 4 layers, width 128: for sweeps of width alone
preset("languini-small", vocab=16_384, context=512)          # arXiv:2404.07982
preset("cpt-1085", vocab=32_000, context=2048)               # arXiv:2407.02118, Table 4
"""

from __future__ import annotations

import re

from lab.config import Family, ModelConfig
from lab.errors import LabError

# arXiv:2404.07982: layers, width, head size, heads. `mini` has 8 heads of 32, half its width.
_LANGUINI = {"mini": (4, 512, 32, 8), "small": (12, 768, 64, 12), "medium": (24, 1024, 64, 16)}

# arXiv:2407.02118, Table 4: printed size in millions -> width, "ffn" column, heads, layers.
# The ffn column is gate and input side by side, so the inner width is half of it. That follows from its values,
# 512 (floor(16 d / 3 / 512) + 1); the printed sizes follow another rule, 16 L d^2 + 32,000 d.
# 4016 prints 22 heads, which do not divide its width of 2688; 21 heads of 128 are meant.
_CPT = {
    49: (512, 3072, 8, 8),
    66: (576, 3584, 9, 9),
    86: (640, 3584, 10, 10),
    105: (640, 3584, 10, 13),
    125: (640, 3584, 10, 16),
    137: (768, 4608, 12, 12),
    166: (768, 4608, 12, 15),
    194: (768, 4608, 12, 18),
    208: (896, 5120, 14, 14),
    234: (896, 5120, 14, 16),
    259: (896, 5120, 14, 18),
    301: (1024, 5632, 16, 16),
    334: (1024, 5632, 16, 18),
    368: (1024, 5632, 16, 20),
    512: (1280, 7168, 10, 18),
    591: (1280, 7168, 10, 21),
    616: (1408, 7680, 11, 18),
    670: (1280, 7168, 10, 24),
    711: (1408, 7680, 11, 21),
    766: (1536, 8704, 12, 19),
    806: (1408, 7680, 11, 24),
    879: (1536, 8704, 12, 22),
    992: (1536, 8704, 12, 25),
    1085: (1792, 9728, 14, 20),
    1239: (1792, 9728, 14, 23),
    1393: (1792, 9728, 14, 26),
    1542: (2048, 11264, 16, 22),
    1736: (2176, 11776, 17, 22),
    1743: (2048, 11264, 16, 25),
    1944: (2048, 11264, 16, 28),
    1963: (2176, 11776, 17, 25),
    2112: (2304, 12800, 18, 24),
    2191: (2176, 11776, 17, 28),
    2452: (2304, 12800, 18, 28),
    2791: (2304, 12800, 18, 32),
    2808: (2560, 13824, 20, 26),
    3227: (2560, 13824, 20, 30),
    3647: (2560, 13824, 20, 34),
    4016: (2688, 14848, 21, 34),
    4248: (2688, 14848, 21, 36),
    4657: (2816, 15360, 22, 36),
    5534: (3072, 16896, 24, 36),
}

NANO_LAYERS = range(1, 11)
NANO_HEAD = 16


def preset(name: str, vocab: int, context: int, family: Family | None = None) -> ModelConfig:
    """The shape called `name`, with this vocabulary and context.

    Args:
      name: one of `names()`, or `nano-LxD`: L layers of width D, a multiple of 16.
      family: only `nano-*` shapes exist in both; by default the paper's own, and gpt2 for nano.

    Raises:
      LabError: if there is no such shape, or not in that family.
    """
    kind, _, size = name.rpartition("-")
    if wide := re.fullmatch(r"nano-([1-9]\d*)x([1-9]\d*)", name):
        layers, width = int(wide[1]), int(wide[2])
        if width % NANO_HEAD:
            raise LabError(f"The width of {name!r} must be a multiple of {NANO_HEAD}, the size of its heads.")
        return _nano(layers, width, vocab, context, family or "gpt2")
    if name not in names():
        raise LabError(f"There is no model called {name!r}.", f"Known: {', '.join(names())}.")
    if kind == "nano":
        return _nano(int(size), NANO_HEAD * int(size), vocab, context, family or "gpt2")
    home: Family = "gpt2" if kind == "languini" else "llama"
    if family not in (None, home):
        raise LabError(f"The shape {name!r} is of the {home} family, not {family}.")
    if kind == "languini":
        layers, width, head, heads = _LANGUINI[size]
        return ModelConfig("gpt2", width, layers, heads, head, 4 * width, vocab, context)
    width, ffn, heads, layers = _CPT[int(size)]
    return ModelConfig("llama", width, layers, heads, width // heads, ffn // 2, vocab, context)


def names() -> list[str]:
    """All presets, each ladder from small to large."""
    return [f"nano-{n}" for n in NANO_LAYERS] + [f"languini-{n}" for n in _LANGUINI] + [f"cpt-{n}" for n in _CPT]


def _nano(layers: int, width: int, vocab: int, context: int, family: Family) -> ModelConfig:
    """On the ladder d = 16 L with L heads of 16: about 3072 L^3 parameters in the layers, 3k (L = 1) to 3.1M (L = 10).

    Heads of 32 train 6 % faster (L = 4 and 8, context 128, two CPU cores), but divide only every other width and leave
    the smallest shape a single head; heads of 16 give one rule for the whole ladder.

    The feed-forward width is 4 d (gpt2), or 8/3 d rounded up to a multiple of 16 (llama), so that both families have
    about 12 d^2 parameters a layer.
    """
    d_ff = 4 * width if family == "gpt2" else -(-8 * width // 48) * 16
    return ModelConfig(family, width, layers, width // NANO_HEAD, NANO_HEAD, d_ff, vocab, context)
