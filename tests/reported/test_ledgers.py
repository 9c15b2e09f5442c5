"""A ledger, a checkpoint or a metrics file may be somebody else's text: nothing in it is taken for more than it is."""

import json
import re
import shutil

import pytest
from datasets import Dataset, IterableDataset, load_dataset

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.audit import CanarySet
from swingkd.decentralized import FederationResult
from swingkd.decentralized.rounds import History
from swingkd.privacy import TEACHER_DATA, LedgerEntry, PrivacyLedger, PrivacyPlan
from swingkd.report import MetricsFile, ModelFacts, Row, model_card
from swingkd.report.render import plain
from swingkd.trainer.resuming import rows_fingerprint
from tests.harness import TEXTS

PLAN = PrivacyPlan(0.1, 5, 1.0)


def ledger_of(**changes):
    content = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=5)]).to_dict()
    content["entries"][0] |= {name: value for name, value in changes.items() if name in content["entries"][0]}
    return content | {name: value for name, value in changes.items() if name not in content["entries"][0]}


WRONG = [
    [],
    None,
    5,
    "text",
    {},
    {"version": 2, "entries": []},
    {"version": 1, "entries": "DP-SGD"},
    {"version": 1, "entries": ["DP-SGD"]},
    {"version": 1, "entries": [{}]},
    {"version": 1, "entries": [None]},
    ledger_of(noise_multiplier=float("inf")),
    ledger_of(noise_multiplier=float("nan")),
    ledger_of(noise_multiplier=0.0),
    ledger_of(noise_multiplier=-1.0),
    ledger_of(noise_multiplier=1e-9),
    ledger_of(releases=float("nan")),
    ledger_of(releases=1.5),
    ledger_of(releases="5"),
    ledger_of(releases=10**15),
    ledger_of(delta=0),
    ledger_of(delta=1.0),
    ledger_of(delta=1e-20),
    ledger_of(sampling_rate=0),
    ledger_of(sampling_rate=2),
    ledger_of(accountant="gdp"),
    ledger_of(neighbours="whatever"),
    ledger_of(holds="yes"),
    ledger_of(pure_epsilon=0.01),
    ledger_of(mechanism="a\nb"),
    ledger_of(mechanism="x" * 10_000),
    ledger_of(budget=float("inf")),
    ledger_of(unknown={"transfer set": 3}),
    ledger_of(weights={"../../secret": "0" * 64}),
    ledger_of(weights={"model.safetensors": "abc"}),
    {"version": 1, "entries": ledger_of()["entries"] * 101},
]


@pytest.mark.parametrize("content", WRONG, ids=range(len(WRONG)))
def test_what_is_no_ledger_is_one_clear_error(tmp_path, content):
    (tmp_path / "privacy_ledger.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"\w") as caught:
        PrivacyLedger.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match=r"\w"):
        PrivacyLedger.from_dict(content)


def test_what_is_one_is_read_back(tmp_path):
    ledger = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=5)], budget=3.0)
    ledger.save(tmp_path)
    assert PrivacyLedger.load(tmp_path).to_dict() == ledger.to_dict()


HOSTILE = "DP-SGD <script>alert(1)</script> [click](https://evil.example) ![x](https://evil.example/y.png) `|` **b**"


def lines_of(card):
    return [line for line in card.splitlines() if "evil" in line or "script" in line]


def assert_harmless(card):
    assert "<script" not in card
    assert "](https" not in card
    assert "https://evil" not in card
    assert "![x](" not in card


def test_a_teachers_ledger_writes_no_markdown_into_the_students_card():
    entry = LedgerEntry.of_plan(PLAN, releases=5, scope=TEACHER_DATA, caveat=HOSTILE)
    broken = LedgerEntry(HOSTILE, releases=1, holds=False, claim=HOSTILE, caveat=HOSTILE)
    ledger = PrivacyLedger([entry, broken], unknown={HOSTILE: HOSTILE})
    for facts in (
        ModelFacts("student", ledger),
        ModelFacts(HOSTILE, ledger, base_model=HOSTILE, teacher=HOSTILE, datasets=(HOSTILE,)),
        ModelFacts("student", ledger, results={HOSTILE: 1.0}, trained={HOSTILE: HOSTILE}),
    ):
        body = re.sub(r"\A---.*?\n---\n", "", model_card(facts), flags=re.DOTALL)
        assert lines_of(body)
        assert_harmless(body)


