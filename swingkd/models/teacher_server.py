"""A teacher behind a server: its log-probabilities of given tokens, asked for by their ids (extra `server`).

vLLM answers `prompt_logprobs` of `/v1/completions`; llama.cpp's own server has none, and is asked for the next token
after each prefix instead.  Nothing is believed that was not looked at: the first answer shows whether ids mean the
same tokens on both sides, and every answer whether it is about the tokens that were sent.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
# Texts whose tokens both sides must agree on: blanks, digits, other alphabets, line ends.
_TEXTS = (
    "The quick brown fox, 2026-11-26: 4071.",
    "  two blanks\n\tand a tab",
    "Zürich, Ελλάδα, 東京 🙂",
    "def f(x):\n    return x**2",
)
# How vLLM writes minus infinity.
_LOWEST = -9999.0
#: What may go well when it is tried again: time-outs, too many requests, a server that starts or runs out of memory.
_AGAIN = (408, 425, 429)


class TopLogProbs(NamedTuple):
    """The likeliest tokens at each place of a row, but for the first, which nothing predicts: `ids` and `log_probs`
    [T - 1, K], the likeliest first."""

    ids: np.ndarray
    log_probs: np.ndarray


class TeacherServer:
    """A teacher behind an OpenAI-compatible server, for `cache_teacher`.

        cached = cache_teacher(TeacherServer("http://localhost:8000/v1"), args, dataset, tokenizer, top_k=20)

    Start vLLM with `--max-logprobs` of at least `top_k`, without speculative decoding and with
    `--no-enable-prefix-caching`: with either, its answers have been seen to depend on what was asked before.  Rows are
    sent as ids, as private as the text: use a server of your own.

    Args:
        url: of the API, with its `/v1`.
        model: its name there; default: the only one.
        batch_size: rows of a request; halved where the server runs out of memory.
        timeout: seconds for an answer.
        attempts: how often a request is tried, with longer and longer pauses.
        api_key: default: the environment's OPENAI_API_KEY, if there is one.

    Raises:
        ValueError: there is no such server, or not one model of that name.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        batch_size: int = 8,
        timeout: float = 300.0,
        attempts: int = 6,
        api_key: str | None = None,
    ):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url} is no address of a server: it begins with http:// or https://.")
        self.url, self.batch_size, self.attempts = url.rstrip("/"), batch_size, attempts
        self.root = self.url.removesuffix("/v1")
        key = (api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")).strip()
        if not key.isascii() or any(sign.isspace() for sign in key):
            raise ValueError("The API key holds a blank, or a sign that no key holds.")
        if "@" in url.partition("//")[2].partition("/")[0]:
            raise ValueError("The address holds a name and a password. Leave them out, and pass api_key.")
        self._client = _httpx().Client(timeout=timeout, headers={"Authorization": f"Bearer {key}"} if key else {})
        served = self._request("GET", f"{self.root}/v1/models").get("data") or []
        named = [one for one in served if model is None or one.get("id") == model]
        if len(named) != 1:
            names = ", ".join(str(one.get("id")) for one in served) or "none"
            raise ValueError(f"The server has the models {names}. Name one of them: model=..., or --teacher-model.")
        (card,) = named
        #: What the server calls the model.
        self.model: str = card["id"]
        #: Where its weights and its tokenizer come from, if the server says so.
        self.source: str | None = card.get("root")
        self._probe = ""
        self._counts_prefixes = card.get("owned_by") == "llamacpp"
        #: Longest row, in tokens.  A prompt as long as the context leaves no room for the token that is made.
        limit = card.get("max_model_len") or (card.get("meta") or {}).get("n_ctx")
        self.max_length: int | None = limit - 1 if limit else None

    @property
    def fingerprint(self) -> str:
        """Names the teacher in a cache: its weights cannot be hashed from here, but what it says of a probe can."""
        return f"served: {os.path.basename(self.model)} {self._probe}"

    def check(self, tokenizer: PreTrainedTokenizerBase, top_k: int) -> None:
        """Ask about two short rows, before a long work begins.

        Args:
            tokenizer: that makes the rows.
            top_k: how many tokens are kept.

        Raises:
            ValueError: the server reads other tokens, its answers are not about the tokens that were sent, or it
                gives fewer than `top_k`.
        """
        for text in _TEXTS:
            ours, theirs = tokenizer(text, add_special_tokens=False)["input_ids"], self._tokenize(text)
            if theirs is None:
                log.warning("The server does not say how it tokenises. Make sure that both sides share a tokenizer.")
                break
            if ours != theirs:
                raise ValueError(
                    f"The server's tokenizer is another one: {text[:20]!r} is {len(theirs)} tokens there, {len(ours)} "
                    "here, or others. Pass the tokenizer of the teacher that is served."
                )
        ids = tokenizer(" ".join(_TEXTS), add_special_tokens=False)["input_ids"][: min(self.max_length or 16, 16)]
        other = [*ids[:-1], ids[0]]
        one, two = self.log_probs([ids, other], top_k)
        # A row's last token is predicted by those before it: where answers move with it, they are one place off.
        first = dict(zip(one.ids[-1].tolist(), one.log_probs[-1].tolist(), strict=True))
        second = dict(zip(two.ids[-1].tolist(), two.log_probs[-1].tolist(), strict=True))
        self._probe = xxhash.xxh3_64_hexdigest(one.ids[:, 0].tobytes())
        shared = first.keys() & second.keys()
        if len(shared) < top_k // 2 or any(abs(first[i] - second[i]) > 0.3 for i in list(first)[:1] if i in shared):
            raise ValueError(
                "The server's log-probabilities of a token change with that token, so they are not those of the text "
                "before it. Update the server; vLLM answers as it should."
            )

    def log_probs(self, rows: Sequence[Sequence[int]], top_k: int) -> list[TopLogProbs]:
        """Return the likeliest tokens at each place of some rows.

        Args:
            rows: ids, two at least in each row.
            top_k: how many.

        Raises:
            ValueError: the server refuses, does not answer, or answers about something else.
        """
        ask = self._after_prefixes if self._counts_prefixes else self._of_prompts
        return ask([list(map(int, row)) for row in rows], top_k)

    def _of_prompts(self, rows: list[list[int]], top_k: int) -> list[TopLogProbs]:
        found: list[TopLogProbs] = []
        while len(found) < len(rows):
            part = rows[len(found) : len(found) + self.batch_size]
            # Nothing of a sampler's settings, which some versions apply to the prompt's log-probabilities too.
            asked = {"model": self.model, "prompt": part, "max_tokens": 1, "temperature": 0, "prompt_logprobs": top_k}
            try:
                answer = self._request("POST", f"{self.root}/v1/completions", asked)
            except _ServerFailedError as error:
                if len(part) == 1:
                    raise ValueError(str(error)) from error
                self.batch_size = max(len(part) // 2, 1)
                log.warning("The server failed on %d rows at once; now it gets %d.", len(part), self.batch_size)
                continue
            choices = sorted(answer.get("choices") or [], key=lambda choice: choice.get("index", 0))
            if len(choices) != len(part):
                raise ValueError(f"The server answered about {len(choices)} of {len(part)} rows.")
            answers = [choice.get("prompt_logprobs") for choice in choices]
            found += [_read(row, one, top_k) for row, one in zip(part, answers, strict=True)]
        return found

    def _after_prefixes(self, rows: list[list[int]], top_k: int) -> list[TopLogProbs]:
        found = []
        for row in rows:
            # Each prefix goes on where the last one ended, in the server's cache.
            asked = {"prompt": [row[:end] for end in range(1, len(row))], "n_predict": 1, "n_probs": top_k}
            answers = self._request("POST", f"{self.root}/completion", asked | {"cache_prompt": True})
            listed = answers if isinstance(answers, list) else [answers]
            tokens = [
                [(one["id"], one["logprob"]) for one in answer["completion_probabilities"][0]["top_logprobs"]]
                for answer in sorted(listed, key=lambda answer: answer.get("index", 0))
            ]
            if len(tokens) != len(row) - 1:
                raise ValueError(f"The server answered about {len(tokens)} of {len(row) - 1} prefixes.")
            found.append(_sorted(tokens, top_k))
        return found

    def _tokenize(self, text: str) -> list[int] | None:
        """Return the server's tokens of a text; `None` where it does not tell."""
        asked = {
            "model": self.model,
            "prompt": text,
            "content": text,
            "add_special_tokens": False,
            "add_special": False,
        }
        try:
            return self._request("POST", f"{self.root}/tokenize", asked).get("tokens")
        except (_ServerFailedError, ValueError):
            return None

    def _request(self, method: str, url: str, content: Any = None) -> Any:
        """Send a request, several times where that may help.

        Raises:
            ValueError: the server refuses it, or cannot be reached.
            _ServerFailedError: it failed every time.
        """
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        httpx = _httpx()
        tries = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _ServerFailedError)),
            stop=stop_after_attempt(self.attempts if method == "POST" else 2),
            wait=wait_exponential(0.2, max=30),
            reraise=True,
        )
        try:
            return tries(self._once, method, url, content)
        except httpx.TransportError as error:
            raise ValueError(f"The server does not answer ({type(error).__name__}): {url}. Is it running?") from None

    def _once(self, method: str, url: str, content: Any) -> Any:
        response = self._client.request(method, url, json=content)
        if response.status_code >= 500 or response.status_code in _AGAIN:
            raise _ServerFailedError(f"The server failed ({response.status_code}): {_message(response)}")
        if response.status_code >= 400:
            raise ValueError(f"The server refuses ({response.status_code}): {_message(response)}")
        try:
            return response.json()
        except ValueError:
            raise ValueError(f"{url} answers something else than JSON. Is it the address of the API?") from None


