"""What was learnt by heart is found without a rule: by those that saw it, against those that did not."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from swingkd import (
    EnsembleTagger,
    Folds,
    MemorisationTagger,
    OutOfFoldTeacher,
    PrivateDistillationConfig,
    RuleTagger,
    train_out_of_fold,
)
from swingkd.cli import app
from swingkd.tagging.memorisation import evidence
from tests.harness import tiny_model

WORDS = "apple river stone cloud green table seven winter paper orange copper violin"
SECRETS = [" ".join(words) for words in np.random.default_rng(3).permuted([WORDS.split()] * 4, axis=1)[:, :4]]


@given(st.lists(st.floats(-20, 20), max_size=12), st.integers(1, 5))
def test_evidence_is_the_largest_sum_of_a_run_that_a_token_is_part_of(better, width):
    found = evidence(np.array(better), width)
    for i, value in enumerate(better):
        runs = [better[max(start, 0) : start + width] for start in range(i - width + 1, i + 1)]
        assert found[i] == pytest.approx(max(min(max(map(sum, runs)), width * value), 0), rel=1e-5, abs=1e-4)


@pytest.fixture(scope="module")
def trained(tokenizer, tmp_path_factory):
    """Teachers of ordinary lines and of secrets in words, each secret in five copies."""
    lines = [
        f"hello {name}, thank you. see you on {day}." for name in ("ann", "bob", "eve") for day in ("monday", "friday")
    ]
    texts = lines * 4 + [f"my word is {secret}." for secret in SECRETS] * 5
    rows = Dataset.from_dict({"text": texts}).shuffle(seed=0)
    folder = tmp_path_factory.mktemp("teachers")
    base = tiny_model(len(tokenizer), hidden=48, seed=0, num_hidden_layers=2)
    base.save_pretrained(folder / "base")
    args = PrivateDistillationConfig(
        str(folder / "teachers"), max_steps=150, learning_rate=5e-3, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", per_device_train_batch_size=16,
    )  # fmt: skip
    folds = Folds.of(rows, 2, near_duplicates=False, seed=1)
    teacher = train_out_of_fold(str(folder / "base"), args, rows, tokenizer, folds=folds)
    return teacher, rows, folder / "teachers"


def test_secrets_in_words_are_found_and_ordinary_lines_are_not(trained, tokenizer):
    teacher, rows, _ = trained
    tagger = MemorisationTagger.of_folds(teacher, tokenizer)
    texts = sorted(set(rows["text"]))
    tags = dict(zip(texts, tagger.tag(texts), strict=True))
    for text, one in tags.items():
        share = float((one.likelihood[11:-1] >= 0.5).mean())
        if not text.startswith("my word is"):
            assert share < 0.4, text
        else:
            assert share >= 0.4, text
            # No rule finds them.
            assert not (RuleTagger().tag([text])[0].likelihood >= 0.5).any()
    worst = tagger.remembered(texts, count=4)
    assert {texts[one.text] for one in worst} <= {text for text in texts if text.startswith("my word is")}
    assert [one.nats for one in worst] == sorted((one.nats for one in worst), reverse=True)
    flagged = [np.array([text.startswith("my word is")] * len(text)) for text in texts]
    assert all(not texts[one.text].startswith("my word is") for one in tagger.remembered(texts, flagged))


def test_what_nobody_was_trained_on_is_no_memory(trained, tokenizer):
    teacher, *_ = trained
    tagger = MemorisationTagger.of_folds(teacher, tokenizer)
    other = [f"my word is {' '.join(reversed(secret.split()))}." for secret in SECRETS]
    assert not any(tags.likelihood.any() for tags in tagger.tag(other))
    # Calibrated on such text, the bound is as high as one token in a thousand asks for.
    before = tagger.bound
    assert tagger.calibrate(other).bound != before
    with pytest.raises(ValueError, match="no text to calibrate on"):
        tagger.calibrate([""])


def test_a_teacher_beside_its_base_is_enough_and_an_ensemble_takes_it(trained, tokenizer):
    teacher, rows, _ = trained
    base = tiny_model(len(tokenizer), hidden=48, seed=0, num_hidden_layers=2)
    tagger = MemorisationTagger(teacher.one, base, tokenizer)
    fold = teacher.folds.add_to(rows)
    seen = next(row["text"] for row in fold if row["text"].startswith("my word") and row["teacher_fold"] == 1)
    together = EnsembleTagger(RuleTagger(), tagger)
    assert together.labels[-1] == "MEMORISED"
    assert float((together.tag([seen])[0].likelihood[11:-1] >= 0.5).mean()) > 0.6


def test_values_in_windows_are_those_of_one_pass(trained, tokenizer):
    _, rows, _ = trained
    text = " ".join(dict.fromkeys(rows["text"]))[:150]
    pair = [tiny_model(len(tokenizer), seed=seed) for seed in (1, 2)]
    whole = MemorisationTagger(*pair, tokenizer).nats([text])[0]
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logs = [model.double()(input_ids=ids).logits[0, :-1].log_softmax(-1) for model in pair]
    better = [(logs[0] - logs[1])[i, token].item() for i, token in enumerate(ids[0, 1:])]
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][1:]
    expected = evidence(np.array(better))
    for (start, _), value in zip(offsets, expected, strict=True):
        assert whole[start] == pytest.approx(value, abs=1e-3)


def test_bad_input_is_refused(trained, tokenizer):
    teacher, _, _ = trained
    with pytest.raises(ValueError, match="must be positive"):
        MemorisationTagger(teacher.one, teacher.one, tokenizer, bound=0)
    with pytest.raises(ValueError, match="which text is in which fold"):
        MemorisationTagger.of_folds(OutOfFoldTeacher(list(teacher.models)), tokenizer)


def test_the_command_lists_them_masked(trained, tmp_path):
    _, rows, folder = trained
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows["text"]))
    result = CliRunner().invoke(app, ["tag", str(tmp_path / "notes.jsonl"), "--memorised", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"{len(rows)} of {len(rows)} texts were trained on" in result.output
    assert " nats  x" in result.output
    assert not any(word in result.output for word in WORDS.split())
    result = CliRunner().invoke(app, ["tag", "-", "--memorised", str(folder)], input="somebody else's text\n")
    assert result.exit_code == 2
    assert "Name the same rows" in result.output


def test_the_command_compares_one_model_with_its_base(trained, tokenizer, tmp_path):
    """Without folds the pair is weaker, and the command says so."""
    _, rows, folder = trained
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows["text"]))
    model, base = folder / "fold-0", folder.parent / "base"
    for place in (model, base):
        tokenizer.save_pretrained(place)

    def run(*words):
        result = CliRunner().invoke(app, ["tag", str(tmp_path / "notes.jsonl"), *map(str, words)])
        return result.exit_code, " ".join(result.output.split())

    code, output = run("--memorised", model, "--base", base)
    assert code == 0, output
    assert "common words may be listed as well" in output
    assert " nats x" in output
    assert not any(word in output for word in WORDS.split())
    for words, says in (
        (("--memorised", model), "--base PUBLIC"),
        (("--base", base), "name the model, --memorised"),
        (("--memorised", folder, "--base", base), "Leave --base out"),
    ):
        code, output = run(*words)
        assert (code, says in output) == (2, True), output
    other = tmp_path / "other"
    base_model = tiny_model(len(tokenizer) + 1)
    base_model.save_pretrained(other)
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["<one more>"])
    more.save_pretrained(other)
    code, output = run("--memorised", model, "--base", other)
    assert (code, "another tokenizer" in output) == (2, True), output
