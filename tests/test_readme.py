"""Every Python block of the README runs, in order, in one session; so do the shell blocks that can run here."""

import json
import re
import shlex
from pathlib import Path
from statistics import NormalDist

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from transformers import BertForSequenceClassification
from typer.testing import CliRunner

from swingkd.cli import app
from swingkd.report import MetricsFile, summarise
from swingkd.report.runs.canaries import CanaryCard
from swingkd.report.runs.labels import LabelTable
from swingkd.report.table import RunTable
from tests.harness import TEXTS, bert, coloured, tiny_model

RIVALS = ("drop", "mollify", "noise", "population")
README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_blocks(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("teacher", 1), ("student", 2), ("base", 3)):
        tiny_model(len(tokenizer), seed=seed).save_pretrained(name)
        tokenizer.save_pretrained(name)
    texts = Dataset.from_dict({"text": [f"hello ann, my pin is {1000 + 7 * i}. thank you." for i in range(200)]})
    texts.to_json("private.jsonl")
    others = [f"hello cid, my pin is {3000 + 7 * i}. bye." for i in range(50)]
    Dataset.from_dict({"text": others}).to_json("held_out.jsonl")
    write_images()
    person = {"person": [i % 6 for i in range(180)], "label": [i % 3 for i in range(180)]}
    points = {"x": [i % 3 + i / 500 for i in range(180)], "y": [i / 180 for i in range(180)]}
    Dataset.from_dict(person | points).to_parquet("people.parquet")
    namespace: dict = {}
    assert len(blocks("python")) == 8
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert (tmp_path / "out" / "student" / "model.safetensors").exists()
    assert namespace["trainer"].ledger.epsilon() <= 8
    assert 7 < namespace["tuned"].ledger.epsilon() <= 8
    assert namespace["selection"].ledger.epsilon("teacher's training data") <= 8
    assert (tmp_path / "out" / "images" / "model" / "privacy_ledger.json").exists()
    assert len(namespace["result"].accuracies) == 4
    assert len(namespace["with_canaries"]) == len(texts) + 55

    # No example calls rows that were trained on unseen.
    trained, unseen = namespace["private"]["text"], namespace["held_out"]["text"]
    assert not set(trained) & set(unseen)
    assert len(namespace["trainer"].train_dataset) == len(trained)
    tokenizer.save_pretrained("out/student")
    commands = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    said = {}
    for command in (line for line in commands if line.startswith("swingkd ")):
        result = CliRunner().invoke(
            app, [*shlex.split(command)[1:], *(["--samples", "20"] if "--pii" in command else [])]
        )
        assert result.exit_code == 0, (command, result.output)
        said[" ".join(command.split()[:4])] = result.output
    assert "membership of records: 200 in, 50 out" in said["swingkd audit --model out/student"]
    assert "for each record (add or remove one)" in said["swingkd budget 10000 --batch"]
    assert "PLD accountant" in said["swingkd budget 10000 --batch"]
    assert (tmp_path / "out" / "audit" / "report.json").exists()
    card = (tmp_path / "out" / "shipped" / "README.md").read_text()
    assert "membership of records: 200 in, 50 out" in card
    assert "| perplexity |" in card


def test_a_script_becomes_private_by_changing_a_few_lines(tmp_path, monkeypatch, tokenizer):
    (diff,) = blocks("diff")
    lines = diff.splitlines()
    removed, added = (sum(line.startswith(sign) for line in lines) for sign in "-+")
    assert max(removed, added) <= 6
    before, after = ("\n".join(line[1:] for line in lines if not line or line[0] in (" ", sign)) for sign in "-+")
    monkeypatch.chdir(tmp_path)
    for name in ("small", "large"):
        bert(BertForSequenceClassification, len(tokenizer), num_labels=2).save_pretrained(name)
        tokenizer.save_pretrained(name)
    texts = [f"hello ann, my pin is {1000 + 7 * i}" if i % 3 else f"thank you, part {i}" for i in range(30)]
    Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(30)]}).to_json("records.jsonl")
    exec(compile(before, "before.py", "exec"), {})
    namespace: dict = {}
    exec(compile(after, "after.py", "exec"), namespace)
    assert namespace["trainer"].args.protection == "drop"
    assert any(namespace["trainer"].train_dataset["pii_likelihood"])


