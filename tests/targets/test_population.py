import torch
from hypothesis import given
from hypothesis import strategies as st

from swingkd.targets import PopulationBuilder, PopulationTable, PopulationTarget
from swingkd.targets.population import GROUP_STRIDE
from tests.harness import private_positions

PIN1, PIN2, RARE = GROUP_STRIDE + 1, GROUP_STRIDE + 2, 2 * GROUP_STRIDE + 1


def sure_of(*tokens, p=0.9, size=6):
    rows = torch.full((len(tokens), size), (1 - p) / (size - 1), dtype=torch.float64)
    rows[torch.arange(len(tokens)), list(tokens)] = p
    return rows.log()


def positions(groups, likelihood=1.0, spans=None, context=None, shapes=None):
    n = len(groups)
    return private_positions(
        n,
        likelihood=torch.full((n,), likelihood, dtype=torch.float64),
        context=torch.tensor(context if context is not None else [[7, 8]] * n),
        group=torch.tensor(groups),
        shape=torch.tensor(shapes if shapes is not None else [0] * n),
        span=torch.tensor(spans if spans is not None else [0] * n),
    )


def build(batches, min_spans, **options):
    """Two passes over batches of (log_probs, positions)."""
    builder = PopulationBuilder(6, min_spans, **options)
    for _, where in batches:
        builder.count(where)
    for log_probs, where in batches:
        builder.add(log_probs, where)
    return builder.finish()


def pins(copies=1):
    """Five secrets of two tokens; the first stands there `copies` times; one span of a rare kind."""
    batches = []
    for span in range(5):
        batch = (sure_of(span, (span + 1) % 6), positions([PIN1, PIN2], spans=[span, span]))
        batches += [batch] * (copies if span == 0 else 1)
    return [*batches, (sure_of(5), positions([RARE], spans=[99]))]


def average(table, groups, **where):
    return table.lookup(positions(groups, **where)).exp().double()


def test_a_kind_is_the_mean_of_its_distinct_spans():
    expected = sure_of(0, 1, 2, 3, 4).exp().mean(0)
    torch.testing.assert_close(average(build(pins(), 3), [PIN1])[0], expected, atol=1e-6, rtol=0)


def test_copies_of_a_secret_change_nothing():
    one, many = build(pins(), 3), build(pins(copies=100), 3)
    assert torch.equal(one.keys, many.keys)
    assert torch.equal(one.log_probs, many.log_probs)


def test_a_rare_kind_gives_way_to_anything_private():
    table = build(pins(), 3)
    everything = average(table, [0], context=[[1, 1]])
    torch.testing.assert_close(average(table, [RARE]), everything)
    torch.testing.assert_close(
        everything[0], torch.cat([batch.exp() for batch, _ in pins()]).mean(0), atol=1e-6, rtol=0
    )


def test_the_finest_frequent_kind_wins():
    """Six spans follow token 1 and say 0, six follow token 2 and say 3: each context has an average of its own."""
    batches = [
        (sure_of(0 if i < 6 else 3), positions([PIN1], spans=[i], context=[[9, 1 if i < 6 else 2]])) for i in range(12)
    ]
    table = build(batches, 6)
    assert average(table, [PIN1], context=[[9, 1]])[0].argmax() == 0
    assert average(table, [PIN1], context=[[9, 2]])[0].argmax() == 3
    mixed = average(table, [PIN1], context=[[9, 5]])[0]
    torch.testing.assert_close(mixed[0], mixed[3])
    # With a higher bar, the contexts are too rare and the mixture answers everywhere.
    torch.testing.assert_close(average(build(batches, 7), [PIN1], context=[[9, 1]])[0], mixed)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 9)), max_size=60), st.integers(2, 5))
def test_no_average_ever_holds_fewer_spans_than_asked(rows, min_spans):
    """Each span says a token of its own at first place; whatever is looked up, its share is at most 1 / min_spans."""
    spans = {}
    batches = []
    for place, previous, span in rows:
        spans.setdefault((place, span), previous)
        where = positions([GROUP_STRIDE + place + 1], spans=[span], context=[[0, previous]])
        log_probs = torch.full((1, 10), -torch.inf)
        log_probs[0, span] = 0.0
        batches.append((log_probs, where))
    builder = PopulationBuilder(10, min_spans)
    for _, where in batches:
        builder.count(where)
    for log_probs, where in batches:
        builder.add(log_probs, where)
    table = builder.finish()
    for place, previous, _ in rows:
        found = table.lookup(positions([GROUP_STRIDE + place + 1], context=[[0, previous]])).exp()
        if found.sum() > 0:
            assert (found > 0).sum() >= min_spans


def test_too_few_secrets_altogether_leave_no_target():
    table = build(pins(), 50)
    assert len(table.keys) == 0
    assert (PopulationTarget(table).protect(sure_of(1), positions([PIN1])) == -torch.inf).all()


def test_a_small_budget_keeps_the_most_frequent_kinds():
    assert len(build(pins(), 1, max_bytes=2 * 6 * 4).keys) == 2


def test_the_individual_teacher_fades_with_likelihood():
    table, teacher = build(pins(), 3), sure_of(3)
    mean = average(table, [PIN1])
    for likelihood, share in ((1.0, 0.0), (0.25, 0.0), (1.0, 0.3)):
        weight = 1 - likelihood * (1 - share)
        target = PopulationTarget(table, share).protect(teacher, positions([PIN1], likelihood))
        torch.testing.assert_close(target.exp(), weight * teacher.exp() + (1 - weight) * mean)


def test_unlikely_positions_without_an_average_keep_what_is_theirs():
    target = PopulationTarget(build(pins(), 50))
    assert torch.equal(target.protect(sure_of(1), positions([PIN1], 0.4)), sure_of(1))
    # A likely secret is never left to the teacher, however little is missing to certainty.
    assert (target.protect(sure_of(1), positions([PIN1], 0.99)) == -torch.inf).all()


def test_save_and_load(tmp_path):
    table = build(pins(), 3)
    table.save(tmp_path / "t.safetensors")
    again = PopulationTable.load(tmp_path / "t.safetensors")
    assert torch.equal(again.keys, table.keys)
    assert torch.equal(again.log_probs, table.log_probs)
