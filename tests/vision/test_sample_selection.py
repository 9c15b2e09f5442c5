"""Dynamic sample selection: its stages, its counters, its files; and that a crash changes nothing."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from swingkd.privacy import LEDGER_FILE, PrivacyLedger, ShardAnswers
from swingkd.vision import (
    BatchGradient,
    DynamicSampleSelection,
    Labels,
    PublishedNoise,
    ShardTeachers,
    SlimResNet,
    Teacher,
    sample_scores,
)
from swingkd.vision import base as classifier_module
from tests.harness import CrashError, coloured, crash_after, flat, small
from tests.vision.test_guidance import arguments, published, run


def test_the_stages_come_in_the_papers_order(public, tmp_path):
    trained = run(published(10.0), tmp_path, public, hint_epochs=2, hint_layers=("stem", "stem"), warm_up_epochs=2)
    names = [unit.stage for unit in trained.units()]
    assert names == [
        "hints",
        "warm-up",
        "warm-up",
        "self-learning 1",
        "selection 1",
        "distillation 1",
        "self-learning 2",
        "selection 2",
        "distillation 2",
    ]
    # 96 images: 6 batches of 16 for hints, 3 of 32 for learning, 48 and 24 images to distil on.
    assert [unit.steps for unit in trained.units()] == [12, 3, 3, 3, 0, 3, 3, 0, 2]
    trained.train()
    assert trained.queries == trained.args.hint_steps(96) + trained.args.distillation_steps(96) == 12 + 5
    assert trained.queried_images == 2 * 96 + 48 + 24
    assert len(trained.chosen) == 24


def test_samples_are_chosen_by_what_the_student_of_that_moment_says(public, tmp_path):
    seen = []

    def score(logits, labels, count, generator):
        seen.append((logits.clone(), labels, count))
        return sample_scores.margin(logits, labels, count, generator)

    trained = DynamicSampleSelection(small(), Labels(), public, args=arguments(tmp_path), score=score)
    trained.train()
    assert [count for *_, count in seen] == [48, 24]
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], public.labels)


def test_what_is_chosen_does_not_change_with_the_teacher(public, tmp_path):
    chosen = []
    for teacher in (small(1), small(2)):
        trained = run(Teacher(teacher, "private"), tmp_path, public, shares=(0.4,))
        trained.train()
        chosen.append(trained.chosen)
    assert torch.equal(*chosen)


def test_hints_move_a_layer_towards_the_teachers(public, tmp_path):
    teacher = small(1)
    guidance = Teacher(teacher, "private")
    trained = run(
        guidance,
        tmp_path,
        public,
        hint_epochs=1,
        hint_layers=("stem", "stem"),
        warm_up_epochs=0,
        shares=(0.1,),
        self_learning_epochs=0,
        learning_rate=1e-2,
    )
    before = {name: p.clone() for name, p in trained.model.named_parameters()}
    unit = trained.units()[0]
    trained.prepare(6)
    unit.run(torch.Generator().manual_seed(0))
    changed = {name for name, p in trained.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if name.startswith("stem")}


@pytest.mark.parametrize(
    ("guidance", "fields", "message"),
    [
        (lambda: Labels(), {"hint_layers": ("stem", "stem")}, "Labels releases no hidden layer"),
        (lambda: BatchGradient([small()], 1.0), {"hint_layers": ("stem", "stem")}, "BatchGradient releases no hidden"),
        (lambda: Teacher(small(), ""), {"hint_layers": ("top", "stem")}, "no part 'top'"),
        (lambda: Teacher(small(), ""), {"hint_layers": ("stem", "stages.0")}, "same height and width"),
    ],
)
def test_hints_that_cannot_be_are_refused_before_anything_is_trained(guidance, fields, message, public, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(guidance(), tmp_path, public, hint_epochs=1, **fields)


def test_a_student_of_other_classes_is_refused(public, tmp_path):
    with pytest.raises(ValueError, match="SlimResNet has 5 classes, the images 3"):
        run(Labels(), tmp_path, public, student=SlimResNet((4, 8), classes=5))


@pytest.mark.parametrize("units", [1, 3, 4, 6])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(units, public, tmp_path):
    whole = run(published(10.0), tmp_path / "whole", public, checkpoint_every=1, lr_scheduler="cosine")
    whole.train()
    broken = run(published(10.0), tmp_path / "broken", public, checkpoint_every=1, lr_scheduler="cosine")
    crash_after(broken, units)
    again = run(
        published(10.0), tmp_path / "broken", public, student=small(9), checkpoint_every=1, lr_scheduler="cosine"
    )
    again.train(resume_from_checkpoint=True)
    assert torch.equal(flat(again.model), flat(whole.model))
    assert again.queries == whole.queries
    assert again.ledger.to_dict() == whole.ledger.to_dict()


def test_what_was_released_before_a_crash_is_not_asked_for_again(public, tmp_path):
    def make(seed=0):
        guidance = ShardTeachers([small(1), small(2)], ShardAnswers(3.0, path=tmp_path / "answers"))
        return run(guidance, tmp_path / "run", public, student=small(seed), checkpoint_every=1, shares=(0.5, 0.5))

    broken = make()
    crash_after(broken, 4)
    released = dict(broken.guidance.answers._known)
    again = make(9)
    again.train(resume_from_checkpoint=True)
    for key, answer in released.items():
        assert torch.equal(again.guidance.answers([key])[0], answer)
    (entry,) = again.ledger.about("teacher's training data")
    assert entry.releases == len(again.guidance.answers)


def test_a_checkpoint_of_other_settings_is_refused(public, tmp_path):
    run(Labels(), tmp_path, public, checkpoint_every=1).train()
    with pytest.raises(ValueError, match=r"written with learning_rate=0.001, now it is 0.01"):
        run(Labels(), tmp_path, public, checkpoint_every=1, learning_rate=0.01).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="written with guidance="):
        run(published(1.0), tmp_path, public, checkpoint_every=1).train(resume_from_checkpoint=True)


def test_without_resuming_a_run_begins_afresh(public, tmp_path):
    first = run(Labels(), tmp_path, public, checkpoint_every=1)
    first.train()
    second = run(Labels(), tmp_path, public, checkpoint_every=1)
    second.train()
    assert torch.equal(flat(first.model), flat(second.model))


def test_a_checkpoint_of_other_noise_is_refused(public, tmp_path):
    """The steps before would be counted with the noise of now."""
    run(BatchGradient([small(1)], 0.5), tmp_path, public, checkpoint_every=1).train()
    with pytest.raises(ValueError, match="written with guidance="):
        run(BatchGradient([small(1)], 50.0), tmp_path, public, checkpoint_every=1).train(resume_from_checkpoint=True)


def test_a_fresh_run_removes_the_checkpoint_of_another(public, tmp_path):
    run(Labels(), tmp_path, public, checkpoint_every=1).train()
    fresh = run(Labels(), tmp_path, public, student=small(9), checkpoint_every=1)
    fresh._self_learning = lambda generator: (_ for _ in ()).throw(CrashError)
    with pytest.raises(CrashError):
        fresh.train()
    assert not list(tmp_path.glob("checkpoint*"))


def test_the_same_object_goes_on_after_an_exception_but_never_begins_twice(public, tmp_path):
    whole = run(Labels(), tmp_path / "whole", public, checkpoint_every=1)
    whole.train()
    broken = run(Labels(), tmp_path / "broken", public, checkpoint_every=1)
    crash_after(broken, 3)
    with pytest.raises(ValueError, match="This run has begun"):
        broken.train()
    broken.train(resume_from_checkpoint=True)
    assert torch.equal(flat(broken.model), flat(whole.model))


def test_a_crash_between_two_renames_does_no_harm(public, tmp_path):
    first = run(Labels(), tmp_path, public, checkpoint_every=1)
    first.train()
    (tmp_path / "checkpoint.old").mkdir()
    (tmp_path / "checkpoint.old" / "left").write_text("")
    first._checkpoint()
    assert not (tmp_path / "checkpoint.old").exists()


def test_a_run_that_starts_anew_removes_its_own_checkpoint_and_nothing_else(public, tmp_path):
    """In a folder of the Trainer's lies checkpoint-500, in one of timm's checkpoint.pth.tar."""
    run(Labels(), tmp_path, public, checkpoint_every=1).train()
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint.pth.tar").write_text("weights")
    (tmp_path / "checkpoint" / "of the first").write_text("")
    run(Labels(), tmp_path, public, checkpoint_every=1).train()
    assert (tmp_path / "checkpoint-500").exists()
    assert (tmp_path / "checkpoint.pth.tar").exists()
    assert not (tmp_path / "checkpoint" / "of the first").exists()


def test_what_a_student_learnt_before_in_this_process_is_not_forgotten(public, tmp_path):
    first = run(Teacher(small(1), "private"), tmp_path / "first", public)
    first.train()
    second = run(Labels(), tmp_path / "second", public, student=first.model)
    second.train()
    assert "earlier teacher's training data: not covered; private" in str(second.ledger)


def test_a_models_own_words_are_said_where_it_is_no_guidance(public, tmp_path):
    with pytest.raises(ValueError, match=r"guidance is a SlimResNet. Say what of it is seen: Teacher"):
        run(small(1), tmp_path, public)
    student = small(1)
    with pytest.raises(ValueError, match="no weight that may change"):
        run(Teacher(student, "private"), tmp_path, public, student=student)


def test_a_score_of_ones_own_is_kept_in_checkpoints(public, tmp_path):
    own = functools.partial(sample_scores.margin)
    trained = DynamicSampleSelection(
        small(), Labels(), public, args=arguments(tmp_path, checkpoint_every=1), score=own
    )
    trained.train()
    assert (tmp_path / "checkpoint" / "state.json").exists()


def test_losses_that_may_be_told_are_kept(public, tmp_path):
    trained = run(Labels(), tmp_path, public)
    trained.train()
    stages = [entry["stage"] for entry in trained.history]
    assert stages == ["labels", "labels", "distillation", "labels", "distillation"]
    assert all(entry["loss"] > 0 for entry in trained.history)
    assert [entry["steps"] for entry in trained.history] == [3, 3, 3, 3, 2]


def test_an_image_on_both_sides_of_an_audit_is_refused(public, tmp_path):
    with pytest.raises(ValueError, match="96 images are said to be in and out"):
        run(Labels(), tmp_path, public).audit(public, public)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_checkpoint_that_can_be_read(tmp_path):
    script = (
        "import os, sys\n"
        "from tests.vision.test_guidance import run, published\n"
        "from tests.harness import coloured, small\n"
        "trained = run(published(10.0), sys.argv[1], coloured(96, seed=0), checkpoint_every=1)\n"
        "real = trained._distil\n"
        "def die(*given):\n"
        "    real(*given)\n"
        "    os._exit(9)\n"
        "trained._distil = die\n"
        "trained.train()\n"
    )
    # As many threads as here, or sums come out a hair different.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], env=one_thread, check=False)
    assert killed.returncode == 9
    again = run(published(10.0), tmp_path / "run", coloured(96, seed=0), student=small(9), checkpoint_every=1)
    again.train(resume_from_checkpoint=True)
    whole = run(published(10.0), tmp_path / "whole", coloured(96, seed=0))
    whole.train()
    assert torch.equal(flat(again.model), flat(whole.model))
    assert again.queries == whole.queries == 5


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_student_comes_with_its_card_and_a_ledger_of_its_weights(public, tmp_path):
    trained = run(BatchGradient([small(1)], 5.0), tmp_path / "run", public)
    trained.train()
    trained.save_model(tmp_path / "model", "my student", {"accuracy": 0.875})
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md", LEDGER_FILE}
    known = PrivacyLedger.of_weights(tmp_path / "model")
    assert known is not None
    assert known.epsilon("teacher's training data") == trained.ledger.epsilon("teacher's training data")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# my student" in card
    assert "| accuracy | 0.8750 |" in card
    assert str(trained.ledger).split("\n")[1] in card
    again = SlimResNet.from_pretrained(tmp_path / "model").eval()
    images = public.inputs(torch.arange(4))
    torch.testing.assert_close(again(images), trained.model(images))


def test_a_plain_module_is_saved_too(public, tmp_path):
    trained = run(Labels(), tmp_path / "run", public, student=nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    trained.train()
    trained.save_model(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert "Its use was not measured" in (tmp_path / "model" / "README.md").read_text()


def test_a_push_uploads_the_model_and_nothing_else_of_the_run(public, tmp_path, monkeypatch):
    calls = {}

    class Api:
        def create_repo(self, repo_id, **others):
            calls["repo"] = (repo_id, others)

        def create_commit(self, repo_id, operations, commit_message):
            calls["files"] = sorted(operation.path_in_repo for operation in operations)
            return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(classifier_module, "HfApi", Api)
    trained = run(Labels(), tmp_path, public, checkpoint_every=1)
    trained.train()
    # What somebody left in the folder is not sent, nor what a link points to.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("private")
    (tmp_path / "model" / "vocab.txt").symlink_to(tmp_path / "model" / "notes.txt")
    assert trained.push_to_hub("me/student") == "https://huggingface.co/me/student"
    assert calls["repo"] == ("me/student", {"private": True, "exist_ok": True})
    assert calls["files"] == sorted(["model.safetensors", "config.json", "README.md", LEDGER_FILE])
    assert "seed" not in (tmp_path / "model" / "README.md").read_text()


def test_a_checkpoint_holds_the_choice_as_plain_json(public, tmp_path):
    trained = run(Labels(), tmp_path, public, checkpoint_every=1)
    trained.train()
    content = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert content["state"]["chosen"] == trained.chosen.tolist()
    assert not (tmp_path / "checkpoint.part").exists()


def test_a_student_is_audited_by_what_it_says(public, unseen, tmp_path):
    trained = run(Labels(), tmp_path, public, warm_up_epochs=3)
    trained.train()
    report = trained.audit(public, unseen, references=[small(4)], resamples=20)
    assert {result.attack for result in report.results} == {"loss", "entropy", "ratio", "rmia"}
    assert report["loss"].members == 96
    assert report["loss"].nonmembers == 60
    own = trained.logits(trained.model, unseen).log_softmax(1).gather(1, unseen.labels[:, None])[:, 0]
    torch.testing.assert_close(torch.from_numpy(report.scores["loss"][1]).float(), own)


def test_the_published_method_is_one_argument_away_from_its_controls(public, tmp_path):
    for guidance in (Labels(), Teacher(small(1), "private"), published(0.0)):
        trained = run(guidance, tmp_path, public)
        trained.train()
        assert trained.queries == 5
    assert isinstance(trained.guidance, PublishedNoise)


@pytest.mark.reported
def test_another_teacher_does_not_go_on_where_the_first_one_stopped(public, tmp_path):
    run(Teacher(small(1), ""), tmp_path, public, checkpoint_every=1).train()
    with pytest.raises(ValueError, match="written with guidance="):
        run(Teacher(small(2), ""), tmp_path, public, checkpoint_every=1).train(resume_from_checkpoint=True)
    run(Teacher(small(1), ""), tmp_path, public, checkpoint_every=1).train(resume_from_checkpoint=True)
