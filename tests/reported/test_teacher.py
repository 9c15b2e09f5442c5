"""The teacher is checked where the student is: classes, padding, pixels, positions, identity."""

import copy

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from swingkd import PrivateDistillationTrainer, RuleTagger, cache_teacher, distillation_loss, teacher_logits
from swingkd.data import DistillationCollator
from swingkd.data.teacher_columns import model_fingerprint
from swingkd.models.inputs import vocabulary_size
from tests.harness import TEXTS, bert, masking, names, other_tokenizer, pictures, processor, tiny_model, vit

CLASSES = ("calm", "angry", "sad")
MOVED = ("sad", "calm", "angry")


def rows(label_names, column="label"):
    kinds = Features(text=Value("string"), label=ClassLabel(names=list(label_names)))
    data = Dataset.from_dict({"text": TEXTS[:12], "label": [i % 3 for i in range(12)]}, features=kinds)
    return data.rename_column("label", column) if column != "label" else data


def classifiers(size, teacher_names=CLASSES, student_names=None, kind=BertForSequenceClassification):
    torch.manual_seed(1)
    teacher = bert(kind, size, num_labels=3, **(names(teacher_names) if teacher_names else {}))
    student = bert(kind, size, num_labels=3, **(names(student_names) if student_names else {}))
    return student, teacher


# --- classes ---


def test_an_unnamed_student_gets_the_teachers_classes_and_the_data_are_compared_with_them(config, tokenizer):
    student, teacher = classifiers(len(tokenizer))
    with pytest.raises(ValueError, match="Class 0 is 'calm' to the model and 'sad' in the data"):
        PrivateDistillationTrainer(
            student, config(), teacher_model=teacher, train_dataset=rows(MOVED), processing_class=tokenizer
        )
    student, teacher = classifiers(len(tokenizer))
    trainer = PrivateDistillationTrainer(
        student,
        config(protection="none"),
        teacher_model=teacher,
        train_dataset=rows(CLASSES),
        processing_class=tokenizer,
    )
    assert trainer.model.config.id2label == dict(enumerate(CLASSES))
    assert trainer.model.config.label2id == {name: i for i, name in enumerate(CLASSES)}


def test_aligned_as_the_error_says_the_student_learns_the_right_classes(config, tokenizer):
    student, teacher = classifiers(len(tokenizer))
    data = rows(MOVED)
    aligned = data.align_labels_with_mapping({name: i for i, name in enumerate(CLASSES)}, "label")
    trainer = PrivateDistillationTrainer(
        student, config(protection="none"), teacher_model=teacher, train_dataset=aligned, processing_class=tokenizer
    )
    meant = [CLASSES[i] for i in trainer.train_dataset["labels"]]
    assert meant == [MOVED[i] for i in data["label"]]


def test_words_and_images_are_compared_too(config, tokenizer):
    student, teacher = classifiers(len(tokenizer), kind=BertForTokenClassification)
    kinds = Features(tokens=[Value("string")], ner_tags=[ClassLabel(names=list(MOVED))])
    data = Dataset.from_dict({"tokens": [["hello", "ann"]] * 4, "ner_tags": [[0, 1]] * 4}, features=kinds)
    with pytest.raises(ValueError, match="Class 0 is 'calm' to the model"):
        PrivateDistillationTrainer(
            student, config(), teacher_model=teacher, train_dataset=data, processing_class=tokenizer
        )
    student, teacher = vit(), vit(seed=1, **names(CLASSES))
    with pytest.raises(ValueError, match="Class 0 is 'calm' to the model"):
        PrivateDistillationTrainer(
            student, config(), teacher_model=teacher, train_dataset=pictures(MOVED), processing_class=processor(8)
        )


def test_capitals_are_no_other_class(config, tokenizer):
    student, teacher = classifiers(len(tokenizer), [name.upper() for name in CLASSES])
    with pytest.raises(ValueError, match="Class 0 is 'CALM' to the model and 'sad' in the data"):
        PrivateDistillationTrainer(
            student, config(), teacher_model=teacher, train_dataset=rows(MOVED), processing_class=tokenizer
        )
    student, teacher = classifiers(len(tokenizer), [name.upper() for name in CLASSES], CLASSES)
    PrivateDistillationTrainer(
        student,
        config(protection="none"),
        teacher_model=teacher,
        train_dataset=rows(CLASSES),
        processing_class=tokenizer,
    )


