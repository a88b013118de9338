"""The verbs of the command line, one module a group; heavy imports happen inside the functions."""
