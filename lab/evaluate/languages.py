"""The loss of a trained run in every language of its mixture, as table columns."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lab import distributed
from lab.config import RunConfig
from lab.data.evalset import EvalSet
from lab.evaluate.perplexity import Score, plain, score, sliding, target_nats
from lab.rundata import RunData
from lab.sharding import state_shardings
from lab.step import Program, eval_nats

WINDOWS_PER_DEVICE = 32


def evaluate(program: Program, params_1: Any, run: RunConfig, data: RunData, steps_done: int) -> list[dict[str, Any]]:
    """One entry a language of the mixture: what it read and how well it is predicted.

    Args:
      program: the compiled shape and its mesh; the windows are spread over the mesh's run axis.
      params_1: the run's parameters, with a leading axis of 1; None for a run that has none worth measuring.
      run: its config.
      data: its text.
      steps_done: updates made, for what was read.
    """
    realised = data.stream.realised(steps_done)
    copies = program.mesh.shape["run"]
    params_R = params_1
    if params_1 is not None:
        if copies > 1:
            params_R = jax.tree.map(lambda x: np.broadcast_to(x, (copies, *x.shape[1:])), params_1)
        params_R = jax.device_put(params_R, state_shardings(program.mesh, params_R))  # once, not with every call

    def nats(tokens_BxW: np.ndarray, targets_BxS: np.ndarray) -> jax.Array:
        tokens_RxBxW, targets_RxBxS = (a.reshape(copies, -1, a.shape[1]) for a in (tokens_BxW, targets_BxS))
        return distributed.whole(eval_nats(program, params_R, tokens_RxBxW, targets_RxBxS))

    entries = []
    for component in run.mixture.components:
        language = component.language
        tokenizer = data.layout.tokenizers[language]
        evalset = data.evaluation[component.source]
        window = sliding(run.model.context)
        entry: dict[str, Any] = {
            "language": language,
            "v_language": tokenizer.vocab_size,
            "tokenizer_hash": tokenizer.hash,
            "tokens_language": realised.tokens[language],
            "unique_tokens": realised.unique_tokens[language],
            "epochs": realised.epochs[language],
            "eval_hash": evalset.hash,
            "ppl_window": window.window,
            "ppl_stride": window.stride,
            **dict.fromkeys(_MEASURED),
        }
        if params_R is not None:
            stream = evalset.mapped(data.layout.table(language))
            batch = WINDOWS_PER_DEVICE * copies
            whole_n = target_nats(nats, stream, plain(run.model.context), batch)
            whole = _score(evalset, whole_n)
            entry |= {
                "eval_tokens": whole.tokens,
                "eval_bytes": whole.bytes,
                "loss": whole.loss,
                "bits_per_byte": whole.bits_per_byte,
                "document_nats": list(whole.document_nats),
                "document_tokens": list(whole.document_tokens),
                "ppl": _score(evalset, target_nats(nats, stream, window, batch, whole_n)).ppl,
            }
        entries.append(entry)
    return entries


_MEASURED = ("eval_tokens", "eval_bytes", "loss", "bits_per_byte", "document_nats", "document_tokens", "ppl")


def _score(evalset: EvalSet, nats_n: np.ndarray) -> Score:
    document_n = np.searchsorted(evalset.offsets, np.arange(1, len(nats_n) + 1), side="right") - 1
    return score(nats_n, evalset.bytes[1:], document_n, evalset.n_documents)