def test_the_python_block_of_the_tasks_page(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    for name in ("bert", "distilbert"):
        bert(BertForSequenceClassification, len(tokenizer), num_labels=2).save_pretrained(name)
        tokenizer.save_pretrained(name)
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    namespace: dict = {}
    exec(compile(block, "tasks.md", "exec"), namespace)
    assert "eval_macro_f1" in namespace["trainer"].evaluate()


def test_the_python_blocks_of_the_students_page(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("base", 0), ("teacher", 1)):
        tiny_model(len(tokenizer), seed=seed, num_hidden_layers=3).save_pretrained(name)
        tokenizer.save_pretrained(name)
    page = (Path(__file__).parents[1] / "docs" / "students.md").read_text()
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "students.md", "exec"), namespace)
    student, teacher = namespace["student"], namespace["teacher"]
    assert student.config.num_hidden_layers == 2
    left = len(namespace["vocabulary"].tokenizer)
    assert student.config.vocab_size == teacher.config.vocab_size == left < len(tokenizer)


def test_the_python_block_of_the_out_of_fold_page(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("base", 0), ("student", 1)):
        tiny_model(len(tokenizer), seed=seed).save_pretrained(name)
        tokenizer.save_pretrained(name)
    rows = [{"text": f"{text} number {i}", "patient": i // 3} for i, text in enumerate(TEXTS[:30])]
    Path("notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = (Path(__file__).parents[1] / "docs" / "out_of_fold.md").read_text()
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "out_of_fold.md", "exec"), namespace)
    assert namespace["trainer"].state.global_step == 5
    assert namespace["tagger"].labels[-1] == "MEMORISED"


def write_images() -> None:
    made = coloured(120, seed=0)
    pixels = [image.permute(1, 2, 0).numpy() for image in made.pixels]
    features = Features({"image": Image(), "label": ClassLabel(names=list("abc"))})
    Dataset.from_dict({"image": pixels, "label": made.labels.tolist()}, features).to_parquet("images.parquet")


def test_the_python_block_of_the_images_page(tmp_path, monkeypatch, fresh_accelerate):
    monkeypatch.chdir(tmp_path)
    write_images()
    page = (Path(__file__).parents[1] / "docs" / "images.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    namespace: dict = {}
    exec(compile(block, "images.md", "exec"), namespace)
    assert namespace["images"].names == ("a", "b", "c")
    assert Path("out/images.bytes").stat().st_size == namespace["images"].pixels.numel()
    assert namespace["training"].done == 1


def test_the_python_blocks_of_the_federation_page(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("small", "large")):
        tiny_model(len(tokenizer), seed=seed).save_pretrained(name)
        tokenizer.save_pretrained(name)
    page = (Path(__file__).parents[1] / "docs" / "federation.md").read_text()
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "federation.md", "exec"), namespace)
    assert [ann.answered for ann in namespace["people"]] == [2, 2]
    assert min(namespace["run"].result().accuracies.values()) > 0.5


def test_the_tag_command():
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if "swingkd tag" in line]
    text = shlex.split(line.split("|")[0])[1]
    result = CliRunner().invoke(app, ["tag"], input=text)
    assert "4711 ID_NUMBER" in result.output
    assert "ann@example.org EMAIL_ADDRESS" in result.output


def test_the_numbers_are_those_of_the_benchmarks():
    def read(name):
        return json.loads((Path(__file__).parent / "benchmarks" / f"{name}.json").read_text())

    memory, time = read("loss_memory")["results"][0], read("loss_time")["rows"][0]["seconds"]
    step, text = read("training_step"), " ".join(README.split())
    assert memory["vocabulary"] == read("loss_time")["vocabulary"] == step["vocabulary"] == 50_257
    audit = read("membership_speed")
    rate = audit["texts_per_second"]["one pass for all"]
    for words in (
        f"{rate:.0f} texts a second on two cores, {audit['speedup']:.1f} times as many",
        f"1/{memory['dense'] / memory['fused']:.0f} of the dense formula's memory",
        f"{time['one pass'] / time['dense']:.2f} of its time",
        f"{time['one pass'] / time['trl']:.2f} of the time of TRL's chunked kernel",
        f"takes {step['swing_over_floor']:.2f} of what the models' own passes take",
        f"{step['live_over_cached']:.1f} times less with a cached teacher",
    ):
        assert words in text


