"""What the README shows is what the tests run."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readme_s_library_example_is_the_file_that_is_compiled():
    example = (ROOT / "tests/library/example.cpp").read_text()
    assert f"```cpp\n{example}```" in (ROOT / "README.md").read_text()
