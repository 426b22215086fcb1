"""What the probe costs, and how fast data are made: `python -m benchmarks.NAME`."""