def test_the_cost_of_a_private_step_is_that_of_the_benchmark():
    root = Path(__file__).parents[1]
    rows = json.loads((root / "tests" / "benchmarks" / "dp_step.json").read_text())["rows"]
    times = {(row["trained"], row["way"]): f"{row['times_ordinary']:.2f}" for row in rows}
    text = " ".join((root / "docs" / "differential-privacy.md").read_text().split())
    assert f"costs {times['full', 'swingkd']} times an ordinary one" in text
    assert f"{times['LoRA', 'swingkd']} times for an adapter" in text
    assert f"same model {times['full', 'Opacus']} and {times['LoRA', 'Opacus']}" in text
    alone = times["full", "swingkd, row by row"], times["LoRA", "swingkd, row by row"]
    assert f"it costs {alone[0]} and {alone[1]} times an ordinary step" in text


def test_the_epsilons_are_those_of_the_card():
    card = Path(__file__).parents[1] / "model_cards" / "audit-simdial" / "metrics.json"
    every = json.loads(card.read_text())["rows"]
    rows = [row for row in every if "records=canary_records" in row["setting"]]
    kd, population, mollify, surrogate = (
        max(row["value"] for row in rows if row["model"] == model and row["metric"] == "epsilon_lower")
        for model in ("kd", "population", "mollify", "surrogate")
    )
    assert len({row["setting"] for row in rows}) == 10
    assert mollify == surrogate
    words = (
        f"an epsilon of {kd:.1f} against plain distillation, {population:.1f} against `population` and {mollify:.1f} "
        "against `mollify` and `surrogate`"
    )
    text = " ".join(README.split())
    assert words in text
    auc = {(row["model"], row["setting"]): f"{row['value']:.2f}" for row in every if row["metric"] == "auc"}
    told = [auc[model, "records=dialogues attack=lira"] for model in ("kd", "population", "mollify", "surrogate")]
    assert (
        "AUC of {} against plain distillation, {} against `population`, {} against `mollify` and {} against "
        "`surrogate`".format(*told)
    ) in text
    docs = Path(__file__).parents[1] / "docs"
    assert f"proves an epsilon of {population:.1f}" in " ".join((docs / "methods.md").read_text().split())
    # Five digits, and half of 500 canaries in the average.
    apart = (5 * 9 / 250) ** 0.5
    derived = f"{apart:.2f} for five digits and 250 canaries, an AUC of {NormalDist().cdf(apart / 2**0.5):.2f}"
    said = " ".join((docs / "audits.md").read_text().split())
    assert derived in said
    loss = auc["population", "records=canary_secrets attack=loss"]
    assert f"The loss of the audited `population` tells {loss}" in said


def test_the_copied_secrets_are_those_of_the_card():
    card = Path(__file__).parents[1] / "model_cards" / "swing-simdial" / "metrics.json"
    found = {summary.name: summary for summary in summarise(json.loads(card.read_text()))}
    text, levels = " ".join(README.split()), (10, 50, 100)
    names = ("kd", "surrogate", "out_of_fold")
    over = {name: [f"{found[name].excess[n].value:.1f}" for n in levels] for name in names}
    at = {name: found[name].perplexity["perplexity"] for name in (*names, "public (B)")}
    kd, surrogate, apart = ("{}, {} and {}".format(*over[name]) for name in names)
    assert f"copied 10, 50 and 100 times are {kd} bits over the controls" in text
    assert f"With `surrogate` it is {surrogate}, with out-of-fold" in text
    assert f"need no tagger, {apart};" in text
    changes = [100 * (at[name] / at["kd"] - 1) for name in ("surrogate", "out_of_fold")]
    assert f"perplexity changes by {changes[0]:+.1f} and {changes[1]:+.1f} %" in text
    assert at["public (B)"] < at["surrogate"]
    assert all(found[name].seeds == 3 for name in names)


