"""What the tagger missed, and what it took for private, when it was read a second time."""

import pytest

from swingkd.tagging import RuleTagger
from swingkd.tagging.rule import edged

TAGGER = RuleTagger()
ECDSA = (
    "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZM"
    "y7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
)
# A text, and what is private in it.
PRIVATE = [
    ("030 1234567\n040 7654321\n089 123456", "030 1234567"),
    ("415 555 2671\n212 555 0188\n646 555 0199", "212 555 0188"),
    ("numbers:\n0171 2345678, 0160 9876543, 0151 2223334", "0160 9876543"),
    ("020 7946 0958\n0161 496 0000\n0113 496 0999", "0161 496 0000"),
    ("他的电话是13812345678吗", "13812345678"),
    ("身份证号码11010519491231002X有效", "11010519491231002X"),
    ("邮箱ann@mail.org谢谢", "ann@mail.org"),
    ("口座はDE89370400440532013000です", "DE89370400440532013000"),
    ("電話は03-1234-5678です", "03-1234-5678"),
    ("카드번호4111111111111111입니다", "4111111111111111"),
    ("密码：hunter2x9", "hunter2x9"),  # noqa: RUF001  # a Chinese colon
    ("パスワードはTr0ub4dor&3です", "Tr0ub4dor&3"),
    ("비밀번호: qwe!2rty", "qwe!2rty"),
    ("IP地址10.0.12.7已登录", "10.0.12.7"),
    ("ที่อยู่ann@mail.orgค่ะ", "ann@mail.org"),
    ("Authorization: Bearer abc123DEF456ghi789", "abc123DEF456ghi789"),
    ("Authorization: Basic YWxhZGRpbjpvcGVuc2VzYW1l", "YWxhZGRpbjpvcGVuc2VzYW1l"),
    ("token=9f8a7b6c5d4e", "9f8a7b6c5d4e"),
    ("session_id: a8f5f167f44f4964e6c998dee827110c", "a8f5f167f44f4964e6c998dee827110c"),
    ("Cookie: sid=s%3Aabc123XYZ789", "s%3Aabc123XYZ789"),
    ("PGPASSWORD=hunter22 psql", "hunter22"),
    ("userPassword: Sommer2024", "Sommer2024"),
    ("curl -u admin:S3cr3tPw https://x.org", "S3cr3tPw"),
    ("postgres://bob:pa/ss!w0rd@db.example.org:5432/x", "pa/ss!w0rd"),
    (
        "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq",
    ),
    (f"ecdsa-sha2-nistp256 {ECDSA} u@h", ECDSA),
    ('password = "correct horse {battery} staple"', "horse {battery} staple"),
    ("DB_PASSWORD='a b c 9'", "a b c 9"),
    ("IBAN: DE 89 3704 0044 0532 0130 00", "89 3704 0044 0532 0130 00"),
    ("DE89.3704.0044.0532.0130.00", "3704.0044.0532"),
    ("IBANDE89370400440532013000", "DE89370400440532013000"),
    ("Visa4111111111111111", "4111111111111111"),
    ("card 4111 1111 1111 1112 please", "4111 1111 1111 1112"),
    ("DNI: 12.345.678-Z", "12.345.678-Z"),
    ("HWaddr:00:1a:2b:3c:4d:5e", "00:1a:2b:3c:4d:5e"),
    ("vin 1hgcm82633a004352", "1hgcm82633a004352"),
    ("BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4"),
    ("call 415-555-2671 extension 23", "extension 23"),
    ('127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "GET /"', "10/Oct/2000:13:55:36 -0700"),
    ("born 5. 3. 2024 in", "5. 3. 2024"),
    ("2024. 3. 5. 에", "2024. 3. 5"),
    ("on 1980 March 5 he", "1980 March 5"),
    ("昭和55年3月5日生まれ", "昭和55年3月5日"),
    ("令和6年3月5日", "令和6年3月5日"),
    ("sinh ngày 5 tháng 3 năm 1980", "5 tháng 3 năm 1980"),
    ("ولد في 5 مارس 1980", "5 مارس 1980"),
    ("DOB:19800305", "19800305"),
    ("Kundennummer 48213", "48213"),
    ("numéro de dossier 48213", "48213"),
    ("número de cliente 48213", "48213"),
    ("id 123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
    ("req 123e4567-e89b-12d3-a456-426614174000 done", "123e4567-e89b-12d3-a456-426614174000"),
    ("on 12 May we did pay DE89 3704 0044 0532 0130 00 in full", "DE89 3704 0044 0532 0130 00"),
    ("at 10 am please send it to DE89 3704 0044 0532 0130 00 now", "DE89 3704 0044 0532 0130 00"),
    ("+33 (0)6.12.34.56.78", "6.12.34.56.78"),
    ("call 1.800.555.0199", "1.800.555.0199"),
    ("call 0474.12.34.56", "0474.12.34.56"),
    ("GSM 0474/12/34/56", "0474/12/34/56"),
    ("llámame 612.345.678", "612.345.678"),
    ("mi numero es 912.345.678", "912.345.678"),
    ("tel 1.234.567.890", "1.234.567.890"),
    ("Call U.S. 415-555-2671", "415-555-2671"),
    ("Cookie: sessionid=38afes7a8xk2", "38afes7a8xk2"),
    ("Set-Cookie: PHPSESSID=q1w2e3r4t5y6u7i8", "q1w2e3r4t5y6u7i8"),
    ("Cookie: connect.sid=s%3Aabc123XYZ789", "s%3Aabc123XYZ789"),
    ("Cookie: JSESSIONID=1A2B3C4D5E6F7081", "1A2B3C4D5E6F7081"),
    ("csrftoken=9f8a7b6c5d4e", "9f8a7b6c5d4e"),
    ("Kd.Nr. 48213", "48213"),
    ("Pat.Nr. 48213", "48213"),
    ("Rech.Nr.: 48213", "48213"),
    ("user.account=48213", "48213"),
    ("the account for Ann is 48213", "48213"),
    ("ticket 2019 is open", "2019"),
    ("* 123456789", "123456789"),
    ("> 123456789", "123456789"),
    ("uid=123456789", "123456789"),
    ("10:01\tann\twhat is your account number\n10:02\tbob\t48213", "48213"),
    ('password = "correct horse and battery 9"', "correct horse and battery 9"),
    ('{"dob": "19800305"}', "19800305"),
    ("birth_date=19800305", "19800305"),
    ("fecha de nacimiento: 19800305", "19800305"),
    ("Passwort lautet: hunter22", "hunter22"),
    ("Authorization: ApiKey abc123def456", "abc123def456"),
    ("OTP: 482913", "482913"),
    ("验证码：482913", "482913"),  # noqa: RUF001  # a Chinese colon
    ("код: 4711", "4711"),
    ("№ 48213", "48213"),
    ("Kundennr. 48213", "48213"),
    ('password: "it\'s9secret"', "it's9secret"),
    (
        "hash $2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
    ),
    ("my card is 4111 1111 1111 1111 now", "4111 1111 1111 1111"),
    ("3782 822463 10005", "3782 822463 10005"),
]
# Nothing in these is anybody's; dates apart.
NOBODYS = [
    "The town has 1.234.567 people and 12.345.678 trees.",
    "The town has 1 234 567 people.",
    "see pp. 1234-1245 and 2345-56",
    "pages 1021-1034",
    "version 10.0.19041.1288 of it",
    "update to version 1.2.3.4 now",
    "The office opened in 1985 and closed in 1999.",
    "npm i lodash@4.17.21",
    "react@18.2.0-rc.1",
    "ISBN 0-8044-2957-X is",
    "080442957X is an ISBN",
    "2024-03-05 12:33:21,123 INFO step 12345 loss 0.1234",
    "[2024-03-05T12:33:21.123456Z] epoch 3 step 120000 of 500000",
    "MOD = 1000000007",
    "eos_token_id=50256, pad_token_id = 50257",
    "listening on port 8080, localhost:5432",
    "self.id = 12345",
    "return obj.id == 4096",
    "id,name,age\n1001,Ann,34\n1002,Bob,35",
    "order_id,total\n10001,15.25\n10002,99.99\n10003,12.5",
    "Revenue rose from 1,234,567 to 2,345,678 in 2023/24.",
    "batch 1024 size 2048 key 4096",
    "the case of 1995",
    "In the record year 1998 sales were high",
    "account for 1200 of them",
    "number of rows: 120000",
    "error code 404",
    "HTTP 1.1 status code 2000",
    "the order of 10000",
    "room temperature 1012 hPa",
    "session = boto3.Session()",
    "token = base64.b64encode(raw)",
    "token = hashlib.sha256(raw)",
    "session = tf.compat.v1.Session()",
    "token = tokens_2d[0]",
    "csrf = get_csrf2(x)",
    "session: Room-B12",
    "a basic 2-bedroom apartment",
    "basic 4-cylinder engine",
    "Basic COVID-19 rules",
    "basic 1960s-style house",
    "36345 11534 15126 22 318 2207 991 14 36345 11534 15126",
    "package==7.58.11.0",
    "sk-toggleable__label-arrow-fallback",
    "of NATO 101112 and",
    "l'aîné 120112 dit",
]


@pytest.mark.parametrize(("text", "value"), PRIVATE)
def test_it_is_found_whole(text, value):
    tags = TAGGER.tag([text])[0]
    start = text.index(value)
    assert (tags.likelihood[start : start + len(value)] > 0).all()


@pytest.mark.parametrize("text", NOBODYS)
def test_it_is_left_alone(text):
    tags = TAGGER.tag([text])[0]
    dates = TAGGER.labels.index("DATE_TIME")
    assert not ((tags.likelihood > 0) & (tags.labels != dates)).any()


def test_edges_are_those_of_scripts_with_blanks():
    """Of a Chinese sentence, the letter before a number is no part of it; of a Russian word it is."""
    pattern = edged(r"(?<!\w)\d+(?![\w-])")
    assert pattern.search("号12345是")
    for beside in ("n12345", "ж12345", "é12345", "_12345"):
        assert not pattern.search(beside)
    assert edged(r"\w+").pattern == r"\w+"  # nothing but what stands around


def test_a_tables_heading_says_what_all_of_a_column_is():
    """Of the last row as of the first; a column of counts is none of telephones."""
    names = ["ann", "bob", "cleo", "dora", "emil"]
    numbers = [f"20255501{i:02d}" for i in range(5)]
    rows = [f"{name},{number},{i}" for i, (name, number) in enumerate(zip(names, numbers, strict=True))]
    for heading, private in (("name,phone,rank", True), ("name,count,rank", False)):
        text = "\n".join([heading, *rows])
        likelihood = TAGGER.tag([text])[0].likelihood
        assert [bool((likelihood[text.index(n) : text.index(n) + 10] > 0).all()) for n in numbers] == [private] * 5
        assert private or not likelihood.any()
