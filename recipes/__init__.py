"""Research on Lockgate. Run it from the repository: `python -m recipes.NAME.STEP`. README.md is the index."""