def test_the_private_students_are_those_of_the_card():
    card = Path(__file__).parents[1] / "model_cards" / "dp-simdial" / "metrics.json"
    found = {summary.name: summary for summary in summarise(json.loads(card.read_text()))}
    at = {name: f"{summary.perplexity['perplexity']:.2f}" for name, summary in found.items()}
    proved = {name: max(p.epsilon for p in summary.proved.values()) for name, summary in found.items()}
    eight, text = "dp (epsilon=8)", " ".join(README.split())
    assert (
        f"at epsilon 8 for each record has a perplexity of {at[eight]}, where plain distillation has {at['kd']},"
        in text
    )
    assert (
        f"`surrogate` {at['surrogate']}, scrubbed text {at['scrub']} and dropping private tokens {at['drop']};" in text
    )
    assert f"teaches nothing here ({float(at['public (B)']):.0f})" in text
    assert f"prove an epsilon of {proved['kd']:.1f} against plain distillation" in text
    assert f"prove {proved[eight]:.1f} and {proved['surrogate']:.1f} against these two" in text
    assert found[eight].excess[10].low < 0 < found[eight].excess[50].low
    assert proved[eight] < found[eight].promised["transfer_set"].epsilon <= 8
    assert all(interval.low < 0 for interval in found["surrogate"].excess.values())
    assert float(at["surrogate"]) < min(float(at[name]) for name in (eight, "scrub", "drop", "public (B)"))


def test_the_classifiers_are_those_of_the_card():
    card = Path(__file__).parents[1] / "model_cards" / "swing-mts-sections" / "metrics.json"
    table = LabelTable(MetricsFile(card).rows)

    def found(kind, model):
        return f"{100 * table.rates((model, 'table=main'), kind, 'tpr_at_1_fpr')[table.strongest(kind)]:.1f}"

    text = " ".join(README.split())
    models = ("kd", "swing", "drop", "surrogate")
    marked, unmarked = ({model: found(kind, model) for model in models} for kind in ("marked", "unmarked"))
    assert f"an attacker finds {marked['kd']} % in a plainly distilled classifier at 1 % false alarms" in text
    assert f"{marked['swing']} % with `noise` and {marked['drop']} % with `drop`" in text
    changes = [table.change((model, "table=main")) for model in ("swing", "drop")]
    assert f"macro-F1 changes by {changes[0]} and {changes[1]} points, no difference that three seeds" in text
    assert all("[-" in change and ", +" in change for change in changes)
    assert f"it is {unmarked['kd']} % against {unmarked['swing']} and {unmarked['drop']} %" in text
    assert f"learnt all the same: {marked['surrogate']} % are found" in text
    # Dropping cuts nearly all where plain distillation leaks, within a point.
    assert table.cut(("drop", "table=main"), "marked") >= 0.8
    assert float(changes[1].split()[0]) >= -1


def test_the_word_taggers_are_those_of_the_card():
    card = Path(__file__).parents[1] / "model_cards" / "swing-ner-simdial" / "metrics.json"
    table = LabelTable(MetricsFile(card).rows)

    def of(model, words=""):
        student = (model, f"table=main {words}".rstrip())
        worth = list(table.worth(student).values())
        found = table.rates(student, "names", "tpr_at_1_fpr")[table.strongest("names")]
        return f"{100 * sum(worth) / len(worth):.1f} %", f"{100 * found:.1f} %"

    text = " ".join(README.split())
    worth, found = of("kd")
    assert f"plain distillation has an F1 of {worth} and gives {found} of made-up names away" in text
    worth, found = of("surrogate")
    assert f"With `surrogate` it is {worth}, and {found} of the names" in text
    worth, found = of("temperature", "maximum=4")
    assert f"the temperature alone {worth} and {found} with `max_temperature=4`" in text
    worth, found = of("temperature", "maximum=16")
    assert f"{worth} and {found} with 16" in text
    worth, found = of("population")
    assert f"`population` {worth} and {found}" in text


