import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from safetensors.torch import save_file

from swingkd.privacy import (
    NO_TEACHER,
    PUBLIC_DATA,
    TEACHER_DATA,
    TRANSFER_SET,
    BudgetExceededError,
    LedgerEntry,
    PrivacyLedger,
    PrivacyPlan,
    module_digest,
)
from swingkd.privacy.accounting import said_delta, said_epsilon
from swingkd.privacy.ledger_entry import compose

PLAN = PrivacyPlan(0.02, 300, 0.9, delta=1e-6)


def entry(**fields):
    return LedgerEntry("test", **({"releases": 1, "delta": 1e-5} | fields))


def test_steps_add_up_in_one_entry():
    ledger = PrivacyLedger()
    for _ in range(300):
        ledger.record(LedgerEntry.of_plan(PLAN, releases=1))
    assert len(ledger.entries) == 1
    assert ledger.epsilon() == pytest.approx(PLAN.epsilon)


@pytest.mark.parametrize(("accountant", "theirs"), [("prv", PRVAccountant), ("rdp", RDPAccountant)])
def test_runs_with_different_noise_are_composed_as_opacus_does(accountant, theirs):
    opacus = theirs()
    opacus.history = [(0.9, 0.02, 300), (1.5, 0.1, 50)]
    runs = [
        entry(noise_multiplier=0.9, sampling_rate=0.02, releases=300, accountant=accountant),
        entry(noise_multiplier=1.5, sampling_rate=0.1, releases=50, accountant=accountant),
    ]
    assert compose(runs)[0] == pytest.approx(opacus.get_epsilon(1e-5), rel=1e-9)


def test_full_releases_have_the_closed_form():
    """1,600 scalar releases of noise 10 have mu = 4, epsilon 24.4 at delta 1e-5; 1,064: 18.6; 960: 17.4."""
    for releases, epsilon in ((1600, 24.4), (1064, 18.6), (960, 17.4)):
        assert entry(noise_multiplier=10.0, releases=releases).epsilon == pytest.approx(epsilon, abs=0.06)
    two = [entry(noise_multiplier=10.0, releases=600), entry(noise_multiplier=5.0, releases=250)]
    assert compose(two)[0] == pytest.approx(entry(noise_multiplier=10.0, releases=1600).epsilon)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.01, 3), st.integers(1, 9)), min_size=1, max_size=5), st.booleans())
def test_pure_epsilons_add_up_beside_the_gaussian_ones(pure, mixed):
    entries = [entry(pure_epsilon=e, releases=n, delta=0.0) for e, n in pure]
    gaussian = [entry(noise_multiplier=3.0)] if mixed else []
    epsilon, delta = compose(entries + gaussian)
    assert epsilon == pytest.approx(math.fsum(e * n for e, n in pure) + (gaussian[0].epsilon if mixed else 0))
    assert delta == (1e-5 if mixed else 0)


@pytest.mark.parametrize(
    ("field", "value"), [("unit", "user_id"), ("neighbours", "replace one"), ("scope", TEACHER_DATA)]
)
def test_different_promises_do_not_add_up(field, value):
    with pytest.raises(ValueError, match=rf"different {field}s"):
        compose([entry(noise_multiplier=1.0), entry(noise_multiplier=1.0, **{field: value})])


def test_both_data_sets_are_always_spoken_of():
    first, second = str(PrivacyLedger()).splitlines()
    assert first.startswith("transfer set: not covered")
    assert second.startswith("teacher's training data: not covered")
    ledger = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=300)], unknown={TEACHER_DATA: NO_TEACHER})
    first, second = ledger.lines()
    assert f"epsilon {math.ceil(PLAN.epsilon * 100) / 100:.2f} at delta 1e-06 for each record" in first
    assert second == "teacher's training data: there was no teacher"


def test_a_student_says_of_its_teachers_data_what_the_teacher_promised():
    teacher = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=300)], unknown={TEACHER_DATA: NO_TEACHER})
    student = PrivacyLedger(teacher.as_teacher())
    assert student.epsilon(TEACHER_DATA) == pytest.approx(PLAN.epsilon)
    assert student.epsilon(TRANSFER_SET) is None
    # A teacher that itself learnt from an uncovered teacher promises nothing of all it has seen.
    assert PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=300)]).as_teacher() == []
    # Nor does that student, whose transfer set is not covered.
    assert student.as_teacher() == []
    assert teacher.why_uncovered() is None
    assert student.why_uncovered() == "its ledger does not cover all that it was trained on"
    public = PrivacyLedger(unknown={TRANSFER_SET: PUBLIC_DATA, TEACHER_DATA: NO_TEACHER})
    assert public.why_uncovered() == PUBLIC_DATA


def test_a_model_that_is_trained_on_brings_its_ledger_along():
    private = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=300)], unknown={TEACHER_DATA: NO_TEACHER})
    entries, unknown = private.as_earlier()
    again = PrivacyLedger([*entries, LedgerEntry.of_plan(PLAN, releases=300)], unknown=unknown)
    assert len(again.lines()) == 3
    assert again.lines()[2].startswith("earlier transfer set: epsilon")
    # A model that was once trained without differential privacy is no private teacher later on.
    entries, unknown = PrivacyLedger().as_earlier()
    careless = PrivacyLedger(
        [*entries, LedgerEntry.of_plan(PLAN, releases=300)], unknown=unknown | {TEACHER_DATA: NO_TEACHER}
    )
    assert "earlier transfer set: not covered; it was trained on without differential privacy" in careless.lines()
    assert careless.epsilon() == pytest.approx(PLAN.epsilon)
    assert careless.as_teacher() == []
    assert len(private.as_teacher()) == 1


