"""The trial of thread counts: it ends with the number that pays. What somebody has chosen stays."""

import pytest
import torch
from models import tiny_backbone

from lockgate.backbones import threads
from lockgate.backbones.threads import choose_threads


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.35, 8: 0.4}, 4),
        ({1: 1.0, 2: 1.2}, 1),
        ({1: 1.0, 2: 0.95}, 1),
        ({1: 1.0, 2: 0.5, 4: 0.3, 8: 0.2}, 8),
    ],
)
def test_more_threads_are_taken_while_they_pay(monkeypatch, seconds, best) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_time_step", lambda backbone, number: seconds[number])
    torch.set_num_threads(8)
    assert choose_threads(tiny_backbone("llama")) == best == torch.get_num_threads()


def test_the_environments_choice_stays(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    assert choose_threads(tiny_backbone("llama")) == 3


def test_real_steps_are_tried(monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    backbone = tiny_backbone("llama")
    assert choose_threads(backbone) in (1, 2)
    assert backbone.tap is None
