"""Claims of a paper as tests that are fixed before their runs, and the ledger of their verdicts.

evidence = gather(table)                  # a frame of lab.table rows
for entry in ledger(claims, evidence):
    print(entry.claim.id, entry.verdict, entry.finding, entry.reason)
"""

from analysis.claims.estimands import Claim as Claim
from analysis.claims.estimands import Combination as Combination
from analysis.claims.estimands import LnPPL as LnPPL
from analysis.claims.estimands import LnTEff as LnTEff
from analysis.claims.estimands import ProbeValue as ProbeValue
from analysis.claims.estimands import Statistic as Statistic
from analysis.claims.estimands import difference as difference
from analysis.claims.evidence import Evidence as Evidence
from analysis.claims.evidence import gather as gather
from analysis.claims.ledger import Entry as Entry
from analysis.claims.ledger import frame as frame
from analysis.claims.ledger import holm as holm
from analysis.claims.ledger import ledger as ledger
