"""The one exception for mistakes a user can mend; the command line prints it as a single line."""

from __future__ import annotations


class LabError(Exception):
    """A problem with the input or the machine that the message names, with its mend.

    Args:
      problem: what is wrong, naming the offending thing.
      mend: what the user can do about it.
    """

    def __init__(self, problem: str, mend: str = ""):
        super().__init__(f"{problem} {mend}".strip())
        self.problem = problem
        self.mend = mend