# --- padding ---


def decoder_classifier(size, pad, seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return LlamaForSequenceClassification(LlamaConfig(vocab_size=size, num_labels=3, pad_token_id=pad, **sizes)).eval()


@pytest.mark.parametrize("pad", [None, 0, 5])
@pytest.mark.parametrize("own", [False, True])
def test_a_decoder_teachers_answers_do_not_depend_on_its_neighbours(config, tokenizer, pad, own):
    other = other_tokenizer()
    size = max(len(tokenizer), len(other))
    student, teacher = decoder_classifier(size, tokenizer.pad_token_id, 1), decoder_classifier(size, pad)
    expected = []
    reader, alone = other if own else tokenizer, copy.deepcopy(teacher)
    alone.config.pad_token_id = reader.pad_token_id
    for text in rows(CLASSES)["text"]:
        with torch.no_grad():
            expected.append(alone(**reader(text, return_tensors="pt")).logits)
    trainer = PrivateDistillationTrainer(
        student,
        config(protection="none"),
        teacher_model=teacher,
        train_dataset=rows(CLASSES),
        processing_class=tokenizer,
        teacher_processing_class=other if own else None,
    )
    for batch in (1, 2, 4):
        found = []
        for start in range(0, 12, batch):
            inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(start, start + batch)])
            found.append(teacher_logits(trainer.teacher_model, inputs, "text-classification"))
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-4, atol=1e-5)


def roberta(size, pad=1, seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=size, pad_token_id=pad, max_position_embeddings=96, **sizes)
    return RobertaForMaskedLM(config)


def test_models_that_count_positions_from_another_padding_token_are_refused(config, tokenizer, texts):
    reader = masking(tokenizer)
    models = [roberta(len(reader), 2, 1), roberta(len(reader), 1)]
    with pytest.raises(ValueError, match="teacher counts positions from padding token 1, the tokenizer pads with 2"):
        PrivateDistillationTrainer(
            models[0], config(protection="none"), teacher_model=models[1], train_dataset=texts, processing_class=reader
        )


def test_under_dp_positions_are_those_that_the_model_counts(config, tokenizer, texts):
    reader = masking(tokenizer)
    models = [roberta(len(reader), 2, 1), roberta(len(reader), 2)]
    args = config(protection="none", noise_multiplier=1.0, target_delta=1e-3)
    trainer = PrivateDistillationTrainer(
        models[0], args, teacher_model=models[1], train_dataset=texts, processing_class=reader
    )
    seen = []
    trainer.model.roberta.embeddings.register_forward_hook(
        lambda module, inputs, kwargs, out: seen.append((kwargs["position_ids"], kwargs["input_ids"])),
        with_kwargs=True,
    )
    trainer._row_losses([trainer.train_dataset[i] for i in range(3)])
    positions, ids = seen[0]
    for row, own in zip(ids, positions, strict=True):
        real = int((row != reader.pad_token_id).sum())
        assert own[:real].tolist() == list(range(3, 3 + real))


# --- positions and token types ---


def given_to(model, inputs_of):
    seen = []
    handle = model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    inputs_of()
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["position_ids", "token_type_ids"])
def test_what_rows_say_of_their_tokens_reaches_every_model(config, tokenizer, name):
    ids = [tokenizer(text)["input_ids"] for text in TEXTS[:8]]
    said = [[(7 * i + 1) % (2 if name == "token_type_ids" else 50) for i in range(len(row))] for row in ids]
    if name == "position_ids":
        data = Dataset.from_dict({"input_ids": ids, name: said})
        student, teacher = (tiny_model(len(tokenizer), seed=seed) for seed in (1, 2))
        reader = tokenizer
    else:
        reader = masking(tokenizer)
        data = Dataset.from_dict({"input_ids": ids, name: said})
        student, teacher = (bert(BertForMaskedLM, len(reader)) for _ in range(2))
    trainer = PrivateDistillationTrainer(
        student, config(protection="none"), teacher_model=teacher, train_dataset=data, processing_class=reader
    )
    rows_ = trainer._remove_unused_columns(trainer.train_dataset)
    batch = trainer.data_collator([rows_[i] for i in range(4)])
    for model in (trainer.model, trainer.teacher_model):
        seen = given_to(model, lambda: trainer._losses(trainer.model, batch))
        for row, own in enumerate(said[:4]):
            assert seen[name][row, : len(own)].tolist() == own


