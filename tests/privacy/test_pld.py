"""The fast accountant agrees with the one that trainings count with, and a plan needs neither torch nor opacus."""

import subprocess
import sys

import pytest

from swingkd.privacy import PrivacyPlan
from swingkd.privacy.accounting import Releases, gaussian_epsilon


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [
        (1.0, 0.0512, 98, 1e-5),
        (0.6, 0.01, 1000, 1e-6),
        (2.0, 0.2, 200, 1e-5),
        (0.45, 0.004, 300, 1e-5),
        (8.0, 0.05, 2000, 1e-6),
        (1.3, 0.5, 40, 1e-4),
        (30.0, 0.01, 500, 1e-6),
    ],
)
def test_it_says_what_prv_says(noise, rate, steps, delta):
    """Never less: a plan made with it holds in a training's ledger; and at most two hundredths more."""
    history = [Releases(noise, rate, steps)]
    fast, tight = (gaussian_epsilon(history, delta, accountant) for accountant in ("pld", "prv"))
    assert tight - 5e-4 <= fast <= tight + 0.02 + 0.005 * tight
    assert fast <= gaussian_epsilon(history, delta, "rdp") + 0.03


def test_releases_of_several_kinds_add_up():
    history = [Releases(1.0, 0.05, 50), Releases(2.0, 0.1, 30)]
    assert gaussian_epsilon(history, 1e-5, "pld") == pytest.approx(gaussian_epsilon(history, 1e-5, "prv"), abs=0.02)


@pytest.mark.parametrize("epsilon", [2.0, *(pytest.param(e, marks=pytest.mark.slow) for e in (0.5, 8.0, 30.0))])
def test_a_plan_that_it_solved_holds_with_prv(epsilon):
    plan = PrivacyPlan.solve(epsilon=epsilon, sampling_rate=0.02, steps=500, delta=1e-5, accountant="pld")
    assert 0.97 * epsilon < plan.epsilon <= epsilon
    assert gaussian_epsilon([Releases(plan.noise_multiplier, 0.02, 500)], 1e-5, "prv") <= epsilon


def test_a_budget_needs_no_torch():
    script = (
        "import sys; from typer.testing import CliRunner; from swingkd.cli import app;"
        "out = CliRunner().invoke(app, ['budget', '10000', '--epsilon', '8']);"
        "assert out.exit_code == 0 and 'PLD accountant' in out.output, out.output;"
        "heavy = ('torch', 'opacus', 'transformers', 'matplotlib', 'datasets');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
