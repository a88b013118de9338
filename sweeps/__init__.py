"""Many runs: one file a study, and what plans, runs, watches and collects them."""
