"""Measuring trained models: losses and perplexities on fixed evaluation sets."""
