"""What is said: cards and figures made from measured results, and nothing else."""

import lazy_loader

# The names are those of __init__.pyi; each is imported when it is first used: a line needs no figures.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
