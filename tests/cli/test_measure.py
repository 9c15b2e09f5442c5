import json
import re
import shutil

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer
from typer.testing import CliRunner

from swingkd import CanarySet
from swingkd.audit.loading import load_model
from swingkd.cli import app
from swingkd.report import MetricsFile, Row
from tests.harness import tiny_model, train_tokenizer

runner = CliRunner()


def test_card_from_metrics(tmp_path):
    MetricsFile(tmp_path / "metrics.json", "r", {}).add(
        [
            Row("kd", "transfer=A seed=0 split=test", "perplexity", 3.0),
            Row("kd", "transfer=A seed=0 repetitions=10", "exposure", 3.0, 2.0, 4.0, 20),
        ]
    )
    assert runner.invoke(app, ["card", str(tmp_path / "metrics.json")]).exit_code == 0
    assert (tmp_path / "README.md").exists()
    (tmp_path / "empty").mkdir()
    MetricsFile(tmp_path / "empty" / "metrics.json", "r", {}).add([])
    result = runner.invoke(app, ["card", str(tmp_path / "empty" / "metrics.json")])
    assert result.exit_code == 2
    assert "measured nothing yet" in result.output


def audit(project, *options):
    own = ["--model", str(project / "student"), "--out", str(project / "audit")]
    return runner.invoke(app, ["audit", *own, *options])


