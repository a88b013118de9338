"""The claims of arXiv:2404.07982 about language imbalance, as tests: fixed here before the runs they are tested on.

T1 to T8 are the paper's takeaways in the order of its sections, in our words: the printed boxes were not at hand when
this was written, so the numbering is inferred from its sections, tables and figures. The letters are its directions:

    a  two equal clones: TEff below 1, and falling with tokens        T1, a2
    b  the rarer the clone, the higher its TEff; 1 near .2 to .3      T3, b2 to b4
    c  TEff of a clone at 10 % is 2 or more; more for larger models   T2, c2, c3
    d  ten languages: TEff above 1, more so with a dominant one       d1, d2
    e  90 -> 10 beats 50/50 without other data; 100 -> 0 forgets      T6, e2 to e5
    f  anchors help, a few of them most of the way                    f1 to f3
    g  hidden states are more alike under imbalance                   T4, g2, g3
    h  and so are gradients, of clones only                           h1, h2
    i  a real language gains at T, no more at 3 T; anchors help       T7, i2, i3

T5 is that imbalance pays more with longer training, T8 that it does not make two real languages more alike. Beyond the
paper: n1 and n2, what a partner without structure gives; p1, whether it matters that clones read different texts; s1,
whether larger models let a clone gain up to a larger share; k1, whether likeness early in training foretells TEff.
Natural logarithms throughout: .10 is a tenth.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from analysis.claims import (
    Claim,
    Combination,
    Correlation,
    LnPPL,
    LnShareAtOne,
    LnTEff,
    ProbeValue,
    Side,
    Statistic,
    difference,
)

if TYPE_CHECKING:
    from sweeps.imbalance import Imbalance

PAPER = "arXiv:2404.07982"
OURS = "not in the paper"
TENTH = 0.10
# The takeaways that must be decided by three seeds or more.
SEEDS = 3
SIDE_LADDER = (0.05, 0.1, 0.25, 0.5, 1.0)
# Between which the share is read at which TEff is 1.
FINE_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
DISJOINT, MERGED = "disjoint", "merged"
PARALLEL, SHUFFLED = "parallel text", "shuffled partner"
# The share of the run after which likeness may foretell TEff.
EARLY = 0.1


@dataclasses.dataclass(frozen=True)
class _Arms:
    """The arms of one scale by what they are: size 0 is the main one, 1 the smaller, 2 the larger."""

    scale: Imbalance

    def name(self, what: str, times: float = 1.0, size: int = 0) -> str:
        return f"{what}, {times:g} T, {self.scale.sizes[size]}"

    def teff(self, what: str, language: str, times: float = 1.0, size: int = 0) -> LnTEff:
        """ln TEff of a language, against all budgets of it alone up to the arm's own."""
        alone = "l2" if language == "l2" else "l1"
        budgets = SIDE_LADDER if size else (*self.scale.ladder, *(t for t in (2.0, 3.0, 4.0) if t <= times))
        return LnTEff(self.name(what, times, size), language, tuple(self.name(alone, t, size) for t in budgets))

    def equal(self, times: float = 1.0) -> Statistic:
        """Two equal clones, the mean of both, between which nothing differs but their names."""
        return mean(*(self.teff("clone 50 %", language, times) for language in ("l1", "clone1")))

    def ppl(self, what: str, language: str, times: float = 1.0) -> LnPPL:
        return LnPPL(self.name(what, times), language)

    def probe(self, what: str, probe: str, language: str, place: str, at: float = 1.0) -> ProbeValue:
        return ProbeValue(self.name(what), probe, language, place, at=at)

    def share_at_one(self, size: int = 0) -> LnShareAtOne:
        """ln of the share up to which a clone gains."""
        return LnShareAtOne(tuple(self.teff(f"clone {100 * p:g} %", "clone1", size=size) for p in FINE_SHARES))


def mean(*statistics: Statistic) -> Combination:
    return Combination(tuple((1 / len(statistics), one) for one in statistics))


def claims(scale: Imbalance) -> tuple[Claim, ...]:
    """The ledger's claims at `scale`, in its order."""
    arms = _Arms(scale)
    parts = (_clones, _languages, _schedules, _anchors, _alignment, _real, _beyond)
    return tuple(claim for part in parts for claim in part(arms))


def _claim(
    id: str, text: str, where: str | None, estimand: Statistic, side: Side, delta: float = TENTH, *, seeds: int = 1,
    against: float = 0.0,
) -> Claim:  # fmt: skip
    return Claim(id, text, f"{PAPER}, {where}" if where else OURS, estimand, side, delta, seeds, against)


