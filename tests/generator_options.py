"""Generator options that every command refuses, and the expected errors."""

ENDPOINT = ("--generator", "http://127.0.0.1:1/v1")
REFUSED = [
    (("--preset", "small"), "--plan and --preset"),
    (ENDPOINT, "--model"),
    (("--price-prompt", "1"), "give both"),
    (("--engine", "steam"), "expected one of local, ray"),
    ((*ENDPOINT, "--model", "m", "--budget-tokens", "5", "--engine", "ray"), "would spend the whole budget"),
    (("--judge", "embedded"), "hand-labelled rows together"),
]
