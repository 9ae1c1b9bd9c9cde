"""Metrics as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


class Scrape(dict[tuple[str, Labels], float]):
    """The samples of one scrape, by name and labels without ``network``."""

    @classmethod
    def of(cls, text: str) -> Scrape:
        """Read a page of metrics."""
        found = cls()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "network"))
                assert (sample.name, labels) not in found
                found[sample.name, labels] = sample.value
        return found

    def one(self, name: str, **labels: str) -> float:
        """Give the sample with just these labels; 0 if there is none."""
        return self.get((f"exchange_{name}", tuple(sorted(labels.items()))), 0.0)

    def total(self, name: str, **labels: str) -> float:
        """Add up those that have these labels among others."""
        wanted = set(labels.items())
        return sum(value for (one, has), value in self.items() if one == f"exchange_{name}" and wanted <= set(has))

    @property
    def names(self) -> set[str]:
        """The names that there are samples of."""
        return {name for name, _ in self}