class _ServerFailedError(Exception):
    """The server failed, and may not when it is asked again."""


def _httpx() -> Any:
    try:
        import httpx
        import tenacity  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "A teacher behind a server needs httpx and tenacity: pip install 'swingkd[server]'."
        ) from error
    return httpx


def _message(response: Any) -> str:
    """Return a server's words, short: its errors may repeat what was sent."""
    try:
        content = response.json()
    except ValueError:
        return "no reason given"
    error = content.get("error", content) if isinstance(content, dict) else {}
    words = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    return words.partition("input")[0].split("[", 1)[0].strip()[:200] or "no reason given"


def _read(row: list[int], answer: Any, top_k: int) -> TopLogProbs:
    """Read vLLM's list of `{id: {"logprob", "rank", ...}}`, one a token; the sent one is in each, likely or not."""
    if not isinstance(answer, list) or len(answer) != len(row) or any(not one for one in answer[1:]):
        raise ValueError(
            "The server gives no log-probabilities of the prompt, or not of all of it. It has to know prompt_logprobs "
            "in /v1/completions, as vLLM does."
        )
    tokens = []
    for place, one in enumerate(answer[1:], 1):
        if str(row[place]) not in one:
            raise ValueError("The server's log-probabilities are about other tokens than those that were sent.")
        ranked = sorted(one.items(), key=lambda item: item[1].get("rank") or math.inf)
        tokens.append([(int(token), value["logprob"]) for token, value in ranked])
    return _sorted(tokens, top_k)


def _sorted(tokens: list[list[tuple[int, float]]], top_k: int) -> TopLogProbs:
    few = min(map(len, tokens), default=top_k)
    if few < top_k:
        raise ValueError(
            f"The server gives {few} tokens at a place, and {top_k} were asked for. Lower top_k, or raise the "
            "server's own limit (vLLM: --max-logprobs)."
        )
    kept = [part[:top_k] for part in tokens]
    ids = np.array([[token for token, _ in part] for part in kept], np.int64).reshape(-1, top_k)
    values = np.array([[value for _, value in part] for part in kept], np.float64).reshape(-1, top_k)
    values[values <= _LOWEST] = -np.inf
    # Their values are rounded: a probability may be a little over one, and not more.
    if not (values <= 1e-3).all() or (np.exp(values).sum(1) > 1.02).any():
        raise ValueError("The server's values are logarithms of no probabilities: it may give raw logits.")
    return TopLogProbs(ids, values)
