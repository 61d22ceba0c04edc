"""Which parameter matters: how much worse a forest predicts a value when one parameter is shuffled."""

import numpy as np
import pandas as pd

from simulator.search.found import Sweep

REPEATS = 10
TREES = 100
LEAST = 8
"""Designs below which no importance is stated."""


def importances(sweep: Sweep) -> pd.DataFrame:
    """Return the permutation importance of every parameter for every goal.

    A random forest learns the goal from all parameters; the importance of one is the drop of the forest's coefficient of
    determination when its column is shuffled, over 10 shuffles. A parameter that does not exist in some designs counts with that.

    Parameters
    ----------
    sweep
        Result of `simulator.sweep`.

    Returns
    -------
    pandas.DataFrame
        ``goal``, ``parameter``, ``importance``, ``std`` over shuffles, and ``oob_r2``: what the forest explains of designs that its
        trees did not see. Where that is small, the importances mean little. Empty for fewer than 8 designs.
    """
    from sklearn.ensemble import RandomForestRegressor

    columns = ["goal", "parameter", "importance", "std", "oob_r2"]
    unique = {trial.key: trial for trial in sweep.trials if trial.means() is not None}
    trials = list(unique.values())
    if len(trials) < LEAST:
        return pd.DataFrame(columns=columns)
    inputs = np.array([sweep.space.encode(trial.configuration) for trial in trials])
    names = _columns(sweep)
    rows: list[list[object]] = []
    for goal in sweep.goals.directions:
        target = np.array([(trial.means() or {})[goal] for trial in trials])
        target = (target - target.mean()) / (target.std() or 1.0)  # trees take differences of nanojoules for equal numbers
        forest = RandomForestRegressor(TREES, oob_score=True, bootstrap=True, random_state=0).fit(inputs, target)
        base = forest.score(inputs, target)
        for parameter in sweep.space.parameters:
            places = [place for place, name in enumerate(names) if name == parameter]
            drops = []
            for repeat in range(REPEATS):
                shuffled = inputs.copy()
                order = np.random.default_rng([repeat, len(rows)]).permutation(len(inputs))
                shuffled[:, places] = inputs[order][:, places]
                drops.append(base - forest.score(shuffled, target))
            rows.append([goal, parameter, float(np.mean(drops)), float(np.std(drops)), float(forest.oob_score_)])
    return pd.DataFrame(rows, columns=columns)


def _columns(sweep: Sweep) -> list[str]:
    """Return the parameter of each column of the encoding."""
    from simulator.search.space import Choice

    names = []
    for name, kind in sweep.space.parameters.items():
        wide = isinstance(kind, Choice) and not kind.ordered and kind.size > 2
        names += [name] * (kind.size or 1 if wide else 1)
    return names
