"""`lab allocate`: what size to train, and for how long."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from lab.commands.law_options import TableOptions, assumed_params, draws_for, numbers, prepare_jax, print_json
from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.result import Fit as FitResult


@dataclasses.dataclass(frozen=True)
class Allocate(TableOptions):
    """What size to train and for how long, on a compute budget."""

    table: tyro.conf.Positional[Path | None] = None  # type: ignore[assignment]
    """Runs to fit the law to; without a table, --params or the law's published values are used."""
    budget: float = 0.0
    """Compute in FLOPs, 6 N D, plus 2 N a served token where there are any."""
    params: str | None = None
    """Without a table: E=1.69,A=406.4,... or a file written by `lab fit --json`."""
    of: str | None = None
    """The group whose run is planned, where there are several."""
    inference_tokens: float = 0.0
    """Tokens that the model will serve in its life."""
    unique_tokens: float | None = None
    """Distinct training tokens that exist; needs a law with U, such as data-constrained."""
    max_epochs: float = 20.0
    """Never recommend more passes over them than this."""
    at: tuple[str, ...] = ()
    """The law's other variables, as NAME=VALUE."""
    bootstrap: int = 1000
    """Resamples behind the intervals; 0 for none."""
    level: float = 0.95
    """Nominal coverage of the intervals."""
    approaches: bool = False
    """Also show Approaches 1 and 2 of arXiv:2203.15556 on this table, with their bias on its very grid."""
    json: bool = False
    """Print one JSON object and nothing else."""
    plot: Path | None = None
    """Draw contours of loss, the frontier and the recommendation into this file."""

    def run(self) -> int:
        prepare_jax()
        from analysis import laws
        from analysis.allocate import allocate

        if not self.budget > 0:
            raise LabError("There is no budget.", "Give --budget FLOPS, e.g. 1e21.")
        law = laws.get(self.law)
        draws, result = None, None
        if self.table is None:
            if self.approaches:
                raise LabError("--approaches needs a table.")
            params = assumed_params(law, self.params)
        else:
            from analysis.fitting import fit

            result = fit(self.frame(), law, **self.fit_options())
            params = result.params_of(self.of)
            draws = draws_for(result, self.bootstrap, self.of) if self.bootstrap else None
        x = numbers(self.at, "at")
        best = allocate(
            law, params, self.budget, draws=draws, inference_tokens=self.inference_tokens,
            unique_tokens=self.unique_tokens, max_epochs=self.max_epochs, at=x, level=self.level,
        )  # fmt: skip
        if self.unique_tokens is not None:
            x["U"] = self.unique_tokens
        others = _approaches(result, params, x) if self.approaches and result is not None else []
        if self.plot is not None:
            from analysis.plots import allocation_figure, save

            save(allocation_figure(law, params, best, x), self.plot)
        if self.json:
            status = None if result is None else result.status
            print_json(dataclasses.asdict(best) | {"params": params, "status": status, "approaches": others})
            return 0
        from lab.commands.law_tables import allocation_table, approaches_table, console

        show = console()
        show.print(allocation_table(best, None if result is None else result.status))
        if others:
            show.print(approaches_table(others))
        return 0


def _approaches(result: FitResult, params: dict[str, float], x: dict[str, float]) -> list[dict[str, Any]]:
    """Exponents of N* by the three approaches, on one table."""
    import numpy as np

    from analysis import allocate, frontier

    columns = result.table.columns
    if not {"N", "D"} <= columns.keys():
        raise LabError(f"{result.law.name} has no N and D for Approaches 1 and 2.")
    n, loss = columns["N"], result.table.loss
    c = 6 * n * columns["D"]
    out: list[dict[str, Any]] = []
    for name, approach in (("1: envelope of curves", frontier.envelope), ("2: parabola per budget", frontier.isoflop)):
        try:
            found = frontier.with_bias(approach, c, n, loss, result.law, params, x)
        except LabError as error:
            out.append({"approach": name, "exponent": None, "note": str(error)})
            continue
        note = (
            found.dropped[0] + (f" and {len(found.dropped) - 1} more" if len(found.dropped) > 1 else "")
            if found.dropped
            else ""
        )
        out.append({"approach": name, "exponent": found.size.exponent, "se": found.size.se,
                    "coefficient": found.size.coefficient, "bias": found.bias, "note": note})  # fmt: skip
    low, high = float(c.min()), float(c.max())
    slope = allocate.exponent(result.law, params, low, high, x)
    size = allocate.frontier(result.law, params, np.array([high]), x)["N"][0]
    out.append({"approach": f"3: {result.law.name}", "exponent": slope, "coefficient": size / high**slope, "note": ""})
    return out
