"""Sequence classifiers as judges, against the model's own logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from text_judges import save_sequence, sequence_judge, talk
from transformers import AutoModelForSequenceClassification

from lockgate.errors import JudgeError
from lockgate.exchanges import Message
from lockgate.judges import SequenceFile, find_judge, open_judge
from lockgate.judges._batches import split
from lockgate.judges._sequence import harmful_labels

TALKS = [talk("where is the boat?", "at the mill, past the bridge"), talk("why"), talk("a", "b", "c", "d")]


def oracle(path, text):
    """The model's logits on a text, alone and without our batches."""
    from transformers import AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.inference_mode():
        return model(**AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")).logits[0].double()


def test_the_logit_is_that_of_the_harmful_labels(tmp_path):
    judge = sequence_judge(tmp_path / "one")
    readings = judge.judge(TALKS)
    for conversation, reading in zip(TALKS, readings, strict=True):
        text = "\n\n".join(f"{message.role}: {message.content}" for message in conversation)
        logits = oracle(tmp_path / "one", text)
        assert reading.logit == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)
        assert reading.given
        assert reading.seconds > 0
        assert reading.prompt_tokens == len(judge._encoder.text(text))


def test_only_the_answer_if_asked_and_labels_by_name_or_number(tmp_path):
    path = save_sequence(tmp_path / "one", labels=("fine", "hate", "spam"))
    logits = oracle(path, "the boat")
    for harmful in (("hate", "spam"), ("1", "2")):
        file = SequenceFile(path=str(path), reads="answer", harmful=harmful)
        found = open_judge(file).judge([talk("what!", "the boat")])[0].logit
        assert found == pytest.approx(float(logits[1:].logsumexp(0) - logits[0]), abs=1e-4)


def test_a_long_text_is_as_harmful_as_its_worst_window(tmp_path):
    judge = sequence_judge(tmp_path / "one", max_tokens=32, reads="answer")
    long = "the boat and the mill, the bridge and the orchard; " * 12
    windows = judge._encoder.windows(long, 32)
    assert len(windows) > 4
    assert max(map(len, windows)) <= 32
    # Windows overlap, and together they hold the whole text.
    whole = judge._encoder.text(long)
    assert windows[0] == whole[:32]
    assert windows[-1] == whole[-len(windows[-1]) :]
    with torch.inference_mode():
        rows = [judge._model(torch.tensor([window])).logits[0] for window in windows]
    worst = max(float(row[1] - row[0]) for row in rows)
    reading = judge.judge([talk("a", long)])[0]
    assert reading.logit == pytest.approx(worst, abs=1e-4)
    assert reading.prompt_tokens == sum(map(len, windows))


@pytest.mark.parametrize(
    ("labels", "given", "found"),
    [
        (("safe", "unsafe"), (), [1]),
        (("SAFE", "INJECTION"), (), [1]),
        (("toxic", "non-toxic"), (), [0]),
        (("LABEL_0",), (), [0]),
        (("ok", "hate", "offensive"), (), [1, 2]),
        (("LABEL_0", "LABEL_1"), ("LABEL_1",), [1]),
        (("a", "b", "c"), ("0", "c"), [0, 2]),
    ],
)
def test_which_labels_mean_harmful(labels, given, found):
    assert harmful_labels(dict(enumerate(labels)), given, "here") == found


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (("LABEL_0", "LABEL_1"), (), "unclear which labels mean harmful.*0 .LABEL_0., 1 .LABEL_1."),
        (("a", "b"), ("c",), "has no label c"),
        (("a", "b"), ("a", "b"), "unclear"),
    ],
)
def test_labels_that_do_not_say_it(labels, given, message):
    with pytest.raises(JudgeError, match=message):
        harmful_labels(dict(enumerate(labels)), given, "here")


def test_folders_that_are_no_judge(tmp_path):
    path = save_sequence(tmp_path / "one")
    assert find_judge(path) == SequenceFile(path=str(path))
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace("ForSequenceClassification", "ForCausalLM"))
    with pytest.raises(JudgeError, match="does not say its verdict words"):
        find_judge(path)
    (path / "config.json").write_text(config[:-3] + ', "auto_map": {"AutoModel": "x.y"}}')
    with pytest.raises(JudgeError, match="code of its own"):
        open_judge(SequenceFile(path=str(path)))
    (path / "config.json").write_text(config)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(JudgeError, match="no weights in safetensors"):
        open_judge(SequenceFile(path=str(path)))
    with pytest.raises(JudgeError, match="no such folder"):
        open_judge(SequenceFile(path=str(tmp_path / "none")))


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    """Loaded as a classifier, a causal model would judge by chance."""
    from text_judges import save_guard_model

    path = save_guard_model(tmp_path / "one", "llama-guard")
    with pytest.raises(JudgeError, match="weights of AutoModelForSequenceClassification are missing"):
        open_judge(SequenceFile(path=str(path)))


def test_a_conversation_with_tools_is_read_whole(tmp_path):
    judge = sequence_judge(tmp_path / "one")
    call = {"id": "1", "function": {"name": "open", "arguments": "{}"}}
    tools = (Message("user", "a"), Message("assistant", "", tool_calls=(call,)))
    assert judge.judge([tools])[0].logit != judge.judge([talk("a", "")])[0].logit


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200), st.booleans())
def test_batches_hold_every_reading_once_and_fit(lengths, batch_tokens, padded):
    batches = list(split(lengths, batch_tokens, padded=padded))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens
        assert padded or {lengths[row] for row in batch} == {longest}


def test_a_failed_window_is_no_pass(tmp_path):
    judge = sequence_judge(tmp_path / "one")
    judge._model.score.weight.data[1] = math.nan
    assert not judge.judge(TALKS)[0].given
    with pytest.raises(JudgeError, match="no finite logit"):
        judge.check()
