"""metrics.json: what a run measured, one tidy row a number, written as soon as it is known.

A run restarts row by row: what stands in the file is skipped.  Several processes may add rows to one file.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeAlias

import torch
from filelock import FileLock
from typing_extensions import TypedDict

from swingkd.audit import ExposureReport, ExtractionReport, MembershipReport
from swingkd.audit.lower_bound import Method
from swingkd.files import Line, read_as, written_whole
from swingkd.privacy import SYNTHETIC_LABELS, TEACHER_DATA, TRANSFER_SET, PrivacyLedger
from swingkd.report.row import Row, rows_of

# Words of a setting that say what was measured on a model, not which model it is.
_MEASURED = ("split", "repetitions", "canaries", "records", "attack", "scope", "unit", "neighbours")
#: Kinds of runs, each with a card of its own (`swingkd.report.runs`).
Kind: TypeAlias = Literal["language", "labels", "images", "federation", "taggers", "audit", "canaries", "frontier"]


class Elsewhere(TypedDict):
    """Models that were measured on another machine, or with other versions, than the first ones of a run."""

    models: list[str]
    environment: dict[str, Any]


class _Content(TypedDict):
    """What stands in metrics.json."""

    run: Line
    kind: NotRequired[Kind]
    config: dict[str, Any]
    environment: dict[str, Any]
    elsewhere: NotRequired[list[Elsewhere]]
    rows: list[dict[str, Any]]


class MetricsFile:
    """The metrics of one run.

    Args:
        path: the JSON file; made when the first rows come.
        run: the run's name.
        kind: which card it gets; a file that is there keeps its own.
        config: its settings, without secrets; its list `rows` may grow from one start to the next.

    Raises:
        ValueError: the file holds numbers of other settings.
    """

    def __init__(
        self, path: str | os.PathLike, run: str = "", config: dict[str, Any] | None = None, *, kind: Kind | None = None
    ):
        self.path = Path(path)
        self._run, self._config, self._kind = run, config or {}, kind
        if config is not None and self.path.exists():
            measured = self.read()["config"]
            changed = sorted(
                key for key in (config.keys() | measured.keys()) - {"rows"} if config.get(key) != measured.get(key)
            )
            plans = {_plan(plan): plan for plan in measured.get("rows", [])}
            changed += [
                " ".join(_plan(plan)) for plan in config.get("rows", []) if plans.get(_plan(plan), plan) != plan
            ]
            if changed:
                raise ValueError(
                    f"{self.path} was measured with other settings ({', '.join(changed)} changed), and its rows would "
                    "not compare with new ones. Choose another output_dir, or delete the old one to start afresh."
                )

    def read(self) -> dict[str, Any]:
        """Return the file as it is now; an empty run where there is none.

        Raises:
            ValueError: the file is not a metrics file.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            kind = {"kind": self._kind} if self._kind is not None else {}
            return {"run": self._run, **kind, "config": self._config, "environment": environment(), "rows": []}
        try:
            return dict(read_as(_Content, text, str(self.path)))
        except ValueError as error:
            raise ValueError(f"{error} Name the metrics.json of a run.") from None

    @property
    def rows(self) -> list[Row]:
        """The rows so far."""
        return rows_of(self.read())

    def has(self, model: str, setting: str) -> bool:
        """Tell whether this model was measured in this setting (whatever the split or the repetitions).

        Raises:
            ValueError: the setting is none, before anything is trained for it.
        """
        wanted = Row(model, setting, "any", 0.0)
        return any(row.model == model and _of_model(row) == _of_model(wanted) for row in self.rows)

    def add(self, rows: list[Row]) -> None:
        """Add rows; all of them or, if the process dies, none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            content = self.read()
            if (here := environment()) != content["environment"]:
                content["elsewhere"] = _elsewhere(content.get("elsewhere", []), here, rows)
            content["rows"] += [row.to_dict() for row in rows]
            content["config"] = self._config or content["config"]
            with written_whole(self.path) as part:
                part.write_text(_text_of(content), encoding="utf-8")


def _text_of(content: dict[str, Any]) -> str:
    """Return the JSON of a run, a line for each row: thousands stay small, and versions are compared by rows."""
    rest = json.dumps({key: value for key, value in content.items() if key != "rows"} | {"rows": []}, indent=1)
    head, opening, tail = rest.rpartition("[]")
    rows = [
        json.dumps({name: value for name, value in row.items() if value is not None}, separators=(",", ":"))
        for row in content["rows"]
    ]
    return (f"{head}[\n  " + ",\n  ".join(rows) + f"\n ]{tail}" if rows else head + opening + tail) + "\n"


def exposure_rows(model: str, setting: str, report: ExposureReport) -> list[Row]:
    """Return the rows of an exposure report: mean exposure per repetition (0: controls) and excess over controls."""
    rows: list[Row] = []
    for level in report.levels:
        where = f"{setting} repetitions={level}"
        rows.append(Row(model, where, "exposure", **asdict(report.mean(level))))
        if level and 0 in report.levels:
            rows.append(Row(model, where, "exposure_excess", **asdict(report.excess(level))))
    return rows


def membership_rows(
    model: str, setting: str, report: MembershipReport, *, by_coin: bool = False, delta: float = 1e-5, looks: int = 1
) -> list[Row]:
    """Return the rows of a membership report, and what it proves of epsilon where a coin chose the members.

    Args:
        model, setting: what was attacked, and with which records.
        report: the attacks.
        by_coin: members were chosen by a fair coin, so that epsilon can be bounded from below.
        delta: of that epsilon.
        looks: at how many such reports a reader looks together (kinds of records, seeds): each bound holds with so
            much more confidence that the largest of all holds with 95 %.
    """
    rows: list[Row] = []
    family = len(report.results) * looks
    for result in report.results:
        where = f"{setting} attack={result.attack}"
        for metric in ("auc", "balanced_accuracy", "tpr_at_1_fpr", "tpr_at_01_fpr"):
            rows.append(Row(model, where, metric, **asdict(getattr(result, metric))))
        for metric, rate in (("tpr_at_1_fpr", 0.01), ("tpr_at_01_fpr", 0.001)):
            rows.append(Row(model, where, f"{metric}_chance", result.chance(rate)))
        if by_coin:
            methods: tuple[tuple[str, Method], ...] = (("epsilon_lower", "one_run"), ("epsilon_lower_f_dp", "f_dp"))
            for metric, method in methods:
                bound = report.epsilon(result.attack, delta=delta, method=method, confidence=1 - 0.05 / family)
                rows.append(Row(model, where, metric, bound.epsilon, n=bound.canaries))
            rows.append(Row(model, where, "epsilon_family", family))
        rows += [Row(model, where, "p_value", result.p_value), Row(model, where, "p_value_family", family)]
    return rows


def extraction_rows(model: str, setting: str, report: ExtractionReport) -> list[Row]:
    """Return the rows of an extraction report; those of unseen text carry the word `seen=no`."""
    rows: list[Row] = []
    if report.continuation:
        rows.append(Row(model, setting, "continued", **asdict(report.continuation.greedy)))
        for n, share in report.continuation.sampled.items():
            where = f"{setting} queries={n} p={report.continuation.p:g}"
            rows.append(Row(model, where, "continued", share, n=report.continuation.texts))
    if report.values:
        values = report.values
        rows.append(Row(model, setting, "values_precision", values.precision, n=values.said))
        rows.append(Row(model, setting, "values_recall", values.recall, n=values.training))
        rows.append(Row(model, setting, "values_found", len(values.found), n=values.samples))
        if values.by_chance and values.by_chance[0]:
            unseen, hits = values.by_chance
            rows.append(Row(model, f"{setting} seen=no", "values_recall", hits / unseen, n=unseen))
    for metric, guesses in (("reconstruction", report.reconstruction), ("inference", report.inference)):
        if guesses:
            rows.append(Row(model, setting, metric, **asdict(guesses.right)))
            if guesses.chance is not None:
                rows.append(Row(model, setting, f"{metric}_chance", guesses.chance))
    if report.unseen:
        rows += extraction_rows(model, f"{setting} seen=no", report.unseen)
    return rows


#: The data sets that a promise is about: the word in `ledger_rows`, and what they are called.
SCOPES = {"transfer_set": "transfer set", "teacher_data": "teacher's training data"}


def ledger_rows(model: str, setting: str, ledger: PrivacyLedger) -> list[Row]:
    """Return what a ledger promises: epsilon and delta of each data set that it covers, by the word `scope`."""
    rows: list[Row] = []
    words = {TRANSFER_SET: "transfer_set", TEACHER_DATA: "teacher_data", SYNTHETIC_LABELS: "labels"}
    for scope, word in words.items():
        for guarantee in ledger.guarantees(scope):
            unit, neighbours = (text.replace(" ", "-") for text in (guarantee.unit, guarantee.neighbours))
            of = f"{setting} scope={word} unit={unit} neighbours={neighbours}"
            rows.append(Row(model, of, "epsilon", guarantee.epsilon, n=guarantee.releases))
            rows.append(Row(model, of, "delta", guarantee.delta))
    return rows


def _plan(plan: dict[str, Any]) -> tuple[str, ...]:
    """What names a planned row: its model, what it is trained on, its setting and seeds."""
    names = ("model", "transfer", "world", "table", "setting", "words", "seeds")
    return tuple(str(plan[name]) for name in names if name in plan)


def _elsewhere(known: list[Elsewhere], here: dict[str, Any], rows: list[Row]) -> list[Elsewhere]:
    """Return what was measured elsewhere, and these rows' models with it."""
    before = [name for entry in known if entry["environment"] == here for name in entry["models"]]
    models = sorted({*before, *(f"{row.model} {row.bare(_MEASURED)}".strip() for row in rows)})
    others = [entry for entry in known if entry["environment"] != here]
    return [*others, {"models": models, "environment": here}]


def _of_model(row: Row) -> set[str]:
    """Return the words of a setting that name the trained model, not what was measured on it."""
    return set(row.bare(_MEASURED).split())


def environment() -> dict[str, Any]:
    """Return what the numbers may depend on: versions, cores, accelerator."""
    names = ("torch", "transformers", "datasets", "accelerate")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in names if find_spec(name)},
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
