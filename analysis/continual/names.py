"""How the arms of a study of continual pre-training are called: `<what>, <tokens>M, <size>`, made and read here alone.

`what` begins with a role (`source`, `scratch`, `cpt`), then may say the setting (the target, where a study has several)
and the share of the source that is replayed:

    scratch, 3M, nano-4        cpt, German, 3M, nano-4        cpt, replay 5 %, 3M, nano-4
"""

from __future__ import annotations

import re

# Settings of continued runs in another vocabulary than the joint one. Their arms are called by the tokens of the joint
# vocabulary's run that reads as many bytes: so the arms that compare have one budget in their names.
OWN = "source's vocabulary"
EXTENDED = "extended by {}"

_NAME = re.compile(r"(?P<what>.+), (?P<tokens>[\d.]+)M, (?P<size>[^,]+)")
_REPLAY = re.compile(r"replay [\d.]+ %")


def arm(what: str, tokens: float, size: str) -> str:
    """The name of an arm on so many tokens, in millions."""
    return f"{what}, {tokens:g}M, {size}"


def what(role: str, setting: str = "", replay: float = 0.0) -> str:
    """What an arm trains: its role, the setting it has beside the main target, and the share of the source replayed."""
    return ", ".join(part for part in (role, setting, f"replay {100 * replay:g} %" if replay else "") if part)


def other_vocabulary(setting: str) -> bool:
    """Whether a setting is the main target in another vocabulary than the joint one."""
    return setting == OWN or setting.startswith(EXTENDED.format(""))


def setting(name: str) -> str:
    """The setting in the name of an arm; empty for the study's main target, and for a name of another form."""
    found = _NAME.fullmatch(name)
    if found is None:
        return ""
    _, *parts = found["what"].split(", ")
    return ", ".join(part for part in parts if not _REPLAY.fullmatch(part))
