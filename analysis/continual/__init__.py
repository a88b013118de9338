"""Continual pre-training across languages (arXiv:2407.02118) from a result table: pure functions of data frames.

    rows = roles(read_table(path))          # who is a source, who is from scratch, who continues whom
    runs = points(rows)                     # one row a finished run, in the target's tokens and loss
    fits = joint(runs)                      # the paper's law in its two stages, and the forms beside it

The modules: `names` (how arms are called), `roles` (what runs are), `joint` (laws and their errors), `savings` (tokens
and compute at equal loss), `frontiers` (least loss for a compute, the parent free or paid for), `replay` (curves, and
what is forgotten), `distance` (transfer against how far two languages lie apart).
"""
