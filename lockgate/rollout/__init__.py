"""Which guard a server runs: the link that names it, guards that may take over, and builds of new ones."""

from lockgate.rollout._builds import Builds, Job
from lockgate.rollout._link import Entry, GuardLink
from lockgate.rollout._rollout import Rollout, StaleChange, Wish
from lockgate.rollout._shelf import OnShelf, Shelf

__all__ = ["Builds", "Entry", "GuardLink", "Job", "OnShelf", "Rollout", "Shelf", "StaleChange", "Wish"]
