"""The four systems of Constitutional Classifiers++ on open data, from data to report."""
