import torch

from swingkd.targets import PopulationBuilder, PopulationTable, PopulationTarget, PrivatePositions
from swingkd.targets.population import COPY, GROUP_STRIDE

DIGIT1, DIGIT2, RARE = GROUP_STRIDE + 1, GROUP_STRIDE + 2, 2 * GROUP_STRIDE + 1


def uniform_but(token, p=0.9, size=6):
    row = torch.full((size,), (1 - p) / (size - 1), dtype=torch.float64)
    row[token] = p
    return row.log()


def positions(groups, likelihood=1.0):
    n = len(groups)
    return PrivatePositions(
        torch.full((n,), likelihood, dtype=torch.float64), torch.ones(n), torch.zeros(n, 2), torch.tensor(groups)
    )


def build(min_spans=3, copies=1):
    builder = PopulationBuilder(6)
    for span in range(5):
        for _ in range(copies if span == 0 else 1):
            rows = torch.stack([uniform_but(span % 6), uniform_but((span + 1) % 6)])
            builder.add(rows, torch.tensor([DIGIT1, DIGIT2]), torch.tensor([span, span]))
    builder.add(uniform_but(5)[None], torch.tensor([RARE]), torch.tensor([99]))
    return builder.finish(min_spans)


def test_a_group_is_the_mean_of_its_distinct_spans():
    expected = torch.stack([uniform_but(span).exp() for span in range(5)]).mean(0)
    torch.testing.assert_close(build().lookup(torch.tensor([DIGIT1]))[0].exp().double(), expected, atol=1e-6, rtol=0)


def test_copies_of_a_secret_change_nothing():
    torch.testing.assert_close(build().log_probs, build(copies=100).log_probs)


def test_a_rare_kind_never_gets_an_average_of_its_own():
    table = build()
    # Nothing of its label is frequent enough either, so the average over anything private stands in.
    everything = table.lookup(torch.tensor([0]))
    torch.testing.assert_close(table.lookup(torch.tensor([RARE])), everything)
    assert table.lookup(torch.tensor([RARE]))[0].argmax() != 5 or everything[0].argmax() == 5


def test_too_few_secrets_altogether_leave_no_target():
    table = build(min_spans=50)
    assert len(table.keys) == 0
    target = PopulationTarget(table).protect(uniform_but(1)[None], positions([DIGIT1]))
    assert (target == -torch.inf).all()


def test_a_copy_in_the_same_record_keeps_the_teacher():
    teacher = uniform_but(3)[None]
    torch.testing.assert_close(PopulationTarget(build()).protect(teacher, positions([COPY])), teacher)


def test_the_individual_teacher_fades_with_likelihood():
    table, teacher = build(), uniform_but(3)[None]
    average = table.lookup(torch.tensor([DIGIT1])).double()
    for likelihood, share in ((1.0, 0.0), (0.25, 0.0), (1.0, 0.3)):
        weight = 1 - likelihood * (1 - share)
        target = PopulationTarget(table, share).protect(teacher, positions([DIGIT1], likelihood))
        torch.testing.assert_close(target.exp(), weight * teacher.exp() + (1 - weight) * average.exp())


def test_unlikely_positions_without_an_average_keep_what_is_theirs():
    target = PopulationTarget(build(min_spans=50)).protect(uniform_but(1)[None], positions([DIGIT1], 0.5))
    assert torch.isfinite(target).all()


def test_save_and_load(tmp_path):
    table = build()
    table.save(tmp_path / "t.safetensors")
    again = PopulationTable.load(tmp_path / "t.safetensors")
    assert torch.equal(again.keys, table.keys)
    assert torch.equal(again.log_probs, table.log_probs)
