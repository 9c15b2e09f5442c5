"""A cut tokenizer reads the text it was cut to as before, and everything else still."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from swingkd.models.vocabulary import CutVocabulary
from tests.harness import TEXTS, train_tokenizer

WORDS = st.lists(st.sampled_from(sorted({word for text in TEXTS for word in text.split()})), max_size=12).map(" ".join)


def word_pieces():
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=special))
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {"bpe": train_tokenizer(TEXTS), "word pieces": word_pieces(), "unigram": unigram()}
CUT = {kind: CutVocabulary.of(tokenizer, TEXTS[:6]) for kind, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_text_is_read_as_before(kind, tmp_path):
    old, cut = TOKENIZERS[kind], CUT[kind]
    assert len(cut.tokenizer) == len(cut.kept) < len(old)
    cut.tokenizer.save_pretrained(tmp_path)
    for new in (cut.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        for text in TEXTS[:6]:
            # Special tokens included.
            assert cut.kept[new(text)["input_ids"]].tolist() == old(text)["input_ids"]
            assert (
                new(text, return_offsets_mapping=True)["offset_mapping"]
                == old(text, return_offsets_mapping=True)["offset_mapping"]
            )
        for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
            assert getattr(new, f"{name}_token") == getattr(old, f"{name}_token")
            if getattr(old, f"{name}_token") is not None:
                assert cut.kept[getattr(new, f"{name}_token_id")] == getattr(old, f"{name}_token_id")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(WORDS)
@settings(max_examples=60)
def test_other_text_is_read_in_smaller_pieces(kind, text):
    old, new = TOKENIZERS[kind], CUT[kind].tokenizer
    assert new.decode(new(text)["input_ids"], skip_special_tokens=True) == old.decode(
        old(text)["input_ids"], skip_special_tokens=True
    )


def test_rare_tokens_go_and_their_text_stays_readable():
    tokenizer = TOKENIZERS["bpe"]
    often = CutVocabulary.of(tokenizer, TEXTS, at_least=len(TEXTS))
    assert len(often.kept) < len(CutVocabulary.of(tokenizer, TEXTS).kept)
    for text in TEXTS:
        assert often.tokenizer.decode(often.tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="no fast tokenizer"):
        CutVocabulary.of(object(), TEXTS)
