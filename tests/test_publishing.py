"""What is pushed: a commit to a Hub on loopback, listed and searched for secrets."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard
from peft import LoraConfig

from swingkd import CanarySet, PrivateDistillationTrainer, RuleTagger
from swingkd.publishing import public_content, public_files, public_name, public_settings
from tests.conftest import TEXTS
from tests.fake_hub import fake_hub
from tests.push_once import SEED


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The repository after a push, where it was pushed from, and what the Hub was asked."""
    folder = tmp_path_factory.mktemp("push")
    with fake_hub() as (address, hub):
        environment = os.environ | {
            "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "tests.push_once", str(folder / "out")], cwd=Path(__file__).parents[1],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded" in done.stdout
    return hub.repositories["me/student"], folder / "out", hub


def test_what_is_sent(pushed):
    files, _, hub = pushed
    assert set(files) == {
        "README.md", "report.html", "training_args.json", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "privacy_ledger.json", "roc_records.png",
        *(name for name in files if name.startswith("roc_canary_")),
    }  # fmt: skip
    assert hub.private["me/student"] is True
    assert sum("/commit/" in request for request in hub.requests) == 3  # two saves and the end


def test_no_secret_is_sent(pushed):
    files, out, _ = pushed
    secrets = [canary.secret for canary in CanarySet.load(out / "_private" / "canaries.json").canaries]
    secrets += [(out / "_private" / "noise_key").read_text().strip(), str(SEED), "hf_secret", str(out)]
    # Four digits may stand in a number by chance: look where text is, at whole words.
    for name, content in files.items():
        if name.endswith((".png", ".safetensors")):
            continue
        words = set("".join(c if c.isalnum() else " " for c in content.decode()).split())
        text = content.decode()
        if name in ("README.md", "training_args.json", "privacy_ledger.json", "tokenizer_config.json", "config.json"):
            assert not words & set(secrets), name
        for secret in secrets[-4:]:
            assert secret not in text, name
        assert not any(f"is {secret}" in text for secret in secrets), name


def test_the_page_that_is_sent_masks_what_it_shows(pushed):
    files, _, _ = pushed
    text = html.unescape(re.sub(r"<[^>]+>", "", files["report.html"].decode()))
    for original in TEXTS[:3]:
        pin = re.search(r"\d{4}", original)[0]
        assert f"pin is {pin}" not in text
        assert pin not in re.sub(r"\s+", " ", text).split("What the tagger sees")[1]
    assert "my pin is ••••" in text


def test_folders_of_this_machine_are_nobodys_business(tmp_path, teacher, student, tokenizer, config):
    home = tmp_path / "dr_smith"
    for name, model in (("large", teacher), ("small", student)):
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    Dataset.from_dict({"text": TEXTS}).to_json(home / "patients" / "notes.jsonl")
    data = load_dataset(str(home / "patients"), split="train")
    trainer = PrivateDistillationTrainer(
        str(home / "small"), str(home / "large"), config(), train_dataset=data, tagger=RuleTagger(),
        peft_config=LoraConfig(target_modules=["q_proj"]),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    sent = {path.name: public_content(path) for path in public_files(trainer.args.output_dir)}
    assert "adapter_config.json" in sent
    for name, content in sent.items():
        text = content.decode() if isinstance(content, bytes) else Path(content).read_bytes().decode(errors="ignore")
        if name.endswith((".md", ".html", "config.json", "training_args.json", "ledger.json")):
            assert "dr_smith" not in text, name
            assert "patients" not in text, name
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "small"
    assert public_name("me/student") == "me/student"
    assert public_name("/home/alice/patients_teacher") == "patients_teacher"
    assert public_name("../private/teacher") == "teacher"


def test_nothing_sent_can_run_code(pushed):
    files, _, _ = pushed
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".py"))]
    assert "auto_map" not in json.loads(files["config.json"])


def test_settings_tell_how_and_not_where(pushed):
    files, _, _ = pushed
    settings = json.loads(files["training_args.json"])
    assert settings["protection"] == "noise"
    assert settings["max_steps"] == 2
    assert not {name for name in settings if "seed" in name or "token" in name or "dir" in name}


def test_metadata_is_what_the_hub_reads(pushed):
    files, _, _ = pushed
    card = ModelCard(files["README.md"].decode())
    metadata = yaml.safe_load(card.content.split("---")[1])
    assert metadata["pipeline_tag"] == "text-generation"
    assert metadata["license"] == "apache-2.0"
    assert {"knowledge-distillation", "tiny"} <= set(metadata["tags"])
    assert "differential-privacy" not in metadata["tags"]  # nothing is promised here
    found = {result.metric_name for result in card.data.eval_results}
    assert "perplexity" in found
    assert any("canaries inserted 2 times" in name for name in found)
    text = card.text
    for heading in (
        "What was promised",
        "What was measured",
        "What does not hold",
        "Intended use",
        "How it was trained",
    ):
        assert f"## {heading}" in text
    assert "transfer set: not covered" in text
    assert "![roc_records.png](roc_records.png)" in text


def test_whole_checkpoints_are_not_pushed(student, teacher, tokenizer, texts, config):
    with pytest.raises(ValueError, match=r"hub_strategy='checkpoint' pushes whole checkpoints.*every_save"):
        PrivateDistillationTrainer(
            student, teacher, config(push_to_hub=True, hub_strategy="checkpoint", hub_token="x"), train_dataset=texts,
            processing_class=tokenizer, tagger=RuleTagger(),
        )  # fmt: skip


def test_only_named_files_are_public(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "adapter_config.json", "vocab.txt", "README.md", "roc_x.png"):
        (tmp_path / name).touch()
    for name in ("canaries.json", "population.safetensors", "noise_key", "training_args.bin", "optimizer.pt",
                 "trainer_state.json", "metrics.json", "hint_projection.safetensors", "notes.txt",
                 "notes.model"):  # fmt: skip
        (tmp_path / name).touch()
    (tmp_path / "_private").mkdir()
    (tmp_path / "_private" / "config.json").touch()
    assert [path.name for path in public_files(tmp_path)] == [
        "README.md", "adapter_config.json", "model-00001-of-00002.safetensors", "roc_x.png", "vocab.txt",
    ]  # fmt: skip


def test_a_card_without_an_audit_says_so(student, teacher, tokenizer, texts, config):
    trainer = PrivateDistillationTrainer(
        student, teacher, config(), train_dataset=texts, processing_class=tokenizer, tagger=RuleTagger()
    )
    trainer.train()
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "Nobody attacked this model" in card
    assert "seed" not in json.dumps(public_settings(trainer.args))
