"""Classifiers trained on labels, plainly or by DP-SGD: the guarantee, the count, and a crash."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from swingkd.privacy import DPSGD, TRANSFER_SET, LedgerEntry, PrivacyLedger
from swingkd.vision import ClassifierArguments, ClassifierTraining
from swingkd.vision.dp_training import DPStagedTraining
from tests.harness import crash_after, flat, small


def make(folder, images, student=None, **fields) -> ClassifierTraining:
    defaults = {"epochs": 2, "batch_size": 32, "progress": False, "mixed_precision": "no", "channels_last": False}
    args = ClassifierArguments(output_dir=str(folder), **(defaults | fields))
    return ClassifierTraining(student or small(norm="group" if args.target_epsilon else "batch"), images, args=args)


def test_it_learns(public, unseen, tmp_path):
    trained = make(tmp_path, public, epochs=12, learning_rate=1e-2)
    trained.train()
    assert trained.evaluate(unseen) > 0.9
    assert "without differential privacy" in str(trained.ledger)


def test_the_first_step_is_that_of_a_plain_loop(public, tmp_path):
    """Against AdamW by hand, on one batch of all images without augmentation."""
    images = replace(public, crop=0, flip=False)
    trained = make(tmp_path, images, epochs=1, batch_size=96, weight_decay=0.1)
    trained.train()
    model = small()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    F.cross_entropy(model(images.inputs(torch.arange(96))), images.labels).backward()
    optimizer.step()
    torch.testing.assert_close(flat(trained.model), flat(model), atol=1e-5, rtol=1e-4)


def test_dp_sgd_keeps_to_its_epsilon_and_counts_each_step(public, tmp_path):
    trained = make(tmp_path, public, target_epsilon=8.0, target_delta=1e-5, epochs=3)
    trained.train()
    (entry,) = trained.ledger.about(TRANSFER_SET)
    assert entry.releases == trained.plan.steps == 9
    assert 7.9 < trained.ledger.epsilon() <= 8.0
    assert "there was no teacher" in str(trained.ledger)
    # The model is an ordinary one again.
    assert not any(hasattr(p, "grad_sample") and p.grad_sample is not None for p in trained.model.parameters())


def test_dp_sgd_learns_when_it_may(public, unseen, tmp_path):
    trained = make(tmp_path, public, target_epsilon=100.0, epochs=40, batch_size=96, learning_rate=2e-2)
    trained.train()
    assert trained.evaluate(unseen) > 0.5  # chance is a third


def test_private_steps_after_a_crash_are_counted_once(public, tmp_path):
    broken = make(tmp_path, public, target_epsilon=8.0, epochs=3, batch_size=96)
    crash_after(broken, 2)
    again = make(tmp_path, public, student=small(5, norm="group"), target_epsilon=8.0, epochs=3, batch_size=96)
    again.train(resume_from_checkpoint=True)
    (entry,) = again.ledger.about(TRANSFER_SET)
    assert entry.releases == 3


def test_two_private_runs_of_one_seed_are_not_alike(public, tmp_path):
    """Whoever knows the seed must not be able to take the noise away."""
    first, second = (make(tmp_path / name, public, target_epsilon=8.0, batch_size=96) for name in "ab")
    first.train()
    second.train()
    assert not torch.equal(flat(first.model), flat(second.model))


def test_batch_norm_is_refused(public, tmp_path):
    with pytest.raises(ValueError, match="batch norm"):
        make(tmp_path, public, student=small(), target_epsilon=8.0).train()


def test_running_averages_are_refused(public, tmp_path):
    model = torch.nn.Sequential(
        torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True), torch.nn.Flatten(), torch.nn.Linear(192, 3)
    )
    with pytest.raises(ValueError, match="running averages of what it sees"):
        make(tmp_path, public, student=model, target_epsilon=8.0).train()


def test_public_images_leave_nothing_to_count(public, tmp_path):
    args = ClassifierArguments(output_dir=str(tmp_path / "start"), epochs=1, progress=False)
    start = ClassifierTraining(small(norm="group"), public, args=args, public=True)
    start.train()
    assert "transfer set: it is public" in str(start.ledger)
    trained = make(tmp_path / "dp", public, student=start.model, target_epsilon=8.0, batch_size=96)
    trained.train()
    (entry,) = trained.ledger.as_teacher()
    assert entry.releases == 2


def test_what_a_model_learnt_before_in_this_process_is_not_forgotten(public, tmp_path):
    first = make(tmp_path / "first", public, student=small(norm="group"), epochs=1)
    first.train()
    second = make(tmp_path / "second", public, student=first.model, target_epsilon=8.0, batch_size=96)
    second.train()
    assert "earlier transfer set: not covered" in str(second.ledger)
    assert second.ledger.as_teacher() == []


def test_a_ledger_is_not_believed_once_the_weights_have_changed(public, tmp_path):
    """Three plain steps on the same images after DP-SGD: what the ledger promised holds of other weights only."""
    first = make(tmp_path / "first", public, target_epsilon=8.0, target_delta=1e-5)
    first.train()
    same = make(tmp_path / "same", public, student=first.model, epochs=1)
    assert "earlier transfer set: epsilon 7.9" in str(same.ledger)
    optimizer = torch.optim.SGD(first.model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(first.model(public.inputs(torch.arange(16))), public.labels[:16]).backward()
        optimizer.step()
    again = make(tmp_path / "again", public, student=first.model, epochs=1)
    assert "epsilon 7.9" not in str(again.ledger)
    assert "earlier transfer set: not covered; its ledger was not sealed for these weights" in str(again.ledger)
    assert again.ledger.as_teacher() == []


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"micro_batch_size": 0}, {"clip_norm": 0.0}])
def test_settings_out_of_range(fields, public, tmp_path):
    (name,) = fields
    with pytest.raises(ValueError, match=f"{name}=.* must be positive"):
        make(tmp_path, public, **fields)


def test_a_warm_up_that_would_be_ignored_is_refused(public, tmp_path):
    with pytest.raises(ValueError, match="use 'constant_with_warmup'"):
        make(tmp_path, public, warmup_steps=10)


def test_what_the_first_weights_saw_stays_in_the_ledger(public, tmp_path):
    origin = PrivacyLedger([LedgerEntry("DP-SGD", releases=3, noise_multiplier=1.0, delta=1e-5)])
    args = ClassifierArguments(output_dir=str(tmp_path), target_epsilon=8.0, epochs=1, batch_size=32, progress=False)
    trained = ClassifierTraining(small(norm="group"), public, args=args, origin=origin)
    assert "earlier transfer set: epsilon" in str(trained.ledger)


def test_a_process_has_one_precision_and_says_so(public, tmp_path):
    make(tmp_path, public, mixed_precision="bf16")
    with pytest.raises(ValueError, match="this process began with another"):
        make(tmp_path, public, mixed_precision="no")


@pytest.mark.parametrize("precision", ["fp16", "bf61"])
def test_scaled_gradients_and_unknown_precisions_are_refused(public, tmp_path, precision):
    with pytest.raises(ValueError, match=f"mixed_precision='{precision}': choose 'no' or 'bf16'"):
        make(tmp_path, public, mixed_precision=precision)


def test_scaled_gradients_are_refused_where_the_launcher_asks_for_them(public, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="fp16"):
        make(tmp_path, public, mixed_precision=None)


def test_a_trained_model_is_trained_again_in_the_same_precision(public, tmp_path):
    settings = {"mixed_precision": "bf16", "learning_rate": 1e-2}
    first = make(tmp_path / "first", public, **settings)
    first.train()
    fresh = small(7)
    fresh.load_state_dict(first.model.state_dict())
    ends = []
    for name, model in (("again", first.model), ("fresh", fresh)):
        run = make(tmp_path / name, public, student=model, **settings)
        run.train()
        ends.append(flat(run.model))
    assert torch.equal(*ends)
    assert not vars(first.model).keys() - vars(small()).keys() - {"forward"}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_gradients_of_single_images_add_up_whatever_the_memory_format(public, tmp_path, precision, monkeypatch):
    """Opacus cuts patches out of memory as if it were contiguous; with channels last, they are others."""
    run = make(tmp_path, public, target_epsilon=8.0, channels_last=True, mixed_precision=precision)
    checked = []
    original = DPSGD.check
    monkeypatch.setattr(DPSGD, "check", lambda dp, losses, rows: checked.append(original(dp, losses, rows)))
    run.train()
    assert len(checked) == 1
    assert run.inputs(public.inputs(torch.arange(3))).is_contiguous()


def test_transformers_are_trained_privately_in_half_precision(public, tmp_path):
    """What reaches a layer that computes in float32 is as rough as the half precision before it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    student = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3))
    trained = make(tmp_path, public, student, target_epsilon=8.0, epochs=1, mixed_precision="bf16")
    trained.train()
    assert trained.private_steps == trained.plan.steps


