"""The Gaussian mechanism in closed form (Dong, Roth and Su 2022, arXiv 1905.02383).

Noise of standard deviation s on a sum of sensitivity D is mu-GDP with mu = D / s; n releases have sqrt(n) times that.
"""

from __future__ import annotations

import math

from scipy import optimize, stats


def gdp_delta(epsilon: float, mu: float) -> float:
    """Return the delta at which mu-GDP is (epsilon, delta)-DP (Corollary 2.13)."""
    if mu == 0:
        return 0.0
    near, far = -epsilon / mu + mu / 2, -epsilon / mu - mu / 2
    return float(stats.norm.cdf(near) - math.exp(epsilon + stats.norm.logcdf(far)))


def gdp_mu(epsilon: float, delta: float) -> float:
    """Return the mu whose Gaussian trade-off is (epsilon, delta)-DP."""
    return float(optimize.brentq(lambda mu: gdp_delta(epsilon, mu) - delta, min(1e-9, delta), 100.0))


def gdp_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon at which mu-GDP is (epsilon, delta)-DP."""
    if gdp_delta(0.0, mu) <= delta:
        return 0.0
    # mu^2 / 2 + mu * sqrt(2 log(1 / delta)) is enough (its Renyi bound).
    enough = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return float(optimize.brentq(lambda epsilon: gdp_delta(epsilon, mu) - delta, 0.0, enough))
