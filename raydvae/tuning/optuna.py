"""Optuna as a search for those who want it: an extra that is imported when it is asked for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from raydvae.errors import ConfigError
from raydvae.seeds import derive
from raydvae.tuning.search import Search


@dataclass(slots=True, kw_only=True)
class OptunaSearch(Search):
    """Optuna's TPE over the logarithm of the target: distance to the window's middle, the window as a constraint.

    A round is told to a study made anew from the rounds before it, so the state is that of every other search.
    Raises `ConfigError` where Optuna is not installed.
    """

    name = "optuna"
    optuna: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        Search.__post_init__(self)
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                "The search 'optuna' needs Optuna, which is not installed: pip install 'raydvae[tune]', "
                "or choose --search bisect."
            ) from None
        self.optuna = optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def propose(self, count: int) -> list[float]:
        """Return targets that the study suggests; the first round begins at the start."""
        optuna = self.optuna
        kinds = {"kld": optuna.distributions.FloatDistribution(*self.limits, log=True)}
        seed = derive(self.seed, "optuna", len(self.rounds)) % 2**32  # every round draws anew
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Optuna 5 has another way, which 4 has not
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=4, constant_liar=True, constraints_func=lambda t: t.user_attrs["miss"]
            )
        study = optuna.create_study(sampler=sampler)
        for kld, psnr in self.told.items():
            miss = max(self.window[0] - psnr, psnr - self.window[1])
            study.add_trial(
                optuna.trial.create_trial(
                    params={"kld": kld},
                    distributions=kinds,
                    value=abs(psnr - self.aim),
                    user_attrs={"miss": [miss]},
                    system_attrs={"constraints": [miss]},
                )
            )
        if not self.told:
            study.enqueue_trial({"kld": self.start})
        return [float(study.ask(kinds).params["kld"]) for _ in range(count)]
