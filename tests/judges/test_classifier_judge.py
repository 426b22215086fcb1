"""An exchange classifier on a backbone of its own as a judge."""

import pytest
from judges import random_classifier
from models import save_tiny, tiny_backbone
from text_judges import talk

from lockgate.backbones import Backbone
from lockgate.classifiers import judge as verdicts
from lockgate.errors import JudgeError
from lockgate.exchanges import Exchange, PromptPrints
from lockgate.judges import ClassifierFile, PolicyName, open_judge

TALKS = [talk("where is the boat?", "at the mill"), talk("why", "the water " * 9), talk("a", "b", "c", "d")]


@pytest.fixture
def saved(tmp_path):
    def saved(policy=None, **options):
        backbone = Backbone.load(save_tiny("qwen2", tmp_path / "backbone"))
        classifier = random_classifier(backbone, **options)
        classifier.training_prompts = PromptPrints.of([Exchange(talk("known prompt", "x"))])
        if policy is not None:
            training = {"constitution": policy}
            classifier.record = classifier.record.model_copy(update={"training": training})
        classifier.save(tmp_path / "classifier")
        return ClassifierFile(path=str(tmp_path / "classifier"), backbone=str(tmp_path / "backbone"))

    return saved


def test_it_gives_the_verdicts_that_it_gives_as_a_classifier(saved):
    file = saved()
    judge = open_judge(file)
    classifier = judge._classifier
    assert classifier.backbone.name != tiny_backbone().name
    for conversation, reading in zip(TALKS, judge.judge(TALKS), strict=True):
        chat = classifier.render(conversation)
        ids = [*chat.token_ids[: chat.answer_end], *classifier.suffix]
        assert reading.prompt_tokens == len(ids) - chat.prefix_length
        with classifier.pool(len(ids)) as pool:
            session = classifier.open(pool, chat, chat.answer_end)
            answer = chat.token_ids[chat.answer_start : chat.answer_end]
            assert reading.logit == pytest.approx(verdicts(pool, [(session, answer)])[0], abs=1e-5)
    judge.check()
    assert judge.judge([talk("a question without an answer")])[0].given
    assert len(judge.training_prompts) == 1


def test_its_policy_is_that_of_its_training(saved):
    file = saved(policy={"name": "stage-magic", "version": 3})
    assert open_judge(file).file.policy == PolicyName(name="stage-magic", version="3")
    with pytest.raises(JudgeError, match="was trained for stage-magic"):
        open_judge(file.model_copy(update={"policy": PolicyName(name="other", version=3)}))


def test_a_classifier_of_prompts_is_no_judge(saved):
    with pytest.raises(JudgeError, match="reads prompts"):
        open_judge(saved(reads="prompt"))


def test_a_conversation_that_the_template_refuses_is_no_verdict(saved):
    judge = open_judge(saved())
    readings = judge.judge([(), TALKS[0]])
    assert [reading.given for reading in readings] == [False, True]