def test_audit_of_everything(project, texts, tokenizer, every_curve):
    records = sorted(set(texts["text"]))
    for name, part in (("in", records[::2]), ("out", records[1::2])):
        (project / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    canaries = CanarySet.generate(
        "the pin of {name} is {secret}", length=3, count=20, repetitions=(2,), controls=0, assign="coin", seed=0
    )
    canaries.save(project / "canaries.json")
    members, others = str(project / "in.jsonl"), str(project / "out.jsonl")
    shutil.copytree(project / "teacher", project / "other")
    tiny_model(len(tokenizer), seed=7).save_pretrained(project / "other")
    result = audit(
        project,
        "--members",
        members,
        "--nonmembers",
        others,
        "--reference",
        str(project / "teacher"),
        "--canaries",
        str(project / "canaries.json"),
        "--pii",
        members,
        "--unseen",
        others,
        "--prefix-tokens",
        "8",
        "--suffix-tokens",
        "4",
        "--samples",
        "10",
        "--candidates",
        "4",
        "--against",
        str(project / "other"),
        "--annex",
    )
    assert result.exit_code == 0, result.output
    assert "membership of records: 30 in, 30 out" in result.output
    assert "what is gone beside the teacher, or the model in its place" in result.output
    assert re.search(r"values picked +never seen", result.output)
    report = json.loads((project / "audit" / "report.json").read_text())
    assert {"exposure", "membership", "epsilon", "extraction", "teacher", "removed"} == report.keys()
    annex = json.loads((project / "audit" / "annex.json").read_text())
    assert [one["role"] for one in annex["identified"]] == [
        "audited model",
        "compared with",
        "members",
        "nonmembers",
        "private_text",
        "unseen_text",
        "canaries",
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", one["digest"]) for one in annex["identified"])
    key = project / "audit" / "_private" / "annex.key"
    assert key.stat().st_mode & 0o077 == 0
    first = {one["role"]: one["digest"] for one in annex["identified"]}
    assert first["members"] == first["private_text"] != first["nonmembers"]
    assert annex["not_tried"] == ["model inversion from gradients or inner states"]
    assert not any(text in json.dumps(annex) for text in records)
    assert not any(canary.secret in json.dumps(annex["evidence"]) for canary in canaries.canaries if canary.inserted)
    assert "Regurgitation of training data" in (project / "audit" / "annex.html").read_text()
    assert (project / "audit" / "roc_records.png").exists()
    again = audit(project, "--members", members, "--nonmembers", others, "--json")
    assert json.loads(again.stdout[again.stdout.index("{") :])["exposure"] is None


def test_audit_names_the_file_and_the_line(project, tokenizer):
    files = {
        "good": '{"text": "hello ann"}\n{"text": "hello bob"}\n',
        "empty": "",
        "broken": '{"text": "a b"}\n{"text"\n',
        "same": '{"text": "hello eve"}\n{"text": "hello bob"}\n',
        "short": '{"text": "hello joe"}\n{"text": " "}\n',
    }
    paths = {name: str(project / f"{name}.jsonl") for name in files}
    for name, content in files.items():
        (project / f"{name}.jsonl").write_text(content)
    for name, message in (
        ("empty", "empty.jsonl is empty"),
        ("broken", "broken.jsonl:2: this line is no JSON"),
        ("same", "same.jsonl:2 is the same record as"),
        ("short", "short.jsonl:2: there is no text"),
    ):
        result = audit(project, "--members", paths["good"], "--nonmembers", paths[name])
        assert result.exit_code == 2
        assert message in result.stderr
    result = audit(project, "--members", paths["good"])
    assert result.exit_code == 2
    assert "There are no --nonmembers" in result.stderr
    assert "nothing to audit with" in audit(project).stderr
    assert "holds no canaries" in audit(project, "--canaries", paths["good"]).stderr
    (project / "audit").rmdir()
    (project / "audit").write_text("")  # where the report should go
    result = audit(project, "--members", paths["good"], "--nonmembers", paths["same"])
    assert result.exit_code == 2


def test_audit_refuses_a_reference_with_another_tokenizer(project, tokenizer):
    (project / "a.jsonl").write_text('{"text": "hello ann"}\n')
    (project / "b.jsonl").write_text('{"text": "hello bob"}\n')
    other = train_tokenizer(["something else entirely, nothing alike"], vocab_size=300)
    other.save_pretrained(project / "teacher")
    sides = ["--members", str(project / "a.jsonl"), "--nonmembers", str(project / "b.jsonl")]
    result = audit(project, *sides, "--reference", str(project / "teacher"))
    assert result.exit_code == 2
    assert "has another tokenizer" in result.stderr


def test_audit_of_a_diverged_model_says_so(project, student):
    with torch.no_grad():
        student.lm_head.weight.fill_(torch.nan)
    student.save_pretrained(project / "student")
    (project / "a.jsonl").write_text('{"text": "hello ann"}\n')
    (project / "b.jsonl").write_text('{"text": "hello bob"}\n')
    result = audit(project, "--members", str(project / "a.jsonl"), "--nonmembers", str(project / "b.jsonl"))
    assert result.exit_code == 2
    assert "weights of the model are not finite (lm_head.weight holds NaN" in result.stderr


def test_audit_of_an_adapter(project, student):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(student, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = str(project / "student")
    adapted.save_pretrained(project / "adapter")
    AutoTokenizer.from_pretrained(project / "student").save_pretrained(project / "adapter")
    for path in (project / "adapter").glob("tokenizer*"):
        path.unlink()  # as peft saves it
    model, own = load_model(str(project / "adapter"))
    assert model.can_generate()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    adapted.save_pretrained(project / "adapter")
    for name in ("in", "out"):
        (project / f"{name}.jsonl").write_text(f'{{"text": "hello {name} ann"}}\n{{"text": "{name} bob"}}\n')
    sides = ["--members", str(project / "in.jsonl"), "--nonmembers", str(project / "out.jsonl")]
    result = runner.invoke(
        app, ["audit", "--model", str(project / "adapter"), *sides, "--out", str(project / "audit")]
    )
    assert "what it was trained from is the reference" in result.stderr
    found = json.loads((project / "audit" / "report.json").read_text())["membership"]["records"]["results"]
    assert {"ez", "wbc", "ratio"} <= {one["attack"] for one in found}
    assert len(own) > 200
    student.model.save_pretrained(project / "headless")
    with pytest.raises(ValueError, match="is a LlamaModel"):
        load_model(str(project / "headless"))


@pytest.mark.slow  # the README's tests run the command as well
def test_budget_plans_a_run(tmp_path):
    figure = tmp_path / "budget.png"
    asked = ["budget", "1000", "--batch", "200", "--epochs", "2", "--epsilon", "4", "--unit", "user"]
    result = CliRunner().invoke(app, [*asked, "--table", "--figure", str(figure)])
    assert result.exit_code == 0, result.output
    assert "for each user (add or remove one)" in result.output
    assert "noise per unit" in result.output
    assert figure.stat().st_size > 10_000
    content = json.loads(CliRunner().invoke(app, [*asked, "--json", "--table"]).output)
    assert 3.96 <= content["plan"]["epsilon"] <= 4
    assert content["plan"]["steps"] == 10
    # The other way round: from that noise to that epsilon, in the same table.
    noise = content["plan"]["noise_multiplier"]
    back = CliRunner().invoke(
        app, ["budget", "1000", "--batch", "200", "--epochs", "2", "--noise", str(noise), "--json"]
    )
    assert json.loads(back.output)["plan"]["epsilon"] == pytest.approx(content["plan"]["epsilon"])
    assert any(row["epsilon"] == content["plan"]["epsilon"] for row in content["by_noise"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["10", "--batch", "20"], "--batch 20 must lie between 1 and the number of units (10)"),
        (["1000", "--epsilon", "-1"], "--epsilon -1.0 must be positive"),
        (["1000", "--epsilon", "1", "--noise", "1"], "Give either --epsilon or --noise"),
        (["1000", "--figure", "x.pdf"], "name it x.png"),
        (["1000", "--accountant", "gdp", "--noise", "1"], "--accountant gdp is not offered"),
    ],
)
def test_budget_refuses_what_makes_no_sense(options, message):
    result = CliRunner().invoke(app, ["budget", *options])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.usefixtures("project")
def test_an_audit_goes_onto_the_card(tmp_path, texts, every_curve):
    records = sorted(set(texts["text"]))
    for name, part in (("in", records[::2]), ("out", records[1::2])):
        Dataset.from_dict({"text": part}).to_json(tmp_path / f"{name}.jsonl")
    shutil.copy(tmp_path / "out.jsonl", tmp_path / "held_out.jsonl")
    student = tmp_path / "shipped"
    audit = [
        "audit",
        "--members",
        str(tmp_path / "in.jsonl"),
        "--nonmembers",
        str(tmp_path / "out.jsonl"),
        "--card",
        "--out",
        str(tmp_path / "audit"),
        "--model",
    ]
    refused = runner.invoke(app, [*audit, str(tmp_path / "student")])
    assert refused.exit_code == 2
    assert "lacks model_facts.json" in refused.stderr
    command = ["distill", "--teacher", str(tmp_path / "teacher"), "--student", str(tmp_path / "student"), "--data"]
    command += [str(tmp_path / "in.jsonl"), "--config", str(tmp_path / "config.yaml"), "--output-dir", str(student)]
    result = runner.invoke(app, [*command, "--eval-data", str(tmp_path / "held_out.jsonl")])
    assert result.exit_code == 0, result.output
    before = (student / "README.md").read_text()
    assert "Nobody attacked this model" in before
    result = runner.invoke(app, [*audit, str(student)])
    assert result.exit_code == 0, result.output
    card = (student / "README.md").read_text()
    assert "Nobody attacked this model" not in card
    assert "membership of records: 30 in, 30 out" in card
    measured = next(line for line in before.splitlines() if line.startswith("| perplexity |"))
    assert measured in card
    assert "![roc_records.png](roc_records.png)" in card
    assert (student / "roc_records.png").exists()
    assert "membership of records" in (student / "report.html").read_text()
    assert "tells of this audit only" in result.output
    (student / "model_facts.json").write_text("{}")
    damaged = runner.invoke(app, [*audit, str(student)])
    assert damaged.exit_code == 2
    assert "model_facts.json is damaged" in damaged.stderr
