"""The cost of the probe and the speed of making data: `python -m benchmarks.NAME`."""
