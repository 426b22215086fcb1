# Each target sets up what it needs and is quick the second time.
# Pass arguments like this: make test ARGS="-k lint"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-vllm test-clients coverage check docs bench

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv with pinned packages and fetch the embedded model's weights
	@scripts/fetch

serve:  ## Serve the embedded guard and print its URL
	@scripts/serve $(ARGS)

test:  ## Run the package's tests (browser tests need Chromium)
	@scripts/test $(ARGS)

test-vllm:  ## Run the tests of the probe inside vLLM, in .venv-vllm (3.5 GB; VLLM_VENV names another)
	@scripts/test-vllm $(ARGS)

test-clients:  ## Run the tests with other tools (LangChain, LiteLLM, Inspect, PyRIT, garak) in environments of their own
	@scripts/test-clients $(ARGS)

coverage:  ## Run the tests and fail if they cover too little
	@scripts/coverage $(ARGS)

check:  ## Check lint, formatting, types and the measures of the package
	@scripts/check

docs:  ## Build the documentation site into site/html
	@scripts/docs

bench:  ## Measure the probe's cost, the speed of making data, and what the gateway adds to an upstream
	@scripts/bench $(ARGS)
