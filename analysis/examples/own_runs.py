"""From a CSV of runs (here as exported from wandb) to a law, its intervals, a forecast and a picture.

The runs are synthetic: 28 drawn from L = 1.69 + 406.4/N^.34 + 410.7/D^.28 with .4 % noise, and one that crashed.
"""

from pathlib import Path

from analysis import fit
from analysis.allocate import allocate
from analysis.plots import fit_figure, save
from analysis.table import read

runs = read(Path(__file__).with_name("wandb_export.csv"))
law = fit(runs, "chinchilla", n="model/params", d="train/tokens", loss="eval/loss")

print(f"{law.law.name}: {law.status} on {law.n} runs; {'; '.join(map(str, law.dropped))}")
for name, interval in law.intervals().items():
    print(f"  {name:6} {interval}")
best = allocate(law.law, law.params_of(), 1e19)
print(f"1e19 FLOPs: N = {best.n:.3g}, D = {best.d:.3g}, loss {best.loss:.3f} nats")
print(f"picture: {save(fit_figure(law), 'own_runs.png')}")
