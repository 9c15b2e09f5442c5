"""A student of a model's layers: the same family, the same weights, the chosen layers in their order."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.models.smaller import evenly, student_from
from swingkd.models.vocabulary import CutVocabulary
from tests.harness import TEXTS, tiny_model, train_tokenizer, vit

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}


def gpt2(layers=6):
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_head=2, n_layer=layers, vocab_size=50, n_positions=32))


def qwen(layers=6):
    kinds = ["sliding_attention" if i % 2 else "full_attention" for i in range(layers)]
    return Qwen3ForCausalLM(
        Qwen3Config(
            num_hidden_layers=layers,
            layer_types=kinds,
            use_sliding_window=True,
            sliding_window=4,
            head_dim=8,
            num_key_value_heads=1,
            **SIZES,
        )
    )


MODELS = {
    "llama": lambda: tiny_model(50, num_hidden_layers=6),
    "gpt2": gpt2,
    "qwen": qwen,
    "bert": lambda: BertForMaskedLM(BertConfig(num_hidden_layers=6, **SIZES)),
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("layers", [1, 3, [0, 2, 5], 6])
def test_the_chosen_layers_are_the_bases(family, layers):
    base = MODELS[family]().eval()
    student = student_from(base, layers)
    chosen = evenly(layers, 6) if isinstance(layers, int) else layers
    assert student.config.num_hidden_layers == len(chosen)
    if family == "qwen":
        assert student.config.layer_types == [base.config.layer_types[place] for place in chosen]
    # The base itself, with the others taken out of its stack, says the same.
    ids, cut = torch.arange(12)[None] % 50, copy.deepcopy(base)
    name, stack = next((n, m) for n, m in cut.named_modules() if isinstance(m, torch.nn.ModuleList))
    cut.set_submodule(name, torch.nn.ModuleList([stack[place] for place in chosen]))
    cut.config = student.config
    for module in cut.modules():
        if hasattr(module, "config"):
            module.config = student.config
    with torch.no_grad():
        expected = cut(ids, **({} if family == "bert" else {"use_cache": False})).logits
        assert torch.equal(student(ids).logits, expected)
    # A cache finds its layers by their new places.
    if family != "bert":
        with torch.no_grad():
            said = student.generate(ids[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0)
            again = student.generate(ids[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False)
        assert torch.equal(said, again)


def test_a_student_is_no_part_of_its_base(tmp_path):
    base = MODELS["llama"]()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    student = student_from(base, 2)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    assert base.config.num_hidden_layers == 6
    student.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in student.state_dict().items())


def test_images_too():
    base = vit(num_hidden_layers=4).eval()
    student = student_from(base, [1, 3])
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label == base.config.id2label
    pixels = torch.rand(2, 3, 8, 8)
    assert student(pixel_values=pixels).logits.shape == base(pixel_values=pixels).logits.shape


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (0, "from 1 to 6"),
        (7, "from 1 to 6"),
        ([], "rising"),
        ([2, 1], "rising"),
        ([1, 1], "rising"),
        ([0, 6], "0 to 5"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers, says):
    with pytest.raises(ValueError, match=says):
        student_from(MODELS["llama"](), layers)


def test_models_without_plain_layers_are_refused():
    encoder_decoder = T5ForConditionalGeneration(
        T5Config(d_model=16, d_ff=32, num_layers=2, num_heads=2, vocab_size=50)
    )
    with pytest.raises(ValueError, match="one stack of layers"):
        student_from(encoder_decoder, 1)
    adapted = get_peft_model(MODELS["llama"](), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    with pytest.raises(ValueError, match="merge it first"):
        student_from(adapted, 2)
    with torch.device("meta"):
        nowhere = MODELS["llama"]()
    with pytest.raises(ValueError, match="Load it whole"):
        student_from(nowhere, 2)


@pytest.mark.parametrize("tied", [False, True])
def test_a_cut_vocabulary_keeps_the_logits_of_its_tokens(tied):
    tokenizer = train_tokenizer(TEXTS)
    base = tiny_model(len(tokenizer) + 5, num_hidden_layers=3, tie_word_embeddings=tied).eval()
    vocabulary = CutVocabulary.of(tokenizer, TEXTS[:4])
    student = student_from(base, 3, vocabulary=vocabulary).eval()
    assert student.config.vocab_size == len(vocabulary.tokenizer) < len(tokenizer)
    old, new = (t(TEXTS[0], return_tensors="pt")["input_ids"] for t in (tokenizer, vocabulary.tokenizer))
    with torch.no_grad():
        expected = base(old).logits[..., vocabulary.kept]
    torch.testing.assert_close(student(new).logits, expected)
    assert tokenizer.convert_ids_to_tokens(base.config.eos_token_id) == vocabulary.tokenizer.convert_ids_to_tokens(
        student.config.eos_token_id
    )


def test_a_vocabulary_of_another_tokenizer_is_refused():
    vocabulary = CutVocabulary.of(train_tokenizer(TEXTS), TEXTS)
    with pytest.raises(ValueError, match="the model's own tokenizer"):
        student_from(MODELS["llama"](), 2, vocabulary=vocabulary)


def test_a_base_without_a_head_has_a_student_without_one():
    base = AutoModel.from_config(BertConfig(num_hidden_layers=4, **SIZES))
    assert type(student_from(base, 2)) is type(base)


@pytest.mark.parametrize("kind", ["teacher", "base", "adapter", "none", "public"])
def test_a_student_of_a_private_teachers_layers_is_refused(kind, tokenizer, texts, config):
    base = tiny_model(len(tokenizer), num_hidden_layers=4)
    teacher = copy.deepcopy(base)
    if kind == "adapter":
        # What lies below an adapter is the base's.
        teacher = get_peft_model(teacher, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    else:
        with torch.no_grad():
            # Embeddings that were frozen stay the base's.
            for name, parameter in teacher.named_parameters():
                if "layers" in name:
                    parameter.add_(0.01 * torch.randn_like(parameter))
    student = student_from(base if kind in ("base", "adapter") else teacher, 2)
    fields = {"protection": "none"} if kind == "none" else {"start_from_teacher": kind == "public"}

    def make():
        return PrivateDistillationTrainer(
            student,
            config(**{"protection": "noise", **fields}),
            teacher_model=teacher,
            train_dataset=texts,
            processing_class=tokenizer,
            tagger=RuleTagger(),
        )

    if kind == "teacher":
        with pytest.raises(ValueError, match="begins with layers of the teacher"):
            make()
    else:
        make()
