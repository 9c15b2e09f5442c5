"""A privacy budget as a table and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from swingkd.privacy.accounting import said_delta, said_epsilon, said_guarantee
from swingkd.privacy.budget import Budget


def budget_dict(budget: Budget, *, around: bool = True) -> dict[str, Any]:
    """Return a budget as plain types.

    Args:
        budget: the run.
        around: with the runs around it, which take as long to plan as it did, each.
    """
    own = {
        "units": budget.units,
        "batch": budget.batch,
        "epochs": budget.epochs,
        "noise_per_unit": budget.noise_per_unit,
        "plan": budget.plan.to_dict(),
    }
    if not around:
        return own
    return own | {
        "by_noise": [{"noise_multiplier": noise, "epsilon": epsilon} for noise, epsilon in budget.noisier()],
        "same_epsilon": [
            {
                "batch": other.batch,
                "epochs": other.epochs,
                "steps": other.plan.steps,
                "noise_multiplier": other.plan.noise_multiplier,
                "noise_per_unit": other.noise_per_unit,
            }
            for other in budget.at_this_epsilon()
        ],
    }


def budget_line(content: dict[str, Any]) -> str:
    """Return a budget in one line.

    Args:
        content: from `budget_dict`.
    """
    plan = content["plan"]
    steps = f"{plan['steps']:,} steps of {content['batch']:,} on average"
    return (
        f"{said_guarantee(plan['epsilon'], plan['delta'], plan['unit'], plan['neighbours'])}: "
        f"noise {plan['noise_multiplier']:.2f}, {steps} ({plan['accountant'].upper()} accountant)"
    )


def budget_tables(content: dict[str, Any]) -> list[Table]:
    """Return the tables that a terminal shows: the run with other noise, and other runs at its epsilon.

    Args:
        content: from `budget_dict`.
    """
    plan = content["plan"]
    noise = Table(title="the same run with other noise", box=box.SIMPLE)
    noise.add_column("noise multiplier", justify="right")
    noise.add_column("epsilon", justify="right")
    for row in content["by_noise"]:
        here = row["noise_multiplier"] == plan["noise_multiplier"]
        noise.add_row(f"{row['noise_multiplier']:.2f}", said_epsilon(row["epsilon"]), style="bold" if here else None)
    caption = "noise per unit: of the mean gradient, in clips; the smaller, the better the student learns"
    same = Table(title=f"other runs at epsilon {said_epsilon(plan['epsilon'])}", caption=caption, box=box.SIMPLE)
    for heading in ("batch", "epochs", "steps", "noise multiplier", "noise per unit"):
        same.add_column(heading, justify="right")
    for row in content["same_epsilon"]:
        here = row["batch"] == content["batch"] and row["epochs"] == content["epochs"]
        same.add_row(
            f"{row['batch']:,}",
            f"{row['epochs']:g}",
            f"{row['steps']:,}",
            f"{row['noise_multiplier']:.2f}",
            f"{row['noise_per_unit']:.5f}",
            style="bold" if here else None,
        )
    return [noise, same]


def budget_figure(content: dict[str, Any], path: Path) -> Path:
    """Draw epsilon against noise, and noise per unit against batch and epochs, and save it as PNG.

    Args:
        content: from `budget_dict`.
        path: where it goes.
    """
    # Here: whoever asks for a line waits for no figures.

    from swingkd.report.plots import COLOURS, blank_figure, look, save_figure

    figure, (left, right) = blank_figure((10, 4), 1, 2)
    rows = content["by_noise"]
    left.plot([r["noise_multiplier"] for r in rows], [r["epsilon"] for r in rows], "o-", color=COLOURS[0])
    plan = content["plan"]
    left.plot(plan["noise_multiplier"], plan["epsilon"], "o", markersize=10, color=COLOURS[1], label="this run")
    left.set_xlabel("noise multiplier")
    left.set_ylabel(f"epsilon at delta {said_delta(plan['delta'])}")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    for i, epochs in enumerate(sorted({r["epochs"] for r in content["same_epsilon"]})):
        some = [r for r in content["same_epsilon"] if r["epochs"] == epochs]
        right.plot(
            [r["batch"] for r in some],
            [r["noise_per_unit"] for r in some],
            linestyle="-",
            **look(i),
            label=f"{epochs:g} epochs",
        )
    right.set_xscale("log")
    right.set_yscale("log")
    batches = sorted({r["batch"] for r in content["same_epsilon"]})
    right.set_xticks(batches, [f"{batch:,}" for batch in batches])
    right.minorticks_off()
    right.set_xlabel("batch")
    right.set_ylabel("noise per unit, in clips")
    right.set_title(f"at epsilon {said_epsilon(plan['epsilon'])}")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.25)
    figure.suptitle(f"{content['units']:,} {plan['unit']}s: what privacy costs")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
    return path
