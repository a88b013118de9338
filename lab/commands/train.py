"""`lab train`: one run on any text, from corpus to losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.config import MixtureConfig, RunConfig
    from lab.data.prepare import Prepared
    from lab.recipes import Setup

Vocabulary = Literal["disjoint", "merged", "joint"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one model on one corpus or a mixture, and report its loss in every language.

    Example: lab train text:novels.txt.xz --model nano-4 --tokens 2M
    Stopped or killed, the same command goes on from the last checkpoint.
    """

    corpora: tyro.conf.Positional[tuple[str, ...]]
    """Corpora by name: embedded:en, text:FILE-or-FOLDER, tfds:NAME (see `lab data list`)."""
    model: str = "nano-4"
    """Shape: nano-2 ... nano-10, nano-LxD (L layers, width D), languini-mini|small|medium, or cpt-49 ... cpt-5534."""
    tokens: str = "1M"
    """Training tokens, e.g. 300k, 1.2M, 2B."""
    shares: tuple[float, ...] = ()
    """Share of each corpus (and then of each clone); equal by default. They sum to 1."""
    vocab: int = 1024
    """Pieces of each corpus's vocabulary (of the one vocabulary, if joint)."""
    vocabulary: Vocabulary = "merged"
    """How several languages share ids: not at all, by identical pieces, or by one joint tokenizer."""
    clones: int = 0
    """Clones of the first corpus: the same text in ids of their own."""
    context: int = 128
    """Tokens a sequence."""
    batch: int | None = None
    """Sequences a step; 8 by default, or what the recipe says."""
    recipe: str | None = None
    """Takes rate, schedule, decay and batch from a recipe: languini, cpt, bilingual, step-law, nano, or a rates.json
    that `lab tune` wrote."""
    extrapolate: bool = False
    """Use the recipe outside the sizes and tokens it was fitted on."""
    lr: float = 4e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Learning-rate schedule."""
    warmup: float = 0.1
    """Share of the run in which the rate rises."""
    weight_decay: float = 0.0
    """AdamW's decay."""
    clip: float | None = None
    """Largest gradient norm; not clipped by default."""
    seed: int = 0
    """Seed of the parameters and of the order of examples."""
    data: int = 1
    """Devices that share each batch."""
    fsdp: int = 1
    """Devices that share each batch and hold a part of the parameters each."""
    tensor: int = 1
    """Devices that share each matrix."""
    coordinator: str | None = None
    """Where several processes train the run together, which also share --root: HOST:PORT of the first, or `auto` for
    what JAX finds by itself. The tasks of one `srun` need none of these."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which of them this is, from 0."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Mirror the run to TensorBoard (<root>/tensorboard) or, offline, to Weights & Biases (<root>/wandb)."""
    root: Path = Path("out")
    """Folder for everything the laboratory writes."""

    def run(self) -> int:
        if not self.corpora:
            raise LabError("Name at least one corpus to train on.", "For example: lab train embedded:en")
        from lab import distributed

        if self.coordinator or distributed.expected() > 1:
            self._join()
        from lab.data.prepare import prepare

        prepared = distributed.leader_first(
            lambda: prepare(self.corpora, self.vocab, self.vocabulary == "joint", self.root)
        )
        return self._train(self.config(prepared))

    def _join(self) -> None:
        """Joins the processes that train the run together.

        Raises:
          LabError: when they do not find each other, or hold another number of devices than the options ask for.
        """
        from lab import distributed
        from lab.devices import prepare_process

        share = self.data * self.fsdp * self.tensor
        prepare_process(host_devices=max(1, share // distributed.expected(self.processes)), collectives=True)
        processes = distributed.join(self.coordinator, self.processes, self.process)
        import jax

        if share != jax.device_count():
            raise LabError(
                f"{processes} processes hold {jax.device_count()} devices together; the run is to use {share}.",
                "Let --data times --fsdp times --tensor be their number.",
            )

    def config(self, prepared: Prepared) -> RunConfig:
        """The run that these arguments describe."""
        from lab.config import RunConfig

        mixture = self._mixture(prepared)
        setup = self._setup(prepared.layout(mixture.layout).v_total)
        for note in setup.notes:
            print(note)
        return RunConfig(
            model=setup.model,
            optim=setup.optim,
            mixture=mixture,
            steps=setup.steps,
            batch=setup.batch,
            seed_init=self.seed,
            seed_data=self.seed,
        )

    def _setup(self, vocab: int) -> Setup:
        """Shape, optimiser, batch and steps: from the recipe, or from the options that a recipe replaces."""
        from lab.config import OptimConfig
        from lab.presets import preset
        from lab.recipes import plain, recipe

        model = preset(self.model, vocab=vocab, context=self.context)
        tokens = parse_count(self.tokens)
        if self.recipe is None:
            optim = OptimConfig(
                self.lr, self.schedule, warmup=self.warmup, weight_decay=self.weight_decay, clip=self.clip
            )
            return plain(model, optim, tokens, 8 if self.batch is None else self.batch)
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        own = [
            name
            for name in ("lr", "schedule", "warmup", "weight_decay", "clip")
            if getattr(self, name) != defaults[name]
        ]
        if own:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in own)
            raise LabError(f"The recipe {self.recipe} sets {options} itself.", "Leave out one or the other.")
        return recipe(self.recipe, self.extrapolate).setup(model, tokens, self.batch)

    def _train(self, config: RunConfig) -> int:
        from rich.console import Console
        from rich.table import Table

        from lab import distributed
        from lab.records import RunDir

        console, root = Console(quiet=not distributed.leads()), self.root
        files = RunDir(root, config.run_id)
        result = distributed.from_leader(files.result)
        if result is None:
            if distributed.alone():
                from lab.devices import prepare_process

                share = self.data * self.fsdp * self.tensor
                prepare_process(host_devices=share, collectives=share > 1)
            from lab.trackers import mirrored
            from lab.train import Execution, Stopped, enable_compilation_cache, train

            enable_compilation_cache(root)
            console.print(f"Run {config.run_id}: {config.steps:,} steps, {config.tokens_seen:,} tokens.")
            try:
                with _Bar(config, console) as bar:
                    execution = Execution(root, slots=1, data=self.data, fsdp=self.fsdp, model=self.tensor)
                    with mirrored(bar, root, self.track if distributed.leads() else ()) as observer:
                        train([config], execution, observer)
            except Stopped:
                console.print("Stopped; everything is saved. Run the same command again to go on.")
                return 143
            result = distributed.from_leader(files.result)
            assert result is not None
        if result["run"]["status"] == "diverged":
            raise LabError(f"Run {config.run_id} {result['run']['exclusion']}.", "Lower --lr, or set --clip 1.")
        table = Table(title=f"{root / 'runs' / config.run_id}")
        for heading in ("language", "tokens", "nats per token", "bits per byte", "perplexity"):
            table.add_column(heading, justify="left" if heading == "language" else "right")
        for e in result["evaluations"]:
            table.add_row(
                e["language"],
                f"{e['tokens_language']:,}",
                f"{e['loss']:.4f}",
                f"{e['bits_per_byte']:.4f}",
                f"{e['ppl']:.2f}",
            )
        console.print(table)
        return 0

    def _mixture(self, prepared: Prepared) -> MixtureConfig:
        from lab.config import Component, LanguageIds, LayoutConfig, MixtureConfig, Sharing, Stage

        names = language_names(self.corpora)
        sharing: dict[Vocabulary, Sharing] = {"disjoint": "own", "merged": "pieces", "joint": "same"}
        entries, components = [], []
        for i, (corpus, name) in enumerate(zip(self.corpora, names, strict=True)):
            how: Sharing = "own" if i == 0 else sharing[self.vocabulary]
            entries.append(LanguageIds(name, prepared.tokenizer(corpus).hash, how))
            components.append(Component(name, prepared.source(corpus)))
        for k in range(1, self.clones + 1):
            entries.append(LanguageIds(f"{names[0]}#{k}", entries[0].tokenizer))
            components.append(Component(f"{names[0]}#{k}", components[0].source))
        shares = self.shares or tuple(1 / len(components) for _ in components)
        return MixtureConfig(tuple(components), LayoutConfig(tuple(entries)), (Stage(1.0, shares),))


def language_names(corpora: tuple[str, ...]) -> list[str]:
    """A short, unique name of each corpus: its language where it has one, else the corpus's own name."""
    from lab.data.corpora import open_corpus

    names: list[str] = []
    for spec in corpora:
        corpus = open_corpus(spec)
        file = corpus.name.partition(":")[2].partition("?")[0]
        name = corpus.language if corpus.language != "und" else file.partition(".")[0]
        if name in names:
            name = f"{name}-{names.count(name) + 1}"
        names.append(name)
    return names


def parse_count(text: str) -> float:
    """A number with an optional k, M, B or T: 300k is 300,000."""
    scale = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
    digits, factor = (text[:-1], scale[text[-1]]) if text and text[-1] in scale else (text, 1.0)
    try:
        value = float(digits) * factor
    except ValueError:
        raise LabError(f"{text!r} is not a number of tokens.", "Write 300k, 1.2M or 2B.") from None
    if not value > 0:
        raise LabError(f"The number of tokens must be above 0, not {text}.")
    return value


class _Bar:
    """A progress bar that the trainer reports to."""

    def __init__(self, config: RunConfig, console: Any):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        self._task = self._progress.add_task("training", total=config.steps)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, run_id: str, steps_done: int, loss: float) -> None:
        self._progress.update(self._task, completed=steps_done, description=f"loss {loss:.3f}")

    def finished(self, run_id: str, result: Mapping[str, Any]) -> None:
        self._progress.update(self._task, description="done")
