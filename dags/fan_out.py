"""Fan out, fan in: results travel as arguments, the arrows follow them."""

from flow import dag, task


@task(multiple_outputs=True)
def split(sentence: str) -> dict[str, list[str]]:
    """Two halves of the words."""
    words = sentence.split()
    middle = len(words) // 2
    return {"first": words[:middle], "second": words[middle:]}


@task
def count(words: list[str]) -> int:
    """How many letters the words have."""
    letters = sum(len(word) for word in words)
    print(f"{words} have {letters} letters")
    return letters


@task
def total(parts: list[int]) -> int:
    """All of them."""
    print(f"{sum(parts)} letters in all")
    return sum(parts)


@dag("fan_out", description="Results as arguments", tags=["example"])
def fan_out() -> None:
    halves = split("the quick brown fox jumps over the lazy dog")
    total([count(halves["first"]), count(halves["second"])])


fan_out()
