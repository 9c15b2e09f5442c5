"""The card of a run: what was promised, what was measured, what it is good for; nothing in it is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swingkd.privacy.accounting import said_epsilon, said_guarantee
from swingkd.report.metrics import SCOPES
from swingkd.report.page import Figure, Page, ShownToken, svg_of
from swingkd.report.page_contents import exposure_by_repetition, leak_figure
from swingkd.report.plots import exposure_figure
from swingkd.report.runs.base import RunCard
from swingkd.report.summary import Summary, baseline, cut, summarise

# A protection is told from the plain rivals that must stand beside it.
_PROTECTIONS, _RIVALS = ("swing", "noise", "mollify", "population", "surrogate"), ("drop", "scrub")
# And from a student of public text alone, where one was trained.
_PUBLIC = "public"
# Models that are trained on text alone.
_TAUGHT_BY_NOBODY = ("base", "teacher")


class LanguageCard(RunCard):
    """Language models: what each student is worth beside the exposure of canaries."""

    kind = "language"
    picture = "exposure.png"
    template = "language.md"
    table: list[Summary]

    def read(self) -> list[Summary]:
        return summarise(self.content)

    def figure(self) -> Figure:
        return leak_figure(self.content)

    def draw(self, path: Path) -> Path:
        return exposure_figure(self.content, path)

    def promises(self) -> list[str]:
        return promises(self.table)

    def findings(self) -> list[str]:
        return findings(self.table)

    def page(self, tokens: Sequence[Sequence[ShownToken]]) -> Page:
        """Return its page, with a second figure: exposure by repetition."""
        series = {summary.name: summary.exposure for summary in self.table if summary.exposure}
        shown = replace(self.figure(), svg=svg_of(self.draw, "leak"))
        return Page(self.run, self.promises(), self.findings(), (), [shown, exposure_by_repetition(series)], tokens)

    def context(self, folder: Path) -> dict[str, Any]:
        summaries = self.table
        return {
            "summaries": summaries,
            "levels": sorted({level for s in summaries for level in s.exposure if level}),
            "cut": lambda summary, level: cut(summary, baseline(summaries, summary), level),
            "perplexity_change": lambda summary: _change(summary, baseline(summaries, summary)),
            "promises": self.promises(),
            "promised": promised,
            "private": any(s.promised for s in summaries),
            "proved": sorted({kind for s in summaries for kind in s.proved}),
            "confidence": _confidence(summaries),
        }


def _change(summary: Summary, kd: Summary | None) -> float | None:
    if kd is None or kd is summary or "perplexity" not in summary.perplexity:
        return None
    return summary.perplexity["perplexity"] / kd.perplexity["perplexity"] - 1


def promises(summaries: list[Summary]) -> list[str]:
    """Say of each model what is promised about which data set; first of those with a guarantee."""
    lines = []
    for summary in summaries:
        about = [f"{scope}: {_promise(summary, word)}" for word, scope in SCOPES.items()]
        if summary.promised:
            lines.append(
                f"`{summary.name}`: {'; '.join(about if summary.model not in _TAUGHT_BY_NOBODY else about[:1])}."
            )
    others = " of all others" if lines else ""
    lines.append(
        f"Transfer set{others}: no differential privacy guarantee. The protections below are heuristics that are "
        "judged by audits; any epsilon of their noise would be nominal, and none is printed."
    )
    if not any(summary.promised for summary in summaries if summary.model == "teacher"):
        lines.append(
            "Teacher's training data: not covered. The teacher was trained without differential privacy; what it "
            "learnt of records of the transfer set is not covered either."
        )
    return lines


def _confidence(summaries: list[Summary]) -> str:
    """Say with how much confidence the largest of several bounds holds."""
    if all(proof.together for summary in summaries for proof in summary.proved.values()):
        return "With 95 % confidence all bounds of the table hold together."
    return "Each bound holds with 95 % confidence alone; the largest is not corrected for having been chosen."


def _promise(summary: Summary, word: str) -> str:
    if word not in summary.promised:
        return "not covered"
    promise = summary.promised[word]
    guarantee = said_guarantee(promise.epsilon, promise.delta, promise.unit, promise.neighbours)
    return f"{guarantee}, after {promise.releases:,} noised releases{_condition(summary, word)}"


def _condition(summary: Summary, word: str) -> str:
    """A student's promise about its own data leaves out what an uncovered teacher knows of that data."""
    uncovered = word == "transfer_set" and "teacher_data" not in summary.promised
    return ", given the teacher" if uncovered and summary.model not in _TAUGHT_BY_NOBODY else ""


