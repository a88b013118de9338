"""Recipes: which learning rate, batch and optimiser a run of N parameters on D tokens should have.

    setup = recipe("step-law").setup(model, tokens=3e9)          # setup.optim, setup.batch, setup.steps, setup.model
    setup = recipe("rates.json").setup(model, tokens=1.2e6)      # a rule that `lab tune` fitted

A recipe that was fitted on a range of sizes and tokens is not used outside it, unless it is told to `extrapolate`: then
`setup.notes` says how far outside it is. Batches are powers of two, so that runs of one shape share a program.

arXiv:2405.14277 has no recipe here: no source states how its language models were trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, Protocol

from lab.config import Family, ModelConfig, OptimConfig
from lab.errors import LabError
from lab.flops import count

RANGE_SLACK = 1.05  # budgets are rounded to whole steps


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a recipe makes of a shape and a budget.

    Attributes:
      model: the shape, in the parametrisation that the recipe asks for.
      batch: sequences a step.
      steps: updates, so that steps * batch * context is nearest to the budget.
      notes: what the reader must know, such as how far outside its range a rule was used.
    """

    model: ModelConfig
    optim: OptimConfig
    batch: int
    steps: int
    notes: tuple[str, ...] = ()


class Recipe(Protocol):
    def setup(self, model: ModelConfig, tokens: float, batch: int | None = None) -> Setup:
        """The hyper-parameters of `model` on `tokens` training tokens; `batch` fixes the sequences a step.

        Raises:
          LabError: where the recipe says nothing of such a run.
        """
        ...


@dataclasses.dataclass(frozen=True)
class RateRule:
    """LR = c N^p D^q; N parameters without token embedding and head, D training tokens.

    Attributes:
      n_range, d_range: the smallest and largest N and D it was fitted on.
    """

    c: float
    p: float
    q: float
    n_range: tuple[float, float]
    d_range: tuple[float, float]

    def rate(self, n: Any, d: Any) -> Any:
        return self.c * n**self.p * d**self.q

    def covers(self, n: Any, d: Any) -> Any:
        """Whether N and D (numbers or arrays) lie in the fitted range, but for rounding."""
        (n_low, n_high), (d_low, d_high) = self.n_range, self.d_range
        in_n = (n >= n_low / RANGE_SLACK) & (n <= n_high * RANGE_SLACK)
        return in_n & (d >= d_low / RANGE_SLACK) & (d <= d_high * RANGE_SLACK)

    def outside(self, n: float, d: float) -> list[str]:
        """One sentence for each of N and D that lies outside the fitted range."""
        checks = (("parameters outside embedding and head", n, self.n_range), ("tokens", d, self.d_range))
        return [
            f"it was fitted on {low:.3g} to {high:.3g} {what}, not {value:.3g}"
            for what, value, (low, high) in checks
            if not low / RANGE_SLACK <= value <= high * RANGE_SLACK
        ]