def test_a_collator_of_ones_own_reaches_every_model(config, tokenizer, texts):
    inner = DistillationCollator(tokenizer.pad_token_id)

    def collator(some):
        batch = inner(some)
        return batch | {"position_ids": torch.arange(batch["input_ids"].shape[1]).flip(0).repeat(len(some), 1)}

    student, teacher = (tiny_model(len(tokenizer), seed=seed) for seed in (1, 2))
    trainer = PrivateDistillationTrainer(
        student,
        config(protection="none"),
        teacher_model=teacher,
        train_dataset=texts,
        processing_class=tokenizer,
        data_collator=collator,
    )
    batch = collator([trainer.train_dataset[i] for i in range(2)])
    for model in (trainer.model, trainer.teacher_model):
        seen = given_to(model, lambda: trainer._losses(trainer.model, batch))
        assert seen["position_ids"][0, 0] == batch["input_ids"].shape[1] - 1
    one = distillation_loss(student(**inputs(batch)).logits, teacher_logits(teacher.eval(), batch), batch)
    assert one.isfinite()


def inputs(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}


# --- identity ---


def test_a_teachers_configuration_is_part_of_its_fingerprint(config, teacher, tokenizer, texts, student):
    before = model_fingerprint(teacher)
    cached = cache_teacher(teacher, config(protection="none"), texts, tokenizer)
    other = copy.deepcopy(teacher)
    other.config.rms_norm_eps = 0.1
    assert model_fingerprint(other) != before
    with pytest.raises(ValueError, match="targets of another teacher"):
        PrivateDistillationTrainer(
            student, config(protection="none"), teacher_model=other, train_dataset=cached, processing_class=tokenizer
        )
    assert model_fingerprint(teacher) == before


def test_weights_shared_with_the_teacher_are_not_frozen_in_silence(config, teacher, tokenizer, texts):
    for share in ("same", "view"):
        student = tiny_model(len(tokenizer), hidden=24, seed=1)
        held = teacher.model.embed_tokens.weight
        student.model.embed_tokens.weight = held if share == "same" else torch.nn.Parameter(held.data)
        with pytest.raises(ValueError, match=r"shares 1 trainable weights .*model.embed_tokens.weight"):
            PrivateDistillationTrainer(
                student, config(), teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
            )
        student.model.embed_tokens.weight.requires_grad_(False)
        PrivateDistillationTrainer(
            student, config(protection="none"), teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
        )
        held.requires_grad_(True)


