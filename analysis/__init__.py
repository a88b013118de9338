"""Tables in, numbers out: laws, fits, intervals, comparison, design and allocation."""
