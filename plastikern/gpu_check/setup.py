"""Where a run finds things, and what it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Of the repository, or where the package is installed."""


@dataclass(frozen=True)
class Setup:
    """What the stages depend on.

    Attributes:
        out: folder of the results.
        dry_run: whether the emulator stands in for a card.
        prebuilt: folder of programs that were built elsewhere; None: they are built in the repository.
        wanted_programs: names of those that the chosen stages need; empty: all.
        root: of the repository.
    """

    out: Path
    dry_run: bool = False
    prebuilt: Path | None = None
    wanted_programs: tuple[str, ...] = ()
    root: Path = ROOT

    @property
    def repository(self) -> bool:
        """Whether tests, benchmarks and experiments are there."""
        return all(
            (self.root / name).is_dir()
            for name in ("tests", "benchmarks", "experiments", "build_backend")
        )

    @property
    def patience(self) -> float:
        """Factor of all limits: the emulator shares its processor with others."""
        return 5.0 if self.dry_run else 1.0

    @property
    def programs(self) -> Path:
        """Folder of the programs without torch."""
        built = self.root / "build" / "gpu-check" / ("emulated" if self.dry_run else "card")
        return built if self.prebuilt is None else self.prebuilt
