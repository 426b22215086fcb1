"""The recipes are scripts, run from their folders; their tests import them from there."""

import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
# The other recipe's scripts have names of their own, or are run as programs.
sys.path[:0] = [str(RECIPES / "reproduce_ccpp")]
sys.path.append(str(RECIPES / "embedded_guard"))
sys.path.append(str(RECIPES / "policy_portability"))
