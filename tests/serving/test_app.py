"""The server answers as vLLM does, counts what it answers, and survives whatever is sent."""

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest

from swingkd import PrivateDistillationTrainer, TeacherServer, cache_teacher
from swingkd.serving import app as app_module
from swingkd.serving import create_app
from swingkd.serving.batches import Batches, BusyError
from tests.harness import tiny_model

ROWS = [[3, 5, 6, 7, 8], [4, 9, 10], [5, 11, 12, 13]]
ASKED = {"prompt": ROWS, "prompt_logprobs": 4, "max_tokens": 1, "temperature": 0}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_a_server_s_answers_are_the_teacher_s(serve, served, tokenizer):
    with serve() as (url, token):
        server = TeacherServer(f"{url}/v1", api_key=token)
        server.check(tokenizer, 5)
        assert server.max_length == served.longest
        for top_k in (1, 5, 64):
            for one, two in zip(served.answer(ROWS, top_k), server.log_probs(ROWS, top_k), strict=True):
                np.testing.assert_array_equal(one.ids, two.ids)
                np.testing.assert_allclose(one.log_probs, two.log_probs, atol=1e-5)


def test_a_student_learns_from_a_served_teacher(serve, clients, served, tokenizer, config, texts):
    data = texts.select(range(20))
    with serve() as (url, token):
        cached = cache_teacher(
            TeacherServer(f"{url}/v1", api_key=token), config(protection="none"), data, tokenizer, top_k=8
        )
        # Each predicted token is one answer; two short rows are asked before.
        asked = sum(len(row) - 1 for row in cached["input_ids"]) + 2 * 15
        assert clients.known(token).asked == asked
    trainer = PrivateDistillationTrainer(
        tiny_model(len(tokenizer)), config(protection="none"), train_dataset=cached, processing_class=tokenizer
    )
    trainer.train()


def test_each_place_holds_the_likeliest_tokens_and_the_one_that_was_sent(serve, served):
    with serve() as (url, token):
        answer = httpx.post(f"{url}/v1/completions", json=ASKED, headers=bearer(token)).json()
    for row, choice, expected in zip(ROWS, answer["choices"], served.answer(ROWS, 4), strict=True):
        places = choice["prompt_logprobs"]
        assert places[0] is None
        assert len(places) == len(row)
        for place, (token_id, of) in enumerate(zip(row[1:], places[1:], strict=True)):
            assert {int(name) for name in of} == {token_id, *expected.ids[place].tolist()}
            assert of[str(token_id)]["rank"] == expected.ranks[place]
            assert of[str(token_id)]["logprob"] == pytest.approx(float(expected.sent[place]), abs=1e-5)


def test_nobody_else_asks(serve, clients):
    with serve() as (url, token):
        for headers in ({}, bearer("guess"), bearer(token + "x"), {"Authorization": token}):
            for path in ("/v1/completions", "/tokenize"):
                assert httpx.post(url + path, json=ASKED, headers=headers).status_code == 401
            assert httpx.get(url + "/v1/models", headers=headers).status_code == 401
        assert httpx.get(url + "/health").json() == {"status": "ok"}
        # Taken out while the server runs.
        clients.admit(["bob"], 10)
        assert httpx.post(url + "/v1/completions", json=ASKED, headers=bearer(token)).status_code == 401


def test_past_the_budget_nothing_is_answered(serve, clients):
    with serve(budget=20) as (url, token):

        def ask(rows):
            return httpx.post(f"{url}/v1/completions", json=ASKED | {"prompt": rows}, headers=bearer(token))

        assert ask(ROWS).status_code == 200  # 4 + 2 + 3 answers
        assert ask(ROWS).status_code == 200
        refused = ask(ROWS)
        assert refused.status_code == 403
        assert refused.json()["error"]["message"].startswith("9 answers were asked for, and 2 of the budget are left")
        assert ask([ROWS[1]]).status_code == 200
        (card,) = httpx.get(f"{url}/v1/models", headers=bearer(token)).json()["data"]
        assert (card["budget"], card["budget_left"]) == (20, 0)
        with pytest.raises(ValueError, match=r"The server refuses \(403\): 4 answers were asked for"):
            TeacherServer(f"{url}/v1", api_key=token, attempts=1).log_probs([ROWS[0]], 2)


