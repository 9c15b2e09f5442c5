"""The same federation on Flower: what goes over the wire, a simulation, and a real network with crashes."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swingkd.decentralized import (
    DecentralizedDistillation,
    Federation,
    FederationResult,
    FederationSettings,
    Message,
    federate,
)
from swingkd.decentralized.flower_run import QUIET, write_app
from swingkd.decentralized.message import RefusedError
from swingkd.decentralized.messengers import MessengerRepository
from tests.decentralized.conftest import config_of

pytest.importorskip("flwr", reason='needs Flower: pip install "swingkd[federated]"')


def test_a_parcel_goes_over_the_wire_as_it_is():
    from swingkd.decentralized.flower import message_of, record_of

    sent = Message(
        {"target": torch.rand(3, 2).half(), "weight.a.b": torch.rand(2), "weight.n": torch.tensor(3)},
        {"round": 2, "wants": "messenger", "seconds": 0.5},
    )
    found = message_of(record_of(sent))
    assert found.words == sent.words
    assert found.bytes == sent.bytes
    for name, tensor in sent.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


@pytest.mark.parametrize("data", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_an_array_that_is_none_is_refused(data):
    """One node's bytes ended the server's loop: they were read where nobody refuses."""
    from flwr.app import Array, ArrayRecord, RecordDict

    from swingkd.decentralized.flower import message_of, record_of

    record = record_of(Message({"messenger": torch.rand(3, 2)}, {"round": 1}))
    whole = record["tensors"]["messenger"]
    broken = Array(whole.dtype, whole.shape, whole.stype, data)
    with pytest.raises(RefusedError, match="its tensors cannot be read"):
        message_of(RecordDict({"tensors": ArrayRecord({"messenger": broken}), "words": record["words"]}))


def test_the_app_is_named_literally_and_nobody_is_called_home(tmp_path):
    import tomllib

    folder = write_app(tmp_path / "app", tmp_path / 'a "name".json', tmp_path, 3, 5)
    found = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert found["components"]["serverapp"] == "swingkd.decentralized.flower_app:server_app"
    assert found["config"]["config"] == str(tmp_path / 'a "name".json')
    assert QUIET["FLWR_TELEMETRY_ENABLED"] == "0"
    assert QUIET["RAY_USAGE_STATS_ENABLED"] == "0"


def clients_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.parent.name: load_file(path) for path in folder.rglob("client.safetensors")}


class Nodes:
    """In the place of Flower's link: each node answers at once, or is gone."""

    def __init__(self, run_config: dict, node_configs: dict[int, dict], app=None):
        self.run_config, self.node_configs, self.app = run_config, node_configs, app
        #: Who answers whatever it is asked but does not answer in time.
        self.late: set[int] = set()
        self.asked = 0
        #: How long introductions were waited for.
        self.waits: list[float] = []
        self.on_training = lambda number: None

    def get_node_ids(self) -> list[int]:
        return list(self.node_configs)

    def send_and_receive(self, messages, timeout=None):
        from flwr.app import Context, Error, Message, RecordDict

        from swingkd.decentralized.flower_app import client_app

        replies = []
        if {message.metadata.message_type for message in messages} == {"query"}:
            self.waits.append(timeout)
        for message in messages:
            node = message.metadata.dst_node_id
            if message.metadata.message_type == "train":
                self.asked += 1
                self.on_training(self.asked)
            if node not in self.node_configs:
                # The link answers for a node that is gone.
                replies.append(Message(Error(3, "node unavailable"), reply_to=message))
                continue
            context = Context(1, node, self.node_configs[node], RecordDict(), self.run_config)
            reply = (self.app or client_app)(message, context)
            if node not in self.late or message.metadata.message_type != "train":
                replies.append(reply)
        return replies


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Write a configuration; return what serves it to some nodes, and the run's configuration."""
    from flwr.app import Context, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    # Flower's own processes are told by whoever starts them.
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    from swingkd.decentralized.flower_app import server_app

    def prepare(**others) -> tuple:
        config = tmp_path / "federation.json"
        FederationSettings.of(config_of(tmp_path, **others)).write(config)
        run = {"config": str(config), "output-dir": str(tmp_path / "out"), "min-nodes": 2, "round-timeout": 1.0}

        def serve(nodes: Nodes) -> FederationResult:
            server_app(nodes, Context(1, 0, {}, RecordDict(), run))
            return FederationResult.load(tmp_path / "out" / "result.json")

        return serve, run

    return prepare


