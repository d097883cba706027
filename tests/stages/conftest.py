"""`killed_runs` and `loopback_hub` become importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