@pytest.mark.parametrize("text", ["a_b-c.d", "owner/name", "swing (B+)", "epsilon 7.99 at delta 1e-05"])
def test_plain_names_stay_as_they_are(text):
    assert plain(text) == text


@pytest.mark.parametrize("name", ["<b>", "a|b", "`x`", "a\\b", "[a](b)", "a\x1b[31m"])
def test_rows_of_metrics_carry_no_markdown(tmp_path, name):
    with pytest.raises(ValueError, match=r"sign that Markdown or HTML would read|holds a blank|no name"):
        Row(name, "split=test", "perplexity", 1.0)
    content = {"run": "r", "config": {}, "environment": {}, "rows": []}
    row = {"model": name, "setting": "split=test", "metric": "perplexity", "value": 1.0}
    (tmp_path / "metrics.json").write_text(json.dumps(content | {"rows": [row]}))
    with pytest.raises(ValueError, match=r"rows of metrics.json"):
        _ = MetricsFile(tmp_path / "metrics.json").rows


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"rows": 3}', '{"run": 1, "config": {}, "environment": {}, "rows": []}', "{", "\xff"]
)
def test_metrics_and_rounds_of_other_types_are_refused(tmp_path, text):
    for name in ("metrics.json", "rounds.json", "result.json"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    history = History(tmp_path)
    with pytest.raises(ValueError, match=r"damaged|no JSON"):
        MetricsFile(tmp_path / "metrics.json").read()
    with pytest.raises(ValueError, match=r"damaged|no JSON"):
        history.load(None)
    with pytest.raises(ValueError, match=r"damaged|no JSON"):
        FederationResult.load(tmp_path / "result.json")


def test_types_of_canaries_are_checked_and_never_quoted(tmp_path):
    canaries = CanarySet.generate("My pin is {secret}.", length=4, count=1, repetitions=(1,), controls=0, seed=0)
    canaries.save(tmp_path / "canaries.json")
    content = json.loads((tmp_path / "canaries.json").read_text())
    secret = content["canaries"][0]["secret"]
    for change in (
        {"inserted": "no"},
        {"inserted": 1},
        {"repetitions": "10"},
        {"repetitions": -1},
        {"secret": 9325},
        {"secret": "x" + secret},
        {"id": True},
        {"prefix": None},
    ):
        wrong = content | {"canaries": [content["canaries"][0] | change]}
        (tmp_path / "canaries.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"canaries.json") as caught:
            CanarySet.load(tmp_path / "canaries.json")
        assert secret not in str(caught.value)


# --- the teacher's own word ---


def test_the_card_says_that_an_epsilon_is_the_teachers_own_word(tmp_path, config, student, teacher, texts, tokenizer):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    tiny = LedgerEntry("DP-SGD", releases=1, delta=1e-5, noise_multiplier=500.0, sampling_rate=0.001)
    PrivacyLedger([tiny], unknown={TEACHER_DATA: "there was no teacher"}).seal(tmp_path / "teacher")
    trainer = PrivateDistillationTrainer(
        student,
        config(protection="none"),
        teacher_model=str(tmp_path / "teacher"),
        train_dataset=texts,
        processing_class=tokenizer,
    )
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("- teacher's training data: epsilon")]
    assert "that is the teacher's own word" in line
    # A student of that student says so once.
    again = [entry for entry in trainer.ledger.as_teacher() if "own word" in entry.caveat]
    assert all(entry.caveat.count("own word") == 1 for entry in again)


def test_public_data_is_a_word_too(tmp_path):
    content = {"version": 1, "entries": [], "unknown": dict.fromkeys(PrivacyLedger().scopes(), "it is public")}
    (tmp_path / "privacy_ledger.json").write_text(json.dumps(content))
    read = PrivacyLedger.load(tmp_path)
    assert read.why_uncovered() == "it is public, by the teacher's own word"
    line = PrivacyLedger(unknown={TEACHER_DATA: read.why_uncovered()}).lines()[1]
    assert line == "teacher's training data: not covered; it is public, by the teacher's own word"


# --- resuming ---


@pytest.fixture
def stopped(tmp_path, config, student, teacher, texts, tokenizer):
    """A function that makes a trainer of a run that was stopped after two of four steps, and its checkpoint."""

    def make(rows=texts, **fields):
        args = config(max_steps=4, save_strategy="steps", save_steps=2, **({"protection": "noise"} | fields))
        return PrivateDistillationTrainer(
            student, args, teacher_model=teacher, train_dataset=rows, processing_class=tokenizer, tagger=RuleTagger()
        )

    make().train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    return make, tmp_path / "out" / "checkpoint-2"


def test_it_goes_on_where_nothing_was_changed(stopped):
    make, checkpoint = stopped
    make().train(resume_from_checkpoint=str(checkpoint))


def test_rows_after_the_two_hundredth_count(tokenizer):
    many = [f"note {i}: the code of {TEXTS[i % 60]}" for i in range(400)]
    rows = Dataset.from_dict({"input_ids": tokenizer(many)["input_ids"]})
    changed = Dataset.from_dict({"input_ids": [*rows["input_ids"][:-1], [1, 2, 3]]})
    assert rows_fingerprint(rows) == rows_fingerprint(Dataset.from_dict({"input_ids": rows["input_ids"][:]}))
    assert rows_fingerprint(rows) != rows_fingerprint(changed)
    assert rows_fingerprint(rows.select(range(399))) != rows_fingerprint(rows)
    assert rows_fingerprint(rows.select([1, 0, *range(2, 400)])) != rows_fingerprint(rows)
    assert rows_fingerprint(rows.shuffle(seed=0)) == rows_fingerprint(rows.shuffle(seed=0))


def test_streams_are_known_by_their_source(tmp_path):
    def numbers(count):
        yield from ({"text": str(i)} for i in range(count))

    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n' * 2)

    def files(name):
        return load_dataset("json", data_files=str(tmp_path / name), split="train", streaming=True)

    one = rows_fingerprint(files("a.jsonl"))
    assert one == rows_fingerprint(files("a.jsonl").map(lambda row: row))
    assert one != rows_fingerprint(files("b.jsonl"))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 3)
    assert one != rows_fingerprint(files("a.jsonl"))
    made = [rows_fingerprint(IterableDataset.from_generator(numbers, gen_kwargs={"count": n})) for n in (3, 3, 4)]
    assert made[0] == made[1] != made[2]


