"""Presets are the papers' shapes; the nano ladder keeps its rule, since a changed shape is another run."""

from __future__ import annotations

import pytest

from lab import flops
from lab.config import ModelConfig
from lab.errors import LabError
from lab.presets import names, preset


def test_languini_shapes() -> None:
    """arXiv:2404.07982: mini's queries are half as wide as the model."""
    assert preset("languini-mini", 16_384, 512) == ModelConfig("gpt2", 512, 4, 8, 32, 2048, 16_384, 512)
    assert preset("languini-small", 16_384, 512) == ModelConfig("gpt2", 768, 12, 12, 64, 3072, 16_384, 512)
    assert preset("languini-medium", 16_384, 512) == ModelConfig("gpt2", 1024, 24, 16, 64, 4096, 16_384, 512)


CPT = [name for name in names() if name.startswith("cpt-")]


@pytest.mark.parametrize("name", CPT)
def test_cpt_row_obeys_the_tables_own_rules(name: str) -> None:
    """arXiv:2407.02118, Table 4: N = 16 L d^2 + 32,000 d in millions; ffn = 512 (floor(16 d / 3 / 512) + 1)."""
    cfg = preset(name, 32_000, 2048)
    assert abs(16 * cfg.n_layers * cfg.d_model**2 + 32_000 * cfg.d_model - 1e6 * int(name[4:])) < 1e6
    assert 2 * cfg.d_ff == 512 * (16 * cfg.d_model // 3 // 512 + 1)
    assert cfg.n_heads * cfg.head_dim == cfg.d_model
    assert cfg.head_dim == (64 if cfg.d_model <= 1024 else 128)
    assert cfg.family == "llama"


def test_cpt_has_all_rows() -> None:
    assert len(CPT) == 42


@pytest.mark.parametrize("layers", range(1, 11))
def test_nano_rule(layers: int) -> None:
    gpt2, llama = (preset(f"nano-{layers}", 512, 128, family) for family in ("gpt2", "llama"))
    assert gpt2 == ModelConfig("gpt2", 16 * layers, layers, layers, 16, 64 * layers, 512, 128)
    assert llama.d_ff % 16 == 0 and 0 <= llama.d_ff - 8 * llama.d_model / 3 < 16
    for cfg in (gpt2, llama):
        assert flops.count(cfg).layers == pytest.approx(3072 * layers**3, rel=0.2)


def test_nano_ladder_spans_its_range() -> None:
    sizes = [flops.count(preset(name, 512, 128)).layers for name in names() if name.startswith("nano")]
    assert sizes == sorted(sizes)
    assert 3.0e3 < sizes[0] < 3.7e3 and 3.0e6 < sizes[-1] < 3.2e6


def test_mistakes_are_named() -> None:
    with pytest.raises(LabError, match=r"no model called 'nano-11'.*nano-2"):
        preset("nano-11", 512, 128)
    with pytest.raises(LabError, match=r"languini-mini.*gpt2 family"):
        preset("languini-mini", 512, 128, "llama")
