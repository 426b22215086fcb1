"""Redaction: text without e-mail addresses, telephone numbers, card numbers and keys.

Patterns find what has a form. They find no names and no addresses. What they find is replaced by a word in
square brackets. Rather too much is replaced than too little.
"""

import re
from collections.abc import Callable

_FEWEST_DIGITS, _MOST_DIGITS = 8, 15


def redact(text: str) -> str:
    """Return a text in which what looks personal or secret is replaced.

    - `[email]`: e-mail addresses.
    - `[key]`: private keys in PEM, JSON web tokens, keys with the prefixes of well-known services, the value
      after words such as `password:`, and words of 24 characters or more that mix letters and digits.
    - `[card]`: 13 to 19 digits with a valid check digit.
    - `[iban]`: international bank account numbers.
    - `[phone]`: telephone numbers, and other numbers of 8 to 15 digits.
    - `[ip]`: addresses of the internet, version 4.
    """
    for pattern, replace in _RULES:
        text = pattern.sub(replace, text)
    return text


def _is_card(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (Luhn)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _digits(text: str) -> str:
    return "".join(filter(str.isdecimal, text))


def _card(found: re.Match[str]) -> str:
    return "[card]" if _is_card(_digits(found[0])) else found[0]


def _phone(found: re.Match[str]) -> str:
    return "[phone]" if _FEWEST_DIGITS <= len(_digits(found[0])) <= _MOST_DIGITS else found[0]


def _mixed(found: re.Match[str]) -> str:
    word = found[0]
    mixes = any(map(str.isdecimal, word)) and any(map(str.isalpha, word))
    return "[key]" if mixes else word


_Replace = str | Callable[[re.Match[str]], str]
_RULES: tuple[tuple[re.Pattern[str], _Replace], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]{0,20000}(?:-----END [A-Z ]{0,40}-----)?"),
        "[key]",
    ),
    (re.compile(r"(?<![\w.+%-])[\w.+%-]{1,254}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"), "[email]"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.?[\w-]*"), "[key]"),
    (re.compile(r"\b(?:sk|pk|rk|gh[pousr]|github_pat|glpat|xox[abeprs]|hf|lgkey)[-_][\w-]{12,}"), "[key]"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"), "[key]"),
    (
        re.compile(
            r"(?i)\b(password|passwd|passphrase|secret|token|api[ _-]?key|bearer)\b"
            r"([\"']?\s{0,3}[:=]\s{0,3}|\s)"
            r"(?=\S*[\d\W])[^\s,;]{6,}"
        ),
        r"\1\2[key]",
    ),
    (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){3,7}(?: ?[0-9A-Z]{1,3})?\b"), "[iban]"),
    (re.compile(r"[A-Za-z0-9+/_=-]{24,}"), _mixed),
    (
        re.compile(r"(?<!\d)(?:\d{13,19}|\d{4}(?:[ -]\d{4}){2}[ -]\d{1,7}|\d{4}[ -]\d{6}[ -]\d{4,5})(?!\d)"),
        _card,
    ),
    (
        re.compile(r"(?<![\d.])(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}(?![\d.])"),
        "[ip]",
    ),
    (re.compile(r"(?<![\w.])[+(]?\d(?:[ ()./-]{0,2}\d){6,16}(?!\d)"), _phone),
)