@pytest.mark.parametrize("method", ["sd_dist", "feddf"])
def test_what_is_served_is_the_same_as_one_process(tmp_path, served, method):
    serve, run = served(method=method)
    # Nodes have numbers of their own; who is who is asked.
    found = serve(Nodes(run, {70 - n: {"partition-id": n} for n in range(4)}))
    here = federate(config_of(tmp_path, method=method), tmp_path / "here")
    assert found.accuracies == here.accuracies
    for name, tensors in clients_of(tmp_path / "here").items():
        other = clients_of(tmp_path / "out")[name]
        assert all(torch.equal(tensor, other[key]) for key, tensor in tensors.items())


def test_nodes_that_go_come_or_are_late_lose_nothing(tmp_path, served):
    serve, run = served(clients=6)
    run["round-timeout"] = 300.0
    nodes = Nodes(run, {n: {"partition-id": n} for n in range(5)})

    def happen(asked: int) -> None:
        if asked == 7:  # within the second round
            del nodes.node_configs[0], nodes.node_configs[1]
            nodes.node_configs[9] = {"partition-id": 5}

    nodes.on_training = happen
    result = serve(nodes)
    first, second, third = result.rounds
    assert len(first.present) == 5
    assert first.refused == {}
    assert set(second.refused.values()) == {"no answer came"}
    assert len(second.refused) == 2 - (second.received > 3 * 2 * 40 * 3)
    assert len(third.present) == 4
    assert set(third.present) - set(first.present)
    known = MessengerRepository.load(tmp_path / "out" / "server-3.safetensors")
    assert len(known) == 6
    assert len(result.accuracies) == 4
    # Where too few are there, whoever starts slowly is waited for; a newcomer holds the others up no longer than this.
    assert nodes.waits == [300.0, 60.0]


def test_a_client_that_crashed_comes_back_and_goes_on(tmp_path, served):
    fields = {"rounds": 4, "steps_per_round": 5, "batch_size": 8, "learning_rate": 0.01}
    serve, run = served(client=fields)
    nodes = Nodes(run, {n: {"partition-id": n} for n in range(4)})

    def happen(asked: int) -> None:
        if asked == 5:  # the second round
            del nodes.node_configs[0]
        if asked == 9:  # the third, without it, has three requests
            nodes.node_configs[50] = {"partition-id": 0}

    nodes.on_training = happen
    result = serve(nodes)
    (name,) = set(result.rounds[0].present) - set(result.rounds[2].present)
    assert result.rounds[1].refused == {name: "no answer came"}
    assert [name in happened.present for happened in result.rounds] == [True, True, False, True]
    assert len(result.accuracies) == 4
    # What it learnt in the first round is not lost: it is the same as in one process with the same absences.
    own = Federation(FederationSettings.of(config_of(tmp_path, client=fields)))
    here = DecentralizedDistillation(
        [own.client(n) for n in own.names],
        own.server(),
        rounds=4,
        present=lambda number: [n for n in own.names if n != name or number in (0, 3)],
    )
    here.run()
    assert here.result().accuracies == result.accuracies


def test_a_round_that_nobody_answers_is_tried_again_and_learnt_once(tmp_path, served, caplog):
    serve, run = served(client={"rounds": 2, "steps_per_round": 5, "batch_size": 8, "learning_rate": 0.01})
    nodes = Nodes(run, {n: {"partition-id": n} for n in range(4)})
    nodes.late = {0, 1, 2, 3}

    def happen(asked: int) -> None:
        if asked > 8:
            nodes.late = set()

    nodes.on_training = happen
    result = serve(nodes)
    assert caplog.text.count("nobody answered") == 2
    assert [r.number for r in result.rounds] == [0, 1]
    fields = {"rounds": 2, "steps_per_round": 5, "batch_size": 8, "learning_rate": 0.01}
    here = federate(config_of(tmp_path, client=fields), tmp_path / "here")
    assert result.accuracies == here.accuracies


def test_a_server_that_was_stopped_goes_on(tmp_path, served):
    serve, run = served()
    nodes = Nodes(run, {n: {"partition-id": n} for n in range(4)})

    def stop(asked: int) -> None:
        if asked == 7:
            raise KeyboardInterrupt

    nodes.on_training = stop
    with pytest.raises(KeyboardInterrupt):
        serve(nodes)
    assert len(rounds(tmp_path / "out")) == 1
    nodes.on_training = lambda asked: None
    found = serve(nodes)
    here = federate(config_of(tmp_path), tmp_path / "here")
    assert found.accuracies == here.accuracies


