"""The report's picture: the top of a real run's page, as a browser shows it.

    python docs/figures/report.py [RUN]      # out/quickstart/bilevel-zofo, which `make quickstart` writes

No row of the data is in the picture: it ends before the predictions.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser import CHROMIUM, browser  # noqa: E402

from zofo.study.report.write import report  # noqa: E402

WIDTH, HEIGHT = 1000, 1430


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "out" / "quickstart" / "bilevel-zofo")
    if not run.is_dir() or not CHROMIUM:
        print(f"report.png stays as it is: {'no chromium' if run.is_dir() else f'no run in {run} (make quickstart)'}")
        return
    with tempfile.TemporaryDirectory() as folder:
        page = report([run], Path(folder) / "report.html", "zofo quick start")
        with browser(Path(folder)) as shown:
            shown.open(page, WIDTH, dark=False)
            end = shown.evaluate("document.getElementById('predictions').getBoundingClientRect().top")
            shown.picture(HERE / "report.png", (WIDTH, min(HEIGHT, int(end))))
    print(HERE / "report.png")


if __name__ == "__main__":
    main()
