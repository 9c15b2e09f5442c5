"""Credentials: keys and tokens by their public prefixes, passwords by the word before them, keys in PEM, wallets.

The prefixes are those that the services publish so that their tokens can be found where they leaked.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from itertools import pairwise

from stdnum import bitcoin

from swingkd.tagging.rule import LONG_WORD, Rule, always, beside, edged

_PREFIXED = edged(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}"  # Amazon
    r"|gh[oprsu]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{40,255}"
    r"|gl(?:pat|ptt|dt|rt|cbt|ft|soat)-[\w-]{20,}"  # GitLab
    r"|xox[abeoprs]-[\w-]{10,}|xapp-\d-[\w-]{10,}"  # Slack
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}"  # Stripe
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{28}"  # Google
    r"|\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}|\$(?:5|6|y|argon2(?:id?|d))\$[^\s:]{20,200}"  # passwords, hashed
    # OpenAI, Anthropic and those that copied them; not a style sheet's names.
    r"|sk-(?:ant-|proj-|svcacct-)?(?=[\w-]{0,40}\d)(?!\w{0,40}__)[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{37}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[\w-]{16,}|rubygems_[0-9a-f]{48}|dckr_pat_[\w-]{20,}"
    r"|SG\.[\w-]{16,32}\.[\w-]{16,64}|key-[0-9a-f]{32}"  # SendGrid, Mailgun
    r"|(?:AC|SK)[0-9a-f]{32}"  # Twilio
    r"|do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dapi[0-9a-f]{32}|lin_api_[A-Za-z0-9]{40}"
    r"|EAA[A-Za-z0-9]{30,}|sq0(?:atp|csp|idp)-[\w-]{22,}|ATATT3[\w=-]{20,}|figd_[\w-]{40,}|hvs\.[\w-]{24,}"
    r"|\d{8,10}:AA[\w-]{33}"  # Telegram
    r"|https://hooks\.slack\.com/services/[\w/]{20,}|https://discord(?:app)?\.com/api/webhooks/\d+/[\w-]{20,}"
    r")(?![\w-])"
)
_JWT = edged(r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{4,}\.[\w-]{8,}(?![\w-])")
_PEM = edged(
    r"-----BEGIN (?P<what>[A-Z0-9 ]{0,30}(?:KEY|CERTIFICATE|MESSAGE)(?: BLOCK)?)-----[\s\S]{16,20000}?"
    r"-----END (?P=what)-----"
    r"|-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----[\sA-Za-z0-9+/=:,-]{16,20000}"
    r"|(?<!\S)(?:sk-)?(?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-nistp\d{3})(?:@openssh\.com)? AAAA[A-Za-z0-9+/=]{40,}"
)

_PASSWORD_WORDS = (
    r"[a-z]{2,12}(?:password|passwd|pwd)|pass(?:word|wd|phrase|code|wort)?|pwd|pw|kennwort|contrase(?:ñ|n)a|clave|mot\sde\spasse|mdp|senha|palavra-passe|parola"
    r"(?:\sd'ordine)?|wachtwoord|has(?:ł|l)o|l(?:ö|o)senord|adgangskode|salasana|heslo|jelsz(?:ó|o)|şifre|пароль"
    r"|密码|密碼|口令|パスワード|暗証番号|비밀번호|암호"
)
_KEY_WORDS = (
    r"(?:api|access|secret|private|auth|client|signing|encryption|refresh|bearer|account|shared[\s_-]?access|storage|master"
    r"|primary|secondary|host)[\s_-]?(?:key|token|secret|signature)"
)
_SESSION_WORDS = r"(?:token|(?:[a-z]{1,10})?sess(?:ion)?[\s_-]?id|session|sid|[cx]srf(?:[\s_-]?token)?|cookie)"
# Between quotes, all of it; else up to a blank.
_VALUE = (
    r"(?P<value>(?<=\")[^\"\n]{4,128}(?=\")|(?<=')[^'\n]{4,128}(?=')|(?<=`)[^`\n]{4,128}(?=`)"
    r"|[^\s\"'`<>{}()\[\]]{4,128}(?<![.,;:!?]))"
)
_PROMPT = edged(
    r"(?<![A-Za-z])(?:please|enter|your|must|should|cannot|forgot(?:ten)?|invalid|incorrect|required|confirm|type|choose|reset"
    r")(?![A-Za-z])",
    re.IGNORECASE,
)
_NO_VALUE = frozenset(
    "string str none null nil true false optional required bytes bool boolean text undefined empty hidden unknown "
    "password passwd secret token varchar char object number integer default changed reset expired incorrect wrong "
    "invalid forgotten missing protected encrypted hashed prompt input getpass self this value".split()
)


def _judge_password(match: re.Match[str]) -> float:
    value, sign = match["value"], match["sign"].strip().lower()
    if value.lower() in _NO_VALUE or set(value) <= set("*•xX.-_#"):
        return 0.0
    if " " in value and _PROMPT.search(value):
        return 0.0  # What a form says of it.
    mixed = bool(re.search(r"[\d\W_]", value)) or (value.lower() != value and value.capitalize() != value)
    # A program's own names: a call, an attribute, a variable that is written with the same word.
    after = match.string[match.end("value") : match.end("value") + 1]
    if after in ("(", "[") or re.fullmatch(r"[A-Za-z_]\w*(?:[.:]{1,2}[A-Za-z_]\w*)+", value):
        return 0.0
    if sign in ("=", ":=", "=>"):
        quoted = match.string[match.start("value") - 1] in "\"'`"
        return 1.0 if quoted or (mixed and bool(re.search(r"\d", value))) else 0.0
    if sign == ":":
        return 1.0 if mixed or len(value) >= 6 else 0.6
    return 1.0 if mixed and bool(re.search(r"[\d\W]", value)) else 0.0


def _judge_session(match: re.Match[str]) -> float:
    value = match["value"]
    after = match.string[match.end("value") : match.end("value") + 1]
    # A program's names have a number or two in them; of random ones, letters and digits change places.
    changes = len(re.findall(r"(?<=\d)[A-Za-z]|(?<=[A-Za-z])\d", re.sub(r"[^A-Za-z\d]", "", value)))
    return 1.0 if changes >= 3 and after not in ("(", "[") else 0.0


def _judge_header(match: re.Match[str]) -> float:
    value, kind = match["value"], match["kind"].lower()
    if match["header"]:
        return 1.0 if len(value) >= 6 else 0.0
    if kind == "basic":
        try:
            # A name and a password.
            return 1.0 if b":" in base64.b64decode(value, validate=True) else 0.0
        except ValueError:
            return 0.0
    return 1.0 if kind == "bearer" and len(value) >= 16 and re.search(r"\d", value) else 0.0


def entropy(text: str) -> float:
    """Return the entropy of a text's characters, in bits a character: words have 2 to 3, random keys 4 to 6."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())


