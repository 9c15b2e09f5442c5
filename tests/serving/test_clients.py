"""Each answer is counted once, before it is made, whoever counts at the same time and whatever ends on the way."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from swingkd.privacy import LedgerEntry
from swingkd.privacy.ledger import TEACHER_DATA
from swingkd.serving import Clients
from swingkd.serving.clients import OverBudgetError


def test_tokens_are_written_once_for_their_owner_only(clients):
    files = clients.admit(["alice", "bob"], 10)
    tokens = [file.read_text() for file in files]
    assert [clients.known(token).name for token in tokens] == ["alice", "bob"]
    assert len(set(tokens)) == 2
    for path in (*files, clients.folder / "clients.sqlite"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = b"".join(path.read_bytes() for path in clients.folder.glob("clients.sqlite*"))
    assert all(token.encode() not in kept for token in tokens)
    assert clients.admit(["alice", "bob"], 10) == []
    assert clients.known("guess") is None
    assert clients.known("") is None


def test_who_is_not_named_any_more_is_not_let_in_and_stays_counted(clients):
    (alice, _) = clients.admit(["alice", "bob"], 10)
    token = alice.read_text()
    known = clients.known(token)
    clients.spend(known, 7)
    clients.admit(["bob"], 10)
    assert clients.known(token) is None
    with pytest.raises(OverBudgetError):
        clients.spend(known, 1)
    # Back, and with more.
    assert clients.admit(["alice", "bob"], 20) == []
    assert (clients.known(token).asked, clients.known(token).left) == (7, 13)


def test_a_budget_is_kept_among_many_and_over_a_restart(clients, tmp_path):
    (file,) = clients.admit(["alice"], 1000)
    client = clients.known(file.read_text())

    def spend(_):
        try:
            clients.spend(client, 7)
        except OverBudgetError:
            return 0
        return 7

    with ThreadPoolExecutor(16) as threads:
        counted = sum(threads.map(spend, range(200)))
    assert counted == 1000 // 7 * 7 == Clients(tmp_path / "served").known(file.read_text()).asked
    with pytest.raises(OverBudgetError, match="7 answers were asked for, and 6 of the budget are left"):
        clients.spend(client, 7)
    clients.spend(client, 6)
    with pytest.raises(OverBudgetError, match="and 0 of the budget"):
        clients.spend(client, 1)


def test_the_ledger_says_what_was_given_to_whom(clients):
    (file, _) = clients.admit(["alice", "bob"], 1000)
    clients.spend(clients.known(file.read_text()), 40)
    ledger = clients.ledger([])
    assert not ledger.covers(TEACHER_DATA)
    (line,) = (line for line in ledger.lines() if line.startswith(TEACHER_DATA))
    assert "40 answers to alice that two teachers agree on" in line
    assert "no differential privacy" in line
    assert "bob" not in line
    # What differential privacy covers costs nothing more, however much is asked.
    entry = LedgerEntry("DP-SGD", scope=TEACHER_DATA, releases=1, delta=1e-5, noise_multiplier=2.0)
    assert clients.ledger([entry]).epsilon(TEACHER_DATA) == entry.epsilon


@pytest.mark.parametrize("names", [[], ["a", "a"], ["../a"], ["a b"], [""], ["x" * 65], ["a\nb"], [".."]])
def test_names_that_are_none_are_refused(clients, names):
    with pytest.raises(ValueError, match=r"no name of a client|name each of them once"):
        clients.admit(names, 10)
    with pytest.raises(ValueError, match="budget=0"):
        clients.admit(["alice"], 0)
