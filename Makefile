# Each target does its own set-up and is quick the second time. Arguments: make test ARGS="-k lint"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup serve test coverage check docs bench

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv with pinned packages and fetch the embedded weights
	@scripts/fetch

serve:  ## Serve the embedded guard and print its URL
	@scripts/serve $(ARGS)

test:  ## Run the tests (the browser's too, where Chromium is found)
	@scripts/test $(ARGS)

coverage:  ## Run the tests, measure what they cover, and fail below the floor
	@scripts/coverage $(ARGS)

check:  ## Lint, formatting and types
	@scripts/check

docs:  ## Build the documentation site into site/html; broken links are errors
	@scripts/docs

bench:  ## Measure what the probe costs per token, and how fast data are made
	@scripts/bench $(ARGS)
