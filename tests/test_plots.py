"""Pictures: every figure is drawn, labelled with units, and refuses what it cannot draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, laws, plots, surface
from analysis.allocate import allocate
from analysis.compare import Comparison, FoldScore, Score
from analysis.design import check
from analysis.forecast import Prediction
from lab.errors import LabError

TIED = laws.get("tied")
TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.33}


@pytest.fixture(scope="module")
def fitted():  # type: ignore[no-untyped-def]
    n, r = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e8, 6), [5, 20, 80, 320]))
    loss = surface.loss(TIED, TRUTH, {"N": n, "D": n * r})
    rng = np.random.default_rng(0)
    return fit(pd.DataFrame({"N": n, "D": n * r, "loss": loss * np.exp(0.003 * rng.standard_normal(24))}), "tied")


def _labels(figure) -> list[tuple[str, str]]:  # type: ignore[no-untyped-def]
    return [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes]


def test_fit_figure_has_all_panels_with_units(fitted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    draws = {k: v * np.exp(0.02 * rng.standard_normal(50)) for k, v in fitted.params.items()}
    figure = plots.fit_figure(fitted, draws)
    labels = _labels(figure)
    assert ("training tokens D", "loss (nats per token)") in labels
    assert ("compute 6ND (FLOPs)", "predicted / observed loss - 1 (%)") in labels
    assert ("parameters N", "training tokens D") in labels
    assert ("E", "alpha") in labels
    for ending in ("png", "pdf", "svg"):
        assert plots.save(figure, tmp_path / f"new/fit.{ending}").stat().st_size > 5000


def test_panels_that_do_not_apply_are_left_out_or_refused(fitted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert len(plots.fit_figure(fitted, panels=("fit", "cloud")).axes) == 2  # one panel and its colour bar
    with pytest.raises(LabError, match="None of the panels"):
        plots.fit_figure(fitted, panels=("cloud",))
    with pytest.raises(LabError, match="Unknown panel"):
        plots.fit_figure(fitted, panels=("pie",))
    with pytest.raises(LabError, match="Cannot draw into"):
        plots.save(plots.fit_figure(fitted, panels=("fit",)), tmp_path / "fit.docx")


def test_a_law_of_tokens_alone_is_drawn() -> None:
    law = laws.get("reciprocal-perplexity")
    d = np.geomspace(1e7, 1e9, 12)
    loss = surface.loss(law, law.published[0].params, {"D": d})
    figure = plots.fit_figure(fit(pd.DataFrame({"D": d, "loss": loss}), law))
    assert ("training tokens D", "loss (nats per token)") in _labels(figure)


def test_forecast_allocation_and_design_figures(fitted) -> None:  # type: ignore[no-untyped-def]
    point = Prediction({"N": 1e9, "D": 2e10}, 2.4, (2.3, 2.5), (2.2, 2.6), None, 1.2)
    assert plots.forecast_figure(fitted, [point]).axes[0].get_xlabel() == "compute 6ND (FLOPs)"
    draws = {k: np.full(20, v) * np.exp(0.01 * np.arange(20)) for k, v in fitted.params_of().items()}
    best = allocate(TIED, fitted.params_of(), 1e20, draws=draws)
    assert "1e+20 FLOPs" in plots.allocation_figure(TIED, fitted.params_of(), best).axes[0].get_title("left")
    runs = {"N": np.geomspace(1e6, 1e8, 6), "D": 20 * np.geomspace(1e6, 1e8, 6)}
    figure = plots.design_figure(check(TIED, runs, TRUTH), runs)
    assert "relative standard error" in [ax.get_xlabel() for ax in figure.axes]


def test_comparison_figure_names_laws_and_folds() -> None:
    folds = tuple(FoldScore(f"to 1e18, predict {k}e18", 10, 4, 0.01, 0.02, 0.001 * k, "converged") for k in (2, 4))
    scores = tuple(Score(n, 0.01, 0.02, 0.0, 1.0, None, None, {}, 0.0, 0.0, 4, folds) for n in ("tied", "chinchilla"))
    result = Comparison(
        "forward", 20, scores, {}, {}, np.ones(8), np.ones(8), np.zeros(8), ("a predict 2e18", "b predict 4e18")
    )
    figure = plots.comparison_figure(result)
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["tied", "chinchilla"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["2e18", "4e18"]