COUNTS = {7: "seven", 8: "eight"}


def test_the_kinds_of_canaries_are_those_of_the_card():
    card = Path(__file__).parents[1] / "model_cards" / "audit-canaries" / "metrics.json"
    students = {student.name: student for student in CanaryCard(json.loads(card.read_text())).table}

    def second(guard):
        return [s.leaks["second"].value for s in students.values() if s.guard == guard and s.model in RIVALS]

    text = " ".join(README.split())
    best, worst = min(second("before")), max(second("before"))
    assert f"gave {best:.1f} to {worst:.1f} bits away behind four protections as they were" in text
    surrogate, kd = students["surrogate (now)"], students["kd (none)"]
    assert surrogate.seeds == kd.seeds == 3
    taggable = {kind: leak for kind, leak in surrogate.leaks.items() if kind != "words"}
    others = {kind: leak for kind, leak in taggable.items() if leak.value > 0.3 or leak.high >= 1}
    assert f"{COUNTS[len(taggable) - len(others)]} of the {COUNTS[len(taggable)]} kinds that a tagger finds" in text
    assert "at most 0.3 bits over secrets that were never there, the whole interval of each below 1 bit" in text
    for kind, leak in others.items():
        assert f"`{kind}` is at {leak.value:.1f}, and its interval holds 0" in text
        assert leak.low <= 0
    assert f"(three seeds, {100 * (surrogate.perplexity / kd.perplexity - 1):+.1f} % perplexity)" in text
    apart = students["out_of_fold (none)"].leaks
    words = surrogate.leaks["words"].value, apart["words"].value
    assert f"Three words that no tagger finds are {words[0]:.1f} bits behind it, and {words[1]:.1f} where" in text
    fuzzy = f"{apart['fuzzy'].value:.1f}"
    assert f"a tenth of their words fall into several folds: {fuzzy} there" in text
    assert f"was {fuzzy} bits over the controls" in (Path(__file__).parents[1] / "docs" / "out_of_fold.md").read_text()


def test_nothing_was_left_to_fill_in():
    for page in (Path(__file__).parents[1]).glob("**/*.md"):
        if ".venv" not in page.parts:
            assert "@@" not in page.read_text(), page


def test_the_taggers_are_those_of_the_cards():
    def card(name):
        rows = json.loads((Path(__file__).parents[1] / "model_cards" / name / "metrics.json").read_text())["rows"]
        return {
            (row["model"], row["setting"].split("data=")[-1], row["metric"]): f"{100 * row['value']:.1f}"
            for row in rows
            if row["value"] is not None
        }

    found, scratch = card("pii-tagger-minilm"), card("pii-tagger")
    text, unseen, tweets = " ".join(README.split()), "presidio_templates", "wnut17"
    tagger, rules, names = (found[each, unseen, "recall"] for each in ("pii_tagger", "rules", "presidio_names"))
    assert f"finds {tagger} % of the private characters in unseen templates" in text
    assert f"the rules find {rules} % and Presidio with spaCy's names {names} %" in text
    recall, flags = (found["pii_tagger", tweets, metric] for metric in ("recall", "false_flags"))
    assert f"{recall} % of the names and places in tweets, at {flags} % false flags there" in text
    both = found["rules_and_pii_tagger", unseen, "recall"]
    choosing = (Path(__file__).parents[1] / "docs" / "choosing.md").read_text()
    assert f"find {both} % of the private characters in unseen templates" in " ".join(choosing.split())
    before = [scratch["pii_tagger", data, "recall"] for data in (unseen, tweets)]
    assert f"from scratch: {before[0]} and {before[1]} %, [card]" in text


