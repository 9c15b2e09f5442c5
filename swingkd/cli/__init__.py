"""The `swingkd` command: thin, one function per sub-command."""

from swingkd.cli import crossfit, distill, federate, measure, quickstart, serve, surrogates, tag
from swingkd.cli.common import app

# As they are used, one after the other.
_ORDER = (
    "quickstart canaries tag surrogates crossfit sample distill cache_teacher serve audit budget federate card "
    "env".split()
)
app.registered_commands.sort(key=lambda command: _ORDER.index(command.callback.__name__) if command.callback else 0)

__all__ = ["app", "crossfit", "distill", "federate", "measure", "quickstart", "serve", "surrogates", "tag"]