def test_a_client_that_asks_too_fast_waits(serve, clients):
    with serve(rate=10) as (url, token):

        def ask(rows):
            return httpx.post(f"{url}/v1/completions", json=ASKED | {"prompt": rows}, headers=bearer(token))

        assert ask(ROWS).status_code == 200
        refused = ask(ROWS)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
        # More than a minute may have will never do: to try again would not help.
        assert ask(ROWS * 2).status_code == 400
        assert clients.known(token).asked == 9, "what is refused is not counted"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "request"),
        (b"{", "request"),
        (b"[1]", "request"),
        (b"\xff\xfe", "request"),
        ({}, "prompt"),
        ({"prompt": "my pin is 4071", "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[]], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[4071]], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1, 40714071]], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1, -4071]], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1, "4071"]], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1, 4071.5]], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1, None]], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1] * 5000], "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1, 2]] * 5000, "prompt_logprobs": 1}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt_logprobs"),
        ({"prompt": [[1, 2]], "prompt_logprobs": 0}, "prompt_logprobs"),
        ({"prompt": [[1, 2]], "prompt_logprobs": 10**9}, "prompt_logprobs"),
        ({"prompt": [[1, 2]], "prompt_logprobs": True}, "prompt_logprobs"),
        ({"prompt": [[1, 2]], "prompt_logprobs": 1, "max_tokens": 50}, "max_tokens"),
        ({"prompt": [[1, 2]], "prompt_logprobs": 1, "stream": True}, "stream"),
        ({"prompt": [[1, 2]], "prompt_logprobs": 1, "model": "another"}, "The model here is"),
    ],
)
def test_what_cannot_be_answered_is_refused_without_a_word_of_it(serve, clients, caplog, capfd, content, said):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    with caplog.at_level(logging.DEBUG), serve() as (url, token):
        refused = httpx.post(f"{url}/v1/completions", content=body, headers=bearer(token))
        assert refused.status_code in (400, 404)
        assert said in refused.json()["error"]["message"]
        assert clients.known(token).asked == 0
        assert httpx.post(f"{url}/v1/completions", json=ASKED, headers=bearer(token)).status_code == 200
    for text in (refused.text, caplog.text, *capfd.readouterr()):
        assert "4071" not in text


def test_a_request_that_is_too_large_is_not_read(serve, monkeypatch):
    monkeypatch.setattr(app_module, "LARGEST", 1000)
    with serve() as (url, token):
        refused = httpx.post(f"{url}/v1/completions", content=b" " * 2000, headers=bearer(token))
        assert refused.status_code == 413
        assert httpx.post(f"{url}/v1/completions", json=ASKED, headers=bearer(token)).status_code == 200


def test_a_teacher_that_fails_says_nothing_and_costs_nothing(serve, served, clients, caplog, monkeypatch):
    def fail(rows, top_k):
        raise MemoryError(f"no room for {rows}")

    broken = replace(served)
    monkeypatch.setattr(type(broken), "answer", lambda self, rows, top_k: fail(rows, top_k))
    with serve(served=broken) as (url, token):
        refused = httpx.post(f"{url}/v1/completions", json=ASKED, headers=bearer(token))
    assert refused.status_code == 500
    assert clients.known(token).asked == 0
    assert "11, 12" not in refused.text + caplog.text
    assert "MemoryError" in caplog.text


def test_sixteen_clients_at_once_get_each_its_own_answers(serve, served, clients):
    rows = [[3 + i % 7, *range(5, 7 + i % 11)] for i in range(64)]
    expected = served.answer(rows, 3)
    with serve() as (url, token):

        def ask(i):
            server = TeacherServer(f"{url}/v1", api_key=token)
            return server.log_probs(rows[i * 4 : i * 4 + 4], 3)

        with ThreadPoolExecutor(16) as threads:
            found = [answer for part in threads.map(ask, range(16)) for answer in part]
        assert clients.known(token).asked == sum(len(row) - 1 for row in rows)
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.ids, two.ids)
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=1e-5)


def test_batches_hold_as_many_tokens_as_they_may_and_nobody_waits_in_vain():
    seen = []

    def answer(rows, top_k):
        seen.append([len(row) for row in rows])
        return [(sum(row), top_k) for row in rows]

    async def ask():
        batches = Batches(answer, tokens=12, waiting=9)
        async with batches.running():
            rows = [[i] * size for i, size in enumerate([3, 9, 3, 20, 2, 4])]
            found = await batches.ask(rows, 2)
            assert [total for total, _ in found] == [sum(row) for row in rows]
            with pytest.raises(BusyError):
                await batches.ask([[1]] * 10, 1)
            # Whoever is gone is not answered.
            gone = asyncio.create_task(batches.ask([[7, 7]], 1))
            await asyncio.sleep(0)
            gone.cancel()
            before = len(seen)
            assert await batches.ask([[5]], 1) == [(5, 1)]
            assert seen[before:] in ([[1]], [[2], [1]], [[2, 1]])

    asyncio.run(ask())
    assert sorted(size for batch in seen[:5] for size in batch)[-1] == 20
    assert [20] in seen, "longer than a batch: alone"
    assert all(len(batch) == 1 or max(batch) * len(batch) <= 12 for batch in seen)


@pytest.mark.parametrize("setting", [{"top_k": 0}, {"rate": -1}, {"max_length": 1}, {"batch_tokens": 0}])
def test_settings_that_let_nobody_ask_are_refused(served, clients, setting):
    with pytest.raises(ValueError, match="lets nobody ask"):
        create_app(served, clients, **setting)
