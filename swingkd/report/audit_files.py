"""Write what an audit found into a folder: numbers, figures and a page."""

from __future__ import annotations

import json
import os
from pathlib import Path

from swingkd.audit import AuditReport
from swingkd.report.audit_figures import roc_figures
from swingkd.report.page import PAGE_FILE, write_page
from swingkd.report.page_contents import audit_page


def write_audit(
    report: AuditReport, output_dir: str | Path, *, title: str = "audit", show_secrets: bool = False
) -> list[Path]:
    """Write report.json, report.html and one roc_*.png a kind of record into a folder.

    Args:
        report: what was measured.
        output_dir: the folder.
        title: of the page, such as the model's name.
        show_secrets: with the private values that were found; they are redacted otherwise.

    Returns:
        The paths of the files.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.json"
    path.unlink(missing_ok=True)
    # Only the owner may read secrets.
    mode = 0o600 if show_secrets else 0o666
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(json.dumps(report.to_dict(show_secrets), indent=1, ensure_ascii=False) + "\n")
    page = write_page(audit_page(report, title), folder / PAGE_FILE)
    return [path, page, *roc_figures(report, folder)]