def _clones(arms: _Arms) -> tuple[Claim, ...]:
    tenth, twentieth = arms.teff("clone 10 %", "clone1"), arms.teff("clone 5 %", "clone1")
    balanced = arms.teff("clone 50 %", "clone1")
    longer = arms.teff("clone 10 %", "clone1", 2)
    larger = arms.teff("clone 10 %", "clone1", size=2)
    return (
        _claim("T1", "Two languages in equal shares do not help each other: TEff at 50/50 is below 1 (a).",
               "Table 1, row 4", arms.equal(), "below", seeds=SEEDS),
        _claim("a2", "TEff at 50/50 falls with tokens: lower at 2 T than at T (a).",
               "Table 1, rows 4 and 10", difference(arms.equal(2), arms.equal()), "below"),
        _claim("T2", "A dominant language helps the rarer: TEff of a clone at 10 % is above 1 (c).",
               "Table 1, row 5", tenth, "above", seeds=SEEDS),
        _claim("c2", "TEff of a clone at 10 % is 2 or more (c).",
               "Table 1, row 5", tenth, "above", against=math.log(2)),
        _claim("c3", "TEff of a clone at 10 % is higher for the larger model (c).",
               "Figure 2", difference(larger, tenth), "above"),
        _claim("T3", "The rarer, the more it gains: TEff of a clone is higher at 10 % than at 50 % (b).",
               "Figure 1", difference(tenth, balanced), "above", seeds=SEEDS),
        _claim("b2", "TEff of a clone is higher still at 5 % (b).",
               "Figure 1", difference(twentieth, tenth), "above"),
        _claim("b3", "TEff of a clone has crossed 1 at 40 % (b).",
               "Figure 1", arms.teff("clone 40 %", "clone1"), "below"),
        _claim("b4", "A clone gains up to a share of about a quarter: TEff is 1 between 17 and 37 % (b).",
               "Figure 1", arms.share_at_one(), "about zero", 0.4, against=math.log(0.25)),
        _claim("T5", "Imbalance pays more with longer training: TEff of a clone at 10 % is higher at 2 T than at T.",
               "Figure 2", difference(longer, tenth), "above", seeds=SEEDS),
    )  # fmt: skip


def _languages(arms: _Arms) -> tuple[Claim, ...]:
    balanced = arms.teff("9 clones, 10 % each", "clone1")
    led = arms.teff("9 clones, 50 % together", "clone1")
    return (
        _claim("d1", "Ten equal languages do help each other: TEff is above 1 (d).",
               "Table 1, row 6", mean(arms.teff("9 clones, 10 % each", "l1"), balanced), "above"),
        _claim("d2", "With a dominant language among ten, the rare ones gain more than among equals (d).",
               "Table 1, rows 6 and 7", difference(led, balanced), "above"),
    )  # fmt: skip


def _schedules(arms: _Arms) -> tuple[Claim, ...]:
    turned = "clone 10 % -> 90 %"

    def gain(language: str, times: float) -> Combination:
        return difference(arms.ppl(turned, language, times), arms.ppl("clone 50 %", language, times))

    smallest = min(arms.scale.ladder)
    forgotten = difference(arms.ppl("clone 0 % -> 100 %", "l1"), arms.ppl("l1", "l1", smallest))
    return (
        _claim("T6", "A turn of 90/10 to 10/90 beats 50/50 in the clone, on the same data (e).",
               "Table 1, rows 4 and 9", gain("clone1", 1), "below", 0.03),
        _claim("e2", "The turn costs the first language little at T: perplexity within 5 % (e).",
               "Table 1, rows 4 and 9", gain("l1", 1), "about zero", 0.05),
        _claim("e3", "At 2 T the turn beats 50/50 in the first language as well (e).",
               "Table 1, rows 10 and 11", gain("l1", 2), "below", 0.03),
        _claim("e4", "At 2 T the turn beats 50/50 in the clone (e).",
               "Table 1, rows 10 and 11", gain("clone1", 2), "below", 0.03),
        _claim("e5", f"A turn of 100/0 to 0/100 forgets the first language: worse than {smallest:g} T of it (e).",
               "Table 1, row 8", forgotten, "above", 1.0),
    )  # fmt: skip


