"""What may leave the house: one list of files for every push, of language models, classifiers and images.

Only files that are named here are sent, from the top of the output folder: weights, configuration, tokenizer, ledger,
settings without seeds, card, page and figures.  Never what a link points to, `_private/`, canaries, noise keys,
checkpoints or pickles.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from swingkd.models.loading import public_name
from swingkd.privacy.ledger import LEDGER_FILE
from swingkd.report.model_files import CARD_FILE
from swingkd.report.page import PAGE_FILE

SETTINGS_FILE = "training_args.json"
_SENT = re.compile(
    r"(model|adapter_model)(-\d+-of-\d+)?\.safetensors|(model|adapter_model)\.safetensors\.index\.json|"
    r"(config|generation_config|adapter_config|preprocessor_config|processor_config)\.json|"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json|"
    r"(vocab|merges)\.txt|(tokenizer|spiece|sentencepiece(\.\w+)?)\.model|chat_template\.jinja|roc_[\w-]+\.png|"
    + "|".join(map(re.escape, (CARD_FILE, PAGE_FILE, SETTINGS_FILE, LEDGER_FILE)))
)


def public_files(folder: str | Path) -> list[Path]:
    """List the files of a folder that may be sent; never what a link points to."""
    files = [path for path in Path(folder).iterdir() if path.is_file() and not path.is_symlink()]
    return sorted(path for path in files if _SENT.fullmatch(path.name))


def public_content(path: Path) -> bytes | str:
    """Return what is sent of a file: its path; of a configuration, what it says without folders of this machine."""
    if path.suffix != ".json" or "config" not in path.name:
        return str(path)

    def cleaned(part: dict[str, Any]) -> dict[str, Any]:
        # Models of several parts have a configuration for each.
        return {key: public_name(v) if key.endswith("name_or_path") else v for key, v in part.items()}

    content = json.loads(path.read_text(encoding="utf-8"), object_hook=cleaned)
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
