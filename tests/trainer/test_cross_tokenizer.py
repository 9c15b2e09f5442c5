"""A teacher with a tokenizer of its own: which tokens are which, what is compared, and what nobody asks it."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.data.aligned import aligned
from swingkd.data.columns import IGNORE, TEACHER_AT
from swingkd.models.shared_vocabulary import SharedVocabulary, same_tokens
from swingkd.targets.teacher import LiveTeacher, TopTokens
from swingkd.targets.translated import TranslatedTeacher
from tests.harness import TEXTS, batch_of, tiny_model, train_tokenizer

OTHERS = [
    f"good day {name}, the record is {i}. bye now, and thank you again." for i, name in enumerate("abcdefgh" * 8)
]


@pytest.fixture(scope="module")
def other():
    """A tokenizer of other text: more merges, digits in groups, another beginning and end."""
    return train_tokenizer(OTHERS + TEXTS[::3], vocab_size=330, single_digits=False)


@pytest.fixture
def make(student, tokenizer, other, texts, config):
    """A function that makes a trainer whose teacher reads other tokens."""

    def make(
        *,
        tagger=None,
        data=texts,
        teacher_tokenizer=other,
        student=student,
        student_tokenizer=tokenizer,
        positions=256,
        **fields,
    ):
        teacher = tiny_model(len(teacher_tokenizer), hidden=24, seed=2, max_position_embeddings=positions)
        with torch.no_grad():
            teacher.lm_head.weight.mul_(20)
        return PrivateDistillationTrainer(
            student,
            config(**({"protection": "none"} | fields)),
            teacher_model=teacher,
            train_dataset=data,
            processing_class=student_tokenizer,
            teacher_processing_class=teacher_tokenizer,
            tagger=tagger,
        )

    return make


# --- which tokens are which ----------------------------------------------------------------------------------------


def naive(own, other):
    """Token by token: the last one predicted after so many characters, on both sides, and not within a character."""

    def after(offsets):
        found = {}
        for i in range(1, len(offsets)):
            (start, end), (left, right) = offsets[i - 1], offsets[i]
            if (start, end) != (left, right) or left == right:
                found[int(end)] = i
        return found

    mine, theirs = after(own.tolist()), after(other.tolist())
    places = {i: theirs.get(end, -1) for end, i in mine.items()}
    return [places.get(i, -1) for i in range(len(own))]


@st.composite
def cuts(draw):
    """The ends of a tokenizer's tokens in a text of twenty characters, some of them twice (bytes of a character)."""
    ends = sorted(draw(st.lists(st.integers(1, 20), min_size=1, max_size=14)))
    starts = [0, *ends[:-1]]
    offsets = [
        (0, 0),
        *((start if start < end else max(end - 1, 0), end) for start, end in zip(starts, ends, strict=True)),
    ]
    return np.array(offsets)


@settings(max_examples=200)
@given(cuts(), cuts())
def test_tokens_are_the_same_where_both_have_ended_one(own, other):
    found = aligned(own, other)
    assert found.tolist() == naive(own, other)
    # Rising on both sides: no answer is read twice, and none in another order.
    asked = found[found >= 0]
    assert (np.diff(asked) > 0).all()


def test_a_tokenizer_beside_itself_is_aligned_everywhere(tokenizer):
    offsets = np.array(tokenizer(TEXTS[0], return_offsets_mapping=True)["offset_mapping"])
    assert aligned(offsets, offsets)[1:].tolist() == list(range(1, len(offsets)))
    # The bytes of a character: only what follows the last of them is predicted from whole characters.
    offsets = np.array(tokenizer("a 🙂 b", return_offsets_mapping=True)["offset_mapping"])
    found = aligned(offsets, offsets)
    assert (found >= 0).sum() < len(offsets) - 1
    assert ((found == np.arange(len(offsets))) | (found == -1)).all()


def test_a_text_that_is_cut_within_a_character_is_asked_nothing_there(tokenizer):
    offsets = np.array(tokenizer("ok 日", return_offsets_mapping=True)["offset_mapping"])
    found = aligned(offsets[:-1], offsets)
    assert found[-1] == -1


