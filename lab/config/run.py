"""One run: its model, its optimiser, what it reads and where it starts."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, Literal

from lab.config.identity import canonical, fingerprint
from lab.config.text import Component, LanguageIds, LayoutConfig, MixtureConfig, Source, Stage
from lab.errors import LabError

Family = Literal["gpt2", "llama"]
ScheduleName = Literal["cosine", "wsd", "constant"]
Carry = Literal["weights", "moments", "state"]
Kept = Literal["weights", "state"]
Extension = Literal["mean", "composition", "random"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of one decoder.

    `gpt2` is the family of arXiv:2404.07982 (learned positions, LayerNorm, GELU, biases, untied head, embeddings
    times sqrt(d)); `llama` that of arXiv:2407.02118 (rotary positions, RMSNorm, SwiGLU, no biases, untied head).
    Query, key and value are `n_heads * head_dim` wide, which may differ from `d_model`.

    `base_width` None is the standard parametrisation. A number makes it muP (arXiv:2203.03466), in which the best
    learning rate found at that width stays the best at others of the same depth: see `lab.model` and `lab.optim`.
    """

    family: Family
    d_model: int
    n_layers: int
    n_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    context: int
    base_width: int | None = None

    @property
    def width_ratio(self) -> float:
        """Width over base width, by which muP scales: 1 in the standard parametrisation."""
        return 1.0 if self.base_width is None else self.d_model / self.base_width

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise LabError(f"A model needs {field.name} of at least 1, not {value}.")
        if self.family not in typing.get_args(Family):
            raise LabError(f"Unknown model family {self.family!r}.", f"Known: {typing.get_args(Family)}.")
        if self.family == "llama" and self.head_dim % 2:
            raise LabError(f"Rotary positions need an even head_dim, not {self.head_dim}.")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning-rate schedule. `warmup` and `cooldown` are shares of the run; `final_lr` a share of
    `peak_lr`; `clip` the largest global gradient norm, or None."""

    peak_lr: float
    schedule: ScheduleName = "cosine"
    warmup: float = 0.02
    cooldown: float = 0.2
    final_lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.schedule not in typing.get_args(ScheduleName):
            raise LabError(f"Unknown schedule {self.schedule!r}.", f"Known: {typing.get_args(ScheduleName)}.")
        if not self.peak_lr > 0:
            raise LabError(f"The peak learning rate must be above 0, not {self.peak_lr}.")
        if not (0 <= self.warmup < 1 and 0 <= self.cooldown <= 1):
            raise LabError(f"Warm-up {self.warmup} and cooldown {self.cooldown} are shares of the run in [0, 1).")


@dataclasses.dataclass(frozen=True)
class Parent:
    """Where a run starts that does not start from random parameters.

    Attributes:
      run_id: the parent's identity.
      step: how many updates the parent had made.
      carry: `weights` takes the parameters and starts everything else afresh (continual pre-training: step 0, new
        moments, re-warmed rate). `moments` takes Adam's moments, too: with no warm-up and the parent's rate, the
        schedule goes on, on other text. `state` goes on from the parent's step with its moments, on the examples that
        come next (a cooldown branch of a trunk).
      extension: where the vocabulary is larger than the parent's, how the new rows begin (`lab.extension`).
    """

    run_id: str
    step: int
    carry: Carry
    extension: Extension | None = None

    @property
    def needs(self) -> Kept:
        """What the parent must have kept."""
        return "weights" if self.carry == "weights" else "state"

    def __post_init__(self) -> None:
        if self.carry not in typing.get_args(Carry):
            raise LabError(f"A run cannot carry {self.carry!r} from its parent.", f"Known: {typing.get_args(Carry)}.")
        if self.step < 1:
            raise LabError(f"A run starts from its parent's step 1 or later, not {self.step}.")
        if self.extension not in (None, *typing.get_args(Extension)):
            raise LabError(f"Unknown extension {self.extension!r}.", f"Known: {typing.get_args(Extension)}.")
        if self.extension and self.carry != "weights":
            raise LabError(f"New pieces have no {self.carry} to carry on.", "Extend a vocabulary with carry='weights'.")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run. Its fingerprint is its identity.

    Attributes:
      steps: optimiser updates counted from the start of the trajectory; tokens seen = steps * batch * context.
      batch: sequences a step, each of `model.context` tokens.
      seed_init: seed of the parameters.
      seed_data: seed of the order of the examples.
      parent: the run whose checkpoint this one starts from; None starts from random parameters.
    """

    model: ModelConfig
    optim: OptimConfig
    mixture: MixtureConfig
    steps: int
    batch: int
    seed_init: int = 0
    seed_data: int = 0
    parent: Parent | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise LabError(f"A run needs steps and batch of at least 1, not {self.steps} and {self.batch}.")
        if self.first_step >= self.steps:
            raise LabError(f"A branch of {self.steps} steps cannot start at its trunk's step {self.first_step}.")

    @functools.cached_property
    def run_id(self) -> str:
        return fingerprint(self)

    @property
    def first_step(self) -> int:
        """Updates that were made before this run began: those of its trunk, if it is a branch."""
        return self.parent.step if self.parent and self.parent.carry == "state" else 0

    def at(self, share: float) -> int:
        """Updates made after a share of the run, in (0, 1]; at least one."""
        return max(self.first_step + 1, self.first_step + round(share * (self.steps - self.first_step)))

    @property
    def tokens_seen(self) -> int:
        return self.steps * self.batch * self.model.context


def to_json(value: Any) -> dict[str, Any]:
    """The canonical form of a config, for `config.json`."""
    form = canonical(value)
    assert isinstance(form, dict)
    return form


def from_json(form: dict[str, Any]) -> Any:
    """Rebuilds the config that `to_json` wrote.

    Raises:
      LabError: when the form names an unknown type or field.
    """
    types = (
        ModelConfig,
        OptimConfig,
        Source,
        Component,
        Stage,
        LanguageIds,
        LayoutConfig,
        MixtureConfig,
        Parent,
        RunConfig,
    )
    kinds = {c.__name__: c for c in types}

    def build(node: Any) -> Any:
        if isinstance(node, list):
            return tuple(build(v) for v in node)
        if isinstance(node, dict):
            fields = dict(node)
            name = fields.pop("type", None)
            if name not in kinds:
                raise LabError(f"The config names an unknown type {name!r}.", "Was it written by another version?")
            known = {f.name for f in dataclasses.fields(kinds[name])}
            if unknown := sorted(fields.keys() - known):
                raise LabError(
                    f"The config's {name} has unknown fields {unknown}.", "Was it written by another version?"
                )
            return kinds[name](**{k: build(v) for k, v in fields.items()})
        return node

    return build(form)
