"""The classifier of a store of pixels: two small networks whose features images are compared by. Torch-free.

<store>/features/classifier.safetensors     the weights of both
                 classifier.json            of which store, how well they read images that they never saw, their seeds;
                                            written last, so that a classifier that has it is whole

In the cache folder where the store cannot be written. Once made it stays: another one would be another evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.atomic import read_json
from fcdm.errors import UserError
from fcdm.features.store_folder import kept_file
from fcdm.hashing import known_sha256

FACTS, WEIGHTS = "classifier.json", "classifier.safetensors"
NONE_YET = "classifier@none-yet"
"""In plans, of a store whose classifier is still to be made."""


@dataclass(frozen=True)
class ClassifierFiles:
    """One that is whole."""

    path: Path
    """Of its facts."""
    facts: dict[str, Any]

    @property
    def weights(self) -> Path:
        return self.path.with_name(WEIGHTS)

    @property
    def id(self) -> str:
        """`classifier@<first 8 hex digits of the weights' sha256>`: of both networks."""
        return f"classifier@{self.facts['sha256'][:8]}"

    @property
    def told(self) -> str:
        """How well it reads, for people."""
        facts = self.facts
        shares = " and ".join(f"{100 * share:.1f} %" for share in facts["accuracy"])
        what = f"{facts['classes']} classes" if facts["task"] == "labels" else "four rotations"
        chance = f"chance {100 * facts['chance']:.1f} %"
        return f"{what}, {shares} right of {facts['tested']:,} images that they never saw ({chance})"


def facts_file(store: Path, checksum: str) -> Path:
    """Where the store's classifier is, or would be made."""
    return kept_file(store, checksum, FACTS)


def find_classifier(store: Path, checksum: str) -> ClassifierFiles | None:
    """The store's; None where it has none yet. checksum: the store's.

    Raises UserError for one of another store, one whose weights are not its own, and one that has not learned to read.
    """
    path = facts_file(store, checksum)
    if not path.exists():
        return None
    facts = read_json(path)
    found = ClassifierFiles(path, facts)
    if facts.get("store") != checksum:
        raise UserError(
            f"{path} is the classifier of another store (manifest {str(facts.get('store'))[:8]}, not {checksum[:8]}): "
            f"remove {path.parent}, if it was copied here, and the same command makes the store's own; or, if another "
            "store is meant, say data.path=<that store>"
        )
    if not facts["learned"]:
        raise UserError(
            f"evaluation.features=classifier: the store's networks have not learned to read its images ({found.told}): "
            "say evaluation.features=pixels, inception or dinov2; a store with more images set aside (`fcdm.prepare "
            "images aside=0.3`) may have a better one"
        )
    if not found.weights.is_file() or known_sha256(found.weights) != facts["sha256"]:
        raise UserError(
            f"{found.weights} is not what {path} tells of: copy both again from where they were made, or remove "
            f"{path}, and another classifier is made, whose evaluations are others"
        )
    return found
