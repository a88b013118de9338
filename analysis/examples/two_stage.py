"""Continual pre-training in two stages: E, A, alpha from runs from scratch, then B, beta, gamma of continued runs.

The runs are synthetic: scratch L = 1.55 + 420/N^.4 + 719.5/D^.3, continued 300/(D^.25 N^.03) in the last term.
"""

from pathlib import Path

from analysis import fit_stages
from analysis.equivalence import crossings
from analysis.twostage import bootstrap_stages

runs = Path(__file__).with_name("continual.csv")
staged = fit_stages(runs, "cpt", stage="arm", first="scratch", second="continued", carry=("E", "A", "alpha"))
_, draws = bootstrap_stages(staged, 500)  # both stages refitted for every resample of sizes

for name in staged.second.params:
    print(f"continued {name:6} {draws.interval(name)}")
scratch, continued = staged.first.params_of(), staged.second.params_of()
for n in (1e7, 1e9):
    met = crossings(staged.second.law, continued, staged.first.law, scratch, "D", {"N": n})
    print(f"N = {n:.0e}: " + ("; ".join(f"scratch catches up at D = {c.value:.3g}" for c in met) or "no crossing"))
