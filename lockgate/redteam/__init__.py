"""Red team."""
