"""A small server that answers as vLLM does, or as llama.cpp does: a tiny model behind loopback, and its faults."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


class Served:
    """What the server knows, does wrong, and was asked."""

    def __init__(self, model, tokenizer, kind="vllm", longest=256, most=512):
        self.model, self.tokenizer, self.kind, self.longest, self.most = model.eval(), tokenizer, kind, longest, most
        self.faults: list = []  # each is taken for one request: (status, message), or a function of the answer
        self.always = None
        self.largest = 10**9
        self.asked: list[int] = []

    @torch.no_grad()
    def log_probs(self, ids):
        return self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def models(self):
        card = {"id": "tiny", "object": "model"}
        if self.kind == "llama":
            return {"data": [card | {"owned_by": "llamacpp", "meta": {"n_ctx": self.longest}}]}
        return {"data": [card | {"owned_by": "vllm", "root": "tiny", "max_model_len": self.longest}]}

    def complete(self, content):
        k = content["prompt_logprobs"]
        if k > self.most:
            return 400, f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.most}"
        self.asked.append(len(content["prompt"]))
        if len(content["prompt"]) > self.largest:
            return 500, "CUDA out of memory"
        choices = []
        for index, ids in enumerate(content["prompt"]):
            rows = self.log_probs(ids)
            answer = [None]
            for place in range(1, len(ids)):
                order = rows[place - 1].argsort(descending=True)
                rank = {int(token): at for at, token in enumerate(order.tolist(), 1)}
                # The token that was sent comes first, whatever its rank.
                kept = dict.fromkeys([ids[place], *order[:k].tolist()])
                answer.append(
                    {
                        str(token): {
                            "logprob": float(rows[place - 1][token]),
                            "rank": rank[token],
                            "decoded_token": "?",
                        }
                        for token in kept
                    }
                )
            choices.append({"index": index, "text": "x", "prompt_logprobs": answer})
        return 200, {"choices": choices[::-1]}

    def prefixes(self, content):
        answers = []
        for index, ids in enumerate(content["prompt"]):
            values, tokens = self.log_probs(ids)[-1].topk(content["n_probs"])
            top = [{"id": int(i), "logprob": float(v)} for i, v in zip(tokens, values, strict=True)]
            answers.append({"index": index, "completion_probabilities": [{"top_logprobs": top}]})
        return 200, answers

    def answer(self, path, content):
        if path == "/v1/models":
            return 200, self.models()
        if path == "/tokenize":
            text = content["content" if self.kind == "llama" else "prompt"]
            return 200, {"tokens": self.tokenizer(text, add_special_tokens=False)["input_ids"]}
        fault = self.faults.pop(0) if self.faults else self.always
        if isinstance(fault, tuple):
            return fault
        done = self.prefixes(content) if path == "/completion" else self.complete(content)
        return (done[0], fault(done[1])) if fault and done[0] == 200 else done


@contextmanager
def serving(served: Served):
    """Serve on loopback; yield the address of the API."""

    class Handler(BaseHTTPRequestHandler):
        def _send(self, content):
            status, answer = served.answer(self.path, content)
            if status != 200:
                answer = {"error": {"message": answer}}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self._send(None)

        def do_POST(self):
            self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