_KEY_CONTEXT = edged(
    r"(?<![A-Za-z])(?:key|token|secret|credential|bearer|authorization|api|auth|signature|apikey)s?(?![A-Za-z])"
)


def _judge_random(match: re.Match[str]) -> float:
    text = match[0]
    if not re.search(r"\d", text) or not re.search(r"[A-Za-z]", text):
        return 0.0
    if re.fullmatch(r"[0-9a-fA-F]+", text):
        random = len(text) >= 32 and entropy(text) > 3.0
    else:
        # Names in programs change from words to words now and then, random letters and digits all the time.
        kinds = [(c.isupper(), c.isdigit(), c.isalnum()) for c in text]
        changes = sum(one != two for one, two in pairwise(kinds))
        random = entropy(text) > 3.6 and changes > 0.3 * len(text)
    return 1.0 if random and beside(match, _KEY_CONTEXT) else 0.0


def _judge_wallet(match: re.Match[str]) -> float:
    text = match[0]
    text = text.lower() if text.startswith(("BC1", "LTC1")) else text
    if text.startswith(("0x", "bc1p", "ltc1", "addr1")) or text[0] in "r4":
        # Their checksums are hashes that no library here has; of random letters and digits, nothing else is so long.
        return 1.0 if re.search(r"\d", text[3:]) and re.search(r"[A-Za-z]", text[3:]) and entropy(text) > 3 else 0.0
    if text.startswith("bc1"):
        return 1.0 if bitcoin.is_valid(text) else 0.0
    try:
        raw = bitcoin.b58decode(text)
    except ValueError:
        return 0.0
    checked = hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]
    return 1.0 if len(raw) == 25 and checked else 0.0


