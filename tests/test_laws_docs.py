"""docs/laws.md says what the code says, and its commands are commands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import tyro

from analysis import laws
from lab.commands.laws import Fit


def _sections() -> dict[str, str]:
    """docs/laws.md by law, on one line each."""
    text = (Path(__file__).parents[1] / "docs" / "laws.md").read_text()
    return {s.split("\n", 1)[0]: " ".join(s.split()) for s in text.split("\n## ")[1:]}


def test_the_documentation_has_every_law_once_and_no_other() -> None:
    assert sorted(_sections()) == sorted(laws.names())


@pytest.mark.parametrize("name", laws.names())
def test_the_documentation_agrees_with_the_law(name: str) -> None:
    section, law = _sections()[name], laws.get(name)
    for what in (*(v.name for v in law.variables), *(p.name for p in law.parameters)):
        assert f"`{what}`" in section, what
    assert law.source in section and "Not identified: " in section and "When: " in section
    for published in law.published:
        assert published.source in section
        for key, value in published.params.items():
            assert f"{key} {value:g}" in section, f"{key} {value:g}"


@pytest.mark.parametrize("name", laws.names())
def test_the_documented_command_is_one(name: str) -> None:
    command = shlex.split(_sections()[name].split("``` ")[1].split(" ```")[0])
    assert command[:2] == ["lab", "fit"]
    options = tyro.cli(Fit, args=command[2:])
    law = laws.get(options.law)
    assert law.name.split(":")[0] == name
    keywords = options.fit_options()
    assert set(keywords["columns"]) <= {v.name for v in law.variables}
    assert set(keywords["frozen"]) <= set(law.parameter)
