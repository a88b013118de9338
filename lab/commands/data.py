"""`lab data list | prepare | show | distance`: corpora, their token stores, and how far they lie apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from lab.data.store import TokenStore


@dataclasses.dataclass(frozen=True)
class List:
    """List the corpora that can be prepared by name."""

    def run(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from lab.data.corpora import EMBEDDED, open_corpus
        from lab.errors import LabError

        table = Table("corpus", "language", "text", "parallel", "licence", "release")
        table.columns[0].no_wrap = True
        table.columns[-1].overflow = "fold"
        for name, entry in EMBEDDED.items():
            try:
                release = open_corpus(name).release
            except LabError as error:
                release = f"not installed: {error.mend}"
            table.add_row(name, entry.language, entry.title, entry.parallel, entry.licence, release)
        table.add_row("text:PATH", "", "your own files or folder: plain, .gz, .xz, .jsonl", "", "", "their hash")
        table.add_row("tfds:NAME", "", "any TensorFlow Datasets text set", "", "", "the set's version")
        table.add_row("seqio:NAME", "", "a seqio Task that your module registers", "", "", "the module's hash")
        changed = "any of these, its letters or word order changed (docs/derived.md)"
        table.add_row("derived:CORPUS", "", changed, "CORPUS's", "CORPUS's", "CORPUS's, and the change")
        Console().print(table)
        return 0


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Train tokenizers and write token stores; what already exists is kept."""

    corpora: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Corpora, such as embedded:en, 'text:novels.txt.xz?split=blank2' or tfds:my_set."""
    vocab: int = 1024
    """Pieces of each tokenizer."""
    joint: bool = False
    """Train one tokenizer over all the corpora instead of one for each."""
    tokenizer_from: tuple[str, ...] = ()
    """Train one tokenizer for all the corpora over these instead: over the one that a parent model was trained on."""
    root: Path = Path("out")
    """Folder of all results."""

    def run(self) -> int:
        from lab.data.prepare import prepare

        prepared = prepare(self.corpora, self.vocab, self.joint, self.root, self.tokenizer_from)
        _print_stores(list(prepared.stores.values()))
        return 0


@dataclasses.dataclass(frozen=True)
class Show:
    """Show prepared token stores: counts, hashes, licence, and a sample of text in its pieces."""

    corpora: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Corpora to show; without any, all that were prepared."""
    root: Path = Path("out")
    """Folder of all results."""
    sample: int = 40
    """Pieces of sample text for each store."""

    def run(self) -> int:
        from lab.data.corpora import open_corpus
        from lab.data.prepare import stores_under
        from lab.errors import LabError

        stores = stores_under(self.root)
        names = {open_corpus(spec).name for spec in self.corpora}
        if missing := sorted(names - {s.manifest.corpus for s in stores}):
            raise LabError(f"{missing[0]} is not prepared under {self.root}.", "Run `lab data prepare` on it.")
        chosen = [s for s in stores if not names or s.manifest.corpus in names]
        if not chosen:
            raise LabError(f"No token store lies under {self.root}.", "Run `lab data prepare embedded:en`.")
        _print_stores(chosen)
        for store in chosen:
            _print_sample(store, self.sample)
        return 0


