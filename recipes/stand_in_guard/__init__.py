"""The guard of the stand-in policy that comes with the package, and the attacks that it was measured with."""