def test_files_of_a_checkpoint_that_were_edited_are_refused(stopped):
    """Each of them: the ledger, the settings, the weights, the optimizer's state, the number of the step."""
    make, checkpoint = stopped
    trainer = make()
    files = sorted(path for path in checkpoint.iterdir() if path.name != "seal.json")
    assert {"privacy_ledger.json", "run_settings.json", "model.safetensors", "optimizer.pt", "trainer_state.json"} <= {
        path.name for path in files
    }
    for path in files:
        before = path.read_bytes()
        for changed in (before[:-1], before + b" ", b"{}", b""):
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=f"{path.name} of .* was changed after it was written"):
                trainer.train(resume_from_checkpoint=str(checkpoint))
        path.unlink()
        with pytest.raises(ValueError, match=f"{path.name} of .* is gone"):
            trainer.train(resume_from_checkpoint=str(checkpoint))
        path.write_bytes(before)
    seal = checkpoint / "seal.json"
    before = seal.read_text()
    for text, says in (("", "no JSON"), ("[]", "damaged"), (None, "has no seal.json")):
        seal.unlink() if text is None else seal.write_text(text)
        with pytest.raises(ValueError, match=says):
            make().train(resume_from_checkpoint=str(checkpoint))
    seal.write_text(before)


def test_another_alpha_or_other_rows_are_refused(stopped, texts):
    make, checkpoint = stopped
    with pytest.raises(ValueError, match=r"alpha=0.5 \(now 0.25\)"):
        make(alpha=0.25).train(resume_from_checkpoint=str(checkpoint))
    other = Dataset.from_dict({"text": [*texts["text"][:-1], "hello joe, my pin is 1234. thank you joe."]})
    with pytest.raises(ValueError, match="training_rows="):
        make(other).train(resume_from_checkpoint=str(checkpoint))
