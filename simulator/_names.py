"""Import names that inloop shares with the rest of the world."""

import re
import warnings
from importlib import metadata

DISTRIBUTION = "inloop"
IMPORT_NAMES = ("simulator", "devices", "kernels", "benchmarks")
_OWN_FILE = re.compile(rf"^({'|'.join(IMPORT_NAMES)})(?=/|\.(?:[\w-]+\.)?(?:py|pyd|so),)", re.MULTILINE)
"""How a line of a distribution's list of files begins that lies in one of them."""


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
    found: dict[str, set[str]] = {}
    for distribution in metadata.distributions():
        for name in _names_in(distribution):
            found.setdefault(name, set()).add(distribution.name)
    others = {name: sorted(found.get(name, set()) - {DISTRIBUTION}) for name in IMPORT_NAMES}
    return {name: distributions for name, distributions in others.items() if distributions}


def _names_in(distribution: metadata.Distribution) -> set[str]:
    """Return those of inloop's import names that a distribution has.

    The lists are searched as text: `importlib.metadata.packages_distributions` makes a path of every installed file, which took a fifth of
    a second at each command.
    """
    listed = distribution.read_text("top_level.txt")
    if listed is not None:
        return set(listed.split()) & set(IMPORT_NAMES)
    return set(_OWN_FILE.findall(distribution.read_text("RECORD") or ""))


def warn_of_other_owners() -> None:
    """Warn once for each import name that another installed distribution owns too.

    It reads the file list of every installed distribution, which takes some twenty milliseconds: for the command line, not for
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