def test_gradients_that_do_not_add_up_are_refused_before_the_first_step(public, tmp_path):
    run = make(tmp_path, public, target_epsilon=8.0, target_delta=1e-5, channels_last=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DPStagedTraining, "memory_format", torch.channels_last)
        run.place(run.model)
        with pytest.raises(ValueError, match="is not the gradient of a row"):
            run.train()
    assert run.private_steps == 0


@pytest.mark.reported
def test_only_the_checkpoint_that_was_written_is_gone_on_from(public, tmp_path):
    """An edited count would spend noise that was spent, and other images would be told of as these."""
    fields = {"target_epsilon": 8.0, "epochs": 3, "batch_size": 96, "checkpoint_every": 1}
    make(tmp_path, public, **fields).train()
    folder = tmp_path / "checkpoint"
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "seal.json"):
        before = path.read_bytes()
        path.write_bytes(before.replace(b'"private_steps": 3', b'"private_steps": 0') + b" ")
        with pytest.raises(ValueError, match=f"{path.name} of .* was changed after"):
            make(tmp_path, public, **fields).train(resume_from_checkpoint=True)
        path.write_bytes(before)
    pixels = public.pixels.clone()
    pixels[-1, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="was written with images="):
        make(tmp_path, replace(public, pixels=pixels), **fields).train(resume_from_checkpoint=True)
    again = make(tmp_path, public, **fields)
    again.train(resume_from_checkpoint=True)
    assert again.private_steps == 3


@pytest.mark.reported
def test_no_step_goes_without_its_noise(public, tmp_path):
    trained = make(tmp_path, public, target_epsilon=8.0, epochs=2, batch_size=96)
    trained.private_steps = 1
    with pytest.raises(ValueError, match="There is noise for 2 private steps, and they are over"):
        trained.train()
