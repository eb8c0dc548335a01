"""The process that `math_verified` asks: a JSON line [text, right answer] in, a line True or False out."""

import contextlib
import json
import os
import sys


def main() -> None:
    """Answers until its input ends. What the library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with contextlib.suppress(ImportError, ValueError, OSError):  # no such module on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # 9^{9^9} has 369,693,100 digits
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)
    try:
        from math_verify import parse, verify

        parse("$1$")  # without its parser's runtime it fails at the first text
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}", file=out, flush=True)
        return
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        text, gold = json.loads(line)
        try:
            right = verify(parse(rf"$\boxed{{{gold}}}$"), parse(text))
        except Exception:  # whatever sympy says to what a model wrote
            right = False
        print(bool(right), file=out, flush=True)


if __name__ == "__main__":
    main()
