"""Redaction by form: what it replaces, and the numbers that it leaves alone."""

from __future__ import annotations

import pytest

from backend.domain.serving.request_log import RequestLogConfig, redact

PHONES = (
    "+1 415 555 2671",
    "+1 (415) 555-2671",
    "+14155552671",
    "+1-415-555-2671",
    "(415) 555-2671",
    "(415)555-2671",
    "415-555-2671",
    "415.555.2671",
    "415 555 2671",
    "415\u2011555\u20112671",
    "1-800-555-0199",
    "+44 20 7946 0958",
    "+44 (0)20 7946 0958",
    "+447700900123",
    "020 7946 0958",
    "(020) 7946 0958",
    "07700 900123",
    "07700 900 123",
    "+49 30 1234567",
    "+49 (0)30 1234567",
    "0049 30 1234567",
    "030 1234567",
    "030/1234567",
    "0171 1234567",
    "0171-1234567",
    "(030) 123 45 67",
    "+33 6 12 34 56 78",
    "06 12 34 56 78",
    "06.12.34.56.78",
    "06-12-34-56-78",
    "+91 98765 43210",
    "098765 43210",
    "98765 43210",
    "022-23456789",
    "+81 90-1234-5678",
    "090-1234-5678",
    "03-1234-5678",
    "+55 11 96123-4567",
    "(11) 96123-4567",
    "(11) 3123-4567",
    "11 96123-4567",
    "+86 138 1234 5678",
    "138 1234 5678",
    "138-1234-5678",
    "010-12345678",
    "0755-23456789",
    "+61 2 9876 5432",
    "(02) 9876 5432",
    "+34 612 34 56 78",
    "612 34 56 78",
    "+7 912 345-67-89",
    "8 (912) 345-67-89",
    "079 123 45 67",
)
CARDS = (
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4000 0000 0000 0000 006",
    "5555 5555 5555 4444",
    "2223003122003222",
    "3782 822463 10005",
    "378282246310005",
    "6011 1111 1111 1117",
    "3530-1113-3330-0000",
    "3056 930902 5904",
    "6240008631401148",
)
OTHERS = (
    ("EMAIL", "ada@example.org"),
    ("KEY", "sk-abcdefghijklmnop"),
    ("KEY", "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ"),
    ("IBAN", "DE89 3704 0044 0532 0130 00"),
    ("IBAN", "GB82WEST12345698765432"),
    ("IBAN", "NO93 8601 1117 947"),
    ("IP", "10.0.0.1"),
    ("IP", "203.0.113.254"),
)
LEFT_ALONE = (
    "order 48151 late",
    "case 123456",
    "order 1002003004",
    "order #415-555-2671",
    "invoice 20261202",
    "invoice 2026-12-02-0017",
    "invoice INV-030-1234567",
    "ticket-48151 open",
    "ticket-0301234567",
    "JIRA-12345 and ABC-030-123456",
    "part 0815-4711",
    "account 0012345678",
    "SKU 415A555B2671",
    "pi is 3.14159265358979",
    "e is 2,718281828459045",
    "+3.14159265358979",
    "0.000123456789",
    "6.02214076e23",
    "-273.15 and +1000000",
    "in 1998-2004 and 2010",
    "1939–1945 and 1914–1918",
    "pages 1001-1020",
    "100-2000 people",
    "60000-75000 a year",
    "sum 1,000,000.00",
    "1.000.000,00 EUR",
    "1 000 000 inhabitants",
    "512 345 678 inhabitants",
    "12 345 678,90 €",
    "CHF 1'234'567.50",
    "₹12,34,56,789",
    "$1,234,567,890",
    "ZIP 12345-6789",
    "ZIP 94105 and 10115",
    "12/02/2026",
    "02.12.2026",
    "02-12-2026",
    "02 12 2026",
    "2026-12-02",
    "2026-12-02T10:31:22.123456Z",
    "2026-12-02 10:31:22+01:00",
    "20261202103122",
    "10:31:22.123",
    "1764671482",
    "1764671482123",
    "ISBN 978-0-306-40615-7",
    "ISBN 9780306406157",
    "ISBN 0-306-40615-2",
    "version 1.2.3.4",
    "v10.0.19045.3803",
    "numpy==1.2.3.4",
    "Chrome/120.0.6099.109",
    "1.2.3.4.5",
    "section 4.2.1.3",
    "256.300.1.2",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "550e8400-e29b-41d4-a716-446655440000",
    "sha 0301234567890123456789012345678901234567",
    "48.858370, 2.294481",
    "+48.858370, +2.294481",
    "52.5200066° N 13.4049540° E",
    "3:2, 21-15 and 6-4 7-6",
    "IMEI 490154203237518",
    "4111111111111112",
    "9111111111111111111",
    "41111111111111111111111",
    "0.4111111111111111",
    "256626720691 + 3956257092305 = 4212883812996",
    "1234567890123456",
    "078-05-1120",
    "555-1234",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "0 1 1 2 3 5 8 13 21 34 55 89",
    "127 8192 65536 131072",
    "4096 4096 4096 4096",
    "hf_hub_download and sk-learn-pipelines",
    "IN10 WAYS MORE CODE SHIP",
    "1920x1080 at 144Hz",
    "phone model 1100 of 2003",
    "12 + 2345678901 = 2345678913",
    "(12) 1998-2004",
    "(1998) 109 1234",
)


@pytest.mark.parametrize(
    ("name", "text"), [*(("PHONE", phone) for phone in PHONES), *(("CARD", card) for card in CARDS), *OTHERS]
)
@pytest.mark.parametrize("frame", ["{}", "Call {}, please.", "x ({}).", "a:{}\nb", '{{"n":"{}"}}', "{}; 12 apples"])
def test_what_has_the_form_is_replaced_whole(name: str, text: str, frame: str) -> None:
    assert redact(frame.format(text), RequestLogConfig()) == (frame.format(f"[{name}]"), 1)


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_ordinary_numbers_are_left_alone(text: str) -> None:
    assert redact(text, RequestLogConfig()) == (text, 0)
    assert redact(f"Is {text}, or not?", RequestLogConfig()) == (f"Is {text}, or not?", 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("my phone is 4155552671", "my phone is [PHONE]"),
        ("Phone: (123) 456-7891", "Phone: [PHONE]"),
        ("his phone (4155552671)", "his phone ([PHONE])"),
        ("Tel.: 555-1234 567", "Tel.: [PHONE]"),
        ("Call me at 4155552671!", "Call me at [PHONE]!"),
        ("手机:13812345678", "手机:[PHONE]"),
        ("phone 48151", "phone 48151"),
    ],
)
def test_a_bare_run_of_digits_is_a_phone_number_after_a_word_for_it(before: str, after: str) -> None:
    assert redact(before, RequestLogConfig())[0] == after


def test_numbers_beside_a_replaced_one_stay() -> None:
    text = "IBAN DE89 3704 0044 0532 0130 00 BANK, card 4111 1111 1111 1111 123, +33 6 12 34 56 78 20 €"
    assert redact(text, RequestLogConfig())[0] == "IBAN [IBAN] BANK, card [CARD] 123, [PHONE] 20 €"


@pytest.mark.parametrize("part", ["1", "0 ", "+", "(0", "12-", "4.", "A1", "phone ", "a@", "00 1", "+1", "sk-"])
def test_a_long_text_of_one_part_takes_no_time(part: str) -> None:
    text = part * (200_000 // len(part))
    assert redact(text, RequestLogConfig())[0] != "[REDACTED]"
