"""Tokens that are out before the halt, by hand."""

import numpy as np

from recipes.reproduce_ccpp.study.delay import delivered
from recipes.reproduce_ccpp.study.systems import Cost, SystemScores


def test_what_is_out_before_the_halt_by_hand():
    low, cut = -1.0, 0.0
    ends = np.array([[0, 8, 16, 20]] * 5)
    scores = np.array(
        [
            [9.0, low, low, low],  # halted before the answer
            [low, 9.0, low, low],  # suspicion begins in the block that flags: all of it but one token
            [low, low, 9.0, low],  # suspicious since block 1: what was cleared at its end
            [low, low, low, 9.0],  # suspicion begins in the last block
            [low, low, low, low],
        ]
    )
    began = np.zeros((5, 4), dtype=bool)
    began[0, 0] = began[1, 1] = began[2, 1] = began[3, 3] = True
    free = Cost(*(np.zeros(5) for _ in range(4)))
    halted, tokens = delivered(SystemScores(scores, ends, free, began), cut)
    assert halted.tolist() == [True, True, True, True, False]
    np.testing.assert_array_equal(tokens, [0, 7, 8, 19, np.nan])
    # Where every block waits for its verdict, nothing of the flagging block is out.
    np.testing.assert_array_equal(delivered(SystemScores(scores, ends, free), cut)[1], [0, 0, 8, 16, np.nan])
