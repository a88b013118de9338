"""One training run, or a pack of runs of one shape: from text to result rows."""
