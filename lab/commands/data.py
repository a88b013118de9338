"""`lab data list | prepare | show`: corpora and their token stores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    root: Path = Path("out")
    """Folder of all results."""

    def run(self) -> int:
        from lab.data.prepare import prepare

        prepared = prepare(self.corpora, self.vocab, self.joint, self.root)
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


COMMANDS: dict[str, type] = {"list": List, "prepare": Prepare, "show": Show}
