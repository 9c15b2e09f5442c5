"""What is pushed: a commit to a Hub on loopback, listed and searched for secrets."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard
from peft import LoraConfig

from swingkd import CanarySet, PrivateDistillationTrainer, RuleTagger, audit_model
from swingkd.models.loading import is_hub_id, public_name
from swingkd.report.published import public_content, public_files
from swingkd.trainer.publishing import public_settings
from tests.harness import TEXTS
from tests.trainer.fake_hub import fake_hub
from tests.trainer.push_once import SEED


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The repository after a push, where it was pushed from, and what the Hub was asked."""
    folder = tmp_path_factory.mktemp("push")
    with fake_hub() as (address, hub):
        environment = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.trainer.push_once", str(folder / "out")],
            cwd=Path(__file__).parents[2],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded" in done.stdout
    return hub.repositories["me/student"], folder / "out", hub


def test_what_is_sent(pushed):
    files, _, hub = pushed
    assert set(files) == {
        "README.md",
        "report.html",
        "training_args.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "privacy_ledger.json",
        "roc_records.png",
        *(name for name in files if name.startswith("roc_canary_")),
    }
    assert hub.private["me/student"] is True
    assert sum("/commit/" in request for request in hub.requests) == 3  # two saves and the end


def test_no_secret_is_sent(pushed):
    files, out, _ = pushed
    secrets = [canary.secret for canary in CanarySet.load(out / "_private" / "canaries.json").canaries]
    secrets += [(out / "_private" / "noise_key").read_text().strip(), str(SEED), "hf_secret", str(out)]
    # Nine digits are no number of a card; look where text is, at whole words.
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
        str(home / "small"),
        config(),
        teacher_model=str(home / "large"),
        train_dataset=data,
        tagger=RuleTagger(),
        peft_config=LoraConfig(target_modules=["q_proj"]),
    )
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
    told = settings.keys() - {"max_new_tokens"}
    assert not {name for name in told if "seed" in name or "token" in name or "dir" in name}


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
            student,
            config(push_to_hub=True, hub_strategy="checkpoint", hub_token="x"),
            teacher_model=teacher,
            train_dataset=texts,
            processing_class=tokenizer,
            tagger=RuleTagger(),
        )


def test_only_named_files_are_public(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "adapter_config.json", "vocab.txt", "README.md", "roc_x.png"):
        (tmp_path / name).touch()
    for name in (
        "canaries.json",
        "population.safetensors",
        "noise_key",
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
        "metrics.json",
        "hint_projection.safetensors",
        "notes.txt",
        "notes.model",
    ):
        (tmp_path / name).touch()
    (tmp_path / "_private").mkdir()
    (tmp_path / "_private" / "config.json").touch()
    assert [path.name for path in public_files(tmp_path)] == [
        "README.md",
        "adapter_config.json",
        "model-00001-of-00002.safetensors",
        "roc_x.png",
        "vocab.txt",
    ]


def test_a_card_without_an_audit_says_so(student, teacher, tokenizer, texts, config):
    trainer = PrivateDistillationTrainer(
        student, config(), teacher_model=teacher, train_dataset=texts, processing_class=tokenizer, tagger=RuleTagger()
    )
    trainer.train()
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "Nobody attacked this model" in card
    assert "seed" not in json.dumps(public_settings(trainer.args))


@pytest.fixture
def trainer_of(student, teacher, tokenizer, texts, config):
    """A function that makes a trainer with other arguments."""

    def made(eval_dataset=None, **fields):
        return PrivateDistillationTrainer(
            student,
            config(**fields),
            teacher_model=teacher,
            train_dataset=texts,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            tagger=RuleTagger(),
        )

    return made


def card_of(trainer, **options) -> str:
    trainer.create_model_card(**options)
    return (Path(trainer.args.output_dir) / "README.md").read_text()


def test_numbers_are_those_of_the_weights_at_hand(trainer_of, texts):
    each = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    # The worst is taken for the best, so the last step is not kept.
    trainer = trainer_of(
        texts.select(range(8)),
        learning_rate=0.02,
        load_best_model_at_end=True,
        greater_is_better=True,
        metric_for_best_model="perplexity",
        **each,
    )
    trainer.train()
    kept = trainer.state.best_global_step
    assert kept < 3
    (wanted,) = [e["eval_perplexity"] for e in trainer.state.log_history if e["step"] == kept and "eval_loss" in e]
    assert trainer.evaluate()["eval_perplexity"] == pytest.approx(wanted)
    trainer.state.log_history.pop()
    assert f"| perplexity | {wanted:.4f} |" in card_of(trainer)


def test_numbers_of_earlier_weights_are_left_out(trainer_of, texts):
    trainer = trainer_of(texts.select(range(8)), eval_strategy="steps", eval_steps=2, max_steps=3)
    trainer.train()
    logs = trainer.state.log_history
    trainer.state.log_history = [entry for entry in logs if "eval_loss" not in entry or entry["step"] == 2]
    assert "Its use was not measured." in card_of(trainer)
    trainer.evaluate()
    assert "| perplexity |" in card_of(trainer)


def test_evaluations_are_not_mixed(trainer_of, texts):
    trainer = trainer_of(texts.select(range(8)))
    trainer.train()
    trainer.evaluate()
    alike = [{"text": "hello world, thank you"}] * 4  # nothing in it is private
    trainer.evaluate(Dataset.from_list(alike))
    card = card_of(trainer)
    assert "| perplexity |" in card
    assert "perplexity_flagged" not in card
    assert "perplexity_unflagged" not in card  # nothing was found, so nothing is set apart
    trainer.evaluate(metric_key_prefix="eval_own")
    assert card_of(trainer).count("perplexity_flagged |") == 1


