"""The example of the page runs, in both languages, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

LEARN = Path(__file__).parents[2] / "docs" / "learn"


def example(page: Path) -> str:
    """The one block of Python of a page."""
    parts = page.read_text(encoding="utf-8").split("```python\n")
    assert len(parts) == 2, f"{page} has one example"
    return parts[1].split("```")[0]


class Page(unittest.TestCase):
    def test_the_example_of_the_page_runs(self):
        for page in (LEARN / "python.md", LEARN / "zh" / "python.md"):
            with (
                self.subTest(page.parent.name),
                tempfile.TemporaryDirectory() as folder,
                mock.patch.dict(os.environ, {"XDG_DATA_HOME": folder}),
                contextlib.redirect_stdout(io.StringIO()) as printed,
            ):
                names: dict = {}
                exec(compile(example(page), page.name, "exec"), names)
                names["node"].close()
                names["holder"].close()
                lines = printed.getvalue().splitlines()
                self.assertEqual(lines[0], "1 (1000, 1000)")
                self.assertEqual(len(lines), 1 + 10 + 2)
                self.assertAlmostEqual(float(lines[-2]), 1000, delta=1)
                self.assertEqual(lines[-1], "2 True 1000.0")


if __name__ == "__main__":
    unittest.main()
