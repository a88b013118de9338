"""Fine-tuning a decoder in one language, and scoring it in that language and, zero-shot, in another.

    examples = encode(task, layout, "l1", setting, context)    # and "clone1": the same texts in its ids
    tuned    = finetune(cfg, params, examples.train, ..., seed)
    scores   = score(predict(cfg, tuned, examples.evaluation.tokens), examples.evaluation.labels, task.classes)

By the protocol of arXiv:2404.07982 (`finetune_task.sh`): texts padded on the right, each segment with its end of
document, a linear classifier with dropout .1 on the last position (as a rule a padding) of the last block's output,
all parameters trained. What differs, so that a small machine can do it: at most 8,000 examples and 3 epochs instead of
10; a third of the rate of pre-training instead of a twelfth (5e-5 of 6e-4), which is meant for thousands of updates and
not for a few hundred; no early stopping, which picks a model by the very examples it is scored on; and sequences as
short as the task's longest text allows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab import model, optim
from lab.config import ModelConfig, OptimConfig
from lab.data.labelled import Labelled, Task
from lab.data.vocabulary import EOD, LanguageLayout
from lab.errors import LabError

RATE = 1 / 3  # of fine-tuning, in units of the peak rate of pre-training
CLASSIFIER = "classifier"


@dataclasses.dataclass(frozen=True)
class Setting:
    """How long, and on how much.

    Attributes:
      examples: at most so many are trained on, drawn once for all seeds; as many are scored.
      epochs: passes over them.
      batch: examples an update.
      length: tokens of a text at most; fewer where the context is shorter.
      dropout: of what the classifier sees.
    """

    examples: int = 8_000
    epochs: int = 3
    batch: int = 64
    length: int = 128
    dropout: float = 0.1


class Encoded(NamedTuple):
    """Examples as arrays: ids [n, length] int32 and classes [n] int32."""

    tokens: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples:
    """A task in the ids of one language.

    Attributes:
      train, evaluation: arrays of one length, the longest text's or the longest allowed.
      cut: share of all these texts that were longer than allowed.
    """

    train: Encoded
    evaluation: Encoded
    cut: float


class Scores(NamedTuple):
    """Of predictions; `f1` (of class 1) and `matthews` are NaN where there are more than two classes."""

    accuracy: float
    f1: float
    matthews: float


def encode(task: Task, layout: LanguageLayout, language: str, setting: Setting, context: int) -> Examples:
    """The task's texts in a language of the model: each segment, then an end of document, then padding.

    Raises:
      LabError: when the model has no such language.
    """
    most = min(setting.length, context)
    end = layout.table(language)[EOD : EOD + 1]

    def ids(one: Labelled) -> np.ndarray:
        return np.concatenate([part for text in one.segments for part in (layout.encode(language, text), end)])

    chosen = [_draw(part, setting.examples) for part in (task.train, task.evaluation)]
    texts = [[ids(one) for one in part] for part in chosen]
    lengths = [len(t) for part in texts for t in part]
    length = min(most, max(lengths))

    def arrays(part: list[np.ndarray], examples: list[Labelled]) -> Encoded:
        tokens = np.zeros((len(part), length), np.int32)
        for row, text in zip(tokens, part, strict=True):
            row[: len(text)] = text[:length]
        return Encoded(tokens, np.array([one.label for one in examples], np.int32))

    train, evaluation = (arrays(*both) for both in zip(texts, chosen, strict=True))
    return Examples(train, evaluation, float(np.mean([n > most for n in lengths])))


def _draw(examples: tuple[Labelled, ...], most: int) -> list[Labelled]:
    """All examples, or as many as allowed, always the same ones."""
    if len(examples) <= most:
        return list(examples)
    chosen = np.random.default_rng(0).permutation(len(examples))[:most]
    return [examples[i] for i in np.sort(chosen)]


def finetune(
    cfg: ModelConfig,
    params: Any,
    train: Encoded,
    classes: int,
    peak_lr: float,
    seed: int,
    setting: Setting = Setting(),
    tick: Callable[[], None] = lambda: None,
) -> Any:
    """Trains all of the decoder and a new classifier; returns the parameters, the classifier's among them.

    Args:
      cfg: shape of the decoder.
      params: of it; not changed.
      train: what is learned.
      classes: number of classes.
      peak_lr: of fine-tuning; it warms up over 6 % of the updates and falls as a cosine.
      seed: of the classifier, the order of the examples and dropout.
      setting: how long.
      tick: called after each epoch.

    Raises:
      LabError: when the loss is not finite.
    """
    key = jax.random.key(seed)
    bound = 1 / math.sqrt(cfg.d_model)
    kernel = jax.random.uniform(jax.random.fold_in(key, 0), (cfg.d_model, classes), minval=-bound, maxval=bound)
    copied = jax.tree.map(lambda x: jnp.array(x, copy=True), params)  # `_epoch` consumes what it is given
    tuned = {**copied, CLASSIFIER: {"kernel": kernel, "bias": jnp.zeros(classes)}}
    batch = min(setting.batch, len(train.labels))
    updates = len(train.labels) // batch
    hyper = optim.hyper_of(OptimConfig(peak_lr, warmup=0.06, final_lr=0.0, beta2=0.999), updates * setting.epochs)
    state = tuned, optim.adamw(hyper, 0.0, cfg.width_ratio).init(tuned), jnp.int32(0)
    rng = np.random.default_rng(seed)
    for epoch in range(setting.epochs):
        rows = rng.permutation(len(train.labels))[: updates * batch].reshape(updates, batch)
        batches = Encoded(train.tokens[rows], train.labels[rows])
        state, losses = _epoch(cfg, state, batches, hyper, jax.random.fold_in(key, 1 + epoch), setting.dropout)
        if not np.isfinite(losses).all():
            raise LabError(f"Fine-tuning diverged in epoch {epoch + 1} at rate {peak_lr:g}.", "Give a lower rate.")
        tick()
    return state[0]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _epoch(
    cfg: ModelConfig, state: Any, batches: Encoded, hyper: optim.Hyper, key: jax.Array, dropout: jax.Array
) -> Any:
    def update(state: Any, step_batch: Any) -> Any:
        (tuned, opt, step), (tokens_BxT, labels_B) = state, step_batch

        def loss_of(tuned: Any) -> jax.Array:
            h_BxD = _last(cfg, tuned, tokens_BxT)
            kept_BxD = jax.random.bernoulli(jax.random.fold_in(key, step), 1 - dropout, h_BxD.shape)
            logits_BxC = _classify(tuned, jnp.where(kept_BxD, h_BxD / (1 - dropout), 0.0))
            return optax.softmax_cross_entropy_with_integer_labels(logits_BxC, labels_B).mean()

        loss, grads = jax.value_and_grad(loss_of)(tuned)
        rate = optim.learning_rate(hyper, step + 1)
        updates, opt = optim.adamw(hyper, rate, cfg.width_ratio).update(grads, opt, tuned)
        return (optax.apply_updates(tuned, updates), opt, step + 1), loss

    return jax.lax.scan(update, state, batches)


def predict(cfg: ModelConfig, tuned: Any, tokens_NxT: np.ndarray, batch: int = 256) -> np.ndarray:
    """[N] the most likely class of each text."""
    n = len(tokens_NxT)
    filled = np.pad(tokens_NxT, [(0, -n % batch), (0, 0)])
    parts = [_predict(cfg, tuned, filled[i : i + batch]) for i in range(0, len(filled), batch)]
    return np.concatenate([np.asarray(part) for part in parts])[:n]


@functools.partial(jax.jit, static_argnums=0)
def _predict(cfg: ModelConfig, tuned: Any, tokens_BxT: jax.Array) -> jax.Array:
    return _classify(tuned, _last(cfg, tuned, tokens_BxT)).argmax(axis=-1)


def _last(cfg: ModelConfig, tuned: Any, tokens_BxT: jax.Array) -> jax.Array:
    """[B, D] float32: the last block's output at the last position."""
    params = {name: part for name, part in tuned.items() if name != CLASSIFIER}
    return model.residual(cfg, params, tokens_BxT, compute_dtype=jnp.float32)[-1, :, -1]


def _classify(tuned: Any, h_BxD: jax.Array) -> jax.Array:
    logits_BxC: jax.Array = h_BxD @ tuned[CLASSIFIER]["kernel"] + tuned[CLASSIFIER]["bias"]
    return logits_BxC


def majority(train: np.ndarray, n: int) -> np.ndarray:
    """[n] predictions of one who knows nothing but the training labels: always their most frequent class."""
    return np.full(n, np.bincount(train).argmax())


def score(predicted_n: np.ndarray, labels_n: np.ndarray, classes: int) -> Scores:
    """Accuracy, and for two classes F1 of class 1 and Matthews' correlation, 0 where one of them is not defined."""
    accuracy = float((predicted_n == labels_n).mean())
    if classes != 2:
        return Scores(accuracy, math.nan, math.nan)
    tp, fp, fn, tn = (int(((predicted_n == p) & (labels_n == t)).sum()) for p, t in ((1, 1), (1, 0), (0, 1), (0, 0)))
    f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return Scores(accuracy, f1, (tp * tn - fp * fn) / spread if spread else 0.0)