def test_the_image_students_are_those_of_the_cards():
    def card(name):
        rows = json.loads((Path(__file__).parents[1] / "model_cards" / name / "metrics.json").read_text())["rows"]

        def percent(model, metric, *words):
            found = [
                row["value"]
                for row in rows
                if (row["model"], row["metric"]) == (model, metric) and set(words) <= set(row["setting"].split())
            ]
            return f"{100 * sum(found) / len(found):.1f}"

        return percent

    text = " ".join(README.split())
    selection, mnist, cifar = map(card, ("cifar10-sample-selection", "data-free-mnist", "data-free-cifar10"))
    at = {
        (model, share): selection(model, "accuracy", "table=headline", f"public={share}")
        for model, share in (
            ("published", 0.8),
            ("self_learning", 0.8),
            ("published", 0.1),
            ("self_learning", 0.1),
            ("shard_teachers", 0.1),
            ("dp_teacher", 0.1),
        )
    }
    assert f"gets {at['published', 0.8]} % with the published method" in text
    assert f"and {at['self_learning', 0.8]} % on the public labels alone" in text
    assert f"a tenth of the images public, {at['published', 0.1]} and {at['self_learning', 0.1]} %" in text
    assert f"gets {at['dp_teacher', 0.1]} % with a teacher trained by DP-SGD and {at['shard_teachers', 0.1]} %" in text
    exact, ten, one = (mnist(m, "accuracy") for m in ("without_privacy", "label_epsilon_10", "label_epsilon_1"))
    said = mnist("soft_labels", "accuracy")
    assert f"gets {said} % on MNIST from all that the teacher says and {exact} % from its labels, {ten} % with" in text
    assert f"{ten} % with labels of epsilon 10 and {one} % with labels of epsilon 1" in text
    assert f"{one} % with labels of epsilon 1, and {mnist('dp_teacher', 'accuracy')} % at epsilon 8 for each" in text
    soft, taught = cifar("soft_labels", "accuracy"), cifar("teacher", "accuracy")
    assert f"On CIFAR-10 a student gets {soft} % from the soft labels of a teacher with {taught} %" in text


def federation(name: str) -> RunTable:
    return RunTable(MetricsFile(Path(__file__).parents[1] / "model_cards" / name / "metrics.json").rows)


def test_the_federations_are_those_of_the_cards():
    def at(table, model):
        return f"{100 * table.mean((model, 'table=main'), 'accuracy'):.1f}"

    text = " ".join(README.split())
    har, voices, characters = map(federation, ("sd-dist-har", "sd-dist-parkinsons", "sd-dist-text"))
    assert (
        f"SD-Dist gets {at(har, 'sd_dist')} %, FedMD {at(har, 'fedmd')} % and learning alone {at(har, 'local')}"
        in text
    )
    assert f"reference labels, without any federation, gets {at(har, 'local_and_reference')} %" in text
    assert f"is best: {at(voices, 'local')} % against {at(voices, 'sd_dist')} % ([card]" in text
    assert f"SD-Dist gets {at(characters, 'sd_dist')} %, FedMD {at(characters, 'fedmd')} %," in text
    assert f"alone {at(characters, 'local')} %, and FedAvg, for which the weights" in text
    assert f"weights leave their owners, {at(characters, 'fedavg')} %" in text
    both = at(characters, "sd_dist_labels"), at(har, "sd_dist_labels")
    shown, not_shown = (
        table.difference(("sd_dist_labels", "table=main"), ("local_and_reference", "table=main"), "accuracy")
        for table in (characters, har)
    )
    assert f"SD-Dist gets {both[0]} % there, {100 * shown.mean:.1f} points more than the labels alone," in text
    assert f"and {both[1]} % on the activities, where a gain over the labels is shown only where a quarter" in text
    wrong = "table=noisy mislabelled_clients=0.25"
    noisy = har.difference(("sd_dist_labels", wrong), ("local_and_reference", wrong), "accuracy")
    assert f"wrong labels ({100 * noisy.mean:.1f} points)" in text
    assert min(shown.low, noisy.low) > 0 > not_shown.low
    speakers = federation("sd-dist-lm")

    def perplexity(model):
        return f"{speakers.mean((model, 'table=main'), 'perplexity'):.1f}"

    assert (
        f"perplexity of {perplexity('sd_dist')}, FedMD {perplexity('fedmd')} and learning alone {perplexity('local')};"
        in text
    )
    assert (
        f"blended in {perplexity('sd_dist_labels')}, where these alone give {perplexity('local_and_reference')}."
        in text
    )
    assert f"weights leave their owners, reaches {perplexity('fedavg')}." in text
    known, replaced = (
        speakers.attacks(("sd_dist", f"table=leak copies=4{also}"), "auc")["loss"] for also in ("", " surrogates=True")
    )
    assert f"found with an AUC of {known:.2f}, and of {replaced:.2f} where each client's values" in text
    leak = "table=leak copies=1"
    plain, private = ("sd_dist", leak), ("sd_dist", f"{leak} target_epsilon=8")
    auc = [har.attacks(student, "auc")["loss"] for student in (plain, private)]
    cost = [100 * har.mean(student, "accuracy") for student in (plain, private)]
    assert f"AUC of {auc[0]:.2f}; at epsilon 8 it is {auc[1]:.2f}" in text
    assert f"falls from {cost[0]:.1f} to {cost[1]:.1f} %" in text


