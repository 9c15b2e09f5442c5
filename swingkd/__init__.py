"""swingkd: distil a model without distilling its secrets."""

import lazy_loader

__version__ = "0.1.0"
# The names are those of __init__.pyi; each is imported when it is first used: the command line answers at once.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
