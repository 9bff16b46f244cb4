"""The raw data of a run, read back, and what is said of a figure."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.contender import Sample
from bench.runner import read
from bench.targets import Figure
from bench.turn import percentile


@dataclass(slots=True)
class Results:
    """The samples of a run, by what and whose they are."""

    about: Mapping[str, Any]
    samples: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)
    failed: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Those in *folder*. Raises OSError where there are none."""
        results = cls(json.loads((folder / "about.json").read_text()))
        for sample in read(folder):
            if sample.metrics:
                key = (sample.workload, sample.case, sample.contender)
                results.samples.setdefault(key, []).append(sample)
            else:
                key2 = (sample.workload, sample.contender)
                results.failed.setdefault(key2, []).append(sample)
        return results

    @property
    def contenders(self) -> list[str]:
        """Those that were asked for, flow first."""
        return list(self.about["contenders"])

    def of(self, workload: str, case: str, contender: str) -> list[Sample]:
        """All rounds of it."""
        return self.samples.get((workload, case, contender), [])

    def all(self) -> Iterator[Sample]:
        """Every sample."""
        return itertools.chain.from_iterable(self.samples.values())

    def limits(self) -> dict[str, float]:
        """The medians of what the limit scripts have measured."""
        found: dict[str, list[float]] = defaultdict(list)
        for (workload, _, _), samples in self.samples.items():
            if workload == "limit":
                for sample in samples:
                    for name, value in sample.metrics.items():
                        found[name].append(value)
        return {name: median(values) for name, values in found.items()}


@dataclass(frozen=True, slots=True)
class Value:
    """A figure over all rounds."""

    middle: float
    least: float
    most: float
    note: str
    count: int
    """How many runs."""

    def held(self, figure: Figure) -> float:
        """What is held against the target."""
        if not figure.worst:
            return self.middle
        return self.least if figure.higher else self.most


def value_of(figure: Figure, samples: Sequence[Sample]) -> Value | None:
    """The median of *figure*, or its percentile over all rounds; None if none has it."""
    values = [s.metrics[figure.metric] for s in samples if figure.metric in s.metrics]
    if not values:
        return None
    middle = median(values)
    if figure.pooled is not None:
        series, share = figure.pooled
        middle = percentile([v for s in samples for v in s.series[series]], share)
    return Value(middle, min(values), max(values), samples[0].note, len(values))


def verdict(figure: Figure, own: Value | None, peers: Mapping[str, Value]) -> str:
    """Whether *own* meets the target, or by how much not; and which of *peers* are better."""
    if own is None:
        return "not measured"
    words = []
    if figure.target is not None:
        held = own.held(figure)
        factor = figure.missed_by(held)
        by = f"{factor:.2f} x" if factor != float("inf") else f"{held:g}"
        words.append("met" if figure.met(held) else f"**missed by {by}**")
    for name, peer in peers.items():
        # What a peer did of a smaller size can be compared as a rate only.
        if (figure.higher or not peer.note) and figure.better(peer.middle, own.middle):
            words.append(f"**worse than {name}**")
    return ", ".join(words) or "no target"
