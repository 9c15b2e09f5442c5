"""What is said: cards and figures made from measured results, and nothing else."""

from .audit_figures import audit_tables, roc_figure, roc_figures
from .audit_files import write_audit
from .budget import budget_dict, budget_figure, budget_line, budget_tables
from .metrics import MetricsFile, exposure_rows, extraction_rows, ledger_rows, membership_rows
from .model_card import ModelFacts, model_card
from .model_files import forget_model_facts, read_model_facts, write_audit_onto_card, write_model_files
from .page import ShownToken, load_tokens, save_tokens, shown_tokens
from .plots import exposure_figure
from .row import Row
from .runs.federation import federation_table
from .runs.write import write_card
from .summary import Summary, comparison_table, summarise

__all__ = [
    "MetricsFile",
    "ModelFacts",
    "Row",
    "ShownToken",
    "Summary",
    "audit_tables",
    "budget_dict",
    "budget_figure",
    "budget_line",
    "budget_tables",
    "comparison_table",
    "exposure_figure",
    "exposure_rows",
    "extraction_rows",
    "federation_table",
    "forget_model_facts",
    "ledger_rows",
    "load_tokens",
    "membership_rows",
    "model_card",
    "read_model_facts",
    "roc_figure",
    "roc_figures",
    "save_tokens",
    "shown_tokens",
    "summarise",
    "write_audit",
    "write_audit_onto_card",
    "write_card",
    "write_model_files",
]