def test_the_teacher_is_not_the_student_by_any_path(tmp_path, monkeypatch, config, student, tokenizer, texts):
    student.save_pretrained(tmp_path / "w" / "student")
    tokenizer.save_pretrained(tmp_path / "w" / "student")
    (tmp_path / "link").symlink_to(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    for one, two in (
        ("w/student", "w/student/"),
        ("w/student", "w/../w/student"),
        ("w/student", str(tmp_path / "w" / "student")),
        ("w/student", "link/student"),
        ("Owner/Name", "owner/name"),
    ):
        with pytest.raises(ValueError, match="The teacher is the student"):
            PrivateDistillationTrainer(
                one, config(), teacher_model=two, train_dataset=texts, processing_class=tokenizer
            )


# --- heads ---


def gappy():
    """A tokenizer whose ids leave ten out."""
    words = ["<pad>", "<s>", "</s>", *"abcdefghij"]
    ids = {word: i for i, word in enumerate(words)}
    ids |= {word: i + 10 for word, i in ((w, len(words) + n) for n, w in enumerate("klmnopqrst"))}
    model = Tokenizer(WordLevel(ids, unk_token="<pad>"))
    model.pre_tokenizer = Whitespace()
    reader = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    reader.add_tokens([AddedToken("<x>")])
    return reader


def test_tokenizers_with_gaps_in_their_ids(config):
    reader = gappy()
    size = max(reader.get_vocab().values()) + 1
    assert vocabulary_size(reader) == size > len(reader)
    data = Dataset.from_dict({"text": ["a b k t <x> s", "t s r q", "c d <x>"] * 4})
    with pytest.raises(ValueError, match=rf"predicts {len(reader)} tokens, the tokenizer has ids up to {size - 1}"):
        PrivateDistillationTrainer(
            tiny_model(len(reader)),
            config(),
            teacher_model=tiny_model(size),
            train_dataset=data,
            processing_class=reader,
        )
    for fused in (True, False):
        trainer = PrivateDistillationTrainer(
            tiny_model(size, seed=1),
            config(protection="none", fused_loss=fused),
            teacher_model=tiny_model(size + 3, seed=2),
            train_dataset=data,
            processing_class=reader,
        )
        assert trainer.distillation.vocabulary == size
        trainer.train()
        assert trainer.state.log_history


def test_the_public_model_is_not_the_teacher(config, student, teacher, tokenizer, texts):
    with pytest.raises(ValueError, match="The public model is the teacher"):
        PrivateDistillationTrainer(
            student,
            config(),
            teacher_model=teacher,
            train_dataset=texts,
            processing_class=tokenizer,
            public_model=teacher,
        )


def test_nor_is_it_a_copy_of_it(config, student, teacher, tokenizer, texts):
    given = {"model": student, "teacher_model": teacher, "args": config(), "train_dataset": texts}
    with pytest.raises(ValueError, match="The public model is the teacher"):
        PrivateDistillationTrainer(**given, processing_class=tokenizer, public_model=copy.deepcopy(teacher))
    with pytest.raises(ValueError, match="The public model is the teacher"):
        cache_teacher(teacher, config(), texts, tokenizer, public_model=copy.deepcopy(teacher))
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.lm_head.weight[-1, -1] += 1
    PrivateDistillationTrainer(**given, processing_class=tokenizer, public_model=other, tagger=RuleTagger())


def test_nor_are_its_weights_the_students(config, student, teacher, tokenizer, texts):
    public = copy.deepcopy(student)
    public.model.embed_tokens.weight = student.model.embed_tokens.weight
    with pytest.raises(ValueError, match="shares 1 trainable weights with the public model"):
        PrivateDistillationTrainer(
            student,
            config(),
            teacher_model=teacher,
            train_dataset=texts,
            processing_class=tokenizer,
            public_model=public,
            tagger=RuleTagger(),
        )


# --- names of classes, again ---


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id2label": {1: "a", 2: "b", 3: "c"}}, "none of number 0"),
        ({"label2id": {"a": 2, "b": 1, "c": 0}}, "label2id says that 'a' is class 2, its id2label that it is class 0"),
    ],
)
def test_classes_that_contradict_each_other_are_refused(config, tokenizer, change, says):
    models = [bert(BertForSequenceClassification, len(tokenizer), **names("abc")) for _ in range(2)]
    for name, value in change.items():
        setattr(models[1].config, name, value)
    rows = Dataset.from_dict({"text": TEXTS[:6], "label": [0, 1, 2] * 2})
    with pytest.raises(ValueError, match=says):
        PrivateDistillationTrainer(
            models[0],
            config(protection="none"),
            teacher_model=models[1],
            train_dataset=rows,
            processing_class=tokenizer,
        )


def test_names_are_known_where_only_id2label_was_set(config, tokenizer):
    models = [bert(BertForSequenceClassification, len(tokenizer), num_labels=3) for _ in range(2)]
    for model in models:
        model.config.id2label = dict(enumerate("abc"))
    rows = Dataset.from_dict({"text": TEXTS[:6], "label": list("abcabc")})
    trainer = PrivateDistillationTrainer(
        models[0], config(protection="none"), teacher_model=models[1], train_dataset=rows, processing_class=tokenizer
    )
    assert trainer.train_dataset["labels"][:] == [0, 1, 2, 0, 1, 2]
