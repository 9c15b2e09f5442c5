"""A teacher behind a server is the teacher, or is refused: of every fault that was reported of such servers, one."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from swingkd import PrivateDistillationTrainer, RuleTagger, TeacherServer, cache_teacher
from swingkd.data.teacher_columns import TEACHER_COLUMNS
from swingkd.trainer.server_cache import ServerWriter
from tests.harness import TEXTS, other_tokenizer, tiny_model
from tests.models.served import Served, serving

ROWS = [[0, 5, 6, 7, 8], [0, 9, 10], [0, 11, 12, 13]]


@pytest.fixture
def served(teacher, tokenizer):
    return Served(teacher, tokenizer)


@pytest.fixture
def server(served):
    with serving(served) as url:
        yield TeacherServer(url, attempts=3)


@pytest.mark.parametrize("kind", ["vllm", "llama"])
def test_answers_are_those_of_the_model(teacher, tokenizer, kind):
    with serving(Served(teacher, tokenizer, kind)) as url:
        server = TeacherServer(url)
        server.check(tokenizer, 5)
        for row, found in zip(ROWS, server.log_probs(ROWS, 5), strict=True):
            with torch.no_grad():
                values, ids = teacher(torch.tensor([row])).logits[0, :-1].double().log_softmax(-1).topk(5)
            np.testing.assert_array_equal(found.ids, ids)
            np.testing.assert_allclose(found.log_probs, values, atol=1e-6)


@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
def test_a_cache_of_a_server_is_a_cache_of_the_model(server, teacher, tokenizer, config, texts, temperature):
    args = config(protection="none", temperature=temperature)
    data, options = texts.select(range(20)), {"top_k": 300, "exact": True, "tagger": RuleTagger()}
    local = cache_teacher(teacher, args, data, tokenizer, **options)
    remote = cache_teacher(server, args, data, tokenizer, **options)
    for one, two in zip(local, remote, strict=True):
        assert one["input_ids"] == two["input_ids"]
        assert one["pii_likelihood"] == two["pii_likelihood"]
        np.testing.assert_allclose(one["teacher_log_probs"], two["teacher_log_probs"], atol=1e-4)
        kept = np.array(one["teacher_tails"]).reshape(-1, 2), np.array(two["teacher_tails"]).reshape(-1, 2)
        assert (kept[1][:, 1] >= kept[0][:, 1] - 1e-3).all(), "equally likely tokens weigh the most"
        np.testing.assert_allclose(np.exp(kept[0][:, 0]), np.exp(kept[1][:, 0]), atol=1e-4)
        if temperature == 1:
            np.testing.assert_allclose(np.exp(kept[0][:, 1]), np.exp(kept[1][:, 1]), atol=1e-4)
    trainer = PrivateDistillationTrainer(
        tiny_model(len(tokenizer)), config(temperature=temperature), train_dataset=remote, processing_class=tokenizer
    )
    trainer.train()


def test_what_is_not_given_weighs_what_is_missing(server, tokenizer, config):
    """Naively in float64: K tokens are given; the others share the rest equally, softened by the temperature."""
    writer = ServerWriter(server, config(temperature=3.0), tokenizer, 4, True)
    probabilities = np.array([[0.5, 0.2, 0.1, 0.05], [0.97, 0.02, 0.005, 0.004]])
    others = len(tokenizer) - 4
    expected = [
        (np.log(1 - row.sum()), np.log(sum(((1 - row.sum()) / others) ** (1 / 3) for _ in range(others))))
        for row in probabilities
    ]
    np.testing.assert_allclose(writer.tails(np.log(probabilities)), expected, rtol=1e-5)


def test_a_failing_server_is_asked_again_and_with_fewer_rows(served, server):
    expected = server.log_probs(ROWS, 3)
    served.faults = [(503, "loading the model"), (429, "slow down")]
    for one, two in zip(expected, server.log_probs(ROWS, 3), strict=True):
        np.testing.assert_array_equal(one.log_probs, two.log_probs)
    served.largest = 1
    assert len(server.log_probs(ROWS, 3)) == 3
    assert server.batch_size == 1
    served.largest = 0
    with pytest.raises(ValueError, match="failed \\(500\\): CUDA out of memory"):
        server.log_probs(ROWS, 3)


def null_inside(answer):
    answer["choices"][0]["prompt_logprobs"][1] = None
    return answer


def only_the_first(answer):
    answer["choices"][0]["prompt_logprobs"] = [None]
    return answer


def other_tokens(answer):
    for choice in answer["choices"]:
        choice["prompt_logprobs"][1] = {"250": {"logprob": -0.1, "rank": 1}, "251": {"logprob": -3.0, "rank": 2}}
    return answer


def raw_logits(answer):
    for choice in answer["choices"]:
        for one in choice["prompt_logprobs"][1:]:
            for value in one.values():
                value["logprob"] += 20
    return answer


def echo_ignored(answer):
    return {"choices": [{"index": choice["index"], "text": "x"} for choice in answer["choices"]]}


def a_row_less(answer):
    return {"choices": answer["choices"][1:]}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (null_inside, "no log-probabilities of the prompt, or not of all"),
        (only_the_first, "no log-probabilities of the prompt, or not of all"),
        (echo_ignored, "no log-probabilities of the prompt"),
        (other_tokens, "about other tokens"),
        (raw_logits, "logarithms of no probabilities"),
        (a_row_less, "answered about 2 of 3 rows"),
        ((400, "the prompt is too long"), r"refuses \(400\): the prompt is too long"),
    ],
)
def test_an_answer_about_something_else_is_refused(served, server, fault, says):
    served.always = fault
    with pytest.raises(ValueError, match=says):
        server.log_probs(ROWS, 2)


def test_minus_infinity_is_read_as_such(served, server):
    def floor(answer):
        for one in answer["choices"][0]["prompt_logprobs"][1:]:
            next(value for value in one.values() if value["rank"] == 3)["logprob"] = -9999.0
        return answer

    served.always = floor
    assert any(np.isneginf(one.log_probs).any() for one in server.log_probs(ROWS, 3))


def test_answers_one_place_late_are_found_out(served, server, tokenizer):
    """As of servers without a first token: entry i is about token i + 1, which nobody sees by its length."""

    def late(answer):
        for choice in answer["choices"]:
            rows = choice["prompt_logprobs"]
            for place in range(1, len(rows) - 1):
                rows[place] = rows[place + 1] | {token: rows[place][token] for token in list(rows[place])[:1]}
        return answer

    wrong = Served(served.model, tokenizer)
    ids = tokenizer(TEXTS[0])["input_ids"]
    shifted = wrong.log_probs

    def one_late(row):
        rows = shifted(row)
        return torch.cat([rows[1:], rows[-1:]])

    wrong.log_probs = one_late
    with serving(wrong) as url, pytest.raises(ValueError, match="change with that token"):
        TeacherServer(url).check(tokenizer, 5)
    assert len(ids) > 2


def test_another_tokenizer_and_a_low_limit_are_refused_at_once(served, server, tokenizer, config, texts):
    with pytest.raises(ValueError, match="tokenizer is another one"):
        cache_teacher(server, config(), texts, other_tokenizer())
    served.most = 20
    with pytest.raises(ValueError, match="greater than max allowed: 20"):
        cache_teacher(server, config(), texts, tokenizer, top_k=64)
    assert served.asked == [], "rows were sent before the limit was known"
    with pytest.raises(ValueError, match="too little to protect"):
        cache_teacher(server, config(), texts, tokenizer, protect=True, private_dataset=texts)
    with pytest.raises(ValueError, match="hold several"):
        cache_teacher(server, config(packing=True), texts, tokenizer, top_k=5)
    served.longest = 12
    with serving(served) as url, pytest.raises(ValueError, match=r"A row has .* and the server reads 11"):
        cache_teacher(TeacherServer(url), config(max_length=64), texts, tokenizer, top_k=5)


def test_no_server_and_no_such_model(served, tokenizer):
    with pytest.raises(ValueError, match="does not answer"):
        TeacherServer("http://127.0.0.1:9/v1", attempts=1)
    with pytest.raises(ValueError, match="begins with http"):
        TeacherServer("localhost:8000")
    with serving(served) as url, pytest.raises(ValueError, match="has the models tiny"):
        TeacherServer(url, "huge")


def test_what_was_asked_stays_asked(served, server, tokenizer, config, texts, monkeypatch):
    """Killed in the second part: a second call asks about the rest only, and the whole is what it would have been."""
    monkeypatch.setattr(ServerWriter, "part", 20)
    args, options = config(per_device_eval_batch_size=20), {"top_k": 5}
    data = Dataset.from_dict({"text": [f"{text} number {i}" for i, text in enumerate(texts["text"])]})
    before = len(served.asked)
    served.faults = [None, None, *[None] * 3, (400, "stopped")]
    with pytest.raises(ValueError, match="stopped"):
        cache_teacher(server, args, data, tokenizer, **options)
    first = sum(served.asked[before:])
    whole = cache_teacher(server, args, data, tokenizer, **options)
    assert len(whole) == 60
    assert set(TEACHER_COLUMNS) <= set(whole.column_names)
    sent = sum(served.asked[before:])
    assert sent < first + 60, "everything was asked again"


def test_secrets_of_rows_are_not_in_errors(served, server):
    served.always = (400, f"1 validation error: bad value, input: {json.dumps(ROWS)}")
    with pytest.raises(ValueError, match="bad value") as caught:
        server.log_probs(ROWS, 3)
    assert "[0, 5" not in str(caught.value)
