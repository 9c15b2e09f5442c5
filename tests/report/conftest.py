"""A run of four students, measured."""

from __future__ import annotations

import pytest

from swingkd.audit import CanaryExposure, ExposureReport
from swingkd.report import MetricsFile, Row, exposure_rows

PLAN = {"model": "kd", "transfer": "A", "args": {}}


def report(exposure: float) -> ExposureReport:
    levels = [(10, True, exposure), (0, False, 1.4)]
    canaries = [
        CanaryExposure(i, "digits", repetitions, inserted, 1.0, value + 0.1 * i, 5.0)
        for i, (repetitions, inserted, value) in enumerate(level for level in levels for _ in range(4))
    ]
    return ExposureReport("exact", 16.6, tuple(canaries), 10, 100)


@pytest.fixture
def metrics(tmp_path):
    file = MetricsFile(tmp_path / "run" / "metrics.json", "a-run", {"seed": 0, "rows": [PLAN]})
    for model, seed, perplexity, exposure in (
        ("kd", 0, 10.0, 12.0),
        ("kd", 1, 12.0, 12.0),
        ("drop", 0, 10.5, 1.0),
        ("swing", 0, 11.0, 3.0),
    ):
        setting = f"transfer=A seed={seed}"
        file.add(
            [
                Row(model, f"{setting} split=test", "perplexity", perplexity),
                *exposure_rows(model, setting, report(exposure)),
            ]
        )
    return file
