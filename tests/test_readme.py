"""What the README shows works: its commands parse, its study makes its arms, its files exist."""

import re
import shlex
from pathlib import Path

import pytest
import tiny
import tyro

from lab.cli import VERBS, parser_type
from lab.data.prepare import Prepared
from sweeps.study import find_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (lab .*)$", README, re.MULTILINE)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    arguments = shlex.split(command, comments=True)[1:]
    assert hasattr(tyro.cli(parser_type(VERBS), args=arguments), "run")


def test_the_study_of_the_readme_makes_its_arms(tmp_path):
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "STUDY =" in b]
    assert len(block.splitlines()) <= 30
    path = tmp_path / "tokens.py"
    path.write_text(block)
    data = tiny.prepared(tmp_path, ("aa",))
    study = find_study(str(path))
    scale = study.scale()
    (spec,) = scale.data.corpora
    arms = study.checked_arms(Prepared(data.stores, data.tokenizers, {spec: "tiny:aa"}), scale)
    assert len({arm.run.run_id for arm in arms}) == 6


def test_files_it_names_exist():
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
