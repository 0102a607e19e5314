"""What the tests of the pipelines share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers in small_brains.py
