"""What a run *is*: frozen dataclasses whose fingerprint is the run's identity.

How a run is executed (device, pack, checkpoint interval, interruptions) is `Execution`, and is not identity.
"""

from lab.config.identity import canonical, canonical_json, fingerprint, form_fingerprint
from lab.config.run import (
    Carry,
    Extension,
    Family,
    Kept,
    ModelConfig,
    OptimConfig,
    Parent,
    RunConfig,
    from_json,
    to_json,
)
from lab.config.text import Component, LanguageIds, LayoutConfig, MixtureConfig, Sharing, Source, Stage

__all__ = [
    "Carry",
    "Component",
    "Extension",
    "Family",
    "Kept",
    "LanguageIds",
    "LayoutConfig",
    "MixtureConfig",
    "ModelConfig",
    "OptimConfig",
    "Parent",
    "RunConfig",
    "Sharing",
    "Source",
    "Stage",
    "canonical",
    "canonical_json",
    "fingerprint",
    "form_fingerprint",
    "from_json",
    "to_json",
]
