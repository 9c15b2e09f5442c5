"""Language models of different kinds teach each other: texts as examples, a soft label for each token."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from swingkd import RuleTagger, Surrogates
from swingkd.decentralized import (
    Client,
    ClientArguments,
    DecentralizedDistillation,
    Federation,
    FederationSettings,
    FedMD,
    LabelledExamples,
    MessengerServer,
    PlantedExamples,
    SDDist,
    WeightServer,
    attack_messengers,
    text_examples,
)
from swingkd.decentralized.federation import make_network
from swingkd.decentralized.message import Message, RefusedError, load_weights, named_weights
from swingkd.decentralized.messengers import Messenger, likeliest, packed, unpacked
from swingkd.decentralized.partition import PartitionSettings, others
from swingkd.experiments.models import make_tokenizer

NAMES = ("Ann", "Bob", "Carla", "Dan")
PLACES = ("house", "garden", "school", "park", "church")


def said(who: str, count: int = 12) -> list[str]:
    return [f"I am {who} and I go to the {PLACES[i % 5]} on day {i % 3}." for i in range(count)]


REFERENCE = [f"I am {who} and I go to the {place} on day {i}." for i, who in enumerate(NAMES) for place in PLACES]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer({"vocab_size": 200}, REFERENCE)


def llama(tokenizer, seed: int = 0, layers: int = 1) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=64))


def gpt2(tokenizer, seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    # Its head is padded, as heads are.
    return GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=len(tokenizer) + 8, bos_token_id=0)
    )


def adapted(model) -> torch.nn.Module:
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))


def arguments(**fields) -> ClientArguments:
    defaults = {"rounds": 4, "steps_per_round": 4, "batch_size": 4, "reference_batch_size": 4, "learning_rate": 0.01}
    return ClientArguments(**(defaults | fields))


def test_tokens_are_predicted_from_those_before_them(tokenizer):
    """Against a loop over tokens, in float64."""
    examples, model = text_examples([*REFERENCE[:3], "I am Ann."], tokenizer), llama(tokenizer).double()
    args = arguments(temperature=2.0, top_k=5)
    client = Client("ann", model, examples, examples, args)
    expected, losses, correct = [], [], []
    for ids, mask in zip(examples.inputs["input_ids"], examples.inputs["attention_mask"], strict=True):
        ids = ids[: int(mask.sum())]
        own = []
        for t in range(1, len(ids)):
            logits = model(input_ids=ids[None, :t]).logits[0, -1]
            expected.append(logits.softmax(0))
            own.append(-logits.log_softmax(0)[ids[t]])
            correct.append(int(logits.argmax() == ids[t]))
        losses.append(torch.stack(own).mean())
    said = client.messenger()
    wanted = likeliest(torch.stack(expected), 5)
    assert said.shape == (len(examples.flat_labels), len(tokenizer))
    torch.testing.assert_close(said.double(), wanted, atol=1e-3, rtol=1e-3)
    model.train()
    torch.testing.assert_close(client.own_losses(torch.tensor([3, 0])), torch.stack([losses[3], losses[0]]))
    assert client.accuracy(examples) == pytest.approx(sum(correct) / len(correct))
    # Some examples learn what was said of their own tokens.
    target = torch.rand(len(expected), len(tokenizer), dtype=torch.float64).softmax(1)
    rows, places = torch.tensor([3, 1]), examples.places(torch.tensor([3, 1]))
    own = (torch.stack(expected).log() / 2).log_softmax(1)[places]
    theirs = target[places].sqrt() / target[places].sqrt().sum(1, keepdim=True)
    by_hand = 4 * (theirs * (theirs.log() - own)).sum(1).mean()
    torch.testing.assert_close(client.others_loss(rows, target), by_hand, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rule", [FedMD(), SDDist(quality_share=0.7, neighbours=1)])
def test_different_language_models_teach_each_other(tokenizer, rule):
    reference = text_examples(REFERENCE, tokenizer)
    models = [llama(tokenizer), llama(tokenizer, 1, layers=2), gpt2(tokenizer)]
    clients = [
        Client(name, model, text_examples(said(name), tokenizer), reference, arguments(top_k=20))
        for name, model in zip(NAMES, models, strict=False)
    ]
    before = [client.accuracy(reference) for client in clients]
    run = DecentralizedDistillation(clients, MessengerServer(rule, reference), rounds=4)
    run.run()
    assert not any(happened.refused for happened in run.history.rounds)
    assert all(client.accuracy(reference) > old for client, old in zip(clients, before, strict=True))
    assert set(run.result().accuracies) == set(NAMES[:3])


def test_adapters_alone_are_shared_and_kept(tokenizer, tmp_path):
    reference, base = text_examples(REFERENCE, tokenizer), llama(tokenizer)
    clients = [
        Client(
            name,
            adapted(copy.deepcopy(base)),
            text_examples(said(name), tokenizer),
            reference,
            arguments(share_weights=True),
        )
        for name in NAMES[:3]
    ]
    server = WeightServer(adapted(copy.deepcopy(base)), reference)
    run = DecentralizedDistillation(clients, server, rounds=2, output_dir=str(tmp_path))
    run.run()
    weights = server.last().tensors
    assert weights
    assert all("lora" in name for name in weights)
    learnt = named_weights(clients[0].model)
    assert learnt.keys() == weights.keys()
    again = Client(
        NAMES[0], adapted(copy.deepcopy(base)), clients[0].private, reference, arguments(share_weights=True)
    )
    assert again.load(tmp_path / "clients" / NAMES[0])
    assert all(torch.equal(t, learnt[name]) for name, t in named_weights(again.model).items())
    assert (tmp_path / "clients" / NAMES[0] / "client.safetensors").stat().st_size < 40_000
    for spoilt, words in (
        (dict(list(weights.items())[1:]), "among the weights"),
        (weights | {"weight.other": torch.zeros(1)}, "other is no weight that is trained here"),
    ):
        with pytest.raises(RefusedError, match=words):
            load_weights(again.model, spoilt)


def test_values_are_made_up_before_a_model_reads_them(tokenizer):
    texts = ["My account number is 48213, thank you.", "My account number is 77120, thank you."]
    plain = text_examples(texts, tokenizer, tagger=RuleTagger())
    assert plain.likelihood.shape == plain.labels.shape
    assert plain.likelihood.max() == 1
    made_up = text_examples(texts, tokenizer, tagger=RuleTagger(), surrogates=Surrogates(seed=0))
    read = tokenizer.batch_decode(made_up.inputs["input_ids"])
    assert not any("48213" in text or "77120" in text for text in read)
    assert all("My account number is" in text for text in read)
    assert made_up.likelihood is None
    with pytest.raises(ValueError, match="there is none"):
        text_examples(texts, tokenizer, surrogates=Surrogates(seed=0))


def test_a_client_says_less_of_private_tokens(tokenizer):
    texts = ["My account number is 48213, thank you."]
    reference = text_examples(texts, tokenizer, tagger=RuleTagger())
    client = Client("ann", llama(tokenizer), reference, reference, arguments(max_temperature=8.0))
    plain = Client("bob", llama(tokenizer), reference, reference, arguments())
    private = reference.likelihood[reference.asked] > 0.5
    entropy = [torch.special.entr(each.messenger().float()).sum(1) for each in (client, plain)]
    assert (entropy[0][private] > entropy[1][private]).all()
    torch.testing.assert_close(entropy[0][~private], entropy[1][~private])
    # Nor does it learn them by heart.
    (loss,) = client.own_losses(torch.tensor([0]))
    logits = plain.model(**reference.inputs).logits[0, :-1][reference.asked[0, 1:]]
    losses = F.cross_entropy(logits, reference.flat_labels, reduction="none")
    torch.testing.assert_close(loss, (losses * ~private).mean())


def test_a_messenger_gives_away_whose_sentence_was_read(tokenizer):
    secrets = [f"My account number is {n}." for n in range(10100, 90100, 2000)]
    reference = text_examples(secrets, tokenizer)
    planted = PlantedExamples.drawn(reference, len(reference), 0)
    own = planted.planted(text_examples(said("Ann"), tokenizer), reference, copies=2)
    assert len(own) == 12 + 2 * int(planted.given.sum())
    model = llama(tokenizer)
    client = Client("ann", model, own, reference, arguments(rounds=1, steps_per_round=250, batch_size=16))
    unread = attack_messengers([planted], [client.messenger()], reference)
    assert abs(unread["loss"].auc.value - 0.5) < 0.25
    client.learn(0)
    hers = client.messenger()
    assert attack_messengers([planted], [hers], reference)["loss"].auc.value > 0.9
    # Models that find all of it likelier, or less likely, do not hide each other.
    other = Client("bob", llama(tokenizer, 1), own, reference, arguments()).messenger()
    nothing = replace(planted, given=torch.rand(len(planted.given)) < 0.5)
    both = attack_messengers([planted, nothing], [hers, other], reference)["loss"].auc.value
    assert 0.6 < both < 0.95
    swapped = attack_messengers([planted, planted], [hers, hers], reference)["loss"].auc.value
    assert swapped == pytest.approx(0.5)


def test_texts_are_padded_to_one_width(tokenizer):
    short, long = text_examples(["I am Ann."], tokenizer), text_examples(REFERENCE[:2], tokenizer)
    both = LabelledExamples.joined([short, long])
    assert both.labels.shape == (3, long.labels.shape[1])
    assert len(both.flat_labels) == len(short.flat_labels) + len(long.flat_labels)
    model = llama(tokenizer).eval()
    first = Client("ann", model, both, both, arguments()).messenger()[: len(short.flat_labels)]
    alone = Client("bob", copy.deepcopy(model), short, short, arguments()).messenger()
    torch.testing.assert_close(first, alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": torch.tensor([[1, 2]])}, "first token of a text follows from nothing"),
        ({"labels": torch.tensor([[-100, -100]])}, "Text 0 asks for no token"),
        ({"labels": torch.tensor([[-100, 9]])}, "Labels from 9 to 9; of 4 classes"),
        ({"labels": torch.tensor([[-100, 2]]), "likelihood": torch.zeros(1)}, "likelihood has the shape"),
    ],
)
def test_examples_that_do_not_fit_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        LabelledExamples(torch.zeros(1, 2, dtype=torch.int64), classes=4, **fields)


class Flat(torch.nn.Linear):
    """No language model."""

    def __init__(self):
        super().__init__(2, 60)

    def forward(self, inputs):
        return super().forward(inputs.float())


def test_models_that_see_what_they_predict_are_refused(tokenizer):
    texts = text_examples(REFERENCE, tokenizer)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    both_ways = BertForMaskedLM(BertConfig(**sizes, vocab_size=len(tokenizer)))
    with pytest.raises(ValueError, match="BertForMaskedLM sees the tokens that it is to predict"):
        Client("ann", both_ways, texts, texts, arguments())
    with pytest.raises(ValueError, match="ann has a model without a weight that may change"):
        Client("ann", llama(tokenizer).requires_grad_(False), texts, texts, arguments())
    with pytest.raises(ValueError, match="There are no texts"):
        text_examples([], tokenizer)


def test_a_long_text_elsewhere_costs_nothing(tokenizer):
    texts = text_examples([*REFERENCE[:4], " ".join(REFERENCE)], tokenizer, max_length=60)
    assert texts.labels.shape[1] == 60
    model, seen = llama(tokenizer), []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"].shape), with_kwargs=True)
    client = Client("ann", model, texts, texts, arguments())
    seen.clear()
    client.own_losses(torch.tensor([0, 2]))
    assert seen[0][1] < 60


@pytest.mark.parametrize("vocabulary", [1_000, 151_936])
def test_soft_labels_of_the_likeliest_add_up_in_half_precision(vocabulary):
    """Rounding a hundred thousand small numbers the same way made a sum that was refused."""
    probabilities = (2 * torch.randn(20, vocabulary, generator=torch.Generator().manual_seed(0))).softmax(1)
    said = Messenger(likeliest(probabilities, 50), "r", 0)
    said.check("r", (20, vocabulary))
    assert ((said.probabilities.float().sum(1) - 1).abs() < 1e-3).all()
    top = probabilities.topk(50, dim=1)
    torch.testing.assert_close(said.probabilities.float().gather(1, top.indices), top.values, rtol=0.1, atol=1e-5)


def test_the_likeliest_alone_travel():
    probabilities = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).softmax(1)
    said = likeliest(probabilities, 5).half()
    parts = packed(said, 5)
    assert sum(t.numel() * t.element_size() for t in parts.values()) == 6 * (5 * (2 + 4) + 2)
    assert torch.equal(unpacked(parts, (6, 40)), said)
    assert torch.equal(unpacked(packed(said, None), (6, 40)), said)
    for changed, words in (
        ({"messenger.rest": torch.zeros(5)}, "of parts"),
        ({"messenger.places": torch.full((6, 5), 40, dtype=torch.int32)}, "beyond the 40"),
        ({"messenger.places": torch.zeros(6, 5)}, "int32 is needed"),
    ):
        with pytest.raises(RefusedError, match=words):
            unpacked(parts | changed, (6, 40))
    with pytest.raises(RefusedError, match="brings no messenger"):
        unpacked({"messenger.kept": parts["messenger.kept"]}, (6, 40))


def test_frozen_weights_must_be_the_same_and_stay_so(tokenizer, tmp_path):
    reference, own = text_examples(REFERENCE, tokenizer), text_examples(said("Ann"), tokenizer)
    client = Client("ann", adapted(llama(tokenizer)), own, reference, arguments(share_weights=True))
    words = {"round": 0, "wants": "weights", "run": "r"}
    answer = client.answer(Message({}, words))
    with pytest.raises(RefusedError, match="frozen weights are not those"):
        WeightServer(adapted(llama(tokenizer, 1)), reference).receive(0, "ann", answer)
    WeightServer(adapted(llama(tokenizer)), reference).receive(0, "ann", answer)
    frozen = {"weight.base_model.model.lm_head.weight": torch.zeros(len(tokenizer), 16)}
    before = client.model.base_model.model.lm_head.weight.clone()
    with pytest.raises(RefusedError, match="no weight that is trained here"):
        load_weights(client.model, answer.tensors | frozen)
    assert torch.equal(client.model.base_model.model.lm_head.weight, before)
    client.save(tmp_path)
    other = Client("ann", adapted(llama(tokenizer, 1)), own, reference, arguments(share_weights=True))
    with pytest.raises(ValueError, match="beside other frozen weights"):
        other.load(tmp_path)


def speakers(folder) -> dict:
    rows = [{"who": who, "text": f"{text} My pin is {4000 + i}."} for who in NAMES for i, text in enumerate(said(who))]
    rows += [{"who": "Eve", "text": "nobody's"}, {"who": "Ann", "text": "x"}]
    Dataset.from_list(rows).to_parquet(folder / "people.parquet")
    data = {"path": "parquet", "data_files": str(folder / "people.parquet"), "split": "train"}
    return {
        "data": data,
        "client": "who",
        "text": "text",
        "tokenizer": str(folder / "tokenizer"),
        "reference_clients": 1,
    }


def test_a_configuration_makes_the_same_clients_again(tokenizer, tmp_path, monkeypatch):
    """Made-up values too: whoever goes on, and each round of a node, reads the configuration anew."""
    monkeypatch.chdir(tmp_path)
    tokenizer.save_pretrained("tokenizer")
    llama(tokenizer).save_pretrained("llama")
    people = speakers(tmp_path) | {"surrogates": str(tmp_path / "_private" / "surrogate_key"), "most_clients": 4}
    config = {"people": people, "models": [{"name": "llama", "lora": {"r": 2}}], "client": {"rounds": 1}}
    federations = [Federation(FederationSettings.of(config)) for _ in range(2)]
    first, again = ({name: each.fingerprint() for name, each in f.partition.train.items()} for f in federations)
    assert first == again
    assert len(set(first.values())) == 3
    read = tokenizer.batch_decode(federations[0].partition.train[federations[0].names[0]].inputs["input_ids"])
    assert not any(str(4000 + i) in text for text in read for i in range(12))
    # Others' text is nobody's who takes part, whatever was filtered out of it.
    assert set(others(PartitionSettings(**people))["who"]) == {"Eve"}
    with pytest.raises(ValueError, match="lora is for language models"):
        make_network({"name": "llama", "lora": {}}, LabelledExamples(torch.zeros(2, 3), torch.tensor([0, 1]), 2), 0)
    with pytest.raises(ValueError, match="Texts have no labels that could be wrong"):
        Federation(FederationSettings.of(config | {"mislabelled_clients": 1.0})).client(federations[0].names[0])


def test_models_and_texts_that_do_not_fit_are_refused(tokenizer):
    with pytest.raises(ValueError, match="has 1 tokens: of two, the second"):
        text_examples(["I am Ann.", ""], make_tokenizer({"vocab_size": 200}, REFERENCE), max_length=1)
    small = LlamaForCausalLM(LlamaConfig(**(llama(tokenizer).config.to_dict() | {"vocab_size": 50})))
    few = LabelledExamples({"input_ids": torch.tensor([[1, 2]])}, torch.tensor([[-100, 2]]), 60)
    with pytest.raises(ValueError, match="knows 50 tokens, the texts 60"):
        Client("ann", small, few, few, arguments())
    with pytest.raises(ValueError, match=r"no logits \[n, T, classes\]: give a language model"):
        Client("ann", Flat(), few, replace(few, inputs=few.inputs["input_ids"]), arguments())


@pytest.mark.parametrize("make", [lambda tokenizer: adapted(llama(tokenizer)), gpt2], ids=["adapter", "positions"])
def test_learning_privately_clips_whole_texts(tokenizer, make):
    reference = text_examples(REFERENCE, tokenizer)
    own = text_examples(said("Ann", 8), tokenizer)
    client = Client("ann", make(tokenizer), own, reference, arguments(rounds=1, target_epsilon=8.0), test=reference)
    client.answer(Message({}, {"round": 0, "wants": "messenger", "run": "r"}))
    assert client.private_steps == 4
    assert "for each record" in str(client.ledger)
