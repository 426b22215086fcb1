"""The embedded guard: from public data to the guard in the package, with its figures and ablations."""
