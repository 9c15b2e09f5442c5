"""Let people's models learn from each other, without their data: SD-Dist beside its rivals and its controls.

python recipes/sd_dist_har/run.py --config recipes/sd_dist_har/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from federations import main
from launch import launch

if __name__ == "__main__":
    launch(main, __doc__)
