"""What the card of a run is: one kind of run a file of this folder, all written by one function (`write.py`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from swingkd.report.metrics import Kind
from swingkd.report.page import Figure, Page, ShownToken, svg_of


class RunCard(ABC):
    """What is said of one run.

    Args:
        content: of its metrics.json.

    Raises:
        ValueError: it lacks what this kind of card is made of.
    """

    #: As metrics.json says it.
    kind: ClassVar[Kind]
    #: The file of the figure that sums it up.
    picture: ClassVar[str]
    #: The template of its text.
    template: str

    def __init__(self, content: dict[str, Any]):
        self.content, self.run = {**content, "rows": as_planned(content)}, content["run"]
        self.table = self.read()

    @abstractmethod
    def read(self) -> Any:
        """Return the rows as the card looks them up."""

    @abstractmethod
    def figure(self) -> Figure:
        """Return the title, the numbers and the note of the figure."""

    @abstractmethod
    def draw(self, path: Path) -> Any:
        """Draw the figure, into a file or for the page."""

    @abstractmethod
    def findings(self) -> Sequence[str]:
        """Say what was found, a line each."""

    @abstractmethod
    def context(self, folder: Path) -> dict[str, Any]:
        """Return what the template needs beside the run, its environment, its configuration and the findings."""

    def promises(self) -> Sequence[str]:
        """Say what was promised, a line each."""
        return ()

    @property
    def drawn(self) -> bool:
        """Whether there is a figure to draw, and a page around it."""
        return True

    def page(self, tokens: Sequence[Sequence[ShownToken]]) -> Page:
        """Return its page.

        Args:
            tokens: texts to show, where the run kept some.
        """
        shown = replace(self.figure(), svg=svg_of(self.draw, "main"))
        return Page(self.run, self.promises(), self.findings(), (), [shown], tokens, claims_heading="What was found")


def as_planned(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of metrics.json as the configuration plans them, whichever process measured which first.

    What is planned nowhere, such as the teacher, comes first.
    """
    plans = [(plan.get("model"), _words(plan)) for plan in content["config"].get("rows", ())]

    def place(row: dict[str, Any]) -> int:
        words = set(row["setting"].split())
        alike = [
            (len(own & words) - len(own - words), -i) for i, (model, own) in enumerate(plans) if model == row["model"]
        ]
        return -max(alike)[1] if alike else -1

    return sorted(content["rows"], key=place)


def _words(plan: dict[str, Any]) -> set[str]:
    """Return the words by which a plan's rows are told from others of its model."""
    told = [f"{name}={plan[name]}" for name in ("transfer", "table", "world") if name in plan]
    return {*plan.get("setting", "").split(), *told}
