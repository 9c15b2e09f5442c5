"""What is clipped is a record: one moves the summed gradient by at most the clip, or the model is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    Llama4TextConfig,
    LlamaConfig,
    NllbMoeConfig,
    OPTConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    SwinConfig,
    T5Config,
    ViTConfig,
    XLNetConfig,
)

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer
from swingkd.privacy import DPSGD, PrivacyPlan
from swingkd.privacy.check_rows_apart import check_rows_apart

ROWS, LENGTH, CLIP = 6, 9, 0.1
# Next to no noise, and a clip that every row reaches.
PLAN = PrivacyPlan(0.5, 3, 1e-9, clip_norm=CLIP)
SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ATTENTION, FFN = ["q_proj", "v_proj"], ["fc1", "fc2"]
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}


def lm(config):
    return AutoModelForCausalLM.from_config(config)


def llama4():
    sizes = {"intermediate_size": 24, "intermediate_size_mlp": 24, "num_local_experts": 2, "head_dim": 8}
    return lm(Llama4TextConfig(num_key_value_heads=2, pad_token_id=0, moe_layers=[0], **sizes, **SIZES))


def opt():
    return lm(OPTConfig(ffn_dim=24, dropout=0.0, word_embed_proj_dim=16, max_position_embeddings=32, **SIZES))


def qwen_moe():
    return lm(
        Qwen2MoeConfig(
            intermediate_size=24, num_key_value_heads=2, shared_expert_intermediate_size=8, **EXPERTS, **SIZES
        )
    )


def swin():
    sizes = {"image_size": 16, "patch_size": 2, "num_channels": 1, "embed_dim": 8, "depths": [1], "window_size": 4}
    return AutoModelForImageClassification.from_config(SwinConfig(num_heads=[2], num_labels=3, **sizes))


def xlnet():
    config = XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=24, num_labels=3, dropout=0.0)
    return AutoModelForSequenceClassification.from_config(config)


def vit():
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "intermediate_size": 24, "num_labels": 3}
    return AutoModelForImageClassification.from_config(ViTConfig(**sizes, **SIZES))


def bert():
    sizes = {"intermediate_size": 24, "num_labels": 3, "max_position_embeddings": 32}
    return AutoModelForSequenceClassification.from_config(BertConfig(**sizes, **SIZES))


def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=50, dropout_rate=0.0, **sizes))


class TimeFirst(nn.Module):
    """A recurrent classifier whose layer sees [time, rows, features]."""

    def __init__(self):
        super().__init__()
        self.config = LlamaConfig(**SIZES)
        self.read, self.answer = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids):
        return self.answer(torch.tanh(self.read(input_ids)).transpose(0, 1)).mean(0)


def adapted(model, targets):
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def alone(model, names):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in names))
    return model


# Each family of PITFALLS.md, and those that other projects' users reported.
RECORDS = {
    "llama": lambda: lm(LlamaConfig(intermediate_size=24, **SIZES)),
    "qwen2": lambda: lm(Qwen2Config(intermediate_size=24, num_key_value_heads=2, **SIZES)),
    "qwen3": lambda: lm(Qwen3Config(intermediate_size=24, num_key_value_heads=2, head_dim=8, **SIZES)),
    "pythia": lambda: lm(GPTNeoXConfig(intermediate_size=24, **SIZES)),
    "gpt2": lambda: lm(GPT2Config(n_positions=32, **SIZES)),
    "bert": bert,
    "vit": vit,
    "opt, adapter on the attention": lambda: adapted(opt(), ATTENTION),
    "gemma 3, adapter on the attention": lambda: adapted(
        lm(Gemma3TextConfig(intermediate_size=24, head_dim=8, num_key_value_heads=1, **SIZES)), ATTENTION
    ),
    "qwen2-moe, adapter on the attention": lambda: adapted(qwen_moe(), ATTENTION),
    "llama 4, adapter on the attention": lambda: adapted(llama4(), ATTENTION),
}
TOKENS = {
    "opt, adapter on the feed-forward layers": lambda: adapted(opt(), FFN),
    "opt, feed-forward layers alone": lambda: alone(opt(), FFN),
    "qwen2-moe, adapter on the shared expert": lambda: adapted(
        qwen_moe(), r".*shared_expert\.(gate_proj|up_proj|down_proj)"
    ),
    "llama 4, adapter on the shared expert": lambda: adapted(
        llama4(), r".*shared_expert\.(gate_proj|up_proj|down_proj)"
    ),
    "xlnet": xlnet,
    "xlnet, feed-forward layers alone": lambda: alone(xlnet(), ["ff.layer"]),
    "swin": swin,
    "swin, adapter on the window attention": lambda: adapted(swin(), ["q_proj", "v_proj"]),
    "t5": t5,
    "time first": TimeFirst,
}


# By the layer's name, and with what to do.
REFUSED = r"\w\.\w+ .*(target_modules|requires_grad_)|LoraConfig|ghost_clipping=False|tied weights"


def inputs_of(model, rows, length=LENGTH):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    if "pixel_values" in getattr(model, "main_input_name", ""):
        size = model.config.image_size
        return torch.randn(rows, 1, size, size, generator=generator).double(), labels
    return torch.randint(1, 50, (rows, length), generator=generator), labels


def losses(model, inputs, labels):
    if inputs.ndim == 4:
        return F.cross_entropy(model(pixel_values=inputs).logits, labels, reduction="none")
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if isinstance(base, TimeFirst):
        return F.cross_entropy(model(inputs), labels, reduction="none")
    if base.config.is_encoder_decoder:
        logits = model(input_ids=inputs, decoder_input_ids=inputs, use_cache=False).logits[:, :-1]
    else:
        extra = {}
        if base.config.model_type in ("gpt2", "bert"):
            extra["position_ids"] = torch.arange(inputs.shape[1]).repeat(len(inputs), 1)
        if base.config.model_type == "bert":
            extra["token_type_ids"] = torch.zeros_like(inputs)
        logits = model(input_ids=inputs, **extra).logits
        if logits.ndim == 2:
            return F.cross_entropy(logits, labels, reduction="none")
        logits = logits[:, :-1]
    token = F.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none")
    return token.view(len(inputs), -1).sum(1)


def built(make):
    torch.manual_seed(0)
    # Experts are multiplied by a kernel that knows no float64.
    model = make().train()
    if not any("expert" in name for name, _ in model.named_modules()):
        model = model.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def dp_of(model, **options):
    trained = [p for p in model.parameters() if p.requires_grad]
    return DPSGD(model, torch.optim.SGD(trained, lr=0.0), PLAN, ROWS, **options)


def accumulated(model, inputs, labels, ghost):
    dp = dp_of(model, ghost=ghost)
    dp.accumulate(losses(model, inputs, labels))


def clipped_sum(model, inputs, labels, rows):
    dp = dp_of(model)
    try:
        dp.zero_grad()
        dp.accumulate(losses(model, inputs[rows], labels[rows]))
        return torch.cat([p.summed_grad.flatten() for p in model.parameters() if p.requires_grad])
    finally:
        dp.detach()


@pytest.mark.parametrize("family", RECORDS)
def test_one_record_moves_the_sum_by_at_most_the_clip(family):
    model = built(RECORDS[family])
    inputs, labels = inputs_of(model, ROWS)
    dp = dp_of(model)
    dp.check(lambda at: losses(model, inputs[at], labels[at]), len(inputs))
    dp.detach()
    whole = clipped_sum(model, inputs, labels, list(range(ROWS)))
    for row in range(ROWS):
        others = [i for i in range(ROWS) if i != row]
        moved = float((whole - clipped_sum(model, inputs, labels, others)).norm())
        assert CLIP / 2 < moved <= CLIP * (1 + 1e-4)


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize("family", TOKENS)
def test_layers_that_see_tokens_are_refused_by_name(family, ghost):
    model = built(TOKENS[family])
    inputs, labels = inputs_of(model, 3)
    with pytest.raises(ValueError, match=REFUSED):
        dp_of(model, ghost=ghost).check(lambda at: losses(model, inputs[at], labels[at]), len(inputs))
    fresh = built(TOKENS[family])
    with pytest.raises(ValueError, match=REFUSED):
        accumulated(fresh, inputs, labels, ghost)


@pytest.mark.parametrize("ghost", [False, True])
def test_as_many_time_steps_as_rows_do_not_pass_for_rows(ghost):
    model = built(TimeFirst)
    inputs, labels = inputs_of(model, 4, length=4)
    dp = dp_of(model, ghost=ghost)
    with pytest.raises(ValueError, match=r"What is clipped at answer.weight is not the gradient of a row"):
        dp.accumulate(losses(model, inputs, labels))
    with pytest.raises(ValueError, match=r"answer.weight"):
        dp.check(lambda at: losses(model, inputs[at], labels[at]), len(inputs))


def test_a_sum_of_losses_is_no_loss_of_rows():
    model = built(RECORDS["llama"])
    inputs, labels = inputs_of(model, 2)
    with pytest.raises(ValueError, match=r"one loss a row, \[rows\], and was given a tensor of shape \[\]"):
        dp_of(model).accumulate(losses(model, inputs, labels).sum())


def test_the_trainer_refuses_before_the_first_step(tmp_path, tokenizer, texts):
    """OPT with an adapter on fc1 and fc2: it trained to "epsilon 7.98" while a record moved the sum by 7.8 clips."""
    sizes = SIZES | {"vocab_size": len(tokenizer), "ffn_dim": 24, "word_embed_proj_dim": 16}
    make = lambda: AutoModelForCausalLM.from_config(OPTConfig(max_position_embeddings=64, **sizes))  # noqa: E731

    def trainer(targets):
        args = PrivateDistillationConfig(
            output_dir=str(tmp_path),
            target_epsilon=8,
            target_delta=1e-3,
            max_steps=2,
            per_device_train_batch_size=8,
            protection="none",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
        )
        adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=targets)
        return PrivateDistillationTrainer(
            make(), args, teacher_model=make(), train_dataset=texts, processing_class=tokenizer, peft_config=adapter
        )

    before = trainer(FFN)
    weights = copy.deepcopy(before.model.state_dict())
    with pytest.raises(ValueError, match=r"fc1.lora_A.default.weight has gradients for \d+ rows where 2 were given"):
        before.train()
    assert before.ledger.epsilon() in (None, 0.0)
    assert all(torch.equal(value, weights[name]) for name, value in before.model.state_dict().items())
    after = trainer(ATTENTION)
    after.train()
    assert after.ledger.epsilon() <= 8


# --- rows that move each other without a gradient ---


class BesideOthers(nn.Module):
    """Its rows know each other by something that has no gradient."""

    def __init__(self, how):
        super().__init__()
        self.answer, self.how = nn.Linear(4, 3), how
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, inputs):
        if self.how == "a detached mean":
            inputs = inputs * inputs.detach().mean()
        elif self.how == "a capacity":
            # Of all rows together, the first four are read.
            inputs = inputs * (torch.arange(len(inputs)) < 4)[:, None]
        elif self.how == "a memory":
            self.seen += inputs.detach().sum(0)
        return self.answer(inputs)


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nothing", None),
        ("a detached mean", "rows move each other's gradients"),
        ("a capacity", "rows move each other's gradients"),
        ("a memory", "seen changes while the model reads"),
    ],
)
def test_rows_that_move_each_other_are_refused(how, says, ghost):
    torch.manual_seed(0)
    model, inputs, labels = BesideOthers(how), torch.randn(8, 4) + 1, torch.arange(8) % 3
    dp = dp_of(model, ghost=ghost)

    def of(at):
        return F.cross_entropy(model(inputs[at]), labels[at], reduction="none")

    if says is None:
        dp.check(of, 8)
        return
    with pytest.raises(ValueError, match=says):
        dp.check(of, 8)


def test_experts_with_a_capacity_are_refused():
    """Tokens of one record crowd out those of another."""
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 50, "num_experts": 2}
    sizes |= {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= {"encoder_sparse_step": 1, "decoder_sparse_step": 1, "expert_capacity": 4, "init_std": 0.3}
    sizes |= dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "router_jitter_noise"), 0.0)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(NllbMoeConfig(**sizes)).train()
    inputs, labels = torch.randint(4, 50, (8, LENGTH)), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="rows move each other's gradients"):
        check_rows_apart(model, lambda at: losses(model, inputs[at], labels[at]), 8)


def test_dropout_is_no_neighbour():
    """What is drawn for a row is not what stands beside it; afterwards all rates are what they were."""
    config = LlamaConfig(intermediate_size=24, attention_dropout=0.3, **SIZES)
    model = get_peft_model(lm(config), LoraConfig(r=2, target_modules=ATTENTION, lora_dropout=0.3)).train()
    inputs, labels = inputs_of(model, ROWS)
    dp_of(model).check(lambda at: losses(model, inputs[at], labels[at]), ROWS)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} >= {0.3}
    assert model.config.attention_dropout == 0.3
