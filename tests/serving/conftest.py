"""Two teachers that share no record, and a server of them on loopback."""

import threading
import time
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, get_peft_model

from swingkd import OutOfFoldTeacher
from swingkd.serving import Clients, ServedTeacher, create_app
from tests.harness import tiny_model

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


@pytest.fixture
def adapted(tokenizer):
    """Two adapters on one base."""
    base = tiny_model(len(tokenizer), seed=1)
    with torch.no_grad():
        base.lm_head.weight.mul_(20)
    model = get_peft_model(base, LORA, adapter_name="fold-0")
    torch.manual_seed(1)
    model.add_adapter("fold-1", LORA)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.5)
    return model.eval()


@pytest.fixture
def served(adapted, tokenizer):
    return ServedTeacher.of(OutOfFoldTeacher(adapted), tokenizer)


@pytest.fixture
def clients(tmp_path):
    return Clients(tmp_path / "served")


@contextmanager
def running(app):
    """Serve an application; yield its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def serve(served, clients):
    """A function that serves the teacher to alice; yields its address and her token."""

    @contextmanager
    def start(budget=100_000, **settings):
        (file,) = clients.admit(["alice"], budget)
        with running(create_app(settings.pop("served", served), clients, **settings)) as url:
            yield url, file.read_text()

    return start
