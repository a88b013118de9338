"""The demo's learning rates: six peak rates at each of its sizes, at its shortest and longest budget.

lab sweep run demo_rates
"""

from __future__ import annotations

import dataclasses

from lab.data.prepare import Prepared
from sweeps import demo
from sweeps.study import Arm, DataSpec, Scale, Study

RATES = (4e-3, 8e-3, 16e-3, 32e-3, 64e-3, 128e-3)


def arms(prepared: Prepared, scale: Scale) -> tuple[Arm, ...]:
    mixture = demo.alone(prepared, demo.EN)
    found = []
    for size in demo.SIZES:
        for tokens in (demo.BUDGETS[0], demo.BUDGETS[-1]):
            base = demo.run(size, tokens, mixture, demo.VOCAB, seed=0)
            for rate in RATES:
                run = dataclasses.replace(base, optim=dataclasses.replace(base.optim, peak_lr=rate))
                found.append(Arm(f"{size}, {tokens:,} tokens", run))
    return tuple(found)


STUDY = Study(
    name="demo_rates",
    question="Which peak learning rate is best at each size and budget of the demo?",
    expected="Between 4e-3 and 64e-3, falling with size.",
    scales=(Scale("nano", DataSpec((demo.EN,), demo.VOCAB), "48 runs, about 10 minutes on 2 CPU cores"),),
    arms=arms,
)
