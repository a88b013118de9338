"""From text to token streams: corpora, vocabularies, seqio tasks, token stores, exact mixtures."""