def test_a_node_of_its_own_says_who_it_is(tmp_path, served):
    from datasets import Dataset

    serve, run = served()
    config = config_of(tmp_path)
    config["people"] |= {"reference_clients": ["p1", "p2"], "classes": 3}
    FederationSettings.of(config).write(run["config"])
    rows = Dataset.from_parquet(str(tmp_path / "people.parquet"))
    nodes = {}
    for number, name in enumerate(("p0", "p5")):
        # A machine with one person's rows, and the shared ones.
        own = tmp_path / f"{name}.parquet"
        rows.filter(lambda row, who=(name, "p1", "p2"): row["who"] in who).to_parquet(own)
        data = {**config["people"]["data"], "data_files": str(own)}
        private = {**config, "people": {**config["people"], "data": data}, "models": [{"kind": "MLP", "width": 7}]}
        FederationSettings.of(private).write(tmp_path / f"{name}.json")
        nodes[number] = {
            "client": name,
            "config": str(tmp_path / f"{name}.json"),
            "output-dir": str(tmp_path / f"of-{name}"),
        }
    result = serve(Nodes(run, nodes))
    assert set(result.accuracies) == {"p0", "p5"}
    assert all(r.refused == {} for r in result.rounds)
    # What a client knows stays with it.
    assert not (tmp_path / "out" / "clients").exists()
    assert set(clients_of(tmp_path / "of-p5")) == {"p5"}


def test_clients_that_cannot_be_built_end_the_run_with_their_reason(tmp_path, served, caplog, monkeypatch):
    from flwr.app import Message, RecordDict

    serve, run = served(models=[{"kind": "SignalCNN"}])
    nodes = Nodes(run, {n: {"partition-id": n} for n in range(4)})
    answer = nodes.send_and_receive

    def as_flower_does(messages, timeout=None):
        """What an app raises becomes an error with its text."""
        from flwr.app import Error

        replies = []
        for message in messages:
            try:
                replies += answer([message], timeout)
            except Exception as error:
                replies.append(Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message))
        return replies

    nodes.send_and_receive = as_flower_does
    with pytest.raises(RuntimeError, match="Every client failed"):
        serve(nodes)
    assert caplog.text.count("could not answer") == 4
    # And what is no message is left out.
    nodes.send_and_receive = lambda messages, timeout=None: [Message(RecordDict(), reply_to=m) for m in messages]
    monkeypatch.setattr("swingkd.decentralized.flower.time.sleep", lambda seconds: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        serve(nodes)
    assert "it is no message" in caplog.text


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([{"success": False, "error-message": "no such link"}], "did not take the run: no such link"),
        ([{"success": True, "run-id": 5}, {"runs": [{"status": "finished:failed"}]}], "ended as finished:failed"),
    ],
)
def test_a_run_that_fails_is_said_to_have_failed(tmp_path, monkeypatch, answers, says):
    from swingkd.decentralized import flower_run

    said = iter(answers)
    monkeypatch.setattr(flower_run, "_flwr", lambda arguments, environment: next(said))
    with pytest.raises(RuntimeError, match=says):
        federate(config_of(tmp_path), tmp_path / "out", "flower", superlink="net")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sd_dist", "fedavg"])
