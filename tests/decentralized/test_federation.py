"""A configuration becomes the same clients and the same server in every process."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import BertConfig

from swingkd.decentralized import (
    Client,
    ClientArguments,
    Federation,
    FederationSettings,
    LabelledExamples,
    MessengerServer,
    WeightServer,
    federate,
)
from swingkd.decentralized.federation import METHODS, make_network
from swingkd.decentralized.networks import MLP, CharacterLSTM, CharacterMLP, SignalCNN, SignalTransformer
from tests.decentralized.conftest import config_of
from tests.harness import flat


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_a_configuration(tmp_path, method):
    result = federate(config_of(tmp_path, method=method), tmp_path / "out")
    assert len(result.accuracies) == 4
    assert [happened.number for happened in result.rounds] == [0, 1, 2]
    # Asked again, the same is said, and nothing is learnt.
    again = federate(config_of(tmp_path, method=method), tmp_path / "out")
    assert again.accuracies == result.accuracies


def test_clients_are_the_same_whoever_builds_them(tmp_path):
    settings = FederationSettings.of(config_of(tmp_path))
    settings.write(tmp_path / "federation.json")
    assert FederationSettings.read(tmp_path / "federation.json") == settings
    one, two = Federation(settings), Federation(settings)
    for name in one.names:
        assert torch.equal(flat(one.client(name).model), flat(two.client(name).model))
    kinds = [one.client(name).model.layers[1].out_features for name in one.names]
    assert kinds == [64, 8, 64, 8]
    # What begins alike under FedAvg differs otherwise.
    assert not torch.equal(flat(one.client(one.names[0]).model), flat(one.client(one.names[2]).model))
    like = Federation(dataclasses.replace(settings, method="fedavg"))
    assert all(torch.equal(flat(like.client(n).model), flat(like.server().model)) for n in like.names)


def test_methods_choose_their_server(tmp_path):
    config = config_of(tmp_path)
    assert isinstance(Federation(FederationSettings.of(config)).server(), MessengerServer)
    assert Federation(FederationSettings.of({**config, "method": "local"})).server().rule is None
    feddf = Federation(FederationSettings.of({**config, "method": "feddf"})).server()
    assert isinstance(feddf, WeightServer)
    assert feddf.distillation_steps > 0
    with_reference = Federation(FederationSettings.of({**config, "method": "local_and_reference"}))
    assert with_reference.client(with_reference.names[0]).args.learn_reference_labels
    for weight, learns in ((0.0, False), (0.5, True)):
        # In the first round nobody has said anything that the labels could be blended into.
        blended = {**config, "method": "sd_dist", "settings": {"reference_weight": weight}}
        federation = Federation(FederationSettings.of(blended))
        assert federation.client(federation.names[0]).args.learn_reference_labels == learns


def test_fewer_data_and_wrong_labels_are_the_same_for_all_methods(tmp_path):
    config = config_of(tmp_path, share_of_data=0.5, mislabelled_clients=0.25, mislabelled_share=1.0)
    whole = Federation(FederationSettings.of(config_of(tmp_path)))
    found = [Federation(FederationSettings.of({**config, "method": m})) for m in ("local", "sd_dist")]
    wrong = 0
    for name in whole.names:
        local, sd_dist = (some.client(name).private for some in found)
        assert torch.equal(local.labels, sd_dist.labels)
        assert torch.equal(local.inputs, sd_dist.inputs)
        assert len(local) == len(whole.partition.train[name]) // 2
        kept = {
            tuple(x.tolist()): int(y)
            for x, y in zip(*dataclasses.astuple(whole.partition.train[name])[:2], strict=True)
        }
        right = [kept[tuple(x.tolist())] == int(y) for x, y in zip(local.inputs, local.labels, strict=True)]
        assert all(right) or not any(right)
        wrong += not any(right)
    assert wrong == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"method": "sgd"}, "method='sgd' is none of local"),
        ({"models": [{"kind": "GPT"}]}, "names none of SignalCNN"),
        ({"models": []}, "at least one"),
        ({"client": {"rho": 2}}, "rho=2.0 must lie"),
        ({"client": {"learning_rate": "fast"}}, "learning_rate='fast' is no number"),
        ({"metod": "fedmd"}, "'metod' is no setting of a federation"),
        ({"method": "ds_fl", "settings": {"temperature": 0}}, "temperature=0 must be positive"),
        ({"method": "cronus", "settings": {"corrupted": 1.0}}, "corrupted=1.0 must lie"),
        ({"method": "random", "settings": {"neighbours": 0}}, "neighbours=0: at least one"),
        ({"maximum_staleness": 0}, "maximum_staleness=0: messengers are"),
        ({"models": [{"kind": "CharacterMLP"}]}, "CharacterMLP cannot read numbers"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, fields, says):
    with pytest.raises(ValueError, match=says):
        federate({**config_of(tmp_path), **fields}, tmp_path / "out")


def test_settings_are_compared_as_they_are_read(tmp_path):
    config = config_of(tmp_path)
    config["people"]["inputs"] = ("x", "y")
    # YAML takes 1e-3 for a word.
    config["client"]["learning_rate"] = "1e-3"
    first = federate(config, tmp_path / "out")
    assert federate(config, tmp_path / "out").accuracies == first.accuracies
    with pytest.raises(ValueError, match="There is no client 'ann': there are 4 others"):
        Federation(FederationSettings.of(config)).client("ann")


def test_a_folder_of_other_settings_and_an_unknown_engine_are_refused(tmp_path):
    config = config_of(tmp_path)
    with pytest.raises(ValueError, match="engine='spark' is none of inproc, flower"):
        federate(config, tmp_path / "out", "spark")
    federate(config, tmp_path / "out")
    with pytest.raises(ValueError, match="holds a federation of other settings"):
        federate({**config, "method": "fedmd"}, tmp_path / "out")


def test_a_hugging_face_classifier_is_a_client(tmp_path):
    BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    ).save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (6, 5), generator=generator)
    examples = LabelledExamples({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids[:, 0] % 3, classes=3)
    one, two = (make_network({"name": str(tmp_path), "num_hidden_layers": 2}, examples, 5) for _ in range(2))
    assert torch.equal(flat(one), flat(two))
    assert len(one.bert.encoder.layer) == 2
    assert one(**examples.inputs).logits.shape == (6, 3)


@pytest.mark.parametrize(
    ("model", "inputs", "private"),
    [
        (SignalCNN(6, 5), torch.randn(3, 6, 64), True),
        (SignalTransformer(6, 5), torch.randn(3, 6, 64), False),
        (MLP(12, 5, depth=2), torch.randn(3, 2, 6), True),
        (CharacterMLP(97, 5), torch.randint(97, (3, 80)), True),
        (CharacterLSTM(97, 5), torch.randint(97, (3, 80)), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_networks_return_logits_and_say_whether_dp_sgd_can_train_them(model, inputs, private):
    assert model(inputs).shape == (3, 5)
    own = LabelledExamples(inputs, torch.arange(3), classes=5)
    args = ClientArguments(rounds=1, steps_per_round=2, batch_size=2, target_epsilon=8.0, target_delta=1e-3)
    if private:
        client = Client("a", model, own, own, args, test=own)
        client.learn(0)
        assert client.private_steps == 2
    else:
        with pytest.raises(ValueError, match="Gradients per row cannot be made for this model"):
            Client("a", model, own, own, args, test=own)
