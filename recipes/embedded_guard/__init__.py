"""The embedded guard: from public data to the bundle in the package, with its figures and ablations."""