def test_a_simulation_is_the_same_as_one_process(tmp_path, method, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    config = config_of(tmp_path, method=method)
    here = federate(config, tmp_path / "here")
    there = federate(config, tmp_path / "there", "flower")
    assert there.accuracies == here.accuracies
    known, found = clients_of(tmp_path / "here"), clients_of(tmp_path / "there")
    assert known.keys() == found.keys()
    for name, tensors in known.items():
        assert all(torch.equal(tensor, found[name][key]) for key, tensor in tensors.items())
    assert [(r.sent, r.received) for r in here.rounds] == [(r.sent, r.received) for r in there.rounds]


class Network:
    """A SuperLink with SuperNodes over TLS on this machine, each in a process that can be killed."""

    def __init__(self, folder: Path, *more: str):
        self.folder, self.nodes = folder, {}
        folder.mkdir()
        certificates(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "net"\n[superlink.net]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{folder}/ca.pem"\n'
        )
        self.environment = {**os.environ, **QUIET, "FLWR_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        self.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        # Flower imports the app from a folder of its own.
        self.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        self.link = self._start(
            "link",
            "flower-superlink",
            "--ssl-certfile",
            folder / "server.pem",
            "--ssl-keyfile",
            folder / "server.key",
            "--ssl-ca-certfile",
            folder / "ca.pem",
            "--port",
            self.port,
            *more,
        )
        time.sleep(4)

    def _start(self, name: str, *command) -> subprocess.Popen:
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [str(word) for word in command], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def join(self, number: int, config: str = "", *more) -> None:
        self.nodes[number] = self._start(
            f"node-{number}",
            "flower-supernode",
            "--root-certificates",
            self.folder / "ca.pem",
            "--superlink",
            f"127.0.0.1:{self.port}",
            "--node-config",
            f"partition-id={number} num-partitions=7 {config}".rstrip(),
            "--port",
            self.port + 1 + number,
            *more,
        )

    def kill(self, number: int) -> None:
        os.killpg(self.nodes.pop(number).pid, signal.SIGKILL)

    def flwr(self, *arguments: str) -> dict:
        done = subprocess.run(
            ["flwr", *arguments, "--format", "json"], env=self.environment, capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout)

    def status(self) -> str:
        return self.flwr("ls", "net")["runs"][0]["status"]

    def go_on(self, app: str) -> None:
        """Stop the server, start it again, and wait until it is through."""
        assert self.flwr("stop", self.flwr("ls", "net")["runs"][0]["run-id"], "net")["success"]
        self.flwr("run", app, "net")
        wait(lambda: self.status().startswith("finished"))
        assert self.status() == "finished:completed"

    def close(self) -> None:
        for number in list(self.nodes):
            self.kill(number)
        os.killpg(self.link.pid, signal.SIGKILL)


def certificates(folder: Path) -> None:
    """Write an authority and a server's certificate for this machine."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    authority = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    for name in ("ca", "server"):
        key = authority if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), True)
            .add_extension(x509.SubjectAlternativeName(places), False)
            .sign(authority, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(private)


def rounds(folder: Path) -> list[dict]:
    path = folder / "rounds.json"
    return json.loads(path.read_text())["rounds"] if path.exists() else []


def wait(until, seconds: float = 900.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(1)


@pytest.mark.slow
def test_a_network_survives_killed_nodes_a_newcomer_and_a_restart(tmp_path):
    config, out = tmp_path / "federation.json", tmp_path / "out"
    settings = config_of(tmp_path, clients=7)
    settings["client"]["rounds"] = 6
    FederationSettings.of(settings).write(config)
    app = str(write_app(tmp_path / "app", config, out, 4, 180.0))
    network = Network(tmp_path / "net")
    try:
        for number in range(6):
            network.join(number)
        network.flwr("run", app, "net")
        wait(lambda: len(rounds(out)) >= 2)
        network.kill(0)
        network.kill(1)
        network.join(6)
        wait(lambda: any(set(r["present"]) - set(rounds(out)[0]["present"]) for r in rounds(out)))
        # The server is stopped, and goes on from what it saved.
        before = rounds(out)
        network.go_on(app)
    finally:
        network.close()
    found = rounds(out)
    assert [r["number"] for r in found] == list(range(6))
    assert found[: len(before)] == before
    gone = set(found[0]["present"]) - set(found[-1]["present"])
    assert len(gone) == 2
    known = MessengerRepository.load(out / "server-6.safetensors")
    # Nothing of those who were killed is lost: their last messengers still teach.
    assert len(known) == 7
    assert {name for name, number in known.rounds().items() if number < 5} == gone
    assert len(FederationResult.load(out / "result.json").accuracies) == 5


def own_key(folder: Path, number: int) -> tuple[Path, Path]:
    """Write a node's key pair."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / f"node-{number}.key", folder / f"node-{number}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return private, public


@pytest.mark.slow
@pytest.mark.distributed
def test_a_network_survives_hostile_nodes(tmp_path):
    """TLS and keys of nodes: six that are registered, of which one raises, one sends broken arrays and one lies, and
    one that is not; two are killed and come back, the server is stopped and goes on."""
    app = Path(shutil.copytree(Path(__file__).parents[2] / "recipes" / "flower_app", tmp_path / "app"))
    shutil.copy(Path(__file__).parent / "hostile" / "app.py", app)
    project, out = (app / "pyproject.toml").read_text(), tmp_path / "out"
    project = project.replace("digits_app:", "app:").replace("~/digits-federation", str(out))
    project = project.replace("rounds = 5", "rounds = 4").replace("min-nodes = 2", "min-nodes = 4")
    (app / "pyproject.toml").write_text(project)
    network = Network(tmp_path / "net", "--enable-supernode-auth")
    kinds = {3: 'hostile="raises"', 4: 'hostile="malformed"', 5: 'hostile="lying"'}
    try:
        keys = {number: own_key(network.folder, number) for number in range(7)}
        for number in range(6):
            assert network.flwr("supernode", "register", str(keys[number][1]), "net")["success"]

        def join(number):
            network.join(number, kinds.get(number, ""), "--auth-supernode-private-key", keys[number][0])

        for number in range(7):
            join(number)
        network.flwr("run", str(app), "net")
        wait(lambda: len(rounds(out)) >= 1)
        for number in (0, 1):
            network.kill(number)
        for number in (0, 1):
            join(number)
        before = rounds(out)
        network.go_on(str(app))
    finally:
        network.close()
    found = rounds(out)
    assert [r["number"] for r in found] == list(range(4))
    assert found[: len(before)] == before
    honest, others = ({f"client-{number}" for number in numbers} for numbers in (range(3), range(3, 6)))
    for happened in found:
        assert "client-6" not in happened["present"]
        assert honest & set(happened["refused"]) <= {"client-0", "client-1"}
        assert others & set(happened["present"]) <= set(happened["refused"])
    assert any(others <= set(happened["refused"]) for happened in found)
    assert set(MessengerRepository.load(out / "server-4.safetensors").rounds()) <= honest
    accuracies = FederationResult.load(out / "result.json").accuracies
    # An accuracy comes without an array that could be broken.
    assert set(accuracies) <= honest | {"client-4"}
    assert "client-2" in accuracies
    assert min(accuracies.values()) > 0.3


def test_clients_of_ones_own_meet_through_the_factories(tmp_path, monkeypatch):
    """The template's app, with Flower's link played: three kinds of model, one of them from Hugging Face."""
    import runpy

    from flwr.app import Context, RecordDict
    from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
    from flwr.supercore.task_identity import TaskIdentity

    from swingkd.decentralized.flower import client_app

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    app = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "flower_app" / "digits_app.py"))
    run = {"rounds": 2, "min-nodes": 6, "output-dir": str(tmp_path / "out")}
    nodes = Nodes(run, {n: {"partition-id": n, "num-partitions": 6} for n in range(6)}, app["client"])
    app["server"](nodes, Context(1, 0, {}, RecordDict(), run))
    found = FederationResult.load(tmp_path / "out" / "result.json")
    assert set(found.accuracies) == {f"client-{n}" for n in range(6)}
    assert min(found.accuracies.values()) > 0.15
    for mod in (LocalDpMod(1.0, 1.0, 1.0, 1e-5), fixedclipping_mod):
        with pytest.raises(ValueError, match="a messenger is none"):
            client_app(app["make_client"], mods=[mod])


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(shutil.which("flwr", path=str(Path(sys.executable).parent)) is None, reason="needs flwr")
def test_the_template_runs_as_it_is(tmp_path):
    """`flwr run .`, with nothing else said, from a folder that holds the template alone, as a Flower user would."""
    app = shutil.copytree(Path(__file__).parents[2] / "recipes" / "flower_app", tmp_path / "app")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "FLWR_HOME": str(tmp_path / "flwr")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    try:
        command = ["flwr", "run", ".", "--stream"]
        done = subprocess.run(
            command, cwd=app, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        found = FederationResult.load(tmp_path / "digits-federation" / "result.json")
        assert set(found.accuracies) == {"client-0", "client-1"}
        assert min(found.accuracies.values()) > 0.5
    finally:
        # The SuperLink that Flower starts by itself stays.
        for process in started_in(tmp_path / "flwr"):
            process.kill()


@pytest.mark.slow
@pytest.mark.distributed
def test_nothing_of_a_killed_federation_stays(tmp_path):
    """`kill -9` of the command: its SuperLink, its nodes and Ray end with it."""
    (tmp_path / "config.yaml").write_text(json.dumps(config_of(tmp_path)))
    command = ["-c", "from swingkd.cli import app; app()", "federate", "--engine", "flower"]
    command += ["--config", tmp_path / "config.yaml"]
    run = subprocess.Popen(
        [sys.executable, *map(str, command), "--output-dir", str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    home = tmp_path / "out" / "flower"
    wait(lambda: len(started_in(home)) > 3 or run.poll() is not None, 300)
    assert run.poll() is None
    run.kill()
    run.wait()
    wait(lambda: not started_in(home), 120)


def started_in(home: Path) -> list:
    """Return the processes that live under one of Flower's homes."""
    psutil = pytest.importorskip("psutil")
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(home.absolute()) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue  # it may end while it is looked at
    return found
