"""Claims of a paper as tests that are fixed before their runs, and the ledger of their verdicts.

    from analysis.claims.gather import gather
    from analysis.claims.ledger import ledger

    for entry in ledger(claims, gather(table, claims)):     # a frame of lab.table rows
        print(entry.claim.id, entry.verdict, entry.reason)

What a study needs to state its claims is here and costs nothing to import.
"""

from analysis.claims.bits import LnBits as LnBits
from analysis.claims.bits import LnBitsAtFlops as LnBitsAtFlops
from analysis.claims.composed import Combination as Combination
from analysis.claims.composed import Correlation as Correlation
from analysis.claims.composed import Largest as Largest
from analysis.claims.composed import LnShareAtOne as LnShareAtOne
from analysis.claims.composed import LnShareAtZero as LnShareAtZero
from analysis.claims.composed import difference as difference
from analysis.claims.estimands import Claim as Claim
from analysis.claims.estimands import LnLoss as LnLoss
from analysis.claims.estimands import LnPPL as LnPPL
from analysis.claims.estimands import LnTEff as LnTEff
from analysis.claims.estimands import LnWorth as LnWorth
from analysis.claims.estimands import ProbeValue as ProbeValue
from analysis.claims.estimands import Side as Side
from analysis.claims.estimands import Statistic as Statistic
