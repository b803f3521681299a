"""What the house is built by, beside the layers that import-linter keeps."""

from __future__ import annotations

import grimp

# The paper's wing, until it is built anew.
KNOWN = {
    frozenset(f"raydvae.evaluation.{name}" for name in ("bench", "passes", "purifying", "steps", "whole")),
}


def circles(graph: grimp.ImportGraph) -> set[frozenset[str]]:
    """Return the groups of modules that import each other: whoever is reached from a module and reaches it."""
    groups: set[frozenset[str]] = set()
    for module in graph.modules:
        below = graph.find_upstream_modules(module)
        group = frozenset({module} | {other for other in below if module in graph.find_upstream_modules(other)})
        if len(group) > 1:
            groups.add(group)
    return groups


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(grimp.build_graph("raydvae")) == KNOWN


def test_circles_are_found() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")):
        graph.add_import(importer=importer, imported=imported)
    assert circles(graph) == {frozenset("abc")}
