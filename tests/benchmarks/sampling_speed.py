"""How many texts a second a model writes: one at a time, and in batches as `sample_transfer` asks for them.

python tests/benchmarks/sampling_speed.py --out sampling_speed.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from swingkd.audit.generation import sample_texts
from swingkd.report.metrics import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    words = {"[END]": 0} | {f"w{i}": i for i in range(1, options.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), eos_token="[END]", pad_token="[END]"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 768}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=options.vocabulary, tie_word_embeddings=True, **sizes)).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def texts_a_second(count: int, batch_size: int | None) -> float:
        start = time.perf_counter()
        sample_texts(
            model,
            tokenizer,
            [""] * count,
            max_new_tokens=options.tokens,
            top_k=0,
            batch_size=batch_size,
            progress=False,
        )
        return count / (time.perf_counter() - start)

    texts_a_second(2, None)  # warms up
    speeds = {
        "one at a time": texts_a_second(max(options.texts // 16, 1), 1),
        "batches": texts_a_second(options.texts, None),
    }
    table = Table("sampling", "texts a second")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.1f}")
    Console().print(table)
    results = {
        "texts": options.texts,
        "tokens": options.tokens,
        "parameters": model.num_parameters(),
        "threads": torch.get_num_threads(),
        "texts_a_second": speeds,
        "ratio": speeds["batches"] / speeds["one at a time"],
    }
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