def test_several_sets_are_told_apart(trainer_of, texts):
    trainer = trainer_of({"near": texts.select(range(4)), "far": texts.select(range(4, 8))})
    trainer.train()
    trainer.evaluate()
    card = card_of(trainer)
    assert "| near_perplexity |" in card
    assert "| far_perplexity |" in card


def test_metadata_points_at_the_hub_only(trainer_of, tmp_path, student, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student.save_pretrained("gpt2")  # a folder with the name of a stranger's model
    tokenizer.save_pretrained("gpt2")
    trainer = trainer_of()

    def began(on_hub):
        models = replace(trainer.setup.models, began_on_hub=on_hub, names={"student": "gpt2", "teacher": None})
        trainer.setup = replace(trainer.setup, models=models)

    began(on_hub=False)
    metadata = yaml.safe_load(card_of(trainer, dataset="our support chats").split("---")[1])
    assert not metadata.keys() & {"base_model", "datasets"}
    assert "Trained on: our support chats." in card_of(trainer, dataset="our support chats")
    began(on_hub=True)
    metadata = yaml.safe_load(card_of(trainer, dataset_tags="me/chats").split("---")[1])
    assert (metadata["base_model"], metadata["datasets"]) == ("gpt2", ["me/chats"])
    with pytest.raises(ValueError, match=r"dataset_tags='our chats' is no name on the Hub"):
        trainer.create_model_card(dataset_tags="our chats")
    card = card_of(trainer, finetuned_from=str(tmp_path / "gpt2"))
    assert "base_model" not in yaml.safe_load(card.split("---")[1])
    assert "began as `gpt2`" in card
    assert str(tmp_path) not in card
    assert (is_hub_id("gpt2"), is_hub_id("me/student"), is_hub_id("../student")) == (False, True, False)


def test_parts_of_a_configuration_are_cleaned_too(tmp_path):
    content = {"_name_or_path": "/home/ann/model", "text_config": {"_name_or_path": "/home/ann/text", "size": 3}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    sent = json.loads(public_content(tmp_path / "config.json"))
    assert sent == {"_name_or_path": "model", "text_config": {"_name_or_path": "text", "size": 3}}


def test_canaries_without_controls_are_reported(trainer_of, tokenizer):
    trainer = trainer_of()
    trainer.train()
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=3, repetitions=(2,), controls=0)
    report = audit_model(trainer.model, tokenizer, canaries=canaries)
    assert "| x2 |" in card_of(trainer, audit=report)


def test_figures_of_others_stay(trainer_of, tokenizer, texts, every_curve):
    trainer = trainer_of()
    trainer.train()
    folder = Path(trainer.args.output_dir)
    (folder / "roc_paper.png").write_bytes(b"somebody's")
    members, nonmembers = (sorted(set(texts["text"]))[i::2] for i in (0, 1))
    report = audit_model(trainer.model, tokenizer, members=members, nonmembers=nonmembers)
    card_of(trainer, audit=report)
    assert (folder / "roc_records.png").exists()
    card_of(trainer)
    assert not (folder / "roc_records.png").exists()
    assert (folder / "roc_paper.png").exists()


def test_a_run_goes_on_with_its_own_teacher(trainer_of, tmp_path, student, teacher, tokenizer, config, texts):
    teacher.save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    teacher.get_input_embeddings().weight.data.mul_(1.5)
    teacher.save_pretrained(tmp_path / "two")
    student.save_pretrained(tmp_path / "student")

    def resumed(name, rows=texts, **fields):
        args = config(save_strategy="steps", save_steps=1, **fields)
        trainer = PrivateDistillationTrainer(
            str(tmp_path / "student"),
            args,
            teacher_model=str(tmp_path / name),
            train_dataset=rows,
            processing_class=tokenizer,
            tagger=RuleTagger(),
        )
        trainer.train(resume_from_checkpoint=fields.get("max_steps", 0) > 2)
        return trainer

    assert " seconds since" not in card_of(resumed("one"))
    with pytest.raises(ValueError, match=r"checkpoint-2 was written with teacher_weights='\w+' \(now '\w+'\)"):
        resumed("two", max_steps=3)
    with pytest.raises(ValueError, match=r"written with rows_per_step=4 \(now 8\)"):
        resumed("one", max_steps=3, per_device_train_batch_size=8)
    with pytest.raises(ValueError, match="written with training_rows="):
        resumed("one", max_steps=3, rows=texts.select(range(20)))
    with pytest.raises(ValueError, match=r"written with learning_rate=.* \(now 0.5\)"):
        resumed("one", max_steps=3, learning_rate=0.5)
    # A run may become longer, and share its batches out in another way.
    shared = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert " seconds since it went on from a checkpoint" in card_of(resumed("moved", max_steps=3, **shared))


def test_what_could_be_extracted_is_on_the_page(trainer_of, tokenizer, texts):
    trainer = trainer_of()
    trainer.train()
    attack = {"attacks": ["continuation"], "prefix_tokens": 4, "suffix_tokens": 4}
    report = audit_model(trainer.model, tokenizer, private_text=texts, extraction=attack)
    assert "| continued | trained on |" in card_of(trainer, audit=report)
    assert "extraction of training text" in (Path(trainer.args.output_dir) / "report.html").read_text()
