"""How a figure becomes files: PDF for papers, PNG for the report, equal bytes for equal inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from clinrep import artifacts

PNG_DPI = 200


@dataclass(frozen=True)
class DrawnFigure:
    """One figure on disk, as PDF and PNG."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    png_path: Path


def save_figure(figure: Figure, directory: Path, name: str, title: str, caption: str) -> DrawnFigure:
    """Write NAME.pdf (fonts embedded) and NAME.png, without the time of day."""
    artifacts.check_file_word(name, "figure")
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        with artifacts.atomic_path(directory / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=PNG_DPI, metadata=metadata)
    return DrawnFigure(name, title, caption, directory / f"{name}.png")