SECRET_RULES: tuple[Rule, ...] = (
    Rule("SECRET", _PEM, always(1.0), ("-----begin", "aaaa")),
    Rule("SECRET", _JWT, always(1.0), ("eyj",)),
    Rule("SECRET", _PREFIXED, always(1.0), (LONG_WORD, "$2", "$5$", "$6$", "$y$", "$argon2")),
    Rule(
        # As a request's header has them, or a command.
        "SECRET",
        edged(
            r"(?<![A-Za-z])(?P<header>Authorization[\"']?\s?[:=]\s?[\"']?)?(?P<kind>Bearer|Basic|ApiKey|Token)\s{1,2}"
            r"(?P<value>[\w.~+/-]{6,4000}+={0,2})(?![\w+/=])",
            re.IGNORECASE,
        ),
        _judge_header,
        ("bearer", "basic", "authorization"),
    ),
    Rule(
        "PASSWORD",
        edged(
            r"(?<![\w-])(?:curl|wget|http)\b[^\n]{0,200}?\s(?:-u|--user)[\s=]{0,2}[\"']?[^\s:\"']{1,64}:(?P<value>[^\s\"']{3,128})"
        ),
        always(1.0),
        ("-u ", "--user"),
    ),
    Rule(
        "SECRET",
        edged(
            rf"(?<![A-Za-z]){_SESSION_WORDS}[\"'`]?\s{{0,2}}(?P<sign>:=|=>|[:=])\s{{0,2}}[\"'`]?(?P<value>[\w.~+/%-]{{8,4000}}+={{0,2}})"
            r"(?![=\w])",
            re.IGNORECASE,
        ),
        _judge_session,
        ("token", "sess", "sid", "csrf", "xsrf", "cookie"),
    ),
    Rule(
        "SECRET",
        edged(
            rf"(?<![A-Za-z])(?:{_KEY_WORDS})[\"'`]?\s{{0,2}}(?P<sign>:=|=>|[:=])\s{{0,2}}(?:Bearer\s)?[\"'`]?{_VALUE}",
            re.IGNORECASE,
        ),
        _judge_password,
        ("key", "token", "secret"),
    ),
    Rule(
        "PASSWORD",
        edged(
            rf"(?<![A-Za-z])(?:{_PASSWORD_WORDS})[\"'`]?\s{{0,2}}(?P<sign>:=|=>|[:=]|\b(?:is|was|lautet|ist|est|es|é)\b:?|是|为|は|が|은|는)\s{{0,2}}"
            rf"[\"'`]?{_VALUE}",
            re.IGNORECASE,
        ),
        _judge_password,
        tuple(
            "pass pwd pw kennwort contrase clave passe mdp senha palavra parola wachtwoord hasło haslo losenord "
            "lösenord adgangskode salasana heslo jelsz şifre пароль 密码 密碼 口令 パスワード "
            "暗証番号 비밀번호 암호".split()
        ),
    ),
    Rule(
        "SECRET",
        edged(
            r"(?<![\w+/=-])[A-Za-z0-9_-]{20,200}={0,2}(?![\w+/=-])|(?<![\w+/=-])[A-Za-z0-9+/]{32,200}={0,2}(?![\w+/=-])"
        ),
        _judge_random,
        LONG_WORD,
    ),
    Rule(
        "CRYPTO",
        edged(
            r"(?<!\w)(?:[13LMD][1-9A-HJ-NP-Za-km-z]{25,34}|(?:bc|ltc)1[02-9ac-hj-np-z]{11,87}"
            r"|(?:BC|LTC)1[02-9AC-HJ-NP-Z]{11,87}|0x[0-9a-fA-F]{40}"
            r"|r[1-9A-HJ-NP-Za-km-z]{24,34}|4[0-9AB][1-9A-HJ-NP-Za-km-z]{93}|addr1[02-9ac-hj-np-z]{40,110})(?!\w)"
        ),
        _judge_wallet,
        LONG_WORD,
    ),
)
