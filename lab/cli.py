"""The command line: the only module that knows every room. It imports none of them until a verb runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, Union

import tyro

from lab.commands import claims, data, figures, laws, probe, replicate, sweep, trace, train, tune
from lab.errors import LabError

DESCRIPTION = """A laboratory for multilingual scaling laws: how should compute be spent on a language with little data?

  lab sweep run demo         train a study and write its report
  lab fit TABLE --law tied   fit a law to your own (N, D, loss) table
  lab figures demo           draw a study's figures and report again from its table"""


class Command(Protocol):
    def run(self) -> int:
        """Does the work and returns the exit code."""
        ...


Verbs = Mapping[str, Any]

VERBS: Verbs = {
    "data": data.COMMANDS,
    "train": train.Train,
    "tune": tune.Tune,
    "sweep": sweep.COMMANDS,
    "probe": probe.Probe,
    **laws.COMMANDS,
    "figures": figures.Figures,
    "claims": claims.Claims,
    "replicate": replicate.Replicate,
    "trace": trace.Trace,
}

GROUPS = {
    "data": "Prepare and look at corpora, vocabularies and token stores.",
    "sweep": "Plan, run, watch and collect a study of many runs.",
    "design": "Ask what a sweep can identify before paying for it.",
}


def parser_type(verbs: Verbs) -> Any:
    """The union type that tyro turns into nested subcommands."""
    members = []
    for name, verb in verbs.items():
        described = GROUPS.get(name) if isinstance(verb, Mapping) else None
        kind = parser_type(verb) if isinstance(verb, Mapping) else verb
        members.append(Annotated[kind, tyro.conf.subcommand(name, description=described, prefix_name=False)])
    return Union[tuple(members)]  # noqa: UP007 (built at run time)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses `argv`, runs the verb, and returns its exit code: 1 for a mistake that the message names."""
    try:
        command: Command = tyro.cli(parser_type(VERBS), prog="lab", description=DESCRIPTION, args=argv)
        return command.run()
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to go on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


if __name__ == "__main__":
    sys.exit(main())
