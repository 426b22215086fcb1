"""What the dashboard knows of the served guard: its record, its policy and its card."""

from dataclasses import dataclass
from pathlib import Path

from lockgate.calibration import Calibration
from lockgate.constitution import Constitution
from lockgate.guards import GuardRecord, read_bundle


@dataclass(frozen=True, slots=True)
class ServedGuard:
    """The guard that the server runs.

    Attributes:
        sha256: hash of its bundle, as the decision log has it.
        card: its card as Markdown, without the front matter; "" if the bundle has none.
        calibrated: whether the server claims a budget. In another precision than that of the calibration
            it does not.
        uncalibrated_because: why it claims none.
    """

    name: str
    sha256: str
    record: GuardRecord
    constitution: Constitution
    card: str
    calibrated: bool
    uncalibrated_because: str | None = None

    @property
    def calibration(self) -> Calibration | None:
        """The calibration of the bundle, if the server claims it."""
        found = self.record.calibration
        return None if found is None or not self.calibrated else Calibration.from_dict(found)

    @property
    def categories(self) -> dict[str, str]:
        """Titles of the harmful categories, by id."""
        return {category.id: category.title for category in self.constitution.harmful}


def served_guard(
    folder: Path, name: str, sha256: str, *, calibrated: bool, uncalibrated_because: str | None = None
) -> ServedGuard:
    """Read what a bundle says about its guard. No model is loaded. Raises GuardError."""
    bundle = read_bundle(folder)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2]
    return ServedGuard(
        name, sha256, bundle.record, bundle.constitution, text.strip(), calibrated, uncalibrated_because
    )
