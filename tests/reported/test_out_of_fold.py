"""Adapters in one batch, short texts, saved tokenizers, vocabularies that are cut, prompts of many lengths."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from swingkd import CutVocabulary, Folds, OutOfFoldTeacher, PrivateDistillationTrainer, train_out_of_fold
from swingkd.audit.generation import sample_texts
from tests.harness import TEXTS, bert, names, tiny_model

CLASSES = ("calm", "angry", "sad")


def several(model, config, k=2):
    """Adapters that differ, on one base."""
    config.init_lora_weights = False
    adapted = get_peft_model(model, config, adapter_name="fold-0")
    for number in range(1, k):
        torch.manual_seed(number)
        adapted.add_adapter(f"fold-{number}", config)
    for number in range(k):
        for name, parameter in adapted.named_parameters():
            if f"modules_to_save.fold-{number}" in name:
                torch.manual_seed(100 + number)
                parameter.data = torch.randn_like(parameter)
    return adapted.eval()


def one_by_one(adapted, folds, **inputs):
    rows = []
    for row, fold in enumerate(folds):
        adapted.set_adapter(f"fold-{fold}")
        own = {name: value[row : row + 1] for name, value in inputs.items()}
        rows.append(adapted(**own).logits[0])
    adapted.set_adapter("fold-0")
    return torch.stack(rows)


@torch.no_grad()
def test_each_row_has_the_head_of_its_adapter(tokenizer):
    """peft #1960: in a mixed batch, the classifier was that of the active adapter, whatever the row asked for."""
    model = bert(BertForSequenceClassification, len(tokenizer), num_labels=3, **names(CLASSES))
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query", "value"])
    adapted = several(model, config)
    inputs = dict(tokenizer(TEXTS[:4], return_tensors="pt", padding=True))
    inputs.pop("token_type_ids", None)
    said = OutOfFoldTeacher(adapted)(torch.tensor([0, 1, 1, 0]), **inputs).logits
    torch.testing.assert_close(said, one_by_one(adapted, [0, 1, 1, 0], **inputs))


@pytest.mark.parametrize("of_the_head", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
def test_a_head_that_each_adapter_has_for_itself_is_not_read_past_them(tokenizer, config, of_the_head):
    """peft #1960 once more: the loss reads the head by itself, and would have asked the active adapter's for all."""
    fields = {"r": 2, "target_modules": ["q_proj"]} | of_the_head
    adapted = several(tiny_model(len(tokenizer), seed=1), LoraConfig(**fields))
    text = Dataset.from_dict({"text": [f"{i} {text}" for i, text in enumerate(TEXTS[:12])]})
    folds = Folds.of(text, 2, near_duplicates=False, seed=1)
    trainer = PrivateDistillationTrainer(
        tiny_model(len(tokenizer), seed=3),
        config(alpha=1.0, protection="none", fused_loss=True),
        teacher_model=OutOfFoldTeacher(adapted, folds),
        train_dataset=text,
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(12)])
    loss = float(trainer.compute_loss(trainer.model, copy.deepcopy(batch)))
    # By hand, in float64: each row's divergence from its own adapter.
    fold, ids, mask = batch["teacher_fold"].tolist(), batch["input_ids"], batch["attention_mask"]
    assert len(set(fold)) == 2
    with torch.no_grad():
        theirs = one_by_one(adapted, fold, input_ids=ids, attention_mask=mask).double().log_softmax(-1)[:, :-1]
        own = trainer.model(input_ids=ids, attention_mask=mask).logits.double().log_softmax(-1)[:, :-1]
    known = batch["labels"][:, 1:] != -100
    temperature = trainer.args.temperature
    theirs, own = ((x / temperature).log_softmax(-1) for x in (theirs, own))
    by_hand = ((theirs.exp() * (theirs - own)).sum(-1) * temperature**2)[known].mean()
    assert loss == pytest.approx(float(by_hand), rel=1e-4)