def test_a_byte_is_not_taken_for_the_character_that_it_writes(tokenizer):
    """Vocabularies with bytes for what has no token write each letter twice; the byte is never meant."""
    names = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    names |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    names |= {name: 260 + i for i, name in enumerate(["▁", "a", "4", ",", "▁hello"])}
    bpe = Tokenizer(models.BPE(names, [], byte_fallback=True, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    llama = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    shared = SharedVocabulary.of(tokenizer, llama)
    pairs = dict(zip(shared.own.tolist(), shared.other.tolist(), strict=True))
    assert pairs[tokenizer.convert_tokens_to_ids("4")] == names["4"]
    assert pairs[tokenizer.convert_tokens_to_ids(",")] == names[","]


def test_one_kind_of_tokenizer_shares_special_tokens_and_parts_of_characters(tokenizer):
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert not same_tokens(tokenizer, more)
    again = copy.deepcopy(tokenizer)
    again(["a b", "c"], padding=True, truncation=True, max_length=4)
    assert same_tokens(tokenizer, again)
    assert len(SharedVocabulary.of(tokenizer, more).own) == len(tokenizer)
    other = copy.deepcopy(more)
    pairs = SharedVocabulary.of(more, other)
    end = more.convert_tokens_to_ids("<|im_end|>")
    assert end in pairs.own.tolist()


def test_a_teacher_gets_its_own_beginning_and_no_more_than_it_reads(make, config, tokenizer, other):
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = template
    data = Dataset.from_dict({"messages": [[{"role": "user", "content": text}] for text in TEXTS[:8]]})
    rows = make(data=data, student_tokenizer=chat).train_dataset
    assert {row["teacher_input_ids"][0] for row in rows} == {other.bos_token_id}
    short = make(positions=16).train_dataset
    assert max(len(row["teacher_input_ids"]) for row in short) == 16
    assert all(max(row[TEACHER_AT]) < 16 for row in short)


def test_what_both_tokenizers_write_alike_is_shared(tokenizer, other):
    shared = SharedVocabulary.of(tokenizer, other)
    assert (shared.size, shared.other_size) == (len(tokenizer), len(other))
    assert 0.3 < shared.share < 1
    assert len(set(shared.own.tolist())) == len(set(shared.other.tolist())) == len(shared.own)
    for own, theirs in zip(shared.own.tolist(), shared.other.tolist(), strict=True):
        if own != tokenizer.eos_token_id:
            assert tokenizer.decode([own]) == other.decode([theirs])
    ends = dict(zip(shared.own.tolist(), shared.other.tolist(), strict=True))
    assert ends[tokenizer.eos_token_id] == other.eos_token_id
    same = SharedVocabulary.of(tokenizer, tokenizer)
    assert torch.equal(same.own, same.other)


# --- what is compared ----------------------------------------------------------------------------------------------


def test_of_one_vocabulary_it_is_the_ordinary_teacher():
    torch.manual_seed(0)
    logits, temperature, ids = torch.randn(5, 11).double(), torch.tensor([2.0, 2, 1, 4, 2]).double(), torch.arange(11)
    live = LiveTeacher(lambda rows: logits[rows].clone(), temperature)
    translated = TranslatedTeacher(lambda rows: logits[rows].clone(), torch.arange(5), temperature, ids, ids, 11)
    rows, shape = torch.tensor([0, 3, 4]), torch.randn(3, 11).double().log_softmax(-1)
    torch.testing.assert_close(translated.softened(rows).dense(shape), live.softened(rows), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(translated.plain(rows, None), live.plain(rows, None), rtol=1e-9, atol=1e-12)


def test_what_is_not_shared_is_compared_as_one():
    """Three shared tokens; the teacher has two others, the student one."""
    logits = torch.tensor([[1.0, 2.0, 0.5, 3.0, -1.0]]).double()
    own, other = torch.tensor([0, 1, 3]), torch.tensor([0, 2, 4])
    teacher = TranslatedTeacher(
        lambda rows: logits[rows].clone(), torch.zeros(1, dtype=torch.long), torch.ones(1).double(), own, other, 4
    )
    known = teacher.softened(torch.tensor([0]))
    assert isinstance(known, TopTokens)
    p = logits.softmax(-1)[0]
    torch.testing.assert_close(known.log_probs.exp()[0], p[other])
    torch.testing.assert_close(known.tail.exp()[0, 0], p[1] + p[3])
    student = torch.randn(1, 4).double().log_softmax(-1)
    dense = known.dense(student)
    torch.testing.assert_close(dense.exp().sum(), torch.tensor(1.0).double())
    q = student.exp()[0]
    merged = [(float(p[o]), float(q[s])) for s, o in zip(own, other, strict=True)] + [
        (float(p[1] + p[3]), float(q[2]))
    ]
    expected = sum(a * np.log(a / b) for a, b in merged)
    assert float((dense.exp() * (dense - student)).sum()) == pytest.approx(expected)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_the_loss_is_that_of_the_shared_places_and_tokens(make, tokenizer, other, fused, alpha):
    trainer = make(alpha=alpha, temperature=2.0, fused_loss=fused)
    batch = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    shared = trainer.setup.models.shared
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    of_teacher = {name: batch[f"teacher_{name}"] for name in ("input_ids", "attention_mask")}
    z, t = trainer.model(**inputs).logits.double(), trainer.teacher_model(**of_teacher).logits.double()
    total, count, asked = 0.0, 0, 0
    for b in range(len(z)):
        for i in range(1, z.size(1)):
            label = int(batch["labels"][b, i])
            if label == IGNORE:
                continue
            count += 1
            total = total + (1 - alpha) * F.cross_entropy(z[b, i - 1], torch.tensor(label))
            place = int(batch[TEACHER_AT][b, i])
            if place < 1:
                continue
            asked += 1
            p, q = (t[b, place - 1] / 2).softmax(-1), (z[b, i - 1] / 2).softmax(-1)
            ps = torch.cat([p[shared.other], (1 - p[shared.other].sum()).clamp_min(1e-300)[None]])
            qs = torch.cat([q[shared.own], (1 - q[shared.own].sum()).clamp_min(1e-300)[None]])
            total = total + alpha * 4 * (ps * (ps.log() - qs.log())).sum()
    assert 0 < asked < count
    torch.testing.assert_close(loss.double(), total / count, rtol=1e-4, atol=1e-6)


def test_both_read_the_same_text(make, tokenizer, other):
    trainer = make()
    for row in list(trainer.train_dataset)[:5]:
        own, theirs = tokenizer.decode(row["input_ids"]), other.decode(row["teacher_input_ids"])
        assert own == theirs
        at = np.array(row[TEACHER_AT])
        for i in np.flatnonzero(at > 0)[:20]:
            left = tokenizer.decode(row["input_ids"][:i]), other.decode(row["teacher_input_ids"][: at[i]])
            assert left[0] == left[1]


def test_a_text_that_is_cut_is_cut_for_both(make, tokenizer, other):
    trainer = make(max_length=12)
    for row in list(trainer.train_dataset)[:5]:
        assert len(row["input_ids"]) == 12
        own, theirs = tokenizer.decode(row["input_ids"]), other.decode(row["teacher_input_ids"])
        assert own == theirs
        assert not theirs.endswith("</s>")


@pytest.mark.parametrize("protection", ["surrogate", "noise", "drop"])
def test_every_protection_trains_and_private_tokens_are_protected(make, texts, protection):
    trainer = make(protection=protection, tagger=RuleTagger())
    result = trainer.train()
    assert np.isfinite(result.training_loss)
    batch = batch_of(trainer)
    losses = trainer._losses(trainer.model, dict(batch))
    private = losses.tokens.likelihood > 0
    assert bool(private.any())
    if protection == "drop":
        assert not losses.per_token[private].any()
    if protection == "surrogate":
        digits = [re.findall(r"\d+", text)[0] for text in texts["text"]]
        read = " ".join(trainer.processing_class.batch_decode(batch["input_ids"]))
        assert not any(digit in read for digit in digits)
        own = " ".join(trainer.setup.models.teacher_processing_class.batch_decode(batch["teacher_input_ids"]))
        assert not any(digit in own for digit in digits)
    metrics = trainer.evaluate(texts.select(range(4)))
    assert {"eval_perplexity", "eval_soft_loss"} <= metrics.keys()


def test_a_tokenizer_that_is_the_students_is_none_of_its_own(make, tokenizer):
    trainer = make(teacher_tokenizer=tokenizer)
    assert trainer.setup.models.shared is None
    assert TEACHER_AT not in trainer.train_dataset.column_names


def test_tokens_that_nobody_teaches_are_counted(make, caplog):
    make(alpha=0.5)
    assert "the teacher says nothing" not in caplog.text
    rows = make(alpha=1.0).train_dataset
    pairs = [(np.array(row["labels"])[1:] != IGNORE, np.array(row[TEACHER_AT])[1:] > 0) for row in rows]
    share = 1 - sum((a & b).sum() for a, b in pairs) / sum(a.sum() for a, _ in pairs)
    assert f"Of {100 * share:.0f} % of the tokens the teacher says nothing" in caplog.text


def test_with_differential_privacy(make):
    trainer = make(noise_multiplier=0.7, per_device_train_batch_size=12)
    trainer.train()
    assert trainer.ledger.epsilon() > 0


def test_what_does_not_go_with_it(make, texts, tokenizer, other, build):
    for fields, named in (
        ({"packing": True}, "packing=True needs a teacher that reads the student's tokens"),
        ({"hidden_weight": 0.1}, "hidden_weight=0.1 needs"),
        ({"lmbda": 0.5}, "lmbda=0.5 needs"),
        ({"protection": "population"}, "protection='population' needs"),
    ):
        with pytest.raises(ValueError, match=named):
            make(**fields, tagger=RuleTagger() if "protection" in fields else None)
    rows = Dataset.from_dict({"input_ids": tokenizer(TEXTS)["input_ids"]})
    with pytest.raises(ValueError, match="cannot be tokenised for the teacher"):
        make(data=rows)
    with pytest.raises(ValueError, match="for classifiers and causal language models"):
        build("fill-mask", teacher_processing_class=other)
    nothing = train_tokenizer(["αβγ δεζ"], vocab_size=260)
    assert SharedVocabulary.of(tokenizer, nothing).share < 1