def test_that_data_is_public_is_the_earlier_models_own_word(tmp_path):
    public = PrivacyLedger(unknown={TRANSFER_SET: PUBLIC_DATA, TEACHER_DATA: NO_TEACHER})
    assert public.as_earlier() == ([], {})  # we know it ourselves
    public.save(tmp_path)
    _, unknown = PrivacyLedger.load(tmp_path).as_earlier()
    assert unknown == {"earlier transfer set": "it is public, by the earlier model's own word"}


def test_what_does_not_hold_is_shown_and_never_added_up():
    nominal = entry(
        noise_multiplier=10.0,
        holds=False,
        claim="epsilon 24.4 for the batch losses",
        caveat="noise on a scalar loss has no gradient",
    )
    ledger = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=3), nominal])
    assert ledger.epsilon() is None
    assert "epsilon 24.4 for the batch losses does not hold; noise on a scalar loss" in str(ledger)
    with pytest.raises(ValueError, match="promises nothing"):
        compose([nominal])


def test_a_budget_is_never_exceeded():
    plan = PrivacyPlan.solve(epsilon=2.0, sampling_rate=0.02, steps=100)
    ledger = PrivacyLedger(budget=2.0)
    ledger.afford(LedgerEntry.of_plan(plan, releases=100))
    ledger.record(LedgerEntry.of_plan(plan, releases=100))
    with pytest.raises(BudgetExceededError, match=r"budget is epsilon 2 and .* more releases"):
        ledger.afford(LedgerEntry.of_plan(plan, releases=10))


def test_it_is_written_and_read(tmp_path):
    ledger = PrivacyLedger(
        [LedgerEntry.of_plan(PLAN, releases=7), entry(pure_epsilon=1.0, delta=0.0, scope="labels")], budget=3.0
    )
    ledger.save(tmp_path)
    again = PrivacyLedger.load(tmp_path)
    assert again.to_dict() == ledger.to_dict()
    # An epsilon is computed anew, never read.
    content = json.loads((tmp_path / "privacy_ledger.json").read_text())
    content["entries"][0]["epsilon"] = 0.001
    assert PrivacyLedger.from_dict(content).epsilon() == ledger.epsilon()


def test_it_is_read_from_a_card(tmp_path):
    ledger = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=7)])
    (tmp_path / "README.md").write_text(
        f"---\nlicense: mit\nprivacy_ledger: {json.dumps(ledger.to_dict())}\n---\n# a student\n"
    )
    assert PrivacyLedger.load(tmp_path).to_dict() == ledger.to_dict()
    (tmp_path / "README.md").write_text("# nothing\n")
    assert PrivacyLedger.load(tmp_path) is None
    (tmp_path / "privacy_ledger.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        PrivacyLedger.load(tmp_path)


def test_a_ledger_speaks_of_the_weights_that_it_was_sealed_for(tmp_path):
    ledger = PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=7)])
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    ledger.save(tmp_path)
    assert PrivacyLedger.of_weights(tmp_path) is None
    ledger.seal(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"x")
    assert PrivacyLedger.of_weights(tmp_path).epsilon() == ledger.epsilon()
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert PrivacyLedger.of_weights(tmp_path) is None
    ledger.seal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert PrivacyLedger.of_weights(tmp_path) is None


def test_units_stand_side_by_side():
    ledger = PrivacyLedger(
        [LedgerEntry.of_plan(PLAN, releases=7), entry(noise_multiplier=2.0, unit="user")],
        unknown={TEACHER_DATA: NO_TEACHER},
    )
    line = ledger.lines()[0]
    assert "for each record" in line
    assert "for each user" in line
    assert len(ledger.guarantees(TRANSFER_SET)) == 2


def test_what_the_teacher_knows_is_a_condition():
    assert str(PrivacyLedger([LedgerEntry.of_plan(PLAN, releases=7)])).splitlines()[0].endswith("given the teacher")


@pytest.mark.parametrize(("number", "said"), [(7.981, "7.99"), (8.0, "8.00"), (0.0, "0.00"), (1.0 + 1e-12, "1.00")])
def test_epsilons_are_said_rounded_up(number, said):
    assert said_epsilon(number) == said


@pytest.mark.parametrize(("number", "said"), [(1e-5, "1e-05"), (1.41e-5, "1.5e-05"), (0.0, "0"), (1.5e-5, "1.5e-05")])
def test_deltas_are_said_rounded_up(number, said):
    assert said_delta(number) == said


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"noise_multiplier": 1.0, "pure_epsilon": 1.0},
        {"noise_multiplier": 0.0},
        {"pure_epsilon": -1.0},
        {"noise_multiplier": 1.0, "releases": -1},
        {"noise_multiplier": 1.0, "sampling_rate": 0.0},
    ],
)
def test_senseless_entries_are_refused(fields):
    with pytest.raises(ValueError, match=r"test: |must be positive"):
        entry(**fields)


def test_a_module_with_a_state_of_its_own_has_a_digest():
    class Counting(torch.nn.Linear):
        calls = 0

        def get_extra_state(self):
            return {"calls": self.calls}

        def set_extra_state(self, state):
            self.calls = state["calls"]

    model = Counting(2, 2)
    before = module_digest(model)
    assert module_digest(model) == before
    model.calls = 1
    assert module_digest(model) != before