@dataclasses.dataclass(frozen=True)
class Level:
    """From `n_from` parameters on: this peak rate and this batch."""

    n_from: float
    peak_lr: float
    batch_tokens: int


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A paper's own values: constants but for a few levels of size.

    Attributes:
      source: where they are printed.
      optim: the optimiser; `peak_lr` is that of the first level.
      levels: smallest size first.
      size: how the paper counts N: without embedding and head, or by the rule 16 L d^2 + V d of the sizes that
        arXiv:2407.02118 prints.
      floor: the last learning rate; None: `optim.final_lr` of the peak.
      warmup_steps: None: the share `optim.warmup`.
      n_below: sizes from here on have no printed rate.
    """

    source: str
    optim: OptimConfig
    levels: tuple[Level, ...]
    size: Literal["nonembedding", "printed"] = "nonembedding"
    floor: float | None = None
    warmup_steps: int | None = None
    n_below: float = math.inf

    def setup(self, model: ModelConfig, tokens: float, batch: int | None = None) -> Setup:
        if self.size == "nonembedding":
            n = count(model).nonembedding
        else:
            n = 16 * model.n_layers * model.d_model**2 + model.vocab * model.d_model
        if n >= self.n_below:
            raise LabError(f"{self.source} prints no learning rate for {n:.3g} parameters.", "Tune one: `lab tune`.")
        level = max((x for x in self.levels if n >= x.n_from), key=lambda x: x.n_from)
        batch = batch or power_of_two(level.batch_tokens / model.context)
        steps = _steps(model, tokens, batch)
        optim = dataclasses.replace(self.optim, peak_lr=level.peak_lr)
        if self.floor is not None:
            optim = dataclasses.replace(optim, final_lr=self.floor / level.peak_lr)
        if self.warmup_steps is not None:
            if steps <= self.warmup_steps:
                raise LabError(
                    f"{self.source} warms up for {self.warmup_steps} steps; this run has {steps}.",
                    "Give more tokens or a smaller batch.",
                )
            optim = dataclasses.replace(optim, warmup=self.warmup_steps / steps)
        return Setup(model, optim, batch, steps)


# arXiv:2404.07982, A.2 and its code: Adam, no decay, no clipping; peak 6e-4 to 6e-6 by a cosine over all steps; 128
# sequences of 512, twice as many at its largest size (303M). 200 warm-up steps in the code, 500 in the text.
LANGUINI = Fixed(
    "arXiv:2404.07982",
    OptimConfig(6e-4),
    (Level(0, 6e-4, 2**16), Level(300e6, 6e-4, 2**17)),
    floor=6e-6,
    warmup_steps=200,
)

# arXiv:2407.02118, B.2: 2e-4 at every size, from scratch and continued, 5 % warm-up, cosine; batches of 1M, 2M and 4M
# tokens, here powers of two. It prints neither floor, decay, clipping nor moments: a tenth of the peak, none, none and
# (.9, .95) here.
CPT = Fixed(
    "arXiv:2407.02118",
    OptimConfig(2e-4, warmup=0.05, final_lr=0.1),
    (Level(0, 2e-4, 2**20), Level(1e9, 2e-4, 2**21), Level(2.6e9, 2e-4, 2**22)),
    size="printed",
)

# arXiv:2411.12986: 3e-4 at 300M, 2e-4 at 1.3B, none printed at 2.7B; cosine to 1e-5, 1 % warm-up, decay .01, clipping
# at 1, Adam (.9, .999), 1024 sequences of 1024.
BILINGUAL = Fixed(
    "arXiv:2411.12986",
    OptimConfig(3e-4, warmup=0.01, beta2=0.999, weight_decay=0.01, clip=1.0),
    (Level(0, 3e-4, 2**20), Level(1e9, 2e-4, 2**20)),
    floor=1e-5,
    n_below=2e9,
)


@dataclasses.dataclass(frozen=True)
class StepLaw:
    """LR = 1.79 N^-.713 D^.307 and a batch of .58 D^.571 tokens (arXiv:2503.04715, eq. 1).

    N counts parameters without embeddings. Fitted there on 60M to 1B parameters and 1B to 100B tokens, for a cosine
    that ends at 1e-5 whatever the peak; AdamW (.9, .95) with decay .1 and clipping at 1. Its warm-up of 2,000 steps is
    cut to a tenth of a shorter run.
    """

    rule: RateRule = RateRule(1.79, -0.713, 0.307, (60e6, 1.1e9), (1e9, 1e11))
    floor: float = 1e-5
    warmup_steps: int = 2000
    extrapolate: bool = False

    @staticmethod
    def batch_tokens(tokens: float) -> float:
        return float(0.58 * tokens**0.571)

    def setup(self, model: ModelConfig, tokens: float, batch: int | None = None) -> Setup:
        n = count(model).nonembedding
        notes = _notes("step-law", self.rule.outside(n, tokens), self.extrapolate)
        batch = batch or power_of_two(self.batch_tokens(tokens) / model.context)
        steps = _steps(model, tokens, batch)
        peak = self.rule.rate(n, tokens)
        optim = OptimConfig(
            peak,
            warmup=min(self.warmup_steps / steps, 0.1),
            final_lr=min(self.floor / peak, 1.0),
            weight_decay=0.1,
            clip=1.0,
        )
        return Setup(model, optim, batch, steps, notes)


@dataclasses.dataclass(frozen=True)
class BestRate:
    """The best rate of one cell of a sweep, as the rule was fitted to it.

    Attributes:
      n, d: parameters and tokens.
      rate: best peak learning rate.
      edge: why it is not the bottom of a parabola, or None: see `analysis.rates.Optimum`.
      residual: ln(rate / rule's rate).
      fitted: whether the rule was fitted to it.
    """

    n: float
    d: float
    rate: float
    edge: str | None
    residual: float
    fitted: bool


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A rule from one's own sweep of learning rates: made by `lab tune`, saved as JSON.

    Attributes:
      rule: ln LR = ln c + p ln N + q ln D by least squares over the sweep's best rates.
      optim: the sweep's optimiser; its peak rate is replaced by the rule's.
      family, batch_tokens: of the sweep. Another batch counts as outside the rule's range.
      table, table_sha256: the table it was read from.
      cells: the best rates.
    """

    rule: RateRule
    optim: OptimConfig
    family: Family
    batch_tokens: int
    table: str
    table_sha256: str
    cells: tuple[BestRate, ...]
    extrapolate: bool = False

    def setup(self, model: ModelConfig, tokens: float, batch: int | None = None) -> Setup:
        return self._setup(model, tokens, batch, count(model).nonembedding)

    def _setup(self, model: ModelConfig, tokens: float, batch: int | None, n: float) -> Setup:
        batch = batch or max(1, round(self.batch_tokens / model.context))
        found = self.rule.outside(n, tokens)
        if batch * model.context != self.batch_tokens:
            found.append(f"it was fitted at {self.batch_tokens:,} tokens a step, not {batch * model.context:,}")
        if model.family != self.family:
            found.append(f"it was fitted on the {self.family} family, not {model.family}")
        notes = _notes(f"from {self.table}", found, self.extrapolate)
        optim = dataclasses.replace(self.optim, peak_lr=float(self.rule.rate(n, tokens)))
        return Setup(model, optim, batch, _steps(model, tokens, batch), notes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuP(Fitted):
    """The rate of one width at every width of the same depth, in muP (arXiv:2203.03466; its form: `lab.model`).

    Sizes beyond the sweep's are no extrapolation: there the rate of its nearest width is used. Depth, tokens and batch
    do not transfer.

    Attributes:
      base_width: of the sweep's parametrisation.
      n_layers: depth of the sweep's shapes.
    """

    base_width: int
    n_layers: int

    def setup(self, model: ModelConfig, tokens: float, batch: int | None = None) -> Setup:
        low, high = self.rule.n_range
        model = dataclasses.replace(model, base_width=self.base_width)
        found = self._setup(model, tokens, batch, min(max(count(model).nonembedding, low), high))
        depth = [] if model.n_layers == self.n_layers else [f"it was tuned at depth {self.n_layers}"]
        return dataclasses.replace(found, notes=found.notes + _notes(f"from {self.table}", depth, self.extrapolate))


NAMED: dict[str, Recipe] = {"languini": LANGUINI, "cpt": CPT, "bilingual": BILINGUAL, "step-law": StepLaw()}


def recipe(name: str, extrapolate: bool = False) -> Recipe:
    """The recipe called `name`, `nano` for the demo's shapes, or the rule in the JSON file `name`.

    Args:
      extrapolate: let a fitted rule be used outside its range; its setups then say so.

    Raises:
      LabError: when there is neither such a name nor such a file.
    """
    if name in NAMED:
        found = NAMED[name]
    elif name == "nano":
        found = load(Path(__file__).with_name("nano_rates.json"))
    elif Path(name).suffix == ".json":
        found = load(Path(name))
    else:
        raise LabError(f"There is no recipe {name!r}.", f"Known: nano, {', '.join(NAMED)}, or a file of `lab tune`.")
    if extrapolate and isinstance(found, (StepLaw, Fitted)):
        return dataclasses.replace(found, extrapolate=True)
    return found


def plain(model: ModelConfig, optim: OptimConfig, tokens: float, batch: int) -> Setup:
    """No recipe: just these values."""
    return Setup(model, optim, batch, _steps(model, tokens, batch))


def save(rule: Fitted, path: Path) -> None:
    """Writes a fitted rule as JSON."""
    from lab.records import write_json

    form = dataclasses.asdict(rule)
    del form["extrapolate"]
    write_json(path, {"recipe": type(rule).__name__, **form})


def load(path: Path) -> Fitted:
    """Reads what `save` wrote.

    Raises:
      LabError: when the file is missing or is not a rule.
    """
    try:
        form = json.loads(path.read_text())
        kind = {"Fitted": Fitted, "MuP": MuP}[form.pop("recipe")]
        rule: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in form.pop("rule").items()}
        cells = tuple(BestRate(**cell) for cell in form.pop("cells"))
        return kind(rule=RateRule(**rule), optim=OptimConfig(**form.pop("optim")), cells=cells, **form)
    except FileNotFoundError:
        raise LabError(f"The recipe {path} does not exist.", "Make one: `lab tune`.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LabError(f"{path} is not a recipe.", "Make one: `lab tune`.") from None


def power_of_two(value: float) -> int:
    """The power of two nearest to `value` by ratio, at least 1."""
    return int(2 ** max(0, round(math.log2(value))))


def _steps(model: ModelConfig, tokens: float, batch: int) -> int:
    per_step = batch * model.context
    steps = round(tokens / per_step)
    if steps < 1:
        raise LabError(f"{tokens:g} tokens are less than one step of {per_step}.", "Give more tokens.")
    return steps


def _notes(name: str, problems: list[str], extrapolate: bool) -> tuple[str, ...]:
    if problems and not extrapolate:
        raise LabError(
            f"The recipe {name} says nothing of this run: {'; '.join(problems)}.",
            "Fit a rule of your own with `lab tune`, or say --extrapolate to use it all the same.",
        )
    return tuple(f"Recipe {name} outside its range: {problem}." for problem in problems)
