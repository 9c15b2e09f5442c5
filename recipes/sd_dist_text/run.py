"""Let speakers' models learn from each other which character comes next: SD-Dist beside its rivals and its controls.

python recipes/sd_dist_text/run.py --config recipes/sd_dist_text/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "sd_dist_har"))
from federations import main
from launch import launch

if __name__ == "__main__":
    launch(main, __doc__)