def promised(summary: Summary) -> str:
    """Say in a table what all attacks are to be held against."""
    if summary.total is None:
        return "nothing"
    return said_epsilon(summary.total) + (
        _condition(summary, "transfer_set") if "transfer_set" in summary.promised else ""
    )


def findings(summaries: list[Summary]) -> list[str]:
    """Say in words where a protection does not beat the plain rivals, and where something still leaks."""
    lines = []
    rivals = {summary.model for summary in summaries} & set(_RIVALS)
    missing = [f"`{rival}`" for rival in _RIVALS if rival not in rivals]
    if missing:
        lines.append(f"{' and '.join(missing)} did not run here: whether a protection beats them is not shown.")
    lines += _broken(summaries)
    for summary in summaries:
        for level, excess in summary.excess.items():
            if summary.promised and excess.low > 0:
                unit = next(iter(summary.promised.values())).unit
                lines.append(
                    f"`{summary.name}` promises something of each {unit}, not of "
                    f"{level} copies: of secrets repeated {level} times it gives away {excess.value:.2f} bits over "
                    f"the controls [{excess.low:.2f}, {excess.high:.2f}]."
                )
        if summary.model not in _PROTECTIONS:
            continue
        for rival in summaries:
            if rival.model in _RIVALS and rival.setting == summary.setting and _beats(rival, summary):
                lines.append(
                    f"`{summary.name}` does not beat `{rival.name}`, which leaks no more at a perplexity that is no "
                    "higher."
                )
            if rival.model == _PUBLIC and rival.perplexity["perplexity"] <= summary.perplexity["perplexity"]:
                lines.append(
                    f"`{summary.name}` does not beat `{rival.name}`, which never saw private text: nothing that the "
                    "private teacher knows beyond public text helps on this split."
                )
        for level, excess in summary.excess.items():
            control = next((s.excess.get(level) for s in summaries if s.model == "teacher"), None)
            if control is not None and control.low <= 0:
                lines.append(
                    f"`{summary.name}`: no power here at {level} times: the teacher gives nothing away either, so "
                    "nothing is shown."
                )
            elif excess.low > 0:
                lines.append(
                    f"`{summary.name}` still gives something away of secrets repeated {level} times: "
                    f"{excess.value:.2f} bits over the controls [{excess.low:.2f}, {excess.high:.2f}]."
                )
    return lines


def _broken(summaries: list[Summary]) -> list[str]:
    """Compare what attacks proved with what was promised, and say whether the attacks are worth anything."""
    lines, audited = [], [summary for summary in summaries if summary.proved]
    for summary in audited:
        for kind, proof in summary.proved.items():
            if summary.total is not None and proof.epsilon > summary.total:
                lines.append(
                    f"`{summary.name}` breaks its promise: {proof.attack} on {kind.replace('_', ' ')} proves epsilon "
                    f"{proof.epsilon:.2f}."
                )
    strongest = max((p.epsilon for s in audited if not s.promised for p in s.proved.values()), default=0.0)
    if audited and strongest < 1:
        lines.append(
            f"No attack proves more than epsilon {strongest:.2f} against a model without differential privacy: that "
            "little is proved against the others says nothing."
        )
    return lines


def _beats(rival: Summary, summary: Summary) -> bool:
    leaks = all(rival.excess[level].value <= summary.excess[level].value for level in summary.excess)
    return leaks and rival.perplexity["perplexity"] <= summary.perplexity["perplexity"]
