"""What is said: cards and figures made from measured results, and nothing else."""

from swingkd.report.card import write_card
from swingkd.report.metrics import MetricsFile, exposure_rows, row
from swingkd.report.plots import exposure_figure
from swingkd.report.summary import Summary, comparison_table, summarise

__all__ = [
    "MetricsFile",
    "Summary",
    "comparison_table",
    "exposure_figure",
    "exposure_rows",
    "row",
    "summarise",
    "write_card",
]