def test_the_cost_of_selection_is_that_of_the_benchmark():
    root = Path(__file__).parents[1]
    rows = json.loads((root / "tests" / "benchmarks" / "selection_cost.json").read_text())["rows"]
    found = {(row["clients"], row["way"]): row for row in rows}
    whole, pairs = found[10_000, "a whole round"], found[10_000, "all pairs at once"]
    text = " ".join((root / "docs" / "federation.md").read_text().split())
    assert f"takes {whole['seconds']:.0f} seconds and {whole['megabytes']:.0f} MB beyond" in text
    assert f"at once would take {pairs['megabytes']:,.0f} MB" in text


def test_what_out_of_fold_teachers_hide_of_images_is_that_of_the_benchmark():
    root = Path(__file__).parents[1]
    found = json.loads((root / "tests" / "benchmarks" / "selena_images.json").read_text())
    text = " ".join((root / "docs" / "out_of_fold.md").read_text().split())

    def mean(student, metric):
        values = [row[metric] for row in found["rows"] if row["student"] == student]
        assert len(values) == len(found["seeds"]) == 3
        return 100 * sum(values) / 3

    assert f"k={found['k']}, held_out={found['held_out']}" in text
    attacked, plain = (mean(student, "balanced_accuracy") for student in ("out of fold", "plain"))
    assert f"right about {attacked:.0f} % of the images, and about {plain:.0f} % where" in text
    before, after = (mean(student, "accuracy") for student in ("plain", "out of fold"))
    assert f"from {before:.1f} to {after:.1f} %" in text


def test_the_cost_of_out_of_fold_teachers_is_that_of_the_benchmark():
    root = Path(__file__).parents[1]
    found = json.loads((root / "tests" / "benchmarks" / "out_of_fold_step.json").read_text())
    text = " ".join((root / "docs" / "out_of_fold.md").read_text().split())
    live, cached, memory = (
        found[name] for name in ("live_over_plain", "cached_over_plain", "adapters_over_one_model")
    )
    assert found["k"] == 4
    assert f"four adapters as teachers takes {live:.2f} times as long" in text
    assert f"and {cached:.2f} times with cached targets; the four take {memory:.2f} times the memory" in text
    # The bars that were set for them.
    assert live <= 1.4
    assert cached <= 1.15


def test_make_targets_and_paths_exist():
    root = Path(__file__).parents[1]
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README) + re.findall(r"recipes/\S+\.(?:py|yaml)", README):
        assert (root / path).exists(), path


@pytest.mark.parametrize(
    "name",
    [
        "CONTRIBUTING.md",
        "LICENSE",
        "docs/methods.md",
        "docs/audits.md",
        "docs/differential-privacy.md",
        "docs/images.md",
        "docs/federation.md",
    ],
)
def test_documents_exist(name):
    assert (Path(__file__).parents[1] / name).stat().st_size > 500
