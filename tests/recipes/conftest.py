"""The recipes are scripts, run from their folders; their tests import them from there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "reproduce_ccpp"))