def _anchors(arms: _Arms) -> tuple[Claim, ...]:
    none, few = arms.ppl("clone 50 %", "l1"), arms.ppl("clone 50 %, 5 % anchored", "l1")
    quarter, all_of_them = arms.ppl("clone 50 %, 25 % anchored", "l1"), arms.ppl("l1", "l1")
    half_way = Combination(((0.5, none), (-1.0, few), (0.5, all_of_them)))
    return (
        _claim("f1", "Anchoring 5 % of a 50/50 pair's pieces lowers perplexity (f).",
               "Figure 8", difference(few, none), "below", 0.03),
        _claim("f2", "5 % of anchors give more than half of what all of them give (f).",
               "Figure 8", half_way, "above", 0.02),
        _claim("f3", "25 % of anchors give more than 5 % (f).",
               "Figure 8", difference(quarter, few), "below", 0.01),
    )  # fmt: skip


def _alignment(arms: _Arms) -> tuple[Claim, ...]:
    def likeness(what: str, place: str) -> ProbeValue:
        return arms.probe(what, "hidden state", "clone1", place)

    led, balanced = (likeness(what, "layers") for what in ("clone 10 %", "clone 50 %"))
    last_led, last_balanced = (likeness(what, "last layer") for what in ("clone 10 %", "clone 50 %"))

    def gradients(what: str, language: str) -> ProbeValue:
        return arms.probe(what, "gradient", language, "all")

    clones = difference(gradients("clone 10 %", "clone1"), gradients("clone 50 %", "clone1"))
    real = difference(gradients(f"l2 10 %, {MERGED}", "l2"), gradients(f"l2 50 %, {MERGED}", "l2"))
    return (
        _claim("T4", "Imbalance aligns the clones: hidden states are more alike at 90/10 than at 50/50 (g).",
               "Table 2", difference(led, balanced), "above", 0.05),
        _claim("g2", "They are more alike in the last layer, too (g).",
               "Table 2", difference(last_led, last_balanced), "above", 0.05),
        _claim("g3", "At 90/10 the last layer is less alike than the layers' mean (g).",
               "Table 2", difference(last_led, led), "below", 0.05),
        _claim("h1", "The clones' gradients are more alike at 90/10 than at 50/50 (h).",
               "Figure 11", clones, "above", 0.1),
        _claim("h2", "Those of two real languages are not (h).",
               "Figure 12", real, "about zero", 0.1),
    )  # fmt: skip


def _real(arms: _Arms) -> tuple[Claim, ...]:
    merged = arms.teff(f"l2 10 %, {MERGED}", "l2")

    def likeness(share: str) -> ProbeValue:
        return arms.probe(f"l2 {share}, {MERGED}", "hidden state", "l2", "layers")

    return (
        _claim("T7", "A real language at 10 % gains from another one: TEff is above 1 at T (i).",
               "Table 3, row 12", merged, "above"),
        _claim("i2", "At 3 T it gains no more: TEff is below 1 (i).",
               "Figure 4", arms.teff(f"l2 10 %, {MERGED}", "l2", 3), "below"),
        _claim("i3", "It gains more where the two share the pieces they have in common (i).",
               "Table 3, rows 8 and 12", difference(merged, arms.teff(f"l2 10 %, {DISJOINT}", "l2")), "above"),
        _claim("T8", "Imbalance does not make two real languages more alike: hidden states at 90/10 and 50/50.",
               "Table 4 of the notebook", difference(likeness("10 %"), likeness("50 %")), "about zero", 0.05),
    )  # fmt: skip


def _beyond(arms: _Arms) -> tuple[Claim, ...]:
    tenth, null = (arms.teff(what, "clone1") for what in ("clone 10 %", f"clone 10 %, {SHUFFLED}"))
    parallel = arms.teff(f"clone 10 %, {PARALLEL}", "clone1")
    foretold = tuple(
        (arms.probe(what, "hidden state", "clone1", "layers", EARLY), arms.teff(what, "clone1"))
        for what in (f"clone {100 * p:g} %" for p in FINE_SHARES)
    )
    return (
        _claim("n1", "A clone at 10 % gains from its partner's language, not from more steps: TEff is higher than "
               "beside shuffled tokens.", None, difference(tenth, null), "above"),
        _claim("n2", "Beside shuffled tokens a clone at 10 % gains nothing: TEff is 1.", None, null, "about zero"),
        _claim("p1", "It does not matter to a clone at 10 % whether its partner reads the same texts: TEff is equal.",
               None, difference(parallel, tenth), "about zero"),
        _claim("s1", "The larger model lets a clone gain up to a larger share than the smaller one.",
               None, difference(arms.share_at_one(2), arms.share_at_one(1)), "above"),
        _claim("k1", "Likeness of hidden states after a tenth of training foretells TEff at its end: they correlate by "
               "more than .5 over shares.", None, Correlation(foretold), "above", 0.2, against=math.atanh(0.5)),
    )  # fmt: skip
