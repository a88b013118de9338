"""Token efficiency of a bilingual run: how many monolingual tokens is its loss worth?

Perplexities of monolingual runs of GPT small on English books, read off arXiv:2404.07982, figure 5.
"""

import numpy as np
import pandas as pd

from analysis import bootstrap, fit
from analysis.equivalence import transfer

T = 1_197_015_040
SHARES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.5, 2, 3]
PPL = [78.941, 48.353, 33.373, 28.902, 26.784, 25.294, 24.275, 23.49, 22.863, 22.549, 22.392, 22.157, 21.922, 20.98]
runs = pd.DataFrame({"D": np.array(SHARES) * T, "loss": np.log([*PPL, 19.725, 18.784])})
law = fit(runs, "reciprocal-perplexity")
draws = bootstrap(law, 1000).params_of()

for text, ppl, tokens in (("90/10 clone", 32.805344, 0.1 * T), ("50/50", 26.12509, 0.5 * T), ("too good", 10.0, T)):
    worth = transfer(law.law, law.params_of(), np.log(ppl), tokens, draws=draws, span=(0.05 * T, 3 * T))
    print(f"{text}: TEff {worth.teff}")
