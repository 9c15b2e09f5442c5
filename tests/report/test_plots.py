"""Figures are drawn without a window, and without a word about windows to the process."""

from __future__ import annotations

import subprocess
import sys


def test_drawing_leaves_a_notebooks_own_figures_alone(tmp_path):
    """pyplot's backend is the whole process's: whoever imports or draws with swingkd still sees their own figures."""
    code = f"""
import sys
from pathlib import Path
import swingkd.report.runs.write, swingkd.report.budget, swingkd.vision, swingkd.trainer.distillation
from swingkd.report.plots import blank_figure, save_figure
figure, axis = blank_figure((2, 2))
axis.plot([0, 1])
save_figure(figure, Path({str(tmp_path / "drawn.png")!r}))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "drawn.png").stat().st_size > 1000