@dataclasses.dataclass(frozen=True)
class Distance:
    """Measure how far target corpora lie from a source corpus in their tokens, preparing what is not.

    vocabulary is the Jaccard index of the pieces used, mass the token mass in common, known the share of the target's
    tokens in pieces that the source uses, JSD the Jensen-Shannon divergence of the unigram distributions in bits; all
    of training text. Halves of one corpus show what sampling alone does.

      lab data distance embedded:en embedded:enm
      lab data distance 'derived:embedded:en?half=a' 'derived:embedded:en?half=b&order=reverse' --tokenizer source
      lab data distance embedded:en embedded:en --renamed 0.5
    """

    source: tyro.conf.Positional[str]
    """The corpus to measure from."""
    targets: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Corpora to measure to."""
    vocab: int = 1024
    """Pieces of each tokenizer."""
    tokenizer: Literal["joint", "source", "own"] = "joint"
    """One tokenizer for each pair, trained over both; the source's for all; or one each, identical pieces being one."""
    renamed: float | None = None
    """Share of pieces that stand for others in the targets; not with --tokenizer own."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a list of JSON objects in place of a table."""
    root: Path = Path("out")
    """Folder of all results."""

    def run(self) -> int:
        import json

        from rich.console import Console
        from rich.table import Table

        from lab.errors import LabError

        if not self.targets:
            raise LabError("There is no corpus to measure to.", "Name it after the source.")
        rows = [self._row(target) for target in self.targets]
        if self.json:
            print(json.dumps(rows, indent=1))
            return 0
        table = Table("source", "target", "renamed", "vocabulary", "mass", "known", "JSD, bits", "tokens/byte")
        for column in table.columns[:2]:
            column.overflow = "fold"
        for row in rows:
            names = ("vocabulary_overlap", "mass_overlap", "known_tokens", "unigram_jsd", "tokens_per_byte")
            renamed = "" if row["renamed"] is None else f"{row['renamed']:g}"
            table.add_row(row["source"], row["target"], renamed, *(f"{row[name]:.4f}" for name in names))
        Console().print(table)
        return 0

    def _row(self, target: str) -> dict[str, Any]:
        from lab.config import LanguageIds, LayoutConfig
        from lab.data.prepare import prepare
        from lab.evaluate.distance import measure, token_counts

        tokenizer_from = (self.source,) if self.tokenizer == "source" else ()
        both = (self.source, target)
        prepared = prepare(both, self.vocab, self.tokenizer == "joint", self.root, tokenizer_from)
        first, second = (prepared.tokenizer(spec).hash for spec in both)
        ids = LanguageIds("target", second, "pieces" if self.tokenizer == "own" else "same", renamed=self.renamed)
        layout = prepared.layout(LayoutConfig((LanguageIds("source", first), ids)))
        stores = [prepared.store(spec) for spec in both]
        counts = [token_counts(s, layout, name) for s, name in zip(stores, layout.languages, strict=True)]
        text = stores[1].manifest.splits["train"]
        return {
            "source": stores[0].manifest.corpus,
            "target": stores[1].manifest.corpus,
            "vocab": self.vocab,
            "tokenizer": self.tokenizer,
            "renamed": self.renamed,
            **dataclasses.asdict(measure(*counts)),
            "tokens_per_byte": text.tokens / text.bytes,
        }


def _print_stores(stores: list[TokenStore]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lab.data.store import SPLITS

    table = Table("corpus", "split", "documents", "tokens", "bytes", "tokens/byte")
    table.columns[0].overflow = "fold"
    for column in table.columns[2:]:
        column.justify = "right"
    console = Console()
    for store in stores:
        for name, counts in store.manifest.splits.items():
            first, last = name == SPLITS[0], name == SPLITS[-1]
            ratio = f"{counts.tokens / counts.bytes:.4f}" if counts.bytes else "-"
            numbers = (f"{counts.documents:,}", f"{counts.tokens:,}", f"{counts.bytes:,}")
            table.add_row(store.manifest.corpus if first else "", name, *numbers, ratio, end_section=last)
    console.print(table)
    for store in stores:
        m = store.manifest
        console.print(Text(m.corpus, "bold"), Text(f"language {m.language}, release {m.release}, licence {m.licence}"))
        hashes = f"store {m.fingerprint}, text {m.text_hash}, tokenizer {m.tokenizer} of {m.vocab_size} pieces"
        console.print(Text(hashes), Text(f"in {store.folder}"), sep="\n")


def _print_sample(store: TokenStore, pieces: int) -> None:
    from rich.console import Console
    from rich.text import Text

    from lab.data.vocabulary import Tokenizer

    assert store.folder is not None
    tokenizer = Tokenizer.load(store.folder)
    ids = store.ids("train")[:pieces].tolist()
    line = Text()
    for n, i in enumerate(ids):
        line.append(tokenizer.pieces[i], "reverse" if n % 2 else "")
    console = Console()
    title = f"{store.manifest.corpus}, {store.keys('train')[0]}, V={tokenizer.vocab_size}"
    console.print(Text(title, "bold"), Text(tokenizer.decode(ids)), line, sep="\n")


COMMANDS: dict[str, type] = {"list": List, "prepare": Prepare, "show": Show, "distance": Distance}