def test_short_texts_that_differ_are_no_duplicates():
    """DataFlow #526: texts shorter than a shingle all had the same empty signature, and were one."""
    texts = ["cat", "dog", "", "cow", "hen", "a b", "b a", "??", "cat"]
    folds = Folds.of(Dataset.from_dict({"text": texts * 3}), 3, seed=0)
    fold = folds.add_to(Dataset.from_dict({"text": texts * 3}))["teacher_fold"]
    assert len(set(fold[:9])) > 1
    assert all(fold[i] == fold[i + 9] == fold[i + 18] for i in range(9))
    assert fold[0] == fold[8]


def test_added_tokens_outlive_a_cut():
    """skeletoken #94, hf-trim #6: tokens that were added later lost their rows, or kept numbers behind the end."""
    words = {"[UNK]": 0} | {word: i + 1 for i, word in enumerate(sorted({w for t in TEXTS for w in t.split()}))}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="<pad>")
    tokenizer.add_tokens([AddedToken("<turn>", special=True), "blue moon"])
    text = f"<turn> {TEXTS[0]} blue moon <turn>"
    cut = CutVocabulary.of(tokenizer, [text])
    assert cut.kept[cut.tokenizer(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]
    assert max(cut.tokenizer.get_vocab().values()) == len(cut.kept) - 1
    assert cut.tokenizer.pad_token_id < len(cut.kept)


def test_an_unknown_token_of_another_name(tmp_path):
    """smaller-training-vocab #15: the tokenizer's unknown token is none of the special tokens that it names."""
    backend = Tokenizer(
        models.WordPiece({"[UNK]": 0, "<s>": 1, "</s>": 2, "hello": 3, "##s": 4, "you": 5}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    cut = CutVocabulary.of(tokenizer, ["hello you"])
    cut.tokenizer.save_pretrained(tmp_path)
    for new in (cut.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert cut.kept[new("hello zebra you")["input_ids"]].tolist() == tokenizer("hello zebra you")["input_ids"]


def test_prompts_of_many_lengths_go_on_as_they_would_alone(tokenizer):
    """nnsight #673, unsloth #3699: rows padded on the left had the positions of others."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=128))
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(30)  # a wrong place is seen
    prompts = [TEXTS[0], TEXTS[1][:9], TEXTS[2][:20], "hello"]
    together = sample_texts(model.eval(), tokenizer, prompts, max_new_tokens=12, top_k=1, progress=False)
    alone = [sample_texts(model, tokenizer, [p], max_new_tokens=12, top_k=1, progress=False)[0] for p in prompts]
    assert together == alone


def test_classifiers_with_adapters_are_trained_and_saved_with_their_heads(tokenizer, config, tmp_path):
    """peft #1960 in training: each teacher's own head comes back from its folder."""
    rows = {"text": [f"{i} {text}" for i, text in enumerate(TEXTS[:12])], "label": [CLASSES[i % 3] for i in range(12)]}
    data = Dataset.from_dict(rows)
    base = bert(BertForSequenceClassification, len(tokenizer), num_labels=3, **names(CLASSES))
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query", "value"])
    args = config(output_dir=str(tmp_path / "teachers"), max_steps=3)
    folds = Folds.of(data, 2, near_duplicates=False, seed=1)
    made = train_out_of_fold(str(tmp_path / "base"), args, data, tokenizer, folds=folds, peft_config=lora)
    loaded = OutOfFoldTeacher.load(str(tmp_path / "teachers"))
    heads = [p for name, p in loaded.named_parameters() if "modules_to_save" in name and name.endswith("weight")]
    assert len(heads) >= 2
    assert not torch.equal(heads[0], heads[1])
    inputs = dict(tokenizer(rows["text"][:4], return_tensors="pt", padding=True))
    inputs.pop("token_type_ids", None)
    fold = torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(fold, **inputs).logits, made.eval()(fold, **inputs).logits)
