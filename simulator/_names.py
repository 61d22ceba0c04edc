"""Import names that inloop shares with the rest of the world."""

import warnings
from importlib import metadata

DISTRIBUTION = "inloop"
IMPORT_NAMES = ("simulator", "devices", "kernels", "benchmarks")


def other_owners() -> dict[str, list[str]]:
    """Other installed distributions that own one of inloop's import names.

    Returns
    -------
    dict
        Import name -> names of the distributions, sorted; an import name that is inloop's alone is left out.

    Examples
    --------
    >>> "torch" in other_owners()
    False
    """
    owners = metadata.packages_distributions()
    found = {name: sorted(set(owners.get(name, ())) - {DISTRIBUTION}) for name in IMPORT_NAMES}
    return {name: distributions for name, distributions in found.items() if distributions}


def warn_of_other_owners() -> None:
    """Warn once for each import name that another installed distribution owns too.

    It reads the file list of every installed distribution, which takes tens of milliseconds: for the command line, not for
    ``import simulator``.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     warn_of_other_owners()
    """
    for name, distributions in other_owners().items():
        warnings.warn(
            f"The import name `{name}` must be inloop's alone, but {', '.join(distributions)} has it too, and one hides the other; "
            "install inloop in an environment of its own",
            stacklevel=2,
        )
