"""Tables in, pictures out: one function a figure, each with its provenance."""
