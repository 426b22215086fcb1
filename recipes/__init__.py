"""Research on Lockgate, run from the repository: `python -m recipes.NAME.STEP`. README.md is the index."""
