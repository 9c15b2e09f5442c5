"""swingkd serve: clients, budgets and TLS on the command line; killed and started again, nothing asked is lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from peft import LoraConfig
from typer.testing import CliRunner

from swingkd import TeacherServer, train_out_of_fold
from swingkd.cli import app
from swingkd.privacy.ledger import LEDGER_FILE
from swingkd.serving import Clients

runner = CliRunner()


def run(*words):
    result = runner.invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def teachers(project, teacher, tokenizer, texts, config, monkeypatch):
    """Two adapters, trained out of fold."""
    monkeypatch.chdir(project)
    args = config(output_dir="teachers", max_steps=1, dataset_text_field="text")
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    train_out_of_fold("teacher", args, texts, tokenizer, peft_config=lora)
    return project / "teachers"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """The command in a process of its own."""

    def __init__(self, port, *words):
        command = [sys.executable, "-m", "swingkd.cli", "serve", "--teacher", "teachers", "--port", str(port), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output += line

    def wait(self, url, **options):
        for _ in range(600):
            assert self.process.poll() is None, self.output
            try:
                return httpx.get(url, **options)
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(self.output)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(60)
        self._reader.join(10)


@pytest.mark.slow
def test_sixteen_clients_lose_nothing_when_the_server_is_killed_and_started_again(teachers, project):
    port = free_port()
    names = [f"client-{i}" for i in range(16)]
    words = [word for name in names for word in ("--client", name)] + ["--budget", "100000"]
    server = Server(port, *words)
    server.wait(f"http://127.0.0.1:{port}/health")
    clients = Clients(project / "out" / "served")
    tokens = {name: (clients.folder / "tokens" / name).read_text() for name in names}
    rows = [[3 + i % 7, *range(5, 9 + i % 5)] for i in range(160)]
    answered, killed = [], threading.Event()

    def ask(number):
        found = []
        mine = TeacherServer(f"http://127.0.0.1:{port}/v1", api_key=tokens[names[number]], attempts=20)
        for row in rows[number * 10 : number * 10 + 10]:
            found += mine.log_probs([row], 4)
            answered.append(number)
            if len(answered) > 40:
                killed.wait(120)
        return found

    with ThreadPoolExecutor(16) as threads:
        asked = [threads.submit(ask, number) for number in range(16)]
        while len(answered) <= 40:
            time.sleep(0.01)
        server.end(signal.SIGKILL)
        killed.set()
        again = Server(port, *words)
        found = [answer for one in asked for answer in one.result(300)]
    assert len(found) == 160
    alone = TeacherServer(f"http://127.0.0.1:{port}/v1", api_key=tokens[names[0]], batch_size=160)
    for one, two in zip(found, alone.log_probs(rows, 4), strict=True):
        np.testing.assert_array_equal(one.ids, two.ids)
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=1e-5)
    # What was counted when the server was killed and asked again is counted twice, and nothing less than once.
    for number, client in enumerate(clients.all()):
        mine = rows[int(client.name[7:]) * 10 :][:10]
        least = sum(len(row) - 1 for row in mine) + (client.name == names[0]) * sum(len(row) - 1 for row in rows)
        assert least <= client.asked <= least + 9, number
    again.end(signal.SIGINT)
    assert again.process.returncode == 0, again.output
    assert "Stopped. What was asked stays counted" in again.output
    assert "may have 99," in again.output, "what was asked before the kill"
    ledger = json.loads((project / "out" / "served" / LEDGER_FILE).read_text())
    assert sum(entry["releases"] for entry in ledger["entries"]) == sum(client.asked for client in clients.all())
    for token in tokens.values():
        assert token not in server.output + again.output


@pytest.mark.slow
def test_a_client_asks_over_tls(teachers, project, monkeypatch):
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost",
        shell=True,
        check=True,
        capture_output=True,
    )
    port = free_port()
    tls = ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--host", "0.0.0.0"]
    server = Server(port, "--client", "alice", "--budget", "100000", *tls)
    server.wait(f"https://localhost:{port}/health", verify=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(project / "cert.pem"))
    monkeypatch.setenv("OPENAI_API_KEY", (project / "out/served/_private/tokens/alice").read_text())
    where = ["--teacher", f"https://localhost:{port}/v1", "--tokenizer", "teacher", "--data", "notes.jsonl"]
    code, output = run("cache-teacher", *where, "--config", "config.yaml", "--top-k", 8)
    assert code == 0, output
    monkeypatch.delenv("SSL_CERT_FILE")
    code, output = run("cache-teacher", *where, "--config", "config.yaml", "--output-dir", "again")
    assert code == 2, "a certificate that nobody vouches for"
    server.end(signal.SIGTERM)
    assert re.search(r"tokens/alice holds the token of alice", server.output.replace("\n", " "))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "others would see texts and tokens"),
        (["--tls-cert", "notes.jsonl"], "give --tls-cert and --tls-key"),
        (["--client", "../up"], "no name of a client"),
        (["--client", "alice", "--client", "alice"], "once"),
        (["--client", "alice", "--top-k", "0"], "x>=1"),
        (["--client", "alice", "--teacher", "student"], "gives its records to whoever asks"),
        (["--client", "alice", "--budget", "0"], "x>=1"),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_is(teachers, words, said):
    client = [] if "--client" in words else ["--client", "alice"]
    code, output = run("serve", "--teacher", "teachers", "--budget", 10, *client, *words)
    assert (code, said in output) == (2, True), output
