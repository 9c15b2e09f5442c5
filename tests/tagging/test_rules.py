from collections import Counter

import pyarrow.parquet as pq
import pytest

from swingkd import RuleTagger
from swingkd.tagging import label_spans


def found(text: str, threshold: float = 0.5) -> list[tuple[str, str]]:
    tagger = RuleTagger()
    tags = tagger.tag([text])[0]
    return [
        (tagger.labels[label], text[a:b])
        for a, b, label in label_spans(tags.labels)
        if tags.likelihood[a] >= threshold
    ]


@pytest.mark.parametrize(
    ("text", "label", "private"),
    [
        ("write to Ann.Lee+x@mail.example.org!", "EMAIL_ADDRESS", "Ann.Lee+x@mail.example.org"),
        ("see https://ann-lee.example.com/a?b=c.", "DOMAIN_NAME", "https://ann-lee.example.com/a?b=c"),
        ("her page www.annlee.co.uk is down", "DOMAIN_NAME", "www.annlee.co.uk"),
        ("from 192.168.17.4 again", "IP_ADDRESS", "192.168.17.4"),
        ("from 2001:db8::ff00:42:8329 again", "IP_ADDRESS", "2001:db8::ff00:42:8329"),
        ("ssn 123-45-6789", "US_SSN", "123-45-6789"),
        ("paid with 4539 1488 0343 6467 today", "CREDIT_CARD", "4539 1488 0343 6467"),
        ("IBAN GB82 WEST 1234 5698 7654 32.", "IBAN_CODE", "GB82 WEST 1234 5698 7654 32"),
        ("ring (212) 555-0134 now", "PHONE_NUMBER", "(212) 555-0134"),
        ("ring +41 44 668 18 00 now", "PHONE_NUMBER", "+41 44 668 18 00"),
        ("born on 3 March 1971 in Rome", "DATE_TIME", "3 March 1971"),
        ("on 1971-03-17", "DATE_TIME", "1971-03-17"),
        ("my pin is 4711", "ID_NUMBER", "4711"),
        ("my tracking number is AGZIM5T6KL", "ID_CODE", "AGZIM5T6KL"),
        ("my tracking number is agzim5t6kl", "ID_CODE", "agzim5t6kl"),
        ("password: hunter2", "PASSWORD", "hunter2"),
        ("account no.12345678", "ID_NUMBER", "12345678"),
        ("id_4711", "ID_NUMBER", "4711"),
    ],
)
def test_each_kind_is_found_whole(text, label, private):
    assert (label, private) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "paid 4539 1488 0343 6468 dollars in wood",  # one digit off: the checksum fails, and it is no phone number
        "version 300.168.17.4",
        "in 1984 there were 3000 people",
        "the end.The next sentence",
        "U.S. exports rose 3.5 % e.g. in wheat",
        "",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert [kind for kind in found(text) if kind[0] not in ("ID_NUMBER", "PHONE_NUMBER")] == []


def test_context_decides_about_digits():
    assert found("there were 4711 people") == []
    assert found("account 4711") == [("ID_NUMBER", "4711")]


def test_likelihoods_are_per_character():
    text = "pin 4711!"
    assert RuleTagger().char_likelihood([text])[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]


def _recall(rows, kinds):
    hits, total = Counter(), Counter()
    for row, tags in zip(rows, RuleTagger().tag([row["text"] for row in rows]), strict=True):
        for span in row["spans"]:
            hits[span["label"]] += int((tags.likelihood[span["start"] : span["end"]] >= 0.5).sum())
            total[span["label"]] += span["end"] - span["start"]
    return {kind: hits[kind] / total[kind] for kind in kinds}


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("pii_presidio/synth_v2", "EMAIL_ADDRESS CREDIT_CARD PHONE_NUMBER IBAN_CODE US_SSN IP_ADDRESS DOMAIN_NAME"),
        ("dialog_simdial/train", "PHONE_NUMBER ORDER_NUMBER TRACKING_NUMBER ID_CANARY"),
    ],
)
def test_recall_on_real_data(data_dir, file, kinds):
    recalls = _recall(pq.read_table(data_dir / f"{file}.parquet").to_pylist(), kinds.split())
    print(recalls)
    assert all(recall >= 0.95 for recall in recalls.values()), recalls


def test_little_of_an_encyclopedia_is_flagged(data_dir):
    texts = pq.read_table(data_dir / "lm_wikitext2" / "test.parquet")["text"].to_pylist()
    flagged = sum(int((tags.likelihood >= 0.5).sum()) for tags in RuleTagger().tag(texts))
    share = flagged / sum(map(len, texts))
    print(f"{share:.2%} of the characters flagged")
    assert share <= 0.03
