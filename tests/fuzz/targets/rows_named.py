"""Rows that are known to be hard, each with what is right: (what, line, expected, more of the command line)."""

from __future__ import annotations

import gzip

DEEP = 10_000
GOOD = '{"text": "film: a warm story", "label": "great"}'
TABLE = "text,label\n" + "".join(f"film {i} is {('dull,bad', 'warm,good')[i % 2]}\n" for i in range(12))


def labelled(*labels: str) -> bytes:
    """Twelve different rows with these labels in turn."""
    return "".join(["text,label\n", *(f"film {i},{labels[i % len(labels)]}\n" for i in range(12))]).encode()


CHOICES = "task.choices=[terrible, great]"

JSONL: list[tuple] = [
    ("a lone surrogate", '{"text": "a \\ud800 b", "label": "great"}', "refused"),
    ("a surrogate in the label", '{"text": "a b", "label": "gr\\udfffeat"}', "refused"),
    ("a pair of surrogates", '{"text": "a \\ud83d\\ude00 b", "label": "great"}', "accepted"),
    ("a raw surrogate", b'{"text": "a \xed\xa0\x80 b", "label": "great"}', "refused"),
    ("deep lists", '{"text": "a", "label": "great", "x": ' + "[" * DEEP + "]" * DEEP + "}", "refused"),
    ("deep mappings", '{"a":' * DEEP + "1" + "}" * DEEP, "refused"),
    ("5,000 digits", '{"text": "a", "label": ' + "9" * 5_000 + "}", "refused"),
    ("5,000 digits in an unused column", '{"text": "a", "label": "great", "n": ' + "9" * 5_000 + "}", "refused"),
    ("4,000 digits", '{"text": "a", "label": ' + "9" * 4_000 + "}", "refused", CHOICES),
    ("digits of another script", '{"text": "a", "label": "\u0662"}', "refused", CHOICES),
    ("a superscript", '{"text": "a", "label": "\u00b2"}', "refused", CHOICES),
    ("NaN", '{"text": "a", "label": NaN}', "refused"),
    ("Infinity", '{"text": "a", "label": Infinity}', "refused"),
    ("1e400", '{"text": "a", "label": 1e400}', "refused"),
    ("a half", '{"text": "a", "label": 0.5}', "refused", CHOICES),
    ("1.0 with choices", '{"text": "a", "label": 1.0}', "accepted", CHOICES),
    ("true with choices", '{"text": "a", "label": true}', "accepted", CHOICES),
    ("2 with two choices", '{"text": "a", "label": 2}', "refused", CHOICES),
    ("-1 with choices", '{"text": "a", "label": -1}', "refused", CHOICES),
    ("NUL in a text", '{"text": "a\\u0000b", "label": "great"}', "accepted"),
    ("an empty text", '{"text": "", "label": "great"}', "refused"),
    ("a blank text", '{"text": " \\n\\t", "label": "great"}', "refused"),
    ("a text of null", '{"text": null, "label": "great"}', "refused"),
    ("a text of a number", '{"text": 7, "label": "great"}', "refused"),
    ("a label of null", '{"text": "a", "label": null}', "refused"),
    ("a blank label", '{"text": "a", "label": "  "}', "refused"),
    ("a label of a list", '{"text": "a", "label": ["great"]}', "refused"),
    ("no label", '{"text": "a"}', "refused"),
    ("a key twice", '{"text": "a", "text": "b", "label": "great"}', "refused"),
    ("a list", '["a", "great"]', "refused"),
    ("a text", '"a"', "refused"),
    ("a number", "7", "refused"),
    ("two objects in a line", GOOD + GOOD, "refused"),
    ("a comma behind", GOOD + ",", "refused"),
    ("single quotes", "{'text': 'a', 'label': 'great'}", "refused"),
    ("cut", GOOD[:-1], "refused"),
    ("a text of a million characters", '{"text": "' + "ab " * 333_333 + '", "label": "great"}', "accepted"),
    ("an escape sequence in a label", '{"text": "a", "label": "\\u001b[31mred"}', "refused", CHOICES),
    ("a label of 200,000 characters", '{"text": "a", "label": "' + "x" * 200_000 + '"}', "refused"),
    ("an escape sequence as a key", '{"\\u001b[2J": "a", "label": "great"}', "refused"),
    ("a line separator", '{"text": "a \u2028 b", "label": "great"}', "accepted"),
    ("skipped", '{"text": "", "label": "great"}', "accepted", "task.on_bad_row=skip"),
    ("skipped JSON", "{", "accepted", "task.on_bad_row=skip"),
    ("skipped surrogate", '{"text": "a \\ud800 b", "label": "great"}', "accepted", "task.on_bad_row=skip"),
    ("skipped label", '{"text": "a", "label": "so-so"}', "accepted", CHOICES, "task.on_bad_row=skip"),
]  # fmt: skip

