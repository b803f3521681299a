"""The searches by their names."""

from __future__ import annotations

from typing import Any, get_args

from raydvae.errors import ConfigError
from raydvae.tuning.search import Bisect, Grid, Random, Search, Strategy


def build(strategy: str, **settings: Any) -> Search:
    """Return a new search; `ConfigError` for an unknown strategy, or for "optuna" where it is not installed."""
    if strategy == "optuna":
        from raydvae.tuning.optuna import OptunaSearch  # an extra

        return OptunaSearch(**settings)
    kinds: dict[str, type[Search]] = {kind.name: kind for kind in (Bisect, Grid, Random)}
    if strategy not in kinds:
        raise ConfigError(f"There is no search {strategy!r}; choose one of {', '.join(get_args(Strategy))}.")
    return kinds[strategy](**settings)


def restore(state: dict[str, Any]) -> Search:
    """Return the search that `Search.state` described."""
    settings = {name: value for name, value in state.items() if name not in ("strategy", "rounds", "told")}
    for name in ("window", "limits"):
        settings[name] = tuple(settings[name])
    search = build(state["strategy"], **settings)
    search.rounds = [list(part) for part in state["rounds"]]
    search.told = {kld: psnr for kld, psnr in state["told"]}
    return search
