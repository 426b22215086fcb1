"""The delay of detection, compared with values computed by hand."""

import numpy as np

from lockgate.evaluation import Clusters, summarise_delay


def test_shares_halted_and_what_was_out_by_then():
    halted = np.array([True, True, True, True, False])
    tokens = np.array([0, 7, 8, 19, np.nan])
    share = np.where(halted, tokens / 20, np.inf)
    delay = summarise_delay("x", halted, tokens, share, Clusters(np.arange(5), 100, 0))
    assert (delay.halted.value, delay.before_half.value, delay.at_prompt.value) == (0.8, 0.6, 0.2)
    assert delay.tokens[0] == 7.5
    assert delay.curve[0] == 0.2
    assert delay.curve[-1] == 0.8


def test_nobody_halted_has_no_delay():
    none = np.zeros(3, dtype=bool)
    delay = summarise_delay("x", none, np.full(3, np.nan), np.full(3, np.inf), Clusters(np.arange(3), 100, 0))
    assert delay.tokens is None
    assert delay.halted.value == 0.0