# (what, the file's name, its bytes, expected, more of the command line)
CSV: list[tuple] = [
    ("a field of 200,000 characters", "rows.csv", (TABLE + "b" * 200_000 + ",good\n").encode(), "accepted"),
    ("an empty text", "rows.csv", (TABLE + ",good\n").encode(), "refused"),
    ("a blank text", "rows.csv", (TABLE + '"  ",good\n').encode(), "refused"),
    ("an empty label", "rows.csv", (TABLE + "a film,\n").encode(), "refused"),
    ("True and False", "rows.csv", labelled("True", "False"), "accepted", CHOICES),
    ("TRUE and FALSE", "rows.csv", labelled("TRUE", "FALSE"), "accepted", CHOICES),
    ("1.0 and 0.0", "rows.csv", labelled("1.0", "0.0"), "accepted", CHOICES),
    ("0.5", "rows.csv", b"text,label\n" + b"a,0.5\nb,0\n" * 9, "refused", CHOICES),
    ("nan", "rows.csv", b"text,label\n" + b"a,nan\nb,0\n" * 9, "refused", CHOICES),
    ("semicolons", "rows.csv", TABLE.replace(",", ";").encode(), "refused"),
    ("tabs", "rows.csv", TABLE.replace(",", "\t").encode(), "refused"),
    ("pipes", "rows.csv", TABLE.replace(",", "|").encode(), "refused"),
    ("tabs in a .tsv", "rows.tsv", TABLE.replace(",", "\t").encode(), "accepted"),
    ("commas in a .tsv", "rows.tsv", TABLE.encode(), "refused"),
    ("a byte order mark", "rows.csv", b"\xef\xbb\xbf" + TABLE.encode(), "accepted"),
    ("carriage returns and line feeds", "rows.csv", TABLE.replace("\n", "\r\n").encode(), "accepted"),
    ("UTF-16", "rows.csv", TABLE.encode("utf-16"), "refused"),
    ("Latin-1", "rows.csv", (TABLE + "caf\u00e9,good\n").encode("latin-1"), "refused"),
    ("a quote that is not closed", "rows.csv", (TABLE + '"a film,good\nb,bad\n').encode(), "refused"),
    ("text behind a quote", "rows.csv", (TABLE + '"a" film,good\n').encode(), "refused"),
    ("a field more", "rows.csv", (TABLE + "a,good,x\n").encode(), "refused"),
    ("a field fewer", "rows.csv", (TABLE + "a\n").encode(), "refused"),
    ("the header again", "rows.csv", (TABLE + "text,label\n").encode(), "refused"),
    ("no header", "rows.csv", TABLE.partition("\n")[2].encode(), "refused"),
    ("the header alone", "rows.csv", b"text,label\n", "refused"),
    ("a column twice", "rows.csv", ("text,label,text\n" + "a,good,b\nc,bad,d\n" * 9).encode(), "refused"),
    ("an unnamed column", "rows.csv", TABLE.replace("\n", ",1\n").replace("label,1", "label,").encode(), "accepted"),
    ("blanks around the names", "rows.csv", TABLE.replace("text,label", "text, label").encode(), "refused"),
    ("NUL", "rows.csv", (TABLE + "a\x00b,good\n").encode(), "accepted"),
    ("capitals in the suffix", "rows.CSV", TABLE.encode(), "accepted"),
    ("compressed", "rows.csv.gz", gzip.compress(TABLE.encode(), mtime=0), "accepted"),
    ("compressed, in capitals", "ROWS.CSV.GZ", gzip.compress(TABLE.encode(), mtime=0), "accepted"),
    ("not compressed", "rows.csv.gz", TABLE.encode(), "refused"),
    ("compressed without saying so", "rows.csv", gzip.compress(TABLE.encode(), mtime=0), "refused"),
    ("a line break in a field", "rows.csv", (TABLE + '"a\nb",good\n').encode(), "accepted"),
    ("blank lines", "rows.csv", TABLE.replace("\n", "\n\n").encode(), "accepted"),
    ("JSON lines in a .csv", "rows.csv", (GOOD + "\n").encode() * 9, "refused"),
    ("CSV in a .jsonl", "rows.jsonl", TABLE.encode(), "refused"),
    ("a .json", "rows.json", b"[" + GOOD.encode() + b"]", "refused"),
    ("a list in a .jsonl", "rows.jsonl", b"[\n" + GOOD.encode() + b",\n" + GOOD.encode() + b"\n]\n", "refused"),
    ("a .txt", "rows.txt", TABLE.encode(), "refused"),
    ("CSV in a .parquet", "rows.parquet", TABLE.encode(), "refused"),
    ("half the rows cannot be used", "rows.csv", b"text,label\n" + b"a,good\n,bad\n,bad\n" * 9, "refused",
     "task.on_bad_row=skip"),
    ("some rows cannot be used", "rows.csv", TABLE.encode() + b",bad\n", "accepted", "task.on_bad_row=skip"),
]  # fmt: skip
