"""One line a student: what metrics.json says of it, averaged over seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from rich import box
from rich.table import Table

from swingkd.audit import Interval
from swingkd.report.row import Row, rows_of

_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Promise:
    """What a ledger says of one data set: epsilon and delta for each unit, after so many releases."""

    epsilon: float
    delta: float
    unit: str
    neighbours: str
    releases: int


@dataclass(frozen=True)
class Proof:
    """The largest epsilon that attacks proved, which attack did, and whether all bounds hold together at 95 %."""

    epsilon: float
    attack: str
    together: bool = False


@dataclass
class Summary:
    """One model in one setting.

    Args:
        model, setting: as in metrics.json, without the seed.
        seeds: how many runs the numbers are averaged over.
        perplexity: by kind ("perplexity", "perplexity_flagged", "perplexity_unflagged"), and "perplexity_fresh": that
            of the flagged tokens in fresh sentences of the canaries' form.
        exposure, excess: by repetition, in bits; intervals are the widest over the seeds.
        promised: by data set ("transfer_set", "teacher_data"), the largest over the seeds.
        proved: by kind of record, the largest over attacks and seeds.
    """

    model: str
    setting: str
    seeds: int = 0
    perplexity: dict[str, float] = field(default_factory=dict)
    exposure: dict[int, Interval] = field(default_factory=dict)
    excess: dict[int, Interval] = field(default_factory=dict)
    promised: dict[str, Promise] = field(default_factory=dict)
    proved: dict[str, Proof] = field(default_factory=dict)

    @property
    def total(self) -> float | None:
        """The epsilon that is promised of a record which is in every data set that went into the model."""
        return sum(promise.epsilon for promise in self.promised.values()) if self.promised else None

    @property
    def name(self) -> str:
        """Model and setting for people: `swing (B+, recall=0.9)`."""
        words = [word.removeprefix("transfer=") for word in self.setting.split()]
        words = [word for word in words if word != "A"]
        return f"{self.model} ({', '.join(words)})" if words else self.model


def summarise(metrics: dict[str, Any]) -> list[Summary]:
    """Return one summary per model and setting, in the order in which they were measured.

    Raises:
        ValueError: the run has no rows yet.
    """
    if not metrics["rows"]:
        raise ValueError("The run has measured nothing yet: metrics.json has no rows.")
    every = rows_of(metrics)
    split = next((s for s in _SPLITS if any(row.words.get("split") == s for row in every)), None)
    grouped: dict[tuple[str, str], dict[tuple[str, int | None], list[Row]]] = {}
    seeds: dict[tuple[str, str], set[str]] = {}
    promised, proved = _promises(every), _proofs(every)
    for row in every:
        words, metric = dict(row.words), row.metric
        if "scope" in words or "records" in words:
            continue
        if words.get("split") == "fresh" and metric == "perplexity_flagged":
            metric = "perplexity_fresh"
        elif words.get("split", split) != split:
            continue
        repetitions = int(words.pop("repetitions")) if "repetitions" in words else None
        words.pop("split", None)
        seed = words.pop("seed", "0")
        key = (row.model, " ".join(f"{k}={v}" for k, v in words.items()))
        seeds.setdefault(key, set()).add(seed)
        grouped.setdefault(key, {}).setdefault((metric, repetitions), []).append(row)
    result = []
    for key, numbers in grouped.items():
        summary = Summary(*key, seeds=len(seeds[key]), promised=promised.get(key, {}), proved=proved.get(key, {}))
        for (metric, repetitions), rows in numbers.items():
            value = mean(row.value for row in rows)
            if repetitions is None:
                summary.perplexity[metric] = value
                continue
            low, high = min(row.interval[0] for row in rows), max(row.interval[1] for row in rows)
            interval = Interval(value, low, high, sum(row.n or 0 for row in rows))
            (summary.exposure if metric == "exposure" else summary.excess)[repetitions] = interval
        result.append(summary)
    return result


def _promises(rows: list[Row]) -> dict[tuple[str, str], dict[str, Promise]]:
    promises: dict[tuple[str, str], dict[str, Promise]] = {}
    deltas = {(row.model, row.setting): row.value for row in rows if row.metric == "delta"}
    for row in rows:
        words = row.words
        if row.metric != "epsilon" or "scope" not in words:
            continue
        delta, neighbours = deltas[row.model, row.setting], words["neighbours"].replace("-", " ")
        promise = Promise(row.value, delta, words["unit"], neighbours, row.n or 0)
        of = promises.setdefault((row.model, row.bare(("seed", "scope", "unit", "neighbours"))), {})
        known = of.get(words["scope"])
        if known is None or known.epsilon < promise.epsilon:
            of[words["scope"]] = promise
    return promises


def _proofs(rows: list[Row]) -> dict[tuple[str, str], dict[str, Proof]]:
    proofs: dict[tuple[str, str], dict[str, Proof]] = {}
    # Runs before there was such a row held each bound at 95 % for itself.
    together = {(row.model, row.setting) for row in rows if row.metric == "epsilon_family"}
    for row in rows:
        if row.metric != "epsilon_lower":
            continue
        proof = Proof(row.value, row.words["attack"], (row.model, row.setting) in together)
        of = proofs.setdefault((row.model, row.bare(("seed", "records", "attack"))), {})
        known = of.get(row.words["records"])
        if known is None or known.epsilon < proof.epsilon:
            of[row.words["records"]] = proof
    return proofs


def baseline(summaries: list[Summary], of: Summary) -> Summary | None:
    """Return plain distillation over the same transfer set."""
    transfer = next((word for word in of.setting.split() if word.startswith("transfer=")), None)
    return next((s for s in summaries if s.model == "kd" and s.setting == transfer), None)


def cut(summary: Summary, kd: Summary | None, repetitions: int) -> float | None:
    """Return which share of plain distillation's excess exposure is gone, at most all of it; `None` where that excess
    was below 2 bits."""
    if kd is None or kd is summary or repetitions not in summary.excess or repetitions not in kd.excess:
        return None
    if kd.excess[repetitions].value < 2:
        return None
    return min(1 - summary.excess[repetitions].value / kd.excess[repetitions].value, 1.0)


def comparison_table(metrics: dict[str, Any]) -> Table:
    """Return the table that a terminal shows: utility beside leak, one line a student."""
    summaries = summarise(metrics)
    levels = sorted({level for s in summaries for level in s.exposure})
    caption = "exposure in bits by number of copies; controls were never inserted"
    table = Table(title=f"{metrics['run']}: utility and leak", caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("model", "perplexity", "flagged", "unflagged"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for level in levels:
        table.add_column(f"x{level}" if level else "controls", justify="right")
    table.add_column("cut", justify="right")
    for summary in summaries:
        kd = baseline(summaries, summary)
        cuts = [value for level in levels if (value := cut(summary, kd, level)) is not None]
        table.add_row(
            summary.name,
            *(_number(summary.perplexity.get(f"perplexity{kind}")) for kind in ("", "_flagged", "_unflagged")),
            *(_number(summary.exposure[level].value) if level in summary.exposure else "" for level in levels),
            f"{min(cuts):.0%}" if cuts else "",
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
