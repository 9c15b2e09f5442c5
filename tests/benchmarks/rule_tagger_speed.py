"""How many megabytes of text a second does the rule tagger read on one core, and what does it flag?

python tests/benchmarks/rule_tagger_speed.py --text <parquet with a text column> --out rule_tagger_speed.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from swingkd import PresidioTagger, RuleTagger
from swingkd.report.metrics import environment
from swingkd.tagging import Tagger


def measure(tagger: Tagger, texts: list[str]) -> dict[str, float]:
    tagger.char_likelihood(texts[:20])  # the first call compiles and loads
    start = time.perf_counter()
    likelihoods = tagger.char_likelihood(texts)
    seconds = time.perf_counter() - start
    characters = sum(map(len, texts))
    flagged = sum(int((values >= 0.5).sum()) for values in likelihoods)
    return {"megabytes_per_second": characters / 1e6 / seconds, "flagged_share": flagged / characters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = pq.read_table(options.text)["text"].to_pylist()
    # Presidio's pattern recognizers are what a user would otherwise pick; a part of the text is enough to time them.
    results = {
        "RuleTagger": measure(RuleTagger(), texts),
        "Presidio (patterns)": measure(PresidioTagger(), texts[:300]),
    }
    table = Table("tagger", "MB/s on one core", "flagged")
    for name, result in results.items():
        table.add_row(name, f"{result['megabytes_per_second']:.3f}", f"{result['flagged_share']:.2%}")
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
